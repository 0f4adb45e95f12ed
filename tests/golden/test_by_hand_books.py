"""Order books in cases small enough to check by hand: structure, flow, windows, intervals, VPIN (SPEC 4 and 7)."""

from __future__ import annotations

import pytest

from daedalus_etl.lanes import KEYS
from tests.tables import Market, assert_rows

MARKET = Market("silver.orderbook")
SMALL = Market("silver.orderbook", vpin_bucket_volume=4e-9, vpin_window_buckets=2)
FINE = Market("silver.orderbook", bands_bps=[[0, 1], [2.5, 5], [5, 7.25]], legacy_aliases=True)


@pytest.fixture(scope="module", autouse=True)
def _run(tmp_path_factory: pytest.TempPathFactory) -> None:
    for market in (MARKET, SMALL, FINE):
        market.run(tmp_path_factory.mktemp("books"))


# -- structure -----------------------------------------------------------------------------------------------------

SHAPES = MARKET.lane("shapes", orderbook="""
    at       | bids                                        | asks
    00:00:00 | 99x1 98x2 97x3 96x4 95x5                    | 101x2 102x2 103x2 104x2 105x2
    00:00:01 | 99x1 98x1                                   | 101x3
    00:00:02 | 99x1 98x2 97x3                              | 101x1 102x1 103x1 104x1
    00:00:03 | 99x1 98x1 97x1 96x1 95x1 94x1 93x1 92x1 91x1 90x1 89x100 88x100 | 101x10
    00:00:04 | 999x1 998x1 997x1 996x1 995x1 994x1 993x1 992x1 991x1 990x1 989x1 988x1 987x1 986x1 985x1 984x1 983x1 982x1 981x1 980x1 979x1 978x1 | 1001x20
    00:00:05 | 105x0 100x-0.0 99x1 98x0 97x2 nullx0        | 50x0 101x1 102x0
""")


def test_levels_are_columns_and_those_that_a_book_does_not_have_are_null() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        bid_price_L0 | bid_size_L0 | bid_price_L4 | bid_size_L4 | bid_price_L5 | ask_price_L4 | ask_size_L4
        99           | 1           | 95           | 5           | -            | 105          | 2
        99           | 1           | -            | -           | -            | -            | -
    """)
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        best_bid | best_ask | mid_price | spread | relative_spread | bid_price_L1 | bid_price_L2 | ask_price_L1
        99       | 101      | 100       | 2      | 0.02            | 98           | 97           | 102
        99       | 101      | 100       | 2      | 0.02            | 98           | -            | -
    """)


def test_the_first_twenty_levels_are_all_levels() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[4:5], """
        bid_price_L19 | total_bid_depth | bid_reach_bps | bid_concentration | is_valid | bid_vol_band_50_100bps
        980           | 20              | 200           | 1/20              | true     | 5
    """)


def test_levels_of_size_0_are_removed_first() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[5:6], """
        is_valid | best_bid | bid_price_L1 | bid_size_L1 | bid_price_L2 | best_ask | ask_price_L1
        true     | 99       | 97           | 2           | -            | 101      | -
    """)


