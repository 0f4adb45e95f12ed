"""Rows that are taken back, bronze that is lost at a bad moment, and hours that `watch` had left open: what stays, what
goes, and that a lane always goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from daedalus_etl import files, ledger, models, runner
from daedalus_etl.silver import Walk
from tests import harness, roots
from tests.e2e.conftest import daedalus
from tests.e2e.test_late import SILVER, delete, folder_of, fresh, given, late, name_of
from tests.roots import DAY, HOUR, rows_of
from tests.watching import Watcher, wait_until

BOOKS = ("--select", "tag:orderbook", "--durations", "3600")
TRADES = ("--select", "tag:trades", "--durations", "60")
SMALL_BUCKETS = {"vpin_bucket_volume": 7.0}


def by_hour(data: Path, table: str = "silver/trades") -> Counter[int]:
    """Published rows of each hour, counted from the first midnight."""
    return Counter((row["clock_ts"] - DAY) // HOUR for row in harness.published(data, table))


def run_and_meanwhile(data: Path, partition: str, happens: Any) -> runner.Report:
    """A full refresh of trades; when a partition is in, something happens."""
    profile = harness.profile(data)
    selection = runner.Selection(models=("silver.trades", "gold.trades_bars"), full_refresh=True)
    once = iter([happens])

    def tell(event: str, details: Mapping[str, Any]) -> None:
        if event == "partition" and details["partition"] == partition and details["model"] == "silver.trades":
            next(once, lambda: None)()

    return runner.Run(profile, models.Graph(profile.projects, profile.variables), selection, tell).run()


def emptied(path: Path) -> None:
    pq.write_table(pq.ParquetFile(path).read().slice(0, 0), path)


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.parquet")
    return path


def books(data: Path, hours: Iterable[int], monkeypatch: pytest.MonkeyPatch, states: int) -> dict[str, bytes]:
    """Books and trades of these hours, run, with the states of the newest hours only. Returns what silver has."""
    monkeypatch.setattr(ledger, "HOURS_KEPT", states)
    given(data, hours, "trades", "orderbook")
    roots.run(data, *BOOKS, **SMALL_BUCKETS)
    return {name: content for name, content in roots.contents(data).items() if name.startswith("silver/")}


def lose(data: Path, *hours: int) -> None:
    for channel in ("trades", "orderbook"):
        delete(data, *hours, channel=channel)


# -- while a run is at work -----------------------------------------------------------------------------------------


def test_bronze_that_is_deleted_under_a_run_takes_nothing_back(tmp_path: Path) -> None:
    data = given(tmp_path / "data", range(5))
    late(data, 4, [2.5])
    roots.run(data, *SILVER)
    before = by_hour(data)

    def deleted() -> None:
        delete(data, 3)
        delete(data, 4, name="late")

    assert run_and_meanwhile(data, name_of(0), deleted).exit_code == 0
    assert by_hour(data) == before
    assert roots.run(data, *SILVER).made("silver.trades") == []


def test_bronze_that_is_torn_under_a_run_takes_nothing_back(tmp_path: Path) -> None:
    data = given(tmp_path / "data", range(3))
    roots.run(data, *SILVER)
    before, path = by_hour(data), only(folder_of(data, 2))
    report = run_and_meanwhile(data, name_of(0), lambda: path.write_bytes(path.read_bytes()[:-9]))
    assert report.exit_code == 1
    assert by_hour(data) == before


def test_bronze_that_is_deleted_from_an_hour_that_is_only_walked_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows it would be made of a state that is not that of the hour; it stays as it is."""
    data = tmp_path / "data"
    books(data, range(8), monkeypatch, states=2)
    kept = roots.contents(data)
    late(data, 4, [10.5], "orderbook", salt=9)
    step, gone = Walk.step, iter([True])

    def walked(self: Walk, *given_: Any, **named: Any) -> Any:
        if next(gone, False):
            lose(data, 2)
        return step(self, *given_, **named)

    monkeypatch.setattr(Walk, "step", walked)
    roots.run(data, *BOOKS, **SMALL_BUCKETS)
    assert next(gone, True), "no hour was walked over"
    assert roots.contents(data) == kept


# -- behind lost bronze ---------------------------------------------------------------------------------------------


