"""`daedalus query` as a user types it: every model is a view, every format works, nothing can be written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.e2e.conftest import daedalus, typed


def rows(data: Path, sql: str) -> list[list[str]]:
    """A query's result through --format csv, without its header."""
    done = daedalus("query", "--data", data, "--format", "csv", sql)
    assert done.exit_code == 0, done.stderr
    return [line.split(",") for line in done.stdout.splitlines()[1:]]


def test_every_model_is_a_view(market: Path) -> None:
    tables = rows(market, "select database || '', schema || '.' || name from (show all tables) order by all")
    assert [name for _, name in tables] == [
        "bronze.orderbook", "bronze.ticker", "bronze.trades",
        "gold.orderbook_bars", "gold.ticker_bars", "gold.trades_bars",
        "silver.orderbook", "silver.ticker", "silver.trades",
    ]  # fmt: skip


def test_bars_of_all_durations_are_one_view(market: Path) -> None:
    found = rows(market, "select distinct bar_duration_sec from gold.orderbook_bars order by all")
    assert found == [["60"], ["300"]]


def test_bronze_is_all_lanes_with_sanitized_names_and_the_file(market: Path) -> None:
    found = rows(market, "select symbol, count(*) > 500, any_value(filename) like '%/symbol=' || symbol || '/%' "
                         "from bronze.ticker group by symbol order by symbol")  # fmt: skip
    assert found == [["BTC-USDT", "true", "true"], ["SHIB-USDT", "true", "true"]]


def test_bronze_leaves_torn_files_out_and_says_so(raw: Callable[..., Path]) -> None:
    data = raw("trades")
    torn = next(data.glob("raw/**/*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-10])
    result = daedalus("query", "--data", data, "select count(*) > 0 as ok from bronze.trades")
    assert result.exit_code == 0
    assert "true" in result.stdout
    assert "1 bronze segments cannot be used" in result.stderr
    assert [p.name for p in data.iterdir()] == ["raw"]  # nothing was written


def test_what_is_not_published_yet_is_empty_with_its_columns_and_a_note(bronze: Path) -> None:
    result = daedalus("query", "--data", bronze, "select count(*) as n, max(ofi) as top from silver.orderbook")
    assert result.exit_code == 0
    assert "nothing is there yet of silver.orderbook" in result.stderr
    assert f"daedalus run --data {bronze}" in result.stderr


def test_formats(market: Path, tmp_path: Path) -> None:
    sql = "select 'a|b' as name, 'nan'::double as x, [1, 2] as l, timestamptz '2026-02-03 00:00:00Z' as t"
    csv = daedalus("query", "--data", market, "--format", "csv", sql).stdout
    assert csv == 'name,x,l,t\na|b,nan,"[1, 2]",2026-02-03 00:00:00+00\n'
    found = json.loads(daedalus("query", "--data", market, "--format", "json", sql).stdout)
    assert found == [{"name": "a|b", "x": None, "l": [1, 2], "t": "2026-02-03 00:00:00+00"}]
    assert daedalus("query", "--data", market, "--format", "markdown", sql).stdout.splitlines() == [
        "| name | x | l | t |",
        "| --- | --- | --- | --- |",
        "| a\\|b | nan | [1, 2] | 2026-02-03 00:00:00+00 |",
    ]
    file = tmp_path / "out.parquet"
    assert daedalus("query", "--data", market, "--format", "parquet", "--output", file, sql).exit_code == 0
    assert duckdb.connect().execute("select name, l from read_parquet(?)", [str(file)]).fetchall() == [("a|b", [1, 2])]
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def test_a_redirected_result_does_not_empty_what_was_there(market: Path, tmp_path: Path) -> None:
    """DuckDB's own /dev/stdout would: it truncates the file."""
    file = tmp_path / "out.csv"
    with file.open("w") as out:
        for _ in range(2):
            command = [
                sys.executable,
                "-m",
                "daedalus_etl",
                "query",
                "--data",
                str(market),
                "--format",
                "csv",
                "select 1 as x",
            ]
            subprocess.run(command, stdout=out, check=True, cwd=Path(__file__).parents[2])
    assert file.read_text() == "x\n1\nx\n1\n"


def test_sql_comes_from_stdin(market: Path) -> None:
    assert typed("query", "--data", market, "--format", "csv", "-", stdin="select 41 + 1 as x;\n").stdout == "x\n42\n"


def test_views_do_not_know_hive_paths_by_their_looks(market: Path) -> None:
    """The columns are in the files; year would be a BIGINT of the path otherwise."""
    assert rows(market, "select distinct typeof(year), typeof(symbol) from silver.trades") == [["INTEGER", "VARCHAR"]]


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to '{data}/x.csv'",
        "select 1; copy silver.trades to '{data}/x.parquet'",
        "explain analyze copy (select 1) to '{data}/x.csv'",
        "export database '{data}/x'",
        "attach '{data}/x.db' as other",
        "install httpfs",
        "set allowed_directories = ['/']",
        "set enable_external_access = true",
        "create persistent secret s (type http, bearer_token 'x')",
        "from read_csv('/etc/passwd')",
        "from read_text('/proc/self/environ')",
        "from read_parquet('{data}/../*/*.parquet')",
        "call enable_logging(storage = 'file', storage_config = {{'path': '{data}/log'}})",
    ],
)  # fmt: skip
def test_a_query_writes_nothing_and_reads_nothing_else(market: Path, sql: str) -> None:
    before = sorted(market.rglob("*"))
    result = daedalus("query", "--data", market, sql.format(data=str(market).replace("'", "''")))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert sorted(market.rglob("*")) == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select nonsense(", "Parser Error: syntax error"),
        ("from silver.tradez", "Did you mean silver.trades?"),
        ("select nothing from silver.trades", 'Referenced column "nothing" not found'),
        ("select 1 / 'x'::int", "Conversion Error"),
        ("  ", "there is no SQL"),
    ],
)
def test_what_the_sql_does_wrong_is_said_without_a_traceback(market: Path, sql: str, message: str) -> None:
    done = daedalus("query", "--data", market, sql)  # an exception would go through
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_pivot_is_a_query(market: Path) -> None:
    result = daedalus("query", "--data", market, "pivot silver.trades on side using count(*) group by symbol")
    assert result.exit_code == 0, result.output


def test_no_data_root_is_wrong_usage(tmp_path: Path) -> None:
    result = daedalus("query", "--data", tmp_path / "nope", "select 1")
    assert result.exit_code == 2
    assert "nope: is no folder" in result.stderr


def test_a_closed_pipe_is_no_traceback(market: Path) -> None:
    command = (
        f"'{sys.executable}' -m daedalus_etl query --data \"{market}\" --format csv 'from silver.orderbook' | head -1"
    )
    done = subprocess.run(
        command, shell=True, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("exchange,symbol")
    assert done.stderr == ""
