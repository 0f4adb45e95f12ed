"""Bars and resampling in cases small enough to check by hand (SPEC 8 and 9)."""

from __future__ import annotations

import pytest

from tests.tables import Market, assert_rows

MARKET = Market(bar_durations=[60])
ODD = Market(bar_durations=[420, 900])  # 420 s do not divide a day
RUNNING = Market(bar_durations=[60], partial_bars=True)
GRID = Market("silver.orderbook", resample_frequency=10, resample_max_staleness=5, max_staleness=35)
FILLED = Market("silver.orderbook", resample_frequency=10, resample_max_staleness=25, fill_gaps=True)


@pytest.fixture(scope="module", autouse=True)
def _run(tmp_path_factory: pytest.TempPathFactory) -> None:
    for market in (MARKET, ODD, RUNNING, GRID, FILLED):
        market.run(tmp_path_factory.mktemp("bars"))


# -- trades --------------------------------------------------------------------------------------------------------

PATH = MARKET.lane("path", trades="""
    at              | price | amount | side
    00:00:10        | 100   | 1      | buy
    00:00:20        | 110   | 2      | sell
    00:00:59.999999 | 99    | 1      | -
    00:01:00        | 98    | 1      | buy
    00:03:00.500000 | 49    | 3      | -
    00:04:00        | 0     | 1      | buy    # invalid, and yet proof that the bar before is over
""")


def test_a_trade_on_the_boundary_opens_the_next_bar_and_a_quiet_time_has_none() -> None:
    assert_rows(PATH.rows("gold/trades_bars/60s"), """
        bar_start | bar_end  | first_at        | last_at         | open | high | low | close | trade_count
        00:00:00  | 00:01:00 | 00:00:10        | 00:00:59.999999 | 100  | 110  | 99  | 99    | 3
        00:01:00  | 00:02:00 | 00:01:00        | 00:01:00        | 98   | 98   | 98  | 98    | 1
        00:03:00  | 00:04:00 | 00:03:00.500000 | 00:03:00.500000 | 49   | 49   | 49  | 49    | 1
    """)


def test_bars_of_trades_sum_volume_by_side() -> None:
    assert_rows(PATH.rows("gold/trades_bars/60s"), """
        volume | dollar_volume | buy_volume | sell_volume | vwap  | trade_imbalance | mean_effective_spread
        4      | 419           | 1          | 2           | 419/4 | -1/3            | -
        1      | 98            | 1          | 0           | 98    | 1               | -
        3      | 147           | 0          | 0           | 49    | -               | -
    """)


def test_the_variance_of_a_bar_reaches_back_to_the_row_before_it() -> None:
    assert_rows(PATH.rows("gold/trades_bars/60s"), """
        return | log_return | range | realized_variance         | return_variance          | annualized_vol
        -0.01  | ln(0.99)   | 0.11  | ln(1.1)**2 + ln(0.9)**2   | (ln(1.1) - ln(0.9))**2/2 | sqrt((ln(1.1)**2 + ln(0.9)**2)*31536000/60)
        0      | 0          | 0     | ln(98/99)**2              | -                        | sqrt(ln(98/99)**2*31536000/60)
        0      | 0          | 0     | ln(0.5)**2                | -                        | sqrt(ln(0.5)**2*31536000/60)
    """)


UNFINISHED = MARKET.lane("unfinished", trades="""
    at              | price | amount
    00:00:10        | 100   | 1
    00:01:59.999999 | 101   | 1
""")
ON_THE_EDGE = MARKET.lane("on-the-edge", trades="""
    at       | price | amount
    00:00:10 | 100   | 1
    00:02:00 | 101   | 1
""")


def test_a_bar_is_written_once_a_row_has_a_clock_at_its_end() -> None:
    assert [row["open"] for row in UNFINISHED.rows("gold/trades_bars/60s")] == [100]
    assert [row["open"] for row in ON_THE_EDGE.rows("gold/trades_bars/60s")] == [100]


