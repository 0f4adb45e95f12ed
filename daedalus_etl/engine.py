"""Profile -> DuckDB. Every call whose name differs between engine versions lives here, and no path is pasted into SQL:
files and names are bound as variables of the session."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from daedalus_etl.audit import NO_TYPE, SANITIZED, SCHEMAS, Facts, as_column
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane, Segment, literal
from daedalus_etl.limits import is_scarce, share_of
from daedalus_etl.models import quote
from daedalus_etl.profiles import Profile

if TYPE_CHECKING:
    import pyarrow as pa


_SESSIONS = itertools.count()

# Tables have a database of their own: the one that DuckDB opens first cannot be compressed. Where memory is scarce, and
# in sessions that last, they are: most rows are of 900 s before a piece of an hour, with all their columns, of which
# 250,000 simulated quotes take 3 MB in place of 72. It costs trades a twentieth of their time.
TABLES = "tables"


def connect(memory_limit: int, temp: Path | None, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB. One thread keeps row order and the order of float sums (FACTS 3, 10)."""
    con = duckdb.connect(":memory:")
    con.execute(f"set threads = {int(threads)}")
    con.execute(f"set memory_limit = '{max(memory_limit // 1_000_000, 64)}MB'")
    con.execute("set TimeZone = 'UTC'")
    con.execute("set allocator_flush_threshold = '8MB'")
    con.execute("set allocator_bulk_deallocation_flush_threshold = '8MB'")
    con.execute("set enable_external_file_cache = false")  # segments are read once; it would fill the memory limit
    con.execute("set enable_progress_bar = false")
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set autoload_known_extensions = false")
    con.execute(f"set temp_directory = {quote(str(temp or ''))}")
    return con


