"""Ticker features (SPEC 6)."""

from __future__ import annotations

from collections.abc import Iterable

from .order import (
    Row,
    deviation,
    mean,
    not_negative,
    ordered,
    put,
    ratio,
    settings,
    silver_row,
    time_features,
    window_starts,
)

WINDOWED = ["mid_price_mean", "mid_price_std", "spread_mean", "vol_imbalance_mean"]


def columns(variables: Row) -> list[str]:
    names = ["mid_price", "spread", "relative_spread", "volume_imbalance", "hour_of_day", "day_of_week", "is_weekend"]
    return names + [f"{name}_{h}s" for h in variables["rolling_windows"] for name in WINDOWED]


def volume_imbalance(bid_volume: float | None, ask_volume: float | None) -> float | None:
    if bid_volume is None or ask_volume is None or not (not_negative(bid_volume) and not_negative(ask_volume)):
        return None
    return ratio(bid_volume - ask_volume, bid_volume + ask_volume)


def ticker(rows: Iterable[Row], variables: Row | None = None) -> list[Row]:
    """One silver row per surviving quote, in lane order."""
    variables = settings(variables)
    names = columns(variables)
    out = [silver_row(row, "ticker", names) for row in ordered(rows, "ticker", variables)]
    valid = [row for row in out if row["is_valid"]]
    for row in valid:
        row.update(time_features(row["clock"]))
        row["mid_price"] = (row["bid"] + row["ask"]) / 2
        row["spread"] = row["ask"] - row["bid"]
        row["relative_spread"] = row["spread"] / row["mid_price"]
        row["volume_imbalance"] = volume_imbalance(row["bid_volume"], row["ask_volume"])
    for h in variables["rolling_windows"]:
        starts = window_starts([row["clock"] for row in valid], h)
        for index, row in enumerate(valid):
            window = valid[starts[index] : index + 1]
            put(row, f"mid_price_mean_{h}s", *mean(quote["mid_price"] for quote in window))
            put(row, f"mid_price_std_{h}s", *deviation(quote["mid_price"] for quote in window))
            put(row, f"spread_mean_{h}s", *mean(quote["spread"] for quote in window))
            put(row, f"vol_imbalance_mean_{h}s", *mean(quote["volume_imbalance"] for quote in window))
    return out