LAST_AGAIN = MARKET.lane("last-again", trades="""
    at       | timestamp | trade_id | price | amount
    00:00:59 | 00:00:59  | 7        | 100   | 1
    00:01:05 | 00:00:59  | 7        | 100   | 1   # the same trade by another connection
""")


def test_a_duplicate_ends_no_bar() -> None:
    assert [row["trade_id"] for row in LAST_AGAIN.rows("silver/trades")] == ["7"]
    assert LAST_AGAIN.rows("gold/trades_bars/60s") == []


LATE_PROOF = MARKET.lane("late-proof", trades="""
    at       | price | amount
    00:59:30 | 100   | 1
    01:00:00 | 101   | 1
""")


def test_the_next_hour_ends_the_last_bar_of_this_one() -> None:
    assert_rows(LATE_PROOF.rows("gold/trades_bars/60s"), """
        bar_start | close
        00:59:00  | 100
    """)


RUN = RUNNING.lane("running", trades="""
    at       | price | amount
    00:00:10 | 100   | 1
    00:01:30 | 101   | 1
    00:01:40 | 102   | 1
""")


def test_partial_bars_are_written_marked() -> None:
    assert_rows(RUN.rows("gold/trades_bars/60s"), """
        bar_start | bar_end  | close | trade_count | is_partial
        00:00:00  | 00:01:00 | 100   | 1           | false
        00:01:00  | 00:02:00 | 102   | 2           | true
    """)


OLD = MARKET.lane("old", trades="""
    at                  | price | amount
    1969-12-31 23:58:30 | 100   | 1
    1969-12-31 23:59:30 | 101   | 2
    1970-01-01 00:00:30 | 102   | 4
    1970-01-01 00:01:00 | 103   | 8
""")


def test_bars_before_the_epoch_begin_at_multiples_of_the_duration_too() -> None:
    assert_rows(OLD.rows("gold/trades_bars/60s"), """
        bar_start           | open | volume | day
        1969-12-31 23:58:00 | 100  | 1      | 31
        1969-12-31 23:59:00 | 101  | 2      | 31
        1970-01-01 00:00:00 | 102  | 4      | 1
    """)


NIGHT = ODD.lane("night", trades="""
    at                  | price | amount
    2026-02-02 23:55:59 | 90    | 1
    2026-02-02 23:58:00 | 100   | 1
    2026-02-03 00:01:00 | 104   | 2
    2026-02-03 00:02:59 | 102   | 1
    2026-02-03 00:03:00 | 110   | 1
    2026-02-03 00:10:00 | 120   | 1
""")


def test_a_bar_across_midnight_belongs_to_the_day_of_its_start() -> None:
    # 2026-02-03 00:00 is 1770076800 = 4214468 * 420 + 240: bars begin 4 minutes before midnight and 3 after it
    assert_rows(NIGHT.rows("gold/trades_bars/420s"), """
        year | month | day | bar_start           | bar_end  | open | high | low | close | volume | trade_count
        2026 | 2     | 2   | 2026-02-02 23:49:00 | 2026-02-02 23:56:00 | 90  | 90  | 90  | 90  | 1 | 1
        2026 | 2     | 2   | 2026-02-02 23:56:00 | 00:03:00 | 100  | 104  | 100 | 102   | 4      | 3
        2026 | 2     | 3   | 00:03:00            | 00:10:00 | 110  | 110  | 110 | 110   | 1      | 1
    """)
    folder = ODD.data / "processed/gold/trades_bars/420s/exchange=kraken/symbol=night"
    days = {str(path.parent.relative_to(folder)) for path in folder.rglob("*.parquet")}
    assert days == {"year=2026/month=2/day=2", "year=2026/month=2/day=3"}


# -- order books ---------------------------------------------------------------------------------------------------

BOOKS = MARKET.lane("books", orderbook="""
    at       | bids       | asks
    00:00:00 | 99x3       | 101x1        # mid 100, spread 2, microprice 100.5
    00:00:10 | 101x1 99x2 | 103x1 104x1  # mid 102, spread 2
    00:00:40 | 102x1      | 101x1        # crossed: the value before it goes on
    00:00:50 | 99x1       | 103x3        # mid 101, spread 4, microprice 100
    00:01:00 | 99x1       | 101x1
""")


