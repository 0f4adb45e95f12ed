"""The same walk in small steps: its statements are prepared once, over tables that stay.

A segment of a second holds a few rows, and planning the books' structure anew takes ten times as long as running it.
Here a step's rows are first read into a table; all that follows are prepared statements, which find the span's bounds
in a table of one row. Rows, order and state are those of `silver.Walk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daedalus_etl import models
from daedalus_etl.audit import SCHEMAS
from daedalus_etl.beside import as_numpy
from daedalus_etl.engine import Engine, Slot, raw_relation
from daedalus_etl.lanes import US
from daedalus_etl.models import Context
from daedalus_etl.silver import COUNTED, COUNTS, Files, Walk, _add, _carried, _table, first_price, unit_of

if TYPE_CHECKING:
    import pyarrow as pa

    from daedalus_etl.kernels.base import Kernel

# Steps between two times that the tables give back the room of rows that have gone: one that was filled takes 6 MB,
# however few its rows. Every fourth step takes a tenth less of the processor, and 1,030 MB in place of 640 on a Pi.
TIDY = 1
BOUNDS = ("span_start_us", "span_end_us", "horizon_us")  # what differs from step to step


class Statements:
    """Prepared statements of one session, by name. None has parameters: DuckDB 1.5.5 plans one that has anew each time
    that it runs (tests/unit/test_engine_facts.py)."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._known: set[str] = set()
        engine.table("bounds", f"select {', '.join(f'0::bigint as {name}' for name in BOUNDS)}")
        # a plan that is made over an empty table takes from its statistics that there is nothing to order by, and would
        # keep to that when rows are there (DuckDB 1.5.5; tests/unit/test_engine_facts.py)
        engine.con.execute("set disabled_optimizers = 'statistics_propagation,compressed_materialization'")

    def bound(self, name: str) -> str:
        """How a bound value reads in a statement that is prepared: a constant of the session, but for the bounds."""
        return f"(select {name} from bounds)" if name in BOUNDS else self.engine.bound(name)

    def set_bounds(self, **values: int) -> None:
        """What the statements find from now on."""
        given = ", ".join(f"{name} = {int(value)}" for name, value in values.items())
        self.engine.con.execute(f"update bounds set {given}")

    def prepare(self, name: str, sql: str) -> None:
        if name in self._known:
            self.engine.con.execute(f"deallocate {name}")
        self.engine.con.execute(f"prepare {name} as {sql}")
        self._known.add(name)

    def run(self, name: str) -> Any:
        return self.engine.con.execute(f"execute {name}")


