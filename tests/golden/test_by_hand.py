"""Order, duplicates, validity, trades and quotes in cases small enough to check by hand (SPEC 4 to 6)."""

from __future__ import annotations

import pytest

from tests.tables import Market, assert_rows

SILVER = ("silver.orderbook", "silver.trades", "silver.ticker")
MARKET = Market(*SILVER, "gold.trades_bars", "gold.ticker_bars", bar_durations=[60])
CENTS = Market(*SILVER, contract_size=0.01)


@pytest.fixture(scope="module", autouse=True)
def _run(tmp_path_factory: pytest.TempPathFactory) -> None:
    for market in (MARKET, CENTS):
        market.run(tmp_path_factory.mktemp("by_hand"))


# -- order ---------------------------------------------------------------------------------------------------------

TIES = MARKET.lane("ties", trades="""
    at       | timestamp    | trade_id | price
    00:00:02 | -            | -        | 12
    00:00:01 | 00:00:00.500 | x10      | 11
    00:00:01 | 00:00:00.500 | X9       | 10
    00:00:01 | 00:00:00.500 | 10       | 7
    00:00:01 | 00:00:00.500 | 9        | 5
    00:00:01 | 00:00:00.500 | 009      | 6
    00:00:01 | 00:00:00.500 | 99999999999999999999999 | 8
    00:00:01 | 00:00:00.500 | ''       | 9
    00:00:01 | 00:00:00.500 | -        | 4
    00:00:01 | 00:00:00.400 | 999      | 3
    00:00:01 | -            | 7        | 2
    00:00:00.999999 | 00:00:59 | 8     | 1
""")  # fmt: skip


def test_trades_of_one_clock_go_by_timestamp_then_id_numbers_before_text_and_nulls_first() -> None:
    assert [row["price"] for row in TIES.rows("silver/trades")] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


NONCES = MARKET.lane("nonces", orderbook="""
    at       | timestamp    | nonce | bids | asks
    00:00:01 | 00:00:00.500 | 10    | 6x1  | 7x1
    00:00:01 | 00:00:00.500 | 9     | 5x1  | 6x1
    00:00:01 | 00:00:00.500 | -     | 4x1  | 5x1
    00:00:01 | 00:00:00.400 | 99    | 3x1  | 4x1
    00:00:01 | -            | 100   | 2x1  | 3x1
    00:00:00 | 00:00:30     | 101   | 1x1  | 2x1
""")


def test_books_of_one_clock_go_by_timestamp_then_nonce_nulls_first() -> None:
    assert [row["best_bid"] for row in NONCES.rows("silver/orderbook")] == [1, 2, 3, 4, 5, 6]


SEGMENTS = MARKET.lane("segments", trades={
    "b": """
        at       | price
        00:00:01 | 3
        00:00:01 | 5
        00:00:01 | 4
        """,
    "a": """
        at       | price
        00:00:01 | 2
        00:00:01 | 1
        """,
})  # fmt: skip


def test_what_is_still_equal_goes_by_segment_then_position() -> None:
    assert [row["price"] for row in SEGMENTS.rows("silver/trades")] == [2, 1, 3, 5, 4]


# -- duplicates ----------------------------------------------------------------------------------------------------

TWICE = MARKET.lane("twice", trades={
    "a": """
        at       | trade_id | price | amount | cost | info_json
        00:00:01 | -        | 100   | 1      | 100  | a
        00:00:01 | -        | 100   | 1      | 101  | a
        00:00:01 | -        | 100   | 1      | 100  | b
        00:00:02 | -        | nan   | 1      | -    | -
        """,
    "b": """
        at       | trade_id | price | amount | cost | info_json
        00:00:01 | -        | 100   | 1      | 100  | a
        00:00:02 | -        | nan   | 1      | -    | -
        00:00:03 | -        | 100   | 1      | 100  | a
        """,
}, orderbook={
    "a": """
        at       | bids | asks
        00:00:01 | 99x1 | 101x1
        00:00:01 | 99x1 98x1 | 101x1
        00:00:02 | 99xnan | -
        """,
    "b": """
        at       | bids | asks
        00:00:01 | 99x1 | 101x1
        00:00:02 | 99xnan | -
        """,
}, ticker={
    "a": """
        at       | bid | ask | last
        00:00:01 | 99  | 101 | 100
        00:00:01 | 99  | 101 | -
        """,
    "b": """
        at       | bid | ask | last
        00:00:01 | 99  | 101 | -
        00:00:01 | 99  | 101 | 100
        """,
})  # fmt: skip