def test_microprice_leans_to_the_thinner_side() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        microprice            | micro_minus_mid
        (1*101 + 2*99)/3      | -1/3
        (1*101 + 3*99)/4      | -0.5
    """)


def test_imbalances_sum_the_levels_that_exist() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:4], """
        imbalance_L1 | imbalance_L3 | imbalance_L5 | imbalance_L10 | total_bid_depth | total_ask_depth | total_imbalance
        -1/3         | 0            | 5/25         | 5/25          | 15              | 10              | 5/25
        -2/4         | -1/5         | -1/5         | -1/5          | 2               | 3               | -1/5
        0            | 3/9          | 2/10         | 2/10          | 6               | 4               | 2/10
        -9/11        | -7/13        | -5/15        | 0             | 210             | 10              | 200/220
    """)


def test_vwaps_take_the_first_five_levels() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:4], """
        vwap_bid_5                            | vwap_ask_5 | vwap_spread
        (99*1+98*2+97*3+96*4+95*5)/15         | 103        | 103 - 1445/15
        98.5                                  | 101        | 2.5
        (99*1+98*2+97*3)/6                    | 102.5      | 102.5 - 586/6
        97                                    | 101        | 4
    """)


def test_smart_depth_decays_with_the_distance() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        smart_bid_depth                                        | smart_ask_depth                               | smart_depth_imbalance
        exp(-1) + 2*exp(-2) + 3*exp(-3) + 4*exp(-4) + 5*exp(-5) | 2*(exp(-1)+exp(-2)+exp(-3)+exp(-4)+exp(-5)) | -0.127377149018
        exp(-1) + exp(-2)                                      | 3*exp(-1)                                     | (exp(-2) - 2*exp(-1))/(4*exp(-1) + exp(-2))
    """)


def test_slopes_are_of_five_levels_or_of_a_regression_over_up_to_ten() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:4], """
        bid_slope | ask_slope | bid_slope_regression | ask_slope_regression | slope_asymmetry
        4/15      | 4/10      | 0.035                | 0.02                 | 1.75
        -         | -         | -                    | -                    | -
        -         | -         | 0.025                | 0.01                 | 2.5
        4/5       | -         | 0.01                 | -                    | -
    """)


def test_depth_decay_concentration_centre_of_gravity_and_spread_per_depth() -> None:
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        center_of_gravity      | cog_vs_mid | bid_depth_decay_5 | ask_depth_decay_5 | avg_depth_decay_5
        (1445 + 1030)/25       | -100       | 5                 | 1                 | 3
        (99 + 98 + 303)/5      | 0          | -                 | -                 | -
    """)
    assert_rows(SHAPES.rows("silver/orderbook")[:2], """
        bid_concentration | ask_concentration | spread_per_depth_L3 | spread_per_depth_L6
        55/225            | 1/5               | 2/12                | 2/25
        1/2               | 1                 | 2/5                 | 2/5
    """)


BANDS = MARKET.lane("bands", orderbook="""
    at       | bids                                                   | asks
    00:00:00 | 9999x1 9996x2 9995x4 9990x8 9975x16 9950x32 9900x64    | 10001x1 10005x2 10040x4
    00:00:01 | 9999x1 9996x2 9995x4 9990x8 9975x16 9950x32 9900x64    | 10001x1 10005x2 10050x4
    00:00:02 | 9999x1 9995x2                                          | 10001x4
    00:00:03 | 9900x1 9800x2                                          | 10100x4
    00:00:04 | 9994x1 9950x2                                          | 10006x4 10050x1
""")


def test_bands_hold_the_size_at_a_distance_and_are_null_beyond_what_is_seen() -> None:
    assert_rows(BANDS.rows("silver/orderbook"), """
        bid_vol_band_0_5bps | bid_vol_band_5_10bps | bid_vol_band_10_25bps | bid_vol_band_25_50bps | bid_vol_band_50_100bps | bid_reach_bps
        3                   | 4                    | 8                     | 16                    | 32                     | 100
        3                   | 4                    | 8                     | 16                    | 32                     | 100
        1                   | -                    | -                     | -                     | -                      | 5
        0                   | 0                    | 0                     | 0                     | 0                      | 200
        0                   | 1                    | 0                     | 0                     | -                      | 50
    """)
    assert_rows(BANDS.rows("silver/orderbook"), """
        ask_vol_band_0_5bps | ask_vol_band_5_10bps | ask_vol_band_10_25bps | ask_vol_band_25_50bps | ask_vol_band_50_100bps | ask_reach_bps
        1                   | 2                    | 0                     | 4                     | -                      | 40
        1                   | 2                    | 0                     | 0                     | -                      | 50
        4                   | -                    | -                     | -                     | -                      | 1
        0                   | 0                    | 0                     | 0                     | 0                      | 100
        0                   | 4                    | 0                     | 0                     | -                      | 50
    """)


def test_imbalances_of_bands_need_both_sides_and_some_size() -> None:
    assert_rows(BANDS.rows("silver/orderbook"), """
        imb_band_0_5bps | imb_band_5_10bps | imb_band_10_25bps | imb_band_25_50bps | imb_band_50_100bps
        2/4             | 2/6              | 1                 | 12/20             | -
        2/4             | 2/6              | 1                 | 1                 | -
        -3/5            | -                | -                 | -                 | -
        -               | -                | -                 | -                 | -
        -               | -3/5             | -                 | -                 | -
    """)


FRACTIONS = FINE.lane("fractions", orderbook="""
    at       | bids                                       | asks
    00:00:00 | 9999x1 9997.5x2 9995.5x4 9995x8 9992x16   | 10001x1 10002.5x2 10005x4
    00:00:01 | 9999.5x1 9997.5x2                          | 10000.5x1 10007.5x2  10008x4
