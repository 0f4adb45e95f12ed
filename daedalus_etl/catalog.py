"""What is there: the lanes, and each one's segments hour by hour, audited once per content.

A lane is looked at one hour at a time, so that memory does not grow with its history. What an audit found out is kept
in <data>/state/segments, a file an hour folder; it is a cache, and made again if it is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daedalus_etl import files, lanes
from daedalus_etl.errors import DaedalusError, StoppedError
from daedalus_etl.lanes import CHANNELS, HOUR_US, Lane, Segment
from daedalus_etl.ledger import staging_of
from daedalus_etl.profiles import Profile
from daedalus_etl.times import EPOCH

if TYPE_CHECKING:
    from daedalus_etl.audit import Facts

Found = list[tuple[Segment, "Facts"]]  # in segment order


@dataclass(frozen=True)
class Survey:
    """All lanes of the channels that were asked for: those with bronze, and those that were published before."""

    lanes: tuple[Lane, ...] = ()
    with_bronze: frozenset[Lane] = field(default_factory=frozenset)


class Catalog:
    """The bronze of a data root, below `roots` (channel -> folder).

    remember: keep what audits find out. put_aside hears of each segment that cannot be used, and why.
    """

    def __init__(
        self,
        profile: Profile,
        roots: dict[str, Path],
        *,
        remember: bool = True,
        looking: Callable[[str], None] | None = None,
        put_aside: Callable[[Segment, str], None] = lambda *_: None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.profile, self.roots, self.remember = profile, roots, remember
        self._looking, self._put_aside, self._stopping = looking, put_aside, stopping
        self.bad: dict[str, str] = {}  # path -> why it cannot be used, of what was looked at
        self._connection: Any = None
        self._loose: dict[str, Found] = {}
        self._lanes: dict[Lane, Bronze] = {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def survey(self, published: Iterable[Lane] = ()) -> Survey:
        """Which lanes there are, judged from all of bronze: a lane is a folder exchange=E/symbol=S with a Parquet file
        in it, however good, or a name that a file outside such folders holds.
        """
        there = set()
        for channel, root in self.roots.items():
            there |= {Lane(e, s, channel) for e, s, folder in _lane_folders(root) if _holds_parquet(folder)}
            there |= {Lane(span.exchange, span.symbol, channel) for _, f in self.loose(channel) for span in f.spans}
        known = {lane for lane in published if lane.channel in self.roots}
        return Survey(tuple(sorted(there | known)), frozenset(there))

    def newest_bytes(self, lane: Lane) -> int:
        """About how much a lane's newest hour folder holds, bytes: who has more takes longer."""
        folder = f"{self.roots[lane.channel]}/exchange={lane.exchange}/symbol={lane.symbol}"
        try:
            for key in ("year", "month", "day", "hour"):
                inner = lanes.folders(folder, key)
                if not inner:
                    return 0
                folder = max(inner, key=lambda path: (len(path), path))  # 9 comes before 10
            with os.scandir(folder) as entries:
                found = list(entries)
            some = [entry.stat().st_size for entry in found[:16]]
        except (OSError, ValueError):  # it changes meanwhile, or no folder can have the lane's name
            return 0
        return sum(some) * len(found) // max(len(some), 1)

    def of(self, lane: Lane) -> Bronze:
        if lane not in self._lanes:
            self._lanes[lane] = Bronze(self, lane)
        return self._lanes[lane]

    def forget(self, *, loose: bool = True) -> None:
        """Look at everything anew; or only forget the lanes, since one after the other would fill the memory."""
        if loose:
            self._loose.clear()
        self._lanes.clear()

    def loose(self, channel: str) -> Found:
        """A channel's segments that lie in no lane's folder: flat files, folders partitioned otherwise."""
        if channel not in self._loose:
            self._loose[channel] = self.judged(self.listed_loose(channel), self.memory(channel, "loose"))
        return self._loose[channel]

    def listed_loose(self, channel: str) -> list[Segment]:
        """The same as the folders show them, good or bad."""
        root = self.roots[channel]
        apart = {folder for *_, folder in _lane_folders(root)}
        return list(lanes.segments(root, channel, apart))

    def memory(self, channel: str, name: str, lane: Lane | None = None) -> Path:
        """Where what is known of some segments is kept."""
        folder = self.profile.data / "state" / "segments" / channel
        if lane is not None:
            folder = folder / f"exchange={lane.exchange}" / f"symbol={lane.symbol}"
        return folder / f"{name}.json"

    def judged(self, listed: list[Segment], memory: Path) -> Found:
        """Of listed segments those that can be used and have rows, in segment order; the others are put aside."""
        if not listed:
            return []
        known = _read(memory, self._mark)
        now, found, changed = {}, [], False
        for segment in listed:
            entry = known.get(segment.path)
            if entry is not None and entry[0] == segment.key:
                facts = entry[1]
            else:
                facts = self.audit(segment)
                changed = True
            if not facts.passing:
                now[segment.path] = segment.key, facts
            elif not os.path.lexists(segment.path):
                continue
            if facts.problem:
                self._aside(segment, facts.problem)
            elif facts.spans:
                found.append((segment, facts))
        if self.remember and (changed or now.keys() != known.keys()):
            self._write(memory, now)
        from daedalus_etl import audit

        return audit.segment_order(found)

    def refuse(self, segment: Segment, reason: str, memory: Path) -> None:
        """A segment that passed its audit and then could not be read: known as such until its content changes."""
        from daedalus_etl.audit import Facts

        self._aside(segment, reason)
        if self.remember:
            known = _read(memory, self._mark)
            self._write(memory, {**known, segment.path: (segment.key, Facts(problem=reason))})

    def _write(self, memory: Path, known: dict[str, tuple[tuple[int, int], Facts]]) -> None:
        lines = [self._mark, *([path, key, facts.to_json()] for path, (key, facts) in known.items())]
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        files.write_cache(memory, content, staging_of(self.profile.data))

    def note(self, memory: Path, segment: Segment, facts: Facts) -> None:
        """Add what is known of one segment more."""
        line = f"{json.dumps([segment.path, segment.key, facts.to_json()])}\n"
        if not memory.is_file():
            line = f"{json.dumps(self._mark)}\n{line}"
            memory.parent.mkdir(parents=True, exist_ok=True)
        with open(memory, "a") as file:
            file.write(line)

    def known(self, memory: Path) -> dict[str, tuple[tuple[int, int], Facts]]:
        """What is kept of some segments: path -> what tells the file, and what it holds."""
        return _read(memory, self._mark)

    def _aside(self, segment: Segment, reason: str) -> None:
        self.bad[segment.path] = reason
        self._put_aside(segment, reason)

    def go_on(self) -> None:
        """Asked before each thing of many that are looked at. Raises StoppedError once that is to end."""
        if self._stopping():
            raise StoppedError

    def audit(self, segment: Segment) -> Facts:
        """Look into a segment, whatever is known of it."""
        from daedalus_etl import audit, engine, limits

        self.go_on()
        if self._connection is None:
            self._connection = engine.connect(limits.share_of(self.profile) // 2, None)
        if self._looking:
            self._looking(segment.path)
        return audit.audit(self._connection, segment, self.profile.variables)

    @cached_property
    def _mark(self) -> str:
        """Changes with the rules by which segments are judged."""
        from daedalus_etl import audit

        rules = hashlib.sha256(Path(audit.__file__).read_bytes()).hexdigest()[:12]
        return f"{self.profile.variables['clock']}:{rules}"


class Bronze:
    """One lane's segments, by the hours (since the epoch) that their clocks are in."""

    def __init__(self, catalog: Catalog, lane: Lane):
        self.catalog, self.lane = catalog, lane
        self.root = catalog.roots[lane.channel]
        self._found: dict[int, Found] = {}

    @cached_property
    def folders(self) -> dict[int, list[str]]:
        """Hour folders of the lane (padded and unpadded ones may name the same hour)."""
        found: dict[int, list[str]] = {}
        for path in _hour_folders(self._folder):
            try:
                start = lanes.hour_of(lanes.parse_path(path[len(self._folder) :]))
            except DaedalusError:
                start = None
            if start is not None:
                found.setdefault(start // HOUR_US, []).append(path)
        return dict(sorted(found.items()))

    @property
    def _named(self) -> dict[str, str]:
        return {"exchange": self.lane.exchange, "symbol": self.lane.symbol}

    @property
    def _folder(self) -> str:
        return f"{self.root}/exchange={self.lane.exchange}/symbol={self.lane.symbol}"

    @cached_property
    def _partly(self) -> Found:
        """Segments of the lane that lie in no hour folder: its own, partitioned less deeply, and flat ones."""
        apart = {path for paths in self.folders.values() for path in paths}
        listed = list(lanes.segments(Path(self._folder), self.lane.channel, apart, self._named))
        own = self.catalog.judged(listed, self._memory("loose")) if listed else []
        flat = [(s, f) for s, f in self.catalog.loose(self.lane.channel) if f.of(self.lane)]
        return own + flat

    def _memory(self, name: str) -> Path:
        return self.catalog.memory(self.lane.channel, name, self.lane)

    @cached_property
    def hours(self) -> list[int]:
        """The hours that may have rows, ascending."""
        return sorted(self._sources)

    @cached_property
    def _sources(self) -> dict[int, set[int]]:
        """Hour of the clock -> the hour folders whose segments have rows in it. The same, if the clock is when they
        were received; else each folder has to be looked into."""
        found: dict[int, set[int]] = {}
        for _, facts in self._partly:
            for hour in facts.span(self.lane).hours:
                found.setdefault(hour, set())
        for folder in self.folders:
            if self.catalog.profile.variables["clock"] == "capture":
                found.setdefault(folder, set()).add(folder)
                continue
            for _, facts in self._in_folder(folder):
                for hour in facts.span(self.lane).hours:
                    found.setdefault(hour, set()).add(folder)
        return found

    def listing(self, hour: int) -> list[Segment]:
        """Every file that may have rows in an hour, good or bad, as the folders show it now."""
        found = [s for folder in sorted(self._sources.get(hour, ())) for s in self._listed(folder)]
        return found + [s for s, f in self._partly if hour in f.span(self.lane).hours]

    def _listed(self, folder: int) -> list[Segment]:
        found: list[Segment] = []
        for path in self.folders[folder]:
            hour = dict(part.split("=", 1) for part in path.split("/")[-4:])
            found += lanes.segments(Path(path), self.lane.channel, (), {**self._named, **hour})
        return found

    def _in_folder(self, folder: int) -> Found:
        return self.catalog.judged(self._listed(folder), self._memory(hour_name(folder * HOUR_US)))

    def during(self, hour: int) -> Found:
        """The usable segments with rows in an hour, in segment order."""
        if hour not in self._found:
            from daedalus_etl import audit

            found = [x for folder in sorted(self._sources.get(hour, ())) for x in self._in_folder(folder)]
            found += self._partly
            inside = [(s, f) for s, f in found if hour in f.span(self.lane).hours]
            self._found = {hour: audit.segment_order(inside)}  # of the last one only
        return self._found[hour]

    def whole(self) -> Found:
        """All usable segments, in segment order."""
        from daedalus_etl import audit

        there = {s.path: (s, f) for hour in self.hours for s, f in self.during(hour)}
        return audit.segment_order(there.values())

    def last_hour(self) -> int:
        """The last hour that has rows; -1 if none has."""
        return next((hour for hour in reversed(self.hours) if self.during(hour)), -1)

    def last_clock(self) -> int:
        """The last clock of any row, us; 0 if there is none."""
        last = self.last_hour()
        return max((f.span(self.lane).max_clock for _, f in self.during(last)), default=0)

    def refuse(self, segment: Segment, reason: str) -> None:
        """Put aside a segment that could not be read after all."""
        self._found.clear()
        hour = next((h for h, paths in self.folders.items() if os.path.dirname(segment.path) in paths), None)
        inside = segment.path.startswith(f"{self._folder}/")
        memory = self._memory(hour_name(hour * HOUR_US) if hour is not None else "loose")
        self.catalog.refuse(segment, reason, memory if inside else self.catalog.memory(self.lane.channel, "loose"))


def hour_name(start: int) -> str:
    """2026-02-03T14: how an hour that begins at `start` us is called."""
    return partition_name(start, "hour")


def partition_name(start: int, by: str) -> str:
    when = EPOCH + timedelta(microseconds=start)
    return when.isoformat()[: len("2026-02-03T14" if by == "hour" else "2026-02-03")]  # %Y would not fill up year 999


def _lane_folders(root: Path) -> Iterator[tuple[str, str, str]]:
    """exchange, symbol and path of each folder exchange=E/symbol=S."""
    for exchange in lanes.folders(str(root), "exchange"):
        for symbol in lanes.folders(exchange, "symbol"):
            names = (path.rpartition("/")[2].partition("=")[2] for path in (exchange, symbol))
            yield *names, symbol  # type: ignore[misc]


def _hour_folders(root: str) -> Iterator[str]:
    for year in lanes.folders(root, "year"):
        for month in lanes.folders(year, "month"):
            for day in lanes.folders(month, "day"):
                yield from lanes.folders(day, "hour")


def _holds_parquet(folder: str) -> bool:
    return next(lanes.segments(Path(folder), ""), None) is not None


def _read(memory: Path, mark: str) -> dict[str, tuple[tuple[int, int], Facts]]:
    """A line with the mark, then a line for each segment; of several the last. What is torn or not ours is unknown."""
    from daedalus_etl.audit import Facts

    found = {}
    try:
        first, *lines = memory.read_bytes().split(b"\n")
        if json.loads(first) != mark:
            return {}
    except (OSError, ValueError):
        return {}
    for line in lines:
        try:
            path, (size, mtime_ns), facts = json.loads(line)
            found[path] = (size, mtime_ns), Facts.from_json(facts)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def roots(profile: Profile, trades: Path | None = None) -> dict[str, Path]:
    """Where each channel's segments lie; `trades` may lie elsewhere: a channel's root, or a data root."""
    found = {channel: lanes.channel_root(profile.data, profile.source, channel) for channel in CHANNELS}
    if trades is not None:
        inside = lanes.channel_root(trades.absolute(), profile.source, "trades")
        found["trades"] = inside if inside.is_dir() else trades.absolute()
    return found


def describe(path: str, data: Path) -> str:
    """A segment's path below the data root, or whole if it lies elsewhere."""
    return path.removeprefix(f"{data}/")


def opened(profile: Profile, folders: dict[str, Path], **options: Any) -> closing[Catalog]:
    return closing(Catalog(profile, folders, **options))
