"""One lane through one silver model, hour by hour: what is carried over, what is streamed through the kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from daedalus_etl import canonical, models
from daedalus_etl.audit import Facts
from daedalus_etl.beside import Beside, as_numpy
from daedalus_etl.engine import Engine, batches
from daedalus_etl.lanes import US, Lane, Segment
from daedalus_etl.models import Context, Graph, Model

if TYPE_CHECKING:
    from daedalus_etl.kernels.base import Kernel

COUNTS = ("read", "duplicate", "invalid", "overflow", "written")
COUNTED = """
    select count(*), count(*) filter (where is_duplicate),
        count(*) filter (where not is_duplicate and not is_valid),
        count(*) filter (where not is_duplicate and is_sound and not is_valid),
        max(clock_us) filter (where not is_duplicate)
    from {} where not is_context
"""
IN_ORDER = """
    select bool_and(coalesce(clock_us > before_us or (clock_us = before_us and lane_order > before), true)) is not false
    from (
        select clock_us, lane_order, lag(clock_us) over () as before_us, lag(lane_order) over () as before
        from {} where not is_duplicate
    ) as lagged
"""
Files = Mapping[str, Sequence[tuple[Segment, Facts]]]  # by channel


class Walk:
    """The state of a lane in one model, and the step over one hour.

    inputs: bronze model name -> the lane that it reads (None: there is none).
    """

    def __init__(
        self,
        engine: Engine,
        graph: Graph,
        model: Model,
        lane: Lane,
        symbol: str,
        variables: Mapping[str, Any],
        inputs: Mapping[str, Lane | None],
        kernel: Kernel | None,
    ):
        self.engine, self.graph, self.model, self.lane = engine, graph, model, lane
        self.variables, self.inputs, self.kernel = variables, inputs, kernel
        self.price_unit: float | None = None
        # seconds of earlier rows that the next hour needs: of the model, and of the input itself (duplicates)
        context = graph.config_for(model, variables).get("context", {})
        self.looks_back = {
            name: max(context.get(name, 0), graph.config_for(graph.models[name], variables).get("looks_back", 0))
            for name in inputs
        }
        self.streamed = model.config.get("streams") if not variables["resample_frequency"] else None
        engine.bind(exchange=lane.exchange, symbol=symbol, source_symbol=lane.symbol, price_unit=None, horizon_us=0)
        for name in inputs:
            engine.drop(_carried(name))
        self._has_carry: set[str] = set()

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, bytes]:
        """Everything that the next hour needs of the earlier ones, in one canonical form."""
        kept: dict[str, bytes] = {}
        for name in sorted(self._has_carry):
            table = self.engine.to_arrow(
                f"select * from {_carried(name)} order by clock_us, lane_order, segment, position"
            )
            kept[f"carry:{name}"] = canonical.table_to_bytes(table)
        if self.kernel is not None:
            kept["kernel"] = canonical.arrays_to_bytes(self.kernel.save())
        if self.price_unit is not None:
            kept["price_unit"] = self.price_unit.hex().encode()
        return kept

    def load(self, kept: Mapping[str, bytes]) -> None:
        for name, blob in kept.items():
            if name.startswith("carry:"):
                relation = name.partition(":")[2]
                self.engine.load_arrow(_carried(relation), canonical.table_from_bytes(blob))
                self._has_carry.add(relation)
        if self.kernel is not None and "kernel" in kept:
            self.kernel.load(canonical.arrays_from_bytes(kept["kernel"]))
        if "price_unit" in kept:
            self._fix_unit(float.fromhex(kept["price_unit"].decode()))

    def forget(self) -> None:
        """Begin anew, as at the lane's first row."""
        for name in self.inputs:
            self.engine.drop(_carried(name))
        self._has_carry.clear()

    def rows_in(self, start: int, end: int, files: Files) -> int:
        """How many rows of the lane's own channel files hold in [start, end) us, duplicates and all."""
        self.engine.bind(span_start_us=start, span_end_us=end, horizon_us=end)
        name = f"bronze.{self.model.channel}"
        return int(self.engine.row(f"select count(*) from ({self._bronze(name, files)}) where not is_context")[0])

    def _fix_unit(self, unit: float) -> None:
        self.price_unit = unit
        self.engine.bind(price_unit=unit)

    # -- one hour ---------------------------------------------------------------------------------------------

    def content(self, start: int, end: int, files: Files, parts: int = 1) -> list[tuple[Any, ...]]:
        """What the inputs of the hour [start, end) us come to without their duplicates: equal for equal rows in equal
        order, of which later hours remember the same. The walk stands before the hour, and stays there.

        parts: as for `step`.
        """
        carried = sorted(self._has_carry)
        for name in carried:
            self.engine.table(f"kept_{_table(name)}", f"select * from {_carried(name)}")
        found = []
        for first, behind in _pieces(start, end, parts):
            self.engine.bind(span_start_us=first, span_end_us=behind, horizon_us=behind)
            for name in self.inputs:
                self.engine.table(_table(name), self._bronze(name, self._inside(files, first, behind)))
                found += [(name, *self.engine.row(sql)) for sql in self._digests(name, end)]
            self._leave(behind)
        self.forget()
        for name in carried:
            self.engine.table(_carried(name), f"select * from kept_{_table(name)}")
            self.engine.drop(f"kept_{_table(name)}")
        self._has_carry.update(carried)
        if self.streamed is not None:
            self.engine.drop(_table(self.streamed))
        return found

    def _digests(self, name: str, end: int) -> Iterator[str]:
        """SQL of what an input's rows come to, and of the duplicates that the hours after `end` us remember."""
        rows = "select hash(r) as h from (select * exclude ({}) from {} where not is_context and {}) as r"
        digest = "select count(*), bit_xor(h), sum(h::hugeint) from ({})"
        yield digest.format(rows.format("segment, position", _table(name), "not is_duplicate"))
        if self._remembers(name):
            edge = end - round(self.looks_back[name] * US)
            again = f"is_duplicate and not is_copy and clock_us > {edge}"
            yield digest.format(rows.format("segment, position, lane_order", _table(name), again))

    def step(
        self, start: int, end: int, horizon: int, files: Files, target: Path | None, parts: int = 1
    ) -> dict[str, int]:
        """Take the hour [start, end) us in; write its rows to `target` unless it is None. Returns the counts.

        parts: take it in so many pieces, one after the other, so that no more than a piece is held in memory; the rows
        are the same.
        """
        counts = dict.fromkeys(COUNTS, 0)
        spans = [(a, b, horizon, self._inside(files, a, b)) for a, b in _pieces(start, end, parts)]
        if self.kernel is None and (target is None or parts == 1):
            for span in spans:
                self._enter(*span, counts)
                if target is not None:
                    counts["written"] = self.engine.copy(self._statement(span[3]), target)
                self._leave(span[1])
        else:
            self._through(spans, target, counts)
        return counts

    def _inside(self, files: Files, start: int, end: int) -> Files:
        """The files that may have rows in [start, end) us."""
        return {
            taken.channel: [
                (segment, facts)
                for segment, facts in files.get(taken.channel, ())
                if (span := facts.span(taken)).max_clock >= start and span.min_clock < end
            ]
            for taken in self.inputs.values()
            if taken is not None
        }

    def _enter(self, start: int, end: int, horizon: int, files: Files, counts: dict[str, int]) -> None:
        self.engine.bind(span_start_us=start, span_end_us=end, horizon_us=horizon)
        if self.model.config.get("price_unit") and self.price_unit is None:
            self._find_unit(files)  # first: what is valid may hang on it
        for name in self.inputs:
            if name != self.streamed:
                self.engine.table(_table(name), self._bronze(name, files))
        own = f"bronze.{self.model.channel}"
        if self.streamed is None and own in self.inputs:
            self._count(own, counts)

    def _leave(self, end: int) -> None:
        for name in self.inputs:
            if name != self.streamed:
                self._carry_over(name, end)
                self.engine.drop(_table(name))

    def _statement(self, files: Files) -> str:
        own = f"bronze.{self.model.channel}"
        in_order = False
        if self.model.config.get("keeps_order") and own in self.inputs and own != self.streamed:
            (in_order,) = self.engine.row(IN_ORDER.format(_table(own)))
        (statement,) = self.graph.render(self.model, self._context(files, input_is_ordered=in_order))
        return statement

    def _through(
        self, spans: Sequence[tuple[int, int, int, Files]], target: Path | None, counts: dict[str, int]
    ) -> None:
        """Span after span as one stream of rows, that DuckDB writes as one file."""
        import pyarrow as pa

        flow = self._noting(self._flow(spans, counts))
        schema = next(flow)
        try:
            if target is None:
                for _ in flow:
                    pass
            else:
                stream = pa.RecordBatchReader.from_batches(schema, flow)
                counts["written"] = self.engine.copy(self._shape, target, stream)
        except duckdb.Error:
            if self._refused is not None:
                raise self._refused from None
            raise
        for _ in flow:  # what DuckDB left, were it to stop early
            raise AssertionError("rows were left in the stream")

    def _noting(self, flow: Iterator[Any]) -> Iterator[Any]:
        """The same, with what goes wrong kept as it was: DuckDB and Arrow wrap it in text, with our own traceback."""
        import pyarrow as pa

        try:
            yield from flow
        except pa.ArrowException as error:  # DuckDB's own, on its way through Arrow's stream
            text = str(error).rpartition("Unknown error: ")[2].partition(". Detail: ")[0]
            self._refused = duckdb.Error(text)
            raise
        except Exception as error:
            self._refused = error
            raise

    def _flow(self, spans: Sequence[tuple[int, int, int, Files]], counts: dict[str, int]) -> Iterator[Any]:
        """The schema, then the batches of all spans. lane_order counts on from span to span."""
        import pyarrow as pa

        rows, schema = 0, None
        for start, end, horizon, files in spans:
            self._enter(start, end, horizon, files, counts)
            opened, stream = self._through_kernel(files, counts) if self.kernel else self._plain(files)
            if schema is None:
                schema = opened
                yield schema
            first = rows
            for batch in stream:
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays(_counted_on(batch, first), schema=schema)
            self._leave(end)

    def _plain(self, files: Files) -> tuple[Any, Iterator[Any]]:
        self._shape = f"select * from {models.KERNEL_OUTPUT}"
        reader = self.engine.reader(self._statement(files), self.engine.profile.batch_rows)
        return reader.schema, batches(reader)

    def _count(self, name: str, counts: dict[str, int]) -> None:
        read, duplicate, invalid, overflow, last = self.engine.row(COUNTED.format(_table(name)))
        _add(counts, last, read=read, duplicate=duplicate, invalid=invalid, overflow=overflow)

    def _bronze(self, name: str, files: Files) -> str:
        (statement,) = self.graph.render(self.graph.models[name], self._context(files))
        return self._taken(name, statement)

    def _taken(self, name: str, statement: str) -> str:
        """Of a bronze model's columns those that this model takes; all if it does not say."""
        takes = self.model.config.get("takes", {}).get(name)
        return f"select {', '.join(takes)} from (\n{statement}\n) as taken" if takes else statement

    def _context(self, files: Files, **extra: Any) -> Context:
        def ref(name: str) -> str:
            return f"(\n{self._bronze(name, files)}\n)" if name == self.streamed else _table(name)

        def source(channel: str) -> str:
            lane = self.inputs[f"bronze.{channel}"]
            return self.engine.raw(channel, lane or self.lane, files.get(channel, ()))

        return Context(
            {**self.variables, "input_is_ordered": False, **self._flags, **extra},
            ref,
            source,
            self.engine.bound,
            lambda name: name in self._has_carry,
            _carried,
        )

    _flags: Mapping[str, Any] = {}
    _shape = ""  # the statement over the stream
    _refused: Exception | None = None  # what went wrong in the stream

    def _find_unit(self, files: Files) -> None:
        """Fix the unit by the lane's first valid price. Segment after segment is asked, until none that is left begins
        before the price that was found."""
        name, channel = f"bronze.{self.model.channel}", self.model.channel
        price = self.graph.config_for(self.model, self.variables)["price_unit"]
        own, taken = list(files.get(channel, ())), self.inputs[name]
        assert taken is not None
        begins = sorted(facts.span(taken).min_clock for _, facts in own)
        some: list[tuple[Segment, Facts]] = []
        while len(some) < len(own):
            behind = begins[min(2 * len(some), len(own) - 1)]
            some = [(segment, facts) for segment, facts in own if facts.span(taken).min_clock <= behind]
            first = first_price(self.engine.con, f"(\n{self._bronze(name, {**files, channel: some})}\n)", price)
            if first is not None and (len(some) == len(own) or first[0] < begins[len(some)]):
                self._fix_unit(unit_of(first[1]))
                return

    def _carry_over(self, name: str, end: int) -> None:
        """Keep the rows that later hours look back on, and the last valid one before them, of whatever age.

        In one form, whatever else the hour held: where a row lay, and its place among rows that are gone, are left out.
        """
        edge = end - round(self.looks_back[name] * US)
        self.engine.table(_carried(name) + "_next", self._carry_sql(name, str(edge)))
        self.engine.drop(_carried(name))
        self.engine.con.execute(f"alter table {_carried(name)}_next rename to {_carried(name)}")
        self._has_carry.add(name)

    def _carry_sql(self, name: str, edge: str) -> str:
        """SQL of what is carried over of an input; `edge` is SQL of a clock, us."""
        copies = "is_copy" if self._remembers(name) else "true"
        return f"""select * replace (
                true as is_context, 0::ubigint as segment, 0::bigint as position,
                row_number() over (order by clock_us, is_duplicate, lane_order, segment, position) - 1 as lane_order
            )
            from {_table(name)}
            where not (is_duplicate and {copies}) and (clock_us > {edge} or (clock_us, lane_order) = (
                select (clock_us, lane_order) from {_table(name)}
                where is_valid and not is_duplicate and clock_us <= {edge}
                order by clock_us desc, lane_order desc limit 1
            ) and not is_duplicate)"""

    def _remembers(self, name: str) -> bool:
        """Do later hours look for duplicates among this input's rows? Exact copies (is_copy) tell them nothing."""
        return bool(self.graph.config_for(self.graph.models[name], self.variables).get("looks_back", 0))

    # -- the stream -------------------------------------------------------------------------------------------

    def _through_kernel(self, files: Files, counts: dict[str, int]) -> tuple[Any, Iterator[Any]]:
        import pyarrow as pa

        assert self.kernel is not None
        self._flags = {"input_is_ordered": self.streamed is not None and self._is_ordered(files, counts)}
        ordered, self._shape = models.require_kernel_statements(
            self.model, self.graph.render(self.model, self._context(files))
        )
        self._flags = {}
        reader = self.engine.reader(ordered, self.engine.profile.batch_rows)
        extra = [pa.field(name, pa.float64()) for name in self.kernel.columns]
        schema = pa.schema([*reader.schema, *extra])
        return schema, self._walked(reader, schema, counts)

    def _walked(self, reader: Any, schema: Any, counts: dict[str, int]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        assert self.kernel is not None
        beside = {
            name: Beside(self.engine, _table(name), columns)
            for name, columns in self.kernel.reads_beside().items()
            if name in self.inputs
        }
        self.kernel.start_partition()
        reads = self.kernel.reads()
        for batch in batches(reader):
            columns = {name: as_numpy(batch.column(name), pc) for name in reads}
            until = int(columns["clock_us"][-1])
            near = {name: rows.up_to(until) for name, rows in beside.items()}
            out, taken = self.kernel.advance(columns, near)
            for name, n in taken.items():
                beside[name].drop(n)
            if "is_gap" in self.kernel.columns:
                _add(counts, gaps=int((out[self.kernel.columns.index("is_gap")] == 1).sum()))
            if self.streamed is not None:
                self._count_streamed(batch, columns, counts)
            added = [pa.array(row, from_pandas=True) for row in out]
            yield pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema)
        if beside:
            self.kernel.finish({name: rows.rest() for name, rows in beside.items()})

    def _count_streamed(self, batch: Any, columns: Mapping[str, Any], counts: dict[str, int]) -> None:
        """What is streamed is counted on its way: all of it was counted as read, and a duplicate does not come here."""
        import pyarrow.compute as pc

        valid, overflow = columns["is_valid"], 0
        if "is_sound" in batch.schema.names:  # a user's model need not say it
            overflow = int((as_numpy(batch.column("is_sound"), pc) & ~valid).sum())
        rows = batch.num_rows
        last = int(columns["clock_us"][-1])
        _add(counts, last, duplicate=-rows, invalid=rows - int(valid.sum()), overflow=overflow)

    def _is_ordered(self, files: Files, counts: dict[str, int]) -> bool:
        """Does the hour's natural order rise strictly in (clock, timestamp, nonce)? Then it is lane order without
        duplicates, and neither is sorted or searched for."""
        name = self.streamed
        assert name is not None
        channel = self.graph.models[name].channel
        lane = self.inputs[name]
        source = self.engine.raw(channel, lane or self.lane, files.get(channel, ()))
        nonce = "nonce" if channel == "orderbook" else "null::bigint as nonce"
        clock = self.graph.render(
            Model("clock", Path("clock"), "{{ clock_us() }}"), self._context(files)
        )[0]  # fmt: skip
        read, ordered = self.engine.row(
            f"""
            with clocked as (select {clock} as c, timestamp as t, {nonce} from {source}),
            inside as (
                select * from clocked where c >= getvariable('span_start_us') and c < getvariable('span_end_us')
            ),
            lagged as (
                select c, t, nonce, lag(c) over () as pc, lag(t) over () as pt, lag(nonce) over () as pn from inside
            )
            select count(*), coalesce(bool_and(coalesce(
                pc is null or c > pc or (c = pc and (t > pt or (t = pt and nonce > pn))), false)), true)
            from lagged
            """
        )
        _add(counts, read=read, duplicate=read)  # less those that come through
        return bool(ordered)


