"""Bars (SPEC 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .order import ROUNDING, SECOND, Row, calendar, log_ratio, mean, micros, put, ratio, settings, total, variance
from .trades import units

YEAR_SECONDS = 31_536_000
VALUE = {"orderbook": "mid_price", "trades": "price", "ticker": "mid_price"}  # of open, high, low and close

IDENTITY = ["exchange", "symbol", "source_symbol", "year", "month", "day"]
COMMON = ["bar_start", "bar_end", "bar_duration_sec", "first_at", "last_at", "is_partial"]
COMMON += ["open", "high", "low", "close", "return", "log_return", "range"]
VOLATILITY = ["realized_variance", "return_variance", "annualized_vol"]
MEANS = {
    "orderbook": {
        "mean_spread": "spread",
        "mean_relative_spread": "relative_spread",
        "mean_microprice": "microprice",
        "mean_micro_minus_mid": "micro_minus_mid",
        "mean_l1_imbalance": "imbalance_L1",
        "mean_total_imbalance": "total_imbalance",
        "mean_bid_depth": "total_bid_depth",
        "mean_ask_depth": "total_ask_depth",
        "mean_smart_depth_imbalance": "smart_depth_imbalance",
    },
    "trades": {"mean_effective_spread": "effective_spread"},
    "ticker": {
        "mean_spread": "spread",
        "mean_relative_spread": "relative_spread",
        "mean_volume_imbalance": "volume_imbalance",
    },
}


def bars(
    channel: str,
    silver_rows: Sequence[Row],
    duration_seconds: float,
    variables: Row | None = None,
    end: int | None = None,
) -> list[Row]:
    """The bars of one duration from a lane's silver rows in lane order.

    `end` is the clock of the lane's last row, if that is not among `silver_rows` (as when these are resampled).
    """
    variables = settings(variables)
    duration = micros(duration_seconds)
    clocks = [row["clock"] for row in silver_rows]
    last_clock = max([*clocks, *([] if end is None else [end])], default=0)
    valid = [row for row in silver_rows if row["is_valid"]]
    following = dict(zip(map(id, valid), valid[1:], strict=False))
    members: dict[int, list[Row]] = {}
    for row in valid:
        members.setdefault(row["clock"] // duration * duration, []).append(row)

    out = []
    for start, rows in sorted(members.items()):
        bar_end = start + duration
        if last_clock < bar_end and not variables["partial_bars"]:
            continue
        bar: Row = {"_scale": {}, **{name: rows[0].get(name) for name in IDENTITY[:3]}}
        bar.update(zip(IDENTITY[3:], calendar(start), strict=False))
        bar.update(bar_start=start, bar_end=bar_end, bar_duration_sec=duration_seconds)
        bar.update(first_at=rows[0]["clock"], last_at=rows[-1]["clock"], is_partial=last_clock < bar_end)
        prices(bar, [row[VALUE[channel]] for row in rows])
        for name, column in MEANS[channel].items():
            put_mean(bar, name, rows, column)
        if channel != "ticker":
            volatility(bar, [row["log_return"] for row in rows if row["log_return"] is not None], duration)
        if channel != "trades":
            bar["min_spread"] = min(row["spread"] for row in rows)
            bar["max_spread"] = max(row["spread"] for row in rows)
        if channel == "orderbook":
            held = [holding(row, following.get(id(row)), bar_end, variables) for row in rows]
            put(bar, "tw_mean_relative_spread", weighted_mean([row["relative_spread"] for row in rows], held))
            put(bar, "tw_mean_mid", weighted_mean([row["mid_price"] for row in rows], held))
            put_total(bar, "sum_ofi", rows, "ofi")
            put_total(bar, "sum_mlofi", rows, "mlofi")
            bar["snapshot_count"] = len(rows)
        elif channel == "trades":
            volumes(bar, rows, variables)
        else:
            bar["tick_count"] = len(rows)
        if variables["legacy_aliases"]:
            bar["capture_ts"] = start
        out.append(bar)
    return out


def prices(bar: Row, values: Sequence[float]) -> None:
    first, last = values[0], values[-1]
    bar.update(open=first, high=max(values), low=min(values), close=last)
    put(bar, "return", last / first - 1, ROUNDING)
    put(bar, "log_return", log_ratio(last, first))
    put(bar, "range", (max(values) - min(values)) / first)


def largest_scale(rows: Sequence[Row], column: str) -> float:
    return max(float(row.get("_scale", {}).get(column, 0.0)) for row in rows)


def put_mean(bar: Row, name: str, rows: Sequence[Row], column: str) -> None:
    value, scale = mean(row[column] for row in rows)
    put(bar, name, value, max(scale, largest_scale(rows, column)))


def put_total(bar: Row, name: str, rows: Sequence[Row], column: str) -> None:
    value, scale = total(row[column] for row in rows)
    put(bar, name, value, scale + largest_scale(rows, column) * len(rows))


def volatility(bar: Row, returns: Sequence[float], duration: int) -> None:
    squared, _ = total(r * r for r in returns)
    put(bar, "realized_variance", squared)
    put(bar, "return_variance", *variance(returns))
    annual = None if squared is None else math.sqrt(squared * YEAR_SECONDS / (duration / SECOND))
    put(bar, "annualized_vol", annual)


def holding(row: Row, following: Row | None, bar_end: int, variables: Row) -> int:
    """How long a row's value holds: to the next valid row or bar_end, at most max_staleness."""
    until: int = min(bar_end, row["clock"] + micros(variables["max_staleness"]))
    if following is not None:
        until = min(until, following["clock"])
    return until - int(row["clock"])


def weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float | None:
    return ratio(math.fsum(v * w for v, w in zip(values, weights, strict=True)), sum(weights))


def volumes(bar: Row, rows: Sequence[Row], variables: Row) -> None:
    buy = math.fsum(row["amount"] for row in rows if row["is_buy"] is True)
    sell = math.fsum(row["amount"] for row in rows if row["is_buy"] is False)
    dollar_volume = math.fsum(row["dollar_volume"] for row in rows)
    put(bar, "volume", math.fsum(row["amount"] for row in rows))
    put(bar, "dollar_volume", dollar_volume)
    bar["trade_count"] = len(rows)
    put(bar, "buy_volume", buy)
    put(bar, "sell_volume", sell)
    put(bar, "vwap", ratio(dollar_volume, math.fsum(units(row, variables) for row in rows)))
    put(bar, "trade_imbalance", ratio(buy - sell, buy + sell), 1.0)


def columns(channel: str) -> list[str]:
    names = COMMON + list(MEANS[channel])
    if channel != "ticker":
        names += VOLATILITY
    if channel != "trades":
        names += ["min_spread", "max_spread"]
    own = {
        "orderbook": ["tw_mean_relative_spread", "tw_mean_mid", "sum_ofi", "sum_mlofi", "snapshot_count"],
        "trades": ["volume", "dollar_volume", "trade_count", "buy_volume", "sell_volume", "vwap", "trade_imbalance"],
        "ticker": ["tick_count"],
    }
    return names + own[channel]
