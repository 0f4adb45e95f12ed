"""Makes what the plan says: a lane's hours of silver, one after the other, and its days of bars.

One lane in one model is walked in order, from the newest state that is still true. A replay stops at the first hour
that begins in the state that its record names.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from daedalus_etl import audit, files, kernels, lanes, ledger, limits, parts, plan
from daedalus_etl.bars import Bars
from daedalus_etl.catalog import Found
from daedalus_etl.engine import Engine, connect
from daedalus_etl.errors import DaedalusError, StoppedError
from daedalus_etl.lanes import HOUR_US, Lane
from daedalus_etl.ledger import Record
from daedalus_etl.models import Model
from daedalus_etl.plan import Scope, Step
from daedalus_etl.silver import Walk

Listener = Callable[[str, Mapping[str, Any]], None]  # event, details
TRIES = 5  # of a lane whose bronze changes while it is read


class _ChangedError(Exception):
    """Bronze is not what the plan saw: plan again."""


class _KeptError(Exception):
    """What a lane has of an hour stays as it is."""


class Maker:
    """Makes lanes of a scope. `tell` hears of each event; between partitions `stopping` is asked whether to go on."""

    def __init__(self, scope: Scope, temp: Path, tell: Listener, stopping: Callable[[], bool] = lambda: False):
        self.scope, self.temp, self.tell, self.stopping = scope, temp, tell, stopping

    def lane(self, lane: Lane) -> None:
        """Bring one lane up to date in all chosen models. What goes wrong is told, and stays with the model and with
        what is made of it: bars of silver that failed halfway would be bars of two states."""
        failed: set[str] = set()
        for model in self.scope.models_of(lane):
            if failed.intersection(model.refs):
                continue
            if self.stopping():
                return
            what = {"model": model.name, "lane": str(lane)}
            self.tell("lane", what)
            try:
                self._model(model, lane)
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001  # whatever it is: the other lanes go on, and the exit code says so
                text = str(error) or type(error).__name__
                self.tell("failed", {**what, "error": text})
                failed.add(model.name)
            self.tell("lane_done", what)
        self.scope.there.forget(loose=False)

    def _model(self, model: Model, lane: Lane) -> None:
        for last in (*[False] * (TRIES - 1), True):
            try:
                if model.layer == "gold":
                    Bars(self, model, lane).make()
                else:
                    _Hours(self, model, lane).make()
                return
            except _ChangedError as change:
                if last:
                    raise DaedalusError(
                        f"changes while it is read: {change}", f"{model.name} {lane}", "Run again when it is quiet."
                    ) from None
                self.scope.there.forget()

    def done(self, model: Model, lane: Lane, made: Record, seconds: float, **more: Any) -> None:
        """Tell of a partition."""
        self.tell("partition" if made.written else "walked", {
            "model": model.name, "exchange": lane.exchange, "symbol": made.symbol, "source_symbol": lane.symbol,
            "partition": made.partition, **more, **made.counts, "seconds": round(seconds, 3)
        })  # fmt: skip

    def staged(self, model: Model, lane: Lane, partition: str) -> Path:
        return self.temp / f"{os.getpid()}-{model.name}-{lanes.short(str(lane))}-{partition}.parquet.part"


class _Hours:
    """One lane's hours of silver."""

    def __init__(self, maker: Maker, model: Model, lane: Lane):
        self.maker, self.scope, self.model, self.lane = maker, maker.scope, model, lane
        self.ledger = self.scope.ledger(model, lane)
        self.code = self.scope.code(model)
        self.variables = self.scope.variables(lane)
        self.read = plan.plain(self.scope.graph.variables_of(model, self.variables))  # what the rows depend on
        self.taken = self.scope.inputs(model, lane)
        self.partners = {name: t.symbol if t else "" for name, t in self.taken.items() if t != lane}
        self.channels = {t.channel: t for t in self.taken.values() if t is not None}
        self.steps: list[Step] = []
        self.true: dict[int, Record] = {}  # the records that are true of now, by the step's place
        self.at = -1  # the walk stands at the end of this step
        self.walk: Walk | None = None
        self.engine: Engine | None = None
        self.began_anew = False  # the walk began behind lost bronze, whose state is not kept

    def make(self) -> None:
        self.steps = plan.silver(self.scope, self.model, self.lane)
        self.ledger.tidy(step.record for step in self.steps if step.record is not None)
        self._say_what_is_lost()
        ahead = max((k for k, step in enumerate(self.steps) if step.wanted), default=-1) + 1
        pending = [step for step in self.steps[:ahead] if step.reason and not step.frozen]
        self.maker.tell("planned", {"model": self.model.name, "rows": sum(step.rows for step in pending)})
        try:
            self._go(ahead)
        finally:
            if self.engine is not None:
                self.engine.close()

    def _say_what_is_lost(self) -> None:
        lost = [step.partition for step in self.steps if step.frozen]
        stale = [step.partition for step in self.steps if step.frozen and step.reason]
        if lost:
            text = f"{self.model.name} {self.lane}: bronze of {_listed(lost)} is deleted or cannot be read any more; "
            self.scope.warn(text + "what was published of it stays.")
        if stale:
            self.scope.warn(f"{self.model.name} {self.lane}: {_listed(stale)} would be made again, but cannot be.")

    def _go(self, ahead: int) -> None:
        ended = ledger.NOTHING
        anew = False  # behind lost bronze a lane may have begun anew
        fresh = 0
        for k, step in enumerate(self.steps[:ahead]):
            record = step.record
            if record is not None and (
                step.frozen
                or ((not step.reason or _is_only_chained(step)) and (record.start == ended or anew or step.given))
            ):
                ended, anew = record.end, step.frozen
                fresh += 1
                if not step.frozen:
                    self.true[k] = self._renewed(step) if step.touched else record
                elif record.symbol != self.scope.names[self.lane]:
                    self._rename(record)
                continue
            if self.maker.stopping():
                break
            try:
                ended, anew = self._hour(k, ended), False
            except _KeptError:  # what follows it goes on from what it was
                assert record is not None
                self.steps[k] = replace(step, frozen=True)
                ended, anew = record.end, True
        self.maker.tell("fresh", {"count": fresh})

    def _rename(self, record: Record) -> None:
        """Publish what cannot be made again under the lane's name of now: another lane may come to have the old one."""
        symbol = self.scope.names[self.lane]
        staged = self.maker.staged(self.model, self.lane, record.partition)
        target = ""
        if record.outputs:
            paths = [self.ledger.processed / output.path for output in record.outputs]
            if not all(path.is_file() for path in paths):
                text = f"{self.model.name} {self.lane}: what was published of {record.partition} is gone"
                self.scope.warn(f"{text}, as its bronze is; it cannot be published as {symbol}.")
                return
            self._copy_published(paths, staged)
            target = self._target(record.partition, plan.hour_of(record.partition) * HOUR_US)
        moved = replace(record, symbol=symbol, outputs=())
        self.ledger.commit(moved, self.ledger.inputs(record), staged if target else None, target)

    def _copy_published(self, paths: list[Path], staged: Path) -> int:
        """Published rows as one file, in the order of these, under the lane's name of now. Returns how many."""
        if self.engine is None:
            self.engine = Engine(self.scope.profile, self.maker.temp)
        names = [lanes.literal(str(path)) for path in paths]
        self.engine.bind(symbol=self.scope.names[self.lane], published_files=names)
        return self.engine.copy(
            "select * replace (getvariable('symbol') as symbol) "
            "from read_parquet(getvariable('published_files'), hive_partitioning = false)",
            staged,
        )

    def _target(self, partition: str, start: int) -> str:
        """Where an hour is published, below processed/."""
        place = lanes.partition_path(self.lane.exchange, self.scope.names[self.lane], start)
        return f"{self.model.folder}/{place}/{partition}-{lanes.short(self.lane.symbol)}.parquet"

    def _renewed(self, step: Step, extra: int = 0) -> Record:
        """The record of a partition that is in, for what its folders show now. extra: rows that are all duplicates."""
        assert step.record is not None
        found = self._found(step)
        if plan.listing(self.scope, self.taken.values(), step.start // HOUR_US) != step.listing:
            raise _ChangedError(f"the bronze of {step.partition}")  # since it was planned: that was not looked into
        counts = dict(step.record.counts)
        if extra:
            counts["read"] += extra
            counts["duplicate"] += extra
        record = replace(step.record, listing=step.listing, aside=self._aside(step, found), counts=counts)
        return self.ledger.commit(record, plan.inputs_of(self.scope, found, self.channels))

    def _found(self, step: Step) -> dict[str, Found]:
        return self.scope.segments(self.model, self.lane, step.start // HOUR_US)

    def _aside(self, step: Step, found: Mapping[str, Found]) -> int:
        hour = step.start // HOUR_US
        listed = sum(len(self.scope.there.of(taken).listing(hour)) for taken in self.channels.values())
        return listed - sum(len(segments) for segments in found.values())

    # -- the walk ---------------------------------------------------------------------------------------------

    def _stand(self, k: int) -> Walk:
        """The walk at the beginning of step k, from the newest kept state that is true."""
        if self.walk is not None and self.at == k - 1:
            return self.walk
        if self.engine is None:
            self.engine = Engine(self.scope.profile, self.maker.temp)
        kernel = None
        if "kernel" in self.model.config:
            kernel = kernels.load(self.model.config["kernel"], self.scope.folders)(self.variables)
        symbol = self.scope.names[self.lane]
        self.walk = Walk(
            self.engine, self.scope.graph, self.model, self.lane, symbol, self.variables, self.taken, kernel
        )
        self.at = k - 1
        while self.at >= 0:
            step, record = self.steps[self.at], self.true.get(self.at)
            if step.frozen:
                record = step.record if step.record is not None and self._is_of_now(step.record) else None
            state = self.ledger.load_state(record) if record is not None else None
            if state is not None:
                self.walk.load(state)
                self.began_anew = False
                break
            if step.frozen:
                self.scope.warn(
                    f"{self.model.name} {self.lane}: the state at the end of {step.partition} is not kept, and its "
                    "bronze is gone; what follows begins anew."
                )
                self.began_anew = True
                break
            self.at -= 1
        else:
            self.began_anew = False
        while self.at < k - 1:
            if self.maker.stopping():
                raise StoppedError
            self.at += 1
            self._take_in(self.steps[self.at], None)
        return self.walk

    def _is_of_now(self, record: Record) -> bool:
        """Was its state made by the code, the variables and the lanes of now?"""
        was = dict(record.code), dict(record.variables), dict(record.partners)
        return was == (self.code, self.read, self.partners)

    def _take_in(self, step: Step, target: Path | None) -> tuple[dict[str, int], dict[str, Found]]:
        """Walk over an hour. Raises _ChangedError if its bronze is not what was planned with."""
        assert self.walk is not None
        found = self._found(step)
        self._refuse_what_was_lost(step, found)
        try:
            counts = self.walk.step(step.start, step.end, self._horizon(step), found, target, self._pieces(found))
        except duckdb.Error:
            if self._put_culprits_aside(found):
                raise _ChangedError(f"a segment of {step.partition}") from None
            raise
        for segments in found.values():
            for segment, _ in segments:
                if lanes.key_of(segment.path) != segment.key:
                    raise _ChangedError(self.scope.describe(segment.path))
        return counts, found

    def _refuse_what_was_lost(self, step: Step, found: Mapping[str, Found]) -> None:
        """Raises _ChangedError if bronze that an hour was made of went since it was planned: the hour stays then."""
        if step.record is None:
            return
        here = {(c, self.scope.describe(s.path)) for c, segments in found.items() for s, _ in segments}
        same = {(c, f.digest) for c, segments in found.items() for _, f in segments}
        for was in self.ledger.inputs(step.record):
            if (was.channel, was.path) in here or (was.channel, was.digest) in same:
                continue
            path = str(self.scope.profile.data / was.path)
            if not os.path.lexists(path) or path in self.scope.there.bad:
                raise _ChangedError(was.path)

    def _horizon(self, step: Step) -> int:
        """Resampled, the grid is proved up to here; otherwise nothing asks."""
        return min(step.end, step.until)

    def _pieces(self, found: Mapping[str, Found]) -> int:
        """An hour is taken in so many pieces that one of them fits the memory limit, whatever the segments hold."""
        most = max(
            sum(facts.span(self.channels[channel]).rows for _, facts in segments)
            / limits.rows_at_once(self.scope.profile, channel)
            for channel, segments in found.items()
            if channel in self.channels
        )
        return max(1, math.ceil(most))

    def _put_culprits_aside(self, found: Mapping[str, Found]) -> bool:
        """After an error: read the hour's segments one by one, and put aside those that cannot be read."""
        changed = False
        with connect(limits.share_of(self.scope.profile) // 2, None) as con:
            for channel, segments in found.items():
                for segment, facts in segments:
                    if lanes.key_of(segment.path) != segment.key:
                        changed = True
                        continue
                    reason = audit.is_unreadable(con, segment, facts)
                    if reason:
                        self.scope.there.of(self.channels[channel]).refuse(segment, reason)
                        changed = True
        return changed

    # -- one hour ---------------------------------------------------------------------------------------------

    def _hour(self, k: int, ended: str) -> str:
        """Make an hour; returns the digest of the lane's state at its end."""
        step = self.steps[k]
        before = step.record
        began = time.perf_counter()
        walk = self._stand(k)
        if self.began_anew and before is not None and self._is_of_now(before):
            # does it begin as it did, without what came before the lost bronze?
            self.began_anew = False
            if files.digest(ledger.pack(walk.save())) != before.start:
                text = f"{self.model.name} {self.lane}: {step.partition} stays as it is: the state that it was made "
                self.scope.warn(text + "from cannot be had again, since bronze before it is gone.")
                raise _KeptError
        if step.added and before is not None and before.start == ended and self._adds_nothing(step, walk):
            known = {i.path for i in self.ledger.inputs(before)}
            own = self._found(step)[self.lane.channel]
            extra = sum(self._rows_in(s, f, step) for s, f in own if self.scope.describe(s.path) not in known)
            self.true[k] = self._renewed(step, extra)
            self.maker.tell("recorded", {"model": self.model.name, "lane": str(self.lane), "partition": step.partition})
            self.walk = None  # it stands before the hour
            return before.end
        kept = self._kept_parts(step, ended) if before is None else None
        if kept is not None:
            self.true[k], self.walk = kept, None
            return kept.end
        staged = self.maker.staged(self.model, self.lane, step.partition) if step.wanted else None
        counts, found = self._take_in(step, staged)
        self.at = k
        state = walk.save()
        if not step.wanted and before is not None and before.written:
            if before.symbol != self.scope.names[self.lane]:
                self._rename(before)
            return files.digest(ledger.pack(state))  # outside --start: what is published of it stays as it is
        symbol = self.scope.names[self.lane]
        target = ""
        if staged is not None and counts["written"]:
            target = self._target(step.partition, step.start)
        elif staged is not None:
            files.remove(staged)
        last = counts.pop("max_clock", None)
        record = Record(
            step.partition, symbol, self.code, self.read, self.partners, ended, "", step.until, step.listing,
            self._aside(step, found), (), step.wanted, counts, last,
        )  # fmt: skip
        place = self._target(step.partition, step.start)
        record = replace(record, obsolete=parts.obsolete(self.ledger, record, place))
        if not target:  # nothing is published that would take the place of what was while it was followed
            left = ledger.parts_of(self.ledger.processed / place)
            folder = place.rpartition("/")[0]
            record = replace(record, obsolete=(*record.obsolete, *(f"{folder}/{name}" for name in left)))
        inputs = plan.inputs_of(self.scope, found, self.channels)
        self.true[k] = self.ledger.commit(record, inputs, staged if target else None, target, state)
        self.maker.done(self.model, self.lane, self.true[k], time.perf_counter() - began)
        return self.true[k].end

    def _kept_parts(self, step: Step, ended: str) -> Record | None:
        """An hour that was followed, and of whose segments some were deleted before it closed: what was published of it
        stays, as one file, with the state at its end if the hour that followed kept it. None if nothing is missing."""
        noted = parts.read(self.ledger.folder / f"{step.partition}{ledger.OPEN}")
        at = {one.path: str(self.scope.profile.data / one.path) for one in noted.inputs.values()}
        bad = self.scope.there.bad
        missing = [name for name, path in at.items() if not os.path.lexists(path) or path in bad]
        if not missing or not noted.parts:
            return None
        text = f"{self.model.name} {self.lane}: {missing[0]} was lost before {step.partition} had closed; "
        self.scope.warn(text + "what was published of it stays.")
        target = self._target(step.partition, step.start)
        whole = self.ledger.processed / target
        symbol = self.scope.names[self.lane]
        was = str(noted.header.get("symbol", symbol))
        folder = Path(str(whole.parent).replace(f"/symbol={symbol}/", f"/symbol={was}/"))
        ordered = [folder / part.name for part in sorted(noted.parts, key=lambda part: part.first)]
        if not any(path.is_file() for path in ordered) and (folder / whole.name).is_file():
            ordered = [folder / whole.name]  # it had taken their place, and the record was not written any more
        staged = self.maker.staged(self.model, self.lane, step.partition)
        rows = self._copy_published(ordered, staged)
        record = Record(
            step.partition, symbol, noted.header["code"], noted.header["variables"], noted.header["partners"], ended,
            "", step.until, "", 0, (), True, {"read": rows, "written": rows}, noted.last,
        )  # fmt: skip
        record = replace(record, obsolete=parts.obsolete(self.ledger, record, target))
        # no listing: it is not that of what the hour was made of, and never will be
        state = self._state_that_followed(step.partition)
        made = self.ledger.commit(record, list(noted.inputs.values()), staged, target, state)
        self.maker.done(self.model, self.lane, made, 0.0)
        return made

    def _state_that_followed(self, partition: str) -> dict[str, bytes] | None:
        """The state with which the hour began that was followed after this one."""
        for name in self.ledger.opened():
            following = name.removesuffix(ledger.OPEN)
            if name.endswith(ledger.OPEN) and following > partition:
                start = parts.read(self.ledger.folder / name).header.get("start", "")
                try:
                    blob = (self.ledger.folder / f"{name}.{start}").read_bytes()
                except FileNotFoundError:
                    return None
                return ledger.unpack(blob) if files.digest(blob) == start else None
        return None

    def _adds_nothing(self, step: Step, walk: Walk) -> bool:
        """Are all rows of the segments that came since duplicates of what was there?"""
        assert step.record is not None
        found = self._found(step)
        known = {i.path for i in self.ledger.inputs(step.record)}
        before = {c: [(s, f) for s, f in there if self.scope.describe(s.path) in known] for c, there in found.items()}
        try:
            parts = self._pieces(found)
            now = walk.content(step.start, step.end, found, parts)
            return now == walk.content(step.start, step.end, before, parts)
        except duckdb.Error:
            if self._put_culprits_aside(found):
                raise _ChangedError(f"a segment of {step.partition}") from None
            raise

    def _rows_in(self, segment: lanes.Segment, facts: audit.Facts, step: Step) -> int:
        """A segment's rows of the lane in an hour."""
        span = facts.of(self.lane)
        assert span is not None
        if len(span.hours) == 1 and span.max_clock < step.end:
            return span.rows
        assert self.walk is not None
        return self.walk.rows_in(step.start, step.end, {self.lane.channel: [(segment, facts)]})


def _is_only_chained(step: Step) -> bool:
    """Is what came before it all that speaks for making it again? That may have come out as it was."""
    return step.reason == plan.CHAINED


def _listed(partitions: list[str]) -> str:
    if len(partitions) == 1:
        return partitions[0]
    return f"{len(partitions)} hours from {partitions[0]} to {partitions[-1]}"
