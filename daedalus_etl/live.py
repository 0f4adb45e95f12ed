"""Lanes as they grow: each segment's rows go into silver as it comes, and bars into gold as they end.

One process has some lanes, with all their channels. `Visible` knows what bronze shows of them. `LiveHours` is one lane
in one silver model: it stands behind the last clock that it took in, publishes parts of the open hour, and goes back to
a kept state when a row comes that lies before it. `LiveBars` is the bars of one lane in one gold model. What lies in
earlier hours is for who closes them (`watch`): that comes out as expected, or the open hour is begun anew behind it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from daedalus_etl import audit, files, kernels, lanes, ledger, limits, plan
from daedalus_etl.audit import Facts
from daedalus_etl.catalog import Catalog, describe, hour_name, partition_name
from daedalus_etl.engine import Engine
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane, Segment
from daedalus_etl.ledger import OPEN, Input
from daedalus_etl.make import short
from daedalus_etl.models import Context, Model
from daedalus_etl.parts import OpenPartition, Part, read
from daedalus_etl.plan import Scope
from daedalus_etl.prepared import PreparedWalk
from daedalus_etl.times import parse_time

if TYPE_CHECKING:
    import pyarrow as pa

Tell = Callable[[str, Mapping[str, Any]], None]
SAVED_AFTER = 60.0  # seconds between two saved states of a lane, at least
REPLAY = 1.0  # seconds that a restart may take to walk on from the saved states of all lanes
ROW_COST, SEGMENT_COST = 1 / 20_000, 0.004  # seconds of such a replay
LOOKS = 2  # at a segment that cannot be read, and does not change, until it is put aside
PAUSES = (1.0, 60.0)  # seconds after a failure: the first, and the longest


# -- what is visible ------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What bronze shows of one lane, from the hours on that somebody still needs."""

    segments: dict[str, tuple[Segment, Facts]] = field(default_factory=dict)
    last: int = 0  # the last clock of any row, us
    heard: float = 0.0  # when a segment came last, s (monotonic)
    waiting: dict[str, tuple[tuple[int, int], int]] = field(default_factory=dict)  # what cannot be read yet

    def hours(self, lane: Lane) -> set[int]:
        return {hour for _, facts in self.segments.values() for hour in facts.span(lane).hours}


@dataclass(frozen=True)
class Arrival:
    """A segment that has come, or (was) has another content than before."""

    lane: Lane
    segment: Segment
    facts: Facts
    was: Facts | None = None


