"""A walk of prepared statements in small steps is the walk: its rows, its counts and its state, at any cuts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import kernels, ledger
from daedalus_etl.engine import Engine
from daedalus_etl.lanes import CHANNELS, HOUR_US, Lane
from daedalus_etl.plan import Scope, Selection
from daedalus_etl.prepared import PreparedWalk
from daedalus_etl.silver import Walk
from daedalus_etl.simulator import Market, simulate
from daedalus_etl.worker import Hand
from tests import harness
from tests.roots import unlike

MODELS = ("silver.orderbook", "silver.trades", "silver.ticker")
MARKET = Market(hours=1.2, symbols=("BTC-USDT",), trades_per_second=0.5, quotes_per_second=0.6, dirt=0.05)


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scope]:
    root = tmp_path_factory.mktemp("market")
    simulate(root, MARKET)
    hand = Hand(harness.profile(root), Selection(), frozenset(CHANNELS), lambda *_: None, remember=False)
    hand.begin(hand.survey())
    yield hand.scope
    hand.close()


class Lanes:
    """One lane of a model, as either kind of walk."""

    def __init__(self, scope: Scope, name: str, temp: Path):
        self.scope, self.model = scope, scope.graph.models[name]
        (self.lane,) = (lane for lane in scope.survey.lanes if lane.channel == self.model.channel)
        self.taken = scope.inputs(self.model, self.lane)
        self.engine = Engine(scope.profile, temp)

    def kernel(self) -> Any:
        variables = self.scope.variables(self.lane)
        return kernels.load(self.model.config["kernel"])(variables) if "kernel" in self.model.config else None

    def walk(self, kind: type, engine: Engine) -> Any:
        symbol, variables = self.scope.names[self.lane], self.scope.variables(self.lane)
        return kind(engine, self.scope.graph, self.model, self.lane, symbol, variables, self.taken, self.kernel())

    def hours(self) -> list[int]:
        return self.scope.there.of(self.lane).hours

    def files(self, hour: int) -> Any:
        return self.scope.segments(self.model, self.lane, hour)


def cuts_of(start: int, end: int, count: int, seed: int) -> list[int]:
    inside = random.Random(seed).sample(range(start + 1, end), count)
    return [start, *sorted(inside), end]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_it_walks_as_the_walk_does_at_any_cuts(scope: Scope, tmp_path: Path, name: str, seed: int) -> None:
    """Two lanes in one session's memory, one of them begun anew from its own state between the hours."""
    lanes = Lanes(scope, name, tmp_path)
    whole = lanes.walk(Walk, Engine(scope.profile, tmp_path))
    small = lanes.walk(PreparedWalk, Engine(scope.profile, within=lanes.engine))
    other = lanes.walk(PreparedWalk, Engine(scope.profile, within=lanes.engine))
    for hour in lanes.hours():
        start, end, files = hour * HOUR_US, (hour + 1) * HOUR_US, lanes.files(hour)
        want = whole.step(start, end, end, files, tmp_path / "hour.parquet")
        parts, counts = [], dict.fromkeys(want, 0)
        for first, behind in itertools.pairwise(cuts_of(start, end, 12, seed)):
            rows, more = small.take(first, behind, files, sum(part.num_rows for part in parts))
            other.take(first, behind, {channel: [] for channel in files})
            parts.append(rows)
            for key, value in more.items():
                counts[key] = max(counts[key], value) if key == "max_clock" else counts[key] + value
        got = pa.concat_tables(parts)
        assert unlike(got, pq.read_table(tmp_path / "hour.parquet").cast(got.schema)) == []
        assert counts == want
        state = whole.save()
        assert ledger.pack(small.save()) == ledger.pack(state)
        small.begin(state, lanes.kernel())


@pytest.mark.parametrize("name", MODELS)
def test_its_statements_stay_planned_from_step_to_step(scope: Scope, tmp_path: Path, name: str) -> None:
    """Planning takes ten times as long as running. What is prepared in its session beside, and would see another value
    were it planned anew, must not: no table may come later, no slot may be registered again."""
    lanes = Lanes(scope, name, tmp_path)
    walk = lanes.walk(PreparedWalk, Engine(scope.profile, within=lanes.engine))
    hour = lanes.hours()[0]
    start, end, files = hour * HOUR_US, (hour + 1) * HOUR_US, lanes.files(hour)
    middle = (start + end) // 2
    walk.take(start, middle, files)
    walk.begin(walk.save(), lanes.kernel())
    con = walk.engine.con
    con.execute("set variable x = 1")
    relations = ["bounds", *walk.slots]
    for relation in relations:
        con.execute(
            f"prepare see_{relation} as "
            f"select getvariable('x') as x union select getvariable('x') from {relation}"
        )  # fmt: skip
    con.execute("set variable x = 2")
    walk.take(middle, end, files)
    walk.begin(walk.save(), lanes.kernel())
    for relation in relations:
        assert con.execute(f"execute see_{relation}").fetchall() == [(1,)]


def test_it_can_begin_before_the_first_row_again(scope: Scope, tmp_path: Path) -> None:
    lanes = Lanes(scope, "silver.ticker", tmp_path)
    walk = lanes.walk(PreparedWalk, Engine(scope.profile, within=lanes.engine))
    hour = lanes.hours()[0]
    span = hour * HOUR_US, (hour + 1) * HOUR_US
    before, _ = walk.take(*span, lanes.files(hour))
    state = ledger.pack(walk.save())
    walk.begin({}, None)
    again, _ = walk.take(*span, lanes.files(hour))
    assert again.num_rows
    assert unlike(again, before) == []
    assert ledger.pack(walk.save()) == state
    assert isinstance(lanes.lane, Lane)
