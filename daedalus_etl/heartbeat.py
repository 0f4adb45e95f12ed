"""What the watcher says of itself at each beat, in <data>/state/watch.json, and what `daedalus health` makes of it.

Imports nothing heavy: health is asked every minute.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daedalus_etl import files

NAME = "watch.json"
LISTED = 50  # failures and quarantined segments that a beat names; it counts all
STAGING = Path("state") / "staging"
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Beat:
    """A watcher's word on itself. The watcher keeps one, changes it, and writes it.

    Args:
        poll_interval: seconds between two looks at bronze.
        cycle_seconds: how long the last cycle took.
        lanes: how many lanes are watched.
        waiting: why nothing can be done now, for example "disk full: ..."; "": nothing stands in the way.
        failed: (model and lane, error) of what fails now; the watcher takes out what works again.
        quarantined: (segment, reason) of the segments that cannot be used now.
        lag: seconds from a segment's being visible to its rows' being published, the last of each lane.
        pid, started: the process, and when it began, seconds since the epoch: for people.
        beat: when it was written, seconds since the epoch: for people.
        monotonic: the same on the clock that no NTP sets (CLOCK_MONOTONIC, seconds): a Pi has no clock of its own, and
            its time of day jumps after a start. `read` makes it -inf if the beat is of an earlier boot.
        counts: how many of `failed` and `quarantined` there are in all; `write` keeps the first 50 of each.
    """

    poll_interval: float
    cycle_seconds: float = 0.0
    lanes: int = 0
    waiting: str = ""
    failed: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    lag: dict[str, float] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.time)
    beat: float = 0.0
    monotonic: float = -math.inf
    counts: dict[str, int] = field(default_factory=dict)

    def write(self, data: Path) -> bool:
        """Beat: stamp it with now, and write it below a data root, unsynced. False if that cannot be done: it never
        raises OSError.

        On a full disk the file that is there is written over with a short form, which needs no new block; it is waiting
        then, whatever else.
        """
        self.beat, self.monotonic = time.time(), time.monotonic()
        self.counts = {"failed": len(self.failed), "quarantined": len(self.quarantined)}
        path = data / "state" / NAME
        content = _packed({
            **asdict(self), "boot": _boot(), "failed": self.failed[:LISTED], "quarantined": self.quarantined[:LISTED],
        })  # fmt: skip
        try:
            (data / STAGING).mkdir(exist_ok=True)  # not what is above it: a disk may have been unplugged
            files.write_cache(path, content, data / STAGING)
        except OSError as error:
            return self._write_over(path, self.waiting or f"{path} cannot be written: {error.strerror}")
        return True

    def _write_over(self, path: Path, waiting: str) -> bool:
        short = _packed(
            {**asdict(self), "boot": _boot(), "waiting": waiting, "failed": [], "quarantined": [], "lag": {}}
        )
        try:
            with open(path, "r+b", buffering=0) as file:
                file.write(short.ljust(os.fstat(file.fileno()).st_size))  # what was there goes in the same stroke
                file.truncate(len(short))
        except OSError:
            return False
        return True

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can say it: a clock that says nothing to people is left out."""
        return {name: value for name, value in asdict(self).items() if name != "monotonic"}

    @classmethod
    def read(cls, data: Path) -> Beat | None:
        """The last beat of a data root. None if there is none, or none that can be understood. Raises OSError if it may
        not be read."""
        try:
            found = json.loads((data / "state" / NAME).read_bytes())
            if found.pop("boot", None) != _boot():
                found["monotonic"] = -math.inf
            beat = cls(**{one.name: found[one.name] for one in fields(cls)})
            beat.failed, beat.quarantined = _pairs(beat.failed), _pairs(beat.quarantined)
            beat.counts = {str(name): int(count) for name, count in beat.counts.items()}
            beat.lag = {str(lane): float(seconds) for lane, seconds in beat.lag.items()}
            beat.waiting, beat.pid, beat.lanes = str(beat.waiting), int(beat.pid), int(beat.lanes)
            for name in ("poll_interval", "cycle_seconds", "monotonic"):
                setattr(beat, name, float(getattr(beat, name)))
            _moment(beat.beat), _moment(beat.started)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):  # torn, or of another version
            return None
        return beat


def is_locked(data: Path, pid: int | None = None) -> bool:
    """Does a process hold the data root's lock, and is it the process `pid`, if one is given? Raises OSError if the
    lock may not be read.

    It is asked by taking the lock for some microseconds, together with others that ask: a run that starts within them
    is refused.
    """
    try:
        with open(data / "state" / "lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return pid is None or lock.read(100).split() == [b"process", str(pid).encode()]
    except FileNotFoundError:
        pass
    return False


def patience(beat: Beat) -> float:
    """Seconds without a beat after which a watcher counts as stalled: three polls and a minute."""
    return 3 * beat.poll_interval + 60


def verdict(beat: Beat | None, now: float, is_locked: bool) -> tuple[bool, str]:
    """Is the watcher well, and why (not)? One line.

    now: seconds on CLOCK_MONOTONIC, as time.monotonic() gives them. is_locked: does the beat's process hold the data
    root's lock? Segments in quarantine are told of, and do not make it unwell: one bad file must not wake anybody every
    minute. `daedalus status` and the metrics have them.
    """
    if beat is None:
        return False, "not running: no watcher has said anything of itself here"
    if not is_locked:
        return False, f"not running: the last sign of life of process {beat.pid} was at {_moment(beat.beat)}"
    age = now - beat.monotonic
    if age > patience(beat):
        since = f"for {age:,.0f} s" if math.isfinite(age) else "since this machine was started"
        return False, f"stalled: process {beat.pid} has given no sign of life {since} (last: {_moment(beat.beat)})"
    if beat.waiting:
        return False, f"waiting: {_line(beat.waiting)}"
    if beat.failed:
        return False, f"{_count(beat, 'failed')} failing: {_first(beat.failed)}"
    text = f"running: {beat.lanes:,} {'lane' if beat.lanes == 1 else 'lanes'}, last beat {max(age, 0):,.0f} s ago"
    if beat.quarantined:
        text += f"; {_count(beat, 'quarantined')} in quarantine: {_first(beat.quarantined)}"
    return True, text


def _count(beat: Beat, what: str) -> str:
    count = max(beat.counts.get(what, 0), len(getattr(beat, what)))
    thing = "model and lane" if what == "failed" else "segment"
    many = "models and lanes" if what == "failed" else "segments"
    return f"{count:,} {thing if count == 1 else many}"


def _first(found: Iterable[tuple[str, str]]) -> str:
    what, why = next(iter(found))
    return _line(f"{what}: {why}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _pairs(found: Any) -> list[tuple[str, str]]:
    return [(str(what), str(why)) for what, why in found]


def _packed(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, default=str) + "\n").encode()


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""