""")


def test_the_edges_of_bands_may_have_fractions() -> None:
    assert_rows(FRACTIONS.rows("silver/orderbook"), """
        bid_vol_band_0_1bps | bid_vol_band_2.5_5bps | bid_vol_band_5_7.25bps | ask_vol_band_2.5_5bps | ask_vol_band_5_7.25bps | imb_band_2.5_5bps
        0                   | 2 + 4                 | 8                      | 2                     | -                      | 4/8
        1                   | -                     | -                      | 0                     | 0                      | -
    """)


def test_convexity_is_null_unless_both_sides_reach_50_bps() -> None:
    assert_rows(BANDS.rows("silver/orderbook"), """
        book_convexity
        -
        4/34
        -
        -
        0
    """)


# -- validity ------------------------------------------------------------------------------------------------------

BAD = MARKET.lane("bad", orderbook="""
    at       | bids              | asks
    00:00:00 | 99x1              | 101x1
    00:00:01 | -                 | 101x1
    00:00:02 | 99x1              | -
    00:00:03 | []                | 101x1
    00:00:04 | 99x1              | []
    00:00:05 | 99x0              | 101x1         # empty once zero sizes are gone
    00:00:06 | nanx1             | 101x1
    00:00:07 | 99x1              | infx1
    00:00:08 | 0x1               | 101x1
    00:00:09 | 99x1 -1x1         | 101x1
    00:00:10 | nullx1            | 101x1
    00:00:11 | 99xnan            | 101x1
    00:00:12 | 99x1              | 101xinf
    00:00:13 | 99x-1             | 101x1
    00:00:14 | 99xnull           | 101x1
    00:00:15 | 98x1 99x1         | 101x1         # not from best to worst
    00:00:16 | 99x1 99x1         | 101x1         # not strictly
    00:00:17 | 99x1              | 102x1 101x1
    00:00:18 | 99x1              | 101x1 101x1
    00:00:19 | 102x1             | 101x1         # crossed
    00:00:20 | 101x1             | 101x1         # locked
    00:00:21 | 99x1 98x1 97x1 98x1 | 101x1
    00:00:22 | 59x1 58x1 57x1 56x1 55x1 54x1 53x1 52x1 51x1 50x1 49x1 48x1 47x1 46x1 45x1 44x1 43x1 42x1 41x1 40x1 39x1 40x1 | 61x1
    00:00:30 | 99x4              | 101x1
