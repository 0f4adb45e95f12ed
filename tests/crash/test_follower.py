"""A follower whose disk says no: whichever of its operations fails, before or after it was done, what was published
stays, nothing wrong is ever published, and the end is that of one quiet run (RELIABILITY, rows 1 to 3, while watching).

In one process: the follower, who closes hours, and what passes between them.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daedalus_etl import files, live
from daedalus_etl.lanes import Lane
from daedalus_etl.live_bars import LiveBars
from daedalus_etl.plan import Reach, Selection
from daedalus_etl.simulator import Market, simulate
from daedalus_etl.worker import Hand
from tests import harness, roots
from tests.feeder import Feeder, Mischief, Step, parquet, write_whole
from tests.watching import Part, differences, last_clocks, published

START = datetime(2026, 2, 3, 22, 58, tzinfo=UTC)  # the hour turns after two minutes
CHANNELS = ("orderbook", "trades")
MARKET = Market(hours=0.08, symbols=("BTC-USDT",), start=START, seed=3, books_per_second=0.5, trades_per_second=0.5)
DURATIONS = [60, 130]  # s; of the longer bars one is in both hours
WILD = Mischief(late=0.15, very_late=0.1, duplicate=0.1, reordered=0.2, changed=0.1)
OPERATIONS = ("write_synced", "append_synced", "place_instead")


class Disk:
    """Counts the operations of who is being watched; one of them fails, before it does anything or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count, self.fail_at, self.moment, self.counts = 0, 0, "before", False
        for name in OPERATIONS:
            monkeypatch.setattr(files, name, self._counted(getattr(files, name)))

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            if not self.counts:
                return operation(*given, **named)
            self.count += 1
            if self.count != self.fail_at:
                return operation(*given, **named)
            if self.moment == "after":
                operation(*given, **named)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return counted