def test_bars_of_books_hold_the_path_of_the_mid_and_mean_spreads() -> None:
    assert_rows(BOOKS.rows("gold/orderbook_bars/60s"), """
        bar_start | open | high | low | close | snapshot_count | mean_spread | min_spread | max_spread | mean_relative_spread
        00:00:00  | 100  | 102  | 100 | 101   | 3              | 8/3         | 2          | 4          | (2/100 + 2/102 + 4/101)/3
    """)
    assert_rows(BOOKS.rows("gold/orderbook_bars/60s"), """
        return | log_return | range | realized_variance               | return_variance
        0.01   | ln(1.01)   | 0.02  | ln(1.02)**2 + ln(101/102)**2    | (ln(1.02) - ln(101/102))**2/2
    """)


def test_time_weighted_means_hold_a_value_to_the_next_valid_row_or_the_bars_end() -> None:
    assert_rows(BOOKS.rows("gold/orderbook_bars/60s"), """
        tw_mean_mid                       | tw_mean_relative_spread
        (100*10 + 102*40 + 101*10)/60     | (0.02*10 + 2/102*40 + 4/101*10)/60
    """)


LAST_VALID = MARKET.lane("last-valid", orderbook="""
    at       | bids  | asks
    00:00:10 | 99x1  | 101x1
    00:00:40 | 101x1 | 103x1
    00:01:00 | 102x1 | 101x1   # crossed, and yet proof that the bar before is over
""")


def test_the_lanes_last_valid_row_holds_to_the_bars_end() -> None:
    assert_rows(LAST_VALID.rows("gold/orderbook_bars/60s"), """
        bar_start | tw_mean_mid             | tw_mean_relative_spread
        00:00:00  | (100*30 + 102*20)/50    | (0.02*30 + 2/102*20)/50
    """)


def test_bars_of_books_average_depth_and_sum_flow() -> None:
    # ofi: bid rose +1, ask rose -1: 2; then bid fell -1, ask unchanged +2: -3. The second level is in one book only
    assert_rows(BOOKS.rows("gold/orderbook_bars/60s"), """
        mean_microprice       | mean_micro_minus_mid | mean_l1_imbalance   | mean_bid_depth | mean_ask_depth | sum_ofi | sum_mlofi
        (100.5 + 102 + 100)/3 | (0.5 + 0 - 1)/3      | (0.5 + 0 - 0.5)/3   | (3 + 3 + 1)/3  | (1 + 2 + 3)/3  | -1      | -1
    """)
    assert_rows(BOOKS.rows("gold/orderbook_bars/60s"), """
        mean_total_imbalance    | mean_smart_depth_imbalance
        (0.5 + 0.2 - 0.5)/3     | (0.5 + -0.035257795724 - 0.5)/3
    """)


HELD = ODD.lane("held", orderbook="""
    at       | bids  | asks
    00:00:00 | 99x1  | 101x1
    00:10:00 | 101x1 | 103x1
    00:15:00 | 99x1  | 101x1
    00:29:00 | 99x1  | 101x1
    00:30:00 | 99x1  | 101x1
""")


def test_a_value_holds_no_longer_than_max_staleness() -> None:
    assert_rows(HELD.rows("gold/orderbook_bars/900s"), """
        bar_start | tw_mean_mid             | sum_ofi | realized_variance | return_variance
        00:00:00  | (100*300 + 102*300)/600 | -       | -                 | -
        00:15:00  | 100                     | -2      | ln(100/102)**2    | -
    """)


STEPS = ODD.lane("steps", trades="""
    at              | price       | amount | side
    00:00:01        | 100         | 1      | buy
    00:00:02        | 100*exp(1)  | 2      | sell
    00:00:03        | 100*exp(3)  | 1      | buy
    00:02:00        | 100*exp(7)  | 4      | -
    00:14:59.999999 | 100*exp(6)  | 1      | sell
    00:15:00        | 100*exp(6)  | 1      | sell
""")


