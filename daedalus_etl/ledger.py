"""The ledger: what is in. One record a partition, with its inputs, its outputs and the state at its end; one head a
lane and model, written last.

A partition is committed in one order: its file is staged and read back, synced and renamed onto its name; then the
state; then the record, which says that all of it is in; then the head. A record is written whole, and never changed:
another one takes its place.
"""

from __future__ import annotations

import bisect
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daedalus_etl import files
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane

VERSION = 2  # rises when a field changes its meaning: records of another version do not count as in
NOTHING = ""  # the digest of a lane's state before its first row
HOURS_KEPT = 48  # states of so many of the newest hours of a lane; before that, of each day's end
DAYS_KEPT = 35  # before that, of each month's end
OPEN = ".open"  # in the names of what is kept of a partition that is not in as a whole yet


@dataclass(frozen=True)
class Input:
    """A segment that a partition was made of; clocks in us."""

    channel: str
    path: str  # below the data root, if it lies there
    size: int
    mtime_ns: int
    digest: str  # of its bytes
    rows: int  # of the lane, in the whole segment
    min_clock: int
    max_clock: int


@dataclass(frozen=True)
class Output:
    """A published file, below processed/."""

    path: str
    rows: int
    size: int
    mtime_ns: int
    digest: str  # of its bytes


@dataclass(frozen=True)
class Record:
    """One partition of one lane and model that is in."""

    partition: str
    symbol: str  # under which it is published
    code: Mapping[str, str]  # file, or family of files -> digest
    variables: Mapping[str, Any]  # that its rows depend on
    partners: Mapping[str, str]  # other channels' models -> the source symbol of the lane that was taken
    start: str  # digest of the lane's state before it; of bars: of the silver that they were made of
    end: str  # digest of the state after it
    until: int  # us: its inputs count up to here, exclusive
    listing: str  # digest of all files that its folders showed
    aside: int = 0  # how many of these could not be used, or held nothing
    outputs: tuple[Output, ...] = ()
    written: bool = True  # False: walked only, to have the state
    counts: Mapping[str, int] = field(default_factory=dict)
    max_clock: int | None = None  # us, of any row that is no duplicate
    state: str = ""  # name of the state file beside it; its content may have been thinned out since
    obsolete: tuple[str, ...] = ()  # published before under another name: to be removed
    inputs: int = 0  # how many lines follow


