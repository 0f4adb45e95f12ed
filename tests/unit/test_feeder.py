"""The feeder brings what it promised: every row once a lane, in order or with the mischief that was asked for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl.lanes import HOUR_US, US, parse_path
from daedalus_etl.simulator import Market, simulate
from tests import roots
from tests.feeder import KINDS, Feeder, Feeding, Mischief, changed, parquet

MARKET = Market(
    hours=0.1, symbols=("BTC-USDT", "ETH-USDT"), start=datetime(2026, 2, 3, 22, 57, tzinfo=UTC), seed=3, dirt=0.05,
    books_per_second=0.5, trades_per_second=0.5, quotes_per_second=0.5,
)  # fmt: skip
WILD = Mischief(**dict.fromkeys(KINDS, 1 / 8), deleted=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("root")
    simulate(data, MARKET)
    return data


def rows_by_lane(root: Path) -> dict[tuple[str, str], Counter[str]]:
    """(channel, symbol) -> its rows as text; every row must lie where it belongs."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for path in roots.segments(root):
        values = parse_path(path)
        rows = pq.ParquetFile(path).read().to_pylist()
        for row in rows:
            assert all(row[key] == value for key, value in values.items())
            when = row["capture_ts"]
            assert [when.year, when.month, when.day, when.hour] == [row[k] for k in ("year", "month", "day", "hour")]
        channel = path.parts[path.parts.index("ccxt") + 1]
        found.setdefault((channel, str(values["symbol"])), Counter()).update(map(repr, rows))
    return found


def paths_and_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in roots.segments(root)}


def test_every_row_arrives_exactly_once_in_its_lane(root: Path, tmp_path: Path) -> None:
    Feeder(root, segment_seconds=20).into(tmp_path / "data").rest()
    assert rows_by_lane(tmp_path / "data") == rows_by_lane(root)


def test_with_mischief_every_row_is_there_in_the_end_and_twice_where_it_came_twice(root: Path, tmp_path: Path) -> None:
    mischief = Mischief(**dict.fromkeys(KINDS, 1 / 8))
    Feeder(root, segment_seconds=20, mischief=mischief).into(tmp_path / "data").rest()
    for path in roots.segments(tmp_path / "data"):
        if "_5" in path.name[-14:]:
            again = path.with_name(path.name.replace("_5", "_0"))
            assert path.read_bytes() == again.read_bytes()
            path.unlink()
    assert rows_by_lane(tmp_path / "data") == rows_by_lane(root)


def test_what_lies_there_at_the_end_is_the_final_root(root: Path, tmp_path: Path) -> None:
    feeder = Feeder(root, segment_seconds=20, mischief=WILD, seed=5)
    removed = {step.path for step in feeder.steps if step.how == "removed"}
    want = paths_and_bytes(feeder.final(tmp_path / "quiet"))
    feeder.into(tmp_path / "data").rest()
    assert len(removed) == 6
    got = paths_and_bytes(tmp_path / "data")
    assert got == {path: content for path, content in want.items() if path not in removed}


def test_without_mischief_a_lanes_segments_come_in_order_and_not_before_their_rows(root: Path) -> None:
    feeder = Feeder(root, segment_seconds=7)
    assert [step.due_us for step in feeder.steps] == sorted(step.due_us for step in feeder.steps)
    for lane, pieces in feeder.lanes.items():
        mine = [step for step in feeder.steps if step.piece.lane == lane]
        assert [step.path for step in mine] == sorted(piece.path for piece in pieces)
        for step in mine:
            assert step.due_us - feeder.segment_us <= step.piece.clocks()[0] <= step.piece.clocks()[-1] < step.due_us


def test_rows_of_one_capture_are_never_split(root: Path) -> None:
    for pieces in Feeder(root, segment_seconds=0.5).lanes.values():
        captures = np.concatenate([np.unique(piece.clocks()) for piece in pieces])
        assert len(captures) == len(np.unique(captures))


