"""Places that are not what they should be, and two at once: a clear exit code, exactly one writer, and planning that
stays linear (RELIABILITY, row 12)."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.faults import mounts
from tests.crash.faults.runs import Ended, Running
from tests.crash.market import ALL_BUT_THE_LAST_HOUR, Quiet, Root, everything_below
from tests.crash.readers import Reader

HANGS = 40  # s


def says_clearly(ended: Ended, *words: str) -> None:
    """Exit code 1, these words on stderr, and no traceback."""
    assert ended.code == 1, f"exit code {ended.code}\n{ended.err}"
    assert "Traceback" not in ended.err + ended.out, ended.err
    for word in words:
        assert word in ended.err, ended.err


# -- outputs that cannot be written ---------------------------------------------------------------------------

PLACES = ("processed", "processed/silver", "processed/silver/trades/exchange=demo", "state", "state/staging")
OBSTACLES: dict[str, Callable[[Path], None]] = {
    "a file": lambda path: path.touch(),
    "a dangling link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "a link loop": lambda path: path.symlink_to(path),
}


def said_and_left_alone(root: Root, place: str, obstacle: str) -> None:
    """Something stands in the place of a folder: it is said and stays; once it is gone, the next run goes on."""
    path = root.data / place
    path.parent.mkdir(parents=True, exist_ok=True)
    OBSTACLES[obstacle](path)
    before = os.lstat(path)
    says_clearly(root.run(), Path(place).parts[0])
    after = os.lstat(path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it was not ours to touch"
    path.unlink()
    root.ends_as_the_quiet_run()


@pytest.mark.parametrize(
    ("place", "obstacle"),
    [
        ("processed", "a dangling link"),
        ("processed/silver", "a link loop"),
        ("processed/silver/trades/exchange=demo", "a file"),
        ("state", "a link loop"),
        ("state/staging", "a file"),
    ],
)
def test_what_stands_in_the_place_of_a_folder_is_said_and_left_alone(
    trades: Quiet, tmp_path: Path, place: str, obstacle: str
) -> None:
    said_and_left_alone(trades.fresh(tmp_path), place, obstacle)


@pytest.mark.soak
@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_stands_in_any_place_is_said_and_left_alone(
    trades: Quiet, tmp_path: Path, place: str, obstacle: str
) -> None:
    said_and_left_alone(trades.fresh(tmp_path), place, obstacle)


def test_a_read_only_data_root_is_said_and_left_alone(trades: Quiet, tmp_path: Path) -> None:
    """Root writes where the permissions forbid it, so it is a disk that is mounted read-only; for others a folder."""
    root = trades.fresh(tmp_path)
    reason = os.strerror(errno.EROFS if mounts.can_mount() else errno.EACCES)
    if mounts.can_mount():
        with mounts.tiny_disk(root.data, 32 << 20) as small:
            shutil.copytree(
                trades.fresh(tmp_path, ALL_BUT_THE_LAST_HOUR).data, root.data, symlinks=True, dirs_exist_ok=True
            )
            small.read_only()
            before = everything_below(root.data)
            says_clearly(root.run(), reason)
            assert everything_below(root.data) == before
            small.resize(32 << 20)
            root.ends_as_the_quiet_run()
        return
    root.data.chmod(0o555)
    says_clearly(root.run(), reason)
    root.data.chmod(0o755)
    root.ends_as_the_quiet_run()


# -- bronze that is no file -----------------------------------------------------------------------------------


def real_raw(root: Root) -> Path:
    """raw/ as folders of its own with links to the same files, so that a test may add to it. A folder of trades."""
    (root.data / "raw").unlink()
    shutil.copytree(root.quiet.bronze / "raw", root.data / "raw", copy_function=os.link)
    return min(p.parent for p in (root.data / "raw").rglob("trades/**/*.parquet"))


STRANGE: dict[str, Callable[[Path], None]] = {
    "a dangling link": lambda path: path.symlink_to(path.with_name("nowhere.parquet")),
    "a link loop": lambda path: path.symlink_to(path),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}


def test_bronze_that_is_no_file_is_quarantined_and_all_else_goes_on(trades: Quiet, tmp_path: Path) -> None:
    """A pipe is not waited for, a link is not followed; each is named with a reason."""
    root = trades.fresh(tmp_path)
    folder = real_raw(root)
    for name, make in STRANGE.items():
        make(folder / f"{name}.parquet")
    (folder / "around").symlink_to(root.data / "raw", target_is_directory=True)
    says_clearly(
        Running(root.arguments(), None, root.scratch / "strange", HANGS).wait(), *(f"{n}.parquet" for n in STRANGE)
    )
    root.equals_the_quiet_run()
    for name in STRANGE:
        path = folder / f"{name}.parquet"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    root.ends_as_the_quiet_run()


@pytest.mark.parametrize("moment", ["before its audit", "after its audit"])
def test_a_segment_that_goes_between_list_and_read_costs_nothing_else(
    trades: Quiet, tmp_path: Path, moment: str
) -> None:
    """Either the run goes on as if it had never been, or it is named; the outputs are those of what is there."""
    root = trades.fresh(tmp_path)
    real_raw(root)
    (*_, last) = sorted((root.data / "raw").rglob("trades/**/*.parquet"))
    doomed = last.with_name("zz-doomed.parquet")
    shutil.copy(last, doomed)  # the same rows again: with it or without it, the outputs are one
    if moment == "after its audit":  # when an earlier hour is published, its own has not been read yet
        first = next(entry for entry in trades.operations() if entry.kind == "replace processed")
        plan = root.plan(unlink=str(doomed), unlink_at=first.n)
    else:
        plan = root.plan(vanish=str(doomed))
    with Reader(root):
        ended = root.run(plan)
        assert not doomed.exists(), "the test did not remove it"
        if ended.code:
            says_clearly(ended, doomed.name)
        root.equals_the_quiet_run()
        root.ends_as_the_quiet_run()


# -- two at once ----------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_with_the_pid_of_the_first(trades: Quiet, tmp_path: Path) -> None:
    root = trades.fresh(tmp_path)
    at = next(entry.n for entry in trades.operations() if entry.kind == "replace processed")
    plan = root.plan(pause_at=at)
    first = root.launch(plan)
    wait_for(Path(plan.work, "paused"))
    before = everything_below(root.data)
    began = time.monotonic()
    says_clearly(root.run(), str(first.pid))
    assert time.monotonic() - began < 10, "it waited"
    assert everything_below(root.data) == before
    Path(plan.work, "go_on").touch()
    assert first.wait().code == 0
    root.equals_the_quiet_run()


def test_a_second_run_at_any_moment_is_refused_or_has_the_root_for_itself(two_workers: Quiet, tmp_path: Path) -> None:
    """Three started together: each is done or refused, one at least is done, and the outputs are a quiet run's."""
    root = two_workers.fresh(tmp_path)
    with Reader(root):
        ended = [running.wait() for running in [root.launch() for _ in range(3)]]
        assert 0 in {one.code for one in ended}
        for one in ended:
            if one.code:
                says_clearly(one, "another run")
        root.equals_the_quiet_run()