def test_a_late_row_whose_past_is_lost_keeps_no_later_hour_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    kept = books(data, range(10), monkeypatch, states=3)
    lose(data, 0, 1, 2)
    late(data, 5, [10.5, 20.5], "orderbook", salt=9)
    ran = roots.run(data, *BOOKS, **SMALL_BUCKETS)
    assert (ran.made("silver.orderbook"), f"{name_of(5)} stays as it is" in ran.warnings) == ([], True)
    given(data, (10, 11), "trades", "orderbook")
    assert roots.run(data, *BOOKS, **SMALL_BUCKETS).made("silver.orderbook") == [name_of(10), name_of(11)]
    assert roots.run(data, *BOOKS, **SMALL_BUCKETS).made("silver.orderbook") == []
    assert kept.items() <= roots.contents(data).items()


@pytest.mark.parametrize("there", [True, False])
def test_a_late_row_right_behind_lost_bronze_makes_nothing_again_that_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """In an hour that is in, or in one that had no row yet."""
    data = tmp_path / "data"
    kept = books(data, [hour for hour in range(10) if there or hour != 3], monkeypatch, states=3)
    lose(data, 0, 1, 2)
    late(data, 3, [10.5, 20.5], "orderbook", salt=9)
    assert roots.run(data, *BOOKS, **SMALL_BUCKETS).made("silver.orderbook") == ([] if there else [name_of(3)])
    assert kept.items() <= roots.contents(data).items()


def test_a_day_whose_silver_is_gone_for_good_keeps_no_other_back(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1, 25))
    roots.run(data, *TRADES)
    delete(data, 0)
    (lost,) = (path for name, path in roots.files(data).items() if "silver" in name and "hour=0/" in name)
    lost.unlink()
    late(data, 1, [3.3])
    given(data, (26,))
    ran = roots.run(data, *TRADES, code=1)
    assert "is gone" in ran.of("failed")[0]["error"]
    assert "2026-02-04" in ran.made("gold.trades_bars")


def test_a_name_changes_though_what_had_the_old_one_is_lost(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1, 2), symbol="BTC-USDT")
    roots.run(data, *SILVER)
    only(folder_of(data, 0, symbol="BTC-USDT")).unlink()
    (lost,) = (path for name, path in roots.files(data).items() if "hour=0/" in name)
    lost.unlink()
    given(data, (0,), symbol="BTC-USDC")
    ran = roots.run(data, *SILVER)
    assert ran.made("silver.trades", "BTC-USDT") == [name_of(1), name_of(2)]
    assert not [name for name in roots.files(data) if "symbol=BTC-USD/" in name]


def test_hours_before_a_start_have_the_new_name_too(tmp_path: Path) -> None:
    """Else two lanes' rows would lie under one name."""
    data = given(tmp_path / "data", range(3), symbol="BTC-USDT")
    roots.run(data, *SILVER)
    given(data, range(3), symbol="BTC-USD")
    roots.run(data, *SILVER, "--start", "2026-02-03T02")
    of = {(row["symbol"], row["source_symbol"]) for row in harness.published(data, "silver/trades")}
    assert of == {("BTC-USD", "BTC-USD"), ("BTC-USDT", "BTC-USDT")}


# -- rows that are taken back ---------------------------------------------------------------------------------------

GRID = {"resample_frequency": 60, "fill_gaps": "true", "resample_max_staleness": 1800}
SILVER_BOOKS = ("--select", "silver.orderbook")


def test_a_grid_ends_earlier_when_its_last_rows_are_taken_back(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0,), "orderbook")
    roots.run(data, *SILVER_BOOKS, **GRID)
    late(data, 0, range(1, 31, 4), "orderbook", name="a")
    roots.run(data, *SILVER_BOOKS, **GRID)
    roots.assert_same(data, fresh(data, *SILVER_BOOKS, **GRID))


def test_a_grid_ends_earlier_when_the_hour_behind_it_is_emptied(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1), "orderbook")
    roots.run(data, *SILVER_BOOKS, **GRID)
    emptied(only(folder_of(data, 1, "orderbook")))
    roots.run(data, *SILVER_BOOKS, **GRID)
    roots.assert_same(data, fresh(data, *SILVER_BOOKS, **GRID))


