"""Compiled SQL runs as it is in a fresh DuckDB, and gives what `run` published."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from daedalus_etl import kernels, profiles
from tests.e2e.conftest import daedalus

SYMBOL = "BTC-USD"


@pytest.fixture(scope="module")
def target(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    result = daedalus("compile", "--data", market, "--symbol", "BTC/USDT", "--durations", "60,300", "--output", folder)
    assert result.exit_code == 0, result.output
    assert sorted(result.stdout.split()) == sorted(str(p) for p in folder.glob("*/*.sql"))
    return folder


def fresh(zone: str = "UTC", threads: int = 0) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(f"set TimeZone = '{zone}'")
    if threads:
        con.execute(f"set threads = {threads}")
    return con


def published(con: duckdb.DuckDBPyConnection, market: Path, table: str) -> None:
    files = [str(p) for p in (market / "processed" / table).glob(f"exchange=*/symbol={SYMBOL}/**/*.parquet")]
    assert files
    con.execute("create table published as select * from read_parquet(?, hive_partitioning = false)", [files])


def assert_same_rows(con: duckdb.DuckDBPyConnection, but: str = "") -> None:
    """Tables `compiled` and `published` hold the same rows, to the bit."""
    columns = f"* exclude ({but})" if but else "*"
    (count,) = con.execute("select count(*) from published").fetchone()
    assert con.execute("select count(*) from compiled").fetchone() == (count,)
    assert con.execute(f"select {columns} from compiled except all select {columns} from published").fetchall() == []


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("channel", ["trades", "ticker"])
def test_a_compiled_silver_model_gives_the_published_rows(market: Path, target: Path, channel: str, zone: str) -> None:
    con = fresh(zone)
    con.execute("create table compiled as " + (target / f"silver/{channel}.sql").read_text())
    published(con, market, f"silver/{channel}")
    assert_same_rows(con, but="lane_order")  # counts from the span's first row, not from the hour's


@pytest.mark.parametrize("channel", ["orderbook", "trades", "ticker"])
@pytest.mark.parametrize("seconds", [60, 300])
def test_compiled_bars_are_the_published_ones(market: Path, target: Path, channel: str, seconds: int) -> None:
    con = fresh("America/New_York", threads=1)
    con.execute("create table compiled as " + (target / f"gold/{channel}_bars.{seconds}s.sql").read_text())
    published(con, market, f"gold/{channel}_bars/{seconds}s")
    assert_same_rows(con)


@pytest.mark.parametrize("channel", ["orderbook", "trades", "ticker"])
def test_compiled_bronze_runs_with_the_defaults_of_duckdb(target: Path, channel: str) -> None:
    assert duckdb.connect().execute((target / f"bronze/{channel}.sql").read_text()).to_arrow_table().num_rows > 500


def test_a_model_with_a_kernel_compiles_to_its_input_and_its_shape(market: Path, target: Path) -> None:
    con = fresh("Asia/Tokyo")
    ordered = con.execute((target / "silver/orderbook.input.sql").read_text()).to_arrow_table()
    kernel = kernels.load("orderbook")(profiles.load("laptop").for_lane("demo", "BTC-USDT"))
    (trade_columns,) = kernel.reads_beside().values()
    con.execute("create table trades as " + (target / "bronze/trades.sql").read_text())
    trades = con.execute(
        f"select {', '.join(trade_columns)} from trades where not is_duplicate order by clock_us, lane_order"
    ).to_arrow_table()
    out, taken = kernel.advance(arrays(ordered, kernel.reads()), {"bronze.trades": arrays(trades, trade_columns)})
    assert 0 < taken["bronze.trades"] <= trades.num_rows
    for name, column in zip(kernel.columns, out, strict=True):
        ordered = ordered.append_column(name, pa.array(column, from_pandas=True))
    con.register("kernel_output", ordered)
    con.execute("create table compiled as " + (target / "silver/orderbook.shape.sql").read_text())
    published(con, market, "silver/orderbook")
    assert_same_rows(con, but="lane_order")


def arrays(table: pa.Table, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    found = {}
    for name in names:
        column = table.column(name).combine_chunks()
        column = column.fill_null(np.nan) if pa.types.is_floating(column.type) else column
        found[name] = column.to_numpy(zero_copy_only=False)
    return found


def test_start_and_end_choose_the_rows_that_are_shown(market: Path, tmp_path: Path) -> None:
    daedalus("compile", "--data", market, "--select", "silver.trades", "--symbol", "BTC-USDT", "--output", tmp_path,
             "--start", "2026-02-03T23:59", "--end", "2026-02-04T00:01")  # fmt: skip
    con = fresh()
    con.execute("create table compiled as " + (tmp_path / "silver/trades.sql").read_text())
    published(con, market, "silver/trades")
    con.execute("delete from published where clock_ts < '2026-02-03 23:59' or clock_ts >= '2026-02-04 00:01'")
    assert_same_rows(con, but="lane_order")


def test_all_lanes_compile_into_a_folder_each(market: Path, tmp_path: Path) -> None:
    result = daedalus("compile", "--data", market, "--select", "bronze.ticker", "--all-lanes", "--output", tmp_path)
    assert result.exit_code == 0
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.glob("**/*.sql"))] == [
        "exchange=demo/symbol=BTC-USDT/bronze/ticker.sql",
        "exchange=demo/symbol=SHIB-USDT/bronze/ticker.sql",
    ]


def test_bars_of_what_is_not_published_are_compiled_with_a_note(bronze: Path, tmp_path: Path) -> None:
    result = daedalus(
        "compile", "--data", bronze, "--select", "gold.ticker_bars", "--durations", "60", "--output", tmp_path
    )
    assert result.exit_code == 0
    assert "silver.ticker ticker demo BTC-USDT is not published yet" in result.stderr
    assert (
        "processed/silver/ticker/exchange=demo/symbol=BTC-USD/**/*.parquet"
        in (tmp_path / "gold/ticker_bars.60s.sql").read_text()
    )


def test_compile_touches_nothing_in_the_data_root(bronze: Path, tmp_path: Path) -> None:
    daedalus("compile", "--data", bronze, "--select", "silver.trades", "--output", tmp_path)
    assert [p.name for p in bronze.iterdir()] == ["raw"]
