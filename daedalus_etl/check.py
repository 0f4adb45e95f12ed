"""The bronze contract applied to a root (SPEC 2): what cannot be used, what each lane is like. Writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from daedalus_etl import audit, catalog, lanes
from daedalus_etl.catalog import Bronze, Catalog, Found
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
    done = Checked()
    folders = roots(bronze, profile.source)
    with (
        tempfile.TemporaryDirectory(prefix="daedalus-check-") as temp,
        catalog.opened(profile, folders, remember=False, looking=progress) as there,
    ):
        _read_whole(folders, there, done, progress)
        for lane in there.survey().lanes:
            progress(str(lane))
            found = _lane(lane, there.of(lane), profile, graph, Path(temp), done)
            if found.segments:
                done.lanes.append(found)
    done.problems = sorted({**dict(done.problems), **there.bad}.items())
    return done


def _read_whole(folders: Mapping[str, Path], there: Catalog, done: Checked, progress: Callable[[str], None]) -> None:
    """Count the files, and read each that seems sound to its last page."""
    done.files = sum(1 for channel, folder in folders.items() for _ in lanes.segments(folder, channel))
    with duckdb.connect(":memory:") as con:
        for lane in there.survey().lanes:
            bronze = there.of(lane)
            for segment, facts in bronze.whole():
                progress(segment.path)
                reason = audit.is_unreadable(con, segment, facts)
                if reason:
                    bronze.refuse(segment, reason)


def _lane(lane: Lane, bronze: Bronze, profile: Profile, graph: Graph, temp: Path, done: Checked) -> LaneCheck:
    usable = {hour: _usable(bronze, hour) for hour in bronze.hours}
    spans = [span for hour in usable.values() for _, facts in hour if (span := facts.of(lane))]
    first = min((span.min_clock for span in spans), default=None)
    last = max((span.max_clock for span in spans), default=None)
    paths = {segment.path for found in usable.values() for segment, _ in found}
    found = LaneCheck(lane, len(paths), 0, first, last)
    session = Engine(profile, temp)
    try:
        for hour, files in usable.items():
            own = [(s, f) for s, f in files if (span := f.of(lane)) and span.hours[0] == hour]
            for name, count in _quirks(session, lane, own):
                found.quirks[name] = found.quirks.get(name, 0) + count
        for counts in _walked(session, lane, usable, profile, graph):
            found.rows += counts["read"]
            found.duplicates += counts["duplicate"]
            found.invalid += counts["invalid"]
    except duckdb.Error as error:
        done.problems.append((str(lane), str(error).splitlines()[0]))
    finally:
        session.close()
    found.quirks = {name: count for name, count in found.quirks.items() if count}
    return found


def _usable(bronze: Bronze, hour: int) -> Found:
    return [(s, f) for s, f in bronze.during(hour) if s.path not in bronze.catalog.bad]


def _quirks(session: Engine, lane: Lane, own: Found) -> Iterator[tuple[str, int]]:
    """Each segment is counted in the hour of its first clock."""
    if not own:
        return
    quirks = QUIRKS[lane.channel]
    counts = ", ".join(f"count(*) filter (where {condition})" for condition in quirks.values())
    yield from zip(quirks, session.row(f"select {counts} from {session.raw(lane.channel, lane, own)}"), strict=True)


def _walked(
    session: Engine, lane: Lane, usable: Mapping[int, Found], profile: Profile, graph: Graph
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
    for hour, files in usable.items():
        start = hour * HOUR_US
        yield walk.step(start, start + HOUR_US, start + HOUR_US, {lane.channel: files}, None)