def test_the_lock_goes_with_a_killed_run(trades: Quiet, tmp_path: Path) -> None:
    root = trades.fresh(tmp_path)
    at = next(entry.n for entry in trades.operations() if entry.kind == "replace processed")
    assert root.run(root.plan(kill_at=at)).killed
    root.ends_as_the_quiet_run()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"waited for {path} in vain"
        time.sleep(0.01)


# -- many files -----------------------------------------------------------------------------------------------


def planning_takes(trades: Quiet, folder: Path, segments: int) -> float:
    """CPU seconds of planning over so many small segments, in hours of a hundred."""
    (like, *_) = sorted((trades.bronze / "raw").rglob("trades/**/*.parquet"))
    root = trades.fresh(folder)
    (root.data / "raw").unlink()
    base = root.data / like.parent.relative_to(trades.bronze)
    for i in range(segments):
        lane = Path(str(base).replace("symbol=BTC-USDT", f"symbol=BTC-USDT/{i // 100}"))
        lane.mkdir(parents=True, exist_ok=True)
        os.link(like, lane / f"{i:06}.parquet")
    ended = Running(root.arguments("--dry-run"), None, root.scratch / "plan", 3600).wait()
    assert ended.code == 0, ended.err
    assert "would be made" in ended.out
    return ended.seconds


def linear(trades: Quiet, folder: Path, segments: int) -> None:
    none, once, four = (planning_takes(trades, folder, n) for n in (1, segments, 4 * segments))
    assert four - none < 5 * (once - none), f"{segments} segments: {once - none:.2f} s, four times: {four - none:.2f} s"


def test_planning_over_many_small_segments_is_linear(trades: Quiet, tmp_path: Path) -> None:
    linear(trades, tmp_path, 60)


@pytest.mark.soak
def test_planning_over_a_hundred_thousand_small_segments_is_linear(trades: Quiet, tmp_path: Path) -> None:
    linear(trades, tmp_path, 25_000)
