"""A full disk, separately for output, staging, DuckDB's temp folder and state: one clear error, old data untouched, and
with room again the next run goes on (RELIABILITY, row 4)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.crash import market
from tests.crash.faults import mounts
from tests.crash.faults.runs import Ended
from tests.crash.market import ALL_BUT_THE_LAST_HOUR, Case, Quiet
from tests.crash.readers import Reader

AREAS = ("processed", "staging", "state")
NO_SPACE = os.strerror(errno.ENOSPC)
TOO_LARGE = os.strerror(errno.EFBIG)  # what a file that may not grow says, in the place of a full disk
SPILLING = Case(("BTC-USDT",), ("silver.ticker",), hours=0.5, quotes_per_second=120, memory_limit="64MB")


def says_that_it_is_full(ended: Ended, *reasons: str) -> None:
    """Exit code 1, the reason on stderr, once for silver and once for gold of the lane at most, and no traceback."""
    assert ended.code == 1, f"exit code {ended.code}\n{ended.err}"
    assert "Traceback" not in ended.err + ended.out, ended.err
    lines = [line for line in ended.err.splitlines() if any(reason in line for reason in reasons)]
    assert 1 <= len(lines) <= 2, f"{len(lines)} lines about {' or '.join(reasons)}:\n{ended.err}"


@pytest.mark.parametrize("area", AREAS)
def test_a_full_disk_is_said_and_with_room_the_next_run_goes_on(trades: Quiet, tmp_path: Path, area: str) -> None:
    root = trades.fresh(tmp_path, ALL_BUT_THE_LAST_HOUR)
    with Reader(root) as reader:
        reader.look()
        says_that_it_is_full(root.run(root.plan(full=(area,)).fill()), NO_SPACE)
        root.ends_as_the_quiet_run()


@pytest.mark.soak
@pytest.mark.parametrize("area", AREAS)
def test_a_disk_that_fills_up_at_any_operation_loses_nothing(trades: Quiet, tmp_path: Path, area: str) -> None:
    for entry in trades.operations():
        root = trades.fresh(tmp_path)
        with Reader(root):
            ended = root.run(root.plan(full=(area,), full_from=entry.n).fill())
            if ended.code:  # 0 where nothing that takes room came after it
                says_that_it_is_full(ended, NO_SPACE)
            root.ends_as_the_quiet_run()


def test_what_duckdb_cannot_write_to_staging_is_said(trades: Quiet, tmp_path: Path) -> None:
    """DuckDB's own writes break off: its file may not grow further."""
    root = trades.fresh(tmp_path, ALL_BUT_THE_LAST_HOUR)
    with Reader(root) as reader:
        reader.look()
        says_that_it_is_full(root.run(root.plan(file_limit=30_000)), TOO_LARGE)
        root.ends_as_the_quiet_run()


def test_a_data_root_that_is_really_full_loses_nothing(trades: Quiet, tmp_path: Path) -> None:
    """A disk of its own that is full at once, in the middle and near the end; then it grows. Where none can be mounted,
    the layer says so in its place, for all areas at once."""
    sizes = [(trades.data / name).stat().st_size for name in market.files_below(trades.data)]
    needs = sum(-(-size // 4096) * 4096 for size in sizes)
    for share in (0.03, 0.4, 0.8):
        root = trades.fresh(tmp_path)
        if not mounts.can_mount():
            at = max(1, int(share * len(trades.operations())))
            with Reader(root):
                says_that_it_is_full(root.run(root.plan(full=AREAS, full_from=at).fill()), NO_SPACE)
                root.ends_as_the_quiet_run()
            continue
        with mounts.tiny_disk(root.data, int(share * needs)) as full:
            (root.data / "raw").symlink_to(trades.bronze / "raw")
            with Reader(root):
                says_that_it_is_full(root.run(), NO_SPACE)
                full.resize(20 * needs)
                root.ends_as_the_quiet_run()


@pytest.fixture(scope="module")
def spilling(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """An hour that does not fit in DuckDB's memory."""
    return market.quiet_run(SPILLING, tmp_path_factory.mktemp("spilling"))


def test_a_full_temp_folder_is_said_and_with_room_the_next_run_goes_on(spilling: Quiet, tmp_path: Path) -> None:
    """temp_directory is where DuckDB puts what does not fit in its memory: nowhere else, and nothing stays there."""
    temp = tmp_path / "temp"
    temp.mkdir()
    root = spilling.fresh(tmp_path)
    root.settings["temp_directory"] = str(temp)
    # some 100 MB in files of eight kinds; how much of it which kind has to hold, DuckDB decides by the clock
    ended = root.run(root.plan(file_limit=1 << 20))
    assert ended.code == 1, ended.err
    assert str(temp) in ended.err
    assert "Traceback" not in ended.err
    if mounts.can_mount():
        with mounts.tiny_disk(temp, 1 << 20):
            ended = root.run()
            assert ended.code == 1, ended.err
            assert "temp_directory" in ended.err
            assert "Traceback" not in ended.err
    assert market.parquet_files(root.data) == []
    root.ends_as_the_quiet_run()
    assert list(temp.iterdir()) == []
    assert {path.name for path in root.scratch.glob("run-*/*")} == {"stdout", "stderr"}, "written where it was started"


def test_a_temp_folder_that_cannot_be_is_said_or_not_needed(trades: Quiet, spilling: Quiet, tmp_path: Path) -> None:
    """A file is in its place: a run that needs no room beside its memory may go on, another one says what is wrong."""
    (tmp_path / "temp").touch()
    for root, codes in ((trades.fresh(tmp_path, ALL_BUT_THE_LAST_HOUR), (0, 1)), (spilling.fresh(tmp_path), (1,))):
        root.settings["temp_directory"] = str(tmp_path / "temp")
        ended = root.run()
        assert ended.code in codes, ended.err
        assert "Traceback" not in ended.err
        assert ended.code == 0 or str(tmp_path / "temp") in ended.err
        del root.settings["temp_directory"]
        root.ends_as_the_quiet_run()


def test_the_limits_of_these_tests_are_met(trades: Quiet, spilling: Quiet) -> None:
    """The files are larger than the limits that they must meet, and the hour that spills is one."""
    *_, last = [path for path in market.parquet_files(trades.data) if "silver" in path.parts]
    assert last.stat().st_size > 30_000
    assert len(market.parquet_files(spilling.data)) == 1
