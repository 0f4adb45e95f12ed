"""The days of a lane's bars, of each duration: which there are, which of them are to be made, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from daedalus_etl import catalog, plan
from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane
from daedalus_etl.ledger import Ledger, Record
from daedalus_etl.models import Model
from daedalus_etl.plan import Reach, Scope


@dataclass(frozen=True)
class Day:
    """One partition of bars: a lane-day of one duration (s), and the published silver that it needs."""

    partition: str
    start: int
    end: int
    duration: int
    horizon: int
    until: int
    record: Record | None
    reason: str
    silver: str  # digest of what it is made of
    paths: tuple[str, ...]  # below processed/
    rows: int
    is_open: bool = False  # more of its bars will end


def planned(scope: Scope, model: Model, lane: Lane) -> Iterator[Day]:
    """A lane's days, for each duration: all that there are, with the reason of those that are to be made."""
    (silver_name,) = model.refs
    selection = scope.selection
    hours: dict[int, Record] = {}
    holes: set[int] = set()  # hours that have rows, which were not written: they lie before a --start
    book = scope.ledger(scope.graph.models[silver_name], lane)
    variables = scope.variables(lane)
    durations = variables["bar_durations"] if model.config.get("per") == "bar_durations" else (0,)
    reach = scope.reach
    earliest = _first_hour(reach, max(durations))
    for name in book.partitions:
        scope.there.go_on()
        hour = plan.hour_of(name)
        if hour < earliest or (reach.behind is not None and hour >= reach.behind):
            continue
        first = hour * HOUR_US
        record = book.get(name)
        if record is not None and record.written:
            hours[first] = replace(record, code={}, variables={})
        elif record is not None and record.counts.get("read"):
            holes.add(first)
    last = max((r.max_clock for r in hours.values() if r.max_clock is not None), default=None)
    if last is None:
        if not any(scope.ledger(model, lane, duration).partitions for duration in durations):
            return
        last = plan.NEVER  # all of its rows were taken back
    proved = min(reach.proved or last, last if reach.behind is None else reach.behind * HOUR_US)
    last = whole = max(last, proved)
    if selection.end is not None and last >= selection.end:
        last = _last_published(scope, hours, selection.end)
    read = plan.plain(scope.graph.variables_of(model, variables))
    code = scope.code(model)
    for duration in durations:
        own = scope.ledger(model, lane, duration)
        by_day: dict[int, list[int]] = defaultdict(list)
        for first in hours:
            for day in of_hour(first, duration):
                by_day[day].append(first)
        for day in sorted(by_day.keys() - {day for first in holes for day in of_hour(first, duration)}):
            start, end = day * DAY_US, (day + 1) * DAY_US
            ended = last_end(end, duration)
            if reach.since is not None and ended <= reach.since * HOUR_US:
                continue
            if (selection.start is not None and end <= selection.start) or (
                selection.end is not None and start >= selection.end
            ):
                continue
            used = [hours[first] for first in sorted(by_day[day])]
            made_of = plan.digest([[r.partition, [o.digest for o in r.outputs]] for r in used])
            name = catalog.partition_name(start, "day")
            record = own.get(name)
            until = min(last, ended)
            if duration and reach.followed and reach.behind is not None and ended > reach.behind * HOUR_US:
                if reach.open_days:
                    paths = tuple(o.path for r in used for o in r.outputs)
                    edge = reach.behind * HOUR_US
                    yield Day(name, start, end, duration, edge, edge, record, "open", made_of, paths, 0, is_open=True)
                continue
            reason = _why_bars(
                scope, own, record, plan.changes(record, code, read, scope.names[lane]) if record else ""
            )
            if not reason and record is not None:
                reason = "its silver changed" if record.start != made_of else ""
                reason = reason or ("more of it has ended" if record.until < until else "")
                if not reason and reach.behind is None and record.until > max(until, whole):
                    reason = "the rows that proved its last bars are gone"
            rows = sum(r.counts.get("written", 0) for r in used)
            paths = tuple(o.path for r in used for o in r.outputs)
            proved = plan.NEVER
            if selection.end is not None:  # more of it may be published: it is not cut short again
                proved = min(record.until if record else plan.published_until(own, name), whole)
            yield Day(
                name, start, end, duration, max(last, proved), max(until, proved), record, reason, made_of, paths, rows
            )


def last_end(end: int, duration: int) -> int:
    """When the last bar ends that starts in a day which ends at `end` us, of a duration in s."""
    length = duration * US
    return -(-end // length) * length if length else end


def _first_hour(reach: Reach, longest: int) -> int:
    """The first hour that the days of a part of a lane may need; bars take up to `longest` s."""
    if reach.since is None:
        return -(2**62)
    day = of_hour(reach.since * HOUR_US, longest)[0]
    return day * 24 - longest // 3600 - 1


def of_hour(first: int, duration: int) -> range:
    """The days (since the epoch) whose bars of a duration (s) need the hour that begins at `first` us."""
    length = duration * US
    earliest = (first // length * length if length else first) // DAY_US
    return range(earliest, (first + HOUR_US - 1) // DAY_US + 1)


def _why_bars(scope: Scope, own: Ledger, record: Record | None, changed: str) -> str:
    if record is None:
        return "new"
    if scope.selection.full_refresh:
        return "full refresh"
    return changed or ("" if own.is_there(record) else "what was published of it is gone or has changed")


def _last_published(scope: Scope, hours: Mapping[int, Record], end: int) -> int:
    """The last clock of a lane's silver before `end`, us."""
    from daedalus_etl import engine

    for first in sorted((first for first in hours if first < end), reverse=True):
        record = hours[first]
        if record.max_clock is not None and record.max_clock < end:
            return record.max_clock
        paths = [str(scope.profile.data / "processed" / output.path) for output in record.outputs]
        clock = engine.last_clock(paths, end) if paths else None
        if clock is not None:
            return clock
    return plan.NEVER


def name_of(start: int) -> str:
    """How a day that begins at `start` us is called."""
    return catalog.partition_name(start, "day")