""")


def test_an_invalid_book_stays_without_features_and_touches_no_state() -> None:
    rows = BAD.rows("silver/orderbook")
    assert [row["is_valid"] for row in rows] == [True] + [False] * 22 + [True]
    copies = {*KEYS, "source_symbol", "collected_at", "capture_ts", "clock_ts", "lane_order", "is_valid"}
    for row in rows[1:-1]:
        assert {name for name, value in row.items() if value is not None} == copies
    assert_rows([rows[0], rows[-1]], """
        dt_prev_ms | is_gap | ofi | log_return | ofi_sum_60s
        -          | false  | -   | -          | -
        30000      | false  | 3   | 0          | 3
    """)


# -- neighbours ----------------------------------------------------------------------------------------------------

GAPS = MARKET.lane("gaps", orderbook="""
    at              | nonce | bids  | asks
    00:00:00        | 1     | 99x1  | 101x1
    00:00:10        | 2     | 99x2  | 101x1
    00:00:20        | 3     | 100x5 | 102x3
    00:05:20        | 4     | 100x5 | 102x3  # exactly max_staleness
    00:10:20.000001 | 5     | 100x5 | 102x3  # a gap
    00:10:30        | 6     | 100x5 | 102x3
    00:10:40        | 7     | 100x5 | 102x3
    00:10:40        | 8     | 101x5 | 103x3
    00:10:50        | 9     | 101x5 | 103x3
    00:11:00        | 10    | 99x5  | 101x3
""")


def test_after_a_gap_nothing_is_compared_and_acceleration_waits_one_more_row() -> None:
    assert_rows(GAPS.rows("silver/orderbook"), """
        clock_ts        | dt_prev_ms | is_gap | ofi | mlofi | log_return   | mid_velocity     | mid_accel
        00:00:00        | -          | false  | -   | -     | -            | -                | -
        00:00:10        | 10000      | false  | 1   | 1     | 0            | 0                | -
        00:00:20        | 10000      | false  | 6   | 6     | ln(1.01)     | 0.1              | 0.01
        00:05:20        | 300000     | false  | 0   | 0     | 0            | 0                | -0.1/155
        00:10:20.000001 | 300000.001 | true   | -   | -     | -            | -                | -
        00:10:30        | 9999.999   | false  | 0   | 0     | 0            | 0                | -
        00:10:40        | 10000      | false  | 0   | 0     | 0            | 0                | 0
        00:10:40        | 0          | false  | 8   | 8     | ln(102/101)  | -                | -
        00:10:50        | 10000      | false  | 0   | 0     | 0            | 0                | -
        00:11:00        | 10000      | false  | -8  | -8    | -ln(1.02)    | -0.2             | -0.02
    """)


def test_windows_over_nothing_but_a_gap_are_null() -> None:
    assert_rows(GAPS.rows("silver/orderbook")[3:6], """
        ofi_sum_60s | mlofi_sum_60s | realized_vol_60s | return_std_60s | mean_return_60s | mean_relative_spread_60s
        0           | 0             | 0                | -              | 0               | 2/101
        -           | -             | -                | -              | -               | 2/101
        0           | 0             | 0                | -              | 0               | 2/101
    """)


FLOW = MARKET.lane("flow", orderbook="""
    at       | bids        | asks
    00:00:00 | 99x10 98x20 | 101x30 102x40
    00:00:01 | 99x12 97x5  | 101x25 103x7   # L0: +2 and -5; L1: fell, rose
    00:00:02 | 100x3       | 100.5x4        # L0: rose, fell; L1: missing now
    00:00:03 | 98x1 97x1   | 103x2          # L0: fell, rose; L1: missing before
    00:00:04 | 98x1 97x4   | 103x2 104x9    # L1: bid +3; ask missing before
