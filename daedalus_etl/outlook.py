"""What a run would make, and how each lane stands: the plan, told to people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daedalus_etl import days, parts, plan
from daedalus_etl.lanes import DAY_US, HOUR_US, Lane
from daedalus_etl.ledger import OPEN, Ledger
from daedalus_etl.models import Model
from daedalus_etl.parts import Standing as Journal
from daedalus_etl.plan import Scope, Step

if TYPE_CHECKING:
    from daedalus_etl.runner import Report


@dataclass(frozen=True)
class Pending:
    """A partition that a run would make, or (`perhaps`) may have to."""

    model: str
    lane: Lane
    symbol: str
    partition: str
    rows: int
    reason: str
    duration: int = 0
    perhaps: bool = False


@dataclass(frozen=True)
class Standing:
    """How a lane stands in one silver model; `last_clock` in us."""

    model: str
    lane: Lane
    symbol: str
    last_clock: int | None
    counts: dict[str, int]


def opened(book: Ledger) -> dict[str, Journal]:
    """What `daedalus watch` has published in parts, of partitions that are not over, by partition."""
    return {name: parts.read(book.folder / f"{name}{OPEN}") for name in book.journals()}


def pending(scope: Scope, lanes: Iterable[Lane]) -> Iterator[Pending]:
    """What a run would make of these lanes, in its order."""
    for lane in lanes:
        silver: dict[str, list[Pending]] = {}
        for model in scope.models_of(lane):
            if model.layer == "gold":
                bars = _bars(scope, model, lane, silver.get(model.refs[0], []))
                yield from sorted(bars, key=lambda day: (day.partition, day.duration))
                continue
            silver[model.name] = list(_hours(scope, model, lane, plan.silver(scope, model, lane)))
            yield from silver[model.name]


def _hours(scope: Scope, model: Model, lane: Lane, steps: list[Step]) -> Iterator[Pending]:
    before = ""
    live = opened(scope.ledger(model, lane))
    ahead = max((k for k, step in enumerate(steps) if step.wanted), default=-1) + 1
    for step in steps[:ahead]:
        if step.frozen:
            before = ""
            was = step.record
            if was is not None and was.outputs and was.symbol != scope.names[lane]:
                reason = f"it was published as {was.symbol}, is to be {scope.names[lane]}, as it is: its bronze is gone"
                yield Pending(model.name, lane, scope.names[lane], step.partition, was.counts["written"], reason)
        if not step.wanted or step.frozen:
            continue
        if step.reason:
            before, reason = step.partition, step.reason
            if step.partition in live:
                reason += f"; {sum(part.rows for part in live[step.partition].parts):,} rows are published in parts"
            yield Pending(model.name, lane, scope.names[lane], step.partition, step.rows, reason)
        elif before:
            reason = f"it follows {before}"
            yield Pending(model.name, lane, scope.names[lane], step.partition, step.rows, reason, perhaps=True)


def _bars(scope: Scope, model: Model, lane: Lane, silver: list[Pending]) -> Iterator[Pending]:
    """Bars that are stale by themselves, and those of silver that is to be made."""
    said: set[tuple[int, str]] = set()
    for day in days.planned(scope, model, lane):
        if day.reason:
            said.add((day.duration, day.partition))
            yield Pending(
                model.name, lane, scope.names[lane], day.partition, day.rows, day.reason, duration=day.duration
            )
    durations = scope.variables(lane)["bar_durations"] if model.config.get("per") == "bar_durations" else (0,)
    for duration in durations:
        made: dict[str, list[Pending]] = {}
        for hour in silver:
            for number in days.of_hour(plan.hour_of(hour.partition) * HOUR_US, duration):
                made.setdefault(days.name_of(number * DAY_US), []).append(hour)
        for name, hours in sorted(made.items()):
            if (duration, name) not in said:
                rows, perhaps = sum(hour.rows for hour in hours), all(hour.perhaps for hour in hours)
                reason = f"its silver is made: {hours[0].partition}" + (", ..." if len(hours) > 1 else "")
                yield Pending(
                    model.name, lane, scope.names[lane], name, rows, reason, duration=duration, perhaps=perhaps
                )


def standing(scope: Scope, lanes: Iterable[Lane], report: Report) -> list[Standing]:
    """How these lanes stand in the chosen silver models. The report hears of what is in quarantine."""
    found = []
    for lane in lanes:
        for model in scope.models_of(lane):
            if model.layer == "gold":
                continue
            book = scope.ledger(model, lane)
            steps = plan.silver(scope, model, lane)
            live = opened(book)
            stale = {step.partition for step in steps if step.reason} - live.keys()
            bars = [
                day
                for other in scope.graph.models.values()
                if other.layer == "gold" and model.name in other.refs
                for day in days.planned(scope, other, lane)
                if day.reason and day.partition not in scope.ledger(other, lane, day.duration).journals()
            ]
            one = _standing(scope, model, lane, steps, len(stale) + len(bars), report, book.head().get("max_clock"))
            found.append(_with_live(one, live.values()))
    return found


def _with_live(one: Standing, live: Iterable[Journal]) -> Standing:
    """With the rows of hours that are not over."""
    found = list(live)
    rows = sum(part.rows for journal in found for part in journal.parts)
    last = max([one.last_clock or 0, *(journal.last for journal in found)])
    return replace(one, last_clock=last or None, counts={**one.counts, "live": rows})


def _standing(
    scope: Scope, model: Model, lane: Lane, steps: list[Step], stale: int, report: Report, head: int | None
) -> Standing:
    records = [step.record for step in steps if step.record is not None and step.record.written]
    filled = [plan.hour_of(r.partition) for r in records if r.counts.get("read", 0)]
    sums = {
        name: sum(r.counts.get(name, 0) for r in records)
        for name in ("read", "duplicate", "invalid", "overflow", "written", "gaps")
    }
    empty = filled[-1] - filled[0] + 1 - len(filled) if filled else 0
    clocks = [r.max_clock for r in records if r.max_clock is not None]
    apart = f"exchange={lane.exchange}/symbol={lane.symbol}/"
    quarantined = sum(f"/{lane.channel}/" in f"/{path}" and apart in path for path, _ in report.quarantined)
    counts = {
        "rows": sums["written"], "hours": len(filled), "empty_hours": empty, "gaps": sums["gaps"],
        "read": sums["read"], "duplicate": sums["duplicate"], "invalid": sums["invalid"], "overflow": sums["overflow"],
        "quarantined": quarantined, "stale": stale,
        "frozen": sum(step.frozen for step in steps),
    }  # fmt: skip
    return Standing(model.name, lane, scope.names[lane], max(clocks, default=head), counts)
