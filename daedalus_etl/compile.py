"""Models -> plain SQL for the DuckDB CLI: bound values are literals, inputs are inlined, nothing is carried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedalus_etl import days, engine, kernels, lanes, models, plan, silver
from daedalus_etl.audit import Span
from daedalus_etl.catalog import Found
from daedalus_etl.lanes import HOUR_US, Lane, partition_path
from daedalus_etl.models import Context, Graph, Model
from daedalus_etl.profiles import Profile
from daedalus_etl.runner import Run
from daedalus_etl.times import show_time

MARK = ".daedalus-compiled"  # `daedalus clean` removes only folders that hold it


@dataclass(frozen=True)
class Script:
    """One compiled file: its path below the output folder, and its SQL."""

    path: str
    sql: str


def literal(value: Any) -> str:
    """A bound value in SQL text. A line break would be taken for the end of a line of SQL."""
    if isinstance(value, str) and "\n" in value:
        return "concat(" + ", chr(10), ".join(models.quote(part) for part in value.split("\n")) + ")"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    return models.quote(value)


class Compiler:
    """Renders models for one lane as one span, from the lane's first segment up to --end."""

    def __init__(self, run: Run):
        self.run, self.graph, self.scope = run, run.graph, run.scope
        self._whole: dict[Lane, Found] = {}
        self.notes: list[str] = []

    def scripts(self, model: Model, lane: Lane) -> Iterator[Script]:
        """The files that a model compiles to for a lane."""
        base = model.name.replace(".", "/", 1)
        values = self._values(lane)
        if model.layer == "gold":
            yield from self._bars(model, lane, values, base)
            return
        if model.config.get("price_unit"):
            values["price_unit"] = self._price_unit(model, lane, values)
        statements = self.graph.render(model, self._context(model, lane, values))
        clock = "clock_us" if model.layer == "bronze" else "epoch_us(clock_ts)"
        if "kernel" in model.config:
            ordered, shape = models.require_kernel_statements(model, statements)
            yield self._script(f"{base}.input", model, lane, values, ordered)
            yield self._script(f"{base}.shape", model, lane, values, self._from_start(shape, clock))
        else:
            (statement,) = statements
            yield self._script(base, model, lane, values, self._from_start(statement, clock))

    def _bars(self, model: Model, lane: Lane, values: dict[str, Any], base: str) -> Iterator[Script]:
        """One file for each duration."""
        variables = self.run.profile.for_lane(lane.exchange, lane.symbol)
        for duration in variables["bar_durations"] if model.config.get("per") == "bar_durations" else (0,):
            files, bound = self._published(model, lane, duration)
            own = {**values, **bound}
            context = self._context(model, lane, own, files, bar_duration_sec=duration or 60)
            statement = models.bars_in_one(model, self.graph.render(model, context))
            name = f"{base}.{duration}s" if duration else base
            yield self._script(name, model, lane, own, self._from_start(statement, "epoch_us(bar_start)"))

    def _published(self, model: Model, lane: Lane, duration: int) -> tuple[list[str], dict[str, Any]]:
        """The silver files that a lane's bars need, and the span that they fill."""
        processed = self.run.profile.data.absolute() / "processed"
        taken = [day for day in days.planned(self.scope, model, lane) if day.duration == duration]
        paths = sorted({path for day in taken for path in day.paths})
        if paths:
            bound = {
                "span_start_us": min(day.start for day in taken),
                "span_end_us": max(day.end for day in taken),
                "horizon_us": max(day.horizon for day in taken),
            }
            return [str(processed / path) for path in paths], bound
        silver_name = model.refs[0]
        note = (
            f"{silver_name} {lane} is not published yet: {model.name} runs after `daedalus run --select {silver_name}`."
        )
        if note not in self.notes:
            self.notes.append(note)
        folder = processed / self.graph.models[silver_name].folder
        hive = partition_path(lane.exchange, self.scope.names[lane], 0, by="day").partition("/year=")[0]
        return [f"{folder}/{hive}/**/*.parquet"], {}

    # -- what names stand for -----------------------------------------------------------------------------------

    def _values(self, lane: Lane) -> dict[str, Any]:
        end = self.run.selection.end
        spans = {taken: self._spans(taken) for taken in self._lanes(lane)}
        first = min((s.min_clock for found in spans.values() for s in found), default=0) // HOUR_US * HOUR_US
        last_clock = max((s.max_clock for s in spans[lane]), default=0)
        last = (last_clock // HOUR_US + 1) * HOUR_US
        return {
            "exchange": lane.exchange,
            "symbol": self.scope.names[lane],
            "source_symbol": lane.symbol,
            "span_start_us": first,
            "span_end_us": min(last, end) if end is not None else last,
            "horizon_us": last_clock if end is None else plan.horizon(self.scope, lane),
            "price_unit": None,
        }

    def _spans(self, lane: Lane) -> list[Span]:
        return [span for _, facts in self._found(lane) if (span := facts.of(lane))]

    def _found(self, lane: Lane) -> Found:
        if lane not in self._whole:
            self._whole[lane] = self.scope.there.of(lane).whole()
        return self._whole[lane]

    def _during(self, lane: Lane | None, start: int, end: int) -> Found:
        """A lane's segments that may have a clock in [start, end) us, in segment order."""
        return [
            (segment, facts)
            for segment, facts in (self._found(lane) if lane else ())
            if (span := facts.of(lane)) and span.max_clock >= start and span.min_clock < end  # type: ignore[arg-type]
        ]

    def _lanes(self, lane: Lane) -> Iterable[Lane]:
        """A lane and those that its models read beside it."""
        found = {lane}
        for model in self.graph.models.values():
            if model.layer == "silver" and model.channel == lane.channel:
                found |= {taken for taken in self.scope.inputs(model, lane).values() if taken}
        return sorted(found)

    def _context(
        self, model: Model, lane: Lane, values: Mapping[str, Any], files: list[str] | None = None, **extra: Any
    ) -> Context:
        variables = {**self.run.profile.for_lane(lane.exchange, lane.symbol), "input_is_ordered": False, **extra}
        inputs = self.scope.inputs(model, lane) if model.layer == "silver" else {f"bronze.{lane.channel}": lane}

        def source(channel: str) -> str:
            taken = inputs.get(f"bronze.{channel}")
            found = self._during(taken, values["span_start_us"], values["span_end_us"])
            paths = literal([lanes.literal(str(Path(s.path).absolute())) for s, _ in found])
            names = literal((taken or lane).exchange), literal((taken or lane).symbol)
            return engine.raw_relation(channel, names, found, paths)

        def ref(name: str) -> str:
            if files is not None and self.graph.models[name].is_published:
                return f"read_parquet({literal(files)}, hive_partitioning = false)"
            (statement,) = self.graph.render(self.graph.models[name], context)
            return f"(\n{statement}\n)"

        context = Context(variables, ref, source, lambda name: _value(values, name))
        return context

    def _price_unit(self, model: Model, lane: Lane, values: Mapping[str, Any]) -> float | None:
        """As the runner finds it: from the first hour with a valid row."""
        bronze = self.graph.models[f"bronze.{model.channel}"]
        price = self.graph.config_for(model, self.run.profile.for_lane(lane.exchange, lane.symbol))["price_unit"]
        con = engine.connect(self.run.profile.memory_limit, None)
        try:
            for hour in range(values["span_start_us"], values["span_end_us"], HOUR_US):
                behind = min(hour + HOUR_US, values["span_end_us"])
                if not self._during(lane, hour, behind):
                    continue
                span = {**values, "span_start_us": hour, "span_end_us": behind}
                (statement,) = self.graph.render(bronze, self._context(bronze, lane, span))
                first = silver.first_price(con, f"(\n{statement}\n)", price)
                if first is not None:
                    return silver.unit_of(first[1])
        finally:
            con.close()
        return None

    # -- text ---------------------------------------------------------------------------------------------------

    def _from_start(self, statement: str, clock: str) -> str:
        """State is the lane's from its first row; --start only chooses what is shown (SPEC 11.3)."""
        start = self.run.selection.start
        return statement if start is None else f"select * from (\n{statement}\n) where {clock} >= {literal(start)}"

    def _script(self, name: str, model: Model, lane: Lane, values: Mapping[str, Any], statement: str) -> Script:
        start, end = show_time(values["span_start_us"]), show_time(values["span_end_us"])
        lines = [
            f"{model.name} of {lane}, compiled from sql/{model.layer}/{model.path.name}.",
            f"Clocks from {start} up to {end} UTC, as one span.",
        ]
        if name.endswith(".shape"):
            lines.append(
                f"Over a table {models.KERNEL_OUTPUT}: the rows of {model.name}.input.sql and the kernel's columns."
            )
        elif model.layer == "gold":
            lines.append("With `set threads = 1` its sums are those of the published files to the last bit.")
        else:
            lines.append(
                "It runs as it is. lane_order counts from the span's first row, in published files from each hour's."
            )
        head = "\n".join("-- " + " ".join(line.split()) for line in lines)  # a name may hold a line break
        return Script(f"{name}.sql", f"{head}\n{statement};\n")


def _value(values: Mapping[str, Any], name: str) -> str:
    if values[name] is None:
        return "null::double"
    return literal(values[name])


def lanes_of(run: Run, model: Model, *, every: bool) -> list[Lane]:
    """The selected lanes that a model is compiled for: the first, or all."""
    found = [lane for lane in run.selected if lane.channel == model.channel]
    return found if every else found[:1]


def write(scripts: Iterable[Script], folder: Path) -> list[Path]:
    """Write compiled files below a folder; returns their paths."""
    written = []
    for script in scripts:
        path = folder / script.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script.sql, encoding="utf-8", errors="surrogateescape")
        written.append(path)
    if written:
        (folder / MARK).touch()
    return written


