"""The lanes that one process follows: segments come, rows go into silver, and bars into gold."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from daedalus_etl import limits
from daedalus_etl.engine import Engine
from daedalus_etl.lanes import HOUR_US, Lane
from daedalus_etl.live_hours import LiveHours, journaled
from daedalus_etl.plan import Scope
from daedalus_etl.pool import Listener
from daedalus_etl.visible import Arrival, Visible

REPLAY = 1.0  # seconds that a restart may take to walk on from the saved states of all lanes
PAUSES = (1.0, 60.0)  # seconds after a failure: the first, and the longest


class Live:
    """The lanes that one process follows. What it hears is told: taken, turned, late, restage, failed, waiting."""

    def __init__(self, scope: Scope, temp: Path, tell: Listener):
        self.scope, self.tell = scope, tell
        self.engine = Engine(scope.profile, temp)
        self.visible = Visible(scope.there, tell)
        self.hours: list[LiveHours] = []
        self.replay = REPLAY
        self._stumbled: dict[LiveHours, tuple[float, float]] = {}  # until when it waits, and for how long
        self._arrived: dict[str, float] = {}
        self._is_fuller = False  # since an hour was over

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
        self.visible.keep({lane for one in self.hours for lane in one.channels.values()})

    def _begin(self, one: LiveHours) -> None:
        hour = max([one.hour, *journaled(one.book)])
        for lane in one.channels.values():
            for found in self.visible.begin(lane, hour):
                self._came(found, besides=one)
        one.begin(hour)
        _, left = one.standing()
        if left:  # they are over; whether that was told is not known
            self.turned(one, left[0], one.hour, max(one.last, one.hour * HOUR_US))

    def adopt(self, model: str, lane: Lane, duration: int, partition: str, until: int, path: str) -> None:
        for one in self.hours:
            for bars in one.bars:
                if one.lane == lane and bars.model.name == model:
                    with self._telling(one):
                        bars.adopt(duration, partition, until, path)

    def closed(self, lane: Lane) -> None:
        """Who closes hours is through with a lane."""
        for one in self.hours:
            if one.lane == lane and one not in self._stumbled:
                with self._telling(one):
                    one.closed()

    def pulse(self, paths: Iterable[str] = ()) -> dict[str, Any]:
        """Look at files that may have come, and take in what is ready. Returns what it waits for."""
        for path in [*paths, *self.visible.unread()]:
            self._look(path)
        for one in self.hours:
            for path in one.not_told(time.monotonic()) if one not in self._stumbled else ():
                self._look(path)
        now = time.monotonic()
        for one in self.hours:
            if self._stumbled.get(one, (0.0, 0.0))[0] <= now:
                with self._telling(one):
                    if one in self._stumbled:
                        self._begin(one)
                        if any(bars.lacks for bars in one.bars):
                            self.restage(one, one.hour - 1)
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
            if one not in self._stumbled and one.sleeps:
                self.tell("asleep", {"lane": one.lane})
        self.visible.prune(needed)
        if self._is_fuller:
            self._is_fuller = False
            limits.give_back()
        self._arrived = {path: when for path, when in self._arrived.items() if self._is_awaited(path)}
        waits = bool(self._stumbled or self.visible.unread()) or any(one.waits for one in self.hours)
        return {"again": joined, "waits": waits}

    def _look(self, path: str) -> None:
        """Look at one file that may have come."""
        self._arrived.setdefault(path, time.monotonic())
        found = self.visible.look(path)
        if isinstance(found, Arrival):
            self._came(found)
        elif found is not None:
            lane, hour = found
            for one in self.hours:
                if lane in one.channels.values():
                    self.late(one, hour)

    def _came(self, found: Arrival, besides: LiveHours | None = None) -> None:
        for one in self.hours:
            if found.lane in one.channels.values() and one is not besides and one.has_begun:
                one.arrived(found)

    def _is_awaited(self, path: str) -> bool:
        """Will somebody take this file in, of those whose lag is measured?"""
        lane = self.visible.lane_of(path)
        seen = self.visible.lanes.get(lane) if lane is not None else None
        known = seen is not None and (path in seen.segments or path in seen.waiting)
        return known and any(one.lane == lane for one in self.hours)

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
        self._is_fuller = True
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
        self.live.tell(
            "failed", {"model": self.one.model.name, "lane": str(self.one.lane), "error": text, "pause": pause}
        )
        return True
