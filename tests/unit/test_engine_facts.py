"""Facts about the engines that the code depends on (FACTS.md): an upgrade that breaks one fails here by name."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numba import njit

from daedalus_etl import files
from daedalus_etl.engine import Slot, connect
from tests import harness


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """One thread, as the runner has it."""
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("set TimeZone = 'UTC'")
    yield connection
    connection.close()


def one(con: duckdb.DuckDBPyConnection, expression: str) -> Any:
    found = con.execute(f"select {expression}").fetchone()
    assert found is not None
    return found[0]


# -- versions ------------------------------------------------------------------------------------------------------


def test_duckdb_is_1_5() -> None:
    """2.0.0 loses rows in ASOF JOIN over hive columns and calls things otherwise (FACTS 1, 2)."""
    assert duckdb.__version__.startswith("1.5.")


def test_pyarrow_runs_on_a_raspberry_pi_4() -> None:
    assert int(pa.__version__.split(".")[0]) >= 22


# -- order ---------------------------------------------------------------------------------------------------------


def test_an_order_below_an_aggregate_is_kept(con: duckdb.DuckDBPyConnection) -> None:
    """Bars are sums of floats over slices in their order, and slices come ordered from a query of their own."""
    con.execute(
        "create table t as select i % 3 as bar, hash(i) as moment, hash(i) % 1000 / 7 as x from range(9000) r(i)"
    )

    def sums(rows: str) -> list[tuple[int, float]]:
        sql = f"with slices as materialized ({rows}) select bar, sum(x) from slices group by bar order by bar"
        return con.execute(sql).fetchall()

    want = dict.fromkeys(range(3), 0.0)
    for bar, x in con.execute("select bar, x from t order by moment").fetchall():
        want[bar] += x
    assert sums("select * from t order by moment") == list(want.items())
    assert sums("select * from t") != list(want.items())  # it makes a difference


# -- ASOF JOIN -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_asof_join_on_hive_columns_loses_no_row(con: duckdb.DuckDBPyConnection, tmp_path: Path, threads: int) -> None:
    """2.0.0 finds 8 of these 2,400 (duckdb pull request #24891)."""
    start, second = 1_770_076_800_000_000, 1_000_000
    for exchange, symbol in (("a", "BTC-USDT"), ("a", "ETH-USDT"), ("b", "BTC-USDT-USDT"), ("c", "ETH-USD-ETH")):
        for channel, n, step in (("ticker", 1200, 6), ("trades", 600, 12)):
            rows = [{"capture_ts": start + (k * step + (n == 600)) * second, "bid": float(k)} for k in range(n)]
            harness.write_bronze(tmp_path, channel, rows, exchange=exchange, symbol=symbol)
    con.execute(f"set threads = {threads}")
    joined = """
        from read_parquet($1, hive_partitioning = true) as l
        asof join read_parquet($2, hive_partitioning = true) as r
        on l.exchange = r.exchange and l.symbol = r.symbol and l.capture_ts >= r.capture_ts
    """
    globs = [f"{tmp_path}/raw/ready/ccxt/{channel}/**/*.parquet" for channel in ("trades", "ticker")]
    assert con.execute(f"select count(*), count(distinct r.bid) {joined}", globs).fetchone() == (2400, 600)
    late = f"select count(*) {joined} where l.capture_ts <> r.capture_ts + interval 1 second"
    assert con.execute(late, globs).fetchone() == (0,)


RIGHT = "(values (10, 'a'), (20, 'b'), (30, 'c')) as r (clock, value)"
LEFT = "(values (9), (10), (19), (20), (21), (99)) as l (clock)"


def test_asof_join_finds_the_last_at_or_before_or_strictly_before(con: duckdb.DuckDBPyConnection) -> None:
    for sign, want in ((">=", [None, "a", "a", "b", "b", "c"]), (">", [None, None, "a", "a", "b", "c"])):
        sql = f"select r.value from {LEFT} asof left join {RIGHT} on l.clock {sign} r.clock order by l.clock"
        assert [value for (value,) in con.execute(sql).fetchall()] == want


def test_asof_join_takes_an_expression_of_the_left_side(con: duckdb.DuckDBPyConnection) -> None:
    sql = f"select r.value from {LEFT} asof left join {RIGHT} on l.clock - 10 >= r.clock order by l.clock"
    assert [value for (value,) in con.execute(sql).fetchall()] == [None, None, None, "a", "a", "c"]


# -- order ---------------------------------------------------------------------------------------------------------

ROWS = 300_000


def shuffled(n: int) -> pa.Table:
    keys = list(range(n))
    random.Random(1).shuffle(keys)
    return pa.table({"key": keys, "half": [k / 2 for k in keys]})


@pytest.mark.parametrize("threads", [1, 2])
def test_copy_of_one_ordered_file_keeps_its_order(con: duckdb.DuckDBPyConnection, tmp_path: Path, threads: int) -> None:
    con.execute(f"set threads = {threads}")
    con.register("given", shuffled(ROWS))
    con.execute(
        "copy (select * from given order by key) to $1 (format parquet, row_group_size 8192)", [str(tmp_path / "a")]
    )
    assert pq.ParquetFile(tmp_path / "a").num_row_groups > 10
    assert pq.ParquetFile(tmp_path / "a").read()["key"].to_numpy().tolist() == list(range(ROWS))


def three_files(folder: Path) -> list[str]:
    """Files of 0..n-1, n..2n-1, 2n..3n-1, whose names are in another order."""
    paths = []
    for i, name in enumerate(("z", "a", "m")):
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"n": range(i * ROWS // 3, (i + 1) * ROWS // 3)}), path, row_group_size=10_000)
        paths.append(str(path))
    return paths


def test_a_bound_list_of_files_is_read_in_its_order(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    con.execute("set variable files = $1", [three_files(tmp_path)])
    read = "read_parquet(getvariable('files'), hive_partitioning = false, union_by_name = true)"
    found = con.execute(f"select n, file_index, file_row_number from {read}").to_arrow_table()
    n = np.arange(ROWS)
    assert (found["n"].to_numpy() == n).all()
    assert (found["file_index"].to_numpy() == n // (ROWS // 3)).all()
    assert (found["file_row_number"].to_numpy() == n % (ROWS // 3)).all()


def test_file_index_is_the_place_in_the_list_after_a_filter_too(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    sql = "select distinct file_index from read_parquet($1, union_by_name = true) where n >= $2 order by 1"
    assert con.execute(sql, [three_files(tmp_path), ROWS // 3]).fetchall() == [(1,), (2,)]


def test_windows_without_an_order_follow_the_natural_one_on_one_thread(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute("set variable files = $1", [three_files(tmp_path)])
    found = con.execute(
        """
        select count(*) filter (where n <> numbered - 1), count(*) filter (where n <> before + 1), count(before)
        from (
            select n, row_number() over () as numbered, lag(n) over () as before
            from read_parquet(getvariable('files'), union_by_name = true)
        )
        """
    ).fetchone()
    assert found == (0, 0, ROWS - 1)


def test_a_range_frame_takes_in_later_rows_of_the_same_value(con: duckdb.DuckDBPyConnection) -> None:
    """Why no window of ours is a RANGE frame."""
    sql = """
        select sum(x) over (order by clock range between 5 preceding and current row)
        from (values (1, 1), (2, 10), (2, 100)) as given (clock, x) order by clock, x
    """
    assert [value for (value,) in con.execute(sql).fetchall()] == [1, 111, 111]


def test_a_rows_frame_ends_with_the_row_itself(con: duckdb.DuckDBPyConnection) -> None:
    sql = """
        select sum(x) over (order by clock, x rows between unbounded preceding and current row)
        from (values (1, 1), (2, 10), (2, 100)) as given (clock, x) order by clock, x
    """
    assert [value for (value,) in con.execute(sql).fetchall()] == [1, 11, 111]


# -- the stream between two cursors ---------------------------------------------------------------------------------


def test_a_reader_is_lazy(con: duckdb.DuckDBPyConnection) -> None:
    """The first batches are out before a row far behind them is computed."""
    sql = "select case when i = 5000000 then error('too far') else i end as i from range(10000000) as t (i)"
    reader = con.cursor().execute(sql).to_arrow_reader(4096)
    assert [reader.read_next_batch()["i"][0].as_py() for _ in range(3)] == [0, 4096, 8192]
    with pytest.raises(Exception, match="too far"):
        reader.read_all()


def streamed(con: duckdb.DuckDBPyConnection, pulled: list[int]) -> pa.RecordBatchReader:
    """An ordered reader on one cursor, with a column added batch by batch; `pulled` notes their rows."""
    sql = "select i, i::double / 3 as x from range(1000000) as t (i) order by i"
    reader = con.cursor().execute(sql).to_arrow_reader(4096)
    schema = reader.schema.append(pa.field("doubled", pa.float64()))

    def walked() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            pulled.append(batch.num_rows)
            doubled = pa.array(batch["x"].to_numpy() * 2)
            yield pa.RecordBatch.from_arrays([*batch.columns, doubled], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, walked())


def test_a_stream_between_two_cursors_is_ordered_and_complete(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    pulled: list[int] = []
    writer = con.cursor()
    writer.register("kernel_output", streamed(con, pulled))
    done = writer.execute("copy (select * from kernel_output) to $1 (format parquet)", [str(tmp_path / "a")]).fetchone()
    assert done == (1_000_000,)
    assert sum(pulled) == 1_000_000
    assert max(pulled) <= 4096
    found = pq.ParquetFile(tmp_path / "a").read()
    i = np.arange(1_000_000)
    assert (found["i"].to_numpy() == i).all()
    assert (found["doubled"].to_numpy() == i / 3 * 2).all()


def test_a_stream_between_two_cursors_is_lazy(con: duckdb.DuckDBPyConnection) -> None:
    pulled: list[int] = []
    writer = con.cursor()
    writer.register("kernel_output", streamed(con, pulled))
    reader = writer.execute("select i, doubled from kernel_output").to_arrow_reader(4096)
    assert reader.read_next_batch()["i"][0].as_py() == 0
    assert 0 < sum(pulled) < 500_000


# -- numbers -------------------------------------------------------------------------------------------------------


def test_plain_aggregates_on_one_thread_do_not_depend_on_the_split_into_files(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    pick = random.Random(2)
    n = 200_000
    x = [pick.lognormvariate(0, 5) * pick.choice((-1, 1)) for _ in range(n)]
    whole = pa.table({"i": range(n), "x": x})
    results = set()
    for parts in (1, 2, 7, 61):
        cuts = [0, *sorted(pick.randrange(n) for _ in range(parts - 1)), n]
        paths = [str(tmp_path / f"{parts}-{k}.parquet") for k in range(parts)]
        for path, a, b in zip(paths, cuts, cuts[1:], strict=False):
            pq.write_table(whole.slice(a, b - a), path)
        found = con.execute(
            """
            select i // 997 as bar, sum(x), avg(x), var_samp(x), sum(x * x) filter (where x > 0), arg_min(x, i)
            from read_parquet($1) group by bar order by bar
            """,
            [paths],
        ).fetchall()
        results.add(repr(found))
    assert len(results) == 1


def test_hugeint_casts_round_half_to_even_and_are_exact(con: duckdb.DuckDBPyConnection) -> None:
    halves = "[x::hugeint::varchar for x in [0.5::double, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5]]"
    assert one(con, halves) == ["0", "2", "2", "4", "0", "-2", "-2"]
    for value in (2.0**100 + 2.0**60, 1e30, 123456789.123456789 * 1e20, -(2.0**126)):
        con.execute("set variable x = $1::double", [value])
        assert int(one(con, "getvariable('x')::hugeint::varchar")) == int(value)
        assert one(con, "getvariable('x')::hugeint::double") == value


def test_round_goes_half_away_from_zero(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "[round(x) for x in [0.5::double, 1.5, 2.5, -2.5]]") == [1.0, 2.0, 3.0, -3.0]


def test_sums_of_hugeint_are_exact_and_complain_when_they_overflow(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create table t as select 1 as i, 1267650600228229401496703205376::hugeint as x union all "
                "select 2, 1 union all select 3, -1267650600228229401496703205376::hugeint")  # fmt: skip
    sums = con.execute(
        "select (sum(x) over (order by i rows between unbounded preceding and current row))::varchar from t order by i"
    ).fetchall()
    assert [int(value) for (value,) in sums] == [2**100, 2**100 + 1, 1]
    with pytest.raises(duckdb.OutOfRangeException):
        con.execute(
            "select sum(x) from (select 170141183460469231731687303715884105727::hugeint as x from range(2))"
        ).fetchall()


def test_whole_division_goes_towards_zero_and_shifts_go_down(con: duckdb.DuckDBPyConnection) -> None:
    """Where `//` meets a clock before 1970, or `>>` a negative limb."""
    assert one(con, "[-5 // 3, 5 // 3]") == [-1, 1]
    assert one(con, "[((-5)::hugeint >> 1)::int, ((-5)::hugeint & 7::hugeint)::int]") == [-3, 3]


def test_division_by_zero_and_logarithms_of_zero_need_a_guard(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "1::double / 0::double") == math.inf
    assert one(con, "1::double / nullif(0::double, 0)") is None
    with pytest.raises(duckdb.OutOfRangeException):
        one(con, "ln(0::double)")


def test_nan_equals_nan_and_grouping_sees_what_hashes_see(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "'nan'::double = 'nan'::double") is True
    assert one(con, "'nan'::double > 'inf'::double") is True
    assert one(con, "hash('nan'::double) = hash('-nan'::double)") is True
    assert one(con, "hash(0.0::double) = hash(-0.0::double)") is True
    assert one(con, "hash(null::double, 1) = hash(null::double, 1)") is True
    values = "(values ('nan'::double), ('-nan'), (0.0), (-0.0), (null), (null)) as t (x)"
    assert con.execute(f"select count(*) from {values} group by x").fetchall() == [(2,), (2,), (2,)]


def test_books_are_equal_by_hash_where_they_are_equal_as_partitions(con: duckdb.DuckDBPyConnection) -> None:
    """Copies are looked for among rows of one hash, so equal rows must have equal hashes, nested ones too."""
    con.execute(
        """
        create table books as
        select [{'price': p::double, 'size': q::double}] as levels
        from (values ('nan', '1'), ('-nan', '1'), ('1', '0.0'), ('1', '-0.0'), (null, '1'), (null, '1')) as t (p, q)
        """
    )
    assert con.execute("select count(*) from books group by hash(levels) order by 1").fetchall() == [(2,), (2,), (2,)]
    numbered = "select row_number() over (partition by levels) as n from books"
    assert con.execute(f"select n, count(*) from ({numbered}) group by n order by n").fetchall() == [(1, 3), (2, 3)]


def test_minus_zero_is_not_distinct_from_zero(con: duckdb.DuckDBPyConnection) -> None:
    """A level of size -0.0 is a deletion as well."""
    assert one(con, "-0.0::double is distinct from 0") is False


def test_greatest_and_least_ignore_null(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "[greatest(1, null, 3), least(null, 2, 5), greatest(null::int, null)]") == [3, 2, None]


def test_list_reduce_takes_an_initial_value(con: duckdb.DuckDBPyConnection) -> None:
    falls = "list_reduce({}::double[], lambda a, x: case when x < a then x else -1 end, 'infinity'::double)"
    assert one(con, falls.format("[3, 2, 1]")) == 1
    assert one(con, falls.format("[3, 3, 1]")) == -1
    assert one(con, falls.format("[]")) == math.inf


def test_a_list_ends_where_its_last_element_is(con: duckdb.DuckDBPyConnection) -> None:
    assert one(con, "[([1, 2, 3])[1], ([1, 2, 3])[-1], ([1, 2, 3])[4]]") == [1, 3, None]


# -- files ---------------------------------------------------------------------------------------------------------


def test_pyarrow_reads_the_second_version_of_parquet_that_duckdb_writes(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute(
        """
        copy (
            select
                i,
                case when i % 3 > 0 then i / 7 end as x,
                'text ' || (i % 5) as t,
                i % 2 = 0 as b,
                make_timestamptz(1770076800000000 + i) as at,
                [{'price': i::double, 'size': 0.5::double}] as levels
            from range(30000) as t (i)
        ) to $1 (format parquet, parquet_version 'v2', compression 'zstd', compression_level 3, row_group_size 8192)
        """,
        [str(tmp_path / "a.parquet")],
    )
    rows = pq.ParquetFile(tmp_path / "a.parquet").read().to_pylist()
    assert len(rows) == 30_000
    assert [row["x"] for row in rows] == [i / 7 if i % 3 else None for i in range(30_000)]
    assert [row["t"] for row in rows] == [f"text {i % 5}" for i in range(30_000)]
    assert [row["b"] for row in rows] == [i % 2 == 0 for i in range(30_000)]
    assert [int(row["at"].timestamp() * 1e6 + 0.5) for row in rows[:3]] == [1770076800000000 + i for i in range(3)]
    assert rows[-1]["levels"] == [{"price": 29_999.0, "size": 0.5}]


def test_replacing_a_file_leaves_an_open_reader_with_the_old_one(tmp_path: Path) -> None:
    target, staged = tmp_path / "a.parquet", tmp_path / "staged"
    pq.write_table(pa.table({"x": range(100_000)}), target, row_group_size=1000)
    pq.write_table(pa.table({"x": [7]}), staged)
    with open(target, "rb") as held:
        reader = pq.ParquetFile(held)
        assert reader.read_row_group(0)["x"][0].as_py() == 0
        os.replace(staged, target)
        assert reader.read_row_group(99)["x"][999].as_py() == 99_999
    assert pq.ParquetFile(target).read()["x"].to_pylist() == [7]
    assert not staged.exists()


# -- numba ---------------------------------------------------------------------------------------------------------


@njit
def bits_of(x):  # type: ignore[no-untyped-def]
    return np.float64(x).view(np.uint64)


@njit
def rounded(x):  # type: ignore[no-untyped-def]
    return np.rint(x)


def test_numba_sees_the_bits_of_a_scalar() -> None:
    for value, bits in (
        (1.0, 0x3FF0000000000000),
        (-0.0, 0x8000000000000000),
        (5e-324, 1),
        (math.inf, 0x7FF0000000000000),
    ):
        assert int(bits_of(value)) == bits


def test_numba_rounds_half_to_even() -> None:
    assert [rounded(x) for x in (0.5, 1.5, 2.5, -0.5, -1.5, 4503599627370497.5)] == [0, 2, 2, 0, -2, 4503599627370498]


@pytest.mark.parametrize("ours", [True, False])
def test_what_was_read_of_a_file_stays_in_memory_unless_that_is_turned_off(tmp_path: Path, ours: bool) -> None:
    """A watcher would fill its memory limit with segments that are read once."""
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"n": np.random.default_rng(1).random(100_000)}), path)
    with connect(1_000_000_000, None) if ours else duckdb.connect() as connection:
        connection.execute("select sum(n) from read_parquet($1)", [str(path)]).fetchall()
        kept = connection.execute(
            "select sum(memory_usage_bytes) from duckdb_memory() where tag = 'EXTERNAL_FILE_CACHE'"
        ).fetchall()
    assert bool(kept[0][0]) is not ours


# -- prepared statements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", ["", "statistics_propagation,compressed_materialization"])
def test_a_plan_over_an_empty_table_orders_rows_that_come_later_only_without_statistics(
    con: duckdb.DuckDBPyConnection, off: str
) -> None:
    """daedalus_etl/prepared.py turns these two optimizers off, and need not once this fails without them."""
    con.execute("create table rows (t bigint, n bigint)")
    con.execute(f"set disabled_optimizers = '{off}'")
    con.execute("prepare numbered as select n, row_number() over (order by t) as place from rows order by t")
    for first in (0, 100):
        con.execute("delete from rows")
        con.execute(f"insert into rows select 10 - i, i from range({first}, {first} + 10) as r (i)")
        found = con.execute("execute numbered").fetchall()
        assert (found == [(first + 9 - i, i + 1) for i in range(10)]) is bool(off)


def planned_anew(con: duckdb.DuckDBPyConnection, execute: str) -> bool:
    """Does a prepared `select getvariable('x') ...` see a new value? It is a constant of the plan."""
    con.execute("set variable x = 2")
    found = con.execute(execute).fetchall()
    con.execute("set variable x = 1")
    return found == [(2,)]


def test_a_prepared_statement_with_a_parameter_is_planned_anew_each_time_and_one_without_is_not(
    con: duckdb.DuckDBPyConnection,
) -> None:
    """So the bounds of a step are a table of one row (daedalus_etl/prepared.py)."""
    con.execute("set variable x = 1")
    con.execute("create table bounds as select 5::bigint as edge")
    con.execute("prepare asked as select getvariable('x') from bounds where edge = $edge::bigint")
    con.execute("prepare found as select getvariable('x') from bounds where edge = (select edge from bounds)")
    assert planned_anew(con, "execute asked(edge := 5::bigint)")
    assert not planned_anew(con, "execute found")


def test_a_new_table_in_its_database_lets_a_prepared_statement_be_planned_anew_each_time(
    con: duckdb.DuckDBPyConnection,
) -> None:
    con.execute("set variable x = 1")
    con.execute("attach ':memory:' as other")
    con.execute("create table bounds as select 5::bigint as edge")
    con.execute("prepare found as select getvariable('x') where 3 < (select edge from bounds)")
    con.execute("create table other.later (n int)")
    assert not planned_anew(con, "execute found")
    con.execute("insert into bounds values (7)")
    con.execute("delete from bounds where edge = 7")
    assert not planned_anew(con, "execute found")
    con.execute("create table later (n int)")
    assert [planned_anew(con, "execute found") for _ in range(3)] == [True] * 3


def test_a_slot_is_another_table_each_time_and_statements_stay_planned(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("set variable x = 1")
    slot = Slot(pa.schema([("n", pa.int64())]))
    con.register("given", slot)
    con.execute("prepare total as select getvariable('x') + coalesce(sum(n), 0)::int from given")
    for numbers in ([3, 4], [], list(range(5000))):
        slot.put(pa.table({"n": pa.array(numbers, pa.int64())}))
        assert con.execute("execute total").fetchall() == [(1 + sum(numbers),)]
    slot.clear()
    assert not planned_anew(con, "execute total")
    with pytest.raises(ValueError, match="schema"):
        slot.put(pa.table({"other": [1]}))


@pytest.mark.parametrize("asked", [1, 0])
def test_a_prepared_asof_join_that_runs_again_with_nothing_to_ask_for_ends_the_process(asked: int) -> None:
    """daedalus_etl/prepared.py plans it anew, and need not once this fails for 0."""
    code = f"""
import duckdb
con = duckdb.connect()
con.execute("set threads = 1")
con.execute("set asof_loop_join_threshold = 0")
con.execute("create table l as select i as c from range(100) r (i)")
con.execute("create table r as select i as c, i * 2 as v from range(100) r (i)")
con.execute("prepare p as select l.c, r.v from l asof left join r on l.c >= r.c")
con.execute("execute p").fetchall()
con.execute("delete from l where c >= {asked}")
print(con.execute("execute p").fetchall())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode == 0, "[(0, 0)]" in ended.stdout) == (bool(asked), bool(asked))


def test_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files.exchange(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["other"]
    assert files.can_exchange(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


# -- lists of levels (decision 0020) --------------------------------------------------------------------------------


def test_sums_over_lists_run_from_the_first_element_to_the_last(con: duckdb.DuckDBPyConnection) -> None:
    """The same bits as a loop: features of books must not depend on how an engine groups additions."""
    pick = random.Random(3)
    for _ in range(200):
        xs = [pick.uniform(0.1, 1e5) for _ in range(pick.randrange(1, 50))]
        ys = [pick.uniform(0.1, 1e5) for _ in xs]
        total = products = 0.0
        for x, y in zip(xs, ys, strict=True):
            total += x
            products += x * y
        found = con.execute("select list_sum($1::double[]), list_inner_product($1::double[], $2::double[])", [xs, ys])
        assert found.fetchone() == (total, products)


def test_an_inner_product_refuses_a_null_in_another_rows_list(con: duckdb.DuckDBPyConnection) -> None:
    """Hence NaN for a missing price in bronze.orderbook."""
    con.execute(
        "create table t as select * from (values (1, [1.0::double, 2.0]), (2, [null, 3.0::double])) as v (i, x)"
    )
    with pytest.raises(duckdb.InvalidInputException, match="NULL"):
        con.execute("select list_inner_product(x[2:], x[2:]) from t").fetchall()
    clean = "list_transform(x, lambda e: coalesce(e, 'nan'::double))"
    found = con.execute(f"select list_inner_product({clean}[2:], {clean}[2:]) from t order by i").fetchall()
    assert found == [(4.0,), (9.0,)]


def test_a_lead_over_input_order_needs_no_sort(con: duckdb.DuckDBPyConnection) -> None:
    plan = con.execute("explain select row_number() over (), lead(i) over () from range(10) as r (i)").fetchall()[0][1]
    assert "STREAMING_WINDOW" in plan
    assert con.execute("select lead(i) over () from range(3) as r (i)").fetchall() == [(1,), (2,), (None,)]
