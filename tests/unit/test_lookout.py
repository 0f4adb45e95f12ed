"""Who looks at bronze's folders: everything new is seen, once, and each old folder within the hour."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from daedalus_etl import lookout
from daedalus_etl.lanes import HOUR_US, Lane, partition_path
from daedalus_etl.lookout import NEWEST, SWEPT_IN, Bell, Changes, Lookout, files_in

HOUR = 491_000  # since the epoch
LANE = Lane("kraken", "BTC-USD", "trades")


class Bronze:
    """A channel's root, made folder by folder; each change has a later time than the one before."""

    def __init__(self, root: Path):
        self.root = root
        self.root.mkdir()
        self.clock = 10**18

    def folder(self, hour: int, lane: Lane = LANE) -> Path:
        return self.root / partition_path(lane.exchange, lane.symbol, hour * HOUR_US)

    def put(self, hour: int, name: str = "a.parquet", lane: Lane = LANE) -> Path:
        return self.put_in(self.folder(hour, lane), name)

    def put_in(self, folder: Path, name: str) -> Path:
        there = [path for path in (folder, *folder.parents) if self.root in (path, *path.parents) and path.is_dir()]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        made = folder
        while made not in there:
            self.touch(made)
            made = made.parent
        self.touch(made)
        self.touch(folder)
        return folder / name

    def touch(self, path: Path) -> None:
        self.clock += 10**9
        os.utime(path, ns=(self.clock, self.clock))


@pytest.fixture
def bronze(tmp_path: Path) -> Bronze:
    return Bronze(tmp_path / "trades")


def begun(bronze: Bronze) -> Lookout:
    looks = Lookout({"trades": bronze.root})
    looks.begin()
    return looks


def hours(found: Changes) -> list[int]:
    return sorted(hour - HOUR for _, hour, _ in found.hours)


def test_the_first_look_sees_all_and_the_next_one_nothing(bronze: Bronze) -> None:
    for hour in (0, 1, 200):
        bronze.put(HOUR + hour)
    looks = Lookout({"trades": bronze.root})
    found = looks.begin()
    assert hours(found) == [0, 1, 200]
    assert found.lanes == {LANE}
    assert looks.look(10 * SWEPT_IN) == Changes()


def test_a_new_file_a_new_hour_and_a_new_lane_are_seen_at_the_next_look_and_once(bronze: Bronze) -> None:
    bronze.put(HOUR)
    looks = begun(bronze)
    bronze.put(HOUR, "b.parquet")
    bronze.put(HOUR + 30)
    other = Lane("kraken", "ETH-USD", "trades")
    bronze.put(HOUR, lane=other)
    found = looks.look(0)
    assert hours(found) == [0, 0, 30]
    assert found.lanes == {other}
    assert looks.look(0) == Changes()


@pytest.mark.parametrize("back", [NEWEST - 1, NEWEST])
def test_the_newest_hours_are_looked_at_in_every_cycle_and_older_ones_in_turn(bronze: Bronze, back: int) -> None:
    for hour in range(NEWEST + 40):
        bronze.put(HOUR + hour)
    looks = begun(bronze)
    late = NEWEST + 39 - back
    bronze.put(HOUR + late, "late.parquet")
    assert hours(looks.look(0)) == ([late] if back < NEWEST else [])
    seen = [hours(looks.look(SWEPT_IN / 20)) for _ in range(21)]
    assert [one for one in seen if one] == ([] if back < NEWEST else [[late]])


def test_every_old_folder_is_seen_within_the_hour_whatever_its_name(bronze: Bronze) -> None:
    old = [HOUR + 7 * hour for hour in range(60)]
    padded = []
    for hour in old:
        bronze.put(hour)
        path = bronze.folder(hour)
        padded.append(path.with_name(f"hour=0{path.name.partition('=')[2]}"))
        bronze.put_in(padded[-1], "a.parquet")
    bronze.put(HOUR + 5000)
    looks = begun(bronze)
    for hour, path in zip(old, padded, strict=True):
        bronze.put(hour, "late.parquet")
        bronze.put_in(path, "late.parquet")
    found = [path for _ in range(120) for *_, path in looks.look(30).hours]
    assert sorted(found) == sorted(map(str, [*(bronze.folder(hour) for hour in old), *padded]))


