"""One process's part in a run: it surveys bronze and makes lanes. In the run's own process, or in one that `pool`
starts with `python -m daedalus_etl.worker FD`: a Connection on FD takes (name, arguments), and gives back any number of
("event", name, details), then ("done", result) or ("error", text); it ends if it cannot `start` or `begin`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daedalus_etl import catalog, kernels, ledger, limits
from daedalus_etl.catalog import Catalog, Survey
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane, Segment
from daedalus_etl.models import Graph
from daedalus_etl.plan import Reach, Scope, Selection
from daedalus_etl.profiles import Profile

if TYPE_CHECKING:
    from daedalus_etl.live import Live

PR_SET_PDEATHSIG = 1


class Hand:
    """Surveys, plans and makes for one run. remember=False writes nothing."""

    def __init__(
        self,
        profile: Profile,
        selection: Selection,
        channels: frozenset[str],
        tell: Callable[[str, Mapping[str, Any]], None],
        stopping: Callable[[], bool] = lambda: False,
        *,
        graph: Graph | None = None,
        remember: bool = True,
    ):
        self.profile, self.selection, self.tell, self.stopping = profile, selection, tell, stopping
        self.graph = graph or Graph(profile.projects, profile.variables)
        folders = {c: f for c, f in catalog.roots(profile, selection.trades).items() if c in channels}
        self.there = Catalog(
            profile, folders, remember=remember, put_aside=self._put_aside,
            looking=lambda path: tell("look", {"segment": path}), stopping=stopping,
        )  # fmt: skip
        self._scope: Scope | None = None
        self._live: Live | None = None

    @property
    def scope(self) -> Scope:
        assert self._scope is not None, "begin comes first"
        return self._scope

    def close(self) -> None:
        self.there.close()

    def survey(self) -> Survey:
        """Which lanes there are."""
        published = {m.name: m.channel for m in self.graph.models.values() if m.is_published}
        return self.there.survey(ledger.known_lanes(self.profile.data, published))

    def begin(self, survey: Survey) -> None:
        """What `survey` found, here or in another process."""
        self._scope = Scope(self.profile, self.graph, self.selection, self.there, survey, self._warn)

    def warm(self) -> None:
        """Compile the chosen models' kernels, into the cache that all processes share."""
        for name in self.scope.kernels:
            kernels.load(name, self.scope.folders)(dict(self.profile.variables)).warm()
        kernels.mark_warm(self.scope.kernels)

    def lane(self, lane: Lane, temp: Path) -> None:
        """Bring one lane up to date."""
        from daedalus_etl.make import Maker

        Maker(self.scope, temp, self.tell, self.stopping).lane(lane)

    # -- for who watches ----------------------------------------------------------------------------------------

    def settle(self, lane: Lane, temp: Path, *, followed: bool = True) -> None:
        """Bring all hours of a lane up to date that are over, and say which is the first that is not."""
        from daedalus_etl.live_hours import last_seen, open_hour

        behind = open_hour(self.scope, lane, time.time())
        proved = last_seen(self.scope, lane, behind)
        self.tell("settled", {"lane": lane, "behind": behind, "proved": proved})
        if behind >= 0:
            self.mend(lane, temp, Reach(behind=behind, proved=proved, followed=followed, open_days=followed))

    def settle_alone(self, lane: Lane, temp: Path) -> None:
        """The same, of a lane that nobody follows."""
        self.settle(lane, temp, followed=False)

    def mend(self, lane: Lane, temp: Path, reach: Reach) -> None:
        """Bring a part of a lane up to date."""
        self.scope.there.forget()
        self.scope.reach = reach
        try:
            self.lane(lane, temp)
        finally:
            self.scope.reach = Reach()
            limits.give_back()

    def whole(self, lane: Lane, temp: Path) -> None:
        """Bring a lane up to date with all that is there, as a run does."""
        self.scope.there.forget()
        self.lane(lane, temp)

    def stand_back(self) -> None:
        """Give way to everything else on this machine."""
        os.nice(19)

    def follow(self, from_hours: Mapping[Lane, int], temp: Path) -> None:
        """Follow lanes from now on, each from an hour before which everything is in."""
        from daedalus_etl.live import Live

        self._live = self._live or Live(self.scope, temp, self.tell)
        self._live.open(from_hours)

    def leave(self, lane: Lane) -> None:
        if self._live is not None:
            self._live.leave(lane)

    def resurvey(self) -> Survey:
        """Which lanes there are by now."""
        self.there.forget()
        return self.survey()

    def widen(self, survey: Survey) -> None:
        """There are more lanes now."""
        self.scope.widen(survey)

    def pulse(self, paths: tuple[str, ...]) -> dict[str, Any]:
        """Files that may have come, to the lanes that are followed."""
        assert self._live is not None
        return self._live.pulse(paths)

    def adopt(self, model: str, lane: Lane, duration: int, partition: str, until: int, path: str) -> None:
        assert self._live is not None
        self._live.adopt(model, lane, duration, partition, until, path)

    def closed(self, lane: Lane) -> None:
        assert self._live is not None
        self._live.closed(lane)

    def _warn(self, text: str) -> None:
        self.tell("warning", {"text": text})

    def _put_aside(self, segment: Segment, reason: str) -> None:
        path = catalog.describe(segment.path, self.profile.data)
        self.tell("quarantined", {"segment": path, "channel": segment.channel, "reason": reason})


def main() -> None:
    """Serve the run that started this process, and end with it."""
    from multiprocessing.connection import Connection

    _end_with_parent()
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us: the run decides
    faulthandler.register(signal.SIGUSR1)  # where it is at, on stderr
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    line = Connection(int(sys.argv[1]))
    hand: Hand | None = None

    def say(*message: Any) -> None:
        try:
            line.send(message)
        except OSError:  # nobody listens any more: the end, whatever is in hand
            sys.exit(0)

    while True:
        try:
            name, arguments = line.recv()
        except (EOFError, OSError):
            return
        try:
            result = None
            if name == "start":
                profile, selection, channels = arguments
                hand = Hand(profile, selection, channels, lambda *event: say("event", *event), lambda: bool(asked))
            else:
                result = getattr(hand, name)(*arguments)
            # one that was asked to end says so, and ends: what it left undone is for the run to know
            say("stopped", None) if asked else say("done", result)
            if asked:
                return
        except Exception as error:  # noqa: BLE001  # the run hears of it, and goes on with other lanes
            say("error", str(error) if isinstance(error, DaedalusError) else f"{type(error).__name__}: {error}")
            if name in ("start", "begin"):  # it can do nothing, whatever it is asked next
                return


def _end_with_parent() -> None:
    """No process of a run that was killed writes on."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # all is on disk; freeing it all takes half a second, for which the run would wait
