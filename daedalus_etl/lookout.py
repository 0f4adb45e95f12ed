"""Who looks at bronze's folders: told by the filesystem of what is new, and looking for itself at each cycle.

A folder's time changes when a file comes, goes or gets another name in it. The newest hours of each lane, and the
folders above them, are looked at in every cycle; all others in turn, so that each is seen once an hour. Of these only
the hour and the time are kept: 16 bytes a folder.
"""

from __future__ import annotations

import math
import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from daedalus_etl import lanes
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import HOUR_US, Lane

NEWEST = 48  # hours of each lane that are looked at in every cycle
SWEPT_IN = 3000.0  # seconds in which all others are looked at
LEVELS = ("exchange", "symbol", "year", "month", "day", "hour")
DEBOUNCE_MS = 50  # changes of so long are told together
# How long the bell sleeps between two looks at what has been told it (docs/performance.md has what that costs).
STEP_MS, QUIET_STEP_MS = 20, 100
QUIET_AFTER = 10.0  # seconds without a change
WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")


@dataclass
class Changes:
    """What is new: hour folders, lanes that were not there, channels with files outside of hour folders."""

    hours: list[tuple[Lane, int, str]] = field(default_factory=list)
    lanes: set[Lane] = field(default_factory=set)
    loose: set[str] = field(default_factory=set)


class _Lane:
    def __init__(self) -> None:
        self.newest: dict[str, tuple[int, int]] = {}  # path -> hour, time
        self.hours, self.times = array("q"), array("q")  # the older ones
        self.odd: dict[str, tuple[int, int]] = {}  # older ones whose names are not ours, as `newest`

    def paths(self, root: str) -> Iterator[tuple[str, int]]:
        """The older folders, and their times."""
        for hour, time in zip(self.hours, self.times, strict=True):
            yield _usual(root, hour), time


class Lookout:
    """Looks at the channels' roots."""

    def __init__(self, roots: dict[str, Path]):
        self.roots = {channel: str(root) for channel, root in roots.items()}
        self._above: dict[str, int] = {}  # folders above the hours: path -> time
        self._lanes: dict[Lane, _Lane] = {}
        self._turn: Iterator[None] | None = None

    def begin(self) -> Changes:
        """See everything, once: all of it is new."""
        found = Changes()
        for channel, root in self.roots.items():
            self._enter(channel, root, (), found)
        return found

    def look(self, seconds: float) -> Changes:
        """Look at the newest hours, and at as many of the others as belong to so many seconds."""
        found = Changes()
        for channel, root in self.roots.items():
            self._look_above(channel, root, (), found)
        for lane, known in self._lanes.items():
            self._look_at_newest(lane, known, found)
        count = sum(len(known.hours) + len(known.odd) for known in self._lanes.values()) + len(self._above)
        self._sweep(math.ceil(count * seconds / SWEPT_IN), found)
        return found

    def _folder(self, lane: Lane) -> str:
        return f"{self.roots[lane.channel]}/exchange={lane.exchange}/symbol={lane.symbol}"

    # -- the newest -------------------------------------------------------------------------------------------

    def _look_above(self, channel: str, path: str, values: tuple[str, ...], found: Changes) -> None:
        """The folders above the newest hours, from the top."""
        if _time(path) != self._above.get(path):
            self._enter(channel, path, values, found)
        if len(values) >= 2 or not os.path.isdir(path):
            return
        for child in lanes.folders(path, LEVELS[len(values)]):
            self._look_above(channel, child, (*values, _value(child)), found)

    def _look_at_newest(self, lane: Lane, known: _Lane, found: Changes) -> None:
        root = self._folder(lane)
        above: dict[str, tuple[str, ...]] = {}
        for path in known.newest:
            parts = path[len(root) + 1 :].split("/")
            for depth in range(1, 4):
                above["/".join((root, *parts[:depth]))] = tuple(part.split("=")[1] for part in parts[:depth])
        for path, values in above.items():
            if _time(path) != self._above.get(path):
                self._enter(lane.channel, path, (lane.exchange, lane.symbol, *values), found)
        for path, (hour, time) in list(known.newest.items()):
            now = _time(path)
            if now != time:
                known.newest[path] = hour, now
                found.hours.append((lane, hour, path))

    # -- all others -------------------------------------------------------------------------------------------

    def _sweep(self, count: int, found: Changes) -> None:
        self._found = found
        for _ in range(count):
            if self._turn is None:
                self._turn = self._go_round()
            if next(self._turn, self) is self:
                self._turn = None
                return

    def _go_round(self) -> Iterator[None]:
        """All older folders, one at each step."""
        for path, time in list(self._above.items()):
            if _time(path) != time:
                place = self._place(path)
                if place is not None:
                    self._enter(*place, self._found)
            yield
        for lane, known in list(self._lanes.items()):
            root = self._folder(lane)
            for k, (path, time) in enumerate(known.paths(root)):
                now = _time(path)
                if now != time and k < len(known.hours):
                    known.times[k] = now
                    self._found.hours.append((lane, known.hours[k], path))
                yield
            for path, (hour, time) in list(known.odd.items()):
                now = _time(path)
                if now != time:
                    known.odd[path] = hour, now
                    self._found.hours.append((lane, hour, path))
                yield

    def _place(self, path: str) -> tuple[str, str, tuple[str, ...]] | None:
        for channel, root in self.roots.items():
            if path == root or path.startswith(f"{root}/"):
                return channel, path, tuple(_value(part) for part in path[len(root) + 1 :].split("/") if part)
        return None

    # -- folders ----------------------------------------------------------------------------------------------

    def _enter(self, channel: str, path: str, values: tuple[str, ...], found: Changes) -> None:
        """A folder above the hours that is new or has changed: what is new in it."""
        self._above[path] = _time(path)
        level = len(values)
        try:
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in listed:
            if entry.name.startswith((".", "_")):
                continue
            if entry.name.endswith(".parquet"):
                found.loose.add(channel)
            elif not entry.is_dir(follow_symlinks=False):
                continue
            elif entry.name.startswith(f"{LEVELS[level]}="):
                inside = (*values, _value(entry.name))
                if level == len(LEVELS) - 1:
                    self._add(Lane(values[0], values[1], channel), entry.path, found)
                elif entry.path not in self._above:
                    self._enter(channel, entry.path, inside, found)
            else:
                found.loose.add(channel)

    def _add(self, lane: Lane, path: str, found: Changes) -> None:
        hour = hour_of(path)
        if hour is None:
            return
        if lane not in self._lanes:
            self._lanes[lane] = _Lane()
            found.lanes.add(lane)
        known = self._lanes[lane]
        if path in known.newest or path in known.odd:
            return
        time, root = _time(path), self._folder(lane)
        if self._is_old(known, hour):
            if path == _usual(root, hour) and hour in known.hours:
                return
            self._put_old(known, root, hour, path, time)
        else:
            known.newest[path] = hour, time
            newest = max(one for one, _ in known.newest.values())
            for other, (one, when) in list(known.newest.items()):
                if one <= newest - NEWEST:
                    del known.newest[other]
                    self._put_old(known, root, one, other, when)
        found.hours.append((lane, hour, path))

    @staticmethod
    def _is_old(known: _Lane, hour: int) -> bool:
        return bool(known.newest) and hour <= max(one for one, _ in known.newest.values()) - NEWEST

    @staticmethod
    def _put_old(known: _Lane, root: str, hour: int, path: str, time: int) -> None:
        if path == _usual(root, hour):
            known.hours.append(hour)
            known.times.append(time)
        else:
            known.odd[path] = hour, time

    def to_watch(self) -> list[str]:
        """The folders to be told of: as many of the newest hours as a quarter of the system's watches allows."""
        above = {root for root in self.roots.values() if os.path.isdir(root)}
        hours: dict[int, list[str]] = {}
        for lane, known in self._lanes.items():
            root = self.roots[lane.channel]
            ordered = sorted(known.newest.items(), key=lambda item: -item[1][0])
            for rank, (path, _) in enumerate(ordered):
                hours.setdefault(rank, []).append(path)
            for path, _ in ordered[:2]:
                parts = path[len(root) + 1 :].split("/")
                above.update("/".join((root, *parts[:depth])) for depth in range(1, len(parts)))
        try:
            room = int(WATCHES.read_text()) // 4 - len(above)
        except (OSError, ValueError):
            room = 2000
        found = sorted(above)
        for rank in sorted(hours):
            if len(hours[rank]) > room:
                break
            found += hours[rank]
            room -= len(hours[rank])
        return found