def test_the_variance_of_a_bar_is_that_of_all_its_rows_whatever_minutes_they_lie_in() -> None:
    # log returns 1, 2, 4 and -1: mean 1.5
    assert_rows(STEPS.rows("gold/trades_bars/900s"), """
        bar_start | realized_variance | return_variance                  | trade_count | volume | buy_volume | sell_volume
        00:00:00  | 1 + 4 + 16 + 1    | (0.25 + 0.25 + 6.25 + 6.25)/3    | 5           | 9      | 2          | 3
    """)


# -- resampling ----------------------------------------------------------------------------------------------------

SNAPSHOTS = """
    at              | bids  | asks
    00:00:03        | 99x1  | 101x1
    00:00:10        | 100x1 | 102x1
    00:00:10.500000 | 101x1 | 103x1
    00:00:14        | 110x1 | 103x1   # crossed
    00:00:47        | 99x1  | 101x1
    00:00:50        | 102x1 | 104x1
    00:01:00        | 103x1 | 105x1
"""
TRADED = """
    at       | price | amount | side
    00:00:04 | 100   | 1      | buy
    00:00:10 | 100   | 2      | sell
    00:00:12 | 100   | 4      | buy
    00:00:48 | 100   | 8      | buy
"""
SAMPLED = GRID.lane("sampled", orderbook=SNAPSHOTS, trades=TRADED)
CARRIED = FILLED.lane("carried", orderbook=SNAPSHOTS, trades=TRADED)


def test_a_grid_row_is_the_last_valid_book_at_or_before_it() -> None:
    assert_rows(SAMPLED.rows("silver/orderbook"), """
        clock_ts | original_timestamp | data_staleness | is_stale | snapshot_count | mid_price
        00:00:10 | 00:00:10           | 0              | false    | 2              | 101
        00:00:20 | 00:00:10.5         | 9.5            | true     | 1              | 102
        00:00:50 | 00:00:50           | 0              | false    | 2              | 103
    """)


def test_features_are_of_the_grid_rows_and_gaps_of_the_books_own_times() -> None:
    # from 10.5 to 50 s is a gap of more than 35 s, though the grid rows lie 30 s apart
    assert_rows(SAMPLED.rows("silver/orderbook"), """
        dt_prev_ms | is_gap | log_return  | ofi | mid_velocity | interval_buy_volume | interval_sell_volume | interval_trade_count
        -          | false  | -           | -   | -            | 1                   | 2                    | 2
        10000      | false  | ln(102/101) | 2   | 0.1          | 4                   | 0                    | 1
        30000      | true   | -           | -   | -            | 8                   | 0                    | 1
    """)


def test_fill_gaps_carries_the_last_book_on_until_it_is_stale() -> None:
    assert_rows(CARRIED.rows("silver/orderbook"), """
        clock_ts | original_timestamp | data_staleness | is_stale | snapshot_count | mid_price | is_gap | interval_trade_count | log_return
        00:00:10 | 00:00:10           | 0              | false    | 2              | 101       | false  | 2                    | -
        00:00:20 | 00:00:10.5         | 9.5            | false    | 1              | 102       | false  | 1                    | ln(102/101)
        00:00:30 | 00:00:10.5         | 19.5           | false    | 0              | 102       | false  | 0                    | 0
        00:00:50 | 00:00:50           | 0              | false    | 2              | 103       | false  | 1                    | ln(103/102)
    """)


NEXT_HOUR = FILLED.lane("next-hour", orderbook="""
    at       | bids  | asks
    00:59:55 | 99x1  | 101x1
    01:05:00 | 99x1  | 101x1
""")


def test_a_book_is_carried_over_the_hours_edge() -> None:
    assert_rows(NEXT_HOUR.rows("silver/orderbook"), """
        clock_ts | data_staleness | snapshot_count | hour
        01:00:00 | 5              | 1              | 1
        01:00:10 | 15             | 0              | 1
        01:00:20 | 25             | 0              | 1
    """)
