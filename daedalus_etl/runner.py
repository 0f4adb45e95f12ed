"""The story: what is there, minus what is in, lane by lane; each lane in order, one bad lane without harm to others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from daedalus_etl import catalog, files, kernels, lanes, limits
from daedalus_etl.catalog import Catalog, Survey
from daedalus_etl.errors import DaedalusError, StoppedError, UsageError
from daedalus_etl.lanes import CHANNELS, Lane
from daedalus_etl.ledger import staging_of
from daedalus_etl.models import Graph
from daedalus_etl.plan import Scope, Selection
from daedalus_etl.pool import Pool
from daedalus_etl.profiles import Profile, nearest
from daedalus_etl.worker import Hand

Listener = Callable[[str, Mapping[str, Any]], None]  # event, details
# About how long a byte of a lane's bronze takes, of its own and of what is read beside it, microseconds of CPU on an
# AMD EPYC, real captures (a book has 40 to 110 bytes, a trade 15 to 30, a quote 8). Only ratios count.
OWN = {"orderbook": 0.3, "trades": 0.7, "ticker": 1.2}
BESIDE = 0.1
__all__ = ["Report", "Run", "Selection", "exclusive"]


@dataclass
class Report:
    """What a run did."""

    done: list[dict[str, Any]] = field(default_factory=list)
    fresh: int = 0
    recorded: int = 0  # up to date, though segments came: all their rows were known
    failed: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: int = 0  # the signal that ended it early

    @property
    def exit_code(self) -> int:
        if self.stopped:
            return 128 + self.stopped
        return 1 if self.failed or self.quarantined else 0


class Run:
    """One run over a data root. `tell` hears of each event.

    workers: how many processes; 1 is this one. Its profile's memory limit is for all of them together.
    """

    def __init__(self, profile: Profile, graph: Graph, selection: Selection, tell: Listener, workers: int = 1):
        self.profile, self.graph, self.selection, self.tell = replace(profile, workers=workers), graph, selection, tell
        self.report = Report()
        selected = graph.select(selection.models)
        self.chosen = [m for m in selected if m.is_published]
        needed = {m.channel for m in selected}
        needed |= {graph.models[r].channel for m in selected for r in m.refs if r.startswith("bronze.")}
        self.channels = frozenset(needed)
        self._pool: Pool | None = None
        self._hand: Hand | None = None

    # -- what is there ----------------------------------------------------------------------------------------

    def look(self) -> Scope:
        """What there is, planned with in this process; nothing is written."""
        self._folders()
        self._hand = self._own_hand(remember=False)
        self.take(self._hand.survey())
        self._hand.begin(self.survey)
        return self._hand.scope

    @property
    def scope(self) -> Scope:
        """What `look` found."""
        assert self._hand is not None, "look comes first"
        return self._hand.scope

    def _folders(self) -> dict[str, Path]:
        """Where each channel's bronze lies. Raises UsageError if there is none at all."""
        folders = catalog.roots(self.profile, self.selection.trades)
        if not any(folder.is_dir() for folder in folders.values()):
            raise UsageError(
                "there is no bronze",
                str(folders["orderbook"].parent),
                f"Collectors write {self.profile.data}/raw/ready/{self.profile.source}/<channel>/... "
                "Set --data and --source, or try `daedalus demo`.",
            )
        return folders

    def _own_hand(self, *, remember: bool = True) -> Hand:
        return Hand(
            self.profile, self.selection, self.channels, self.hear, lambda: bool(self.report.stopped),
            graph=self.graph, remember=remember,
        )  # fmt: skip

    def take(self, survey: Survey) -> None:
        """Decide which lanes are meant, and say which keep their own names."""
        self.survey = survey
        variables = self.profile.variables
        for group in lanes.collisions(survey.lanes, variables):
            text = (
                f"{group[0].channel} {group[0].exchange}: {', '.join(lane.symbol for lane in group)} would all be "
                f"{lanes.canonical(group[0].symbol, variables['usd_quotes'])}; each keeps its own name."
            )
            self.hear("warning", {"text": text})
        self.selected = [
            lane
            for lane in survey.lanes
            if lanes.is_selected(lane, self.selection.exchanges, self.selection.symbols, variables)
        ]
        self._refuse_filters_that_match_nothing()

    def _refuse_filters_that_match_nothing(self) -> None:
        """A filter that means no lane of the selected models is a slip of the pen: say what there is instead."""
        channels = {model.channel for model in self.graph.select(self.selection.models)}
        filters = (("exchange", self.selection.exchanges), ("symbol", self.selection.symbols))
        if not any(patterns for _, patterns in filters) or any(lane.channel in channels for lane in self.selected):
            return
        near = [lane for lane in self.survey.lanes if lane.channel in channels]
        for what, patterns in filters:
            known = {str(getattr(lane, what)) for lane in near}
            for pattern in patterns:
                alone: dict[str, tuple[str, ...]] = {"exchanges": (), "symbols": (), f"{what}s": (pattern,)}
                if not any(lanes.is_selected(lane, **alone, variables=self.profile.variables) for lane in near):
                    raise UsageError(
                        f"no {what} matches {pattern}", f"--{what}", nearest(pattern, known) if known else None
                    )
        raise UsageError("no lane matches all filters", "--exchange, --symbol", _listed(near))

    def to_make(self, there: Catalog) -> list[Lane]:
        """The lanes of the chosen models. Of several processes none should be left with a long lane in the end: what
        takes longest comes first, but channel by channel where each channel has processes of its own."""
        needs: dict[str, set[str]] = {}
        for model in self.chosen:
            bronze = {self.graph.models[name].channel for name in model.refs if name.startswith("bronze.")}
            needs.setdefault(model.channel, set()).update(bronze)
        found = sorted((x for x in self.selected if x.channel in needs), key=lambda x: (CHANNELS.index(x.channel), x))
        if self.profile.workers == 1:
            return found
        size = {lane: there.newest_bytes(lane) for lane in self.survey.lanes}
        beside: Counter[tuple[str, str, str]] = Counter()  # of a market's bronze in a channel
        for lane, found_bytes in size.items():
            beside[self._market(lane, lane.channel)] += found_bytes
        took = {
            lane: size[lane] * OWN[lane.channel]
            + BESIDE * sum(beside[self._market(lane, other)] for other in needs[lane.channel] - {lane.channel})
            for lane in found
        }
        apart = limits.is_scarce(self.profile)
        return sorted(found, key=lambda x: (CHANNELS.index(x.channel) if apart else 0, -took[x]))

    def _market(self, lane: Lane, channel: str) -> tuple[str, str, str]:
        return lane.exchange, lanes.canonical(lane.symbol, self.profile.variables["usd_quotes"]), channel

    # -- what happens -----------------------------------------------------------------------------------------

    def hear(self, event: str, details: Mapping[str, Any]) -> None:
        """Note an event in the report, and tell of it."""
        report = self.report
        if event == "partition":
            report.done.append(dict(details))
        elif event == "fresh":
            report.fresh += details["count"]
        elif event == "recorded":
            report.recorded += 1
        elif event == "failed":
            report.failed.append((f"{details['model']} {details['lane']}", details["error"]))
        elif event == "quarantined":
            entry = (details["segment"], details["reason"])
            if entry in report.quarantined:
                return
            report.quarantined.append(entry)
        elif event == "warning":
            if details["text"] in report.warnings:
                return
            report.warnings.append(details["text"])
        self.tell(event, details)

    def run(self) -> Report:
        """Bring everything that is selected up to date. One bad lane does not stop the others."""
        self._folders()  # before anything is written
        with exclusive(self.profile.data) as lock, self._ending_cleanly():
            temp = staging_of(self.profile.data)
            files.empty_folder(temp)
            try:
                self._make(lock, temp)
            except (DaedalusError, StoppedError):
                if not self.report.stopped:  # else it is no more than what was asked for
                    raise
            finally:
                for one in (self._hand, self._pool):
                    if one is not None:
                        one.close()
        return self.report

    def _make(self, lock: IO[str], temp: Path) -> None:
        hand = self._hand = self._own_hand()
        workers = self.profile.workers
        if workers > 1:
            started_with = (replace(self.profile, workers=workers), self.selection, self.channels)
            self._pool = Pool(workers, started_with, self.hear, lock.fileno())
        is_flat = any(hand.there.listed_loose(channel) for channel in hand.there.roots)
        self.take(self._pool.first().call("survey") if self._pool and is_flat else hand.survey())
        todo = self.to_make(hand.there)
        self.hear("plan", {"models": [m.name for m in self.chosen], "lanes": len(todo)})
        if self._pool and len(todo) > 1:
            names = tuple(m.config["kernel"] for m in self.chosen if "kernel" in m.config)
            self._pool.make(
                todo, self.survey, temp, lambda: bool(self.report.stopped), warm=not names or kernels.is_warm(names)
            )
            return
        hand.begin(self.survey)
        for lane in todo:
            if self.report.stopped:
                return
            hand.lane(lane, temp)

    @contextmanager
    def _ending_cleanly(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the partition in hand; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, _: object) -> None:
            if self.report.stopped:
                raise SystemExit(128 + number)
            self.report.stopped = number
            if self._pool is not None:
                self._pool.end_soon()

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listed(found: list[Lane]) -> str:
    shown = ", ".join(str(lane) for lane in found[:8])
    return f"There are: {shown}{', ...' if len(found) > 8 else ''}." if found else "There are none of these channels."


def _locked(data: Path) -> IO[str]:
    """The open lock of a data root. Raises DaedalusError if somebody else has it."""
    path = data / "state" / "lock"
    while True:
        data.mkdir(parents=True, exist_ok=True)
        files.make_folder(path.parent)
        lock = open(path, "a+")  # noqa: SIM115  # whoever asked for it closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            text = f"another run is writing here: {lock.read().strip() or 'unknown'}"
            lock.close()
            raise DaedalusError(text, str(data), "Wait until it has ended.") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        lock.close()  # `clean` has removed it since it was opened: a lock without a name keeps nobody out


@contextmanager
def exclusive(data: Path) -> Iterator[IO[str]]:
    """Exactly one writer on a data root; the second is refused, naming the first. Yields the lock: as long as any
    process holds it open, nobody else writes."""
    with _locked(data) as lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()}\n")
        lock.flush()
        yield lock
