"""The same walk in small steps: its statements are prepared once, over tables that stay.

A segment of a second holds a few rows, and planning the books' structure anew takes ten times as long as running it.
Here a step's rows are first read into a table; all that follows is a prepared statement whose parameters are the
span's bounds. Rows, order and state are those of `silver.Walk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daedalus_etl import models
from daedalus_etl.audit import SCHEMAS
from daedalus_etl.engine import Engine, raw_relation
from daedalus_etl.lanes import US
from daedalus_etl.models import Context
from daedalus_etl.silver import COUNTED, COUNTS, Files, Walk, _add, _carried, _numpy, _table, price_unit

if TYPE_CHECKING:
    import pyarrow as pa

    from daedalus_etl.kernels.base import Kernel

# Steps between two times that the tables give back the room of rows that have gone: one that was filled takes 6 MB,
# however few its rows. Every fourth step takes a tenth less of the processor, and 1,030 MB in place of 640 on a Pi.
TIDY = 1
BOUNDS = ("span_start_us", "span_end_us", "horizon_us")  # what differs from step to step


class Statements:
    """Prepared statements of one session, by name."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._known: set[str] = set()
        # a plan that is made over an empty table takes from its statistics that there is nothing to order by, and would
        # keep to that when rows are there (DuckDB 1.5.5; tests/unit/test_engine_facts.py)
        engine.con.execute("set disabled_optimizers = 'statistics_propagation,compressed_materialization'")

    def bound(self, name: str) -> str:
        """How a bound value reads in a statement that is prepared."""
        return f"${name}::bigint" if name in BOUNDS else self.engine.bound(name)

    def prepare(self, name: str, sql: str) -> None:
        if name in self._known:
            self.engine.con.execute(f"deallocate {name}")
        self.engine.con.execute(f"prepare {name} as {sql}")
        self._known.add(name)

    def run(self, name: str, **values: int) -> Any:
        """Run with these values for the parameters, all whole numbers; of those, the ones that it has."""
        given = ", ".join(f"{key} := {int(value)}" for key, value in values.items())
        return self.engine.con.execute(f"execute {name}({given})" if given else f"execute {name}")