def test_a_grid_stays_when_the_bronze_behind_it_is_deleted(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1, 2), "orderbook")
    roots.run(data, *SILVER_BOOKS, **GRID)
    kept = roots.contents(data)
    delete(data, 2, channel="orderbook")
    roots.run(data, *SILVER_BOOKS, **GRID)
    assert roots.contents(data) == kept


@pytest.mark.parametrize("ends", ["01:30", "01:15"])
def test_a_smaller_end_neither_cuts_nor_adds(tmp_path: Path, ends: str) -> None:
    data = given(tmp_path / "data", range(3))
    roots.run(data, *SILVER, "--end", "2026-02-03T01:30")
    late(data, 1, [3.3])
    roots.run(data, *SILVER, "--end", f"2026-02-03T{ends}")
    clocks = [(row["clock_ts"] - DAY - HOUR) / HOUR for row in harness.published(data, "silver/trades")]
    assert 0.45 < max(clocks) < 0.5


def test_bars_go_with_the_rows_that_proved_their_end(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (22, 23, 24))
    roots.run(data, *TRADES)
    emptied(only(folder_of(data, 24)))
    roots.run(data, *TRADES)
    roots.assert_same(data, fresh(data, *TRADES))


def test_bars_go_with_all_rows_of_their_lane(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1))
    given(data, (0,), symbol="OTHER-EUR")
    roots.run(data, *TRADES)
    for hour in (0, 1):
        emptied(only(folder_of(data, hour)))
    roots.run(data, *TRADES)
    roots.assert_same(data, fresh(data, *TRADES))


# -- hours that were followed, and never closed ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that was watched, with an open hour of two segments; the watcher has ended."""
    folder = tmp_path_factory.mktemp("followed")
    data = given(folder / "data", (0, 1))
    with Watcher(data, folder / "scratch", "--poll-interval", "0.3", "--durations", "60") as watcher:
        watcher.wait_ready(120)
        late(data, 1, [59.5], name="b")
        wait_until(lambda: by_hour(data)[1] == 16, 60, lambda: watcher.log)
        wait_until(lambda: len(harness.published(data, "gold/trades_bars/60s")) == 30, 60, lambda: watcher.log)
        assert watcher.terminate()[0] == 0
    assert list(data.rglob(f"{name_of(1)}.open"))
    return data


@pytest.fixture
def left_open(followed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(followed, tmp_path / "data"))


def sizes(data: Path) -> tuple[int, int]:
    return len(harness.published(data, "silver/trades")), len(harness.published(data, "gold/trades_bars/60s"))


@pytest.mark.parametrize("name", ["*", "b", "a"])
def test_what_is_published_of_an_open_hour_stays_when_its_bronze_is_deleted(left_open: Path, name: str) -> None:
    delete(left_open, 1, name=name)
    assert "was lost before" in roots.run(left_open, *TRADES).warnings
    assert sizes(left_open) == (31, 30)
    assert list(left_open.rglob("*.open*")) == []
    given(left_open, (2,))
    roots.run(left_open, *TRADES)
    assert sizes(left_open)[0] == 46
    assert roots.run(left_open, *TRADES).summary["made"] == 0