""")


def test_ofi_takes_each_side_that_rose_stayed_or_fell() -> None:
    assert_rows(FLOW.rows("silver/orderbook"), """
        ofi          | mlofi                    | ofi_sum_5s | mlofi_sum_5s
        -            | -                        | -          | -
        2 - -5       | 7 + (-20 + 40)*exp(-0.5) | 7          | 7 + 20*exp(-0.5)
        3 - 4        | -1                       | 6          | 6 + 20*exp(-0.5)
        -3 - -4      | 1                        | 7          | 7 + 20*exp(-0.5)
        0            | 3*0.6065306597126        | 7          | 7 + 23*exp(-0.5)
    """)


ROLLING = MARKET.lane("rolling", orderbook="""
    at       | nonce | bids         | asks
    00:00:00 | 1     | 99x1         | 101x1
    00:00:01 | 2     | 100x1        | 102x1
    00:00:05 | 3     | 99x1         | 101x1
    00:00:06 | 4     | 99x1         | 101x1
    00:00:06 | 5     | 100x1        | 102x1
    00:59:59 | 6     | 99x1         | 101x1
    01:00:00 | 7     | 100x1        | 102x1   # the windows and the neighbour reach over the hour's edge
""", trades="""
    at              | price | amount | side
    00:59:59.500000 | 100   | 2      | buy
    01:00:00        | 100   | 1      | sell
""")  # fmt: skip


def test_windows_of_books_end_with_the_row_itself() -> None:
    assert_rows(ROLLING.rows("silver/orderbook")[:5], """
        clock_ts | realized_vol_5s       | return_std_5s         | mean_return_5s | mean_relative_spread_5s
        00:00:00 | -                     | -                     | -              | 0.02
        00:00:01 | ln(1.01)              | -                     | ln(1.01)       | (0.02 + 2/101)/2
        00:00:05 | sqrt(2)*ln(1.01)      | sqrt(2)*ln(1.01)      | 0              | (0.02 + 2/101)/2
        00:00:06 | ln(1.01)              | ln(1.01)/sqrt(2)      | -ln(1.01)/2    | 0.02
        00:00:06 | sqrt(2)*ln(1.01)      | ln(1.01)              | 0              | (0.04 + 2/101)/3
    """)


def test_an_hour_goes_on_where_the_one_before_ended() -> None:
    assert_rows(ROLLING.rows("silver/orderbook")[5:], """
        clock_ts | dt_prev_ms | is_gap | log_return | ofi_sum_5s | interval_buy_volume | interval_sell_volume
        00:59:59 | 3593000    | true   | -          | -          | -                   | -
        01:00:00 | 1000       | false  | ln(1.01)   | 2          | 2                   | 1
    """)


# -- trades between books ------------------------------------------------------------------------------------------

INTERVALS = MARKET.lane("intervals", orderbook="""
    at       | nonce | bids  | asks
    00:00:10 | 1     | 99x1  | 101x1
    00:00:20 | 2     | 99x1  | 101x1
    00:00:30 | 3     | 102x1 | 101x1  # crossed
    00:00:40 | 4     | 99x1  | 101x1
    00:00:40 | 5     | 99x1  | 101x1
    00:00:50 | 6     | 99x1  | 101x1
    00:10:00 | 7     | 99x1  | 101x1  # after a gap
""", trades="""
    at       | price | amount | side
    00:00:15 | 100   | 3      | buy
    00:00:20 | 100   | 1      | sell   # at equal clocks the trade is first
    00:00:25 | 100   | 2      | buy
    00:00:35 | 100   | 7      | -
    00:00:36 | 0     | 9      | buy    # invalid
    00:00:45 | 100   | 1      | buy
    00:06:00 | 100   | 5      | sell
    00:11:00 | 100   | 5      | sell   # no book after it