class Visible:
    """The segments of the lanes of this process."""

    def __init__(self, catalog: Catalog, tell: Tell):
        self.catalog, self.tell = catalog, tell
        self.lanes: dict[Lane, Seen] = {}
        self.from_hour: dict[Lane, int] = {}  # before these, segments are for who closes hours

    def begin(self, lane: Lane, hour: int) -> None:
        """Take in what is there of a lane from an hour on."""
        if lane in self.lanes and self.from_hour[lane] <= hour:
            return
        self.from_hour[lane] = hour
        seen = self.lanes[lane] = Seen(heard=time.monotonic() - 1e6)
        bronze = self.catalog.of(lane)
        newest = 0
        for there in bronze.hours:
            if there >= hour:
                for segment, facts in bronze.during(there):
                    seen.segments[segment.path] = segment, facts
                    seen.last = max(seen.last, facts.span(lane).max_clock)
                    newest = max(newest, segment.mtime_ns)
                for segment in bronze.listing(there):
                    if segment.path in self.catalog.bad:
                        seen.waiting[segment.path] = segment.key, -1  # put aside: until it changes
        if not seen.segments:
            seen.last = bronze.last_clock()
            newest = max((s.mtime_ns for s, _ in bronze.during(bronze.last_hour())), default=0)
        seen.heard = time.monotonic() - max(0.0, time.time() - newest / 1e9)
        self.catalog.forget(loose=False)

    def look(self, path: str) -> Arrival | tuple[Lane, int] | None:
        """Look at one file: what has come, or (lane, hour) if it lies before what is kept here."""
        lane = self.lane_of(path)
        if lane is None or lane not in self.lanes:
            return None
        folder, name = os.path.split(path)
        values = dict(part.split("=", 1) for part in folder.split("/")[-6:])
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            self.lanes[lane].waiting.pop(path, None)
            if path in self.lanes[lane].segments:
                del self.lanes[lane].segments[path]
                text = f"{describe(path, self.catalog.profile.data)} was deleted; what was published of it stays."
                self.tell("warning", {"text": text})
            return None
        if name.startswith((".", "_")) or not name.endswith(".parquet"):
            return None
        plain = os.path.isfile(path) and not os.path.islink(path)
        segment = Segment(
            path, lane.channel, status.st_size if plain else -1, status.st_mtime_ns if plain else 0, values
        )
        hour = audit.path_hour(segment)
        if hour is None:
            return None
        if hour // HOUR_US < self.from_hour[lane]:
            return lane, hour // HOUR_US
        return self._judge(lane, segment, hour)

    def _judge(self, lane: Lane, segment: Segment, hour: int) -> Arrival | None:
        seen, path = self.lanes[lane], segment.path
        before = seen.segments.get(path)
        if before is not None and before[0].key == segment.key:
            return None
        waits = seen.waiting.get(path)
        if waits is not None and waits[0] == segment.key and waits[1] < 0:
            return None  # put aside, and as it was
        facts = self.catalog.audit(segment)
        if facts.problem:
            self._wait(lane, segment, facts, waits)
            return None
        seen.waiting.pop(path, None)
        self.catalog.note(self.catalog.memory(lane.channel, hour_name(hour), lane), segment, facts)
        if not facts.spans:
            return None
        if before is not None and before[1].digest == facts.digest:
            seen.segments[path] = segment, facts
            return None
        seen.segments[path] = segment, facts
        seen.last = max(seen.last, facts.span(lane).max_clock)
        seen.heard = time.monotonic()
        return Arrival(lane, segment, facts, before[1] if before else None)

    def _wait(self, lane: Lane, segment: Segment, facts: Facts, waits: tuple[tuple[int, int], int] | None) -> None:
        """It may still be being written: look again; put aside what stays as it is."""
        looks = 1 if waits is None or waits[0] != segment.key else waits[1] + 1
        if looks > LOOKS and not facts.passing:
            path = describe(segment.path, self.catalog.profile.data)
            self.tell("quarantined", {"segment": path, "channel": segment.channel, "reason": facts.problem})
            looks = -1
        self.lanes[lane].waiting[segment.path] = segment.key, looks

    def unread(self) -> list[str]:
        """The files to look at again."""
        return [path for seen in self.lanes.values() for path in seen.waiting]

    def lane_of(self, path: str) -> Lane | None:
        for channel, root in self.catalog.roots.items():
            if path.startswith(f"{root}/"):
                names = re.match(r"exchange=([^/]+)/symbol=([^/]+)/year=[^/]+/month=[^/]+/day=[^/]+/hour=[^/]+/[^/]+$",
                                 path[len(str(root)) + 1 :])  # fmt: skip
                return Lane(names[1], names[2], channel) if names else None
        return None

    def prune(self, needed: Mapping[Lane, int]) -> None:
        """Forget what lies before the hours that are needed."""
        for lane, hour in needed.items():
            if lane in self.lanes and self.from_hour[lane] < hour:
                self.from_hour[lane] = hour
                seen = self.lanes[lane]
                edge = hour * HOUR_US
                seen.segments = {p: x for p, x in seen.segments.items() if x[1].span(lane).max_clock >= edge}


# -- silver ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turned:
    """How an hour ended here: what is expected of who closes it."""

    hour: int
    state: str  # digest
    inputs: frozenset[tuple[str, str]]  # channel and digest of each segment


