"""Small lanes of any shape: coarse clocks, so that ties and exact window edges abound; every kind of bad row."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import harness, naive

START = 1_770_162_600_000_000  # 23:50 UTC: the hour turns within a lane
LANES = 4
NAN, INF = float("nan"), float("inf")

seconds = st.sampled_from([0, 0, 0, 1, 4, 5, 15, 59, 60, 61, 300, 301, 900])
prices = st.sampled_from([99.0, 99.5, 100.0, 100.0, 100.5, 101.0, 250.0, 0.0, -1.0, NAN, INF, None])
sizes = st.sampled_from([0.5, 1.0, 1.0, 2.25, 1e-8, 0.0, 0.0, -1.0, NAN, None])
stamps = st.sampled_from([None, 0, 0, 1, -5, 2000])


def event_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`after` seconds after the row before; `timestamp` relative to that, in ms."""
    clock = START
    out = []
    for row in rows:
        clock += row.pop("after") * 1_000_000
        stamp = row.pop("stamp")
        out.append({**row, "capture_ts": clock, "timestamp": None if stamp is None else clock // 1000 + stamp})
    return out


def side(better: int) -> st.SearchStrategy[Any]:
    """Mostly a good side: strictly ordered from the mid outwards; sometimes anything."""
    steps = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([1.0, 2.0, 0.25, 0.0])), max_size=7)

    def good(levels: list[tuple[float, float]]) -> list[tuple[float, float]]:
        price, found = 100.0, []
        for step, size in levels:
            price += step * better
            found.append((price, size))
        return found

    anything = st.lists(st.tuples(prices, sizes), max_size=4)
    return st.one_of(steps.map(good), steps.map(good), steps.map(good), steps.map(good), anything, st.none())


books = st.lists(
    st.fixed_dictionaries(
        {
            "after": seconds,
            "stamp": stamps,
            "nonce": st.sampled_from([None, 1, 2, 3]),
            "bids": side(-1),
            "asks": side(1),
        }
    ),
    max_size=25,
).map(event_times)
trades = st.lists(
    st.fixed_dictionaries(
        {
            "after": seconds,
            "stamp": stamps,
            "trade_id": st.sampled_from([None, "1", "2", "10", "9", "b", "a", ""]),
            "side": st.sampled_from(["buy", "sell", "BUY", "Sell", "?", None]),
            "price": prices,
            "amount": sizes,
        }
    ),
    max_size=25,
).map(event_times)
quotes = st.lists(
    st.fixed_dictionaries(
        {"after": seconds, "stamp": stamps, "bid": prices, "ask": prices, "bid_volume": sizes, "ask_volume": sizes}
    ),
    max_size=25,
).map(event_times)
lanes = st.lists(
    st.fixed_dictionaries({"orderbook": books, "trades": trades, "ticker": quotes}), min_size=1, max_size=LANES
)


@pytest.mark.parametrize(
    "variables",
    [
        {"vpin_bucket_volume": 1.5, "vpin_window_buckets": 3},
        {"clock": "event", "max_staleness": 60, "levels": 3},
        {"resample_frequency": 5, "fill_gaps": True},
    ],
    ids=["capture", "event", "resampled"],
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(several=lanes)
def test_any_lane_is_as_defined(variables: dict[str, Any], several: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i, lane in enumerate(several):
            for channel, rows in lane.items():
                harness.write_bronze(root, channel, rows, symbol=f"L{i}-USD")
        if not any(rows for lane in several for rows in lane.values()):
            return
        harness.run(root, "tag:silver", **variables)
        for i, lane in enumerate(several):
            rows = {c: naive.read_bronze(root, "ccxt", c, "kraken", f"L{i}-USD") if lane[c] else [] for c in lane}
            want = {
                "orderbook": naive.orderbook(rows["orderbook"], rows["trades"], variables),
                "trades": naive.trades(rows["trades"], rows["orderbook"], variables),
                "ticker": naive.ticker(rows["ticker"], variables),
            }
            for channel, expected in want.items():
                got = harness.published(root, f"silver/{channel}", f"source_symbol = 'L{i}-USD'")
                assert naive.compare(got, expected) == [], channel
