"""The oracle itself, judged by cases small enough to compute by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import naive
from tests.naive.books import columns as book_columns
from tests.naive.order import clock_of, id_key, time_features

Row = dict[str, Any]
T0 = 1_770_076_800_000_000  # Tuesday 2026-02-03 00:00:00 UTC
S = 1_000_000
NAN, INF = math.nan, math.inf


def common(at: float, **given: Any) -> Row:
    clock = T0 + round(at * S)
    row = {"capture_ts": clock, "collected_at": clock // 1000, "timestamp": clock // 1000, "exchange": "x"}
    return {**row, "symbol": "A/B", **given}


def trade(at: float, price: Any = 100.0, amount: Any = 1.0, side: Any = "buy", **given: Any) -> Row:
    return common(at, price=price, amount=amount, side=side, **given)


def quote(at: float, bid: Any = 99.0, ask: Any = 101.0, bid_volume: Any = 1.0, ask_volume: Any = 1.0) -> Row:
    return common(at, bid=bid, ask=ask, bid_volume=bid_volume, ask_volume=ask_volume)


def book(at: float, bids: Any = ((99.0, 1.0),), asks: Any = ((101.0, 1.0),), **given: Any) -> Row:
    sides = [None if side is None else list(side) for side in (bids, asks)]
    return common(at, bids=sides[0], asks=sides[1], **given)


def around(at: float, mid: float, spread: float = 2.0) -> Row:
    return book(at, [(mid - spread / 2, 1.0)], [(mid + spread / 2, 1.0)])


def column(rows: Iterable[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


# Order and duplicates


def test_lane_order_is_clock_timestamp_nonce_id_segment_position_with_nulls_first() -> None:
    keys = [  # capture, timestamp, trade_id, segment, position
        (0, None, "5", (0,), 0),
        (0, 7, None, (0,), 0),
        (0, 7, "9", (0,), 0),
        (0, 7, "10", (1,), 0),
        (0, 7, "010", (1,), 1),
        (0, 7, "10", (2,), 0),
        (0, 7, "", (0,), 0),
        (0, 7, "Z", (0,), 0),
        (0, 7, "a", (0,), 0),
        (0, 8, None, (0,), 0),
        (1, None, None, (0,), 0),
    ]
    names = ("timestamp", "trade_id", "segment", "position")
    rows = [trade(at, price=100.0 + i, **dict(zip(names, rest, strict=True))) for i, (at, *rest) in enumerate(keys)]
    shuffled = random.Random(1).sample(rows, len(rows))
    assert column(naive.ordered(shuffled, "trades"), "price") == [100.0 + i for i in range(len(keys))]
    assert column(naive.fast.trades(shuffled, []), "price") == [100.0 + i for i in range(len(keys))]


def test_nonce_orders_books_of_one_timestamp() -> None:
    rows = [book(0, nonce=2), book(0, nonce=10), book(0, nonce=None)]
    assert column(naive.orderbook(rows), "nonce") == [None, 2, 10]


def test_ids_of_digits_are_numbers_and_come_before_text() -> None:
    assert sorted(["b", "11", "9", "-1", "0x1", ""], key=id_key) == ["9", "11", "", "-1", "0x1", "b"]


def test_event_clock_takes_collected_at_if_the_event_is_missing_or_more_than_a_day_off() -> None:
    v = {**naive.DEFAULTS, "clock": "event"}
    day = 86_400_000
    row = common(0, collected_at=5)
    for timestamp, want in (
        (T0 // 1000 - day, T0 - day * 1000),
        (T0 // 1000 - day - 1, 5000),
        (T0 // 1000 + day, T0 + day * 1000),
        (T0 // 1000 + day + 1, 5000),
        (None, 5000),
    ):
        assert clock_of({**row, "timestamp": timestamp}, v) == want
    assert clock_of(row, naive.DEFAULTS) == T0


def test_rows_equal_in_every_column_are_one_row() -> None:
    rows = [trade(0, NAN), trade(0, NAN, info_json=None), trade(0, NAN, info_json="{}"), trade(0, NAN, cost=1.0)]
    kept, removed = naive.deduplicated(rows, "trades")
    assert (len(kept), removed) == (3, {"full": 1, "window": 0})
    books = [book(0), book(0), book(0, [(99.0, 1.0), (98.0, 0.0)]), book(0, None)]
    assert naive.deduplicated(books, "orderbook")[1] == {"full": 1, "window": 0}
    assert len(naive.ticker([quote(0), quote(0), quote(1)])) == 2


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_a_trade_seen_less_than_900_s_ago_is_a_duplicate_even_of_a_duplicate(build: Any) -> None:
    def seen(at: float, **given: Any) -> Row:
        return trade(at, trade_id="", **{"timestamp": 1, **given})

    assert len(build([seen(0), seen(899.999999, side="BUY")], [])) == 1
    assert len(build([seen(0), seen(900)], [])) == 2
    assert column(build([seen(0), seen(600), seen(1200), seen(2100)], []), "clock") == [T0, T0 + 2100 * S]
    different = [seen(0), seen(1, timestamp=2), seen(1, side="sell"), seen(1, amount=2.0), seen(1, price=1.0)]
    assert len(build(different, [])) == 5
    unknown = [seen(0, side="?"), seen(1, side=None), seen(2, price=NAN), seen(3, price=NAN)]
    assert len(build(unknown, [])) == 2
    assert len(build([trade(0, timestamp=1), trade(1, timestamp=1)], [])) == 2  # no id


# Validity


@pytest.mark.parametrize(
    ("bids", "asks", "valid"),
    [
        ([(99.0, 1.0)], [(101.0, 1.0)], True),
        (None, [(101.0, 1.0)], False),
        ([], [(101.0, 1.0)], False),
        ([(99.0, 0.0)], [(101.0, 1.0)], False),  # empty once the zero is gone
        ([(102.0, 0.0), (99.0, 1.0), (NAN, 0.0)], [(101.0, 1.0)], True),
        ([(99.0, 1.0)], [(99.0, 1.0)], False),  # locked
        ([(100.0, 1.0)], [(99.0, 1.0)], False),  # crossed
        ([(99.0, 1.0), (99.0, 1.0)], [(101.0, 1.0)], False),
        ([(98.0, 1.0), (99.0, 1.0)], [(101.0, 1.0)], False),
        ([(99.0, 1.0)], [(102.0, 1.0), (101.0, 1.0)], False),
        ([(99.0, -1.0)], [(101.0, 1.0)], False),
        ([(99.0, INF)], [(101.0, 1.0)], False),
        ([(99.0, None)], [(101.0, 1.0)], False),
        ([(NAN, 1.0)], [(101.0, 1.0)], False),
        ([(99.0, 1.0)], [(101.0, 1.0), (INF, 1.0)], False),
        ([(99.0, 1.0), (0.0, 1.0)], [(101.0, 1.0)], False),
    ],
)
def test_a_books_validity(bids: Any, asks: Any, valid: bool) -> None:
    row = naive.orderbook([book(0, bids, asks)])[0]
    assert row["is_valid"] is valid
    assert (row["mid_price"] is None) is not valid
    # the fast oracle judges books, too
    assert (naive.fast.trades([trade(1)], [book(0, bids, asks)])[0]["mid_before"] is None) is not valid


def test_validity_looks_at_all_levels_received_though_features_see_the_first() -> None:
    deep = [(99.0, 1.0), (98.0, 1.0), (98.5, 1.0)]
    assert naive.orderbook([book(0, deep)], [], {"levels": 2})[0]["is_valid"] is False


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_a_trades_validity_and_its_empty_features(build: Any) -> None:
    rows = [trade(0, 100.0), trade(1, NAN), trade(2, 0.0), trade(3, 1.0, -1.0), trade(4, 1.0, None), trade(5, 1.0, INF)]
    out = build([*rows, trade(6, 200.0, 0.0)], [])
    assert column(out, "is_valid") == [True, False, False, False, False, False, True]
    assert out[1]["hour_of_day"] is None
    assert out[1]["trade_count_5s"] is None
    assert math.isnan(out[1]["price"])
    assert out[6]["log_return"] == math.log(2)  # invalid rows touch no state
    assert out[6]["trade_count_900s"] == 2


@pytest.mark.parametrize("build", [naive.ticker, naive.fast.ticker], ids=["slow", "fast"])
def test_a_quotes_validity_does_not_depend_on_its_sizes(build: Any) -> None:
    rows = [quote(0, 1.0, 1.0), quote(1, None), quote(2, NAN), quote(3, 1.0, INF), quote(4, bid_volume=-1.0)]
    rows += [quote(5, bid_volume=NAN), quote(6, ask_volume=None), quote(7, bid_volume=0.0, ask_volume=0.0)]
    out = build([*rows, quote(8, bid_volume=3.0)])
    assert column(out, "is_valid") == [False] * 4 + [True] * 5
    assert column(out, "volume_imbalance") == [None] * 8 + [0.5]
    assert out[8]["vol_imbalance_mean_60s"] == 0.5
    assert out[7]["vol_imbalance_mean_60s"] is None


# Trades and tickers


def test_monday_is_day_0_and_friday_is_no_weekend() -> None:
    assert time_features(T0 + 3600 * S) == {"hour_of_day": 1, "day_of_week": 1, "is_weekend": False}
    days = [time_features(T0 + day * 86_400 * S - 1) for day in range(7)]
    assert column(days, "day_of_week") == [0, 1, 2, 3, 4, 5, 6]
    assert column(days, "is_weekend") == [False] * 5 + [True] * 2
    assert column(days, "hour_of_day") == [23] * 7


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_trade_features(build: Any) -> None:
    rows = [trade(0, 100.0, 2.0, "BUY"), trade(1, 110.0, 1.0, "sell"), trade(2, 99.0, 1.0, None)]
    out = build(rows, [])
    assert column(out, "is_buy") == [True, False, None]
    assert column(out, "side") == ["BUY", "sell", None]
    assert column(out, "signed_volume") == [2.0, -1.0, None]
    assert column(out, "dollar_volume") == [200.0, 110.0, 99.0]
    assert column(out, "log_return") == [None, math.log(1.1), math.log(0.9)]
    assert column(out, "vwap_5s") == [100.0, 310 / 3, 409 / 4]
    assert column(out, "buy_ratio_5s") == [1.0, 0.5, 0.5]
    assert column(out, "realized_var_5s")[0] is None
    assert column(out, "realized_var_5s")[2] == pytest.approx(math.log(1.1) ** 2 + math.log(0.9) ** 2, rel=1e-15)
    assert out[2]["source_symbol"] == "A-B"


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_contracts(build: Any) -> None:
    rows = [trade(0, 100.0, 1.0), trade(1, 200.0, 1.0)]
    inverse = build(rows, [], {"contract_kind": "inverse", "contract_size": 10})
    assert column(inverse, "dollar_volume") == [10.0, 10.0]
    assert inverse[1]["vwap_5s"] == pytest.approx(20 / 0.15, rel=1e-15)  # 10 USD bought 0.1, then 0.05
    assert inverse[1]["volume_5s"] == 2.0
    linear = build(rows, [], {"contract_size": 10})
    assert (linear[1]["vwap_5s"], linear[1]["dollar_volume_5s"]) == (150.0, 3000.0)


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_a_window_is_open_at_its_start_and_ends_at_the_row_itself(build: Any) -> None:
    ids = {"timestamp": 1}
    rows = [trade(0), trade(0.000001), trade(5, 1.0, trade_id="1", **ids), trade(5, 2.0, trade_id="2", **ids)]
    out = build(rows, [])
    assert column(out, "trade_count_5s") == [1, 2, 2, 3]  # the trade of 0 s is out; the later row of 5 s is not in
    assert out[2]["volume_5s"] == 2.0


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_vwap_of_no_volume_is_null_and_volume_0(build: Any) -> None:
    row = build([trade(0, amount=0.0)], [])[0]
    assert (row["vwap_5s"], row["volume_5s"], row["trade_count_5s"]) == (None, 0.0, 1)
    assert build([trade(0, side="?")], [])[0]["buy_ratio_5s"] is None


@pytest.mark.parametrize("build", [naive.trades, naive.fast.trades], ids=["slow", "fast"])
def test_mid_before_is_of_the_last_valid_book_strictly_before_and_not_stale(build: Any) -> None:
    books = [around(10, 100.0), book(11, None), around(12, 200.0)]
    rows = [trade(10), trade(11.5, 101.0), trade(12), trade(312, 1.0), trade(312.000001)]
    out = build(rows, books)
    assert column(out, "mid_before") == [None, 100.0, 100.0, 200.0, None]
    assert out[1]["effective_spread"] == 2 * 1.0 / 100.0
    assert out[0]["effective_spread"] is None


@pytest.mark.parametrize("build", [naive.ticker, naive.fast.ticker], ids=["slow", "fast"])
def test_ticker_features(build: Any) -> None:
    out = build([quote(0, 99.0, 101.0, 3.0, 1.0), quote(1, 101.0, 105.0, 1.0, 3.0), quote(5, 101.0, 103.0)])
    assert column(out, "mid_price") == [100.0, 103.0, 102.0]
    assert column(out, "spread") == [2.0, 4.0, 2.0]
    assert out[0]["relative_spread"] == 0.02
    assert column(out, "volume_imbalance") == [0.5, -0.5, 0.0]
    assert column(out, "mid_price_mean_5s") == [100.0, 101.5, 102.5]
    assert column(out, "mid_price_std_5s") == [None, pytest.approx(math.sqrt(4.5)), pytest.approx(math.sqrt(0.5))]
    assert column(out, "spread_mean_15s") == [2.0, 3.0, pytest.approx(8 / 3)]
    assert column(out, "vol_imbalance_mean_5s") == [0.5, 0.0, -0.25]


# Books: structure

BIDS = [(99.0, 1.0), (98.0, 2.0), (97.0, 3.0), (96.0, 4.0), (95.0, 5.0)]  # 100, 200, ... bps from the mid of 100
ASKS = [(101.0, 5.0), (102.0, 4.0), (103.0, 3.0), (104.0, 2.0), (105.0, 1.0)]


def test_structural_features() -> None:
    row = naive.orderbook([book(0, BIDS, ASKS)])[0]
    want = {
        "bid_price_L1": 98.0,
        "bid_size_L4": 5.0,
        "bid_price_L5": None,
        "ask_price_L0": 101.0,
        "ask_size_L19": None,
        "best_bid": 99.0,
        "best_ask": 101.0,
        "mid_price": 100.0,
        "spread": 2.0,
        "relative_spread": 0.02,
        "dt_prev_ms": None,
        "is_gap": False,
        "microprice": (1 * 101 + 5 * 99) / 6,
        "micro_minus_mid": 596 / 6 - 100,
        "imbalance_L1": -4 / 6,
        "imbalance_L3": -6 / 18,
        "imbalance_L5": 0.0,
        "imbalance_L10": 0.0,
        "total_bid_depth": 15.0,
        "total_ask_depth": 15.0,
        "total_imbalance": 0.0,
        "vwap_bid_5": (99 + 196 + 291 + 384 + 475) / 15,
        "vwap_ask_5": (505 + 408 + 309 + 208 + 105) / 15,
        "vwap_spread": (1535 - 1445) / 15,
        "smart_bid_depth": sum(i * math.exp(-i) for i in (1, 2, 3, 4, 5)),
        "smart_ask_depth": sum((6 - i) * math.exp(-i) for i in (1, 2, 3, 4, 5)),
        "bid_slope": 4 / 15,
        "ask_slope": 4 / 15,
        # x = 100..500, cumulative 1 3 6 10 15: sum dx*dy = -200*-6 + -100*-4 + 0 + 100*3 + 200*8 = 3500; sum dx^2 = 1e5
        "bid_slope_regression": 0.035,
        # cumulative 5 9 12 14 15 (mean 11): -200*-6 + -100*-2 + 0 + 100*3 + 200*4 = 2500
        "ask_slope_regression": 0.025,
        "slope_asymmetry": 1.4,
        "center_of_gravity": (1445 + 1535) / 30,
        "cog_vs_mid": (2980 / 30 - 100) / 100 * 1e4,
        "bid_depth_decay_5": 5.0,
        "ask_depth_decay_5": 0.2,
        "avg_depth_decay_5": 2.6,
        "bid_concentration": (1 + 4 + 9 + 16 + 25) / 225,
        "spread_per_depth_L3": 2 / 18,
        "spread_per_depth_L6": 2 / 30,
        "bid_reach_bps": 500.0,
        "ask_reach_bps": 500.0,
        "bid_vol_band_50_100bps": 0.0,
        "imb_band_50_100bps": None,
        "book_convexity": None,  # nothing within 50 bps
        "depth_0_5bps_sigma": None,
        "ofi": None,
        "interval_trade_count": None,
        "vpin": None,
    }
    for name, value in want.items():
        assert row[name] == (value if not isinstance(value, float) else pytest.approx(value, rel=1e-12, abs=1e-12)), (
            name
        )
    smart_bid, smart_ask = row["smart_bid_depth"], row["smart_ask_depth"]
    assert row["smart_depth_imbalance"] == pytest.approx((smart_bid - smart_ask) / (smart_bid + smart_ask))


def test_missing_levels_are_null_and_sums_run_over_the_others() -> None:
    row = naive.orderbook([book(0, BIDS[:4], ASKS[:2])])[0]
    for name in ("bid_slope", "ask_slope", "ask_slope_regression", "slope_asymmetry", "bid_depth_decay_5"):
        assert row[name] is None, name
    assert row["bid_slope_regression"] is not None
    assert row["avg_depth_decay_5"] is None
    assert row["vwap_ask_5"] == (505 + 408) / 9
    assert row["spread_per_depth_L6"] == 2 / 19


def test_all_levels_are_the_first_levels() -> None:
    row = naive.orderbook([book(0, BIDS, ASKS)], [], {"levels": 2})[0]
    assert (row["total_bid_depth"], row["ask_reach_bps"], row["imbalance_L3"]) == (3.0, 200.0, (3 - 9) / 12)
    assert "bid_price_L2" not in row


def test_a_level_of_size_0_is_no_level() -> None:
    row = naive.orderbook([book(0, [(100.5, 0.0), *BIDS], ASKS)])[0]
    assert (row["best_bid"], row["bid_price_L1"]) == (99.0, 98.0)


def test_the_regression_takes_the_first_10_levels() -> None:
    ten = [(9999.0 - i, 1.0) for i in range(10)]  # 1, 2, ... bps: one unit a bps
    row = naive.orderbook([book(0, [*ten, (1.0, 1e6)], [(10001.0, 1.0)])])[0]
    assert row["bid_slope_regression"] == pytest.approx(1.0, rel=1e-12)


def test_bands_are_closed_below_open_above_and_null_beyond_the_reach() -> None:
    bids = [(9996.0, 1.0), (9995.0, 2.0), (9990.0, 4.0)]  # 4, 5, 10 bps
    asks = [(10004.0, 1.0), (10049.0, 8.0), (10050.0, 16.0), (10060.0, 32.0)]  # 4, 49, 50, 60 bps
    row = naive.orderbook([book(0, bids, asks)])[0]
    assert [row[f"bid_vol_band_{b}bps"] for b in ("0_5", "5_10", "10_25", "25_50")] == [1.0, 2.0, None, None]
    assert [row[f"ask_vol_band_{b}bps"] for b in ("0_5", "5_10", "10_25", "25_50", "50_100")] == [1.0, 0, 0, 8.0, 48.0]
    assert (row["imb_band_0_5bps"], row["imb_band_5_10bps"], row["imb_band_10_25bps"]) == (0.0, 1.0, None)
    assert row["book_convexity"] is None  # bids do not reach 50 bps
    reached = naive.orderbook([book(0, [*bids, (9950.0, 100.0)], asks)])[0]
    assert reached["book_convexity"] == 2 / (7 + 1 + 8)  # what is at 50 bps is not within


# Books: neighbours


@pytest.mark.parametrize(
    ("bid", "ask", "ofi"),
    [
        ((99.0, 5.0), (101.0, 1.0), 5 - 2),
        ((99.5, 5.0), (101.0, 1.0), 5),
        ((98.5, 5.0), (101.0, 1.0), -2),
        ((99.0, 2.0), (101.0, 4.0), -(4 - 1)),
        ((99.0, 2.0), (100.5, 4.0), -4),
        ((99.0, 2.0), (101.5, 4.0), 1),
        ((99.5, 5.0), (100.5, 4.0), 5 - 4),
    ],
)
def test_ofi(bid: Any, ask: Any, ofi: float) -> None:
    rows = naive.orderbook([book(0, [(99.0, 2.0)]), book(1, [bid], [ask])])
    assert column(rows, "ofi") == [None, ofi]
    assert rows[1]["mlofi"] == ofi


def test_mlofi_weighs_levels_and_skips_a_side_that_lacks_one() -> None:
    one = book(0, [(99.0, 1.0), (98.0, 1.0)], [(101.0, 1.0), (102.0, 1.0), (103.0, 1.0)])
    two = book(1, [(99.0, 2.0)], [(101.0, 1.0), (102.0, 4.0), (104.0, 7.0)])
    # level 0: +1; level 1: bids lack it, asks -3; level 2: the ask rose: +1
    want = 1 - 3 * math.exp(-0.5) + math.exp(-1.0)
    assert naive.orderbook([one, two])[1]["mlofi"] == pytest.approx(want, rel=1e-15)
    assert naive.orderbook([one, two], [], {"ofi_levels": 2, "ofi_decay_alpha": 0})[1]["mlofi"] == 1 - 3


def test_velocity_and_acceleration() -> None:
    rows = [around(0, 100.0), around(2, 104.0), book(2.5, []), around(3, 105.0), around(3, 106.0), around(4, 107.0)]
    for nonce, row in enumerate(rows):
        row.update(timestamp=None, nonce=nonce)
    out = [row for row in naive.orderbook(rows) if row["is_valid"]]
    assert column(out, "dt_prev_ms") == [None, 2000.0, 1000.0, 0.0, 1000.0]
    assert column(out, "mid_velocity") == [None, 2.0, 1.0, None, 1.0]
    assert column(out, "mid_accel") == [None, None, (1 - 2) / 1.5, None, None]
    assert column(out, "log_return")[1:3] == [math.log(1.04), math.log(105 / 104)]


def test_dt_has_microsecond_precision() -> None:
    assert naive.orderbook([around(0, 100.0), around(0.001001, 100.0)])[1]["dt_prev_ms"] == 1.001


def test_a_gap_empties_the_next_row_and_the_acceleration_of_the_second() -> None:
    rows = [around(0, 100.0), around(1, 101.0), around(301, 102.0), around(601.000001, 103.0), book(700, None)]
    out = naive.orderbook([*rows, around(800, 104.0), around(801, 105.0)])
    assert column(out, "is_gap") == [False, False, False, True, None, False, False]  # exactly 300 s is none
    assert column(out, "dt_prev_ms")[3] == 300_000.001
    for name in ("ofi", "mlofi", "log_return", "mid_velocity"):
        assert [row[name] is None for row in out] == [True, False, False, True, True, False, False], name
    assert [row["mid_accel"] is None for row in out] == [True, True, False, True, True, True, False]
    assert out[3]["ofi_sum_5s"] is None
    assert out[3]["realized_vol_5s"] is None
    assert out[3]["mean_relative_spread_5s"] == 2 / 103


def test_window_features() -> None:
    mids = [100.0, 101.0, 103.0, 102.0]
    out = naive.orderbook([around(i * 2, mid) for i, mid in enumerate(mids)])
    r = [math.log(b / a) for a, b in itertools.pairwise(mids)]
    last = out[3]  # the window of 5 s holds the books of 2, 4 and 6 s
    assert last["realized_vol_5s"] == pytest.approx(math.sqrt(sum(x * x for x in r)), rel=1e-14)
    average = sum(r) / 3
    assert last["mean_return_5s"] == pytest.approx(average, rel=1e-14)
    assert last["return_std_5s"] == pytest.approx(math.sqrt(sum((x - average) ** 2 for x in r) / 2), rel=1e-14)
    assert out[1]["return_std_5s"] is None
    assert out[0]["mean_return_5s"] is None
    assert column(out, "ofi") == [None, 2.0, 2.0, -2.0]
    assert column(out, "ofi_sum_5s") == [None, 2.0, 4.0, 2.0]
    assert last["mean_relative_spread_5s"] == pytest.approx((2 / 101 + 2 / 103 + 2 / 102) / 3, rel=1e-14)


def test_slope_and_gravity_windows() -> None:
    asks = [(10001.0, 1.0), (10002.0, 1.0), (10003.0, 1.0)]

    def sloped(at: float, size: float) -> Row:
        return book(at, [(9999.0, size), (9998.0, size), (9997.0, size)], asks)

    out = naive.orderbook([sloped(0, 1.0), sloped(30, 3.0), sloped(60, 4.0)])
    assert column(out, "bid_slope_regression") == pytest.approx([1.0, 3.0, 4.0])
    assert column(out, "bid_slope_mean_60s") == pytest.approx([1.0, 2.0, 3.5])
    assert out[0]["bid_slope_std_60s"] is None
    assert out[2]["bid_slope_std_60s"] == pytest.approx(math.sqrt(0.5))
    assert out[2]["ask_slope_mean_60s"] == pytest.approx(1.0)
    assert abs(out[2]["ask_slope_std_60s"]) < 1e-12
    assert out[1]["depth_0_5bps_sigma"] == pytest.approx(math.sqrt(18))  # 6 and 12
    gravity = [-(2 * size - 2) / (size + 1) for size in (1.0, 3.0, 4.0)]  # bps: bids are 2 below, asks 2 above
    gravity = [value if abs(value) > 0 else 0.0 for value in gravity]
    assert column(out, "cog_vs_mid") == pytest.approx(gravity)
    assert out[2]["cog_momentum_mean_60s"] == pytest.approx((gravity[1] + gravity[2]) / 2)
    assert out[1]["cog_momentum_std_60s"] == pytest.approx(abs(gravity[1] - gravity[0]) / math.sqrt(2))


# Books: trades


def test_a_trade_belongs_to_the_first_valid_book_at_or_after_it() -> None:
    books = [around(0, 100.0), around(10, 101.0), book(11, None), around(20, 102.0), around(1000, 103.0)]
    trades = [
        trade(-5000, amount=1.0),
        trade(0, amount=2.0),  # at equal clocks before the book
        trade(0.000001, amount=4.0, side="sell"),
        trade(10, amount=8.0, side=None),
        trade(10.5, amount=16.0, side="SELL"),
        trade(15, amount=NAN),
        trade(21, amount=32.0),
        trade(1001, amount=64.0),
    ]
    out = naive.orderbook(books, trades)
    assert column(out, "interval_trade_count") == [2, 2, None, 1, 1]
    assert column(out, "interval_buy_volume") == [3.0, 0.0, None, 0.0, 32.0]
    assert column(out, "interval_sell_volume") == [0.0, 4.0, None, 16.0, 0.0]
    assert column(out, "trade_vol_15s") == [2.0, 6.0, None, 16.0, 0.0]  # own clocks in (t-15, t]
    assert column(out, "tfi_15s") == [1.0, -2 / 6, None, -1.0, None]


def test_of_two_books_of_one_clock_the_first_takes_the_trades() -> None:
    out = naive.orderbook([around(0, 100.0), around(0, 101.0)], [trade(0)])
    assert column(out, "interval_trade_count") == [1, 0]


def test_trade_features_are_null_before_the_first_trade_and_0_without_one_later() -> None:
    books = [around(i, 100.0 + i % 3) for i in range(6)]
    out = naive.orderbook(books, [trade(2.5, amount=0.5, side=None)])
    assert column(out, "interval_trade_count") == [None, None, None, 1, 0, 0]
    assert column(out, "interval_buy_volume") == [None, None, None, 0.0, 0.0, 0.0]
    assert column(out, "trade_vol_5s") == [None, None, None, 0.0, 0.0, 0.0]
    assert column(out, "tfi_5s") == [None] * 6
    assert column(out, "vpin") == [None] * 6
    assert column(naive.orderbook(books), "trade_vol_5s") == [None] * 6


def test_duplicate_trades_are_counted_once() -> None:
    twice = [trade(0, trade_id="1", timestamp=1), trade(1, trade_id="1", timestamp=1)]
    assert naive.orderbook([around(2, 100.0)], twice)[0]["interval_trade_count"] == 1


def signed(flows: Iterable[tuple[float, float]]) -> tuple[list[Row], list[Row]]:
    """Books of given log returns and trades of given net volume, one a second."""
    mid, books, trades = 100.0, [around(0, 100.0)], [trade(-0.5)]
    for i, (x, y) in enumerate(flows, 1):
        mid *= math.exp(x)
        books.append(around(i, mid))
        if y:
            trades.append(trade(i - 0.5, amount=abs(y), side="buy" if y > 0 else "sell"))
    return books, trades


def test_kyle_lambda_is_the_regression_of_returns_on_signed_volume() -> None:
    out = naive.orderbook(*signed([(0.002, 1.0), (0.001, 2.0), (-0.003, -3.0)]))
    # y = 1 2 -3, mean 0: sum xy = 0.002 + 0.002 + 0.009, sum yy = 14; sum xx = 14e-6
    assert out[3]["kyle_lambda"] == pytest.approx(0.013 / 14, rel=1e-9)
    assert out[3]["kyle_lambda_r2"] == pytest.approx(0.013**2 / (14 * 14e-6), rel=1e-9)
    assert column(out, "kyle_lambda")[:3] == [None] * 3  # two pairs after three books
    short = naive.orderbook(
        *signed([(0.5, 9.0), (0.002, 1.0), (0.001, 2.0), (-0.003, -3.0)]), {"kyle_lambda_window": 3}
    )
    assert short[4]["kyle_lambda"] == pytest.approx(0.013 / 14, rel=1e-9)


def test_kyle_lambda_is_null_where_volume_or_return_do_not_vary() -> None:
    same_y = naive.orderbook(*signed([(0.001, 2.0), (0.002, 2.0), (0.003, 2.0 + 1e-9)]))[3]
    assert (same_y["kyle_lambda"], same_y["kyle_lambda_r2"]) == (None, None)
    close_y = naive.orderbook(*signed([(0.001, 2.0), (0.002, 2.0), (0.003, 2.0 + 1e-8)]))[3]
    assert close_y["kyle_lambda"] == pytest.approx(0.0015 / 1e-8, rel=1e-6)
    same_x = naive.orderbook(*signed([(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]))[3]
    assert (same_x["kyle_lambda"], same_x["kyle_lambda_r2"]) == (0.0, None)


def test_a_net_volume_of_rounding_counts_as_0() -> None:
    books, trades = signed([(0.001, 0.0), (0.002, 0.0), (0.003, 0.0)])
    sold = [trade(i + 0.3, amount=0.1 * (i + 1), side="sell") for i in range(3) for _ in range(3)]
    for i, row in enumerate(sold):
        row["trade_id"] = str(i)
    bought = [trade(i + 0.4, amount=0.1 * 3 * (i + 1) * (1 + 1e-13)) for i in range(3)]
    out = naive.orderbook(books, trades + sold + bought)
    assert out[1]["interval_buy_volume"] != out[1]["interval_sell_volume"]
    assert out[3]["kyle_lambda"] is None
    more = [{**row, "amount": row["amount"] * (1 + i * 1e-10)} for i, row in enumerate(bought)]
    assert naive.orderbook(books, trades + sold + more)[3]["kyle_lambda"] is not None


def test_pairs_before_the_first_trade_and_after_a_gap_are_out() -> None:
    books = [around(i, 100.0 + i * i) for i in range(4)] + [around(400, 130.0)]
    trades = [trade(1.5, amount=1.0), trade(2.5, amount=2.0)]
    out = naive.orderbook(books, trades, {"kyle_lambda_window": 1000, "max_staleness": 300})
    assert column(out, "kyle_lambda") == [None] * 5  # two pairs, and a gap
    assert out[3]["ofi_beta"] is None  # three pairs, but each ofi is 2
    books[2:2] = [book(1.7, [(100.0, 4.0)], [(102.0, 1.0)])]  # ofi 3
    assert naive.orderbook(books)[4]["ofi_beta"] is not None  # needs no trades


def test_ofi_beta() -> None:
    sizes = [1.0, 3.0, 2.0, 6.0]
    mids = [100.0, 100.0, 100.0, 100.0]
    books = [book(i, [(m - 1, q)]) for i, (m, q) in enumerate(zip(mids, sizes, strict=True))]
    out = naive.orderbook(books)
    assert column(out, "ofi") == [None, 2.0, -1.0, 4.0]
    assert (out[3]["ofi_beta"], out[3]["ofi_beta_r2"]) == (0.0, None)
    books[3] = book(3, [(100.0, 6.0)])  # ofi 6, return ln(100.5/100)
    out = naive.orderbook(books)
    x, y = [0.0, 0.0, math.log(1.005)], [2.0, -1.0, 6.0]
    sxy = sum((a - sum(x) / 3) * (b - 7 / 3) for a, b in zip(x, y, strict=True))
    syy, sxx = sum((b - 7 / 3) ** 2 for b in y), sum((a - sum(x) / 3) ** 2 for a in x)
    assert out[3]["ofi_beta"] == pytest.approx(sxy / syy, rel=1e-12)
    assert out[3]["ofi_beta_r2"] == pytest.approx(sxy**2 / sxx / syy, rel=1e-12)


# Books: spread regimes


def test_spread_percentile_counts_spreads_smaller_by_more_than_a_billionth_of_the_mid() -> None:
    spreads = [2.0, 4.0, 4.0 + 0.9e-7, 4.0 + 1.2e-7, 1.0]
    out = naive.orderbook([around(i, 100.0, spread) for i, spread in enumerate(spreads)])
    assert column(out, "spread_percentile") == [0.0, 1 / 2, 1 / 3, 2 / 4, 0.0]
    assert column(out, "spread_regime") == ["tight", "normal", "normal", "normal", "tight"]
    wide = naive.orderbook([around(i, 100.0, spread) for i, spread in enumerate([1.0, 1.0, 1.0, 1.0, 2.0])])
    assert (wide[4]["spread_percentile"], wide[4]["spread_regime"]) == (0.8, "wide")
    tight = naive.orderbook([around(i, 100.0, spread) for i, spread in enumerate([2.0, 2.0, 2.0, 1.0, 1.5])])
    assert (tight[4]["spread_percentile"], tight[4]["spread_regime"]) == (0.2, "tight")


def test_regime_fractions_are_of_time_cut_at_the_edge() -> None:
    # regimes: 0 s tight, 100 s wide is not reached (1/2: normal), ...
    rows = [around(0, 100.0, 2.0), around(100, 100.0, 3.0), around(250, 100.0, 1.0), around(350, 100.0, 9.0)]
    out = naive.orderbook([*rows, around(540, 100.0, 10.0)])
    assert column(out, "spread_percentile") == [0.0, 1 / 2, 0.0, 2 / 3, 2 / 3]
    assert column(out, "spread_regime_tight_frac")[:3] == [None, 1.0, 100 / 250]
    # at 350 s the window is (50, 350]: tight 50-100, normal 100-250, tight 250-350
    assert out[3]["spread_regime_tight_frac"] == 150 / 300
    # at 540 s: (240, 540]: normal 240-250, tight 250-350, normal 350-540
    assert out[4]["spread_regime_tight_frac"] == 100 / 300
    assert out[4]["spread_regime_wide_frac"] == 0.0


def test_wide_fraction() -> None:
    rows = [around(i, 100.0, 1.0) for i in range(4)] + [around(4, 100.0, 2.0), around(5, 100.0, 1.0)]
    out = naive.orderbook(rows)
    assert column(out, "spread_regime")[4] == "wide"
    assert (out[5]["spread_regime_wide_frac"], out[5]["spread_regime_tight_frac"]) == (0.2, 0.8)


def test_a_gap_counts_as_no_time_in_the_regimes() -> None:
    out = naive.orderbook([around(0, 100.0), around(301, 100.0), around(302, 100.0)])
    assert column(out, "spread_regime_tight_frac") == [None, None, 1.0]
    same_clock = naive.orderbook([around(0, 100.0), around(0, 100.5)])
    assert column(same_clock, "spread_regime_tight_frac") == [None, None]
    # a shorter gap than the window: only the time after it is counted
    short = naive.orderbook([around(0, 100.0, 2.0), around(50, 100.0, 1.0)], [], {"max_staleness": 20})
    assert short[1]["spread_regime_tight_frac"] is None


# VPIN


def vpin_of(trades: list[Row], **variables: Any) -> Any:
    return naive.orderbook([around(1000, 100.0)], trades, variables)[0]["vpin"]


def test_vpin_splits_a_trade_over_the_buckets_that_it_crosses() -> None:
    assert vpin_of([trade(0, amount=0.999999999)]) is None
    assert vpin_of([trade(0, amount=1.0)]) == 1.0
    # 0.6 bought, 0.9 sold: bucket 1 is 0.6 and 0.4; 1.7 bought: bucket 2 is 0.5 and 0.5, 3 all bought, 0.2 remain
    trades = [trade(0, amount=0.6), trade(1, amount=0.9, side="sell"), trade(2, amount=1.7)]
    assert vpin_of(trades) == pytest.approx((0.2 + 0.0 + 1.0) / 3, rel=1e-15)
    assert vpin_of(trades, vpin_window_buckets=2) == 0.5
    assert vpin_of(trades, vpin_bucket_volume=1.6) == pytest.approx((0.4 / 1.6 + 1.4 / 1.6) / 2, rel=1e-15)


def test_vpin_counts_whole_units_half_to_even() -> None:
    half = [trade(i, amount=0.5e-9 * k) for i, k in enumerate((1, 3))]  # 0 and 2 units, not 1 and 1 or 1 and 2
    assert vpin_of(half, vpin_bucket_volume=2e-9) == 1.0
    assert vpin_of(half[:1], vpin_bucket_volume=1e-9) is None
    assert vpin_of([trade(0, amount=1e12)]) == 1.0  # a thousand billion buckets


def test_vpin_signs_a_trade_without_side_by_the_last_price_change_its_own_included() -> None:
    def plain(*prices: float) -> list[Row]:
        return [trade(i, price, 1.0, None) for i, price in enumerate(prices)]

    assert vpin_of(plain(100.0)) == 0.0  # half and half
    v = {"vpin_bucket_volume": 2.0}
    assert vpin_of(plain(100.0, 101.0), **v) == 0.5  # half and half, then bought
    assert vpin_of(plain(100.0, 101.0, 101.0, 99.0), **v) == 0.25  # (0.5, 0.5, 1 bought) (1 bought, 1 sold)
    assert vpin_of([trade(0, 100.0), trade(1, 99.0, 1.0, "buy"), trade(2, 99.0, 2.0, None)], **v) == 1.0
    assert vpin_of([trade(0, 100.0, 2.0), trade(1, NAN), trade(2, 100.0, 2.0, None)], **v) == 0.5


def test_vpin_is_that_of_the_trades_up_to_the_book() -> None:
    out = naive.orderbook([around(0, 100.0), around(1, 100.0), around(2, 100.0)], [trade(0.5), trade(1), trade(1.5)])
    assert column(out, "vpin") == [None, 1.0, 1.0]


# No lookahead


def test_cutting_the_input_changes_no_earlier_row() -> None:
    rng = random.Random(5)
    books, trades = random_books(rng, 80), random_trades(rng, 120)
    whole = naive.orderbook(books, trades)
    cut = whole[50]["clock"]
    part = naive.orderbook(
        [row for row in books if row["capture_ts"] < cut], [row for row in trades if row["capture_ts"] < cut]
    )
    assert part == [row for row in whole if row["clock"] < cut]


# Resampling


def test_a_grid_row_is_the_last_valid_book_at_or_before_it() -> None:
    rows = [
        around(0.5, 100.0),
        around(1, 101.0),
        around(1.5, 102.0),
        book(1.8, None),
        around(4.2, 103.0),
        book(6.1, []),
    ]
    out = naive.orderbook(rows, [], {"resample_frequency": 1})
    assert [(clock - T0) / S for clock in column(out, "clock_ts")] == [1.0, 2.0, 5.0]
    assert column(out, "mid_price") == [101.0, 102.0, 103.0]
    assert [(clock - T0) / S for clock in column(out, "original_timestamp")] == [1.0, 1.5, 4.2]
    assert column(out, "data_staleness") == [0.0, 0.5, pytest.approx(0.8)]
    assert column(out, "snapshot_count") == [2, 1, 1]
    assert column(out, "is_stale") == [False] * 3
    assert out[2]["log_return"] == math.log(103 / 102)
    assert out[2]["dt_prev_ms"] == 3000.0


def test_a_grid_row_waits_for_a_later_row() -> None:
    assert naive.orderbook([around(0.5, 100.0), around(1, 101.0)], [], {"resample_frequency": 1}) == []
    assert len(naive.orderbook([around(0.5, 100.0), book(1.000001, None)], [], {"resample_frequency": 1})) == 1


def test_fill_gaps_carries_a_book_until_it_is_stale() -> None:
    v = {"resample_frequency": 10, "fill_gaps": True}
    out = naive.orderbook([around(5, 100.0), around(1005, 101.0), around(1011, 101.0)], [], v)
    assert [(clock - T0) / S for clock in column(out, "clock")] == [10, 20, 30, 40, 50, 60, 1010]
    assert column(out, "snapshot_count") == [1, 0, 0, 0, 0, 0, 1]
    assert column(out, "is_gap") == [False] * 6 + [True]
    slow = naive.orderbook([around(5, 100.0), around(1005, 101.0)], [], {"resample_frequency": 100})
    assert column(slow, "is_stale") == [True]


def test_gaps_of_resampled_rows_are_judged_by_the_books_own_clocks() -> None:
    rows = [around(1, 100.0), around(399, 101.0), around(801, 102.0), around(2000, 103.0)]
    out = naive.orderbook(rows, [], {"resample_frequency": 400, "max_staleness": 400})
    # grid 400 shows the book of 399 s; grid 1200 that of 801 s, 402 s later
    assert column(out, "is_gap") == [False, True]


def test_resampled_books_take_trades_up_to_the_grid_time() -> None:
    trades = [trade(0.7), trade(1, amount=2.0), trade(1.5, amount=4.0)]
    out = naive.orderbook(
        [around(0.5, 100.0), around(1.2, 101.0), around(2.1, 101.0)], trades, {"resample_frequency": 1}
    )
    assert column(out, "interval_buy_volume") == [3.0, 4.0]


# Bars


def test_a_trades_bar() -> None:
    rows = [trade(59.9, 50.0), trade(60, 100.0, 1.0), trade(70, 120.0, 2.0, "sell"), trade(80, 90.0, 3.0, None)]
    rows += [trade(119.999999, 110.0, 4.0), trade(120, 1.0), trade(130, NAN)]
    silver = naive.trades(rows, [around(60, 100.0)])
    bars = naive.bars("trades", silver, 60)
    assert [(bar["bar_start"] - T0) // S for bar in bars] == [0, 60]
    bar = bars[1]
    r = [math.log(b / a) for a, b in [(50, 100), (100, 120), (120, 90), (90, 110)]]
    average = sum(r) / 4
    squares = sum(x * x for x in r)
    want = {
        "bar_end": T0 + 120 * S,
        "bar_duration_sec": 60,
        "first_at": T0 + 60 * S,
        "last_at": T0 + 120 * S - 1,
        "is_partial": False,
        "open": 100.0,
        "high": 120.0,
        "low": 90.0,
        "close": 110.0,
        "return": 0.1,
        "log_return": math.log(1.1),
        "range": 0.3,
        "volume": 10.0,
        "dollar_volume": 100 + 240 + 270 + 440,
        "trade_count": 4,
        "buy_volume": 5.0,
        "sell_volume": 2.0,
        "vwap": 105.0,
        "trade_imbalance": 3 / 7,
        "mean_effective_spread": (0.4 + 0.2 + 0.2) / 3,  # the trade of 60 s is not after the book
        "realized_variance": squares,  # with the return from the row before the bar
        "return_variance": sum((x - average) ** 2 for x in r) / 3,
        "annualized_vol": math.sqrt(squares * 31_536_000 / 60),
        "year": 2026,
        "day": 3,
    }
    for name, value in want.items():
        assert bar[name] == pytest.approx(value, rel=1e-13), name


def test_volumes_over_nothing_are_0_and_other_aggregates_null() -> None:
    silver = naive.trades([trade(0, side=None), trade(60)], [])
    bar = naive.bars("trades", silver, 60)[0]
    assert (bar["buy_volume"], bar["sell_volume"], bar["trade_imbalance"]) == (0.0, 0.0, None)
    assert (bar["realized_variance"], bar["annualized_vol"], bar["mean_effective_spread"]) == (None, None, None)


def test_an_orderbook_bar() -> None:
    books = [book(0, [(99.0, 3.0)]), book(15, [(100.0, 1.0)], [(102.0, 3.0)]), book(30, None), book(45, [(98.0, 1.0)])]
    silver = naive.orderbook([*books, around(61, 100.0)])
    bar = naive.bars("orderbook", silver, 60)[0]
    want = {
        "open": 100.0,
        "high": 101.0,
        "low": 99.5,
        "close": 99.5,
        "mean_spread": 7 / 3,
        "min_spread": 2.0,
        "max_spread": 3.0,
        "mean_relative_spread": (2 / 100 + 2 / 101 + 3 / 99.5) / 3,
        "tw_mean_relative_spread": (15 * 2 / 100 + 30 * 2 / 101 + 15 * 3 / 99.5) / 60,
        "tw_mean_mid": (15 * 100 + 30 * 101 + 15 * 99.5) / 60,  # held to the next valid row, the last one to bar_end
        "mean_microprice": (100.5 + 100.5 + 99.5) / 3,
        "mean_micro_minus_mid": (0.5 - 0.5 + 0) / 3,
        "mean_l1_imbalance": (0.5 - 0.5 + 0) / 3,
        "mean_total_imbalance": 0.0,
        "mean_bid_depth": 5 / 3,
        "mean_ask_depth": 5 / 3,
        "sum_ofi": (1 + 1) + (-1 - 1),
        "sum_mlofi": 0.0,
        "snapshot_count": 3,
        "realized_variance": math.log(1.01) ** 2 + math.log(99.5 / 101) ** 2,
        "range": 1.5 / 100,
    }
    for name, value in want.items():
        assert bar[name] == pytest.approx(value, rel=1e-13, abs=1e-13), name
    first = naive.bars("orderbook", naive.orderbook([around(0, 100.0), around(61, 100.0)]), 60)[0]
    assert (first["sum_ofi"], first["realized_variance"]) == (None, None)


def test_a_value_holds_at_most_max_staleness() -> None:
    silver = naive.orderbook([around(0, 100.0), around(400, 200.0), around(1000, 150.0)])
    bar = naive.bars("orderbook", silver, 600)[0]
    assert bar["tw_mean_mid"] == (300 * 100 + 200 * 200) / 500


def test_a_ticker_bar() -> None:
    bars = naive.bars("ticker", naive.ticker([quote(0, 99.0, 101.0, 3.0), quote(1, 99.0, 105.0, NAN), quote(60)]), 60)
    assert len(bars) == 1
    bar = bars[0]
    assert [bar[name] for name in ("open", "high", "low", "close", "tick_count")] == [100.0, 102.0, 100.0, 102.0, 2]
    assert [bar[name] for name in ("mean_spread", "min_spread", "max_spread")] == [4.0, 2.0, 6.0]
    assert bar["mean_volume_imbalance"] == 0.5
    assert bar["log_return"] == math.log(1.02)
    assert "realized_variance" not in bar


def test_any_row_ends_a_bar_an_invalid_one_too_but_not_a_duplicate() -> None:
    assert len(naive.bars("trades", naive.trades([trade(0), trade(60, NAN)], []), 60)) == 1
    assert naive.bars("trades", naive.trades([trade(0), trade(59.999999, NAN)], []), 60) == []
    twice = [trade(0, trade_id="1", timestamp=1), trade(60, trade_id="1", timestamp=1)]
    assert naive.bars("trades", naive.trades(twice, []), 60) == []
    assert len(naive.bars("trades", naive.trades(twice, []), 60, end=T0 + 60 * S)) == 1


def test_a_time_without_valid_rows_has_no_bar_and_a_running_bar_is_partial() -> None:
    silver = naive.trades([trade(0), trade(70, NAN), trade(130)], [])
    assert [(bar["bar_start"] - T0) // S for bar in naive.bars("trades", silver, 60)] == [0]
    partial = naive.bars("trades", silver, 60, {"partial_bars": True})
    assert [((bar["bar_start"] - T0) // S, bar["is_partial"]) for bar in partial] == [(0, False), (120, True)]


def test_bars_that_do_not_divide_a_day_start_at_multiples_since_the_epoch() -> None:
    duration = 7 * 3600
    start = T0 // (duration * S) * duration * S  # before midnight
    assert start < T0
    bar = naive.bars("trades", naive.trades([trade(0), trade(8 * 3600)], []), duration)[0]
    assert (bar["bar_start"], bar["day"]) == (start, 2)


# Reading and comparing


def write(root: Path, hive: str, table: pa.Table, name: str = "a.parquet") -> None:
    folder = root / "raw/ready/ccxt/orderbook" / hive
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)


def bronze_books(clocks: list[int | None], symbol: str = "A/B") -> pa.Table:
    level = pa.list_(pa.struct([("price", pa.float64()), ("size", pa.float64())]))
    return pa.table(
        {
            "capture_ts": pa.array(clocks, pa.timestamp("us", tz="UTC")),
            "exchange": ["x"] * len(clocks),
            "symbol": [symbol] * len(clocks),
            "bids": pa.array(
                [None, [], [{"price": 1.0, "size": 2.0}, {"price": None, "size": 3.0}]][: len(clocks)], level
            ),
            "asks": pa.array([[{"price": 4.0, "size": 5.0}]] * len(clocks), level),
        }
    )


def test_reading_bronze_of_any_depth(tmp_path: Path) -> None:
    deep = "exchange=x/symbol=A-B/year=2026/month=02/day=3/hour=0"
    write(tmp_path, deep, bronze_books([T0, T0 + 1, T0 + 2]))
    write(tmp_path, "", bronze_books([T0 + 3], "A-B"), "flat.parquet")
    write(tmp_path, "exchange=x/symbol=C", bronze_books([T0 + 4], "C"))
    write(tmp_path, deep, bronze_books([T0 + 5, None]), "no_time.parquet")
    write(tmp_path, deep, bronze_books([T0 + 3600 * S]), "wrong_hour.parquet")
    (tmp_path / "raw/ready/ccxt/orderbook" / deep / "torn.parquet").write_bytes(b"PAR1")
    rows = sorted(naive.read_bronze(tmp_path, "ccxt", "orderbook", "x", "A/B"), key=lambda row: row["capture_ts"])
    assert column(rows, "capture_ts") == [T0, T0 + 1, T0 + 2, T0 + 3]
    assert column(rows, "bids") == [None, [], [(1.0, 2.0), (None, 3.0)], None]
    assert rows[0]["asks"] == [(4.0, 5.0)]
    assert rows[0]["nonce"] is None
    assert (rows[3]["segment"][:5], rows[3]["position"]) == ((2026, 2, 3, 0, b"flat.parquet"), 0)
    assert (rows[2]["year"], rows[2]["hour"], rows[2]["position"]) == (2026, 0, 2)


def test_compare_tells_what_differs() -> None:
    want = [{"a": 1.0, "b": None, "c": True, "d": 3, "e": "x", "price": NAN, "_scale": {"a": 0.0}}]
    assert naive.compare([{**want[0], "a": 1.0 + 1e-13}], want) == []
    for name, got in (
        ("a", 1.0 + 1e-11),
        ("a", None),
        ("a", NAN),
        ("b", 0.0),
        ("b", NAN),
        ("c", 1),
        ("d", 3.0),
        ("e", "y"),
    ):
        assert len(naive.compare([{**want[0], name: got}], want)) == 1, name
    assert naive.compare([{**want[0], "price": None}], want)
    assert naive.compare([], want) == ["0 rows, want 1"]
    assert naive.compare([{"a": 1.0}], want, ["a"]) == []
    assert naive.compare([{"a": 1.0}], want, ["b"]) == ["row 0, b: missing"]
    small = [{"sum": 1e-14, "_scale": {"sum": 1.0}}]
    assert naive.compare([{"sum": 0.0}], small) == []
    assert naive.compare([{"sum": 2e-12}], small)
    assert not naive.compare([{"sum": 2e-12}], small, scale={"s*": 10.0})
    assert naive.compare([{"x": INF}], [{"x": INF}])


# The two oracles


def random_times(rng: random.Random, n: int) -> list[float]:
    """Some equal, some microseconds and some minutes apart, out of order."""
    at, times = 0.0, []
    for _ in range(n):
        at += rng.choice([0, 0, 0.000001, 0.5, 3, 5, 40, 310])
        times.append(at)
    return rng.sample(times, n)


def dirty(rng: random.Random, rows: list[Row]) -> list[Row]:
    again = [dict(row) for row in rows if rng.random() < 0.1]
    return rng.sample(rows + again, len(rows) + len(again))


def random_trades(rng: random.Random, n: int) -> list[Row]:
    rows = []
    for at in random_times(rng, n):
        side = rng.choice(["buy", "sell", "BUY", "Sell", None, "?"])
        price = rng.choice([100.0, 100.1, 99.9, 61234.56, 1e-5, 100 + rng.random(), NAN, None, -1.0])
        amount = rng.choice([0.0, 1e-8, 0.1, 3.7, 1e6, rng.random(), None, INF] + [1.0] * 5)
        ids = {"trade_id": rng.choice([None, "", "1", "01", "2", "a"]), "timestamp": rng.choice([None, 1, 2])}
        rows.append(trade(at, price, amount, side, **ids))
    return dirty(rng, rows)


def random_books(rng: random.Random, n: int) -> list[Row]:
    rows = []
    for at in random_times(rng, n):
        mid = rng.choice([100.0, 101.0, 100 + rng.random()])
        depth, sizes = rng.randint(1, 22), [0.0, 1.0, 2.5, rng.random(), -1.0 if rng.random() < 0.02 else 1.0]
        bids = [(mid - 0.01 - 0.05 * i, rng.choice(sizes)) for i in range(depth)]
        asks = [(mid + 0.01 + 0.05 * i, rng.choice(sizes)) for i in range(depth)]
        rows.append(book(at, rng.choice([bids] * 20 + [None, bids[::-1]]), asks, nonce=rng.choice([None, 1, 2])))
    return dirty(rng, rows)


def random_quotes(rng: random.Random, n: int) -> list[Row]:
    rows = []
    for at in random_times(rng, n):
        bid = rng.choice([100.0, 100.1, 1e-5, 61234.56, None, NAN])
        ask = None if bid is None else bid * rng.choice([1.0001, 1.01, 1.0])
        rows.append(quote(at, bid, ask, *(rng.choice([0.0, 1.0, 2.5, rng.random(), None, NAN, -1.0]) for _ in "ba")))
    return dirty(rng, rows)


VARIANTS: list[Row] = [{}, {"clock": "event"}, {"contract_kind": "inverse", "contract_size": 10, "max_staleness": 4}]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("variables", VARIANTS)
def test_both_oracles_agree_on_dirty_data(seed: int, variables: Row) -> None:
    rng = random.Random(seed)
    trades, books, quotes = random_trades(rng, 300), random_books(rng, 60), random_quotes(rng, 300)
    slow = naive.trades(trades, books, variables)
    assert len(slow) > 150
    assert naive.compare(naive.fast.trades(trades, books, variables), slow) == []
    assert naive.compare(slow, naive.fast.trades(trades, books, variables)) == []
    assert naive.compare(naive.fast.ticker(quotes, variables), naive.ticker(quotes, variables)) == []


def test_empty_lanes_give_no_rows() -> None:
    assert naive.trades([], []) == naive.fast.trades([], []) == naive.orderbook([]) == []
    assert naive.ticker([]) == naive.fast.ticker([]) == naive.bars("ticker", [], 60) == []
    assert naive.fast.trades([trade(0, NAN)], [])[0]["is_valid"] is False


def test_every_row_has_every_column_and_no_nan() -> None:
    rng = random.Random(9)
    for variables in ({"legacy_aliases": True}, {"resample_frequency": 5, "fill_gaps": True}, {"clock": "event"}):
        out = naive.orderbook(random_books(rng, 150), random_trades(rng, 200), variables)
        names = book_columns({**naive.DEFAULTS, **variables})
        assert out
        for row in out:
            assert set(names) <= set(row)
            assert all(not isinstance(row[name], float) or math.isfinite(row[name]) for name in names)
            assert [name for name in row if name.startswith("_")] == ["_scale"]
            assert ("ofi_step" in row) is ("legacy_aliases" in variables)