def empty(profile: Profile, graph: Graph, model: Model) -> str:
    """A relation with a model's columns and no rows, for what nothing was published of yet."""
    values: dict[str, Any] = dict.fromkeys(("span_start_us", "span_end_us", "horizon_us"), 0)
    values |= {"exchange": "", "symbol": "", "source_symbol": "", "price_unit": None}

    def ref(name: str) -> str:
        return f"(\n{empty(profile, graph, graph.models[name])}\n)"

    context = Context(
        {**profile.variables, "input_is_ordered": False, "bar_duration_sec": 60},
        ref,
        lambda channel: engine.raw_relation(channel, None, (), ""),
        lambda name: _value(values, name),
    )
    statements = graph.render(model, context)
    if model.layer == "gold":
        return models.bars_in_one(model, statements)
    if "kernel" not in model.config:
        return statements[0]
    ordered, shape = models.require_kernel_statements(model, statements)
    kernel = kernels.load(model.config["kernel"], tuple(p / "kernels" for p in profile.projects[1:]))
    added = ", ".join(f'null::double as "{name}"' for name in kernel(dict(profile.variables)).columns)
    return (
        f"select * from (\nwith {models.KERNEL_OUTPUT} as (\nselect *, {added} from (\n{ordered}\n)\n)\n"
        f"select * from (\n{shape}\n)\n)"
    )