class LiveHours:
    """One lane in one silver model."""

    def __init__(self, live: Live, model: Model, lane: Lane):
        self.live, self.scope, self.model, self.lane = live, live.scope, model, lane
        self.book = self.scope.ledger(model, lane)
        self.variables = self.scope.variables(lane)
        self.taken = self.scope.inputs(model, lane)
        self.channels = {taken.channel: taken for taken in self.taken.values() if taken is not None}
        self.patience = self.variables["channel_patience"]
        self.engine = Engine(self.scope.profile, within=live.engine)
        self.walk: PreparedWalk | None = None
        self.hour, self.at, self.last = 0, 0, 0
        self.open: OpenPartition
        self.near: dict[str, list[tuple[Segment, Facts]]] = {}  # what is not taken in whole yet, by channel
        self.unnoted: list[Input] = []  # taken in, with no row of its own yet
        self.gone: list[Part] = []  # to be replaced by what is taken next
        self.least = 0  # what is published reaches up to here: the next step as well
        self.back: int | None = None  # a clock that has to be gone back to
        self.turned: Turned | None = None
        self.saved, self.cost = time.monotonic(), 0.0  # since the last saved state
        self.bars = [
            LiveBars(self, m) for m in self.scope.models_of(lane) if model.name in m.refs and m.layer == "gold"
        ]

    def close(self) -> None:
        self.engine.close()

    # -- where it stands --------------------------------------------------------------------------------------

    def begin(self, hour: int) -> None:
        """Stand at the end of what is in of an hour, by its journal; else before it."""
        if self.walk is None:
            symbol = self.scope.names[self.lane]
            self.walk = PreparedWalk(
                self.engine, self.scope.graph, self.model, self.lane, symbol, self.variables, self.taken, self._kernel()
            )
        before = self._before(hour)
        started = before.end if before is not None else ledger.NOTHING
        self._open(hour)
        noted = read(self.open.path).header.get("start")
        between = noted is not None and self._is_between(before, hour)
        if between:
            started = str(noted)  # the hour before is still to be closed: `closed` compares
        if not self.open.resume(self._header(started)) or not self._resume():
            if between:
                state = self.open.load(read(self.open.path).states[0][1]) if started != ledger.NOTHING else {}
            else:
                state = self.book.load_state(before) if before is not None else {}
            if state is None:
                raise DaedalusError("the state before its open hour is not kept", f"{self.model.name} {self.lane}")
            self._anew(state)
        for bars in self.bars:
            bars.begin()

    def _is_between(self, before: ledger.Record | None, hour: int) -> bool:
        """Are there hours behind a record, and before this one, that are not closed?"""
        earlier = [plan.hour_of(name.removesuffix(OPEN)) for name in self.book.opened() if name.endswith(OPEN)]
        closed = plan.hour_of(before.partition) if before is not None else -(2**62)
        return any(closed < one < hour for one in earlier)

    def _before(self, hour: int) -> ledger.Record | None:
        """The record of the hour that a lane's hour goes on from."""
        earlier = [name for name in self.book.partitions if plan.hour_of(name) < hour]
        return self.book.get(earlier[-1]) if earlier else None

    def _open(self, hour: int) -> None:
        self.hour = hour
        partition = hour_name(hour * HOUR_US)
        place = lanes.partition_path(self.lane.exchange, self.scope.names[self.lane], hour * HOUR_US)
        target = f"{self.model.folder}/{place}/{partition}-{short(self.lane.symbol)}.parquet"
        self.open = OpenPartition(self.book, partition, target, self.scope.profile.parquet)

    def _header(self, start: str) -> dict[str, Any]:
        """What an open hour is made by."""
        return plan.plain({
            "version": ledger.VERSION, "start": start, "code": self.scope.code(self.model),
            "variables": self.scope.graph.variables_of(self.model, self.variables),
            "partners": {n: t.symbol if t else "" for n, t in self.taken.items() if t != self.lane},
            "symbol": self.scope.names[self.lane],
        })  # fmt: skip

    def _resume(self) -> bool:
        """Walk up to where the journal ends, from its newest state. False if what it was made of is not there."""
        assert self.walk is not None
        now = self.open.now
        found = self._files()
        known = {(s.channel, describe(s.path, self.scope.profile.data)): f.digest
                 for segments in found.values() for s, f in segments}  # fmt: skip
        if any(known.get((one.channel, one.path)) != one.digest for one in now.inputs.values()):
            return False
        for at, digest in reversed(now.states):
            state = self.open.load(digest)
            if state is not None and at <= max(now.until, self.hour * HOUR_US):
                self.walk.begin(state, self._kernel())
                taken = {(one.channel, one.path) for one in now.inputs.values()}
                inside = {
                    channel: [(s, f) for s, f in segments
                              if (channel, describe(s.path, self.scope.profile.data)) in taken]
                    for channel, segments in found.items()
                }  # fmt: skip
                for first, behind in self._pieces(at, now.until, inside):
                    self.walk.take(first, behind, inside)
                self.at, self.last = max(now.until, self.hour * HOUR_US), now.last
                late = [f.span(self.channels[c]).min_clock for c, segments in found.items() for s, f in segments
                        if (c, describe(s.path, self.scope.profile.data)) not in taken]  # fmt: skip
                self.back = min((clock for clock in late if clock < self.at), default=None)
                self.gone, self.least, self.unnoted = [], 0, []
                self._gather()
                return True
        return False

    def _anew(self, state: Mapping[str, bytes], *, stands: bool = False) -> None:
        """Begin the hour anew from the state before it. What is published of it goes when this has come as far. stands:
        the walk is there already."""
        assert self.walk is not None
        start = self.hour * HOUR_US
        record = self.book.get(self.open.partition)
        reaches = [self.open.now.until, (record.max_clock or 0) + 1 if record is not None and record.outputs else 0]
        digest = files.digest(ledger.pack(state)) if state else ledger.NOTHING
        self.open.begin(self._header(digest))
        if not stands:
            self.walk.begin(state, self._kernel())
        self.at = start
        self.least, self.gone, self.back, self.unnoted = max(reaches), [], None, []
        self._gather()
        self.open.commit([], start, state=(start, self.open.save(state)))
        self.saved, self.cost = time.monotonic(), 0.0
        for bars in self.bars:
            bars.back(start)

    def _kernel(self) -> Any:
        if "kernel" not in self.model.config:
            return None
        return kernels.load(self.model.config["kernel"], self.scope.folders)(self.variables)

    def _gather(self) -> None:
        """What lies behind where it stands."""
        self.near = {c: [x for x in found if x[1].span(self.channels[c]).max_clock >= self.at]
                     for c, found in self._files().items()}  # fmt: skip

    def _files(self) -> dict[str, list[tuple[Segment, Facts]]]:
        return {
            channel: audit.segment_order(self.live.visible.lanes[taken].segments.values())
            for channel, taken in self.channels.items()
        }

    # -- what comes -------------------------------------------------------------------------------------------

    def arrived(self, one: Arrival) -> None:
        """A segment of one of its lanes. What lies before where it stands is late."""
        spans = [facts.span(one.lane) for facts in (one.facts, one.was) if facts is not None]
        low, high = min(span.min_clock for span in spans), max(span.max_clock for span in spans)
        start = self.hour * HOUR_US
        if low < start:
            self.live.late(self, low // HOUR_US)
        if one.facts.span(one.lane).max_clock >= self.at:
            channel = one.lane.channel
            there = [x for x in self.near.get(channel, ()) if x[0].path != one.segment.path]
            self.near[channel] = audit.segment_order([*there, (one.segment, one.facts)])
        if low < self.at and high >= start:
            self.back = min(max(low, start), self.back if self.back is not None else self.at)

    def ready(self, now: float) -> int:
        """Rows with a clock before this can be taken: all other channels have passed it, or are silent for long."""
        seen = self.live.visible.lanes
        until = seen[self.lane].last + 1
        for other in self.channels.values():
            if other != self.lane and seen[other].last and now - seen[other].heard <= self.patience:
                until = min(until, seen[other].last)
        return max(until, self.least)

    def take(self, now: float) -> bool:
        """Take in what is ready; False if there is nothing."""
        if self.back is not None:
            self._go_back(self.back)
        until, did = self.ready(now), False
        while True:
            end = (self.hour + 1) * HOUR_US
            if until >= end and self._next_hour() is not None:
                self._step(end)
                self._turn(until)
                did = True
                continue
            until = min(until, end)
            if until <= self.at or not self._own_rows(self.at, until):
                return did
            self._step(until)
            did = True

    @property
    def waits(self) -> bool:
        """Are there rows that another channel has not passed yet?"""
        return self._own_rows(self.at, 2**62)

    @property
    def is_whole(self) -> bool:
        """Is all of it in up to where it stands, with nothing to be taken in again?"""
        return not self.gone and not self.least and self.back is None

    def _own_rows(self, start: int, end: int) -> bool:
        spans = (f.span(self.lane) for _, f in self.near[self.lane.channel])
        return any(span.max_clock >= start and span.min_clock < end for span in spans)

    def _pieces(self, start: int, end: int, found: Mapping[str, Any]) -> list[tuple[int, int]]:
        most = max(
            (sum(f.span(self.channels[c]).rows for _, f in segments if f.span(self.channels[c]).max_clock >= start)
             / min(limits.rows_at_once(self.scope.profile, c), 20_000) for c, segments in found.items()),
            default=0.0,
        )  # fmt: skip
        parts = max(1, int(most) + 1) if most > 1 else 1
        return [(start + (end - start) * i // parts, start + (end - start) * (i + 1) // parts) for i in range(parts)]

    def _step(self, end: int) -> None:
        """Take [at, end) in and publish it."""
        assert self.walk is not None
        found = self._between(self.near, self.at, end)
        stays = sum(part.rows for part in self.open.now.parts) - sum(part.rows for part in self.gone)
        came, start, rows_of_bars = [], self.at, []
        for first, behind in self._pieces(start, end, found):
            rows, counts = self.walk.take(first, behind, found, stays)
            stays += rows.num_rows
            self.last = max(self.last, counts.get("max_clock", 0))
            if rows.num_rows:
                came.append(self.open.stage(rows, "clock_ts"))
                rows_of_bars.append(rows)
        own = found[self.lane.channel]
        inputs = self.unnoted + plan.inputs_of(self.scope, found, self.channels)
        self._spend(rows=sum(rows.num_rows for rows in rows_of_bars), segments=len(inputs))
        state = None
        if self.cost > self.live.replay and time.monotonic() - self.saved >= SAVED_AFTER:
            state = (end, self.open.save(self.walk.save()))
            self.saved, self.cost = time.monotonic(), 0.0
        self.unnoted = inputs
        if came or self.gone or state:
            if not came and self.gone:  # a segment of it was changed, and has no row here any more
                text = f"{self.model.name} {self.lane}: rows of {self.open.partition} are in no segment now"
                self.live.tell("warning", {"text": f"{text}; they stay."})
                self.gone = []
            back = start if self.gone else None
            self.open.commit(came, end, last=self.last, gone=self.gone, inputs=inputs, state=state, back=back)
            self.unnoted = []
        self.gone, self.at, self.least = [], end, 0
        for channel, segments in self.near.items():
            self.near[channel] = [x for x in segments if x[1].span(self.channels[channel]).max_clock >= end]
        for bars in self.bars:
            for rows in rows_of_bars:
                bars.add(rows)
        if came:
            self.live.took(self, rows_of_bars, len(own))

    def _spend(self, rows: int, segments: int) -> None:
        self.cost += rows * ROW_COST + segments * SEGMENT_COST

    def _between(self, found: Mapping[str, Any], start: int, end: int) -> dict[str, list[tuple[Segment, Facts]]]:
        return {
            channel: [(s, f) for s, f in segments
                      if (span := f.span(self.channels[channel])).max_clock >= start and span.min_clock < end]
            for channel, segments in found.items()
        }  # fmt: skip

    def _next_hour(self) -> int | None:
        """The hour that comes next: with rows of its own, or of another channel before these."""
        hours = {channel: {hour for _, facts in found for hour in facts.span(self.channels[channel]).hours}
                 for channel, found in self.near.items()}  # fmt: skip
        last = max(hours[self.lane.channel], default=self.hour)
        return min((hour for found in hours.values() for hour in found if self.hour < hour <= last), default=None)

    def _turn(self, proved: int) -> None:
        """The hour is over: go on in the next from the state at its end."""
        assert self.walk is not None
        for bars in self.bars:  # what ended with this hour
            bars.publish(max(self.last, min(proved - 1, (self.hour + 1) * HOUR_US)))
        state = self.walk.save()
        digest = files.digest(ledger.pack(state))
        inside = self._between(self._files(), self.hour * HOUR_US, (self.hour + 1) * HOUR_US)
        found = frozenset((channel, f.digest) for channel, segments in inside.items() for _, f in segments)
        self.turned = Turned(self.hour, digest, found)
        was, following = self.hour, self._next_hour()
        assert following is not None
        self._open(following)
        self._anew(state, stands=True)
        for bars in self.bars:
            bars.turn()
        self.live.turned(self, was, following, max(self.last, following * HOUR_US))

    def _go_back(self, clock: int) -> None:
        """Take what comes from here on in again."""
        assert self.walk is not None
        missing = [one.path for one in self.open.now.inputs.values() if not self._is_there(one)]
        self.back = None
        if missing:
            text = (
                f"{self.model.name} {self.lane}: a segment came late into {self.open.partition}, but others of it were "
            )
            self.live.tell("warning", {"text": f"{text}deleted ({missing[0]}): it is left out."})
            return
        found = self.open.back_to(clock)
        at, digest = found if found is not None else self.open.now.states[0]
        state = self.open.load(digest)
        if state is None:
            raise DaedalusError("a saved state is gone", str(self.open.path), "Run `daedalus run`.")
        self.walk.begin(state, self._kernel())
        self.gone = [part for part in self.open.now.parts if part.first >= at]
        self.least = max(self.least, self.at)
        self.at = at
        self.cost = 0.0
        self._gather()
        for bars in self.bars:
            bars.back(at)

    def _is_there(self, one: Input) -> bool:
        return os.path.lexists(self.scope.profile.data / one.path)

    def closed(self) -> None:
        """Earlier hours have been made: did they end as expected? If not, the open hour begins anew behind them."""
        self.book = self.scope.ledger(self.model, self.lane)
        self.open.book = self.book
        before = self._before(self.hour)
        turned = self.turned
        if before is None or (turned is not None and plan.hour_of(before.partition) < turned.hour):
            return
        if before.end != self.open.now.header["start"]:
            state = self.book.load_state(before)
            if state is not None:
                self.open.now.until = max(self.at, self.open.now.until)
                self._anew(state)
        if turned is not None and plan.hour_of(before.partition) == turned.hour:
            inputs = frozenset((one.channel, one.digest) for one in self.book.inputs(before))
            if (before.end, inputs) != (turned.state, turned.inputs):
                self.live.restage(self, turned.hour)
            self.turned = None
        for bars in self.bars:
            bars.days = {key: day for key, day in bars.days.items() if day.path.is_file() or not day.now.header}


# -- gold -----------------------------------------------------------------------------------------------------


class LiveBars:
    """The bars of one lane in one gold model, of all durations; each is written when a row proves its end."""

    def __init__(self, hours: LiveHours, model: Model):
        self.hours, self.scope, self.model, self.lane = hours, hours.scope, model, hours.lane
        self.engine = hours.engine
        self.table = f"rows_of_{model.name.replace('.', '_')}"
        self.sql: dict[int, str] = {}  # by duration
        self.durations = tuple(self.scope.variables(self.lane)["bar_durations"]) if "per" in model.config else ()
        self.until: dict[int, int] = {}  # bars that end at or before this are in; missing: not known yet
        self.days: dict[tuple[int, int], OpenPartition] = {}
        self.redo: dict[int, int] = {}  # published bars that end behind this are to be made again
        self.columns: list[str] = []

    # -- rows -------------------------------------------------------------------------------------------------

    def add(self, rows: pa.Table) -> None:
        """Rows of silver that were published."""
        if not self.durations:
            return
        if not self.columns:
            self._lay_out(rows)
        self.engine.fill_arrow(self.table, rows.select(self.columns))

    def _lay_out(self, rows: pa.Table) -> None:
        """A table of the columns that the model names, and its statements."""
        self.engine.bind(span_start_us=0, span_end_us=0, horizon_us=0)
        texts = [self._sql(duration, self.engine.bound, "nowhere") for duration in self.durations]
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        every = any(re.search(r"columns\s*\(", text, re.IGNORECASE) for text in texts)
        self.columns = [name for name in rows.schema.names if every or name in words or name == "clock_ts"]
        self.engine.load_arrow(self.table, rows.select(self.columns).slice(0, 0))
        # planned anew for each bar: prepared, they did not end when they ran again over other rows (DuckDB 1.5.5)
        relation = f"(select * from {self.table} where epoch_us(clock_ts) >= getvariable('bars_from_us'))"
        self.sql = {duration: self._sql(duration, self.engine.bound, relation) for duration in self.durations}

    def _sql(self, duration: int, bound: Callable[[str], str], relation: str) -> str:
        variables = {**self.scope.variables(self.lane), "bar_duration_sec": duration}
        (text,) = self.scope.graph.render(self.model, Context(variables, lambda _: relation, lambda _: "", bound))
        return text

    def begin(self) -> None:
        """Take up the journals of the days that the next bars belong to, and the rows that these need."""
        if not self.durations:
            return
        self.days.clear()
        self.until.clear()
        self.redo.clear()
        start = self.hours.hour * HOUR_US
        recorded = [h for h in map(plan.hour_of, self.hours.book.partitions) if h < self.hours.hour]
        for duration in self.durations:
            length = duration * US
            edge = start // length * length
            day = self._day(duration, edge)
            if day.resume(self._header()):
                self.until[duration] = max(edge, day.now.until)
            elif not any(edge // DAY_US in plan.days_of(hour * HOUR_US, duration) for hour in recorded):
                self.until[duration] = edge
        self._load_rows(min(start // (d * US) * d * US for d in self.durations))
        self.publish(self.hours.last)

    def _header(self) -> dict[str, Any]:
        variables = self.scope.variables(self.lane)
        return plan.plain({
            "version": ledger.VERSION, "code": self.scope.code(self.model), "symbol": self.scope.names[self.lane],
            "variables": self.scope.graph.variables_of(self.model, variables),
        })  # fmt: skip

    def _day(self, duration: int, clock: int) -> OpenPartition:
        """The partition of the bar that begins at a clock."""
        day = clock // DAY_US
        if (duration, day) not in self.days:
            name = partition_name(day * DAY_US, "day")
            place = lanes.partition_path(self.lane.exchange, self.scope.names[self.lane], day * DAY_US, by="day")
            target = f"{self.model.folder}/{duration}s/{place}/{name}-{short(self.lane.symbol)}.parquet"
            book = self.scope.ledger(self.model, self.lane, duration)
            self.days[duration, day] = OpenPartition(book, name, target, self.scope.profile.parquet)
        return self.days[duration, day]

    def _load_rows(self, edge: int) -> None:
        """What is published of silver from a clock on."""

        hours, book = self.hours, self.hours.book
        paths = [hours.open.target.parent / part.name for part in hours.open.now.parts]
        for name in book.partitions:
            if edge // HOUR_US <= plan.hour_of(name) < hours.hour:
                record = book.get(name)
                paths += [book.processed / output.path for output in record.outputs] if record is not None else []
        if self.columns:
            self.engine.con.execute(f"delete from {self.table}")
        for path in sorted(paths):
            found = duckdb.connect(config={"threads": 1}).execute(
                "select * from read_parquet($1, hive_partitioning = false) where epoch_us(clock_ts) >= $2",
                [lanes.literal(str(path)), edge],
            ) if not self.columns else self.engine.con.execute(
                f"select {', '.join(self.columns)} from read_parquet($1, hive_partitioning = false) "
                "where epoch_us(clock_ts) >= $2",
                [lanes.literal(str(path)), edge],
            )  # fmt: skip
            rows: pa.Table = found.to_arrow_table()
            if rows.num_rows:
                self.add(rows)

    def back(self, clock: int) -> None:
        """Rows from a clock on will come again."""
        if self.columns:
            self.engine.con.execute(f"delete from {self.table} where epoch_us(clock_ts) >= {int(clock)}")
        for duration, until in self.until.items():
            length = duration * US
            if until > clock:
                self.redo[duration] = min(clock // length * length, self.redo.get(duration, until))

    def turn(self) -> None:
        """Let go of rows that no bar needs any more."""
        if self.columns and self.until:
            edge = min(self.until.values())
            self.engine.con.execute(f"delete from {self.table} where epoch_us(clock_ts) < {int(edge)}")

    # -- bars -------------------------------------------------------------------------------------------------

    def publish(self, last: int) -> None:
        """Write the bars that have ended, now that a row with this clock is in."""
        for duration, until in list(self.until.items()):
            length = duration * US
            edge = min(until, self.redo.get(duration, until))
            ended = last // length * length
            if ended <= edge or not self.columns or not self.hours.is_whole:
                continue
            for day in range(edge // DAY_US, (ended - 1) // DAY_US + 1):
                self._publish_day(duration, day, edge, ended)
            self.until[duration] = max(ended, until)
            self.redo.pop(duration, None)

    def _bars(self, duration: int, day: int, edge: int, ended: int) -> pa.Table:
        """The bars of a day that begin at or after one clock and end at or before another."""
        given = {"span_start_us": max(day * DAY_US, edge), "span_end_us": (day + 1) * DAY_US, "horizon_us": ended}
        self.engine.bind(**given, bars_from_us=edge)
        return self.engine.to_arrow(self.sql[duration])

    def _publish_day(self, duration: int, day: int, edge: int, ended: int) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        open_day = self._day(duration, day * DAY_US)
        rows = self._bars(duration, day, edge, ended)
        if not open_day.now.header:
            if not rows.num_rows:
                return
            if not open_day.resume(self._header()):
                open_day.begin(self._header())
        gone = [part for part in open_day.now.parts if part.last > edge]
        for part in gone:
            if part.first <= edge:  # its earlier bars stay as they are
                before = open_day.read([part])
                early = pc.less_equal(before.column("bar_end").cast(pa.int64()), edge)
                rows = pa.concat_tables([before.filter(early).cast(rows.schema), rows])
        if rows.num_rows:
            staged = [open_day.stage(rows, "bar_end")]
            open_day.commit(staged, min(ended, plan.last_end((day + 1) * DAY_US, duration)), gone=gone)
            open_day.join("bar_end")

    def adopt(self, duration: int, partition: str, until: int, path: str) -> None:
        """Take over the bars of an open day that end at or before `until` us, made elsewhere; '' if there are none."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        length = duration * US
        clock = parse_time(partition)
        open_day = self._day(duration, clock)
        ended = max(self.until.get(duration, 0), self.hours.last // length * length)
        edge = until // length * length
        staged = []
        if path:
            ends = pq.read_table(path, columns=["bar_end"]).column(0).cast(pa.int64())
            first, last = pc.min(ends).as_py(), pc.max(ends).as_py()
            part = open_day.taken(Path(path), len(ends), first, last, 9)
            staged.append((part, Path(path)))
        day = clock // DAY_US
        if not self.columns or (ended - 1) // DAY_US < day:
            ended = edge
        if ended > edge:
            rows = self._bars(duration, day, edge, ended)
            if rows.num_rows:
                staged.append(open_day.stage(rows, "bar_end"))
        if not open_day.now.header and not open_day.resume(self._header()):
            open_day.begin(self._header())
        if staged:
            open_day.commit(staged, ended, gone=list(open_day.now.parts))
        self.until[duration] = max(ended, self.until.get(duration, 0))
        self.redo.pop(duration, None)

    def join(self) -> bool:
        return any(day.join("bar_end") for day in self.days.values() if day.now.parts)


def open_hour(scope: Scope, lane: Lane, now: float) -> int:
    """The hour of a lane that is still open: the newest, but with rows that wait for another channel the one before
    that holds them; with a journal the one that this is of. now: time of day, s; -1 for a lane without rows."""
    hours = []
    for model in scope.models_of(lane):
        if model.layer != "silver":
            continue
        last = scope.there.of(lane).last_clock()
        if not last:
            return -1
        for other in scope.inputs(model, lane).values():
            if other is None or other == lane:
                continue
            bronze = scope.there.of(other)
            clock, newest = bronze.last_clock(), bronze.during(bronze.last_hour())
            heard = max((segment.mtime_ns for segment, _ in newest), default=0) / 1e9
            if clock and now - heard <= scope.variables(lane)["channel_patience"]:
                last = min(last, clock)
        hours.append(max(last // HOUR_US, scope.there.of(lane).hours[0]))
        names = [name for name in scope.ledger(model, lane).opened() if name.endswith(OPEN)]
        hours += [plan.hour_of(name.removesuffix(OPEN)) for name in names[-1:]]
    return min(hours, default=-1)


# -- all lanes of a process -----------------------------------------------------------------------------------


class Live:
    """The lanes that one process follows. What it hears is told: taken, turned, late, restage, failed, waiting."""

    def __init__(self, scope: Scope, temp: Path, tell: Tell):
        self.scope, self.tell = scope, tell
        self.engine = Engine(scope.profile, temp)
        self.visible = Visible(scope.there, tell)
        self.hours: list[LiveHours] = []
        self.replay = REPLAY
        self._stumbled: dict[LiveHours, tuple[float, float]] = {}  # until when it waits, and for how long
        self._arrived: dict[str, float] = {}

    def close(self) -> None:
        for one in self.hours:
            one.close()
        self.engine.close()

    def open(self, from_hours: Mapping[Lane, int]) -> None:
        """Follow lanes from an hour on: all before it is in. What fails is told, and tried again later."""
        new = []
        for lane, hour in from_hours.items():
            for model in self.scope.models_of(lane):
                if model.layer == "silver":
                    new.append(LiveHours(self, model, lane))
                    new[-1].hour = hour
        self.hours += new
        self.replay = REPLAY / max(len(self.hours), 1)
        for one in new:
            with self._telling(one):
                self._begin(one)

    def leave(self, lane: Lane) -> None:
        """Follow a lane no more."""
        for one in [one for one in self.hours if one.lane == lane]:
            self.hours.remove(one)
            self._stumbled.pop(one, None)
            one.close()

    def _begin(self, one: LiveHours) -> None:
        hour = max([one.hour, *(plan.hour_of(n.removesuffix(OPEN)) for n in one.book.opened() if n.endswith(OPEN))])
        for lane in one.channels.values():
            self.visible.begin(lane, hour)
        one.begin(hour)

    def adopt(self, model: str, lane: Lane, duration: int, partition: str, until: int, path: str) -> None:
        for one in self.hours:
            for bars in one.bars:
                if one.lane == lane and bars.model.name == model:
                    bars.adopt(duration, partition, until, path)

    def closed(self, lane: Lane) -> None:
        """Who closes hours is through with a lane."""
        for one in self.hours:
            if one.lane == lane and one not in self._stumbled:
                with self._telling(one):
                    one.closed()

    def pulse(self, paths: Iterable[str] = ()) -> dict[str, Any]:
        """Look at files that may have come, and take in what is ready. Returns what it waits for."""

        def waiting() -> set[str]:
            return set(self.visible.unread())

        for path in [*paths, *self.visible.unread()]:
            self._arrived.setdefault(path, time.monotonic())
            found = self.visible.look(path)
            if found is None and path not in waiting():
                self._arrived.pop(path, None)
            if isinstance(found, Arrival):
                for one in self.hours:
                    if found.lane in one.channels.values():
                        one.arrived(found)
            elif found is not None:
                lane, hour = found
                for one in self.hours:
                    if lane in one.channels.values():
                        self.late(one, hour)
        now = time.monotonic()
        for one in self.hours:
            if self._stumbled.get(one, (0.0, 0.0))[0] <= now:
                with self._telling(one):
                    if one in self._stumbled:
                        self._begin(one)
                    one.take(now)
                    if self._stumbled.pop(one, None) is not None:
                        self.tell("recovered", {"model": one.model.name, "lane": str(one.lane)})
        for one in self.hours:
            if one not in self._stumbled:
                with self._telling(one):
                    for bars in one.bars:
                        bars.publish(one.last)
        joined = any(self._join(one) for one in self.hours if one not in self._stumbled)
        needed: dict[Lane, int] = {}
        for one in self.hours:
            for lane in one.channels.values():
                needed[lane] = min(one.hour, needed.get(lane, one.hour))
        self.visible.prune(needed)
        waits = sum(one.waits for one in self.hours)
        return {"again": joined, "stumbled": len(self._stumbled), "unread": len(self.visible.unread()), "waits": waits}

    def _join(self, one: LiveHours) -> bool:
        with self._telling(one):
            return (not one.gone and one.open.join("clock_ts")) or any(bars.join() for bars in one.bars)
        return False

    def _telling(self, one: LiveHours) -> _Telling:
        return _Telling(self, one)

    # -- what lanes say ---------------------------------------------------------------------------------------

    def late(self, one: LiveHours, hour: int) -> None:
        self.tell("late", {"lane": one.lane, "hour": hour, "behind": one.hour})

    def restage(self, one: LiveHours, hour: int) -> None:
        self.tell("restage", {"lane": one.lane, "hour": hour, "behind": one.hour})

    def turned(self, one: LiveHours, hour: int, behind: int, proved: int) -> None:
        self.tell(
            "turned", {"lane": one.lane, "model": one.model.name, "hour": hour, "behind": behind, "proved": proved}
        )

    def took(self, one: LiveHours, rows: list[Any], segments: int) -> None:
        now, own = time.monotonic(), self.visible.lanes[one.lane].segments
        done = [path for path in self._arrived if path in own and own[path][1].span(one.lane).max_clock < one.at]
        waited = [now - self._arrived.pop(path) for path in done]
        self.tell("taken", {
            "model": one.model.name, "channel": one.lane.channel, "exchange": one.lane.exchange,
            "symbol": self.scope.names[one.lane], "source_symbol": one.lane.symbol,
            "rows": sum(part.num_rows for part in rows), "segments": segments,
            "lag": max(waited, default=0.0), "last_clock": one.last,
        })  # fmt: skip


class _Telling:
    """What goes wrong with a lane is told; it begins anew from its journal after a pause that grows."""

    def __init__(self, live: Live, one: LiveHours):
        self.live, self.one = live, one

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        pause = min(max(PAUSES[0], 2 * self.live._stumbled.get(self.one, (0.0, 0.0))[1]), PAUSES[1])
        self.live._stumbled[self.one] = time.monotonic() + pause, pause
        text = str(error) or type(error).__name__
        if os.environ.get("DAEDALUS_TRACE"):
            import traceback

            traceback.print_exception(error)
        self.live.tell(
            "failed", {"model": self.one.model.name, "lane": str(self.one.lane), "error": text, "pause": pause}
        )
        return True
