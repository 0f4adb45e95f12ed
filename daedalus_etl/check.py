"""The bronze contract applied to a root (SPEC 2): what cannot be used, what each lane is like. Writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from daedalus_etl import audit, engine, lanes
from daedalus_etl.audit import Facts
from daedalus_etl.catalog import Catalog
from daedalus_etl.engine import Engine
from daedalus_etl.errors import UsageError
from daedalus_etl.lanes import CHANNELS, HOUR_US, Lane
from daedalus_etl.models import Graph, Model
from daedalus_etl.profiles import Profile
from daedalus_etl.silver import Walk

# What real feeds hold and the contract allows: name -> condition over the contract's columns.
_BOTH: dict[str, str] = {
    "no timestamp": "timestamp is null",
    "a day off": "timestamp is not null and abs(epoch_ms(capture_ts) - timestamp) > 86400000",
}
QUIRKS: Mapping[str, Mapping[str, str]] = {
    "orderbook": _BOTH
    | {
        "no nonce": "nonce is null",
        "one-sided": "coalesce(len(bids), 0) = 0 or coalesce(len(asks), 0) = 0",
        "crossed": "bids[1].price >= asks[1].price",
        "with zero sizes": "list_contains(list_transform(bids, lambda x: x.size = 0), true) "
        "or list_contains(list_transform(asks, lambda x: x.size = 0), true)",
    },
    "trades": _BOTH
    | {
        "no trade_id": "trade_id is null",
        "no side": "coalesce(lower(side) not in ('buy', 'sell'), true)",
    },
    "ticker": _BOTH
    | {
        "no bid or ask": "bid is null or ask is null",
        "crossed": "bid >= ask",
    },
}  # fmt: skip


@dataclass
class LaneCheck:
    """One lane's rows (of usable segments), clocks in us, and how many rows are what."""

    lane: Lane
    segments: int
    rows: int
    first: int | None
    last: int | None
    duplicates: int = 0
    invalid: int = 0
    quirks: dict[str, int] = field(default_factory=dict)


@dataclass
class Checked:
    """What was found below a root."""

    files: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    lanes: list[LaneCheck] = field(default_factory=list)


def roots(bronze: Path, source: str) -> dict[str, Path]:
    """Channel -> folder: `bronze` is a data root, or the folder of a source. Raises UsageError if it is neither."""
    for base in (bronze / "raw" / "ready" / source, bronze):
        found = {channel: base / channel for channel in CHANNELS if (base / channel).is_dir()}
        if found:
            return found
    others = sorted(p.name for p in (bronze / "raw" / "ready").glob("*") if p.is_dir()) if bronze.is_dir() else []
    if others:
        raise UsageError(f"holds no source {source}", str(bronze), f"There are: {', '.join(others)}. Set --source.")
    raise UsageError(
        "is no bronze", str(bronze),
        f"Name a data root, which holds raw/ready/{source}/, or a folder that holds orderbook, trades or ticker.",
    )  # fmt: skip


def check(bronze: Path, profile: Profile, graph: Graph, progress: Callable[[str], None] = lambda _: None) -> Checked:
    """Audit every segment, then walk each lane."""
    with tempfile.TemporaryDirectory(prefix="daedalus-check-") as temp:
        done = Checked()
        there = _audited(roots(bronze, profile.source), profile, done, Path(temp), progress)
        for lane in there.lanes:
            progress(str(lane))
            done.lanes.append(_lane(lane, there, profile, graph, Path(temp), done))
        return done


def _audited(
    folders: Mapping[str, Path], profile: Profile, done: Checked, temp: Path, progress: Callable[[str], None]
) -> Catalog:
    there = Catalog()
    con = engine.connect(min(profile.memory_limit, 512_000_000), temp)
    for channel, folder in folders.items():
        for segment in lanes.segments(folder, channel):
            progress(segment.path)
            done.files += 1
            facts = audit.audit(con, segment, profile.variables)
            problem = facts.problem or (audit.is_unreadable(con, segment, facts) if facts.rows else "")
            if problem:
                done.problems.append((segment.path, problem))
                continue
            for exchange, symbol in facts.lanes:
                there.segments[Lane(exchange, symbol, channel)].append((segment, facts))
    for lane in there.lanes:
        there.segments[lane] = audit.segment_order(there.segments[lane])
    con.close()
    return there


def _lane(lane: Lane, there: Catalog, profile: Profile, graph: Graph, temp: Path, done: Checked) -> LaneCheck:
    segments = [(s, f) for s, f in there.segments[lane] if f.rows]
    first = min((f.min_clock for _, f in segments), default=None)
    last = max((f.max_clock for _, f in segments), default=None)
    found = LaneCheck(lane, len(there.segments[lane]), 0, first, last)
    session = Engine(profile, temp)
    try:
        for start in _hours(segments):
            files = there.during(lane, start, start + HOUR_US)
            for name, count in _quirks(session, lane, files, start):
                found.quirks[name] = found.quirks.get(name, 0) + count
        for counts in _walked(session, lane, there, profile, graph, segments):
            found.rows += counts["read"]
            found.duplicates += counts["duplicate"]
            found.invalid += counts["invalid"]
    except duckdb.Error as error:
        done.problems.append((str(lane), str(error).splitlines()[0]))
    finally:
        session.close()
    found.quirks = {name: count for name, count in found.quirks.items() if count}
    return found


def _hours(segments: list[tuple[Any, Facts]]) -> list[int]:
    hours = {h for _, f in segments for h in range(f.min_clock // HOUR_US, f.max_clock // HOUR_US + 1)}
    return [hour * HOUR_US for hour in sorted(hours)]


def _quirks(session: Engine, lane: Lane, files: list[tuple[Any, Facts]], start: int) -> Iterator[tuple[str, int]]:
    """Each segment is counted in the hour of its first clock."""
    own = [(s, f) for s, f in files if f.min_clock // HOUR_US * HOUR_US == start]
    if not own:
        return
    quirks = QUIRKS[lane.channel]
    counts = ", ".join(f"count(*) filter (where {condition})" for condition in quirks.values())
    yield from zip(quirks, session.row(f"select {counts} from {session.raw(lane.channel, lane, own)}"), strict=True)


def _walked(
    session: Engine, lane: Lane, there: Catalog, profile: Profile, graph: Graph, segments: list[tuple[Any, Facts]]
) -> Iterator[dict[str, int]]:
    """Duplicates and validity as a run judges them, hour by hour."""
    bronze = f"bronze.{lane.channel}"
    variables = profile.for_lane(lane.exchange, lane.symbol)
    config = {
        "channel": lane.channel,
        "context": {bronze: variables["trade_dedupe_window"] if lane.channel == "trades" else 0},
    }
    model = Model("check." + lane.channel, Path("check"), "", config, (bronze,))
    walk = Walk(session, graph, model, lane, lane.symbol, variables, {bronze: lane}, None)
    last = max((f.max_clock for _, f in segments), default=0)
    for start in _hours(segments):
        files = {lane.channel: there.during(lane, start, start + HOUR_US)}
        yield walk.step(start, start + HOUR_US, last, files, None)
