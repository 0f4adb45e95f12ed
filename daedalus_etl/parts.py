"""A partition that is not over yet: published piece by piece, and noted in a journal beside the records.

The journal `<partition>.open` is the head of its lane: a line with what the partition is made by, then a line for each
commit: what was taken in up to which clock, the files that came and went, and now and then the name of a state. It
grows by what a segment adds, is synced with each line, and is forgotten when the partition is in as a whole. A file is
in place before its line is written: what a kill leaves without a line goes with the next file that comes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daedalus_etl import files, ledger
from daedalus_etl.errors import DaedalusError
from daedalus_etl.ledger import Input, Ledger, Record

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 48  # files of a partition from which on small ones are joined
JOINED = 16  # so many at once, of one size
_STAGED = itertools.count()
STATES = 3  # kept of an open partition, beside the one that it began with


@dataclass(frozen=True)
class Part:
    """A published file of an open partition; `first` and `last` are clocks in us (of bars: their ends)."""

    name: str
    rows: int
    first: int
    last: int
    level: int = 0  # how often its rows were joined with others


@dataclass
class Standing:
    """What a journal comes to."""

    header: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    until: int = 0  # all rows with a clock before this are in
    last: int = 0  # the last clock of any row of the lane
    inputs: dict[str, Input] = field(default_factory=dict)  # by channel and path
    states: list[tuple[int, str]] = field(default_factory=list)  # the clock up to which, the digest
    end: int = 0  # bytes of whole lines


class OpenPartition:
    """The parts of one partition, of which `target` (below processed/) is what it will be in the end."""

    def __init__(self, book: Ledger, partition: str, target: str, parquet: Mapping[str, Any]):
        self.book, self.partition, self.target, self.parquet = book, partition, book.processed / target, parquet
        self.path = book.folder / f"{partition}{ledger.OPEN}"
        self.now = Standing()

    # -- reading ----------------------------------------------------------------------------------------------

    def resume(self, header: Mapping[str, Any]) -> bool:
        """Take up what is noted; False if nothing is, or if it was made otherwise, or is not there any more."""
        self.now = read(self.path)
        # all but the newest are removed as others come: the journal goes on naming them
        self.now.states = [one for k, one in enumerate(self.now.states) if not k or self._state(one[1]).is_file()]
        there = all((self.target.parent / part.name).is_file() for part in self.now.parts)
        return self.now.header == header and there

    def begin(self, header: Mapping[str, Any], start: tuple[int, Mapping[str, bytes]] | None = None) -> None:
        """Begin anew, at a clock (us) and from a state. What is published stays until something takes its place, unless
        it has another name. The journal comes with its state, or the one before stays: what it names is removed last.
        """
        content, first, digest = _line(dict(header)), None, ""
        if start is not None:
            clock, state = start
            digest = self.save(state)
            nothing: dict[str, Any] = {"last": 0, "came": [], "gone": [], "inputs": [], "back": None}
            first = {"until": clock, "state": (clock, digest), **nothing}
            content += _line(first)
        for path in under_another_name(self.path, self.target.parent, header["symbol"]):
            files.remove(path)
        files.write_synced(self.path, content, self.book.staging)
        self.now = Standing(dict(header), end=len(content))
        if first is not None:
            _take(self.now, first)
        for name in self.book.opened(self.partition):
            if name not in (self.path.name, self._state(digest).name):
                files.remove(self.book.folder / name)

    def load(self, digest: str) -> dict[str, bytes] | None:
        """A state that was saved; None if it is not there, or is not what was written."""
        try:
            blob = self._state(digest).read_bytes()
        except FileNotFoundError:
            return None
        return ledger.unpack(blob) if files.digest(blob) == digest else None

    def _state(self, digest: str) -> Path:
        return self.book.folder / f"{self.partition}{ledger.OPEN}.{digest}"

    # -- writing ----------------------------------------------------------------------------------------------

    def save(self, state: Mapping[str, bytes]) -> str:
        """Keep a state; it counts when a line names it. Returns its digest."""
        blob = ledger.pack(state)
        digest = files.digest(blob)
        if not files.holds(self._state(digest), blob):
            files.write_synced(self._state(digest), blob, self.book.staging)
        return digest

    def stage(self, rows: pa.Table, clock: str, level: int = 0) -> tuple[Part, Path]:
        """Write rows where nobody looks yet. clock: the column of Part.first."""
        import pyarrow.parquet as pq

        first, last = _span(rows, clock)
        staged = self.book.staging / f"{os.getpid()}-{next(_STAGED)}-{self.target.stem}.part"
        # a footer of 200 columns is most of a small part: statistics of the clock only, no dictionaries, no schema of
        # Arrow's
        times = [name for name in ("clock_ts", "bar_start", "bar_end") if name in rows.schema.names]
        codec = self.parquet.get("compression", "zstd")
        pq.write_table(
            rows, staged, compression="none" if codec == "uncompressed" else codec, use_dictionary=level > 0,
            write_statistics=level > 0 or times, store_schema=False,
            row_group_size=int(self.parquet.get("row_group_size", 61440)),
        )  # fmt: skip
        return self.taken(staged, rows.num_rows, first, last, level), staged

    def taken(self, staged: Path, rows: int, first: int, last: int, level: int) -> Part:
        """What a staged file will be: its name is that of its bytes, so that none is used again."""
        return Part(f"{self.target.stem}-{files.digest_of(staged)[:16]}.parquet", rows, first, last, level)

    def commit(
        self,
        came: Iterable[tuple[Part, Path]],
        until: int,
        *,
        last: int = 0,
        gone: Collection[Part] = (),
        inputs: Collection[Input] = (),
        state: tuple[int, str] | None = None,
        back: int | None = None,
    ) -> None:
        """Publish staged files in place of the parts `gone`, in one step, and note it.

        back: the clock that was gone back to, if states behind it are void.
        """
        new = {part.name: (part, path) for part, path in came}
        for name in {part.name for part in self.now.parts}.intersection(new):
            files.remove(new[name][1])  # it is there already, to the last byte
            new.pop(name)
            gone = [part for part in gone if part.name != name]
        if not new and not gone and not inputs and state is None and until <= self.now.until:
            return
        stays = {part.name for part in self.now.parts} - {part.name for part in gone}
        if new:
            others = ledger.parts_of(self.target) | {self.target.name}
            staged = {name: path for name, (_, path) in new.items()}
            files.place_instead(staged, self.target.parent, others - stays - new.keys())
        self.note(
            {
                "until": until, "last": last, "came": [vars(part) for part, _ in new.values()],
                "gone": sorted({part.name for part in gone} - new.keys()), "inputs": [vars(one) for one in inputs],
                "state": state, "back": back,
            }
        )  # fmt: skip

    def note(self, line: Mapping[str, Any]) -> None:
        content = _line(line)
        if self.path.stat().st_size != self.now.end:  # what a kill left of a line
            os.truncate(self.path, self.now.end)
        files.append_synced(self.path, content)
        _take(self.now, line)
        self.now.end += len(content)
        self._drop_states()

    def join(self, clock: str) -> bool:
        """Join small parts if there are many; was there anything to do?"""
        parts = sorted(self.now.parts, key=lambda part: part.first)
        if len(parts) < MANY:
            return False
        few = next(
            (
                parts[k : k + JOINED]
                for level in range(8)
                for k in range(len(parts) - JOINED + 1)
                if all(part.level == level for part in parts[k : k + JOINED])
            ),
            parts[:JOINED],
        )
        joined = self.stage(self.read(few), clock, max(part.level for part in few) + 1)
        self.commit([joined], self.now.until, last=self.now.last, gone=few)
        return True

    def read(self, parts: Iterable[Part]) -> pa.Table:
        """The rows of some parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables([pq.ParquetFile(self.target.parent / part.name).read() for part in parts])

    def _drop_states(self) -> None:
        for _, digest in self.now.states[1:-STATES]:
            if digest != self.now.states[0][1]:
                files.remove(self._state(digest))
        self.now.states[1:-STATES] = []

    def back_to(self, clock: int) -> tuple[int, str] | None:
        """The newest state from which on all parts can be made anew, for a row with this clock; None without one."""
        for at, digest in reversed(self.now.states):
            if at <= clock and all(part.last < at or part.first >= at for part in self.now.parts):
                return at, digest
        return None


