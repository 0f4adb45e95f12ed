"""One session of the watcher, from one look at everything to the next: the lanes and the profile stay the same.

Lanes are brought up to date, then handed to the processes that follow them. What the folders show goes to these, or
becomes a job for the process that closes hours and mends what comes late.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from daedalus_etl import catalog, files, kernels, lanes, lookout
from daedalus_etl.catalog import Survey
from daedalus_etl.errors import StoppedError
from daedalus_etl.hired import Hired
from daedalus_etl.jobs import Jobs
from daedalus_etl.lanes import Lane
from daedalus_etl.ledger import staging_of
from daedalus_etl.plan import Reach, Scope
from daedalus_etl.pool import Listener, Pool, Process
from daedalus_etl.runner import Run

if TYPE_CHECKING:
    from daedalus_etl.watch import Watch

END_IN = 8.0  # seconds that processes have to end in
TICK = 1.0  # seconds until something that waits is looked at again


class AgainError(Exception):
    """The session is over: other lanes, another profile, or a process that died."""


class Session:
    """From one look at everything to the next: the lanes and the profile stay the same."""

    def __init__(self, watch: Watch, lock: IO[str]):
        self.watch, self.lock = watch, lock
        self.graph, self.selection = watch.graph, watch.selection
        self.followers = max(1, watch.workers - 1)
        self.profile = replace(watch.profile, workers=self.followers + 1)
        self.temp = staging_of(self.profile.data)
        self.run_of = Run(self.profile, self.graph, self.selection, self.hear, self.profile.workers)
        self.roots = {c: r for c, r in catalog.roots(self.profile, self.selection.trades).items()
                      if c in self.run_of.channels}  # fmt: skip
        self.lookout = lookout.Lookout(self.roots)
        self.bell = lookout.Bell(self._changed, lambda text: watch.hear("warning", {"text": f"no watches: {text}"}))
        self.changed: set[str] = set()
        self.pool: Pool | None = None
        self.catching_up = False
        self.live: list[Hired] = []
        self.closer: Hired | None = None
        self.behind: dict[tuple[Lane, str], int] = {}  # the open hour of a lane in a model
        self.proved: dict[Lane, int] = {}
        self.staged: list[Mapping[str, Any]] = []
        self.mine: dict[Lane, int] = {}  # which follower has a lane
        self.asleep: set[Lane] = set()  # silent for long: their own bronze wakes them, that of others does not
        self.unsettled: set[str] = set()  # lanes of which something failed while all was brought up to date
        self.jobs = Jobs()
        self.bad: dict[str, tuple[int, int] | None] = {}  # segments that were put aside, and what tells their content

    def end_soon(self) -> None:
        """What all is brought up to date with ends after the partition in hand. For a signal's handler."""
        if self.pool is not None:
            self.pool.end_soon()

    def close(self) -> None:
        self.bell.close()
        everybody = [one.process for one in (*self.live, *([self.closer] if self.closer else []))]
        everybody += self.pool.processes if self.pool else []
        for one in everybody:
            one.process.terminate()
            one.line.close()
        until = time.monotonic() + END_IN
        for one in everybody:
            try:
                one.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:  # what it was at is made again
                one.process.kill()
                one.process.wait()

    # -- the beginning ----------------------------------------------------------------------------------------

    def run(self) -> None:
        files.empty_folder(self.temp)
        self.loose = self.lookout.begin().loose  # channels with files outside of hour folders
        self.bell.watch(self.lookout.to_watch())
        started_with = (self.profile, self.selection, self.run_of.channels)
        self.exchanges = files.can_exchange(self.temp)
        if not self.exchanges:
            self.watch.hear("warning", {"text": f"{self.profile.data}: this filesystem cannot exchange folders in one "
                                                "step; an hour is published when it is over."})  # fmt: skip
        self.settling = "settle" if self.exchanges else "settle_alone"
        does = "whole" if self._all_whole() else self.settling
        self.pool = Pool(self.profile.workers, started_with, self.hear, self.lock.fileno(), does=does)
        self.run_of.take(self.pool.first().call("survey"))
        self.survey: Survey = self.run_of.survey
        there = catalog.Catalog(self.profile, self.roots)
        self.todo = self.run_of.to_make(there)
        self.whole = self._whole_lanes()
        self.scope = Scope(self.profile, self.graph, self.selection, there, self.survey)
        self.takers = self._who_takes()
        self.watch.beat.lanes = len(self.todo)
        self.watch.write_beat()
        names = self.scope.kernels
        self._catch_up(warm=not names or kernels.is_warm(names))
        if self.watch.stopped or self.watch.hup:
            return
        for lane in self.todo:
            if str(lane) in self.unsettled or (lane in self.whole and not self._all_whole()):
                self._job(lane, 0)  # again; of those that are made whole the last hour as well
        self._hire()
        self._loop()

    def _who_takes(self) -> dict[Lane, set[Lane]]:
        """By lane of bronze: the lanes that are made of it."""
        found: dict[Lane, set[Lane]] = {}
        for lane in self.todo:
            for _, taken in self._made_of(lane):
                if taken is not None:
                    found.setdefault(taken, set()).add(lane)
        return found

    def _made_of(self, lane: Lane) -> list[tuple[str, Lane | None]]:
        silver = [model for model in self.scope.models_of(lane) if model.layer == "silver"]
        return sorted(pair for model in silver for pair in self.scope.inputs(model, lane).items())

    def _enter(self, fresh: set[Lane]) -> None:
        """Lanes that were not there. Others may have another name or another partner by them, and begin anew too."""
        assert self.closer is not None
        before = {lane: (self.scope.names[lane], self._made_of(lane)) for lane in self.todo}
        found = {*self.survey.lanes, *fresh}
        self.survey = Survey(tuple(sorted(found)), self.survey.with_bronze | fresh)
        self.scope.widen(self.survey)
        self.run_of.take(self.survey)
        self.todo = self.run_of.to_make(self.scope.there)
        self.whole = self._whole_lanes()
        self.takers = self._who_takes()
        for hired in dict.fromkeys((*self.live, self.closer)):
            hired.ask("widen", self.survey)
        for lane in self.todo:
            if before.get(lane) == (self.scope.names[lane], self._made_of(lane)):
                continue
            self._leave(lane)
            self._job(lane, 0)
        self.watch.beat.lanes = len(self.todo)
        self.watch.say(f"New: {', '.join(sorted(map(str, fresh)))}.")

    def _leave(self, lane: Lane) -> None:
        """Follow a lane no more, until it has settled again."""
        if lane in self.mine:
            self.live[self.mine.pop(lane)].ask("leave", lane)
            self.behind = {key: hour for key, hour in self.behind.items() if key[0] != lane}

    def _follow(self, lane: Lane) -> None:
        """A lane has settled: from now on it is followed."""
        self.asleep.discard(lane)
        hour = self._open_hour(lane)
        if hour < 0 or not self.exchanges or lane in self.whole:
            return
        self.mine[lane] = _share(lane, self.followers, self.profile.variables)
        follower = self.live[self.mine[lane]]
        follower.ask("follow", {lane: hour}, self.temp)
        mine, self.staged = [x for x in self.staged if x["lane"] == lane], [x for x in self.staged if x["lane"] != lane]
        for one in mine:
            self._adopt(one)
        follower.pulse()

    def _all_whole(self) -> bool:
        variables, selection = self.profile.variables, self.selection
        cut = selection.start is not None or selection.end is not None
        return bool(variables["clock"] != "capture" or variables["resample_frequency"] or cut or selection.trades)

    def _whole_lanes(self) -> set[Lane]:
        """The lanes that are made as a run makes them."""
        if self._all_whole():
            return set(self.todo)
        return {
            lane
            for lane in self.todo
            if lane.channel in self.loose or self.profile.for_lane(lane.exchange, lane.symbol)["partial_bars"]
        }

    def _catch_up(self, *, warm: bool) -> None:
        assert self.pool is not None
        if self.todo:
            self.watch.say(f"Looking at {len(self.todo)} lanes.")
            stopping = lambda: self.watch.stopped or self.watch.hup  # noqa: E731
            self.catching_up = True
            try:
                self.pool.make(self.todo, self.survey, self.temp, stopping, warm=warm)
            except StoppedError:
                return
            finally:
                self.catching_up = False
        for one in self.pool.processes:
            one.close()
        self.pool = None

    def _hire(self) -> None:
        started_with = (self.profile, self.selection, self.run_of.channels)

        def started(hear: Listener) -> Hired:
            process = Process(started_with, hear, self.lock.fileno())
            process.call("begin", self.survey)
            return Hired(process)

        self.closer = started(self.hear_closer)
        self.closer.process.call("stand_back")
        follow = {}
        if self.exchanges:
            follow = {
                lane: hour for (lane, _), hour in self.behind.items()
                if lane not in self.whole and hour >= 0 and str(lane) not in self.unsettled
            }  # fmt: skip
        for lane in follow:
            self.mine[lane] = _share(lane, self.followers, self.profile.variables)
        for k in range(self.followers):
            part = {lane: hour for lane, hour in follow.items() if self.mine[lane] == k}
            if part or k == 0:
                hired = started(self.hear)
                hired.ask("follow", part, self.temp)
                self.live.append(hired)
            else:
                self.live.append(self.live[0])
        staged, self.staged = self.staged, []
        for one in staged:
            self._adopt(one)
        for hired in dict.fromkeys(self.live):
            hired.pulse()
        processes = {"watch": os.getpid(), "close": self.closer.process.process.pid}
        processes |= {f"follow-{k}": one.process.process.pid for k, one in enumerate(dict.fromkeys(self.live))}
        self.watch.metrics.processes(processes)
        self.watch.say(f"Watching {len(self.todo)} lanes.")

    # -- the loop ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        watch = self.watch
        watch.passed("watch")
        next_look = time.monotonic()
        looked = next_look
        for_later = next_look
        while not watch.stopped and not watch.hup:
            now = time.monotonic()
            if now >= next_look:
                began = time.perf_counter()
                self._look(now - looked)
                looked, next_look = now, now + watch.poll_interval
                watch.beat.cycle_seconds = round(time.perf_counter() - began, 4)
                watch.metrics.cycle(watch.beat.cycle_seconds)
                watch.write_beat()
                for hired in dict.fromkeys(self.live):
                    hired.pulse()
            waiting = [one for one in dict.fromkeys(self.live) if one.waits]
            if now >= for_later and waiting:
                for hired in waiting:
                    hired.pulse()
                for_later = now + TICK
            self._give_out(now)
            watch.alive()
            everybody = [*dict.fromkeys(self.live), *([self.closer] if self.closer else [])]
            for one in everybody:
                one.go_on()
            until = min(next_look, for_later if waiting else next_look, self.jobs.next_due(now) or next_look)
            timeout = max(0.0, until - time.monotonic())
            if watch.notifier.interval:
                timeout = min(timeout, watch.notifier.interval)
            lines = {one.process.line: one for one in everybody}
            for ready in wait([watch._wake_out, *lines], timeout):
                if ready == watch._wake_out:
                    watch.drain()
                    self._send_changed()
                else:
                    self._hear_from(lines[ready])  # type: ignore[index]

    def _changed(self, paths: Any) -> None:
        """In the bell's thread."""
        self.changed.update(paths)
        self.watch.wake()

    def _send_changed(self) -> None:
        changed: set[str] = set()
        while self.changed:
            changed.add(self.changed.pop())
        by_follower: dict[Hired, list[str]] = {}
        look = False
        for path in sorted(changed):
            place = self._place(path)
            if place is None:
                look = look or "=" in path.rpartition("/")[2] or Path(path) in self.roots.values()
                continue
            lane, hour, is_file = place
            if not is_file:
                look = True
            else:
                self._late(lane, hour)
                follower = self._follower(lane, hour)
                if follower is not None:
                    by_follower.setdefault(follower, []).append(path)
        if look:
            self._look(0.0)
        for hired, paths in by_follower.items():
            hired.pulse(paths)

    def _place(self, path: str) -> tuple[Lane, int, bool] | None:
        """The lane and hour of a path in an hour folder, or of the folder."""
        for channel, root in self.roots.items():
            if path.startswith(f"{root}/"):
                parts = path[len(str(root)) + 1 :].split("/")
                if len(parts) < 6:
                    return None
                hour = lookout.hour_of("/".join(parts[:6]))
                names = [part.partition("=")[2] for part in parts[:2]]
                if hour is None:
                    return None
                return Lane(names[0], names[1], channel), hour, len(parts) == 7
        return None

    def _look(self, seconds: float) -> None:
        found = self.lookout.look(seconds)
        for path, key in list(self.bad.items()):
            if lanes.key_of(path) != key:  # written over in place: its folder does not show it
                del self.bad[path]
                segment = catalog.describe(path, self.profile.data)
                self.watch.beat.quarantined = [one for one in self.watch.beat.quarantined if one[0] != segment]
                self._changed([path])
        fresh = {lane for lane in found.lanes if lane not in self.survey.with_bronze}
        if fresh:
            self._enter(fresh)
        self._came(found)
        if found.loose - self.loose:
            raise AgainError(f"Files outside of hour folders: {', '.join(sorted(found.loose))}.")
        for lane in self.whole if found.loose else ():
            self._job(lane, 0)
        if found.loose and self.closer is not None:  # their lanes are known only from what they hold
            self.closer.ask("resurvey")
        if self.bell.watch(self.lookout.to_watch()):
            again = self.lookout.look(0.0)  # what came between the old watches and the new ones
            self._came(again)

    def _came(self, found: lookout.Changes) -> None:
        """Folders in which something is new: for who follows their hours, and for who mends."""
        for lane, hour, folder in found.hours:
            self._late(lane, hour)
            follower = self._follower(lane, hour)
            if follower is not None:
                follower.pulse(lookout.files_in(folder))

    def _open_hour(self, lane: Lane) -> int:
        """The first hour of a lane that is not closed; -1 if it is not followed."""
        return min((hour for (one, _), hour in self.behind.items() if one == lane), default=-1)

    def _follower(self, lane: Lane, hour: int) -> Hired | None:
        """Who follows this hour of a lane's bronze: with the lane itself, or with one that is made of it."""
        for taker in self.takers.get(lane, ()):
            if taker in self.mine and 0 <= self._open_hour(taker) <= hour:
                return self.live[self.mine[taker]]
        return None

    def _late(self, lane: Lane, hour: int) -> None:
        """Something is new in an hour of a lane's bronze: a job for each lane made of it that is beyond that hour."""
        for taker in self.takers.get(lane, ()):
            if taker in self.asleep and taker != lane:
                continue
            if taker not in self.mine or hour < self._open_hour(taker):
                self._job(taker, hour, open_days=True)

    def _job(self, lane: Lane, since: int, *, open_days: bool = False) -> None:
        if lane in self.todo:
            self.jobs.add(lane, since, open_days=open_days)

    def _give_out(self, now: float) -> None:
        """The next thing to be closed or mended."""
        assert self.closer is not None
        taken = None if self.closer.busy or self.closer.asks else self.jobs.take(now)
        if taken is None:
            return
        lane, job = taken
        if lane in self.whole:
            self.closer.ask("whole", lane, self.temp)
        elif lane not in self.mine:
            self.closer.ask(self.settling, lane, self.temp)
        else:
            reach = Reach(
                since=job.since, behind=self._open_hour(lane), proved=self.proved.get(lane), open_days=job.open_days
            )  # fmt: skip
            self.closer.ask("mend", lane, self.temp, reach)

    # -- what is heard ----------------------------------------------------------------------------------------

    def hear(self, event: str, details: Mapping[str, Any]) -> None:
        watch = self.watch
        if event == "settled":
            if details["proved"] is not None:
                self.proved[details["lane"]] = details["proved"]
            for model in self.graph.models.values():
                if model.layer == "silver" and model.channel == details["lane"].channel:
                    self.behind[details["lane"], model.name] = details["behind"]
        elif event == "staged":
            self.staged.append(details)
            if details["lane"] in self.mine:
                self._adopt(self.staged.pop())
        elif event == "turned":
            lane = details["lane"]
            self.behind[lane, details["model"]] = details["behind"]
            self.proved[lane] = details["proved"]
            self._job(lane, details["hour"])
        elif event == "quarantined":
            path = str(self.profile.data / details["segment"])
            self.bad[path] = lanes.key_of(path)
            watch.hear(event, details)
        elif event == "asleep":
            self._leave(details["lane"])
            self.asleep.add(details["lane"])
        elif event == "late" or event == "restage":
            self._job(details["lane"], details["hour"], open_days=True)
        else:
            if event == "recovered":
                watch.passed(f"{details['model']} {details['lane']}")
                return
            if event == "taken":
                watch.passed(
                    f"{details['model']} {Lane(details['exchange'], details['source_symbol'], details['channel'])}"
                )
            if event == "partition":
                watch.alive()
            if event == "failed" and self.catching_up:
                self.unsettled.add(details["lane"])
            watch.hear(event, details)

    def hear_closer(self, event: str, details: Mapping[str, Any]) -> None:
        """The same, of the process that closes: what fails there is the job in hand."""
        self.jobs.fails = self.jobs.fails or event == "failed"
        self.hear(event, details)

    def _adopt(self, details: Mapping[str, Any]) -> None:
        lane = details["lane"]
        if lane not in self.mine:
            return
        names = ("duration", "partition", "until", "path")
        self.live[self.mine[lane]].ask("adopt", details["model"], lane, *(details[name] for name in names))

    def _hear_from(self, hired: Hired) -> None:
        try:
            answer = hired.process.hear()
        except (EOFError, OSError):
            raise AgainError(f"A process {hired.process.ended()}; beginning anew.") from None
        if answer is None:
            return
        asked, hired.busy = hired.busy, None
        if answer.kind == "stopped":
            if self.watch.stopped:
                return
            raise AgainError("A process was asked to end; beginning anew.")
        assert asked is not None
        if answer.kind == "done":
            self.watch.passed(asked.name)
        if answer.kind == "error":
            self.watch.fail(asked.name, answer.value)
            self.jobs.fails = self.jobs.fails or hired is self.closer
        elif asked.name == "pulse":
            hired.waits = answer.value["waits"]
            if answer.value["again"]:
                hired.pulse()
        elif asked.name == "resurvey":
            fresh = set(answer.value.with_bronze - self.survey.with_bronze)
            if fresh:
                self._enter(fresh)
        if hired is self.closer and self.jobs.in_hand is not None:
            self._closed()

    def _closed(self) -> None:
        lane, well = self.jobs.done(time.monotonic())
        if well:
            for what in list(self.watch.told.failed):
                if what.endswith(str(lane)):
                    self.watch.passed(what)
        if well and lane not in self.mine:
            self._follow(lane)
        elif lane in self.mine:
            self.live[self.mine[lane]].ask("closed", lane)
            self.live[self.mine[lane]].pulse()


def _share(lane: Lane, among: int, variables: Mapping[str, Any]) -> int:
    """Which follower has a lane: the one that has all channels of its symbol."""
    name = lanes.canonical(lane.symbol, variables["usd_quotes"])
    return int(files.digest(f"{lane.exchange}/{name}".encode(errors="surrogateescape")), 16) % among
