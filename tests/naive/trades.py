"""Trades features (SPEC 5)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from .order import (
    Row,
    finite,
    log_ratio,
    micros,
    ordered,
    put,
    ratio,
    settings,
    side_of,
    silver_row,
    time_features,
    total,
    window_starts,
)

WINDOWED = ["vwap", "volume", "dollar_volume", "trade_count", "buy_ratio", "realized_var"]


def columns(variables: Row) -> list[str]:
    names = ["is_buy", "dollar_volume", "signed_volume", "log_return", "hour_of_day", "day_of_week", "is_weekend"]
    names += ["mid_before", "effective_spread"]
    return names + [f"{name}_{h}s" for h in variables["rolling_windows"] for name in WINDOWED]


def dollars(trade: Row, variables: Row) -> float:
    if variables["contract_kind"] == "inverse":
        return float(trade["amount"] * variables["contract_size"])
    return float(trade["price"] * trade["amount"] * variables["contract_size"])


def units(trade: Row, variables: Row) -> float:
    """What the dollars bought, in the base currency: contracts are worth contract_size units, or that many dollars."""
    if variables["contract_kind"] == "inverse":
        return float(trade["amount"] * variables["contract_size"] / trade["price"])
    return float(trade["amount"] * variables["contract_size"])


def mid_before(clock: int, books: list[Row], book_clocks: list[int], max_staleness: float) -> float | None:
    """Mid of the last valid book with a clock strictly before, at most max_staleness old."""
    index = bisect_left(book_clocks, clock) - 1
    if index < 0 or clock - book_clocks[index] > micros(max_staleness):
        return None
    return float((books[index]["_bids"][0][0] + books[index]["_asks"][0][0]) / 2)


def trades(rows: Iterable[Row], books: Iterable[Row], variables: Row | None = None) -> list[Row]:
    """One silver row per surviving trade, in lane order; `books` are the raw rows of the lane that the trades take."""
    variables = settings(variables)
    lane = ordered(rows, "trades", variables)
    valid_books = [book for book in ordered(books, "orderbook", variables) if book["is_valid"]]
    book_clocks = [book["clock"] for book in valid_books]
    names = columns(variables)
    out = [silver_row(row, "trades", names) for row in lane]
    valid = [row for row in out if row["is_valid"]]

    previous: Row | None = None
    for row in valid:
        side = side_of(row)
        row.update(time_features(row["clock"]))
        row["is_buy"] = None if side is None else side == "buy"
        row["dollar_volume"] = finite(dollars(row, variables))
        row["signed_volume"] = {"buy": row["amount"], "sell": -row["amount"], None: None}[side]
        row["log_return"] = log_ratio(row["price"], previous["price"]) if previous else None
        mid = mid_before(row["clock"], valid_books, book_clocks, variables["max_staleness"])
        row["mid_before"] = mid
        row["effective_spread"] = None if mid is None else finite(2 * abs(row["price"] - mid) / mid)
        previous = row

    clocks = [row["clock"] for row in valid]
    amounts, dollar_volumes = [row["amount"] for row in valid], [row["dollar_volume"] for row in valid]
    bases = [units(row, variables) for row in valid]
    buys = [row["is_buy"] for row in valid]
    squares = [None if row["log_return"] is None else row["log_return"] ** 2 for row in valid]
    for h in variables["rolling_windows"]:
        starts = window_starts(clocks, h)
        for index, row in enumerate(valid):
            window = slice(starts[index], index + 1)
            dollar_volume, _ = total(dollar_volumes[window])
            put(row, f"vwap_{h}s", ratio(dollar_volume, total(bases[window])[0]))
            put(row, f"volume_{h}s", total(amounts[window])[0])
            put(row, f"dollar_volume_{h}s", dollar_volume)
            row[f"trade_count_{h}s"] = index + 1 - starts[index]
            bought, sold = buys[window].count(True), buys[window].count(False)
            put(row, f"buy_ratio_{h}s", ratio(bought, bought + sold))
            put(row, f"realized_var_{h}s", total(squares[window])[0])
    return out