def under_another_name(journal: Path, folder: Path, symbol: str) -> list[Path]:
    """What a journal says was published while the lane had another name than this one, in whose folder it would lie."""
    before = read(journal)
    was = before.header.get("symbol", symbol)
    old = Path(str(folder).replace(f"/symbol={symbol}/", f"/symbol={was}/"))
    return [old / part.name for part in before.parts] if was != symbol else []


def obsolete(book: Ledger, record: Record, target: str) -> tuple[str, ...]:
    """The same of a partition that is published as one file, `target` below processed/; as a record names it."""
    journal, folder = book.folder / f"{record.partition}{ledger.OPEN}", (book.processed / target).parent
    found = under_another_name(journal, folder, record.symbol)
    return tuple(str(path.relative_to(book.processed)) for path in found)


def read(path: Path) -> Standing:
    """What a journal says; empty if there is none. A line that was not written whole does not count."""
    found = Standing()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    for number, line in enumerate(content.splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break
        try:
            value = json.loads(line)
            if number == 0:
                found.header = dict(value)
            else:
                _take(found, value)
        except (ValueError, TypeError, KeyError):
            hint = "Remove it: its hour or day is made again from what is there."
            raise DaedalusError(f"line {number + 1} of a journal cannot be read", str(path), hint) from None
        found.end += len(line)
    return found


def _take(standing: Standing, line: Mapping[str, Any]) -> None:
    """Go on by one line."""
    gone = {*line["gone"], *(part["name"] for part in line["came"])}
    standing.parts = [part for part in standing.parts if part.name not in gone]
    standing.parts += [Part(**part) for part in line["came"]]
    standing.until, standing.last = line["until"], max(standing.last, line["last"])
    for one in line["inputs"]:
        standing.inputs[f"{one['channel']}:{one['path']}"] = Input(**one)
    if line["back"] is not None:
        standing.states = [(at, digest) for at, digest in standing.states if at <= line["back"]]
    if line["state"] is not None:
        standing.states.append((line["state"][0], line["state"][1]))


def _span(rows: pa.Table, clock: str) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.min_max(rows.column(clock).cast(pa.int64()))
    return found["min"].as_py(), found["max"].as_py()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, default=list).encode() + b"\n"