""")  # fmt: skip


def test_each_trade_counts_at_the_first_valid_book_at_or_after_it() -> None:
    assert_rows(INTERVALS.rows("silver/orderbook"), """
        clock_ts | interval_buy_volume | interval_sell_volume | interval_trade_count
        00:00:10 | -                   | -                    | -
        00:00:20 | 3                   | 1                    | 2
        00:00:30 | -                   | -                    | -
        00:00:40 | 2                   | 0                    | 2
        00:00:40 | 0                   | 0                    | 0
        00:00:50 | 1                   | 0                    | 1
        00:10:00 | 0                   | 5                    | 1
    """)


def test_trade_flow_looks_at_the_trades_own_clock() -> None:
    assert_rows(INTERVALS.rows("silver/orderbook"), """
        clock_ts | tfi_5s | trade_vol_5s | tfi_15s | trade_vol_15s | tfi_60s | trade_vol_60s | tfi_300s
        00:00:10 | -      | -            | -       | -             | -       | -             | -
        00:00:20 | -1     | 1            | 2/4     | 4             | 2/4     | 4             | 2/4
        00:00:30 | -      | -            | -       | -             | -       | -             | -
        00:00:40 | -      | 0            | -       | 0             | 4/6     | 6             | 4/6
        00:00:40 | -      | 0            | -       | 0             | 4/6     | 6             | 4/6
        00:00:50 | -      | 0            | 1       | 1             | 5/7     | 7             | 5/7
        00:10:00 | -      | 0            | -       | 0             | -       | 0             | -1
    """)


def test_before_the_first_trade_of_a_lane_its_flow_is_null_and_then_0() -> None:
    assert_rows(INTERVALS.rows("silver/orderbook")[:2], """
        vpin | kyle_lambda | tfi_60s | trade_vol_60s
        -    | -           | -       | -
        1    | -           | 0.5     | 4
    """)


# -- spread regimes ------------------------------------------------------------------------------------------------

SPREADS = MARKET.lane("spreads", orderbook="""
    at       | bids          | asks
    00:00:00 | 99x1          | 101x1
    00:00:10 | 98x1          | 102x1
    00:00:20 | 99.5x1        | 100.5x1
    00:00:30 | 97x1          | 103x1
    00:00:40 | 96x1          | 104x1
    00:00:50 | 99x1          | 101x1
    00:05:40 | 96x1          | 104x1
    00:05:45 | 99.5x1        | 100.5x1
    00:10:46 | 99x1          | 101x1          # after a gap
    00:10:56 | 98x1          | 102x1
    00:11:06 | 98.99999998x1 | 101.00000002x1 # 4e-8 wider than 2, less than 1e-9 of the mid
    00:11:16 | 98.9999999x1  | 101.0000001x1  # 2e-7 wider
""")


def test_spread_percentile_is_the_share_of_smaller_spreads_in_the_window() -> None:
    assert_rows(SPREADS.rows("silver/orderbook"), """
        clock_ts | spread_percentile | spread_regime
        00:00:00 | 0                 | tight
        00:00:10 | 1/2               | normal
        00:00:20 | 0                 | tight
        00:00:30 | 3/4               | normal
        00:00:40 | 4/5               | wide
        00:00:50 | 1/6               | tight
        00:05:40 | 1/2               | normal
        00:05:45 | 0                 | tight
        00:10:46 | 0                 | tight
        00:10:56 | 1/2               | normal
        00:11:06 | 0                 | tight
        00:11:16 | 2/4               | normal
    """)


def test_regimes_hold_from_book_to_book_and_are_cut_at_the_windows_edge() -> None:
    assert_rows(SPREADS.rows("silver/orderbook")[:10], """
        clock_ts | spread_regime_tight_frac | spread_regime_wide_frac
        00:00:00 | -                        | -
        00:00:10 | 1                        | 0
        00:00:20 | 10/20                    | 0
        00:00:30 | 20/30                    | 0
        00:00:40 | 20/40                    | 0
        00:00:50 | 20/50                    | 10/50
        00:05:40 | 290/300                  | 10/300
        00:05:45 | 290/300                  | 5/300
        00:10:46 | -                        | -           # the gap is no time
        00:10:56 | 1                        | 0
    """)


# -- regressions ---------------------------------------------------------------------------------------------------

IMPACT = MARKET.lane("impact", orderbook="""
    at       | bids  | asks
    00:00:00 | 99x1  | 101x1
    00:00:10 | 100x5 | 102x5   # x = ln(1.01),  y = 2,  ofi = 6
    00:00:20 | 99x1  | 101x1   # x = -ln(1.01), y = -1, ofi = -6
    00:00:30 | 99x1  | 101x1   # x = 0,         y = 0,  ofi = 0
    00:10:00 | 99x1  | 101x1   # gap: no pair
    00:10:10 | 99x1  | 101x1
    00:10:20 | 99x1  | 101x1
    00:10:30 | 99x1  | 101x1
    00:20:00 | 99x1  | 101x1   # gap
    00:20:10 | 100x1 | 102x1
    00:20:20 | 99x1  | 101x1
    00:20:30 | 100x1 | 102x1
    00:30:00 | 99x1  | 101x1   # gap
    00:30:10 | 100x1 | 102x1
    00:30:20 | 99x1  | 101x1
    00:30:30 | 99x1  | 101x1
