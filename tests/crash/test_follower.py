"""A follower whose disk says no: whichever of its operations fails, before or after it was done, what was published
stays, nothing wrong is ever published, and the end is that of one quiet run (RELIABILITY, rows 1 to 3, while watching).

In one process: the follower, who closes hours, and what passes between them.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daedalus_etl import files, live
from daedalus_etl.lanes import Lane
from daedalus_etl.plan import Reach, Selection
from daedalus_etl.simulator import Market, simulate
from daedalus_etl.worker import Hand
from tests import harness, roots
from tests.feeder import Feeder, Mischief, parquet, write_whole
from tests.watching import Part, differences, last_clocks, published

START = datetime(2026, 2, 3, 22, 58, tzinfo=UTC)  # the hour turns after two minutes
CHANNELS = ("orderbook", "trades")
MARKET = Market(hours=0.08, symbols=("BTC-USDT",), start=START, seed=3, books_per_second=0.5, trades_per_second=0.5)
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

    def __init__(self, folder: Path):
        simulate(folder / "market", MARKET, channels=CHANNELS)
        self.feeder = Feeder(folder / "market", segment_seconds=20, mischief={"BTC-USDT": Mischief()})
        self.quiet = self.feeder.final(folder / "quiet")
        assert roots.run_child(self.quiet).code == 0
        self.want = published(self.quiet)
        self.lasts = last_clocks(self.feeder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("follower"))


class Follower:
    """What `session` does with two processes, in one: each answer and each event is dealt with at once."""

    def __init__(self, root: Path, temp: Path, disk: Disk, settled: Callable[[], None] = lambda: None):
        self.root, self.temp = root, temp
        files.empty_folder(root / "state" / "staging")
        self.hand, self.closer = (
            Hand(harness.profile(root), Selection(), frozenset(CHANNELS), self.hear) for _ in range(2)
        )
        survey = self.hand.survey()
        self.hand.begin(survey)
        self.closer.begin(survey)
        self.behind: dict[Lane, int] = {}
        self.proved: dict[Lane, int] = {}
        self.jobs: dict[Lane, int] = {}
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
            lane = details["lane"]
            self.jobs[lane] = min(self.jobs.get(lane, 2**62), details["hour"])
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
        for lane, since in jobs.items():
            reach = Reach(since=since, behind=self.behind[lane], proved=self.proved.get(lane), open_days=True)
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
    """No row is wrong, none twice, and none that was there is missing."""
    now = published(root)
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
    assert roots.run_child(root).code == 0
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


@pytest.mark.parametrize("state", ["kept", "lost", "changed", "lost later"])
def test_bars_begin_anew_with_an_hour_whose_journal_is_lost(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Their own journal is there, and says that they are in; a segment came meanwhile that changes them."""
    disk, root = Disk(monkeypatch), tmp_path / "data"
    late = [step for step in scene.feeder.steps if "trades" in step.path and "hour=23" in step.path][2]
    steps = [step for step in scene.feeder.steps if step != late]
    for step in steps[:4]:
        write_whole(root / step.path, parquet(step.piece.rows))
    follower = Follower(root, tmp_path / "temp", disk)
    for step in steps[4:]:
        write_whole(root / step.path, parquet(step.piece.rows))
        follower.pulse(disk, root / step.path)
    follower.pulse(disk)
    follower.close()
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
    follower = Follower(root, tmp_path / "temp", disk, settled=kept.unlink if state == "lost later" else lambda: None)
    try:
        for _ in range(30):
            if not follower.pulse(disk) and not differences(published(root), scene.want, scene.lasts):
                break
    finally:
        follower.close()
    assert differences(published(root), scene.want, scene.lasts) == []
    assert bool(follower.failed) == (state == "lost later")


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["before", "after"])
def test_any_operation_that_fails_is_made_good(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    at = 1
    while fails(scene, tmp_path / str(at), monkeypatch, at, moment):
        at += 1
    assert at > 80