def test_a_segment_ends_with_the_hour(root: Path) -> None:
    for pieces in Feeder(root, segment_seconds=50).lanes.values():
        assert {piece.clocks()[0] // HOUR_US for piece in pieces} == {piece.clocks()[-1] // HOUR_US for piece in pieces}
        assert any(piece.ends_us % HOUR_US == 0 for piece in pieces)


def plan(feeder: Feeder) -> list[tuple[int, str, str, bytes]]:
    return [(step.due_us, step.path, step.how, parquet(step.piece.rows)) for step in feeder.steps]


def test_the_seed_decides_all(root: Path) -> None:
    one, same, other = (Feeder(root, segment_seconds=20, mischief=WILD, seed=seed) for seed in (1, 1, 2))
    assert plan(one) == plan(same)
    assert plan(one) != plan(other)


def test_every_kind_of_mischief_happens(root: Path) -> None:
    feeder = Feeder(root, segment_seconds=10, mischief=WILD, seed=1)
    hows = Counter(step.how for step in feeder.steps)
    assert min(hows[how] for how in ("whole", "torn", "chunk", "removed")) > 0
    late = [step for step in feeder.steps if step.how == "whole" and step.due_us > step.piece.ends_us]
    assert len(late) > 20
    closed = [step for step in late if step.due_us // HOUR_US > step.piece.clocks()[-1] // HOUR_US]
    assert closed, "none comes into a closed hour"
    assert any(not step.final and step.how == "whole" for step in feeder.steps), "none comes again with other content"


def test_mischief_is_done_to_the_lanes_that_it_is_meant_for(root: Path) -> None:
    feeder = Feeder(root, segment_seconds=10, mischief={"ETH-USDT": WILD}, seed=1)
    for lane, pieces in feeder.lanes.items():
        mine = [step for step in feeder.steps if step.piece.lane == lane]
        assert (len(mine) > len(pieces)) == (lane.symbol == "ETH-USDT")


def first(feeding: Feeding, how: str) -> Path:
    while (step := feeding.next()).how != how:
        pass
    return feeding.data / step.path


def test_a_torn_segment_lies_cut_under_its_name_and_is_whole_later(root: Path, tmp_path: Path) -> None:
    feeding = Feeder(root, segment_seconds=20, mischief=Mischief(torn=1)).into(tmp_path)
    path = first(feeding, "torn")
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(path)
    assert all(arrival.step.path not in str(path) for arrival in feeding.arrivals)
    feeding.rest()
    assert pq.read_metadata(path).num_rows > 0


def test_a_growing_segment_grows_in_place(root: Path, tmp_path: Path) -> None:
    feeding = Feeder(root, segment_seconds=20, mischief=Mischief(growing=1)).into(tmp_path)
    path = first(feeding, "chunk")
    inode, sizes = path.stat().st_ino, [path.stat().st_size]
    while not feeding.is_over:
        if str(path).endswith(feeding.next().path):
            sizes.append(path.stat().st_size)
    assert sizes == sorted(set(sizes))
    assert len(sizes) == 4
    assert path.stat().st_ino == inode
    assert pq.read_metadata(path).num_rows > 0


def test_other_content_differs_and_is_of_the_same_kind(root: Path) -> None:
    for pieces in Feeder(root).lanes.values():
        rows = pieces[0].rows
        other = changed(rows)
        assert other.schema == rows.schema
        assert other.num_rows == rows.num_rows - 1
        if pieces[0].lane.channel != "orderbook":
            assert other != rows.slice(0, other.num_rows)


@pytest.mark.parametrize("turn_after", [30, 200.5])
def test_times_are_shifted_so_that_the_hour_turns_where_it_is_asked_for(
    root: Path, tmp_path: Path, turn_after: float
) -> None:
    feeder = Feeder(root, segment_seconds=20, turn_after=turn_after)
    turn = -(-feeder.begins_us // HOUR_US) * HOUR_US
    assert abs(turn - feeder.begins_us - turn_after * US) < 1000
    rows_by_lane(feeder.final(tmp_path))  # path and rows agree
    plain = Feeder(root, segment_seconds=20)
    moved = feeder.begins_us - plain.begins_us
    for lane, pieces in plain.lanes.items():
        was, now = (
            pa.concat_tables([piece.rows for piece in some]).select(["capture_ts", "timestamp"]).to_pylist()
            for some in (pieces, feeder.lanes[lane])
        )
        lags = [
            sorted(
                int(row["capture_ts"].timestamp() * 1000) - (row["timestamp"] or 0) for row in rows if row["timestamp"]
            )
            for rows in (was, now)
        ]
        assert lags[0] == lags[1], moved


def test_staggered_lanes_come_one_after_the_other_within_a_segments_length(root: Path) -> None:
    plain, staggered = Feeder(root, segment_seconds=12), Feeder(root, segment_seconds=12, staggered=True)
    moved = {
        step.piece.lane: step.due_us - step.piece.ends_us
        for step in sorted(staggered.steps, key=lambda step: step.piece.lane)
    }
    assert list(moved.values()) == [i * 2 * US for i in range(6)]
    assert sorted(step.path for step in plain.steps) == sorted(step.path for step in staggered.steps)


def test_only_the_first_seconds_and_the_lanes_that_are_asked_for(root: Path) -> None:
    feeder = Feeder(root, channels=("trades",), symbols=("ETH-USDT",), first_seconds=60)
    ((lane, pieces),) = feeder.lanes.items()
    assert (lane.channel, lane.symbol) == ("trades", "ETH-USDT")
    assert pieces[-1].clocks()[-1] < feeder.begins_us + 60 * US


def test_by_the_clock_it_takes_as_long_as_the_speed_says(root: Path, tmp_path: Path) -> None:
    feeder = Feeder(root, segment_seconds=20, channels=("ticker",), first_seconds=120)
    feeding = feeder.into(tmp_path).begin(speed=400)
    feeding.wait(longest=30)
    assert feeding.is_over
    times = [arrival.visible for arrival in feeding.arrivals]
    assert times == sorted(times)
    span = (feeder.steps[-1].due_us - feeder.steps[0].due_us) / US / 400
    assert span - 0.05 < times[-1] - times[0] < span + 3
    assert all(arrival.before <= arrival.visible for arrival in feeding.arrivals)


def test_step_by_step_it_stops_where_it_is_told(root: Path, tmp_path: Path) -> None:
    feeder = Feeder(root, segment_seconds=20)
    feeding = feeder.into(tmp_path)
    middle = (feeder.begins_us + feeder.ends_us) // 2
    done = feeding.until(middle)
    assert done
    assert max(step.due_us for step in done) <= middle < feeding.now_us
    feeding.rest()
    assert len(feeding.arrivals) == len(feeder.steps)
