"""What is not there, what could not be read, and what has another name now: three things that are not the same."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import audit, files, ledger, models, runner
from daedalus_etl.lanes import HOUR_US
from tests import harness, roots

MIDNIGHT = 1_770_076_800_000_000  # 2026-02-03
BOTH = ("+gold.trades_bars",)
VARIABLES = {"bar_durations": [60, 3600]}

Rows = list[dict[str, Any]]


def trades(hour: int, seed: int = 0, offset: float = 0, n: int = 20) -> Rows:
    pick = random.Random(hour * 100 + seed)
    return [
        {
            "capture_ts": (clock := MIDNIGHT + hour * HOUR_US + round((i * 3600 / n + offset) * 1_000_000)),
            "timestamp": clock // 1000, "trade_id": f"{hour}-{seed}-{i}", "side": pick.choice(["buy", "sell"]),
            "price": 100 + pick.random(), "amount": pick.random(),
        }
        for i in range(n)
    ]  # fmt: skip


def run(data: Path, *select: str, **more: Any) -> runner.Report:
    profile = harness.profile(data, **VARIABLES, **more.pop("variables", {}))
    graph = models.Graph(profile.projects, profile.variables)
    tell = more.pop("tell", lambda *_: None)
    return runner.Run(profile, graph, runner.Selection(select or BOTH, **more), tell).run()


def is_as_fresh(data: Path, **variables: Any) -> None:
    """Does the root hold what a run from nothing makes, and is nothing left to do?"""
    fresh = data.with_name(data.name + "-fresh")
    shutil.copytree(data / "raw", fresh / "raw")
    assert run(fresh, variables=variables).failed == []
    roots.assert_same(data, fresh)
    assert run(data, variables=variables).done == []


def partitions(report: runner.Report) -> list[str]:
    return [done["partition"] for done in report.done if done["model"].startswith("silver")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three hours of trades, run."""
    root = tmp_path / "data"
    for hour in range(3):
        harness.write_bronze(root, "trades", trades(hour), name="a")
    assert run(root).exit_code == 0
    return root


def segment(data: Path, hour: int, name: str = "a") -> Path:
    (path,) = data.glob(f"raw/**/hour={hour}/{name}.parquet")
    return path


def test_a_segment_that_could_not_be_read_once_is_taken_up_by_the_next_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.write_bronze(data, "trades", trades(1, seed=1, offset=7), name="b")

    def refuse(path: str | Path) -> str:
        if str(path).endswith("/b.parquet"):
            raise PermissionError(13, "Permission denied")
        return files.digest(Path(path).read_bytes())

    monkeypatch.setattr(audit.files, "digest_of", refuse)
    report = run(data)
    assert [reason for _, reason in report.quarantined] == ["cannot be read: Permission denied"]
    monkeypatch.undo()
    assert partitions(run(data))[0] == "2026-02-03T01"
    is_as_fresh(data)


def test_a_segment_that_comes_while_a_record_is_renewed_is_not_lost(data: Path) -> None:
    for hour in range(3):
        os.utime(segment(data, hour), ns=(1, 1))
    late = iter([True])

    def arrive(event: str, _: object) -> None:
        if event == "planned" and next(late, False):
            harness.write_bronze(data, "trades", trades(2, seed=4, offset=3), name="late")

    run(data, tell=arrive)
    run(data)
    is_as_fresh(data)


def test_a_segment_with_another_name_is_the_same_bronze(data: Path) -> None:
    path = segment(data, 1)
    path.rename(path.with_name("renamed.parquet"))
    assert run(data).warnings == []
    harness.write_bronze(data, "trades", trades(1, seed=3, offset=5), name="late")
    assert partitions(run(data))[0] == "2026-02-03T01"
    is_as_fresh(data)


def test_a_text_column_without_values_does_not_make_text_of_numbers_beside_it(tmp_path: Path) -> None:
    def book(second: int, nonce: int | None) -> dict[str, Any]:
        clock = MIDNIGHT + second * 1_000_000
        return {"capture_ts": clock, "timestamp": 1, "nonce": nonce, "bids": [(99.0, 1.0)], "asks": [(101.0, 1.0)]}

    harness.write_bronze(tmp_path, "orderbook", [book(0, 10), book(0, 9), book(1, 11)], name="a")
    (path,) = harness.write_bronze(tmp_path, "orderbook", [book(2, None)], name="b")
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index("nonce")
    pq.write_table(table.set_column(place, "nonce", pa.array([None], pa.string())), path)
    assert run(tmp_path, "silver.orderbook").exit_code == 0
    assert [row["nonce"] for row in harness.published(tmp_path, "silver/orderbook")] == [9, 10, 11, None]