class Scene:
    """One lane of two channels, what one quiet run makes of it, and the steps in which it comes."""

    def __init__(self, folder: Path, mischief: Mischief):
        self.is_tidy = mischief == Mischief()
        simulate(folder / "market", MARKET, channels=CHANNELS)
        self.feeder = Feeder(folder / "market", segment_seconds=20, mischief=mischief, seed=4)
        self.quiet = self.feeder.final(folder / "quiet")
        assert roots.run_child(self.quiet, bar_durations=DURATIONS).code == 0
        self.want = published(self.quiet)
        self.lasts = last_clocks(self.feeder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("follower"), Mischief())


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Late segments, within the open hour and behind it, and some that change."""
    wild = Scene(tmp_path_factory.mktemp("wild"), WILD)
    assert {step.how for step in wild.feeder.steps} == {"whole"}
    return wild


class Follower:
    """What `session` does with two processes, in one: each answer and each event is dealt with at once."""

    def __init__(self, root: Path, temp: Path, disk: Disk, settled: Callable[[], None] = lambda: None):
        self.root, self.temp = root, temp
        files.empty_folder(root / "state" / "staging")
        profile = harness.profile(root, bar_durations=DURATIONS)
        self.hand, self.closer = (Hand(profile, Selection(), frozenset(CHANNELS), self.hear) for _ in range(2))
        survey = self.hand.survey()
        self.hand.begin(survey)
        self.closer.begin(survey)
        self.behind: dict[Lane, int] = {}
        self.proved: dict[Lane, int] = {}
        self.jobs: dict[Lane, tuple[int, bool]] = {}  # since which hour, and with the bars of open days
        self.staged: list[Mapping[str, Any]] = []
        self.failed: list[str] = []
        for lane in survey.lanes:
            self.closer.settle(lane, temp)
        settled()
        disk.counts = True
        self.hand.follow(self.behind, temp)
        disk.counts = False
        self.adopt()

    def hear(self, event: str, details: Mapping[str, Any]) -> None:
        if event in ("settled", "turned"):
            self.behind[details["lane"]] = details["behind"]
            if details["proved"] is not None:
                self.proved[details["lane"]] = details["proved"]
        if event in ("turned", "late", "restage"):
            since, open_days = self.jobs.get(details["lane"], (2**62, False))
            self.jobs[details["lane"]] = min(since, details["hour"]), open_days or event != "turned"
        elif event == "staged":
            self.staged.append(details)
        elif event == "failed":
            self.failed.append(details["error"])

    def adopt(self) -> None:
        staged, self.staged = self.staged, []
        for one in staged:
            self.hand.adopt(*(one[name] for name in ("model", "lane", "duration", "partition", "until", "path")))

    def pulse(self, disk: Disk, *paths: Path) -> bool:
        """Look at files, then close and mend what is to be. Is there anything that waits?"""
        disk.counts = True
        waits = self.hand.pulse(tuple(map(str, paths)))["waits"]
        disk.counts = False
        jobs, self.jobs = self.jobs, {}
        for lane, (since, open_days) in jobs.items():
            reach = Reach(since=since, behind=self.behind[lane], proved=self.proved.get(lane), open_days=open_days)
            self.closer.mend(lane, self.temp, reach)
            disk.counts = True
            self.adopt()
            self.hand.closed(lane)
            disk.counts = False
        return waits or bool(jobs or self.jobs)

    def close(self) -> None:
        assert self.hand._live is not None
        self.hand._live.close()
        self.hand.close()
        self.closer.close()


def follow(scene: Scene, root: Path, disk: Disk) -> Follower:
    """Feed it all, and look after each step at what is published."""
    steps = scene.feeder.steps
    begun = 2 * len(CHANNELS)  # some of it is there at the start
    for step in steps[:begun]:
        write_whole(root / step.path, parquet(step.piece.rows))
    follower = Follower(root, root.parent / "temp", disk)
    before: dict[str, Part] = {}
    try:
        for step in steps[begun:]:
            write_whole(root / step.path, parquet(step.piece.rows))
            follower.pulse(disk, root / step.path)
            before = checked(scene, root, before)
        for _ in range(30):
            waits = follower.pulse(disk)
            before = checked(scene, root, before)
            if not waits and not differences(before, scene.want, scene.lasts):
                break
        assert differences(before, scene.want, scene.lasts) == [], follower.failed
    finally:
        follower.close()
    return follower


def checked(scene: Scene, root: Path, before: Mapping[str, Part]) -> dict[str, Part]:
    """No row is wrong, none twice, and none that was there is missing; unless late ones change them."""
    now = published(root)
    if not scene.is_tidy:
        return now
    for partition, part in now.items():
        rows = Counter(part.rows)
        assert not rows - Counter(scene.want[partition].rows), f"{partition}: rows that should not be there"
        if partition in before:
            assert not Counter(before[partition].rows) - rows, f"{partition}: published rows are missing"
    assert before.keys() <= now.keys()
    return now


def test_without_a_failure_it_ends_as_a_quiet_run(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    assert follow(scene, tmp_path / "data", disk).failed == []
    assert disk.count > 80


def fails(scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int, moment: str) -> bool:
    """The operation `at` fails; False if there are not so many."""
    root = folder / "data"
    with monkeypatch.context() as patch:
        patch.setattr(live, "PAUSES", (0.0, 0.0))
        disk = Disk(patch)
        disk.fail_at, disk.moment = at, moment
        follower = follow(scene, root, disk)
    if disk.count < at:
        return False
    assert follower.failed, "nobody was told"
    assert roots.run_child(root, bar_durations=DURATIONS).code == 0
    assert differences(published(root), scene.want) == []
    assert roots.states(root) == roots.states(scene.quiet)
    return True


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", [1, 8, 43])
def test_an_operation_that_fails_is_made_good(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, moment: str
) -> None:
    assert fails(scene, tmp_path, monkeypatch, at, moment)


def test_a_lane_that_could_not_begin_keeps_no_other_from_its_rows(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its next try, and stands nowhere meanwhile."""
    monkeypatch.setattr(live, "PAUSES", (600.0, 600.0))
    disk = Disk(monkeypatch)
    disk.fail_at, root = 1, tmp_path / "data"
    for step in scene.feeder.steps[:8]:
        write_whole(root / step.path, parquet(step.piece.rows))
    follower = Follower(root, tmp_path / "temp", disk)
    try:
        follower.pulse(disk)
    finally:
        follower.close()
    assert len(follower.failed) == 1
    assert {partition.split("/")[1] for partition in published(root) if partition.startswith("silver/")} == {"trades"}


