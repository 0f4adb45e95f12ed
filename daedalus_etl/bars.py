"""Makes what the plan says of a lane's bars: day by day, all durations of a day from the same slices."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from daedalus_etl import days, files, lanes, parts, plan
from daedalus_etl.days import Day
from daedalus_etl.engine import Engine
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane
from daedalus_etl.ledger import Record
from daedalus_etl.models import SLICES, Context, Model, statements_of_bars

if TYPE_CHECKING:
    from daedalus_etl.make import Maker

_STAGED = itertools.count()


class _GoneError(DaedalusError):
    """Silver that a day is made of is not there."""


class Bars:
    """One lane's days of bars."""

    def __init__(self, maker: Maker, model: Model, lane: Lane):
        self.maker, self.scope, self.model, self.lane = maker, maker.scope, model, lane
        self._sliced: tuple[str, tuple[str, ...], int] | None = None  # what the table of slices holds

    def make(self) -> None:
        planned = list(days.planned(self.scope, self.model, self.lane))
        pending = [day for day in planned if day.reason]
        for duration in {day.duration for day in planned if not day.is_open}:
            known = [d.record for d in planned if d.duration == duration and d.record is not None and not d.is_open]
            self.scope.ledger(self.model, self.lane, duration).tidy(known)
        self.maker.tell("planned", {"model": self.model.name, "rows": sum(day.rows for day in pending)})
        self.maker.tell("fresh", {"count": len(planned) - len(pending)})
        if not pending:
            return
        engine = Engine(self.scope.profile, self.maker.temp)
        gone: DaedalusError | None = None
        try:
            for day in sorted(pending, key=lambda day: (day.start, day.duration)):  # they share slices
                if self.maker.stopping():
                    return
                try:
                    self._day(day, engine)
                except _GoneError as error:  # of this day: the others can be made
                    gone = gone or error
        finally:
            engine.close()
        if gone is not None:
            raise gone

    def _day(self, day: Day, engine: Engine) -> None:
        began = time.perf_counter()
        processed = self.scope.profile.data / "processed"
        for path in day.paths:
            if not (processed / path).is_file():
                hint = f"Make it again: --select +{self.model.name}; without its bronze the day stays as it is."
                raise _GoneError("is gone", str(processed / path), hint)
        symbol = self.scope.names[self.lane]
        engine.bind(
            exchange=self.lane.exchange, symbol=symbol, source_symbol=self.lane.symbol,
            span_start_us=day.start, span_end_us=day.end, horizon_us=day.horizon,
            silver_files=[lanes.literal(str(processed / path)) for path in day.paths],
        )  # fmt: skip
        written, staged = 0, None
        if day.paths:
            staged = self.maker.staged(self.model, self.lane, f"{day.duration}s-{day.partition}-{next(_STAGED)}")
            written = engine.copy(self._statement(day, engine), staged)
            if not written:
                files.remove(staged)
        if day.is_open:
            self.maker.tell("staged", {
                "model": self.model.name, "lane": self.lane, "duration": day.duration, "partition": day.partition,
                "until": day.until, "rows": written, "path": str(staged) if written else "",
            })  # fmt: skip
            return
        folder = f"{self.model.folder}/{day.duration}s" if day.duration else self.model.folder
        place = lanes.partition_path(self.lane.exchange, symbol, day.start, by="day")
        record = Record(
            day.partition, symbol, self.scope.code(self.model),
            plan.plain(self.scope.graph.variables_of(self.model, self.scope.variables(self.lane))), {},
            day.silver, "", day.until, "", counts={"read": day.rows, "written": written},
        )  # fmt: skip
        target = f"{folder}/{place}/{day.partition}-{lanes.short(self.lane.symbol)}.parquet"
        book = self.scope.ledger(self.model, self.lane, day.duration)
        record = replace(record, obsolete=parts.obsolete(book, record, target))
        made = book.commit(record, (), staged if written else None, target)
        more = {"duration": day.duration} if day.duration else {}
        self.maker.done(self.model, self.lane, made, time.perf_counter() - began, **more)

    def _statement(self, day: Day, engine: Engine) -> str:
        """SQL of a day's bars. Their slices are a table then, which durations that have the same share."""
        ordered = {"input_is_ordered": True}  # hour after hour, each written in lane order
        variables = {**self.scope.variables(self.lane), "bar_duration_sec": day.duration, **ordered}
        silver = "read_parquet(getvariable('silver_files'), hive_partitioning = false)"
        statements = self.scope.graph.render(
            self.model, Context(variables, lambda _: silver, lambda _: "", engine.bound)
        )
        slices, bars = statements_of_bars(self.model, statements)
        if slices is not None and self._sliced != (slices, day.paths, day.horizon):
            engine.table(SLICES, slices)
            self._sliced = slices, day.paths, day.horizon
        return bars
