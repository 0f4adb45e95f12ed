"""What is there: the segments of every lane, audited once per content, and the lanes that they make."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from daedalus_etl import audit, lanes, publish
from daedalus_etl.audit import Facts
from daedalus_etl.lanes import CHANNELS, Lane, Segment
from daedalus_etl.profiles import Profile


@dataclass
class Catalog:
    """Usable segments by lane, and those that cannot be used with their reasons."""

    segments: dict[Lane, list[tuple[Segment, Facts]]] = field(default_factory=lambda: defaultdict(list))
    quarantined: list[tuple[Segment, str]] = field(default_factory=list)
    _hours: dict[Lane, dict[int, list[tuple[Segment, Facts]]]] = field(default_factory=dict)

    @property
    def lanes(self) -> list[Lane]:
        return sorted(self.segments)

    def hours(self, lane: Lane) -> dict[int, list[tuple[Segment, Facts]]]:
        """A lane's segments by the hours (since the epoch) that their clocks are in, in segment order."""
        if lane not in self._hours:
            found: dict[int, list[tuple[Segment, Facts]]] = defaultdict(list)
            for segment, facts in self.segments.get(lane, ()):
                for hour in facts.hours:
                    found[hour].append((segment, facts))
            self._hours[lane] = dict(found)
        return self._hours[lane]

    def during(self, lane: Lane, start: int, end: int) -> list[tuple[Segment, Facts]]:
        """A lane's segments that may have a clock in [start, end) us, in segment order."""
        return [(s, f) for s, f in self.segments.get(lane, ()) if f.rows and f.max_clock >= start and f.min_clock < end]

    def quarantine(self, lane: Lane, bad: Segment, reason: str) -> None:
        for there in self.segments.values():
            there[:] = [(s, f) for s, f in there if s.path != bad.path]
        self._hours.clear()
        self.quarantined.append((bad, reason))


def build(
    profile: Profile,
    roots: dict[str, Path],
    want: Callable[[str], bool] | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    remember: bool = True,
) -> Catalog:
    """Look at every segment below the channels' roots. What was audited before, and has not changed, is not opened
    again.

    want: the channels that are needed; all if None. remember: keep what was found out, below <data>/state.
    """
    from daedalus_etl import engine

    catalog = Catalog()
    con = None
    for channel in CHANNELS:
        if (want and not want(channel)) or channel not in roots:
            continue
        memory = profile.data / "state" / "segments" / f"{channel}.json"
        mark = f"{profile.variables['clock']}:{audit_version()}"
        known = _remembered(memory, mark)
        now: dict[str, list[object]] = {}
        for segment in lanes.segments(roots[channel], channel):
            entry = known.get(segment.path)
            if entry and entry[0] == list(segment.key):
                facts = Facts.from_json(entry[1])  # type: ignore[arg-type]
            else:
                if con is None:
                    con = engine.connect(min(profile.memory_limit, 512_000_000), None)
                if progress:
                    progress(segment.path)
                facts = audit.audit(con, segment, profile.variables)
            if not facts.passing:
                now[segment.path] = [list(segment.key), json.loads(facts.to_json())]
            if facts.problem:
                catalog.quarantined.append((segment, facts.problem))
                continue
            for exchange, symbol in facts.lanes:
                catalog.segments[Lane(exchange, symbol, channel)].append((segment, facts))
        if remember and now != known:
            memory.parent.mkdir(parents=True, exist_ok=True)
            publish.write_synced(memory, json.dumps({"mark": mark, "segments": now}).encode())
    for lane in catalog.lanes:
        catalog.segments[lane] = audit.segment_order(catalog.segments[lane])
    if con is not None:
        con.close()
    return catalog


def remember_problem(profile: Profile, segment: Segment, reason: str) -> None:
    """A segment that passed its audit and then could not be read: known as such until its content changes."""
    memory = profile.data / "state" / "segments" / f"{segment.channel}.json"
    value = json.loads(memory.read_text())
    value["segments"][segment.path] = [list(segment.key), json.loads(Facts(problem=reason).to_json())]
    publish.write_synced(memory, json.dumps(value).encode())


def audit_version() -> str:
    """Changes with the rules by which segments are judged."""
    import hashlib

    return hashlib.sha256(Path(audit.__file__).read_bytes()).hexdigest()[:12]


def _remembered(path: Path, mark: str) -> dict[str, list[object]]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value["segments"] if value.get("mark") == mark else {}


def roots(profile: Profile, trades: Path | None = None) -> dict[str, Path]:
    """Where each channel's segments lie; `trades` may lie elsewhere: a channel's root, or a data root."""
    found = {channel: lanes.channel_root(profile.data, profile.source, channel) for channel in CHANNELS}
    if trades is not None:
        inside = lanes.channel_root(trades, profile.source, "trades")
        found["trades"] = inside if inside.is_dir() else trades
    return found


def describe(segment: Segment, data: Path) -> str:
    try:
        return str(Path(segment.path).relative_to(data))
    except ValueError:
        return segment.path


def total_rows(found: Iterable[tuple[Segment, Facts]]) -> int:
    return sum(facts.rows for _, facts in found)