def fed(root: Path, disk: Disk, steps: Sequence[Step]) -> Follower:
    """A follower that has seen these steps, the first four of them at its start."""
    for step in steps[:4]:
        write_whole(root / step.path, parquet(step.piece.rows))
    follower = Follower(root, root.parent / "temp", disk)
    for step in steps[4:]:
        write_whole(root / step.path, parquet(step.piece.rows))
        follower.pulse(disk, root / step.path)
    follower.pulse(disk)
    return follower


def bar_ends(root: Path) -> set[tuple[str, int]]:
    return {(name, end) for name, part in published(root).items() if "gold/" in name for end in part.clocks}


@pytest.mark.parametrize("state", ["kept", "lost", "changed", "lost later"])
def test_bars_begin_anew_with_an_hour_whose_journal_is_lost(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Their own journal is there, and says that they are in; a segment came meanwhile that changes them."""
    disk, root = Disk(monkeypatch), tmp_path / "data"
    late = [step for step in scene.feeder.steps if "trades" in step.path and "hour=23" in step.path][2]
    steps = [step for step in scene.feeder.steps if step != late]
    fed(root, disk, steps).close()
    bars = {partition for partition in differences(published(root), scene.want) if "gold/trades_bars/60s" in partition}
    assert bars, "the late segment changes no bar that has ended"
    (journal,) = (path for path in root.rglob("2026-02-03T23.open") if "silver.trades" in str(path))
    journal.unlink()
    (kept,) = journal.parent.glob("2026-02-03T22.*.state")
    write_whole(root / late.path, parquet(late.piece.rows))
    if state == "lost":
        kept.unlink()
    elif state == "changed":
        kept.write_bytes(kept.read_bytes()[:-1])
    monkeypatch.setattr(live, "PAUSES", (0.0, 0.0))
    there = bar_ends(root)
    follower = Follower(root, tmp_path / "temp", disk, settled=kept.unlink if state == "lost later" else lambda: None)
    try:
        for _ in range(30):
            assert there <= bar_ends(root), "a published bar is missing"
            if not follower.pulse(disk) and not differences(published(root), scene.want, scene.lasts):
                break
    finally:
        follower.close()
    assert differences(published(root), scene.want, scene.lasts) == []
    assert bool(follower.failed) == (state == "lost later")


@pytest.mark.parametrize("end", ["killed", "fails"])
@pytest.mark.parametrize("hour", [22, 23])
def test_bars_of_rows_that_changed_are_made_again_after_an_end_right_between_the_two(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, hour: int
) -> None:
    """A late segment of the open hour is in silver, and in no bar yet: the bars' journal says that they are in. One of
    the longer bars began before the hour."""
    disk, root = Disk(monkeypatch), tmp_path / "data"
    steps = [step for step in scene.feeder.steps if hour == 23 or "hour=22" in step.path]
    late = [step for step in steps if "trades" in step.path and f"hour={hour}" in step.path][1]
    steps.remove(late)
    follower = fed(root, disk, steps)

    def wrong() -> list[str]:
        return [text for text in differences(published(root), scene.want, scene.lasts) if "another one" in text]

    assert all(f"trades_bars/{duration}s" in str(wrong()) for duration in DURATIONS)
    write_whole(root / late.path, parquet(late.piece.rows))
    with monkeypatch.context() as patch:
        patch.setattr(live, "PAUSES", (0.0, 0.0))
        patch.setattr(LiveBars, "publish", failing)
        follower.pulse(disk, root / late.path)
    assert {text.split("/")[0] for text in wrong()} == {"gold"}
    if end == "killed":
        follower.close()
        follower = Follower(root, tmp_path / "temp", disk)
    for _ in range(3):
        follower.pulse(disk)
    follower.close()
    assert wrong() == []


def failing(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("at", [12, 31])
def test_an_operation_that_fails_among_late_segments_is_made_good(
    wild: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    assert fails(wild, tmp_path, monkeypatch, at, "after")


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["scene", "wild"])
def test_any_operation_that_fails_is_made_good(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, name: str
) -> None:
    at = 1
    while fails(request.getfixturevalue(name), tmp_path / str(at), monkeypatch, at, moment):
        at += 1
    assert at > 80