""", trades="""
    at       | price | amount | side
    00:00:01 | 100   | 2      | buy
    00:00:11 | 100   | 1      | sell
    00:10:01 | 100   | 1      | buy
    00:10:11 | 100   | 2      | buy
    00:10:21 | 100   | 3      | buy
    00:20:01 | 100   | 1      | buy
    00:20:11 | 100   | 1      | buy
    00:20:21 | 100   | 1      | buy
    00:30:01 | 100   | 0.1    | buy
    00:30:02 | 100   | 0.2    | buy
    00:30:03 | 100   | 0.3    | sell
""")  # fmt: skip


def test_kyle_lambda_regresses_returns_on_net_volume() -> None:
    assert_rows(IMPACT.rows("silver/orderbook")[:4], """
        kyle_lambda     | kyle_lambda_r2 | ofi_beta    | ofi_beta_r2 | ofi | interval_trade_count
        -               | -              | -           | -           | -   | -
        -               | -              | -           | -           | 6   | 1
        -               | -              | -           | -           | -6  | 1
        9*ln(1.01)/14   | 27/28          | ln(1.01)/6  | 1           | 0   | 0
    """)


def test_no_return_at_all_is_a_lambda_of_0_without_r2() -> None:
    assert_rows(IMPACT.rows("silver/orderbook")[4:8], """
        kyle_lambda | kyle_lambda_r2 | ofi_beta | ofi_beta_r2
        -           | -              | -        | -
        -           | -              | -        | -
        -           | -              | -        | -
        0           | -              | -        | -
    """)


def test_the_same_net_volume_throughout_is_no_regression() -> None:
    assert_rows(IMPACT.rows("silver/orderbook")[11:12], """
        interval_buy_volume | kyle_lambda | kyle_lambda_r2 | ofi_beta   | ofi_beta_r2
        1                   | -           | -              | ln(1.01)/2 | 1
    """)


def test_net_volume_that_is_only_rounding_counts_as_0() -> None:
    assert_rows(IMPACT.rows("silver/orderbook")[13:16], """
        interval_buy_volume | interval_sell_volume | kyle_lambda | kyle_lambda_r2
        0.3                 | 0.3                  | -           | -
        0                   | 0                    | -           | -
        0                   | 0                    | -           | -
    """)


# -- slow windows --------------------------------------------------------------------------------------------------

SLOW = MARKET.lane("slow", orderbook="""
    at       | bids                    | asks
    00:00:00 | 9999x1 9998x1 9997x1    | 10001x1 10002x1 10003x1
    00:00:30 | 9999x2 9998x2 9997x2    | 10001x1 10002x1 10003x1
    00:00:40 | 9999x2                  | 10001x2
    00:01:00 | 9999x3 9998x3 9997x3    | 10001x4 10002x4 10003x4
    00:05:00 | 9999x1                  | 10001x1
