"""What is there minus what is in: the partitions of a lane in a model, which of them are to be made, and why.

Nothing is made here. A partition is in if its record says so for the code, the variables, the names and the inputs of
now, and if it began in the state in which the partition before it ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daedalus_etl import catalog, files, kernels, lanes, ledger, parts
from daedalus_etl.catalog import Bronze, Catalog, Found, Survey
from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane
from daedalus_etl.ledger import Input, Ledger, Record
from daedalus_etl.models import Graph, Model
from daedalus_etl.profiles import Profile
from daedalus_etl.times import parse_time

SHARED = ("code", "variables", "partners", "symbol")
CHAINED = "the hour before it ended otherwise"
NEVER = -(2**62)  # before all clocks, us


@dataclass(frozen=True)
class Selection:
    """Which models, lanes and times a run is about; times in us, end exclusive."""

    models: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    trades: Path | None = None
    full_refresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which part of a lane is meant, for who watches it: hours since the epoch.

    Hours from `since` on, before `behind`, which is still open; a row with a clock of `proved` us has been seen. If the
    lane is `followed`, days whose bars have not all ended are left to who follows it, unless `open_days`: then they are
    made up to `behind`, and handed on.
    """

    since: int | None = None
    behind: int | None = None
    proved: int | None = None
    followed: bool = True
    open_days: bool = False


@dataclass(frozen=True)
class Step:
    """One hour of a lane in a model. `reason` says why it is to be made; '' if it is in. Times in us."""

    partition: str
    start: int
    end: int  # its rows have clocks before this: the next hour, or --end
    until: int  # what the record will say: the same or, resampled, how far the grid is proved
    record: Record | None
    reason: str = ""
    wanted: bool = True  # False: before --start, needed for its state only
    frozen: bool = False  # some of what it was made of cannot be read any more: what was published stays
    added: bool = False  # nothing but further segments speaks for making it again
    touched: bool = False  # it is in, but its folders show something else: the record is to be renewed
    given: bool = False  # where a part of a lane begins: it is in, whatever came before it
    rows: int = 0
    listing: str = ""


class Scope:
    """What all lanes of a run share: settings, models, which lanes there are and how they are called."""

    def __init__(
        self,
        profile: Profile,
        graph: Graph,
        selection: Selection,
        there: Catalog,
        survey: Survey,
        warn: Callable[[str], None] = lambda _: None,
    ):
        self.profile, self.graph, self.selection, self.there, self.survey = profile, graph, selection, there, survey
        self.warn = warn
        self.reach = Reach()
        self.names = lanes.canonical_names(survey.lanes, profile.variables)
        self.chosen = [m for m in graph.select(selection.models) if m.is_published]
        self.folders = tuple(p / "kernels" for p in profile.projects[1:])
        self.kernels = tuple(sorted({m.config["kernel"] for m in self.chosen if "kernel" in m.config}))

    def widen(self, survey: Survey) -> None:
        """There are more lanes now; others may have other names and partners by that."""
        self.survey = survey
        self.names = lanes.canonical_names(survey.lanes, self.profile.variables)

    def models_of(self, lane: Lane) -> list[Model]:
        """The chosen models that walk a lane's channel, inputs first."""
        return [model for model in self.chosen if model.channel == lane.channel]

    def variables(self, lane: Lane) -> dict[str, Any]:
        return self.profile.for_lane(lane.exchange, lane.symbol)

    def ledger(self, model: Model, lane: Lane, duration: int = 0) -> Ledger:
        return Ledger(self.profile.data, model.name, lane, f"{duration}s" if duration else "")

    def code(self, model: Model) -> dict[str, str]:
        """Digests of all that is text in what makes a model's rows."""
        own = self.graph.digests(model)
        return {**own, "kernels": kernels.digest(*self.folders)} if "kernel" in model.config else own

    def inputs(self, model: Model, lane: Lane) -> dict[str, Lane | None]:
        """Which lane each bronze input of a silver model is for this lane."""
        found: dict[str, Lane | None] = {}
        for name in model.refs:
            channel = self.graph.models[name].channel
            if channel == lane.channel:
                found[name] = lane
                continue
            other, several = lanes.partner(lane, channel, self.survey.lanes, self.profile.variables)
            if several:
                self.warn(f"{lane}: several {channel} lanes have its canonical symbol; it takes none of them.")
            found[name] = other
        return found

    def segments(self, model: Model, lane: Lane, hour: int) -> dict[str, Found]:
        """What an hour of a silver model is made of, by channel."""
        return {
            self.graph.models[name].channel: self.there.of(taken).during(hour) if taken else []
            for name, taken in self.inputs(model, lane).items()
        }

    def describe(self, path: str) -> str:
        return catalog.describe(path, self.profile.data)


