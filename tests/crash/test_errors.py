"""One file operation fails: one clear error, old data untouched, and the next run heals it (RELIABILITY, row 3)."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from itertools import cycle
from pathlib import Path

import pytest

from tests.crash.faults import journal
from tests.crash.faults.journal import Entry
from tests.crash.faults.runs import Ended
from tests.crash.market import (
    ALL_BUT_A_LATE_SEGMENT,
    ALL_BUT_THE_LAST_HOUR,
    STARTS,
    Quiet,
    Root,
    assert_same_rows,
    rows_of,
    spread,
)
from tests.crash.readers import Reader

ERRORS = ("EIO", "ENOSPC", "EMFILE")


def says_clearly(ended: Ended, *names: str) -> None:
    """Exit code 1, one line a failure on stderr that names the reason, and no traceback."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    assert ended.code == 1, f"exit code {ended.code}\n{ended.err}"
    reasons = [os.strerror(getattr(errno, name)) for name in names]
    lines = [line for line in ended.err.splitlines() if any(reason in line for reason in reasons)]
    assert len(lines) == 1, f"not one line about {', '.join(reasons)}:\n{ended.err}"


HARMLESS = ("open", "list", "mkdir")  # where it only looked, or asked for a folder that is there already
LEFTOVERS = ("rmdir staging", "unlink staging")


def said_or_done_without(root: Root, ended: Ended, error: str, what: str) -> None:
    """A failure is said. What could not be read may also be found out in another way, and what nobody needs any more
    may lie in staging until the next run, if nothing is missing then."""
    if ended.code == 0 and (what.split(maxsplit=1)[0] in HARMLESS or what in LEFTOVERS):
        root.equals_the_quiet_run()
    else:
        says_clearly(ended, error)


def failed_then_rerun(root: Root, at: int, error: str) -> bool:
    """The operation fails, the next run does not; a reader looks on. False if there were not that many."""
    what = "nothing"
    plan = root.plan(fail_at=at, error=error)
    with Reader(root) as reader:
        reader.look()
        ended = root.run(plan)
        reached = int(Path(plan.work, "count").read_bytes()) >= at
        try:
            if reached:
                what = Path(plan.work, "failed").read_text()  # with two workers it is not the same one each time
                said_or_done_without(root, ended, error, what)
            else:
                assert ended.code == 0, ended.err
            reader.look()
            root.ends_as_the_quiet_run()
        except AssertionError as wrong:
            raise AssertionError(f"{error} in operation {at}, {what}: {wrong}") from wrong
    return reached


@pytest.mark.parametrize("start", [ALL_BUT_THE_LAST_HOUR, ALL_BUT_A_LATE_SEGMENT])
def test_a_failed_operation_is_said_and_healed_by_the_next_run(trades: Quiet, tmp_path: Path, start: str) -> None:
    for entry, error in zip(spread(trades.operations(start), 4), cycle(ERRORS), strict=False):
        failed_then_rerun(trades.fresh(tmp_path, start), entry.n, error)


def done_root(trades: Quiet, folder: Path) -> Root:
    """A data root in which all is done, and one of two segments of an hour has been deleted since."""
    root = trades.fresh(folder)
    (root.data / "raw").unlink()
    shutil.copytree(trades.bronze / "raw", root.data / "raw", copy_function=os.link)
    for part in ("processed", "state"):
        shutil.copytree(trades.data / part, root.data / part)
    next((root.data / "raw").rglob("trades/**/hour=0/*.parquet")).unlink()
    return root


def reads(trades: Quiet, folder: Path) -> list[Entry]:
    """The operations that read state in a run over it."""
    root = done_root(trades, folder)
    plan = root.plan()
    assert root.run(plan).code == 0
    root.equals_the_quiet_run()
    found = [entry for entry in journal.read(Path(plan.work)) if entry.kind in ("open state", "list state")]
    assert len(found) > 5
    return found


def read_error_then_rerun(trades: Quiet, folder: Path, entry: Entry, error: str) -> None:
    """A run over it cannot read something; the next one can."""
    root = done_root(trades, folder)
    with Reader(root) as reader:
        reader.look()
        ended = root.run(root.plan(fail_at=entry.n, error=error))
        try:
            assert_same_rows(rows_of(root.data), trades.rows)
            said_or_done_without(root, ended, error, entry.op)
            root.ends_as_the_quiet_run()
        except AssertionError as wrong:
            path = Path(entry.paths[0]).relative_to(Path(entry.paths[0]).parents[2])
            raise AssertionError(f"{error} in operation {entry.n}, {entry.op} {path}: {wrong}") from wrong


def test_a_state_that_cannot_be_read_costs_no_row_whose_bronze_is_gone(trades: Quiet, tmp_path: Path) -> None:
    """Not read is not the same as not there: what was published of deleted segments cannot be made again."""
    found = reads(trades, tmp_path)
    its_own = [entry for entry in found if "silver.trades" in entry.paths[0]]
    for entry, error in zip(spread(its_own, 6), cycle(("EIO", "EMFILE")), strict=False):
        read_error_then_rerun(trades, tmp_path, entry, error)


@pytest.mark.soak
@pytest.mark.parametrize("error", ["EIO", "EMFILE"])
def test_no_state_that_cannot_be_read_costs_a_row_whose_bronze_is_gone(
    trades: Quiet, tmp_path: Path, error: str
) -> None:
    for entry in reads(trades, tmp_path):
        read_error_then_rerun(trades, tmp_path, entry, error)


@pytest.mark.soak
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("start", STARTS)
def test_any_failed_operation_is_said_and_healed_by_the_next_run(
    trades: Quiet, tmp_path: Path, error: str, start: str
) -> None:
    """n = 1, 2, ... until none fails; what is wrong with each is told at the end."""
    failures: list[str] = []
    for n in itertools.count(1):
        try:
            if not failed_then_rerun(trades.fresh(tmp_path, start), n, error):
                break
        except AssertionError as failure:
            failures.append(str(failure))
    assert n > 50
    assert not failures, "\n\n".join(failures)


@pytest.mark.soak
@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_operation_of_two_workers_is_said_and_healed(two_workers: Quiet, tmp_path: Path, error: str) -> None:
    for entry in spread(two_workers.operations(), 40):
        failed_then_rerun(two_workers.fresh(tmp_path), entry.n, error)
