"""What bronze shows of the lanes that a process follows. Looked at when somebody says that a file may have come."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from daedalus_etl import audit, lanes
from daedalus_etl.audit import Facts
from daedalus_etl.catalog import Catalog, describe, hour_name
from daedalus_etl.lanes import HOUR_US, Lane, Segment
from daedalus_etl.lookout import files_in, hour_of
from daedalus_etl.pool import Listener

STILL = 3.0  # seconds in which a segment that cannot be read does not change, until it is put aside


@dataclass
class Seen:
    """What bronze shows of one lane, from the hours on that somebody still needs."""

    segments: dict[str, tuple[Segment, Facts]] = field(default_factory=dict)
    last: int = 0  # the last clock of any row, us
    heard: float = 0.0  # when something came last, s (monotonic)
    looked: float = 0.0  # when its folders were looked at last, because it was silent, s (monotonic)
    # what cannot be read yet, and since when it has been as it is, s (monotonic); -1: it was put aside
    waiting: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrival:
    """A segment that has come, or (was) has another content than before."""

    lane: Lane
    segment: Segment
    facts: Facts
    was: Facts | None = None


class Visible:
    """The segments of the lanes of this process."""

    def __init__(self, catalog: Catalog, tell: Listener):
        self.catalog, self.tell = catalog, tell
        self.lanes: dict[Lane, Seen] = {}
        self.from_hour: dict[Lane, int] = {}  # before these, segments are for who closes hours

    def begin(self, lane: Lane, hour: int) -> list[Arrival]:
        """Take in what is there of a lane from an hour on. Returns what came since it was looked at from a later hour
        on: who follows it has not heard of that, and nobody will tell of it again.
        """
        if lane in self.lanes and self.from_hour[lane] <= hour:
            return []
        before, edge = self.lanes.get(lane), self.from_hour.get(lane, 0) * HOUR_US
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
        if before is None:
            return []
        known = {path: facts for path, (_, facts) in before.segments.items()}
        return [
            Arrival(lane, segment, facts, known.get(path)) for path, (segment, facts) in seen.segments.items()
            if facts.span(lane).max_clock >= edge and (path not in known or known[path].digest != facts.digest)
        ]  # fmt: skip

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
            self.lanes[lane].waiting.pop(path, None)
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
        with contextlib.suppress(OSError):  # it can be found out again
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

    def _wait(self, lane: Lane, segment: Segment, facts: Facts, waits: tuple[tuple[int, int], float] | None) -> None:
        """It may still be being written: look again; put aside what stays as it is."""
        now = time.monotonic()
        since = now if waits is None or waits[0] != segment.key else waits[1]
        if since == now:
            self.lanes[lane].heard = now  # a channel that is being written is not silent
        if now - since >= STILL and not facts.passing:
            path = describe(segment.path, self.catalog.profile.data)
            self.tell("quarantined", {"segment": path, "channel": segment.channel, "reason": facts.problem})
            since = -1
        self.lanes[lane].waiting[segment.path] = segment.key, since

    def unread(self) -> list[str]:
        """The files to look at again; those that were put aside, when somebody says that they changed."""
        return [path for seen in self.lanes.values() for path, (_, since) in seen.waiting.items() if since >= 0]

    def not_seen(self, lane: Lane, hours: Iterable[int]) -> list[str]:
        """The files in some hours of a lane that were not looked at: nobody has told of them yet."""
        seen = self.lanes[lane]
        seen.looked = time.monotonic()
        root = self.catalog.roots[lane.channel]
        folders = (root / lanes.partition_path(lane.exchange, lane.symbol, hour * HOUR_US) for hour in hours)
        found = [path for folder in folders for path in files_in(str(folder))]
        return [path for path in found if path not in seen.segments and path not in seen.waiting]

    def lane_of(self, path: str) -> Lane | None:
        for channel, root in self.catalog.roots.items():
            if path.startswith(f"{root}/"):
                names = re.match(r"exchange=([^/]+)/symbol=([^/]+)/year=[^/]+/month=[^/]+/day=[^/]+/hour=[^/]+/[^/]+$",
                                 path[len(str(root)) + 1 :])  # fmt: skip
                return Lane(names[1], names[2], channel) if names else None
        return None

    def keep(self, needed: Collection[Lane]) -> None:
        """Forget all lanes but these."""
        for lane in self.lanes.keys() - needed:
            del self.lanes[lane], self.from_hour[lane]

    def prune(self, needed: Mapping[Lane, int]) -> None:
        """Forget what lies before the hours that are needed."""
        for lane, hour in needed.items():
            if lane in self.lanes and self.from_hour[lane] < hour:
                self.from_hour[lane] = hour
                seen = self.lanes[lane]
                edge = hour * HOUR_US
                seen.segments = {p: x for p, x in seen.segments.items() if x[1].span(lane).max_clock >= edge}
                seen.waiting = {
                    path: x for path, x in seen.waiting.items()
                    if x[1] >= 0 or (hour_of(os.path.dirname(path)) or 0) >= hour
                }  # fmt: skip