def _pieces(start: int, end: int, parts: int) -> list[tuple[int, int]]:
    """A span of time in so many parts of one length."""
    return list(itertools.pairwise(start + (end - start) * i // parts for i in range(parts + 1)))


def _add(counts: dict[str, int], last: int | None = None, **more: int) -> None:
    """Add to the counts; `last` is a clock, us."""
    for name, n in more.items():
        counts[name] = counts.get(name, 0) + n
    if last is not None:
        counts["max_clock"] = max(last, counts.get("max_clock", last))


def _counted_on(batch: Any, first: int) -> list[Any]:
    """The columns of a batch, lane_order counted from `first`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = batch.schema.get_field_index("lane_order")
    columns = list(batch.columns)
    if first and place >= 0:
        columns[place] = pc.add(columns[place], pa.scalar(first, columns[place].type))
    return columns


def first_price(con: duckdb.DuckDBPyConnection, rows: str, price: str) -> tuple[int, float] | None:
    """The clock, us, and the price of the first valid row of `rows` that has one.

    price: SQL of a row's price, as a model's header gives it.
    """
    return con.execute(
        f"select clock_us, ({price})::double from {rows} as r where is_valid and not is_duplicate "
        f"and ({price}) > 0 and isfinite(({price})::double) order by clock_us, lane_order limit 1"
    ).fetchone()


def unit_of(price: float) -> float:
    """The unit of a lane's exact price sums: 2**-54 of the power of two below its first valid price (SPEC 11.2)."""
    return math.ldexp(1.0, math.frexp(price)[1] - 1 - 54)


def _table(name: str) -> str:
    return name.replace(".", "_")


def _carried(name: str) -> str:
    return f"carried_{_table(name)}"