""")


def test_slow_windows_of_slopes_gravity_and_depth() -> None:
    # slopes are the sizes (one level a bps); depth within 5 bps is 6, 9, 4, 21, 2
    assert_rows(SLOW.rows("silver/orderbook"), """
        bid_slope_mean_60s | bid_slope_std_60s | ask_slope_mean_60s | ask_slope_std_60s | depth_0_5bps_sigma
        1                  | -                 | 1                  | -                 | -
        1.5                | sqrt(0.5)         | 1                  | 0                 | sqrt(4.5)
        1.5                | sqrt(0.5)         | 1                  | 0                 | sqrt(57/9)
        2.5                | sqrt(0.5)         | 2.5                | sqrt(4.5)         | sqrt(174/3)
        -                  | -                 | -                  | -                 | sqrt(218/3)
    """)
    assert_rows(SLOW.rows("silver/orderbook"), """
        cog_vs_mid | cog_momentum_mean_60s | cog_momentum_std_60s
        0          | 0                     | -
        -6/9       | -1/3                  | sqrt(2)/3
        0          | -2/9                  | sqrt(4/27)
        6/21       | -8/63                 | sqrt(316/1323)
        0          | 0                     | -
    """)


# -- VPIN ----------------------------------------------------------------------------------------------------------

VOLUME = MARKET.lane("volume", orderbook="""
    at              | bids | asks
    00:00:01.500000 | 99x1 | 101x1
    00:00:02.500000 | 99x1 | 101x1
    00:00:03.500000 | 99x1 | 101x1
    00:00:04.500000 | 99x1 | 101x1
    00:00:05.500000 | 99x1 | 101x1
    00:00:06.500000 | 99x1 | 101x1
    00:00:08        | 99x1 | 101x1
""", trades="""
    at       | trade_id | price | amount | side
    00:00:01 | 1        | 100   | 0.6    | buy
    00:00:02 | 2        | 100   | 0.9    | sell   # fills 0.4 of the first bucket: |0.6 - 0.4|
    00:00:03 | 3        | 100   | 2.5    | buy    # 0.5 to the second: 0; two full ones
    00:00:04 | 4        | 100   | 1      | -      # no price has changed yet: half and half
    00:00:05 | 5        | 101   | 1      | -      # up, its own change included: a buy
    00:00:06 | 6        | 101   | 0.5    | -      # unchanged: the last change, a buy
    00:00:06 | 7        | 100.5 | 0.5    | -      # down: a sell
    00:00:07 | 8        | 102   | 0.25   | sell
    00:00:07 | 9        | 102   | 0.5    | -      # the last change counts whatever that trade's side was
    00:00:08 | 10       | 101   | 0.25   | buy
""")  # fmt: skip


def test_vpin_splits_trades_over_buckets_and_signs_unknown_sides_by_the_tick_rule() -> None:
    assert_rows(VOLUME.rows("silver/orderbook"), """
        clock_ts   | vpin
        00:00:01.5 | -
        00:00:02.5 | 0.2
        00:00:03.5 | (0.2 + 0 + 1 + 1)/4
        00:00:04.5 | (2.2 + 0)/5
        00:00:05.5 | (2.2 + 1)/6
        00:00:06.5 | (3.2 + 0)/7
        00:00:08   | (3.2 + 0.5)/8
    """)


UNITS = SMALL.lane("units", orderbook="""
    at       | bids | asks
    00:00:02 | 99x1 | 101x1
    00:00:03 | 99x1 | 101x1
    00:00:05 | 99x1 | 101x1
""", trades="""
    at              | price | amount | side
    00:00:01        | 100   | 2.5e-9 | buy    # 2 units of 1e-9: half to even
    00:00:02        | 100   | 2.5e-9 | buy
    00:00:03        | 100   | 4e-9   | sell
    00:00:04        | 100   | 3e-9   | buy
    00:00:05        | 100   | 1e-9   | sell
""")  # fmt: skip


def test_volume_is_counted_in_whole_units_half_to_even_over_the_last_buckets() -> None:
    assert_rows(UNITS.rows("silver/orderbook"), """
        vpin
        1
        1
        (1 + 0.5)/2   # the first of three is forgotten
    """)
