"""The bars of one lane that is followed, in one gold model: parts of their days, as they end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daedalus_etl import days, files, lanes, ledger, plan
from daedalus_etl.catalog import partition_name
from daedalus_etl.engine import Engine
from daedalus_etl.lanes import DAY_US, HOUR_US, US
from daedalus_etl.models import Context, Model, bars_in_one
from daedalus_etl.parts import OpenPartition
from daedalus_etl.times import parse_time

if TYPE_CHECKING:
    import pyarrow as pa

    from daedalus_etl.live_hours import LiveHours

MANY_ROWS = 1024  # that came, until they go into the table
ADOPTED = 9  # the level of a part that was made elsewhere, of all hours before: joining leaves it alone


class LiveBars:
    """The bars of one lane in one gold model, of all durations; each is written when a row proves its end."""

    def __init__(self, hours: LiveHours, model: Model):
        self.hours, self.scope, self.model, self.lane = hours, hours.scope, model, hours.lane
        self.engine = Engine(self.scope.profile, within=hours.live.engine)
        self.table = f"rows_of_{model.name.replace('.', '_')}"
        self.sql: dict[int, str] = {}  # by duration
        self.durations = tuple(self.scope.variables(self.lane)["bar_durations"]) if "per" in model.config else ()
        self.until: dict[int, int] = {}  # bars that end at or before this are in; missing: not known yet
        self.days: dict[tuple[int, int], OpenPartition] = {}
        self.redo: dict[int, int] = {}  # published bars that end behind this are to be made again
        self.columns: list[str] = []
        self.came: pa.Table | None = None  # rows that are not in the table yet
        self.rows_from = 0  # the table has all rows from this clock on
        self.offered: dict[tuple[int, str], tuple[int, str]] = {}  # made elsewhere, to be taken over when all is in

    # -- rows -------------------------------------------------------------------------------------------------

    def add(self, rows: pa.Table) -> None:
        """Rows of silver that were published."""
        import pyarrow as pa

        if not self.durations:
            return
        if not self.columns:
            self._lay_out(rows)
        rows = rows.select(self.columns)
        # in one piece: DuckDB gives each column of a few rows room for 2,048
        self.came = pa.concat_tables([self.came, rows]).combine_chunks() if self.came is not None else rows
        if self.came.num_rows >= MANY_ROWS:
            self._settle()

    def _settle(self) -> None:
        """Rows that came go into the table: many at once, since it costs as much as one."""
        if self.came is not None:
            self.engine.fill_arrow(self.table, self.came)
            self.engine.tidy()
            self.came = None

    def close(self) -> None:
        self.engine.close()

    def _lay_out(self, rows: pa.Table) -> None:
        """A table of the columns that the model names, and its statements."""
        symbol = self.scope.names[self.lane]
        self.engine.bind(exchange=self.lane.exchange, symbol=symbol, source_symbol=self.lane.symbol)
        self.engine.bind(span_start_us=0, span_end_us=0, horizon_us=0)
        texts = [self._sql(duration, self.engine.bound, "nowhere") for duration in self.durations]
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        every = any(re.search(r"columns\s*\(", text, re.IGNORECASE) for text in texts)
        self.columns = [name for name in rows.schema.names if every or name in words or name == "clock_ts"]
        self.engine.load_arrow(self.table, rows.select(self.columns).slice(0, 0))
        # planned anew for each bar: prepared, they did not end when they ran again over other rows (DuckDB 1.5.5)
        relation = f"(select * from {self.table} where epoch_us(clock_ts) >= getvariable('bars_from_us'))"
        self.sql = {duration: self._sql(duration, self.engine.bound, relation) for duration in self.durations}

    def _sql(self, duration: int, bound: Callable[[str], str], relation: str) -> str:
        variables = {**self.scope.variables(self.lane), "bar_duration_sec": duration}
        statements = self.scope.graph.render(self.model, Context(variables, lambda _: relation, lambda _: "", bound))
        return bars_in_one(self.model, statements)

    def begin(self) -> None:
        """Take up the journals of the days that the next bars belong to, and the rows that these need."""
        if not self.durations:
            return
        self.days.clear()
        self.until.clear()
        self.redo.clear()
        start = self.hours.hour * HOUR_US
        book, left = self.hours.standing()
        recorded = [hour for hour in map(plan.hour_of, book.partitions) if hour < self.hours.hour]
        first = min([*left, self.hours.hour]) * HOUR_US
        edges = {duration: start // (duration * US) * duration * US for duration in self.durations}
        for duration, edge in edges.items():
            day = self._day(duration, edge)
            if day.resume(self._header()):
                self.until[duration] = max(edge, day.now.until)
                if day.now.until > edge:  # rows may have changed right before the end, and these bars not yet
                    self.redo[duration] = edge
            elif not any(edge // DAY_US in days.of_hour(hour * HOUR_US, duration) for hour in recorded):
                self.until[duration] = first // (duration * US) * duration * US  # all of the day is here: it is new
        self._load_rows(min([start, *edges.values(), *self.until.values()]))
        self.publish(self.hours.last)

    def _header(self) -> dict[str, Any]:
        variables = self.scope.variables(self.lane)
        return plan.plain({
            "version": ledger.VERSION, "code": self.scope.code(self.model), "symbol": self.scope.names[self.lane],
            "variables": self.scope.graph.variables_of(self.model, variables),
        })  # fmt: skip

    def _day(self, duration: int, clock: int) -> OpenPartition:
        """The partition of the bar that begins at a clock."""
        day = clock // DAY_US
        if (duration, day) not in self.days:
            name = partition_name(day * DAY_US, "day")
            place = lanes.partition_path(self.lane.exchange, self.scope.names[self.lane], day * DAY_US, by="day")
            target = f"{self.model.folder}/{duration}s/{place}/{name}-{lanes.short(self.lane.symbol)}.parquet"
            book = self.scope.ledger(self.model, self.lane, duration)
            self.days[duration, day] = OpenPartition(book, name, target, self.scope.profile.parquet)
        return self.days[duration, day]

    def _load_rows(self, edge: int) -> None:
        """What is published of silver from a clock on: of hours that are closed, and of those that are not yet."""
        self.rows_from = edge
        hours = self.hours
        book, left = hours.standing()
        paths = []
        for name in book.partitions:
            record = book.get(name) if edge // HOUR_US <= plan.hour_of(name) < hours.hour else None
            paths += [book.processed / output.path for output in record.outputs] if record is not None else []
        for partition in hours.published_in_parts(hour for hour in left if hour >= edge // HOUR_US):
            paths += [partition.target.parent / part.name for part in partition.now.parts]
        self.came = None
        if self.columns:
            self.engine.con.execute(f"delete from {self.table}")
        for path in sorted(set(paths)):
            wanted = ", ".join(self.columns) or "*"
            rows: pa.Table = self.engine.con.execute(
                f"select {wanted} from read_parquet($1, hive_partitioning = false) where epoch_us(clock_ts) >= $2",
                [lanes.literal(str(path)), edge],
            ).to_arrow_table()
            if rows.num_rows:
                self.add(rows)

    def back(self, clock: int) -> None:
        """Rows from a clock on will come again."""
        self._settle()
        if self.columns:
            self.engine.con.execute(f"delete from {self.table} where epoch_us(clock_ts) >= {int(clock)}")
        for duration, until in self.until.items():
            length = duration * US
            if until > clock:
                self.redo[duration] = min(clock // length * length, self.redo.get(duration, until))

    def turn(self) -> None:
        """Let go of rows that no bar needs any more."""
        self._settle()
        if self.columns and self.until:
            self.rows_from = edge = min(self.until.values())
            self.engine.con.execute(f"delete from {self.table} where epoch_us(clock_ts) < {int(edge)}")

    # -- bars -------------------------------------------------------------------------------------------------

    def publish(self, last: int) -> None:
        """Write the bars that have ended, now that there is a row with this clock."""
        self._adopt()
        for duration, until in list(self.until.items()):
            edge = min(until, self.redo.get(duration, until))
            ended = self._whole(last, duration)
            if ended <= edge or not self.columns or not self.hours.is_whole:
                continue
            behind = min(ended, (self.hours.hour + 1) * HOUR_US)  # of the last row that there can be
            for day in range(edge // DAY_US, (behind - 1) // DAY_US + 1):
                if not self._is_over(day, duration):
                    self._publish_day(duration, day, edge, ended)
            self._are_in(duration, edge, ended)

    def _whole(self, clock: int, duration: int) -> int:
        """The end of the last bar that has ended by a clock, of all those whose rows are in."""
        return min(clock, self.hours.at) // (duration * US) * duration * US

    def _are_in(self, duration: int, edge: int, ended: int) -> None:
        """The bars between these clocks are in. What is published behind them stays until it is proved anew."""
        until = self.until[duration] = max(ended, self.until.get(duration, 0))
        redo = self.redo.pop(duration, until)
        redo = max(redo, ended) if redo >= edge else redo
        if redo < until:
            self.redo[duration] = redo

    def _bars(self, duration: int, day: int, edge: int, ended: int) -> pa.Table:
        """The bars of a day that begin at or after one clock and end at or before another."""
        given = {"span_start_us": max(day * DAY_US, edge), "span_end_us": (day + 1) * DAY_US, "horizon_us": ended}
        self._settle()
        self.engine.bind(**given, bars_from_us=edge)
        return self.engine.to_arrow(self.sql[duration])

    def _publish_day(self, duration: int, day: int, edge: int, ended: int) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        open_day = self._day(duration, day * DAY_US)
        rows = self._bars(duration, day, edge, ended)
        if not open_day.now.header:
            if not rows.num_rows:
                return
            if not open_day.resume(self._header()):
                open_day.begin(self._header())
        gone = [part for part in open_day.now.parts if part.last > edge and part.first <= ended]
        for part in gone:
            if part.first <= edge or part.last > ended:  # its earlier and later bars stay as they are
                before = open_day.read([part])
                stays = pc.or_(pc.less_equal(_ends(before), edge), pc.greater(_ends(before), ended))
                rows = pa.concat_tables([before.filter(stays).cast(rows.schema), rows]).sort_by("bar_end")
        if rows.num_rows:
            staged = [open_day.stage(rows, "bar_end")]
            open_day.commit(staged, min(ended, days.last_end((day + 1) * DAY_US, duration)), gone=gone)
            open_day.join("bar_end")

    def adopt(self, duration: int, partition: str, until: int, path: str) -> None:
        """Take over the bars of an open day that end at or before `until` us, made elsewhere; '' if there are none.

        Not before all rows behind them are in again: with those that are made of these it replaces all bars of the day.
        What was published behind them stays until its end is proved once more: a lane that begins anew may know of no
        later row. A day that is over by now is left alone: it is closed, or soon will be.
        """
        self.offered[duration, partition] = until, path
        self._adopt()

    def _adopt(self) -> None:
        while self.offered and self.hours.is_whole:
            (duration, partition), (until, path) = self.offered.popitem()
            if self._is_over(parse_time(partition) // DAY_US, duration):  # the hour turned meanwhile
                if path:
                    files.remove(Path(path))
                if duration not in self.until:
                    self._ask_anew()
                continue
            try:
                self._take_over(duration, partition, until, path)
            except Exception:
                self._ask_anew()
                raise

    def _is_over(self, day: int, duration: int) -> bool:
        """Have all bars of a day ended before the open hour? Then who closes hours makes it whole."""
        return days.last_end((day + 1) * DAY_US, duration) <= self.hours.hour * HOUR_US

    def _ask_anew(self) -> None:
        self.hours.live.restage(self.hours, self.hours.hour - 1)

    @property
    def lacks(self) -> bool:
        """Is there a duration of which it does not know what is in?"""
        return len(self.until) < len(self.durations)

    def _take_over(self, duration: int, partition: str, until: int, path: str) -> None:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        length = duration * US
        if until // length * length < max(until, self.rows_from):  # what was made is also of rows that came late
            self._load_rows(min(until // length * length, self.rows_from))
        clock = parse_time(partition)
        open_day = self._day(duration, clock)
        ended = self._whole(max(self.until.get(duration, 0), self.hours.last), duration)
        edge = until // length * length
        staged = []
        if path:
            ends = _ends(pq.read_table(path, columns=["bar_end"]))
            first, last = pc.min(ends).as_py(), pc.max(ends).as_py()
            part = open_day.taken(Path(path), len(ends), first, last, ADOPTED)
            staged.append((part, Path(path)))
        day = clock // DAY_US
        ended = min(ended, days.last_end((day + 1) * DAY_US, duration))
        if not self.columns or (ended - 1) // DAY_US < day:
            ended = edge
        if ended > edge:
            rows = self._bars(duration, day, edge, ended)
            if rows.num_rows:
                staged.append(open_day.stage(rows, "bar_end"))
        if not open_day.now.header and not open_day.resume(self._header()):
            open_day.begin(self._header())
        later = [part for part in open_day.now.parts if part.last > ended]
        if later:
            rows = open_day.read(later).sort_by("bar_end")
            staged.append(open_day.stage(rows.filter(pc.greater(_ends(rows), ended)), "bar_end"))
        if staged:
            open_day.commit(staged, ended, gone=list(open_day.now.parts))
        self._are_in(duration, day * DAY_US, ended)

    def join(self) -> bool:
        return any(day.join("bar_end") for day in self.days.values() if day.now.parts)


def _ends(bars: pa.Table) -> Any:
    """When they end, us."""
    import pyarrow as pa

    return bars.column("bar_end").cast(pa.int64())
