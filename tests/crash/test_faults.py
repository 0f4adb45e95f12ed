"""The fault layer does what its plan says, and would see a careless program: what the other tests here rest on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.faults import disk, journal, runs
from tests.crash.faults.disk import POLICIES, Disk, files_of
from tests.crash.faults.plan import Plan

CAREFUL = """
import os, pathlib
root = pathlib.Path(ROOT)
os.mkdir(root / "processed")
sync = lambda p: (h := os.open(p, os.O_RDONLY), os.fsync(h), os.close(h))
sync(root)
with open(root / "state/staging/a", "wb") as file:
    file.write(b"whole")
    file.flush()
    os.fsync(file.fileno())
os.replace(root / "state/staging/a", root / "processed/a.parquet")
sync(root / "processed")
"""
UNSYNCED = CAREFUL.replace("    os.fsync(file.fileno())\n", "")
IN_PLACE = """
import pathlib
(pathlib.Path(ROOT) / "processed").mkdir()
(pathlib.Path(ROOT) / "processed/a.parquet").write_bytes(b"whole")
"""


def program(folder: Path, code: str, **what: object) -> tuple[Plan, subprocess.CompletedProcess[str], Disk]:
    """A program under a plan, in a root with state/staging; and the disk before it."""
    root, work = folder / "root", folder / "work"
    (root / "state" / "staging").mkdir(parents=True)
    work.mkdir()
    plan = Plan(str(root), str(work), **what)  # type: ignore[arg-type]
    before = Disk(root, work)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("ROOT", repr(str(root)))],
        env=runs.environment(plan), capture_output=True, text=True, check=False, start_new_session=True,
    )  # fmt: skip
    return plan, done, before


def kinds(plan: Plan) -> list[str]:
    return [entry.kind for entry in journal.read(Path(plan.work))]


def test_every_operation_is_counted_in_its_order(tmp_path: Path) -> None:
    plan, done, _ = program(tmp_path, CAREFUL)
    assert done.returncode == 0, done.stderr
    assert kinds(plan) == [
        "mkdir processed", "open root", "fsync root", "create staging", "write staging", "fsync staging",
        "replace processed", "open processed", "fsync processed",
    ]  # fmt: skip


def test_pathlib_and_shutil_pass_the_gate_too(tmp_path: Path) -> None:
    plan, done, _ = program(
        tmp_path,
        """
        import pathlib, shutil
        root = pathlib.Path(ROOT)
        (root / "processed/deep/er").mkdir(parents=True)
        (root / "state/a").write_text("text")
        (root / "state/a").rename(root / "state/b")
        (root / "state/b").unlink()
        shutil.rmtree(root / "processed")
        """.replace("\n        ", "\n"),
    )
    assert done.returncode == 0, done.stderr
    found = kinds(plan)
    for kind in ("create state", "write state", "rename state", "unlink state", "list processed", "rmdir processed"):
        assert kind in found, found
    assert found.count("rmdir processed") == 3


def test_processes_share_one_count(tmp_path: Path) -> None:
    code = """
import subprocess, sys
one = "import os, sys; [os.mkdir(f'{sys.argv[1]}/state/{sys.argv[2]}-{i}') for i in range(20)]"
for p in [subprocess.Popen([sys.executable, "-c", one, ROOT, str(i)]) for i in range(3)]:
    assert p.wait() == 0
"""
    plan, done, _ = program(tmp_path, code)
    assert done.returncode == 0, done.stderr
    entries = journal.read(Path(plan.work))
    assert [entry.n for entry in entries] == list(range(1, 61))
    assert len({entry.process for entry in entries}) == 3


@pytest.mark.parametrize(("moment", "left"), [("before", b""), ("during", b"wh"), ("after", b"whole")])
def test_a_kill_comes_before_during_or_after_its_operation(tmp_path: Path, moment: str, left: bytes) -> None:
    plan, done, _ = program(tmp_path, CAREFUL, kill_at=5, moment=moment)
    assert done.returncode == -signal.SIGKILL
    assert Path(plan.root, "state/staging/a").read_bytes() == left
    assert not Path(plan.root, "processed/a.parquet").exists()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EMFILE"])
@pytest.mark.parametrize("at", range(1, 10))
def test_the_operation_that_is_to_fail_fails_and_is_not_done(tmp_path: Path, at: int, error: str) -> None:
    plan, done, _ = program(tmp_path, CAREFUL, fail_at=at, error=error)
    assert done.returncode == 1
    assert "OSError" in done.stderr
    done_of_it = [entry.n for entry in journal.read(Path(plan.work))]
    assert done_of_it[: at - 1] == list(range(1, at))
    assert at not in done_of_it
    assert Path(plan.root, "processed/a.parquet").exists() == (at > 7)


def test_a_full_area_takes_nothing_more_and_the_others_do(tmp_path: Path) -> None:
    work = tmp_path / "work"
    code = f"open({str(work / 'full')!r}, 'w').close()\n" + CAREFUL
    plan, done, _ = program(tmp_path, code, full=("processed",), full_from=2)
    assert "No space left on device" in done.stderr
    assert kinds(plan)[-3:] == ["create staging", "write staging", "fsync staging"]


def lost(folder: Path, code: str) -> set[bytes | None]:
    """What a reader finds of a.parquet after a power loss at any operation; None is: not there."""
    plan, done, now = program(folder, code, journal=True)
    assert done.returncode == 0, done.stderr
    found: set[bytes | None] = set()
    for entry in journal.read(Path(plan.work)):
        now.take(entry)
        for policy in POLICIES:
            for seed in range(10):
                found.add(files_of(now.after_power_loss(policy, seed)).get("processed/a.parquet"))
    return found


def test_a_careful_program_leaves_its_file_whole_or_absent(tmp_path: Path) -> None:
    assert lost(tmp_path, CAREFUL) == {None, b"whole"}


@pytest.mark.parametrize("code", [UNSYNCED, IN_PLACE])
def test_a_careless_program_is_seen_to_leave_a_part(tmp_path: Path, code: str) -> None:
    assert lost(tmp_path, code) >= {None, b"", b"wh", b"whole"}


def test_a_name_is_on_the_disk_once_its_folders_are_synced(tmp_path: Path) -> None:
    """What was not synced at the end is not there, and a folder's own entry is in the folder above it."""
    for code, there in (
        (CAREFUL, True),
        (CAREFUL.replace('sync(root / "processed")\n', ""), False),
        (CAREFUL.replace("sync(root)\n", ""), False),
    ):
        folder = tmp_path / f"{there}-{len(code)}"
        plan, done, now = program(folder, code, journal=True)
        assert done.returncode == 0, done.stderr
        entries = journal.read(Path(plan.work))
        left = disk.replay(now, entries, len(entries)).after_power_loss("nothing unsynced")
        assert ("processed/a.parquet" in files_of(left)) == there