class PreparedWalk(Walk):
    """`take` instead of `step`: a span's rows as an Arrow table. No step may be larger than memory."""

    def __init__(self, engine: Engine, *lane: Any):
        super().__init__(engine, *lane)
        self.statements = Statements(engine)
        self._bounds: dict[str, set[str]] = {}
        self._steps = 0
        self._lay_out()

    # -- tables and statements --------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Empty tables of all that a step reads and makes."""
        for name in self.inputs:
            channel = self.graph.models[name].channel
            self.engine.table(f"raw_{channel}", f"select * from {raw_relation(channel, None, (), '')}")
        for name in self.inputs:
            self.engine.bind(**dict.fromkeys(BOUNDS, 0))
            plain = self.graph.render(self.graph.models[name], self._over_tables(self.engine.bound, carries=False))[0]
            plain = self._taken(name, plain)
            for table in (_table(name), _carried(name), f"next_{_carried(name)}"):
                self.engine.table(table, f"select * from (\n{plain}\n) limit 0")
        self._prepare()

    def _prepare(self) -> None:
        """Prepare everything; again when the unit of prices becomes known, since it is a constant of the statements."""
        over = self._over_tables(self.statements.bound)
        for name in self.inputs:
            table, carried = _table(name), _carried(name)
            (bronze,) = self.graph.render(self.graph.models[name], over)
            self._note(f"fill_{table}", f"insert into {table} {self._taken(name, bronze)}")
            self._note(f"carry_{table}", f"insert into next_{carried} {self._carry_sql(name, '$edge::bigint')}")
            if name == f"bronze.{self.model.channel}":
                self._note(f"count_{table}", COUNTED.format(table))
        statements = self.graph.render(self.model, over)
        if self.kernel is None:
            # planned anew in each step, which costs little of it: prepared, an ASOF JOIN that runs a second time with
            # nothing to ask for ends the process (DuckDB 1.5.5)
            (self._shape,) = self.graph.render(self.model, self._over_tables(self.engine.bound))
            return
        ordered, shape = models.require_kernel_statements(self.model, statements)
        self._note("walked", ordered)
        self._shape = shape
        for name, columns in self.kernel.reads_beside().items():
            if name in self.inputs:
                self._note(
                    f"beside_{_table(name)}",
                    f"select {', '.join(columns)} from {_table(name)} where not is_context and not is_duplicate "
                    "order by clock_us, lane_order",
                )

    def _note(self, name: str, sql: str) -> None:
        self.statements.prepare(name, sql)
        self._bounds[name] = {bound for bound in (*BOUNDS, "edge") if f"${bound}" in sql}

    def _run(self, name: str, **values: int) -> Any:
        return self.statements.run(name, **{k: v for k, v in values.items() if k in self._bounds[name]})

    def _over_tables(self, bound: Any, *, carries: bool = True) -> Context:
        return Context(
            {**self.variables, "input_is_ordered": False},
            _table,
            lambda channel: f"raw_{channel}",
            bound,
            lambda name: carries,
            _carried,
        )

    # -- state ------------------------------------------------------------------------------------------------

    def load(self, kept: Mapping[str, bytes]) -> None:
        """As `Walk.load`, into the tables that are there."""
        from daedalus_etl import canonical

        for name, blob in kept.items():
            if name.startswith("carry:"):
                relation = name.partition(":")[2]
                self.engine.fill_arrow(_carried(relation), canonical.table_from_bytes(blob))
                self._has_carry.add(relation)
        if self.kernel is not None and "kernel" in kept:
            self.kernel.load(canonical.arrays_from_bytes(kept["kernel"]))
        if "price_unit" in kept:
            self._fix_unit(float.fromhex(kept["price_unit"].decode()))

    def begin(self, kept: Mapping[str, bytes], kernel: Kernel | None) -> None:
        """Stand where a state was kept, with a kernel that has walked nothing yet; without one before the first row."""
        self.forget()
        self.kernel, before = kernel, self.price_unit
        if before is not None and "price_unit" not in kept:
            self.price_unit = None
            self.engine.bind(price_unit=None)
        self.load(kept)
        if self.price_unit != before:
            self._prepare()

    def forget(self) -> None:
        for name in self.inputs:
            self.engine.con.execute(f"delete from {_carried(name)}")
        self._has_carry.clear()

    # -- a step -----------------------------------------------------------------------------------------------

    def take(self, start: int, end: int, files: Files, first: int = 0) -> tuple[pa.Table, dict[str, int]]:
        """Take [start, end) us in: its rows, lane_order counted from `first`, and the counts."""
        counts = dict.fromkeys(COUNTS, 0)
        bounds = {"span_start_us": start, "span_end_us": end, "horizon_us": end}
        inside = self._inside(files, start, end)
        self._fill(inside, bounds)
        if self.model.config.get("price_unit") and self.price_unit is None:
            self._find_unit_in_tables(bounds)
        own = f"bronze.{self.model.channel}"
        if own in self.inputs:
            read, duplicate, invalid, overflow, last = self._run(f"count_{_table(own)}").fetchone()
            _add(counts, last, read=read, duplicate=duplicate, invalid=invalid, overflow=overflow)
        if self.kernel is not None:
            rows = self._by_kernel(self._run("walked", **bounds).to_arrow_table(), counts)
        else:
            self.engine.bind(**bounds)
            rows = self.engine.to_arrow(self._shape)
        counts["written"] = rows.num_rows
        self._leave(end)
        return _counted_from(rows, first), counts

    def _find_unit_in_tables(self, bounds: Mapping[str, int]) -> None:
        name = f"bronze.{self.model.channel}"
        price = self.graph.config_for(self.model, self.variables)["price_unit"]
        unit = price_unit(self.engine.con, _table(name), price)
        if unit is not None:
            self._fix_unit(unit)
            self._prepare()
            self.engine.con.execute(f"delete from {_table(name)}")
            self._run(f"fill_{_table(name)}", **bounds)  # what is valid may hang on the unit

    def _fill(self, files: Files, bounds: Mapping[str, int]) -> None:
        for name, lane in self.inputs.items():
            channel = self.graph.models[name].channel
            self.engine.con.execute(f"delete from raw_{channel}")
            if files.get(channel):
                source = self.engine.raw(channel, lane or self.lane, files[channel])
                columns = ", ".join([*SCHEMAS[channel], "segment", "position"])
                self.engine.con.execute(f"insert into raw_{channel} select {columns} from {source}")
        for name in self.inputs:
            self.engine.con.execute(f"delete from {_table(name)}")
            self._run(f"fill_{_table(name)}", **bounds)

    def _by_kernel(self, rows: pa.Table, counts: dict[str, int]) -> pa.Table:
        """Through the kernel, and into the model's shape."""
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.kernel is not None
        beside = {}
        for name, columns in self.kernel.reads_beside().items():
            if name in self.inputs:
                found = self._run(f"beside_{_table(name)}").to_arrow_table().combine_chunks()
                beside[name] = {column: _numpy(_whole(found, column), pc) for column in columns}
        self.kernel.start_partition()
        made: list[Any] = []
        reads = self.kernel.reads()
        for batch in rows.combine_chunks().to_batches(max_chunksize=self.engine.profile.batch_rows):
            arrays = {name: _numpy(batch.column(name), pc) for name in reads}
            out, taken = self.kernel.advance(arrays, beside)
            for name, n in taken.items():
                beside[name] = {column: values[n:] for column, values in beside[name].items()}
            if "is_gap" in self.kernel.columns:
                _add(counts, gaps=int((out[self.kernel.columns.index("is_gap")] == 1).sum()))
            made.append([pa.array(row, from_pandas=True) for row in out])
        if beside:
            self.kernel.finish(beside)
        for k, name in enumerate(self.kernel.columns):
            column = pa.chunked_array([part[k] for part in made], pa.float64())
            rows = rows.append_column(pa.field(name, pa.float64()), column)
        return self.engine.shaped(self._shape, models.KERNEL_OUTPUT, rows)

    def _leave(self, end: int) -> None:
        """As `Walk._leave`, with the tables kept."""
        for name in self.inputs:
            if name != self.streamed:
                edge = end - round(self.looks_back[name] * US)
                self._run(f"carry_{_table(name)}", edge=edge)
                self.engine.con.execute(f"delete from {_carried(name)}")
                self.engine.con.execute(f"insert into {_carried(name)} select * from next_{_carried(name)}")
                self.engine.con.execute(f"delete from next_{_carried(name)}")
                self._has_carry.add(name)
        self._steps += 1
        if self._steps % TIDY == 0:
            self.engine.tidy()


def _whole(table: pa.Table, name: str) -> Any:
    """A column in one piece."""
    import pyarrow as pa

    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _counted_from(rows: pa.Table, first: int) -> pa.Table:
    """The same rows, lane_order counted from `first`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = rows.schema.get_field_index("lane_order")
    if not first or place < 0:
        return rows
    field = rows.schema.field(place)
    return rows.set_column(place, field, pc.add(rows.column(place), pa.scalar(first, field.type)))
