"""One file operation fails: one clear error, old data untouched, and the next run heals it (RELIABILITY, row 3)."""

from __future__ import annotations

import errno
import itertools
import os
from itertools import cycle
from pathlib import Path

import pytest

from tests.crash.faults.runs import Ended
from tests.crash.market import ALL_BUT_A_LATE_SEGMENT, ALL_BUT_THE_LAST_HOUR, STARTS, Quiet, Root, spread
from tests.crash.readers import Reader

ERRORS = ("EIO", "ENOSPC", "EMFILE")


def says_clearly(ended: Ended, *names: str) -> None:
    """Exit code 1, one line a failure on stderr that names the reason, and no traceback."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert ended.code == 1, f"exit code {ended.code}\n{ended.err}"
    reasons = [os.strerror(getattr(errno, name)) for name in names]
    lines = [line for line in ended.err.splitlines() if any(reason in line for reason in reasons)]
    assert len(lines) == 1, f"not one line about {', '.join(reasons)}:\n{ended.err}"


def failed_then_rerun(root: Root, at: int, error: str, what: str) -> bool:
    """The operation fails, the next run does not; a reader looks on. False if there were not that many."""
    plan = root.plan(fail_at=at, error=error)
    with Reader(root) as reader:
        reader.look()
        ended = root.run(plan)
        reached = int(Path(plan.work, "count").read_bytes()) >= at
        try:
            if reached:
                says_clearly(ended, error)
            else:
                assert ended.code == 0, ended.err
            reader.look()
            root.ends_as_the_quiet_run()
        except AssertionError as wrong:
            raise AssertionError(f"{error} in operation {at}, {what}: {wrong}") from wrong
    return reached


@pytest.mark.parametrize("start", [ALL_BUT_THE_LAST_HOUR, ALL_BUT_A_LATE_SEGMENT])
def test_a_failed_operation_is_said_and_healed_by_the_next_run(trades: Quiet, tmp_path: Path, start: str) -> None:
    for entry, error in zip(spread(trades.operations(start), 5), cycle(ERRORS), strict=False):
        failed_then_rerun(trades.fresh(tmp_path, start), entry.n, error, entry.kind)


@pytest.mark.soak
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("start", STARTS)
def test_any_failed_operation_is_said_and_healed_by_the_next_run(
    trades: Quiet, tmp_path: Path, error: str, start: str
) -> None:
    """n = 1, 2, ... until none fails; what is wrong with each is told at the end."""
    failures: list[str] = []
    kinds = {entry.n: entry.kind for entry in trades.operations(start)}
    for n in itertools.count(1):
        try:
            if not failed_then_rerun(trades.fresh(tmp_path, start), n, error, kinds.get(n, "?")):
                break
        except AssertionError as failure:
            failures.append(str(failure))
    assert n > 50
    assert not failures, "\n\n".join(failures)


@pytest.mark.soak
@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_operation_of_two_workers_is_said_and_healed(two_workers: Quiet, tmp_path: Path, error: str) -> None:
    for entry in spread(two_workers.operations(), 40):
        failed_then_rerun(two_workers.fresh(tmp_path), entry.n, error, entry.kind)
