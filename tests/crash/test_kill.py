"""Killed at any moment, a run goes on where it was, and readers notice nothing (RELIABILITY, row 1)."""

from __future__ import annotations

import random
import signal
import time
from itertools import cycle
from pathlib import Path

import pytest

from tests.crash.market import (
    ALL_BUT_A_LATE_SEGMENT,
    NOTHING,
    STARTS,
    Quiet,
    Root,
    arrivals,
    arrive,
    files_below,
    records_of,
    spread,
)
from tests.crash.readers import Reader

MOMENTS = ("before", "during", "after")


def killed_then_rerun(quiet: Quiet, folder: Path, start: str, at: int, moment: str) -> None:
    """A run is killed at an operation, the next one is not; a reader looks on."""
    root = quiet.fresh(folder, start)
    with Reader(root) as reader:
        reader.look()
        ended = root.run(root.plan(kill_at=at, moment=moment))
        assert ended.killed, f"operation {at} was not reached: {ended.err}"
        reader.look()
        try:
            root.ends_as_the_quiet_run()
            root.has_nothing_left_to_do()
            got, want = records_of(root.data), records_of(quiet.data)
            assert [name for name in want if got.get(name) != want[name]] == [], "records that are not the quiet run's"
            litter = set(files_below(root.data)) - set(files_below(quiet.data))
            assert not litter, f"the kill left litter: {sorted(litter)}"
        except AssertionError as wrong:
            raise AssertionError(f"killed {moment} operation {at} from {start}: {wrong}") from wrong
    assert reader.passes > 2


def test_there_is_something_to_compare(trades: Quiet) -> None:
    """The market has days, hours, invalid rows and states, and the layer sees every kind of operation."""
    assert len(trades.rows) >= 5
    assert len(trades.states) >= 3
    assert len(records_of(trades.data)) >= 5
    assert sum(map(len, trades.rows.values())) > 300
    seen = {entry.kind for start in STARTS for entry in trades.operations(start)}
    assert {"replace processed", "fsync processed", "mkdir processed", "write state", "fsync state"} <= seen
    assert {"replace state", "fsync staging"} <= seen


@pytest.mark.parametrize("start", [NOTHING, ALL_BUT_A_LATE_SEGMENT])
def test_a_kill_at_an_operation_then_a_rerun_equals_no_kill(trades: Quiet, tmp_path: Path, start: str) -> None:
    for entry, moment in zip(spread(trades.operations(start), 5), cycle(MOMENTS), strict=False):
        killed_then_rerun(trades, tmp_path, start, entry.n, moment)


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("start", STARTS)
def test_a_kill_at_any_operation_then_a_rerun_equals_no_kill(
    trades: Quiet, tmp_path: Path, start: str, moment: str
) -> None:
    for entry in trades.operations(start):
        if moment != "during" or entry.op == "write":
            killed_then_rerun(trades, tmp_path, start, entry.n, moment)


@pytest.mark.soak
@pytest.mark.parametrize("start", STARTS)
def test_a_kill_at_any_operation_of_two_workers_equals_no_kill(two_workers: Quiet, tmp_path: Path, start: str) -> None:
    for entry, moment in zip(two_workers.operations(start)[:-20], cycle(MOMENTS), strict=False):
        killed_then_rerun(two_workers, tmp_path, start, entry.n, moment)


def test_kill_after_kill_all_progress_stays(two_workers: Quiet, tmp_path: Path) -> None:
    """Each restart is killed again a little further on: what is in stays in, and in the end all of it is."""
    root = two_workers.fresh(tmp_path)
    step = len(two_workers.operations()) // 2
    with Reader(root) as reader:
        for moment in cycle(MOMENTS):
            if not root.run(root.plan(kill_at=step, moment=moment)).killed:
                break
            reader.look()
        root.ends_as_the_quiet_run()
        root.has_nothing_left_to_do()


def killed_at_random(quiet: Quiet, root: Root, rounds: int, seed: int, longest: float) -> int:
    """Bronze arrives hour by hour; rounds of a run that is killed, group and all, after a random time. Returns how
    many runs were killed before they ended by themselves."""
    pick = random.Random(seed)
    (root.data / "raw").unlink()
    hours = arrivals(quiet.bronze)
    killed = 0
    with Reader(root) as reader:
        for i in range(rounds):
            if i % max(1, rounds // len(hours)) == 0 and hours:
                arrive(quiet.bronze, root.data, hours.pop(0))
            running = root.launch()
            time.sleep(pick.uniform(0.05, longest))
            killed += running.kill().killed
            reader.look()
        for hour in hours:
            arrive(quiet.bronze, root.data, hour)
        root.ends_as_the_quiet_run()
        root.has_nothing_left_to_do()
    return killed


def test_kills_at_random_moments_equal_no_kill(two_workers: Quiet, tmp_path: Path) -> None:
    assert killed_at_random(two_workers, two_workers.fresh(tmp_path), 6, 1, 0.9) > 3


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_kills_at_random_moments_equal_no_kill(everything: Quiet, tmp_path: Path, seed: int) -> None:
    """Ten a market, and twenty markets' lives."""
    assert killed_at_random(everything, everything.fresh(tmp_path), 10, seed, 2.5) > 5


def test_a_killed_first_process_leaves_no_second_writer(two_workers: Quiet, tmp_path: Path) -> None:
    """kill -9 of the first process alone, with a worker in the middle of an operation: no other run is let in while
    it lives, and the outputs are right whatever it still does."""
    root = two_workers.fresh(tmp_path)
    at = next(entry.n for entry in two_workers.operations() if entry.kind == "replace processed")
    plan = root.plan(pause_at=at)
    work = Path(plan.work)
    with Reader(root):
        running = root.launch(plan)
        wait_until((work / "paused").exists)
        running.kill(group=False)
        while (second := root.run()).code == 1 and running.alive():
            assert "another run" in second.err, second.err
            (work / "go_on").touch()  # the worker that held the lock may end
            time.sleep(0.1)
        assert second.code == 0, second.err
        assert not running.alive(), "two runs at once"
        (work / "go_on").touch()
        wait_until(lambda: not running.alive())
        root.ends_as_the_quiet_run()
        root.has_nothing_left_to_do()


def test_a_killed_worker_fails_the_run_and_the_next_one_heals_it(two_workers: Quiet, tmp_path: Path) -> None:
    """kill -9 of one process of a run, as the kernel does when memory is short."""
    root = two_workers.fresh(tmp_path)
    at = next(entry.n for entry in two_workers.operations() if entry.kind == "replace processed")
    with Reader(root):
        ended = root.run(root.plan(kill_at=at, whom="self"))
        assert ended.code in (1, -signal.SIGKILL), ended.err  # the signal if it was the only process
        assert "Traceback" not in ended.err
        root.ends_as_the_quiet_run()
        root.has_nothing_left_to_do()


def wait_until(true: object, longest: float = 30) -> None:
    deadline = time.monotonic() + longest
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