def test_an_hour_that_is_new_in_an_old_day_is_seen(bronze: Bronze) -> None:
    bronze.put(HOUR)
    bronze.put(HOUR + 500)
    looks = begun(bronze)
    bronze.put(HOUR + 1)
    assert hours(looks.look(SWEPT_IN)) == [1]


def test_a_file_outside_of_hour_folders_is_said(bronze: Bronze) -> None:
    bronze.put(HOUR)
    looks = begun(bronze)
    bronze.put_in(bronze.root / "exchange=kraken" / "symbol=BTC-USD", "flat.parquet")
    assert looks.look(0).loose == {"trades"}


def test_the_folders_to_be_told_of_are_each_lane_s_newest_and_those_above(
    bronze: Bronze, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for hour in range(4):
        bronze.put(HOUR + hour)
    limit = tmp_path / "limit"
    monkeypatch.setattr("daedalus_etl.lookout.WATCHES", limit)
    looks = begun(bronze)
    limit.write_text("1000")
    assert {str(bronze.folder(HOUR + hour)) for hour in range(4)} < set(looks.to_watch())
    above = 1 + len(partition_path("e", "s", HOUR * HOUR_US).split("/")) - 1
    limit.write_text(str(4 * (above + 2)))  # of which a quarter is ours: room for two hours
    found = [path for path in looks.to_watch() if "/hour=" in path]
    assert found == [str(bronze.folder(HOUR + 3)), str(bronze.folder(HOUR + 2))]


def test_files_in_a_folder_are_the_segments(bronze: Bronze) -> None:
    for name in (".hidden.parquet", "_temporary.parquet", "a.parquet", "b.parquet.part"):
        bronze.put(HOUR, name)
    assert files_in(str(bronze.folder(HOUR))) == [str(bronze.folder(HOUR) / "a.parquet")]
    assert files_in(str(bronze.folder(HOUR + 1))) == []


def test_a_bell_rings_for_a_new_file(bronze: Bronze) -> None:
    bronze.put(HOUR)
    heard, rung, failed = set(), threading.Event(), []

    def changed(paths: object) -> None:
        heard.update(paths)  # type: ignore[call-overload]
        rung.set()

    bell = Bell(changed, failed.append)
    try:
        assert bell.watch([str(bronze.folder(HOUR))])
        assert not bell.watch([str(bronze.folder(HOUR))]), "the same watches are not set anew"
        deadline = time.monotonic() + 10
        while not rung.wait(0.2) and time.monotonic() < deadline:
            bronze.put(HOUR, "b.parquet")
    finally:
        bell.close()
    assert str(bronze.folder(HOUR) / "b.parquet") in heard
    assert failed == []


def test_a_bell_sleeps_longer_when_nothing_happens_and_still_rings(
    bronze: Bronze, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return super().is_set()

    monkeypatch.setattr(lookout, "QUIET_AFTER", 0.2)
    monkeypatch.setattr(threading, "Event", Counted)
    bronze.put(HOUR)
    rung, failed = threading.Event(), []
    bell = Bell(lambda _: rung.set(), failed.append)
    try:
        bell.watch([str(bronze.folder(HOUR))])
        time.sleep(1.2)
        asked = bell._stop.asked  # type: ignore[attr-defined]
        assert 3 <= asked < 40, "60 of the short steps"
        bronze.put(HOUR, "b.parquet")
        assert rung.wait(10)
    finally:
        bell.close()
    assert failed == []


def test_a_bell_says_that_a_folder_is_gone(tmp_path: Path) -> None:
    failed: list[str] = []
    said = threading.Event()
    bell = Bell(lambda _: None, lambda text: (failed.append(text), said.set()))  # type: ignore[func-returns-value]
    try:
        bell.watch([str(tmp_path / "gone")])
        assert said.wait(10)
    finally:
        bell.close()
    assert len(failed) == 1
