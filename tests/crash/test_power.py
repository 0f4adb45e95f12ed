"""What is not synced may be lost, in part and in any order: files are whole or absent, and a run goes on from whatever
is left (RELIABILITY, row 2). What may be left is told by `faults/disk.py` from the operations of a run."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.crash.faults import disk, journal
from tests.crash.faults.disk import POLICIES, Disk, Tree, files_of
from tests.crash.faults.journal import Entry
from tests.crash.market import ALL_BUT_A_LATE_SEGMENT, Quiet, Root, Rows, rows_in, rows_of, spread, states_of

DRAWS = [(policy, seed) for policy in POLICIES for seed in range(3 if policy == "any of it" else 1)]


@dataclass
class Logged:
    """A run with all its operations, and what was on the disk before it."""

    root: Root
    work: Path
    initial: Disk
    entries: list[Entry]
    published_before: Rows

    def disks(self) -> Iterator[tuple[int, str, int, Tree]]:
        """Every disk that we draw of those that may be there after a power loss, at every operation."""
        now = copy.deepcopy(self.initial)
        for n in range(len(self.entries) + 1):
            if n:
                now.take(self.entries[n - 1])
            for policy, seed in DRAWS:
                yield n, policy, seed, now.after_power_loss(policy, seed)

    def restore(self, tree: Tree) -> None:
        """The power is back: the root holds this disk, and raw/ as it was."""
        for part in ("processed", "state"):
            shutil.rmtree(self.root.data / part, ignore_errors=True)
        disk.write_tree(tree, self.root.data)

    def whole(self) -> set[bytes]:
        """What published files hold when they are whole: before the run, or as they were moved to their names."""
        found = {content for path, content in published(self.initial.after_power_loss("nothing unsynced")).items()}
        for entry in self.entries:
            if entry.area == "processed" and entry.op in ("replace", "rename", "link"):
                found.add(journal.content(self.work, entry.inodes[-1]["bytes"]))
        return found


def published(tree: Tree) -> dict[str, bytes]:
    return {path: content for path, content in files_of(tree).items() if path.startswith("processed/")}


def logged_run(root: Root) -> Logged:
    plan = root.plan(journal=True)
    before = rows_of(root.data)
    initial = Disk(root.data, Path(plan.work))
    ended = root.run(plan)
    assert ended.code == 0, ended.err
    return Logged(root, Path(plan.work), initial, journal.read(Path(plan.work)), before)


@pytest.fixture(scope="module")
def first(trades: Quiet, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """The first run over a market."""
    return logged_run(trades.fresh(tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def late(trades: Quiet, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """A run after a late segment: its hour, the one behind it and the bars of their day are made again."""
    return logged_run(trades.fresh(tmp_path_factory.mktemp("late"), ALL_BUT_A_LATE_SEGMENT))


def test_the_layer_saw_files_that_are_not_synced(first: Logged, late: Logged) -> None:
    """Something can be lost, and the model says so: these tests test something."""
    for logged in (first, late):
        trees = [tree for _, _, _, tree in logged.disks()]
        assert len({str(sorted(files_of(tree))) for tree in trees}) > 10
        assert any(b"" in files_of(tree).values() for tree in trees)
        assert any(published(tree) for tree in trees)
    assert late.published_before


@pytest.mark.parametrize("run", ["first", "late"])
def test_a_published_file_is_whole_or_absent_after_a_power_loss(run: str, request: pytest.FixtureRequest) -> None:
    logged: Logged = request.getfixturevalue(run)
    whole = logged.whole()
    assert whole
    for n, policy, seed, tree in logged.disks():
        for path, content in published(tree).items():
            assert content in whole, f"{path}: {len(content)} bytes, after operation {n}, {policy} {seed}"


def test_nothing_that_was_published_is_lost_with_the_power(late: Logged, trades: Quiet) -> None:
    """Where a partition was, there is the old one or the new one: never none, and never both."""
    for n, policy, seed, tree in late.disks():
        now: Rows = {}
        for path, content in sorted(published(tree).items()):
            now.setdefault(str(Path(path).parent.relative_to("processed")), []).extend(rows_in(content))
        for partition, old in late.published_before.items():
            assert now.get(partition) in (old, trades.rows[partition]), (partition, n, policy, seed)


@pytest.mark.parametrize("run", ["first", "late"])
def test_what_a_run_says_is_done_is_on_the_disk(run: str, request: pytest.FixtureRequest, trades: Quiet) -> None:
    """The power goes right after exit code 0: nothing of the run is lost, and the next one has nothing to do."""
    logged: Logged = request.getfixturevalue(run)
    *_, (_, _, _, tree) = [found for found in logged.disks() if found[1] == "nothing unsynced"]
    logged.restore(tree)
    root = logged.root
    assert rows_of(root.data) == trades.rows
    assert states_of(root.data) == trades.states
    before = {path: path.stat().st_mtime_ns for path in (root.data / "processed").rglob("*")}
    root.ends_as_the_quiet_run()
    assert {path: path.stat().st_mtime_ns for path in (root.data / "processed").rglob("*")} == before


def restarted(logged: Logged, at: dict[int, list[tuple[str, int]]]) -> None:
    for n, policy, seed, tree in logged.disks():
        if (policy, seed) in at.get(n, ()):
            logged.restore(tree)
            try:
                logged.root.ends_as_the_quiet_run()
            except AssertionError as error:
                raise AssertionError(f"power lost after operation {n}, {policy} {seed}: {error}") from error


@pytest.mark.parametrize("run", ["first", "late"])
def test_a_rerun_after_a_power_loss_equals_no_power_loss(run: str, request: pytest.FixtureRequest) -> None:
    logged: Logged = request.getfixturevalue(run)
    points = [entry.n for entry in spread([e for e in logged.entries if e.op in ("replace", "fsync", "unlink")], 4)]
    restarted(logged, {n: [draw] for n, draw in zip(points, islice(cycle(reversed(DRAWS)), len(points)), strict=True)})


@pytest.mark.soak
@pytest.mark.parametrize("run", ["first", "late"])
def test_a_rerun_after_any_power_loss_equals_no_power_loss(run: str, request: pytest.FixtureRequest) -> None:
    logged: Logged = request.getfixturevalue(run)
    restarted(logged, dict.fromkeys(range(len(logged.entries) + 1), DRAWS))
