"""The watcher: the same plans and the same makers as a run, in a loop that bronze's folders wake.

This process looks (`lookout`) and hands out; it imports neither DuckDB, pyarrow nor numba. Processes follow lanes as
they grow (`live`); one more, which gives way to all others, closes hours that are over and mends what comes late. What
cannot be followed piece by piece is made as a run makes it: whole lanes if their rows do not come in order of the
clock, hours when they are over if the filesystem cannot exchange folders.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from daedalus_etl.errors import DaedalusError
from daedalus_etl.heartbeat import Beat
from daedalus_etl.jobs import PAUSES
from daedalus_etl.metrics import Metrics
from daedalus_etl.models import Graph
from daedalus_etl.notify import Notifier
from daedalus_etl.plan import Selection
from daedalus_etl.profiles import Profile
from daedalus_etl.runner import exclusive
from daedalus_etl.session import AgainError, Session

Listener = Callable[[str, Mapping[str, Any]], None]
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))


@dataclass
class Told:
    """What there is to say of failures, once each."""

    failed: dict[str, str] = field(default_factory=dict)
    waiting: str = ""


class Watch:
    """Watches a data root until it is told to end.

    reload: gives the profile and the models anew (SIGHUP). workers: processes in all, this one apart; at least two.
    """

    def __init__(
        self,
        reload: Callable[[], tuple[Profile, Graph]],
        selection: Selection,
        tell: Listener,
        *,
        poll_interval: float = 30.0,
        workers: int = 2,
        metrics: Metrics | None = None,
        notifier: Notifier | None = None,
    ):
        self.reload, self.selection, self._tell = reload, selection, tell
        self.poll_interval, self.workers = poll_interval, max(workers, 2)
        self.metrics, self.notifier = metrics or Metrics(None), notifier or Notifier({})
        self.profile, self.graph = reload()
        self.beat = Beat(poll_interval)
        self.told = Told()
        self.stopped = self.hup = False
        self.session: Session | None = None
        self._wake_out, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_out, False)

    # -- the loop of sessions -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Watch. Returns 0 when it was asked to end. Raises DaedalusError if it cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked_to_end())
        faulthandler.register(signal.SIGUSR1)  # where it is at, on stderr
        signal.signal(signal.SIGHUP, lambda *_: self._asked_to_reload())
        pause = PAUSES[0]
        with exclusive(self.profile.data) as lock:
            self.beat.write(self.profile.data)
            self.notifier.ready()
            while not self.stopped:
                session = self.session = Session(self, lock)
                began = time.monotonic()
                try:
                    session.run()
                except AgainError as again:
                    self.say(str(again))
                except (DaedalusError, OSError, EOFError) as error:
                    if not self.stopped and not self.hup:  # else it is no more than what was asked for
                        self.fail("watch", str(error))
                finally:
                    session.close()
                if self.stopped:
                    break
                if self.hup:
                    self._reload()
                pause = PAUSES[0] if time.monotonic() - began > PAUSES[1] else min(2 * pause, PAUSES[1])
                if self.told.failed or self.told.waiting:
                    self.rest(pause)
            self.notifier.stopping()
        return 0

    def _asked_to_end(self) -> None:
        if self.stopped:
            raise SystemExit(1)
        self.stopped = True
        self._end_soon()

    def _asked_to_reload(self) -> None:
        self.hup = True
        self._end_soon()

    def _end_soon(self) -> None:
        self.wake()
        if self.session is not None:
            self.session.end_soon()

    def _reload(self) -> None:
        self.hup = False
        self.notifier.reloading()
        try:
            self.profile, self.graph = self.reload()
            self.say("The profile was read again.")
        except DaedalusError as error:
            self.fail("watch", f"the profile stays as it was: {error}")
        self.notifier.ready()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"x")

    def rest(self, seconds: float) -> None:
        """Wait, but hear signals, and say that we live."""
        until = time.monotonic() + seconds
        while not self.stopped and not self.hup and (left := until - time.monotonic()) > 0:
            self.alive()
            wait([self._wake_out], min(left, self.notifier.interval or left))
            self.drain()

    def drain(self) -> None:
        try:
            while os.read(self._wake_out, 4096):
                pass
        except BlockingIOError:
            pass

    # -- what is said -------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self._tell("info", {"text": text})
        self.notifier.status(text)

    def hear(self, event: str, details: Mapping[str, Any]) -> None:
        """An event of a process, for the log and the metrics."""
        if event == "failed":
            self.fail(f"{details['model']} {details['lane']}", details["error"])
            return
        if event == "taken":
            name = f"{details['channel']} {details['exchange']} {details['symbol']}"
            self.beat.lag[name] = round(details["lag"], 3)
        if event == "quarantined" and (details["segment"], details["reason"]) not in self.beat.quarantined:
            self.beat.quarantined.append((details["segment"], details["reason"]))
        elif event == "quarantined":
            return
        self.metrics.hear(event, details)
        self._tell(event, details)

    def fail(self, what: str, error: str) -> None:
        """A failure is said once until it passes; a disk that is full is one failure, whoever hits it."""
        known, self.told.failed[what] = self.told.failed.get(what), error
        full = next((text for text in FULL if text in error), "")
        if full and self.told.waiting == full:
            return
        if full:
            self.told.waiting = full
            self.notifier.status(f"Waiting: {full}")
        elif known == error:
            return
        details = {"model": what, "lane": "", "error": error}
        self.metrics.hear("failed", {"model": what.split(" ", maxsplit=1)[0], "lane": what, "error": error})
        self._tell("failed", details)
        self.write_beat()

    def passed(self, what: str) -> None:
        """What failed works again."""
        if self.told.failed.pop(what, None) is not None and not self.told.failed:
            self.told.waiting = ""
            self.say("What had failed works again.")
            self.write_beat()

    def alive(self) -> None:
        self.notifier.alive()

    def write_beat(self) -> None:
        self.beat.failed, self.beat.waiting = list(self.told.failed.items()), self.told.waiting
        self.beat.write(self.profile.data)