def files_in(folder: str) -> list[str]:
    """The Parquet files of an hour folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.path for e in entries if e.name.endswith(".parquet") and not e.name.startswith((".", "_")))
    except (FileNotFoundError, NotADirectoryError):
        return []


class Bell:
    """Rings when something changes in some folders: `changed` is called, in a thread, with paths."""

    def __init__(self, changed: Callable[[Collection[str]], None], failed: Callable[[str], None]):
        self.changed, self.failed = changed, failed
        self.paths: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, paths: Iterable[str]) -> bool:
        """Watch these folders, and no others; False if they are the ones that are watched."""
        paths = list(paths)
        if paths == self.paths:
            return False
        self.close()
        self.paths, self._stop = paths, threading.Event()
        if paths:
            self._thread = threading.Thread(target=self._listen, args=(paths, self._stop), daemon=True)
            self._thread.start()
        return True

    def _listen(self, paths: list[str], stop: threading.Event) -> None:
        from watchfiles import _rust_notify  # `watchfiles.watch` has one step, whether anything happens or not

        rang = monotonic()
        try:
            with _rust_notify.RustNotify(paths, False, False, 0, False, False) as notify:
                while not stop.is_set():
                    step = STEP_MS if monotonic() - rang < QUIET_AFTER else QUIET_STEP_MS
                    changes = notify.watch(DEBOUNCE_MS, step, round(1000 * QUIET_AFTER), stop)
                    if isinstance(changes, set):
                        rang = monotonic()
                        self.changed({path for _, path in changes})
        except (OSError, RuntimeError) as error:  # no watches left, or a folder that has gone
            self.failed(str(error))

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(3)
        self._thread, self.paths = None, []


def _usual(root: str, hour: int) -> str:
    return f"{root}/{lanes.partition_path('e', 's', hour * HOUR_US).split('/', 2)[2]}"


def hour_of(path: str) -> int | None:
    """The hour, since the epoch, that a folder's last four parts name; None if they name none."""
    try:
        start = lanes.hour_of(lanes.parse_path("/".join(path.split("/")[-4:])))
    except DaedalusError:
        return None
    return start // HOUR_US if start is not None else None


def _value(name: str) -> str:
    return name.rpartition("/")[2].partition("=")[2]


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