class Ledger:
    """The records of one model and lane, in `<data>/state/<model>/exchange=E/symbol=S[/<N>s]`."""

    def __init__(self, data: Path, model: str, lane: Lane, part: str = ""):
        self.processed = data / "processed"
        self.staging = staging_of(data)
        self.folder = folder_of(data, model) / f"exchange={lane.exchange}" / f"symbol={lane.symbol}" / part
        self._names: list[str] | None = None  # of what has a record, in order of time

    # -- reading ----------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> list[str]:
        """The names of all partitions that have a record, in order of time."""
        if self._names is None:
            try:
                with os.scandir(self.folder) as entries:
                    found = [e.name for e in entries]
            except FileNotFoundError:
                found = []
            self._names = sorted({name[: -len(".json")] for name in found if name.endswith(".json")} - {"head"})
        return self._names

    def get(self, partition: str) -> Record | None:
        """The record of a partition; None if there is none, or one of another version: the partition is made again.

        Raises DaedalusError for what is no record: if bronze is gone, there is nothing to make it from again.
        """
        path = self._path(partition)
        try:
            with open(path, "rb") as file:
                value = json.loads(file.readline())
            if value.pop("version") != VERSION:
                return None
            outputs = tuple(Output(**output) for output in value.pop("outputs"))
            return Record(**{**value, "outputs": outputs, "obsolete": tuple(value["obsolete"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DaedalusError("is no record", str(path), "Remove it: its partition is then made again.") from None

    def inputs(self, record: Record) -> list[Input]:
        """The segments that a record's partition was made of. Raises DaedalusError if the record was cut short."""
        path = self._path(record.partition)
        with open(path, "rb") as file:
            file.readline()
            try:
                found = [Input(**json.loads(line)) for line in file]
            except (ValueError, TypeError):
                found = []
        if len(found) != record.inputs:
            raise DaedalusError("is cut short", str(path), "Remove it: its partition is then made again.")
        return found

    def head(self) -> Mapping[str, Any]:
        """The newest partition of the lane, its last clock (`max_clock`, us) and the state at its end; {} before the
        first."""
        try:
            found = json.loads(self._head() or b"{}")
        except ValueError:  # it is written again with the next record
            found = {}
        return found if isinstance(found, dict) else {}

    def _head(self) -> bytes:
        try:
            return (self.folder / "head.json").read_bytes()
        except FileNotFoundError:
            return b""

    def is_there(self, record: Record) -> bool:
        """Are its published files still there, and the ones that it means? A copied file has another time, and the
        same bytes."""
        for output in record.outputs:
            path = self.processed / output.path
            try:
                status = path.stat()
            except OSError:
                return False
            if status.st_size != output.size:
                return False
            if status.st_mtime_ns != output.mtime_ns and files.digest_of(path) != output.digest:
                return False
        return True

    def load_state(self, record: Record) -> dict[str, bytes] | None:
        """The state at the end of a record's partition; None if it was thinned out, or is not what was written."""
        if not record.state:
            return None
        try:
            blob = (self.folder / record.state).read_bytes()
        except FileNotFoundError:
            return None
        return unpack(blob) if files.digest(blob) == record.end else None

    def _path(self, partition: str) -> Path:
        return self.folder / f"{partition}.json"

    # -- the one commit point -----------------------------------------------------------------------------------

    def commit(
        self,
        record: Record,
        inputs: Iterable[Input] = (),
        staged: Path | None = None,
        target: str = "",
        state: Mapping[str, bytes] | None = None,
    ) -> Record:
        """Publish a staged file as `target` (below processed/), then the record with its state; all of it or none.

        Without a staged file the record's own outputs stay. What the record calls obsolete goes, and what was published
        before under another name. Returns the record as it was written.
        """
        before = self.get(record.partition)
        if before and staged is not None and target not in {o.path for o in before.outputs} | set(before.obsolete):
            # it is about to have another name: were this the last that we do, that name would be nobody's
            named = replace(before, obsolete=tuple(sorted({*before.obsolete, target})))
            self._write(named, self.inputs(before))
        if staged is not None:
            record = replace(record, outputs=(publish(staged, self.processed, target, record.counts["written"]),))
        if state is not None:
            blob = pack(state)
            record = replace(record, end=files.digest(blob))
            record = replace(record, state=f"{record.partition}.{record.end}.state")
            if not files.holds(self.folder / record.state, blob):
                self._replace(record.state, blob)
        old = set(record.obsolete)
        old |= {o.path for o in before.outputs} | set(before.obsolete) if before else set()
        record = replace(record, obsolete=tuple(sorted(old - {o.path for o in record.outputs})))
        self._write(record, list(inputs))
        self.remove_obsolete(record)
        self._thin_out(before, record)
        if staged is not None or state is not None:
            self.close(record.partition)
        return record

    def close(self, partition: str) -> None:
        """The partition is in as a whole: forget what `parts` noted of it."""
        for name in self.opened(partition):
            files.remove(self.folder / name)

    def opened(self, partition: str = "") -> list[str]:
        """The files that `parts` keeps beside the records, of one partition or of all, in order of time."""
        try:
            with os.scandir(self.folder) as entries:
                return sorted(e.name for e in entries if OPEN in e.name and e.name.startswith(partition))
        except FileNotFoundError:
            return []

    def journals(self) -> list[str]:
        """The partitions that are not over: those that `parts` keeps a journal of, in order of time."""
        return [name.removesuffix(OPEN) for name in self.opened() if name.endswith(OPEN)]

    def _write(self, record: Record, inputs: list[Input]) -> None:
        record = replace(record, inputs=len(inputs))
        first = {"version": VERSION, **vars(record), "outputs": [vars(output) for output in record.outputs]}
        text = io.StringIO()
        for line in (first, *(vars(one) for one in inputs)):
            text.write(json.dumps(line, sort_keys=True, default=list) + "\n")
        self._replace(self._path(record.partition).name, text.getvalue().encode())
        known = self.partitions
        place = bisect.bisect_left(known, record.partition)
        if known[place : place + 1] != [record.partition]:
            known.insert(place, record.partition)
        if record.partition == known[-1]:
            self._replace("head.json", _head_of(record))

    def _replace(self, name: str, content: bytes) -> None:
        files.write_synced(self.folder / name, content, self.staging)

    def remove_obsolete(self, record: Record) -> None:
        """Take away what was published under another name."""
        for path in record.obsolete:
            files.remove(self.processed / path)

    def tidy(self, records: Iterable[Record]) -> None:
        """Do what a crash right behind a record may have left undone: remove what the record put out of use, and write
        the head."""
        states = {}
        newest = next(reversed(self.partitions), "")
        for record in records:
            self.remove_obsolete(record)
            states[record.partition] = record.state
            if record.partition == newest and _head_of(record) != self._head():
                self._replace("head.json", _head_of(record))
        for name in self._states():
            partition = name.partition(".")[0]
            if states.get(partition, name) != name:
                files.remove(self.folder / name)

    def _states(self) -> list[str]:
        """The names of the state files, in order of time."""
        try:
            with os.scandir(self.folder) as entries:
                return sorted(e.name for e in entries if e.name.endswith(".state"))
        except FileNotFoundError:
            return []

    def with_states(self) -> list[str]:
        """The partitions whose states are kept, in order of time."""
        return [name.partition(".")[0] for name in self._states()]

    def _thin_out(self, before: Record | None, record: Record) -> None:
        """Keep the states of the newest hours, and of the ends of days and months before them."""
        if before and before.state and before.state != record.state:
            files.remove(self.folder / before.state)
        if not record.state:
            return
        for name in states_to_drop(self._states()):
            files.remove(self.folder / name)


def states_to_drop(states: list[str]) -> list[str]:
    """Of state files, in order of time, those that are not kept: all but the newest HOURS_KEPT, before these each day's
    last for DAYS_KEPT days, before these each month's last. So a late segment costs a replay of hours, or of a day."""
    old = states[:-HOURS_KEPT]
    days = sorted({name[:10] for name in old})
    coarse = set(days[:-DAYS_KEPT])
    last = {name[:7] if name[:10] in coarse else name[:10]: name for name in old}
    return [name for name in old if name not in last.values()]


def publish(staged: Path, processed: Path, target: str, rows: int) -> Output:
    """Move a staged file into place. Raises DaedalusError if it does not hold the rows that were written."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(staged).num_rows
    if found != rows:
        raise DaedalusError(f"holds {found} rows of {rows} that were written", str(staged), "Check the disk.")
    status = staged.stat()
    output = Output(target, rows, status.st_size, status.st_mtime_ns, files.digest_of(staged))
    path = processed / target
    files.place_instead({path.name: staged}, path.parent, parts_of(path))
    return output


def parts_of(target: Path) -> set[str]:
    """The names of files that `parts` published for a partition while it was open: `<its file's name>-...parquet`."""
    try:
        with os.scandir(target.parent) as entries:
            return {e.name for e in entries if e.name.startswith(f"{target.stem}-") and e.name.endswith(".parquet")}
    except FileNotFoundError:
        return set()


def _head_of(record: Record) -> bytes:
    head = {"partition": record.partition, "state": record.state, "max_clock": record.max_clock}
    return json.dumps(head).encode()


def staging_of(data: Path) -> Path:
    """Where files are made, on the same filesystem, where no reader globs."""
    return data / "state" / "staging"


def folder_of(data: Path, model: str) -> Path:
    return data / "state" / model


def known_lanes(data: Path, models: Mapping[str, str]) -> set[Lane]:
    """The lanes that have records of any of the models (name -> channel)."""
    found = set()
    for model, channel in models.items():
        for path in folder_of(data, model).glob("exchange=*/symbol=*"):
            found.add(Lane(path.parent.name.partition("=")[2], path.name.partition("=")[2], channel))
    return found


# -- state as bytes -------------------------------------------------------------------------------------------


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Named byte strings as one, in the order of their names: a line of JSON, then the bytes."""
    names = sorted(parts)
    head = json.dumps([[name, len(parts[name])] for name in names]).encode()
    return head + b"\n" + b"".join(parts[name] for name in names)


def unpack(blob: bytes) -> dict[str, bytes]:
    head, _, body = blob.partition(b"\n")
    out, at = {}, 0
    for name, size in json.loads(head):
        out[name] = body[at : at + size]
        at += size
    return out