def test_what_cannot_be_made_again_moves_with_its_lane_to_another_name(tmp_path: Path) -> None:
    for hour in range(3):
        harness.write_bronze(tmp_path, "trades", trades(hour), symbol="BTC-USDT", name="a")
    run(tmp_path)
    segment(tmp_path, 0).unlink()
    for hour in range(3):
        harness.write_bronze(tmp_path, "trades", trades(hour, seed=5), symbol="BTC-USD", name="a")
    moves = [x for x in roots.planned(tmp_path, "--durations", "60") if x["source_symbol"] == "BTC-USDT"]
    hours = [x["partition"] for x in moves if x["model"] == "silver.trades"]
    assert hours == ["2026-02-03T00", "2026-02-03T01", "2026-02-03T02"]
    assert {(x["symbol"], "BTC-USD, is to be BTC-USDT" in x["reason"]) for x in moves if x["partition"] in hours} == {
        ("BTC-USDT", True)
    }
    assert [x["partition"] for x in moves if x["model"] == "gold.trades_bars"] == ["2026-02-03"]
    run(tmp_path)
    for table, each in (("silver/trades", 60), ("gold/trades_bars/60s", 59)):
        found = harness.published(tmp_path, table, columns=["symbol", "source_symbol"], order=False)
        assert {(row["symbol"], row["source_symbol"]) for row in found} == {("BTC-USD",) * 2, ("BTC-USDT",) * 2}
        assert len(found) == 2 * each
    assert run(tmp_path).done == []


def test_a_state_of_other_variables_is_not_taken_up_behind_lost_bronze(tmp_path: Path) -> None:
    """vpin_window_buckets changes the form of a kernel's state: the lane begins anew, and says so."""
    for hour in range(3):
        harness.write_bronze(tmp_path, "trades", trades(hour, n=60), name="a")
        books = [{**row, "nonce": None, "bids": [(99.0, 1.0)], "asks": [(101.0, 1.0)]} for row in trades(hour, n=9)]
        harness.write_bronze(tmp_path, "orderbook", books, name="a")
    model = "silver.orderbook"
    run(tmp_path, model)
    for path in tmp_path.glob("raw/**/hour=0/a.parquet"):
        path.unlink()
    report = run(tmp_path, model, variables={"vpin_window_buckets": 7, "vpin_bucket_volume": 3})
    assert report.failed == []
    assert any("begins anew" in text for text in report.warnings)
    assert partitions(report) == ["2026-02-03T01", "2026-02-03T02"]


def test_a_silent_stretch_of_a_resampled_lane_is_made_once(tmp_path: Path) -> None:
    for hour in (0, 6):
        books = [{**row, "nonce": None, "bids": [(99.0, 1.0)], "asks": [(101.0, 1.0)]} for row in trades(hour)]
        harness.write_bronze(tmp_path, "orderbook", books, name="a")
    assert run(tmp_path, "silver.orderbook", variables={"resample_frequency": 60}).done
    assert run(tmp_path, "silver.orderbook", variables={"resample_frequency": 60}).done == []


def test_bars_are_not_made_of_a_part_of_their_rows(data: Path) -> None:
    """An hour before --start was walked and not written: the bars of its day are not there, rather than wrong."""
    shutil.rmtree(data / "processed")
    shutil.rmtree(data / "state")
    run(data, "silver.trades", start=MIDNIGHT + HOUR_US)
    assert run(data, "gold.trades_bars").done == []
    run(data)
    is_as_fresh(data)


def test_states_are_thinned_out_in_a_replay_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "HOURS_KEPT", 2)
    for hour in range(3, 8):
        harness.write_bronze(data, "trades", trades(hour), name="a")
    counts: list[int] = []

    def count(event: str, _: object) -> None:
        if event == "partition":
            counts.append(len(list(data.glob("state/silver.trades/**/*.state"))))

    run(data, "silver.trades")
    run(data, "silver.trades", full_refresh=True, tell=count)
    assert counts == [3] * 8
    run(data)
    is_as_fresh(data)


def test_a_kill_between_a_file_of_another_name_and_its_record_leaves_no_row_twice(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in data.glob("raw/**/*.parquet"):
        path.unlink()
    for hour in range(3):
        harness.write_bronze(data, "trades", trades(hour), symbol="ETH-USDT", name="a")
    run(data)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    place = files.place
    monkeypatch.setattr(files, "place", lambda *paths: (place(*paths), killed()))
    with pytest.raises(KeyboardInterrupt):
        run(data, variables={"normalize_quotes": False})
    monkeypatch.undo()
    run(data)
    found = harness.published(
        data, "silver/trades", "source_symbol = 'ETH-USDT'", columns=["symbol", "clock_ts"], order=False
    )
    assert len(found) == 60
    assert {row["symbol"] for row in found} == {"ETH-USD"}


def test_two_models_of_one_folder_are_refused(tmp_path: Path, data: Path) -> None:
    from daedalus_etl import profiles
    from daedalus_etl.errors import UsageError

    mine = tmp_path / "mine"
    (mine / "sql" / "silver").mkdir(parents=True)
    text = (profiles.shipped() / "sql/silver/trades.sql").read_text()
    (mine / "sql/silver/mine.sql").write_text(text.replace('channel="trades",', 'channel="trades", folder="trades",'))
    profile = profiles.load("laptop", mine)
    with pytest.raises(UsageError, match=r"is published in silver/trades, as silver\.\w+ is"):
        models.Graph(profile.projects, profile.variables)
