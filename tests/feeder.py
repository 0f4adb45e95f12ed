"""Replays a quiet bronze root into another one as collectors fill it: segment by segment, with their mischief.

    feeder = Feeder(root, segment_seconds=10, mischief=Mischief(late=0.1, torn=0.1), seed=3)
    feeder.final(tmp_path / "quiet")  # what will lie in bronze at the end: for one quiet run
    feeding = feeder.into(data)
    feeding.until(feeder.begins_us + 60_000_000)  # step by step, without waiting
    feeding.run(speed=20)  # or by the clock, twenty times as fast as it was

A lane's rows are cut anew by their capture_ts into stretches of `segment_seconds` within the hour, so that rows of one
capture_ts stay together; inside a segment they keep the order in which they lay. A segment is due when its stretch
has ended; it is written under a hidden name and renamed. No wall clock and no chance but the seed: same arguments,
same steps, same bytes.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from daedalus_etl.lanes import CHANNELS, HOUR_US, US, Lane, channel_root, partition_path, segments

KINDS = ("late", "very_late", "duplicate", "reordered", "torn", "growing", "changed")
CHUNKS = 4  # in which a growing segment is written


@dataclass(frozen=True)
class Mischief:
    """Shares of a lane's segments, each of which meets one thing at most.

    late: comes some minutes after its time. very_late: at the end of the feed, into an hour that has closed by then
    if there is one. duplicate: comes again later under another name. reordered: comes after up to three that follow
    it. torn: a cut file under the final name first, later the whole. growing: written slowly in place. changed:
    first with other prices and a row less, later as it is, under the same name. deleted: how many segments of the
    lane, its first ones, are removed when all else has come; `final` keeps them, as what is published of them stays.
    """

    late: float = 0
    very_late: float = 0
    duplicate: float = 0
    reordered: float = 0
    torn: float = 0
    growing: float = 0
    changed: float = 0
    deleted: int = 0

    def pick(self, chance: random.Random) -> str:
        left = chance.random()
        for kind in KINDS:
            left -= getattr(self, kind)
            if left < 0:
                return kind
        return ""


@dataclass(frozen=True)
class Piece:
    """One segment: its lane, where it lies below <data>, its rows, and when its stretch ended (us)."""

    lane: Lane
    path: str
    rows: pa.Table
    ends_us: int

    def clocks(self) -> np.ndarray:
        """capture_ts of its rows, us, sorted."""
        return np.sort(_captures(self.rows))


@dataclass(frozen=True, order=True)
class Step:
    """One thing that happens to bronze, in the order in which they happen.

    how: 'whole' (written beside and renamed), 'torn' (a part of it, renamed), 'chunk' (the n-th part is appended in
    place), 'removed'. final: from now on the file is whole and stays as it is.
    """

    due_us: int
    turn: int
    path: str
    how: str = field(compare=False)
    piece: Piece = field(compare=False)
    share: float = field(default=1, compare=False)  # of the bytes, of a torn one and up to a chunk's end
    final: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Arrival:
    """A whole segment that became visible: on the monotonic clock, read right before and right after the rename."""

    step: Step
    before: float
    visible: float


class Feeder:
    """What will happen, planned before anything does.

    root: a bronze root that nobody writes to. mischief: for all lanes, or by symbol (others have none).
    channels, symbols: only these. first_seconds: only so much of each lane from the root's first capture on.
    turn_after: shift all times so that a turn of the hour comes so many seconds after the first capture.
    staggered: lanes' segments do not end all at once, but one lane after the other within a segment's length; each
    comes that much later.
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_seconds: float = 60,
        mischief: Mischief | Mapping[str, Mischief] | None = None,
        seed: int = 0,
        source: str = "ccxt",
        channels: Sequence[str] = CHANNELS,
        symbols: Sequence[str] = (),
        first_seconds: float | None = None,
        turn_after: float | None = None,
        staggered: bool = False,
    ):
        self.source, self.segment_us = source, round(segment_seconds * US)
        lanes = _read(root, source, channels, symbols)
        first = min(int(_captures(rows).min()) for rows in lanes.values())
        shift = 0 if turn_after is None else (-first - round(turn_after * US)) % HOUR_US // 1000 * 1000
        self.lanes: dict[Lane, list[Piece]] = {}
        end = 2**62 if first_seconds is None else first + round(first_seconds * US)
        for lane, rows in lanes.items():
            wanted = rows.filter(pa.array(_captures(rows) < end))
            if wanted.num_rows:
                self.lanes[lane] = self._cut(lane, shifted(wanted, shift))
        self.begins_us = first + shift
        self.ends_us = max(piece.ends_us for pieces in self.lanes.values() for piece in pieces)
        steps: list[Step] = []
        for i, (lane, pieces) in enumerate(self.lanes.items()):
            of_lane = mischief.get(lane.symbol) if isinstance(mischief, Mapping) else mischief
            later = i * self.segment_us // len(self.lanes) if staggered else 0
            planned = self._steps(lane, pieces, of_lane or Mischief(), seed)
            steps.extend(replace(step, due_us=step.due_us + later) for step in planned)
        self.steps = sorted(steps)

    def _cut(self, lane: Lane, rows: pa.Table) -> list[Piece]:
        captures = _captures(rows)
        stretch = captures % HOUR_US // self.segment_us
        at = captures // HOUR_US * HOUR_US + stretch * self.segment_us
        pieces: list[Piece] = []
        numbers: dict[int, int] = defaultdict(int)
        for begin in np.unique(at).tolist():
            hour = begin // HOUR_US * HOUR_US
            numbers[hour] += 1
            path = self._path(lane, hour, numbers[hour])
            part = rows.take(pa.array(np.flatnonzero(at == begin)))
            pieces.append(Piece(lane, path, part, min(begin + self.segment_us, hour + HOUR_US)))
        return pieces

    def _path(self, lane: Lane, hour_us: int, number: int) -> str:
        folder = channel_root(Path(), self.source, lane.channel) / partition_path(lane.exchange, lane.symbol, hour_us)
        stamp = f"{datetime.fromtimestamp(hour_us // US, UTC):%Y%m%dT%H}"
        return str(folder / f"segment_{stamp}_{number:05d}.parquet")

    def _steps(self, lane: Lane, pieces: Sequence[Piece], mischief: Mischief, seed: int) -> Iterator[Step]:
        chance = random.Random(f"{seed} {lane}")
        turn = CHANNELS.index(lane.channel)

        def later(piece: Piece, low: float, high: float) -> int:
            return min(piece.ends_us + round(chance.uniform(low, high) * US), self.ends_us)

        def step(piece: Piece, due_us: int, how: str = "whole", **more: Any) -> Step:
            return Step(due_us, turn, more.pop("path", piece.path), how, piece, **more)

        few = self.segment_us / US
        for piece in pieces:
            kind = mischief.pick(chance)
            if kind == "late":
                yield step(piece, later(piece, 60, 600))
            elif kind == "very_late":
                yield step(piece, self.ends_us)
            elif kind == "reordered":
                yield step(piece, later(piece, few, 3.5 * few))
            elif kind == "torn":
                yield step(piece, piece.ends_us, "torn", share=chance.choice([0, chance.random()]), final=False)
                yield step(piece, later(piece, few, 6 * few))
            elif kind == "growing":
                ends = later(piece, few, 3 * few)
                for i in range(CHUNKS):
                    due = piece.ends_us + (ends - piece.ends_us) * i // (CHUNKS - 1)
                    yield step(piece, due, "chunk", share=(i + 1) / CHUNKS, final=i == CHUNKS - 1)
            elif kind == "changed":
                other = Piece(lane, piece.path, changed(piece.rows), piece.ends_us)
                yield step(other, piece.ends_us, final=False)
                yield step(piece, later(piece, 3 * few, 9 * few))
            else:
                yield step(piece, piece.ends_us)
            if kind == "duplicate":
                stem, _, number = piece.path.removesuffix(".parquet").rpartition("_")
                again = f"{stem}_{int(number) + 50_000}.parquet"
                yield step(piece, later(piece, few, 6 * few), path=again)
        for piece in pieces[: mischief.deleted]:
            yield step(piece, self.ends_us + self.segment_us, "removed", final=False)

    def final(self, root: Path) -> Path:
        """A quiet root with all that will lie in bronze at the end, and with what was deleted."""
        for step in self.steps:
            if step.how != "removed" and step.final:
                write_whole(root / step.path, parquet(step.piece.rows))
        return root

    def rows(self, lane: Lane) -> pa.Table:
        """All rows of a lane that are ever visible, once each segment and each content of it."""
        parts = {id(step.piece): step.piece for step in self.steps if step.piece.lane == lane}
        return pa.concat_tables([piece.rows for piece in parts.values()])

    def into(self, data: Path) -> Feeding:
        return Feeding(self, data)


