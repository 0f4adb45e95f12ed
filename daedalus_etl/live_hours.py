"""The open hour of one lane that is followed, in one silver model.

It stands behind the last clock that it took in, publishes parts of the hour, and goes back to a kept state when a row
comes that lies before it. What lies in earlier hours is for who closes them: that comes out as expected, or the open
hour is begun anew behind it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daedalus_etl import audit, files, kernels, lanes, ledger, limits, plan
from daedalus_etl.audit import Facts
from daedalus_etl.catalog import describe, hour_name
from daedalus_etl.engine import Engine
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import HOUR_US, Lane, Segment
from daedalus_etl.ledger import Input
from daedalus_etl.live_bars import LiveBars
from daedalus_etl.models import Model
from daedalus_etl.parts import OpenPartition, Part, read
from daedalus_etl.plan import Scope
from daedalus_etl.prepared import PreparedWalk
from daedalus_etl.visible import Arrival

if TYPE_CHECKING:
    from daedalus_etl.live import Live

ASLEEP_US = 6 * HOUR_US  # of silence of a lane, by another channel's clock
LOOKED_AFTER = 1.0  # seconds between two looks at a channel that is silent, at least
SAVED_AFTER = 60.0  # seconds between two saved states of a lane, at least
ROW_COST, SEGMENT_COST = 1 / 20_000, 0.004  # seconds that a restart takes to walk over a row, and a segment


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
        for bars in self.bars:
            bars.close()
        self.engine.close()

    # -- where it stands --------------------------------------------------------------------------------------

    def begin(self, hour: int) -> None:
        """Stand at the end of what is in of an hour, by its journal; else before it."""
        self.book = self.scope.ledger(self.model, self.lane)  # hours were closed meanwhile
        if self.walk is None:
            symbol = self.scope.names[self.lane]
            self.walk = PreparedWalk(
                self.engine, self.scope.graph, self.model, self.lane, symbol, self.variables, self.taken, self._kernel()
            )
        before = self._before(hour)
        started = before.end if before is not None else ledger.NOTHING
        anew = False
        self._open(hour)
        noted = read(self.open.path).header.get("start")
        between = noted is not None and self._is_between(before, hour)
        if between:
            started = str(noted)  # the hour before is still to be closed: `closed` compares
        if not self.open.resume(self._header(started)) or not self._resume():
            if between:
                states = self.open.now.states
                state = {} if started == ledger.NOTHING else self.open.load(states[0][1]) if states else None
            else:
                state = self.book.load_state(before) if before is not None else {}
            if state is None:
                self.live.late(self, hour - 1)  # who closes hours makes it again
                raise DaedalusError("the state before its open hour is not kept", f"{self.model.name} {self.lane}")
            self._anew(state)
            anew = True
        for bars in self.bars:
            bars.begin()
            if anew:
                bars.back(hour * HOUR_US)

    def _is_between(self, before: ledger.Record | None, hour: int) -> bool:
        """Are there hours behind a record, and before this one, that are not closed?"""
        earlier = journaled(self.book)
        closed = plan.hour_of(before.partition) if before is not None else -(2**62)
        return any(closed < one < hour for one in earlier)

    def _before(self, hour: int) -> ledger.Record | None:
        """The record of the hour that a lane's hour goes on from."""
        earlier = [name for name in self.book.partitions if plan.hour_of(name) < hour]
        return self.book.get(earlier[-1]) if earlier else None

    def _open(self, hour: int) -> None:
        self.hour, self.open = hour, self._partition(hour)

    def _partition(self, hour: int) -> OpenPartition:
        partition = hour_name(hour * HOUR_US)
        place = lanes.partition_path(self.lane.exchange, self.scope.names[self.lane], hour * HOUR_US)
        target = f"{self.model.folder}/{place}/{partition}-{lanes.short(self.lane.symbol)}.parquet"
        return OpenPartition(self.book, partition, target, self.scope.profile.parquet)

    def standing(self) -> tuple[ledger.Ledger, list[int]]:
        """The records as they are now, and the hours before the open one that have a journal and no record. Both of one
        moment: another process closes hours meanwhile, and one that it closes in between would be in neither."""
        while True:
            book = self.scope.ledger(self.model, self.lane)
            closed = set(book.partitions)
            left = [hour for hour in journaled(book) if hour < self.hour and hour_name(hour * HOUR_US) not in closed]
            if closed.issuperset(self.scope.ledger(self.model, self.lane).partitions):
                return book, left

    def published_in_parts(self, left: Iterable[int]) -> list[OpenPartition]:
        """These hours, and the open one."""
        earlier = [self._partition(hour) for hour in left]
        for one in earlier:
            one.now = read(one.path)
        return [*earlier, self.open]

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
        self.open.begin(self._header(digest), (start, state))
        if not stands:
            self.walk.begin(state, self._kernel())
        self.at = start
        self.least, self.gone, self.back, self.unnoted = max(reaches), [], None, []
        self._gather()
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

    def not_told(self, now: float) -> list[str]:
        """Files of channels that rows wait for and that seem to be silent: they may have come, and the news not yet.

        Without a look for itself, who begins anew after a while would take a channel for silent, with files there.
        """
        seen, own = self.live.visible.lanes, self.lane
        found = []
        for other in self.channels.values():
            if other == own or seen[other].last > seen[own].last:
                continue
            if now - seen[other].heard > self.patience and now - seen[other].looked > LOOKED_AFTER and self.waits:
                hours = range(self.hour, seen[own].last // HOUR_US + 1)
                found += self.live.visible.not_seen(other, hours[-2:])
        return found

    def take(self, now: float) -> bool:
        """Take in what is ready; False if there is nothing."""
        if self.back is not None:
            self._go_back(self.back)
        until, did = self.ready(now), False
        while True:
            end = (self.hour + 1) * HOUR_US
            if until >= end and self._next_hour() is not None:
                self._step(end)
                self._turn()
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
    def has_begun(self) -> bool:
        """Does it stand somewhere? Else it will see for itself what has come."""
        return self.walk is not None

    @property
    def sleeps(self) -> bool:
        """Is it silent for long while another channel goes on? Nobody needs to follow it, nor keep that channel for it,
        until it speaks again."""
        seen = self.live.visible.lanes
        last = max(seen[other].last for other in self.channels.values())
        return not self.waits and self.back is None and last - seen[self.lane].last > ASLEEP_US

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

    def _turn(self) -> None:
        """The hour is over: go on in the next from the state at its end."""
        assert self.walk is not None
        was, following = (self.hour, self.open), self._next_hour()
        assert following is not None
        self.at = following * HOUR_US
        for bars in self.bars:  # what ended with this hour, and before the next with rows
            bars.publish(max(self.last, self.at))
        state = self.walk.save()
        digest = files.digest(ledger.pack(state))
        inside = self._between(self._files(), self.hour * HOUR_US, (self.hour + 1) * HOUR_US)
        found = frozenset((channel, f.digest) for channel, segments in inside.items() for _, f in segments)
        self.turned = Turned(self.hour, digest, found)
        self._open(following)
        try:
            self._anew(state, stands=True)
        except Exception:
            self.hour, self.open = was  # nothing says that it has turned
            raise
        for bars in self.bars:
            bars.turn()
        self.live.turned(self, was[0], following, max(self.last, following * HOUR_US))

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


def journaled(book: ledger.Ledger) -> list[int]:
    """The hours (since the epoch) of which there are journals, in order."""
    return [plan.hour_of(name) for name in book.journals()]


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
        open_hours = journaled(scope.ledger(model, lane))
        hours.append(open_hours[-1] if open_hours else max(last // HOUR_US, scope.there.of(lane).hours[0]))
    return min(hours, default=-1)


def last_seen(scope: Scope, lane: Lane, hour: int) -> int | None:
    """The last clock (us) that shows of a lane from an hour on, in bronze or in what was published of it: it proves
    that all bars before it have ended. None if nothing does."""
    clocks = [scope.there.of(lane).last_clock()]
    for model in scope.models_of(lane):
        if model.layer == "silver":
            book = scope.ledger(model, lane)
            clocks += [read(book.folder / f"{name}{ledger.OPEN}").last for name in book.journals()]
    last = max(clocks)
    return last if last >= hour * HOUR_US else None
