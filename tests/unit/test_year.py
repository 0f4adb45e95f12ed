"""The long history that is made in minutes is one that a run would have made: it is taken for one, and gone on from."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from daedalus_etl.lanes import DAY_US, HOUR_US, US, partition_path
from tests import harness, roots, year
from tests.watching import Watcher, wait_until

END_US = 1770163200 * US
ARGUMENTS = ("--select", "+gold.ticker_bars", "--durations", "3600")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("year")
    year.make(data, lanes=2, hours=60, end_us=END_US, workers=1)
    return data


def test_every_hour_is_taken_for_done(root: Path) -> None:
    assert len(roots.segments(root)) == 120
    assert year.is_up_to_date(root)
    assert roots.run(root, *ARGUMENTS).summary["made"] == 0


def test_a_missing_record_would_be_seen(tmp_path: Path) -> None:
    year.make(tmp_path, lanes=1, hours=30, end_us=END_US, workers=1)
    next((tmp_path / "state/silver.ticker").rglob("2026-02-03T04.json")).unlink()
    assert not year.is_up_to_date(tmp_path)


def test_its_bronze_is_valid_and_says_what_its_path_says(root: Path, tmp_path: Path) -> None:
    copy = roots.copied(root, tmp_path / "copy")
    for path in roots.segments(copy):
        if "YEAR002" in str(path) or roots.hour_of(path) * HOUR_US < END_US - 5 * HOUR_US:
            path.unlink()
    assert roots.run(copy, "--select", "silver.ticker").summary["rows"] == 5
    row = pq.ParquetFile(roots.segments(copy)[0]).read().to_pylist()[0]
    assert row["symbol"] == "YEAR001-EUR"
    assert (row["capture_ts"].minute, row["bid"]) == (1, 100.0)


def test_what_comes_next_is_all_that_is_made(tmp_path: Path) -> None:
    year.make(tmp_path, lanes=2, hours=48, end_us=END_US, workers=1)
    row = {"capture_ts": END_US + 5 * US, "bid": 1.0, "ask": 1.1}
    harness.write_bronze(tmp_path, "ticker", [row], exchange="demo", symbol="YEAR001-EUR", name="next")
    done = roots.run(tmp_path, *ARGUMENTS)
    assert done.made("silver.ticker") == ["2026-02-04T00"]
    assert {event["source_symbol"] for event in done.of("partition")} == {"YEAR001-EUR"}


def test_a_lane_lies_where_its_hours_say(root: Path) -> None:
    folder = root / "raw/ready/ccxt/ticker" / partition_path("demo", "YEAR001-EUR", END_US - DAY_US)
    assert len(list(folder.glob("*.parquet"))) == 1


def test_a_watcher_follows_it(tmp_path: Path) -> None:
    """What the cost of a quiet cycle is measured on must be lanes that are followed."""
    year.make(tmp_path / "data", lanes=2, hours=60, end_us=END_US, workers=1)
    with Watcher(tmp_path / "data", tmp_path / "scratch", *year.WATCH_OPTIONS, "--log-format", "json") as watcher:
        wait_until(lambda: "Watching" in watcher.log, 60, lambda: watcher.log)
        row = {"capture_ts": END_US + 5 * US, "bid": 1.0, "ask": 1.1}
        harness.write_bronze(tmp_path / "data", "ticker", [row], exchange="demo", symbol="YEAR001-EUR", name="next")
        made = tmp_path / "data/processed/silver/ticker" / partition_path("demo", "YEAR001-EUR", END_US)
        wait_until(lambda: list(made.glob("*.parquet")), 20, lambda: watcher.log)
        assert watcher.terminate()[0] == 0
        assert "failed" not in watcher.log