def test_rows_equal_in_every_column_are_one() -> None:
    # info_json is a column, too, though silver has it not
    assert [(row["clock_ts"] % 60_000_000 // 1_000_000, row["cost"]) for row in TWICE.rows("silver/trades")] == [
        (1, 100), (1, 101), (1, 100), (2, None), (3, 100),
    ]  # fmt: skip
    assert_rows(TWICE.rows("silver/orderbook"), """
        clock_ts | total_bid_depth | is_valid
        00:00:01 | 1               | true
        00:00:01 | 2               | true
        00:00:02 | -               | false
    """)
    assert [row["last"] for row in TWICE.rows("silver/ticker")] == [100, None]


AGAIN = MARKET.lane("again", trades="""
    at              | timestamp | trade_id | price | amount | side
    00:00:00        | 00:00:00  | 1        | 100   | 1      | buy
    00:14:59.999999 | 00:00:00  | 1        | 100   | 1      | BUY   # 1 us before 900 s
    00:00:01        | 00:00:01  | 2        | 100   | 1      | buy
    00:15:01        | 00:00:01  | 2        | 100   | 1      | buy   # exactly 900 s
    00:00:02        | 00:00:02  | 3        | 100   | 1      | -
    00:00:03        | 00:00:02  | 3        | 100   | 1      | what  # as unknown as NULL
    00:00:04        | 00:00:02  | 3        | 101   | 1      | -     # another price
    00:00:05        | 00:00:02  | 3        | 100   | 2      | -     # another amount
    00:00:06        | 00:00:06  | 3        | 100   | 1      | -     # another timestamp
    00:00:07        | 00:00:02  | 3        | 100   | 1      | sell  # another side
    00:00:08        | 00:00:08  | ''       | 100   | 1      | buy
    00:00:09        | 00:00:08  | ''       | 100   | 1      | buy   # the empty string is an id
    00:00:10        | 00:00:10  | -        | 100   | 1      | buy
    00:00:11        | 00:00:10  | -        | 100   | 1      | buy   # no id
""")


def test_a_trade_seen_again_within_the_window_is_dropped() -> None:
    assert_rows(AGAIN.rows("silver/trades"), """
        clock_ts | trade_id | price | amount | side
        00:00:00 | 1        | 100   | 1      | buy
        00:00:01 | 2        | 100   | 1      | buy
        00:00:02 | 3        | 100   | 1      | -
        00:00:04 | 3        | 101   | 1      | -
        00:00:05 | 3        | 100   | 2      | -
        00:00:06 | 3        | 100   | 1      | -
        00:00:07 | 3        | 100   | 1      | sell
        00:00:08 | ''       | 100   | 1      | buy
        00:00:10 | -        | 100   | 1      | buy
        00:00:11 | -        | 100   | 1      | buy
        00:15:01 | 2        | 100   | 1      | buy
    """)


CHAIN = MARKET.lane("chain", trades="""
    at       | trade_id | price | amount
    00:50:00 | a        | 100   | 1
    00:59:00 | a        | 100   | 1
    01:10:00 | a        | 100   | 1  # 1,200 s after the first, 660 s after a duplicate of it
    01:25:00 | a        | 100   | 1  # 900 s after the last
    01:26:00 | b        | 200   | 1
""")


def test_a_duplicate_of_a_duplicate_is_one_across_the_hours_edge() -> None:
    assert_rows(CHAIN.rows("silver/trades"), """
        clock_ts | trade_id | volume_900s | log_return
        00:50:00 | a        | 1           | -
        01:25:00 | a        | 1           | 0
        01:26:00 | b        | 2           | ln(2)
    """)


# -- validity ------------------------------------------------------------------------------------------------------

BAD_TRADES = MARKET.lane("bad-trades", trades="""
    at       | price | amount | side
    00:00:01 | 100   | 1      | buy
    00:00:02 | 0     | 1      | buy
    00:00:03 | -1    | 1      | buy
    00:00:04 | nan   | 1      | buy
    00:00:05 | inf   | 1      | buy
    00:00:06 | -     | 1      | buy
    00:00:07 | 100   | -1     | buy
    00:00:08 | 100   | nan    | buy
    00:00:09 | 100   | inf    | buy
    00:00:10 | 100   | -      | buy
    00:00:11 | 110   | 0      | sell
""")


def test_an_invalid_trade_stays_without_features_and_touches_no_state() -> None:
    assert_rows(BAD_TRADES.rows("silver/trades"), """
        clock_ts | is_valid | is_buy | dollar_volume | log_return | hour_of_day | volume_60s | trade_count_60s
        00:00:01 | true     | true   | 100           | -          | 0           | 1          | 1
        00:00:02 | false    | -      | -             | -          | -           | -          | -
        00:00:03 | false    | -      | -             | -          | -           | -          | -
        00:00:04 | false    | -      | -             | -          | -           | -          | -
        00:00:05 | false    | -      | -             | -          | -           | -          | -
        00:00:06 | false    | -      | -             | -          | -           | -          | -
        00:00:07 | false    | -      | -             | -          | -           | -          | -
        00:00:08 | false    | -      | -             | -          | -           | -          | -
        00:00:09 | false    | -      | -             | -          | -           | -          | -
        00:00:10 | false    | -      | -             | -          | -           | -          | -
        00:00:11 | true     | false  | 0             | ln(1.1)    | 0           | 1          | 2
    """)


BAD_QUOTES = MARKET.lane("bad-quotes", ticker="""
    at       | bid | ask | bid_volume | ask_volume
    00:00:01 | 99  | 101 | 1          | 3
    00:00:02 | 101 | 99  | 1          | 3          # crossed
    00:00:03 | 100 | 100 | 1          | 3          # locked
    00:00:04 | 0   | 101 | 1          | 3
    00:00:05 | -   | 101 | 1          | 3
    00:00:06 | 99  | -   | 1          | 3
    00:00:07 | nan | 101 | 1          | 3
    00:00:08 | 99  | inf | 1          | 3
    00:00:09 | 101 | 103 | -1         | 3          # bad sizes
    00:00:10 | 101 | 103 | nan        | 3
    00:00:11 | 101 | 103 | -          | 3
    00:00:12 | 101 | 103 | 0          | 0
    00:00:13 | 101 | 103 | inf        | 3
""")


def test_an_invalid_quote_stays_without_features_and_bad_sizes_only_void_the_imbalance() -> None:
    assert_rows(BAD_QUOTES.rows("silver/ticker"), """
        clock_ts | is_valid | mid_price | volume_imbalance | mid_price_mean_60s | vol_imbalance_mean_60s | day_of_week
        00:00:01 | true     | 100       | -0.5             | 100                | -0.5                   | 1
        00:00:02 | false    | -         | -                | -                  | -                      | -
        00:00:03 | false    | -         | -                | -                  | -                      | -
        00:00:04 | false    | -         | -                | -                  | -                      | -
        00:00:05 | false    | -         | -                | -                  | -                      | -
        00:00:06 | false    | -         | -                | -                  | -                      | -
        00:00:07 | false    | -         | -                | -                  | -                      | -
        00:00:08 | false    | -         | -                | -                  | -                      | -
        00:00:09 | true     | 102       | -                | 101                | -0.5                   | 1
        00:00:10 | true     | 102       | -                | 304/3              | -0.5                   | 1
        00:00:11 | true     | 102       | -                | 406/4              | -0.5                   | 1
        00:00:12 | true     | 102       | -                | 508/5              | -0.5                   | 1
        00:00:13 | true     | 102       | -                | 610/6              | -0.5                   | 1
    """)


# -- trades --------------------------------------------------------------------------------------------------------

SIDES = MARKET.lane("sides", trades="""
    at       | price | amount | side
    00:00:01 | 100   | 2      | Buy
    00:00:02 | 101   | 3      | SELL
    00:00:03 | 102   | 4      | -
    00:00:04 | 103   | 5      | taker
    00:00:20 | 103   | 5      | -
""")


def test_a_side_counts_in_any_case_and_an_unknown_one_as_null() -> None:
    assert_rows(SIDES.rows("silver/trades"), """
        side  | is_buy | signed_volume | buy_ratio_5s | volume_5s | log_return
        Buy   | true   | 2             | 1            | 2         | -
        SELL  | false  | -3            | 1/2          | 5         | ln(101/100)
        -     | -      | -             | 1/2          | 9         | ln(102/101)
        taker | -      | -             | 1/2          | 14        | ln(103/102)
        -     | -      | -             | -            | 5         | 0
    """)


EDGES = MARKET.lane("edges", trades="""
    at              | price | amount | side | trade_id
    00:00:00        | 100   | 1      | buy  | 1
    00:00:05        | 101   | 2      | sell | 2
    00:00:09.999999 | 102   | 4      | -    | 3
    00:00:10        | 103   | 8      | buy  | 4
    00:00:10        | 104   | 16     | sell | 5
""")


def test_a_window_is_open_at_its_far_edge_and_ends_with_the_row_itself() -> None:
    assert_rows(EDGES.rows("silver/trades"), """
        clock_ts        | trade_count_5s | volume_5s | dollar_volume_5s | vwap_5s | buy_ratio_5s | volume_15s
        00:00:00        | 1              | 1         | 100              | 100     | 1            | 1
        00:00:05        | 1              | 2         | 202              | 101     | 0            | 3
        00:00:09.999999 | 2              | 6         | 610              | 610/6   | 0            | 7
        00:00:10        | 2              | 12        | 1232             | 1232/12 | 1            | 15
        00:00:10        | 3              | 28        | 2896             | 2896/28 | 1/2          | 31
    """)


def test_realized_variance_is_the_sum_of_squared_log_returns() -> None:
    assert_rows(EDGES.rows("silver/trades"), """
        clock_ts        | realized_var_5s                   | realized_var_15s
        00:00:00        | -                                 | -
        00:00:05        | 0.00995033085**2                  | ln(101/100)**2
        00:00:09.999999 | ln(101/100)**2 + ln(102/101)**2   | ln(101/100)**2 + ln(102/101)**2
        00:00:10        | ln(102/101)**2 + ln(103/102)**2   | ln(101/100)**2 + ln(102/101)**2 + ln(103/102)**2
        00:00:10        | ln(102/101)**2 + ln(103/102)**2 + ln(104/103)**2 | ln(101/100)**2 + ln(102/101)**2 + ln(103/102)**2 + ln(104/103)**2
    """)


LONG = MARKET.lane("long", trades="""
    at       | price | amount | side
    00:50:00 | 100   | 1      | buy
    00:59:00 | 100   | 2      | sell
    01:04:00 | 100   | 4      | buy
    01:05:00 | 100   | 8      | buy
""")


def test_windows_reach_over_the_hours_edge() -> None:
    assert_rows(LONG.rows("silver/trades"), """
        clock_ts | volume_60s | volume_300s | volume_900s | trade_count_900s | buy_ratio_900s
        00:50:00 | 1          | 1           | 1           | 1                | 1
        00:59:00 | 2          | 2           | 3           | 2                | 1/2
        01:04:00 | 4          | 4           | 7           | 3                | 2/3
        01:05:00 | 8          | 12          | 14          | 3                | 2/3
    """)


DAYS = MARKET.lane("days", trades="""
    at                         | price | amount
    2026-02-06 23:59:59.999999 | 100   | 1
    2026-02-07 00:00:00        | 100   | 1
    2026-02-08 12:00:00        | 100   | 1
    2026-02-09 07:30:00        | 100   | 1
""", ticker="""
    at                         | bid | ask
    2026-02-06 23:59:59.999999 | 99  | 101
    2026-02-07 00:00:00        | 99  | 101
""")  # fmt: skip


def test_friday_is_no_weekend_and_monday_is_day_0() -> None:
    assert_rows(DAYS.rows("silver/trades"), """
        hour_of_day | day_of_week | is_weekend | year | month | day | hour
        23          | 4           | false      | 2026 | 2     | 6   | 23
        0           | 5           | true       | 2026 | 2     | 7   | 0
        12          | 6           | true       | 2026 | 2     | 8   | 12
        7           | 0           | false      | 2026 | 2     | 9   | 7
    """)
    assert_rows(DAYS.rows("silver/ticker"), """
        hour_of_day | day_of_week | is_weekend
        23          | 4           | false
        0           | 5           | true
    """)


MIDS = MARKET.lane("mids", orderbook="""
    at       | nonce | bids  | asks
    00:00:10 | 1     | 99x1  | 101x1
    00:00:20 | 2     | 101x1 | 103x1
    00:00:25 | 3     | 200x1 | 103x1  # crossed
    00:01:00 | 4     | 103x1 | 105x1
    00:01:00 | 5     | 104x1 | 106x1
    00:59:59 | 6     | 199x1 | 201x1
""", trades="""
    at              | price | amount
    00:00:10        | 100   | 1
    00:00:10.000001 | 101   | 1
    00:00:20        | 100   | 1
    00:00:30        | 103   | 1
    00:01:01        | 105   | 1
    00:06:00        | 100   | 1
    00:06:00.000001 | 100   | 1
    01:00:00        | 202   | 1
    01:04:59        | 200   | 1
    01:04:59.000001 | 200   | 1
""")  # fmt: skip


def test_mid_before_is_of_the_last_valid_book_strictly_before_and_not_stale() -> None:
    assert_rows(MIDS.rows("silver/trades"), """
        clock_ts        | mid_before | effective_spread
        00:00:10        | -          | -          # a book of the same clock is not before
        00:00:10.000001 | 100        | 2*1/100
        00:00:20        | 100        | 0
        00:00:30        | 102        | 2*1/102    # the crossed book is none
        00:01:01        | 105        | 0          # the later in lane order
        00:06:00        | 105        | 2*5/105    # exactly 300 s
        00:06:00.000001 | -          | -
        01:00:00        | 200        | 2*2/200    # from the hour before
        01:04:59        | 200        | 0
        01:04:59.000001 | -          | -
    """)


def test_bars_average_the_effective_spreads_that_there_are() -> None:
    bars = MIDS.rows("gold/trades_bars/60s")
    assert_rows(bars[:2], """
        bar_start | trade_count | mean_effective_spread
        00:00:00  | 4           | (2/100 + 0 + 2/102)/3
        00:01:00  | 1           | 0
    """)


INVERSE = MARKET.lane("ETH-USD-ETH", exchange="binancecoinm", trades="""
    at       | price | amount | side
    00:00:01 | 2000  | 3      | buy
    00:00:02 | 2500  | 1      | sell
    00:01:00 | 2500  | 1      | sell
""")
HUNDRED = MARKET.lane("BTC-USD-BTC", exchange="binancecoinm", trades="""
    at       | price | amount | side
    00:00:01 | 50000 | 2      | buy
""")


def test_an_inverse_contract_is_worth_dollars_and_its_vwap_weighs_coins() -> None:
    assert_rows(INVERSE.rows("silver/trades"), """
        dollar_volume | dollar_volume_5s | vwap_5s                  | volume_5s
        30            | 30               | 2000                     | 3
        10            | 40               | 40/(30/2000 + 10/2500)   | 4
        10            | 10               | 2500                     | 1
    """)
    assert_rows(INVERSE.rows("gold/trades_bars/60s"), """
        volume | dollar_volume | vwap                   | buy_volume | sell_volume
        4      | 40            | 2105.2631578947        | 3          | 1
    """)
    assert_rows(HUNDRED.rows("silver/trades"), """
        dollar_volume | vwap_5s
        200           | 50000
    """)


LINEAR = CENTS.lane("linear", trades="""
    at       | price | amount
    00:00:01 | 100   | 3
    00:00:02 | 104   | 1
""")


def test_a_linear_contract_is_worth_its_size_in_coins() -> None:
    assert_rows(LINEAR.rows("silver/trades"), """
        dollar_volume | dollar_volume_5s | vwap_5s | volume_5s
        3             | 3                | 100     | 3
        1.04          | 4.04             | 101     | 4
    """)


# -- quotes --------------------------------------------------------------------------------------------------------

QUOTES = MARKET.lane("quotes", ticker="""
    at       | timestamp | bid | ask | bid_volume | ask_volume
    00:00:00 | -         | 99  | 101 | 3          | 1
    00:00:02 | -         | 100 | 104 | 0          | 0
    00:00:05 | 00:00:04  | 103 | 105 | 1          | 3
    00:00:05 | 00:00:05  | 105 | 107 | 1          | 1
    00:01:05 | -         | 99  | 101 | 0          | 0
""")


def test_quotes_have_mid_spread_and_imbalance() -> None:
    assert_rows(QUOTES.rows("silver/ticker"), """
        clock_ts | mid_price | spread | relative_spread | volume_imbalance
        00:00:00 | 100       | 2      | 2/100           | 0.5
        00:00:02 | 102       | 4      | 4/102           | -
        00:00:05 | 104       | 2      | 2/104           | -0.5
        00:00:05 | 106       | 2      | 2/106           | 0
        00:01:05 | 100       | 2      | 2/100           | -
    """)


def test_quotes_have_rolling_means_and_sample_deviations() -> None:
    assert_rows(QUOTES.rows("silver/ticker"), """
        clock_ts | mid_price_mean_5s | mid_price_std_5s | spread_mean_5s | vol_imbalance_mean_5s | mid_price_mean_15s | mid_price_std_15s
        00:00:00 | 100               | -                | 2              | 0.5                   | 100                | -
        00:00:02 | 101               | sqrt(2)          | 3              | 0.5                   | 101                | sqrt(2)
        00:00:05 | 103               | sqrt(2)          | 3              | -0.5                  | 102                | 2
        00:00:05 | 104               | 2                | 8/3            | -0.25                 | 103                | sqrt(20/3)
        00:01:05 | 100               | -                | 2              | -                     | 100                | -
    """)


def test_bars_of_quotes_hold_the_path_of_the_mid() -> None:
    assert_rows(QUOTES.rows("gold/ticker_bars/60s"), """
        bar_start | bar_end  | first_at | last_at  | open | high | low | close | mean_spread | min_spread | max_spread | tick_count
        00:00:00  | 00:01:00 | 00:00:00 | 00:00:05 | 100  | 106  | 100 | 106   | 2.5         | 2          | 4          | 4
    """)
    assert_rows(QUOTES.rows("gold/ticker_bars/60s"), """
        mean_relative_spread            | mean_volume_imbalance | return | log_return | range | is_partial
        (0.02 + 4/102 + 2/104 + 2/106)/4 | 0                    | 0.06   | ln(1.06)   | 0.06  | false
    """)