# -- silver ---------------------------------------------------------------------------------------------------


def silver(scope: Scope, model: Model, lane: Lane) -> list[Step]:
    """A lane's hours in order, up to the last that has rows of its own."""
    return list(_Hours(scope, model, lane))


class _Hours:
    def __init__(self, scope: Scope, model: Model, lane: Lane):
        self.scope, self.model, self.lane = scope, model, lane
        self.taken = scope.inputs(model, lane)
        self.ledger = scope.ledger(model, lane)
        self.code = scope.code(model)
        variables = scope.variables(lane)
        self.variables = plain(scope.graph.variables_of(model, variables))
        self.symbol = scope.names[lane]
        self.partners = {n: t.symbol if t else "" for n, t in self.taken.items() if t != lane}
        self.resampled = variables["resample_frequency"]
        self.reach = round(max(self.resampled, variables["resample_max_staleness"]) * US) if self.resampled else 0
        self.whole = 0  # the last clock of all rows that there are, us: resampled, the grid is proved up to here
        self.left_open: set[int] = set()  # hours that were followed and not closed
        self.followed: int | None = None  # the hour at whose end who follows the lane begins

    def bronze(self) -> Iterator[Bronze]:
        for lane in self.taken.values():
            if lane is not None:
                yield self.scope.there.of(lane)

    def __iter__(self) -> Iterator[Step]:
        selection = self.scope.selection
        recorded = {hour_of(name) for name in self.ledger.partitions}
        self.left_open = {hour_of(name) for name in self.ledger.journals()}
        own = self.scope.there.of(self.lane)
        last = max([own.last_hour(), *recorded, *self.left_open])
        hours = recorded.union(self.left_open, *(b.hours for b in self.bronze()))
        for hour in self._filled(recorded, own.hours) if self.resampled else ():
            # its last book may be that of a grid time in a silent one
            hours.update(range(hour, (hour * HOUR_US + HOUR_US + self.reach) // HOUR_US + 1))
        if self.resampled:
            self.whole = max([own.last_clock(), *self._clocks_of_the_lost(recorded, own.last_hour())])
        proved: int | None = self.whole if self.resampled else None
        if self.resampled and selection.end is not None:
            proved = min(self.whole, horizon(self.scope, self.lane))
        start = selection.start
        if start is not None and any(m.layer == "gold" and self.model.name in m.refs for m in self.scope.chosen):
            start = start // DAY_US * DAY_US  # a day's bars need the whole day
        before: Step | None = None
        first = self._begins()
        behind = self.scope.reach.behind
        self.followed = max((h for h in recorded if behind is not None and h < behind), default=None)
        for hour in sorted(h for h in hours if first <= h <= last):
            if (selection.end is not None and hour * HOUR_US >= selection.end) or (
                behind is not None and hour >= behind
            ):
                return
            step = self._step(hour, start, proved)
            if step is None:
                continue
            if hour == first and step.record is not None:
                step = replace(step, given=True)
            else:
                step = _lean(self._chained(step, before), before)
            yield step
            before = step

    def _clocks_of_the_lost(self, recorded: Iterable[int], last: int) -> Iterator[int]:
        """The last clocks of hours whose bronze is gone, from the last on that there is: what was published of them
        stays, and proves what it proved."""
        for hour in sorted(hour for hour in recorded if hour >= last):
            step = self._step(hour, None, None)
            if step is not None and step.frozen and step.record is not None and step.record.max_clock is not None:
                yield step.record.max_clock

    def _begins(self) -> int:
        """The hour whose kept state a part of the lane is walked on from; the first of all if none is kept."""
        since = self.scope.reach.since
        if since is None:
            return -(2**62)
        kept = (hour_of(name) for name in reversed(self.ledger.with_states()))
        return next((hour for hour in kept if hour < since), -(2**62))

    def _filled(self, recorded: Iterable[int], there: Iterable[int]) -> list[int]:
        """The hours that have, or had, books of their own."""
        records = {hour: self.ledger.get(catalog.hour_name(hour * HOUR_US)) for hour in recorded}
        return sorted({*there, *(hour for hour, record in records.items() if record and record.counts.get("read"))})

    def _step(self, hour: int, start: int | None, proved: int | None) -> Step | None:
        self.scope.there.go_on()
        first, behind, cut = hour * HOUR_US, (hour + 1) * HOUR_US, self.scope.selection.end
        name = catalog.hour_name(first)
        record = self.ledger.get(name)
        end = min(behind, cut) if cut is not None else behind
        until = end if proved is None else max(first, min(end, proved))
        if cut is not None:  # more of it may be published than --end asks for: it is not cut short again
            published = record.until if record is not None else published_until(self.ledger, name)
            whole = max(first, min(behind, self.whole)) if self.resampled else behind
            if published > until:
                until = max(until, min(published, whole))
                end = behind if self.resampled else until
        listed = listing(self.scope, self.taken.values(), hour)
        known = record is not None and record.listing == listed
        if known and record is not None and not record.aside:
            difference = Difference()
            rows = record.counts.get("read", 0)
        else:
            found = {b.lane.channel: b.during(hour) for b in self.bronze()}
            rows = sum(f.span(self.lane).rows for _, f in found.get(self.lane.channel, ()))
            if record is None and not self.resampled and not any(found.values()) and hour not in self.left_open:
                return None
            difference = Difference() if record is None else self._difference(record, found)
        wanted = start is None or behind > start
        reason = self._why(record, until, wanted) or difference.text
        return Step(
            name, first, end, until, record, reason, wanted,
            frozen=difference.lost > 0, rows=rows, listing=listed,
            added=difference.only_added and reason == difference.text,
            touched=record is not None and not known and not reason,
        )  # fmt: skip

    def _why(self, record: Record | None, until: int, wanted: bool) -> str:
        """Why a partition is to be made, but for its inputs."""
        if record is None or (wanted and not record.written):
            return "new"
        if self.scope.selection.full_refresh:
            return "full refresh"
        changed = changes(record, self.code, self.variables, self.symbol)
        if changed:
            return changed
        if dict(record.partners) != self.partners:
            return "another lane of the other channel belongs to it"
        if record.until != until:
            more = record.until < until
            return "it was made up to an earlier end" if more else "the rows that proved its last ones are gone"
        if hour_of(record.partition) == self.followed and self.ledger.load_state(record) is None:
            return "the state at its end is gone or has changed"
        return "" if self.ledger.is_there(record) else "what was published of it is gone or has changed"

    def _difference(self, record: Record, found: Mapping[str, Found]) -> Difference:
        """The inputs of now against those that a record names."""
        now = {(c, self.scope.describe(s.path)): (s, f) for c, segments in found.items() for s, f in segments}
        inputs = self.ledger.inputs(record)
        before = {(was.channel, was.path) for was in inputs}
        new = {(channel, facts.digest) for (channel, path), (_, facts) in now.items() if (channel, path) not in before}
        lost = changed = 0
        for was in inputs:
            key = (was.channel, was.path)
            path = str(self.scope.profile.data / was.path)
            if key in now:
                changed += now[key][1].digest != was.digest
            elif (was.channel, was.digest) in new:
                changed += 1  # it has another name now
            elif not os.path.lexists(path) or path in self.scope.there.bad or self._is_of_another_root(was, path):
                lost += 1
            else:
                changed += 1  # it has no rows here any more
        return Difference(len(now.keys() - before), changed, lost)

    def _is_of_another_root(self, was: Input, path: str) -> bool:
        """Was it found under another --source? Trades from elsewhere (--trades) may be exchanged for others."""
        return was.channel == self.lane.channel and not path.startswith(f"{self.scope.there.roots[was.channel]}/")

    def _chained(self, step: Step, before: Step | None) -> Step:
        """Does it begin where the one before it ended? What follows lost inputs is taken as it is."""
        if step.reason or step.frozen or step.record is None:
            return step
        if before is None:
            ended = ledger.NOTHING
        elif before.frozen or before.reason or before.record is None:
            return step
        else:
            ended = before.record.end
        if step.record.start == ended:
            return step
        return replace(step, reason=CHAINED)


def listing(scope: Scope, taken: Iterable[Lane | None], hour: int) -> str:
    """Digest of all files, good or bad, that the folders of these lanes show for an hour."""
    listed = [s for lane in taken if lane is not None for s in scope.there.of(lane).listing(hour)]
    return digest([[s.channel, scope.describe(s.path), *s.key] for s in listed])


def _lean(step: Step, before: Step | None) -> Step:
    """With what its record has in common with the one before it held once: a lane may have years of hours."""
    if before is None or before.record is None or step.record is None:
        return step
    one, other = step.record, before.record
    shared = {name: getattr(other, name) for name in SHARED if getattr(one, name) == getattr(other, name)}
    return replace(step, record=replace(one, **shared))


def horizon(scope: Scope, lane: Lane) -> int:
    """The last clock of a lane before --end, us: only a later row proves that a time of the grid is over."""
    own, end = scope.there.of(lane), scope.selection.end
    last = own.last_clock()
    if end is None or last < end:
        return last
    from daedalus_etl import audit

    for hour in (h for h in reversed(own.hours) if h * HOUR_US < end):
        clock = audit.last_clock(own.during(hour), lane, end, scope.profile.variables)
        if clock is not None:
            return clock
    return 0


def published_until(book: Ledger, name: str) -> int:
    """What was followed of a partition, and not closed, is published up to this clock, us."""
    journal = book.folder / f"{name}{ledger.OPEN}"
    return parts.read(journal).until if journal.is_file() else NEVER


@dataclass(frozen=True)
class Difference:
    """How the inputs of now differ from those of a record, in segments."""

    added: int = 0
    changed: int = 0
    lost: int = 0  # deleted, or not readable any more

    @property
    def only_added(self) -> bool:
        return self.added > 0 and not self.changed and not self.lost

    @property
    def text(self) -> str:
        parts = [f"{n} segments {what}" for n, what in ((self.added, "more"), (self.changed, "changed")) if n]
        return ", ".join(parts).replace("1 segments", "1 segment") if parts else ""


def changes(record: Record, code: Mapping[str, str], variables: Mapping[str, Any], symbol: str) -> str:
    """What has changed since a record, of the code, the variables and the name; '' if nothing has."""
    texts = sorted(n for n in {*record.code, *code} if record.code.get(n) != code.get(n))
    values = sorted(n for n in {*record.variables, *variables} if record.variables.get(n) != variables.get(n))
    said = [f"{', '.join(texts)} changed"] if texts else []
    said += [f"{n} was {record.variables.get(n)}, is {variables.get(n)}" for n in values]
    if record.symbol != symbol:
        said.append(f"it was published as {record.symbol}, is to be {symbol}")
    return "; ".join(said)


# -- words ----------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    return files.digest(json.dumps(value, sort_keys=True).encode())


def plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """As a record gives them back: lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(variables))
    return found


def hour_of(partition: str) -> int:
    """2026-02-03T14 -> the hour, since the epoch."""
    return parse_time(partition) // HOUR_US


def inputs_of(
    scope: Scope, found: Mapping[str, Iterable[tuple[lanes.Segment, Any]]], taken: Mapping[str, Lane]
) -> list[Input]:
    """What a record says of the segments that its partition was made of. taken: channel -> lane."""
    return [
        Input(channel, scope.describe(s.path), *s.key, f.digest, span.rows, span.min_clock, span.max_clock)
        for channel, segments in found.items()
        for s, f in segments
        if (span := f.of(taken[channel]))
    ]