def spill_folder(parent: Path | None) -> Path | None:
    """A folder for what one session spills. DuckDB calls it the same in every process: two sessions in one folder would
    read each other's. Those of processes that were killed are removed."""
    if parent is None:
        return None
    with contextlib.suppress(OSError):  # who needs no room beside memory goes on; the others hear of it from DuckDB
        parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("spill-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return parent / f"spill-{os.getpid()}-{next(_SESSIONS)}"  # DuckDB makes it when it has something to put there


def last_clock(paths: Sequence[str], before: int) -> int | None:
    """The last clock of published rows before a moment, us; None if there is none."""
    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        (clock,) = con.execute(
            "select max(epoch_us(clock_ts)) from read_parquet($1, hive_partitioning = false) "
            "where epoch_us(clock_ts) < $2",
            [list(map(literal, paths)), before],
        ).fetchall()[0]
    return None if clock is None else int(clock)


class Slot:
    """What DuckDB reads under one name: a table of Arrow's, another one each time. Statements that read it stay as they
    were planned, which `register` of each table would not let them."""

    def __init__(self, schema: pa.Schema):
        self.table = schema.empty_table()

    def put(self, table: pa.Table) -> None:
        """Raises ValueError if the columns are not those that statements were planned with."""
        self.table = table.cast(self.table.schema)

    def clear(self) -> None:
        self.table = self.table.schema.empty_table()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


class Engine:
    """One lane's session: a main connection, and a second one that writes what a kernel streams.

    within: another session, whose memory it shares; it has tables and bound values of its own.
    """

    def __init__(self, profile: Profile, temp: Path | None = None, *, within: Engine | None = None):
        self.profile = profile
        self._bound: dict[str, Any] = {}
        self._spill: Path | None = None
        self._home = TABLES
        self.con: duckdb.DuckDBPyConnection
        if within is not None:
            self._home = f"{TABLES}_{next(_SESSIONS)}"
            self.con = within.con.cursor()
            self.con.execute("set TimeZone = 'UTC'")
        else:
            self._spill = spill_folder(profile.temp_directory or temp)
            self.con = connect(share_of(profile), self._spill)
        self._compresses = within is not None or is_scarce(profile)
        self.con.execute(f"attach ':memory:' as {self._home}{' (compress)' if self._compresses else ''}")
        self.writer = self.con.cursor()
        self.con.execute(f"use {self._home}")

    def close(self) -> None:
        if self._home != TABLES:
            self.con.execute(f"use {TABLES}")
            self.con.execute(f"detach {self._home}")
        self.writer.close()
        self.con.close()
        if self._spill is not None:
            shutil.rmtree(self._spill, ignore_errors=True)

    # -- names in SQL -----------------------------------------------------------------------------------------

    def bind(self, **values: Any) -> None:
        """Set what `bind(name)` in a model stands for, on the main connection; others take it over when they start."""
        for name, value in values.items():
            if name not in self._bound or self._bound[name] != value:
                _set_variable(self.con, name, value)
                self._bound[name] = value

    def _take_over(self, con: duckdb.DuckDBPyConnection) -> None:
        """Variables belong to a connection: give another one ours, but the lists of files."""
        con.execute("set TimeZone = 'UTC'")
        for name, value in self._bound.items():
            if not name.endswith("_files"):
                _set_variable(con, name, value)

    def bound(self, name: str) -> str:
        """How a bound value reads in SQL."""
        if name not in self._bound:
            raise DaedalusError(f"nothing is bound to {name}", hint="Models can bind exchange, symbol, source_symbol, "
                                "span_start_us, span_end_us, horizon_us and price_unit.")  # fmt: skip
        return f"getvariable('{name}')"

    def raw(self, channel: str, lane: Lane, files: Sequence[tuple[Segment, Facts]]) -> str:
        """The relation of a channel's segments: contract columns, file_index and file_row_number."""
        self.bind(**{
            f"{channel}_files": [literal(s.path) for s, _ in files],
            f"{channel}_exchange": lane.exchange,
            f"{channel}_symbol": lane.symbol,
        })  # fmt: skip
        names = (f"getvariable('{channel}_exchange')", f"getvariable('{channel}_symbol')")
        return raw_relation(channel, names, files, f"getvariable('{channel}_files')")

    # -- running ----------------------------------------------------------------------------------------------

    def table(self, name: str, sql: str) -> None:
        self.con.execute(f"create or replace table {name} as\n{sql}")
        if self._compresses:
            with contextlib.suppress(duckdb.TransactionException):  # what streams from another table ends first
                self.con.execute(f"checkpoint {self._home}")

    def drop(self, name: str) -> None:
        self.con.execute(f"drop table if exists {name}")

    def row(self, sql: str) -> tuple[Any, ...]:
        found = self.con.execute(sql).fetchone()
        assert found is not None
        return found

    def reader(self, sql: str, batch_rows: int) -> pa.RecordBatchReader:
        """An ordered, lazy Arrow stream. It holds its own cursor."""
        cursor = self.con.cursor()
        self._take_over(cursor)
        cursor.execute(f"use {self._home}")
        for name, value in self._bound.items():
            if name.endswith("_files"):
                _set_variable(cursor, name, value)
        return cursor.execute(sql).to_arrow_reader(batch_rows)

    def to_arrow(self, sql: str) -> pa.Table:
        return self.con.execute(sql).to_arrow_table()

    def load_arrow(self, name: str, table: pa.Table) -> None:
        self.con.register("arrow_input", table)
        self.con.execute(f"create or replace table {name} as select * from arrow_input")
        self.con.unregister("arrow_input")

    def fill_arrow(self, name: str, table: pa.Table) -> None:
        """Add rows to a table, column by name."""
        self.con.register("arrow_input", table)
        self.con.execute(f"insert into {name} by name select * from arrow_input")
        self.con.unregister("arrow_input")

    def slot(self, name: str, schema: pa.Schema) -> Slot:
        """A relation `name` of this connection that is whatever Arrow table was put there last. Not for hours: it is
        read anew each time that a statement names it."""
        slot = Slot(schema)
        self.con.register(name, slot)
        return slot

    def tidy(self) -> None:
        """Give back the room of rows that were deleted, and compress the others."""
        self.con.execute(f"checkpoint {self._home}")

    def copy(self, sql: str, path: Path, stream: pa.RecordBatchReader | None = None) -> int:
        """Write a query, in its order, as one Parquet file; returns the rows. `stream` is the table kernel_output."""
        con = self.con
        if stream is not None:
            con = self.writer
            self._take_over(con)
            con.register("kernel_output", stream)
        try:
            done = con.execute(f"copy (\n{sql}\n) to $1 ({self.parquet_options()})", [str(path)]).fetchone()
        finally:
            if stream is not None:
                con.unregister("kernel_output")
        assert done is not None
        return int(done[0])

    def parquet_options(self) -> str:
        p: Mapping[str, Any] = self.profile.parquet
        options = ["format parquet", f"compression '{p.get('compression', 'zstd')}'",
                   f"row_group_size {int(p.get('row_group_size', 61440))}",
                   f"dictionary_size_limit {int(p.get('dictionary_size_limit', 128))}",
                   f"parquet_version '{p.get('version', 'v1')}'"]  # fmt: skip
        if p.get("compression", "zstd") == "zstd" and "compression_level" in p:
            options.append(f"compression_level {int(p['compression_level'])}")
        return ", ".join(options)


def _set_variable(con: duckdb.DuckDBPyConnection, name: str, value: Any) -> None:
    """Numbers are written as they are, and the names of files go as one text, with NULs between, which no name has:
    for each value of a parameter DuckDB looks for pandas, 0.1 ms if there is none."""
    if value is None or isinstance(value, (int, float)):
        con.execute(f"set variable {name} = {quote(value)}")
    elif isinstance(value, list) and value:
        con.execute(f"set variable {name} = string_split($1, chr(0))", ["\0".join(value)])
    else:
        con.execute(f"set variable {name} = $1", [value])


def raw_relation(
    channel: str,
    names: tuple[str, str] | None,
    files: Sequence[tuple[Segment, Facts]],
    paths: str,
    more: Mapping[str, str] | None = None,
) -> str:
    """SQL of a channel's rows from a list of files (`paths`: a SQL expression), as the contract types them.

    names: the lane's exchange and symbol as SQL; None for all lanes in the files.
    more: further text columns, name -> expression over the file's columns.
    """
    more = more or {}
    schema = SCHEMAS[channel]
    if not files:
        nothing = ", ".join(
            f"null::{kind} as {name}" for name, kind in [*schema.items(), *((n, "varchar") for n in more)]
        )
        return f"(select {nothing}, 0::ubigint as segment, 0::bigint as position where false)"
    found: dict[str, str] = {}
    for _, facts in files:
        for name, kind in facts.types:
            if found.setdefault(name, kind) != kind:
                found[name] = _wider(found[name], kind)
    columns = ",\n        ".join(as_column(name, kind, found.get(name)) for name, kind in schema.items())
    columns += "".join(f",\n        {expression} as {name}" for name, expression in more.items())
    shared = any(len(facts.spans) > 1 for _, facts in files)
    only = (
        f"\n    where {SANITIZED.format('exchange')} = {names[0]} and {SANITIZED.format('symbol')} = {names[1]}"
        if names is not None and shared
        else ""
    )
    return (
        f"(\n    select\n        {columns},\n        file_index as segment,\n        file_row_number as position\n"
        f"    from read_parquet({paths}, hive_partitioning = false, union_by_name = true){only}\n)"
    )


def _wider(one: str, other: str) -> str:
    """The type that union_by_name makes of two, as far as `as_column` must know."""
    if NO_TYPE in (one, other):  # any type may stand in the file, and what comes of both is no longer known
        return "other"
    if "DOUBLE" in (one, other) or "FLOAT" in (one, other):
        return "DOUBLE" if one[-1] != "]" else "other"
    return "other"


def batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        if batch.num_rows:
            yield batch