class PreparedWalk(Walk):
    """`take` instead of `step`: a span's rows as an Arrow table. No step may be larger than memory."""

    def __init__(self, engine: Engine, *lane: Any):
        super().__init__(engine, *lane)
        self.statements = Statements(engine)
        self.slots: dict[str, Slot] = {}  # by the relation's name
        self._steps = 0
        self._lay_out()

    # -- tables and statements --------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Empty tables of all that a step reads and makes; none later: with a new table in their database, statements
        that are prepared already are planned anew each time (DuckDB 1.5.5; tests/unit/test_engine_facts.py)."""
        for name in self.inputs:
            channel = self.graph.models[name].channel
            self.engine.table(f"raw_{channel}", f"select * from {raw_relation(channel, None, (), '')}")
        for name in self.inputs:
            self.engine.bind(**dict.fromkeys(BOUNDS, 0))
            plain = self.graph.render(self.graph.models[name], self._over_tables(self.engine.bound, carries=False))[0]
            plain = self._taken(name, plain)
            for table in (_table(name), _carried(name), f"next_{_carried(name)}"):
                self.engine.table(table, f"select * from (\n{plain}\n) limit 0")
            self._slot(f"kept_{_table(name)}", f"from {_carried(name)}")
        if self.kernel is not None:
            statements = self.graph.render(self.model, self._over_tables(self.engine.bound))
            ordered, _ = models.require_kernel_statements(self.model, statements)
            made = ", ".join(f"null::double as {name}" for name in self.kernel.columns)
            self._slot(models.KERNEL_OUTPUT, f"select *, {made} from (\n{ordered}\n) limit 0")
        self._prepare()

    def _slot(self, name: str, like: str) -> None:
        self.slots[name] = self.engine.slot(name, self.engine.to_arrow(like).schema)

    def _prepare(self) -> None:
        """Prepare everything; again when the unit of prices becomes known, since it is a constant of the statements."""
        over, prepare = self._over_tables(self.statements.bound), self.statements.prepare
        for name in self.inputs:
            table, carried, channel = _table(name), _carried(name), self.graph.models[name].channel
            (bronze,) = self.graph.render(self.graph.models[name], over)
            edge = f"(select span_end_us - {round(self.looks_back[name] * US)} from bounds)"
            prepare(f"empty_raw_{channel}", f"delete from raw_{channel}")
            prepare(f"fill_{table}", f"insert into {table} {self._taken(name, bronze)}")
            prepare(f"empty_{table}", f"delete from {table}")
            prepare(f"carry_{table}", f"insert into next_{carried} {self._carry_sql(name, edge)}")
            prepare(f"forget_{table}", f"delete from {carried}")
            prepare(f"load_{table}", f"insert into {carried} from kept_{table}")
            prepare(f"keep_{table}", f"insert into {carried} select * from next_{carried}")
            prepare(f"drop_{table}", f"delete from next_{carried}")
            if name == f"bronze.{self.model.channel}":
                prepare(f"count_{table}", COUNTED.format(table))
        if self.kernel is None:
            # planned anew in each step: prepared, an ASOF JOIN that runs again with nothing to ask for ends the process
            # (DuckDB 1.5.5; tests/unit/test_engine_facts.py)
            (self._shape,) = self.graph.render(self.model, self._over_tables(self.engine.bound))
        else:
            ordered, shape = models.require_kernel_statements(self.model, self.graph.render(self.model, over))
            prepare("walked", ordered)
            for name, columns in self.kernel.reads_beside().items():
                if name in self.inputs:
                    prepare(
                        f"beside_{_table(name)}",
                        f"select {', '.join(columns)} from {_table(name)} where not is_context and not is_duplicate "
                        "order by clock_us, lane_order",
                    )
            prepare("made", shape)

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
                slot, rows = self.slots[f"kept_{_table(relation)}"], canonical.table_from_bytes(blob)
                slot.put(rows.select(slot.table.schema.names))
                self.statements.run(f"load_{_table(relation)}")
                slot.clear()
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
            self.statements.run(f"forget_{_table(name)}")
        self._has_carry.clear()

    # -- a step -----------------------------------------------------------------------------------------------

    def take(self, start: int, end: int, files: Files, first: int = 0) -> tuple[pa.Table, dict[str, int]]:
        """Take [start, end) us in: its rows, lane_order counted from `first`, and the counts."""
        counts, run = dict.fromkeys(COUNTS, 0), self.statements.run
        self.statements.set_bounds(span_start_us=start, span_end_us=end, horizon_us=end)
        self._fill(self._inside(files, start, end))
        if self.model.config.get("price_unit") and self.price_unit is None:
            self._find_unit_in_tables()
        own = f"bronze.{self.model.channel}"
        if own in self.inputs:
            read, duplicate, invalid, overflow, last = run(f"count_{_table(own)}").fetchone()
            _add(counts, last, read=read, duplicate=duplicate, invalid=invalid, overflow=overflow)
        if self.kernel is not None:
            output = self.slots[models.KERNEL_OUTPUT]
            output.put(self._by_kernel(run("walked").to_arrow_table(), counts))
            rows = run("made").to_arrow_table()
            output.clear()
        else:
            self.engine.bind(span_start_us=start, span_end_us=end, horizon_us=end)
            rows = self.engine.to_arrow(self._shape)
        counts["written"] = rows.num_rows
        self._pass_on()
        return _counted_from(rows, first), counts

    def _find_unit_in_tables(self) -> None:
        name = f"bronze.{self.model.channel}"
        price = self.graph.config_for(self.model, self.variables)["price_unit"]
        first = first_price(self.engine.con, _table(name), price)
        if first is not None:
            self._fix_unit(unit_of(first[1]))
            self._prepare()
            self.statements.run(f"empty_{_table(name)}")
            self.statements.run(f"fill_{_table(name)}")  # what is valid may hang on the unit

    def _fill(self, files: Files) -> None:
        for name, lane in self.inputs.items():
            channel = self.graph.models[name].channel
            self.statements.run(f"empty_raw_{channel}")
            if files.get(channel):
                source = self.engine.raw(channel, lane or self.lane, files[channel])
                columns = ", ".join([*SCHEMAS[channel], "segment", "position"])
                self.engine.con.execute(f"insert into raw_{channel} select {columns} from {source}")
        for name in self.inputs:
            self.statements.run(f"empty_{_table(name)}")
            self.statements.run(f"fill_{_table(name)}")

    def _by_kernel(self, rows: pa.Table, counts: dict[str, int]) -> pa.Table:
        """With what the kernel makes of them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.kernel is not None
        beside = {}
        for name, columns in self.kernel.reads_beside().items():
            if name in self.inputs:
                found = self.statements.run(f"beside_{_table(name)}").to_arrow_table().combine_chunks()
                beside[name] = {column: as_numpy(_whole(found, column), pc) for column in columns}
        self.kernel.start_partition()
        made: list[Any] = []
        reads = self.kernel.reads()
        for batch in rows.combine_chunks().to_batches(max_chunksize=self.engine.profile.batch_rows):
            arrays = {name: as_numpy(batch.column(name), pc) for name in reads}
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
        return rows

    def _pass_on(self) -> None:
        """As `Walk._leave`, with the tables kept."""
        for name in self.inputs:
            if name != self.streamed:
                for step in ("carry", "forget", "keep", "drop"):
                    self.statements.run(f"{step}_{_table(name)}")
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
