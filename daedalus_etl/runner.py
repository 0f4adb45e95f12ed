"""The story: what is there, minus what is in, lane by lane, model by model, partition by partition, in order."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from daedalus_etl import audit, catalog, kernels, lanes, publish
from daedalus_etl.catalog import Catalog
from daedalus_etl.engine import Engine
from daedalus_etl.errors import DaedalusError, UsageError
from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane
from daedalus_etl.models import Context, Graph, Model
from daedalus_etl.profiles import Profile, nearest
from daedalus_etl.publish import Ledger, Record
from daedalus_etl.silver import Walk


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


@dataclass(frozen=True)
class Work:
    """One partition of one lane in one model: [start, end) us."""

    model: Model
    lane: Lane
    symbol: str
    partition: str
    start: int
    end: int
    rows: int
    duration: int = 0
    reason: str = ""


@dataclass
class Report:
    """What a run did."""

    done: list[dict[str, Any]] = field(default_factory=list)
    fresh: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.failed or self.quarantined else 0


Listener = Callable[[str, Mapping[str, Any]], None]  # event, details


class Run:
    """One run over a data root. `tell` hears of each event."""

    def __init__(self, profile: Profile, graph: Graph, selection: Selection, tell: Listener):
        self.profile, self.graph, self.selection, self.tell = profile, graph, selection, tell
        self.report = Report()
        self.folders = tuple(p / "kernels" for p in profile.projects[1:])
        self.versions = {
            m.name: _digest(graph.digest(m), kernels.digest(*self.folders) if "kernel" in m.config else "")
            for m in graph.models.values()
        }
        selected = graph.select(selection.models)
        self.chosen = [m for m in selected if m.is_published]
        needed = {m.channel for m in selected}
        needed |= {graph.models[r].channel for m in selected for r in m.refs if r.startswith("bronze.")}
        self.channels = needed

    # -- what is there ----------------------------------------------------------------------------------------

    def look(self, *, remember: bool = True) -> None:
        """Discover and audit; decide names and partners from all of bronze. remember=False writes nothing."""
        folders = self._folders()
        self.there: Catalog = catalog.build(
            self.profile,
            folders,
            self.channels.__contains__,
            progress=lambda path: self.tell("look", {"segment": path}),
            remember=remember,
        )
        variables = self.profile.variables
        self.names = lanes.canonical_names(self.there.lanes, variables)
        for group in lanes.collisions(self.there.lanes, variables):
            self.warn(
                f"{group[0].channel} {group[0].exchange}: {', '.join(lane.symbol for lane in group)} would all be "
                f"{lanes.canonical(group[0].symbol, variables['usd_quotes'])}; each keeps its own name."
            )
        for segment, reason in self.there.quarantined:
            self.quarantine(segment, reason)
        self.selected = [
            lane
            for lane in self.there.lanes
            if lanes.is_selected(lane, self.selection.exchanges, self.selection.symbols, variables)
        ]
        self._refuse_filters_that_match_nothing()

    def _folders(self) -> dict[str, Path]:
        """Where each channel's bronze lies. Raises UsageError if there is none at all."""
        folders = catalog.roots(self.profile, self.selection.trades)
        if not any(folder.is_dir() for folder in folders.values()):
            raise UsageError(
                "there is no bronze",
                str(folders["orderbook"].parent),
                f"Collectors write {self.profile.data}/raw/ready/{self.profile.source}/<channel>/... "
                "Set --data and --source, or try `daedalus demo`.",
            )
        return folders

    def _refuse_filters_that_match_nothing(self) -> None:
        """A filter that means no lane of the selected models is a slip of the pen: say what there is instead."""
        channels = {model.channel for model in self.graph.select(self.selection.models)}
        filters = (("exchange", self.selection.exchanges), ("symbol", self.selection.symbols))
        if not any(patterns for _, patterns in filters) or any(lane.channel in channels for lane in self.selected):
            return
        near = [lane for lane in self.there.lanes if lane.channel in channels]
        for what, patterns in filters:
            known = {str(getattr(lane, what)) for lane in near}
            for pattern in patterns:
                alone: dict[str, tuple[str, ...]] = {"exchanges": (), "symbols": (), f"{what}s": (pattern,)}
                if not any(lanes.is_selected(lane, **alone, variables=self.profile.variables) for lane in near):
                    raise UsageError(
                        f"no {what} matches {pattern}", f"--{what}", nearest(pattern, known) if known else None
                    )
        raise UsageError("no lane matches all filters", "--exchange, --symbol", _listed(near))

    def warn(self, text: str) -> None:
        if text in self.report.warnings:
            return
        self.report.warnings.append(text)
        self.tell("warning", {"text": text})

    def quarantine(self, segment: lanes.Segment, reason: str) -> None:
        path = catalog.describe(segment, self.profile.data)
        self.report.quarantined.append((path, reason))
        self.tell("quarantined", {"segment": path, "reason": reason})

    def horizon(self, lane: Lane) -> int:
        """The last clock of a lane's segments, cut at --end."""
        last = max((f.max_clock for _, f in self.there.segments.get(lane, ()) if f.rows), default=0)
        return min(last, self.selection.end - 1) if self.selection.end is not None else last

    # -- silver -----------------------------------------------------------------------------------------------

    def inputs(self, model: Model, lane: Lane) -> dict[str, Lane | None]:
        """Which lane each bronze input of a model is for this lane."""
        found: dict[str, Lane | None] = {}
        for name in model.refs:
            channel = self.graph.models[name].channel
            if channel == lane.channel:
                found[name] = lane
                continue
            other, several = lanes.partner(lane, channel, self.there.lanes, self.profile.variables)
            if several:
                self.warn(f"{lane}: several {channel} lanes have its canonical symbol; it takes none of them.")
            found[name] = other
        return found

    def silver_work(self, model: Model, lane: Lane) -> Iterator[tuple[Work, Record | None, str, bool]]:
        """The lane's hours in order: work, its record if any, the key of now, and whether it is to be written."""
        inputs = self.inputs(model, lane)
        own = self.there.segments[lane]
        variables = self.profile.for_lane(lane.exchange, lane.symbol)
        ledger = self.ledger(model, lane)
        hours = {_hour_start(p) // HOUR_US for p in ledger.partitions() if self._deleted(ledger.get(p))}
        for taken in inputs.values():
            if taken is not None:
                hours.update(self.there.hours(taken))
        if variables["resample_frequency"]:  # the last book of an hour may be that of a grid time in a silent one
            reach = round(max(variables["resample_frequency"], variables["resample_max_staleness"]) * US)
            for hour in sorted(hours):
                hours.update(range(hour, (hour * HOUR_US + HOUR_US + reach) // HOUR_US + 1))
        horizon = self.horizon(lane)
        symbol = self.names[lane]
        start, end = self.selection.start, self.selection.end
        if start is not None and any(m.layer == "gold" and model.name in m.refs for m in self.chosen):
            start = start // DAY_US * DAY_US  # a day's bars need the whole day
        last = max((f.max_clock for _, f in own if f.rows), default=-1)
        read = self.graph.variables_of(model, variables)
        chain = _digest(
            self.versions[model.name], symbol, _canonical_json(read), {k: str(v) for k, v in inputs.items()}
        )
        for hour in sorted(hours):
            first, behind = hour * HOUR_US, (hour + 1) * HOUR_US
            if first > last or (end is not None and first >= end):
                break
            behind = min(behind, end) if end is not None else behind
            files = {
                self.graph.models[name].channel: self.segments_of(taken, hour) if taken else []
                for name, taken in inputs.items()
            }
            record = ledger.get(_hour_name(first))
            prints = sorted(
                [
                    (channel, catalog.describe(s, self.profile.data), s.size, s.mtime_ns)
                    for channel, fs in files.items()
                    for s, _ in fs
                ]
                + self._deleted(record)
            )
            bound = [behind - first]
            if variables["resample_frequency"]:
                bound.append(min(horizon, behind))
            chain = _digest(chain, hour, prints, bound)
            partition = _hour_name(first)
            rows = catalog.total_rows(self.segments_of(lane, hour))
            wanted = start is None or behind > start
            work = Work(model, lane, symbol, partition, first, behind, rows)
            yield work, record, chain, wanted

    def _deleted(self, record: Record | None) -> list[tuple[str, str, int, int]]:
        """Inputs of a record that are not there any more: what was published of them stays, and counts as unchanged."""
        if record is None or self.selection.full_refresh:
            return []
        return [
            (i["channel"], i["path"], i["size"], i["mtime_ns"])
            for i in record.inputs
            if not os.path.lexists(self.profile.data / i["path"])
        ]

    def segments_of(self, lane: Lane, hour: int) -> list[tuple[lanes.Segment, audit.Facts]]:
        """A lane's segments with a clock in an hour (since the epoch) and before --end."""
        end = self.selection.end
        found = self.there.hours(lane).get(hour, [])
        return found if end is None else [(s, f) for s, f in found if f.min_clock < end]

    def ledger(self, model: Model, lane: Lane, duration: int = 0) -> Ledger:
        return Ledger(self.profile.data, model.name, lane.exchange, lane.symbol, f"{duration}s" if duration else "")

    def is_in(self, ledger: Ledger, record: Record | None, key: str, wanted: bool) -> bool:
        if record is None or record.key != key or self.selection.full_refresh:
            return False
        return ledger.is_there(record) and (record.written or not wanted)

    def silver(self, model: Model, lane: Lane, temp: Path) -> None:
        """Bring one lane of one silver model up to date."""
        todo = list(self.silver_work(model, lane))
        ledger = self.ledger(model, lane)
        ledger.remove_obsolete()
        pending = [i for i, (_, record, key, wanted) in enumerate(todo) if not self.is_in(ledger, record, key, wanted)]
        gone = {work.partition: len(self._deleted(record)) for work, record, *_ in todo if self._deleted(record)}
        if gone:
            self.warn(
                f"{model.name} {lane}: {sum(gone.values())} segments of {len(gone)} hours are deleted; "
                "what was published of them stays."
            )
        if not pending:
            self.report.fresh += len(todo)
            return
        wanted_ahead = [i for i, (*_, wanted) in enumerate(todo) if wanted]
        if not wanted_ahead:
            return
        first = pending[0]
        state: dict[str, bytes] | None = {}
        while first > 0:  # the newest hour before it whose state is still kept
            record = todo[first - 1][1]
            state = ledger.load_state(record) if record and record.key == todo[first - 1][2] else None
            if state is not None:
                break
            first -= 1
        if first == 0:
            state = {}
        lost = [work.partition for work, *_ in todo[first : pending[-1] + 1] if work.partition in gone]
        if lost:
            raise DaedalusError(
                f"{todo[pending[0]][0].partition} is to be made again, but bronze of {lost[0]} is deleted",
                f"{model.name} {lane}",
                "Put the segments back, or make what is left anew with --full-refresh.",
            )
        self.report.fresh += len(todo) - len(pending)
        variables = self.profile.for_lane(lane.exchange, lane.symbol)
        inputs = self.inputs(model, lane)
        kernel = kernels.load(model.config["kernel"], self.folders)(variables) if "kernel" in model.config else None
        engine = Engine(self.profile, temp)
        try:
            walk = Walk(engine, self.graph, model, lane, self.names[lane], variables, inputs, kernel)
            walk.load(state or {})
            for work, record, key, wanted in todo[first : pending[-1] + 1]:
                done = self.is_in(ledger, record, key, wanted)
                stays = done or (not wanted and record is not None and record.written)
                self._one_hour(walk, ledger, work, key, wanted and not done, stays, inputs)
        finally:
            engine.close()

    def _one_hour(
        self,
        walk: Walk,
        ledger: Ledger,
        work: Work,
        key: str,
        write: bool,
        stays: bool,
        inputs: Mapping[str, Lane | None],
    ) -> None:
        began = time.perf_counter()
        files = {
            self.graph.models[name].channel: self.segments_of(taken, work.start // HOUR_US) if taken else []
            for name, taken in inputs.items()
        }
        name = f"{work.partition}-{_short(work.lane.symbol)}.parquet"
        staged = ledger.staging / f"{os.getpid()}-{work.model.name}-{_short(str(work.lane))}-{name}.part"
        counts = walk.step(work.start, work.end, self.horizon(work.lane), files, staged if write else None)
        if stays:  # what is published of it is in, or outside --start: only the state was needed
            return
        outputs: dict[Path, str] = {}
        if counts["written"]:
            check_parquet(staged, counts["written"])
            place = lanes.partition_path(work.lane.exchange, work.symbol, work.start)
            outputs[staged] = f"{work.model.folder}/{place}/{name}"
        elif write:
            staged.unlink(missing_ok=True)
        record = Record(
            key,
            tuple(outputs.values()),
            write,
            {k: v for k, v in counts.items() if k != "max_clock"},
            tuple(
                {
                    "channel": channel,
                    "path": catalog.describe(s, self.profile.data),
                    "size": s.size,
                    "mtime_ns": s.mtime_ns,
                    "rows": f.rows,
                }
                for channel, fs in files.items()
                for s, f in fs
            ),
            max_clock=counts.get("max_clock"),
        )
        ledger.commit(work.partition, record, outputs, walk.save())
        self._done(work, counts, time.perf_counter() - began, write)

    def _done(self, work: Work, counts: Mapping[str, int], seconds: float, written: bool = True) -> None:
        event = {
            "model": work.model.name,
            "exchange": work.lane.exchange,
            "symbol": work.symbol,
            "source_symbol": work.lane.symbol,
            "partition": work.partition,
            **({"duration": work.duration} if work.duration else {}),
            **counts,
            "seconds": round(seconds, 3),
        }
        event.pop("max_clock", None)
        if written:
            self.report.done.append(event)
        self.tell("partition" if written else "walked", event)

    # -- gold -------------------------------------------------------------------------------------------------

    def gold_work(self, model: Model, lane: Lane) -> Iterator[tuple[Work, Record | None, str, list[tuple[int, str]]]]:
        """The lane's days for each duration, with the silver files that each needs."""
        (silver_name,) = model.refs
        silver = self.ledger(self.graph.models[silver_name], lane)
        hours: dict[int, Record] = {}
        for partition in silver.partitions():
            record = silver.get(partition)
            first = _hour_start(partition)
            if record and record.written and (self.selection.end is None or first < self.selection.end):
                hours[first] = record
        if not hours:
            return
        horizon = max((r.max_clock for r in hours.values() if r.max_clock is not None), default=0)
        variables = self.profile.for_lane(lane.exchange, lane.symbol)
        read = self.graph.variables_of(model, variables)
        symbol = self.names[lane]
        if self.selection.end is not None:
            horizon = min(horizon, self.selection.end - 1)
        for duration in variables["bar_durations"] if model.config.get("per") == "bar_durations" else (0,):
            length = duration * US
            ledger = self.ledger(model, lane, duration)
            by_day: dict[int, list[int]] = defaultdict(list)
            for first in hours:
                earliest = (first // length * length if length else first) // DAY_US
                for day in range(earliest, (first + HOUR_US - 1) // DAY_US + 1):
                    by_day[day].append(first)
            for day in sorted(by_day):
                start, end = day * DAY_US, (day + 1) * DAY_US
                if self.selection.start is not None and end <= self.selection.start:
                    continue
                used = sorted(by_day[day])
                behind = end + length
                key = _digest(
                    self.versions[model.name], symbol, _canonical_json(read), duration, min(horizon, behind),
                    [(h, hours[h].key, hours[h].outputs) for h in used],
                )  # fmt: skip
                partition = f"{datetime.fromtimestamp(start // US, UTC):%Y-%m-%d}"
                rows = sum(hours[h].counts.get("written", 0) for h in used)
                files = [(h, output) for h in used for output in hours[h].outputs]
                work = Work(model, lane, symbol, partition, start, end, rows, duration, str(horizon))
                yield work, ledger.get(partition), key, files

    def gold(self, model: Model, lane: Lane, temp: Path) -> None:
        """Bring the bars of one lane up to date."""
        engine: Engine | None = None
        ledgers: dict[int, Ledger] = {}
        try:
            for work, record, key, files in self.gold_work(model, lane):
                if work.duration not in ledgers:
                    ledgers[work.duration] = self.ledger(model, lane, work.duration)
                    ledgers[work.duration].remove_obsolete()
                ledger = ledgers[work.duration]
                if self.is_in(ledger, record, key, True):
                    self.report.fresh += 1
                    continue
                if engine is None:
                    engine = Engine(self.profile, temp)
                began = time.perf_counter()
                name = f"{work.partition}-{_short(lane.symbol)}.parquet"
                staged = ledger.staging / f"{os.getpid()}-{model.name}-{work.duration}-{_short(str(lane))}-{name}.part"
                engine.bind(
                    exchange=lane.exchange, symbol=work.symbol, source_symbol=lane.symbol,
                    span_start_us=work.start, span_end_us=work.end, horizon_us=int(work.reason),
                    silver_files=[str(self.profile.data / "processed" / path) for _, path in files],
                )  # fmt: skip
                written = 0
                if files:
                    variables = self.profile.for_lane(lane.exchange, lane.symbol)
                    (statement,) = self.graph.render(
                        model,
                        Context(
                            {**variables, "bar_duration_sec": work.duration},
                            lambda _: "read_parquet(getvariable('silver_files'), hive_partitioning = false)",
                            lambda _: "",
                            engine.bound,
                        ),
                    )
                    written = engine.copy(statement, staged)
                outputs: dict[Path, str] = {}
                if written:
                    check_parquet(staged, written)
                    place = lanes.partition_path(lane.exchange, work.symbol, work.start, by="day")
                    folder = f"{model.folder}/{work.duration}s" if work.duration else model.folder
                    outputs[staged] = f"{folder}/{place}/{name}"
                else:
                    staged.unlink(missing_ok=True)
                counts = {"read": work.rows, "written": written}
                ledger.commit(work.partition, Record(key, tuple(outputs.values()), True, counts), outputs, None)
                self._done(work, counts, time.perf_counter() - began)
        finally:
            if engine is not None:
                engine.close()

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """Bring everything that is selected up to date. One bad lane does not stop the others."""
        self._folders()  # before anything is written
        with exclusive(self.profile.data):
            temp = publish.clear_staging(self.profile.data)
            self.look()
            self.tell("plan", {"models": [m.name for m in self.chosen], "lanes": len(self.selected)})
            for lane in self.selected:
                for model in self.chosen:
                    if model.channel == lane.channel:
                        self._one(model, lane, temp)
        return self.report

    def _one(self, model: Model, lane: Lane, temp: Path) -> None:
        while True:
            self.tell("lane", {"model": model.name, "lane": str(lane)})
            try:
                if model.layer == "gold":
                    self.gold(model, lane, temp)
                else:
                    self.silver(model, lane, temp)
                return
            except Exception as error:  # noqa: BLE001  # whatever it is: the other lanes go on, and the exit code says so
                if isinstance(error, duckdb.Error) and model.layer != "gold" and self._find_culprits(model, lane):
                    continue  # without them
                text = str(error) or type(error).__name__
                self.report.failed.append((f"{model.name} {lane}", text))
                self.tell("failed", {"model": model.name, "lane": str(lane), "error": text})
                return

    def _find_culprits(self, model: Model, lane: Lane) -> bool:
        """After an error: read the lane's segments one by one and put aside those that cannot be read."""
        from daedalus_etl import engine

        con = engine.connect(min(self.profile.memory_limit, 1_000_000_000), None)
        found = False
        for taken in self.inputs(model, lane).values():
            for segment, facts in list(self.there.segments.get(taken, ())) if taken else ():
                reason = audit.is_unreadable(con, segment, facts)
                if reason:
                    found = True
                    assert taken is not None
                    self.there.quarantine(taken, segment, reason)
                    catalog.remember_problem(self.profile, segment, reason)
                    self.quarantine(segment, reason)
        con.close()
        return found

    def _why(self, record: Record | None, key: str) -> str:
        if record is None or not record.written:
            return "new"
        if self.selection.full_refresh:
            return "full refresh"
        return "changed" if record.key != key else "its output is gone"

    def pending(self) -> Iterator[Work]:
        """What `run` would do, without doing it: silver as it stands, and gold as far as silver is in."""
        for lane in self.selected:
            for model in self.chosen:
                if model.channel != lane.channel:
                    continue
                if model.layer == "gold":
                    for work, record, key, _ in self.gold_work(model, lane):
                        if not self.is_in(self.ledger(model, lane, work.duration), record, key, True):
                            yield replace(work, reason=self._why(record, key))
                    continue
                ledger = self.ledger(model, lane)
                for work, record, key, wanted in self.silver_work(model, lane):
                    if wanted and not self.is_in(ledger, record, key, wanted):
                        yield replace(work, reason=self._why(record, key))


def _listed(found: list[Lane]) -> str:
    shown = ", ".join(str(lane) for lane in found[:8])
    return f"There are: {shown}{', ...' if len(found) > 8 else ''}." if found else "There are none of these channels."


def check_parquet(path: Path, rows: int) -> None:
    """Read a finished file's footer back. Raises DaedalusError if it does not hold the rows that were written."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(path).num_rows
    if found != rows:
        raise DaedalusError(f"holds {found} rows of {rows} that were written", str(path), "Check the disk.")


@contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Exactly one writer on a data root; the second is refused, naming the first."""
    folder = data / "state"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DaedalusError(
                f"another run is writing here: {lock.read().strip() or 'unknown'}",
                str(data),
                "Wait until it has ended.",
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}\n")
        lock.flush()
        yield


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _canonical_json(variables: Mapping[str, Any]) -> str:
    return json.dumps(variables, sort_keys=True, default=str)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _hour_name(start: int) -> str:
    return f"{datetime.fromtimestamp(start // US, UTC):%Y-%m-%dT%H}"


def _hour_start(name: str) -> int:
    return int(datetime.strptime(name, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()) * US