def test_what_is_published_of_an_open_hour_stays_when_its_bronze_is_torn(left_open: Path) -> None:
    (path,) = folder_of(left_open, 1).glob("a.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    roots.run(left_open, *TRADES, code=1)
    assert sizes(left_open) == (31, 30)


def test_what_is_published_of_an_open_hour_goes_when_its_rows_are_taken_back(left_open: Path) -> None:
    for path in folder_of(left_open, 1).iterdir():
        emptied(path)
    roots.run(left_open, *TRADES)
    roots.assert_same(left_open, fresh(left_open, *TRADES))


def test_an_open_hour_whose_record_was_not_written_any_more_stays_when_its_bronze_goes(
    left_open: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one file had taken the place of the parts that the journal names."""

    def full(self: ledger.Ledger, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "_replace", full)
        roots.run(left_open, *SILVER, code=1)
    (one,) = (name for name in roots.files(left_open) if "silver" in name and "hour=1/" in name)
    assert one.endswith(f"/{name_of(1)}-f92d2c8e.parquet")
    delete(left_open, 1, name="b")
    for _ in range(2):
        roots.run(left_open, *TRADES)
        assert sizes(left_open) == (31, 30)


def test_an_end_cuts_nothing_that_was_followed(left_open: Path) -> None:
    roots.run(left_open, *TRADES, "--end", "2026-02-03T01:20")
    assert sizes(left_open) == (31, 30)


def test_an_open_hour_moves_to_the_lanes_new_name_though_its_bronze_is_gone(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0, 1), symbol="BTC-USDT")
    with Watcher(data, tmp_path / "scratch", "--poll-interval", "0.3", "--durations", "60") as watcher:
        watcher.wait_ready(120)
        wait_until(lambda: by_hour(data)[1] == 15, 60, lambda: watcher.log)
        assert watcher.terminate()[0] == 0
    shutil.rmtree(folder_of(data, 1, symbol="BTC-USDT"))
    given(data, (0,), symbol="BTC-USDC")
    roots.run(data, *TRADES)
    rows = harness.published(data, "silver/trades")
    assert Counter(row["symbol"] for row in rows) == {"BTC-USDT": 30, "BTC-USDC": 15}
    assert not [name for name in roots.files(data) if "symbol=BTC-USD/" in name]


# -- times and damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [datetime(1969, 12, 31, 22, 30, tzinfo=UTC), datetime(999, 1, 1, 5, 30, tzinfo=UTC)])
def test_times_long_ago_are_times(tmp_path: Path, when: datetime) -> None:
    """Books and trades before 1970, and years that do not fill four digits: run, run again, and something late."""
    data, begin = tmp_path / "data", round((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    for channel in ("orderbook", "trades"):
        rows = [{**row, "capture_ts": row["capture_ts"] - DAY + begin, "timestamp": None}
                for row in rows_of(channel, 0, [1, 2, 3])]  # fmt: skip
        harness.write_bronze(data, channel, rows, symbol="ABC-EUR")
    first = roots.run(data, "--durations", "60")
    assert first.summary["made"] == 4
    assert roots.run(data, "--durations", "60").summary["made"] == 0
    rows = [{**row, "capture_ts": row["capture_ts"] - DAY + begin - HOUR, "timestamp": None}
            for row in rows_of("trades", 0, [5])]  # fmt: skip
    harness.write_bronze(data, "trades", rows, symbol="ABC-EUR", name="late")
    roots.run(data, "--durations", "60")
    roots.assert_same(data, fresh(data, "--durations", "60"))


def test_windows_may_be_longer_than_half_an_hour(tmp_path: Path) -> None:
    data = given(tmp_path / "data", (0,), "trades", "ticker")
    roots.run(data, "--select", "silver.trades silver.ticker", rolling_windows="3600")
    rows = harness.published(data, "silver/trades")
    assert [row["volume_3600s"] for row in rows] == list(accumulate(row["amount"] for row in rows))


@pytest.mark.parametrize("what", ["record", "head", "journal"])
def test_damaged_state_is_named_with_a_cure_or_made_good(left_open: Path, what: str) -> None:
    (folder,) = (left_open / "state").glob("silver.trades/*/*")
    path = folder / {"record": f"{name_of(0)}.json", "head": "head.json", "journal": f"{name_of(1)}.open"}[what]
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"\0" * 20 if what == "head" else b"".join([lines[0], lines[1][:9] + b"\n", *lines[2:]]))
    assert daedalus("status", "--data", left_open).exit_code in (0, 1)
    if what == "head":
        roots.run(left_open, *TRADES)
        return
    late(left_open, 0, [3.3])
    error = roots.run(left_open, *TRADES, code=1).of("failed")[0]["error"]
    assert str(path) in error
    assert "Remove it" in error


def test_a_swap_that_failed_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "processed" / "hour"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    for refuses in (True, False):
        staged = tmp_path / "new.part"
        staged.write_text("new")
        with monkeypatch.context() as patch:
            if refuses:
                patch.setattr(files, "sync_folder", full)
                with pytest.raises(OSError, match="No space"):
                    files.place_instead({"new": staged}, folder, ["old"])
                continue
            files.place_instead({"new": staged}, folder, ["old"])
    assert [path.read_text() for path in folder.iterdir()] == ["new"]