class Feeding:
    """A feeder at work on a data root. `arrivals` tells what became visible when."""

    def __init__(self, feeder: Feeder, data: Path):
        self.feeder, self.data = feeder, data
        self.arrivals: list[Arrival] = []
        self._left = list(reversed(feeder.steps))
        self._stop_now = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return not self._left

    @property
    def now_us(self) -> int:
        """Where the feed is: when the step that comes next is due."""
        return self._left[-1].due_us if self._left else self.feeder.ends_us

    def next(self) -> Step:
        """Let one more thing happen, now."""
        step = self._left.pop()
        path = self.data / step.path
        if step.how == "removed":
            path.unlink()
            return step
        content = parquet(step.piece.rows)
        before = time.monotonic()
        if step.how == "torn":
            write_whole(path, content[: int(len(content) * step.share)])
        elif step.how == "chunk":
            append_to(path, content[: round(len(content) * step.share)])
        else:
            before = write_whole(path, content)
        if step.final:
            self.arrivals.append(Arrival(step, before, time.monotonic()))
        return step

    def until(self, us: int) -> list[Step]:
        """All that is due up to a moment of the feed's clock, without waiting."""
        done = []
        while self._left and self._left[-1].due_us <= us:
            done.append(self.next())
        return done

    def rest(self) -> list[Step]:
        return self.until(2**62)

    def run(self, speed: float = 1, *, until_us: int = 2**62) -> None:
        """By the clock, `speed` times as fast as it was captured, up to the end or to a moment of the feed's clock."""
        began, first = time.monotonic(), self.now_us
        while self._left and self._left[-1].due_us <= until_us and not self._stop_now.is_set():
            wait = began + (self._left[-1].due_us - first) / US / speed - time.monotonic()
            if wait > 0 and self._stop_now.wait(wait):
                return
            self.next()

    def begin(self, speed: float = 1) -> Feeding:
        """The same beside the caller, in a thread."""

        def work() -> None:
            try:
                self.run(speed)
            except Exception as error:  # noqa: BLE001  # told to whoever waits for it
                self._error = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        return self

    def wait(self, until: Callable[[], bool] | None = None, longest: float = 600) -> None:
        """Until all has come, or until something is true. Raises what stopped the feed."""
        deadline = time.monotonic() + longest
        assert self._thread is not None
        while self._thread.is_alive() and not (until and until()):
            assert time.monotonic() < deadline, f"{len(self._left)} steps of the feed are left"
            time.sleep(0.005)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stop_now.set()
        if self._thread is not None:
            self._thread.join()


# -- bronze ---------------------------------------------------------------------------------------------------------


def _read(root: Path, source: str, channels: Sequence[str], symbols: Sequence[str]) -> dict[Lane, pa.Table]:
    """Rows by lane, in the order of hours and of the segments' names."""
    found: dict[Lane, list[tuple[list[int], str]]] = defaultdict(list)
    for channel in channels:
        for segment in segments(channel_root(root, source, channel), channel):
            values = segment.values
            lane = Lane(str(values["exchange"]), str(values["symbol"]), channel)
            if not symbols or lane.symbol in symbols:
                hour = [int(values[key]) for key in ("year", "month", "day", "hour")]
                found[lane].append((hour, segment.path))
    assert found, f"there is no such bronze in {root}"
    return {
        lane: pa.concat_tables([pq.ParquetFile(path).read() for _, path in sorted(parts)], promote_options="default")
        for lane, parts in sorted(found.items())
    }


def _captures(rows: pa.Table) -> np.ndarray:
    """capture_ts in us."""
    return rows["capture_ts"].cast(pa.int64()).to_numpy()


def shifted(rows: pa.Table, us: int) -> pa.Table:
    """The same rows at another time: captures, event times, and year to hour. Whole milliseconds only."""
    assert us % 1000 == 0, us
    if us == 0:
        return rows
    captures = _captures(rows) + us
    names = rows.column_names
    for name in ("collected_at", "timestamp"):
        if name in names:
            moved = pc.add(rows[name].cast(pa.int64()), us // 1000)
            rows = rows.set_column(names.index(name), name, moved)
    kind = rows.schema.field("capture_ts").type
    when = pa.array(captures, pa.timestamp("us", tz="UTC"))
    rows = rows.set_column(names.index("capture_ts"), "capture_ts", when.cast(kind))
    for name in ("year", "month", "day", "hour"):
        if name in names:
            value = getattr(pc, name)(when).cast(rows.schema.field(name).type)
            rows = rows.set_column(names.index(name), name, value)
    return rows


def changed(rows: pa.Table) -> pa.Table:
    """Other content for a segment: prices a thousandth higher, and its last row is missing if it has others."""
    rows = rows.slice(0, max(1, rows.num_rows - 1))
    for i, name in enumerate(rows.column_names):
        if name in ("price", "ask"):
            rows = rows.set_column(i, name, pc.multiply(rows[name], 1.001))
    return rows


def parquet(rows: pa.Table) -> bytes:
    """As a collector writes them."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def write_whole(path: Path, content: bytes) -> float:
    """Written under a hidden name and renamed; returns the monotonic clock right before the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.inprogress")
    hidden.write_bytes(content)
    before = time.monotonic()
    os.replace(hidden, path)
    return before


def append_to(path: Path, content: bytes) -> None:
    """The file grows in place until it holds all of this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(content[file.tell() :])
