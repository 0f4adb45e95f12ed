"""Trades and tickers of complete lanes, said a second time: exact integer prefix sums, edges by searchsorted.

A float is a whole number of some power of two, so running sums in that unit are exact, and a window's sum is a
difference of two of them, rounded once. Order and duplicates are found in other ways than in `order`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from .order import BRONZE, PARTITION, ROUNDING, Row, settings, silver_row
from .ticker import columns as ticker_columns
from .trades import columns as trades_columns


class Sums:
    """Exact sums over slices of a column; None counts as nothing."""

    def __init__(self, values: Sequence[float | None], power: int = 1) -> None:
        parts = [(0, 1) if value is None else float(value).as_integer_ratio() for value in values]
        shift = max((below.bit_length() - 1 for _, below in parts), default=0)
        whole = ((above << (shift - below.bit_length() + 1)) ** power for above, below in parts)
        self.running: list[int] = list(accumulate(whole, initial=0))
        self.unit = 1 << (shift * power)
        self.counts = list(accumulate((int(value is not None) for value in values), initial=0))

    def whole(self, lo: int, hi: int) -> int:
        return self.running[hi] - self.running[lo]

    def count(self, lo: int, hi: int) -> int:
        return self.counts[hi] - self.counts[lo]

    def sum(self, lo: int, hi: int) -> float | None:
        return self.whole(lo, hi) / self.unit if self.count(lo, hi) else None

    def mean(self, lo: int, hi: int) -> float | None:
        n = self.count(lo, hi)
        return self.whole(lo, hi) / (self.unit * n) if n else None


def in_order(rows: Iterable[Row], channel: str, variables: Row) -> list[Row]:
    """Lane order by stable sorts from the last key to the first, then duplicates by groups."""
    day_ms = 86_400_000

    def clock(row: Row) -> int:
        if variables["clock"] == "event":
            stamp, received = row.get("timestamp"), row.get("collected_at")
            if stamp is not None and -day_ms * 1000 <= row["capture_ts"] - stamp * 1000 <= day_ms * 1000:
                return int(stamp) * 1000
            if received is not None:
                return int(received) * 1000
        return int(row["capture_ts"])

    def identity(row: Row) -> tuple[int, int, bytes]:
        name = row.get("trade_id")
        if name is None:
            return (0, 0, b"")
        number = name != "" and all(c in "0123456789" for c in name)
        return (1, int(name), b"") if number else (2, 0, name.encode())

    lane = [{**row, "clock": clock(row)} for row in rows]
    sorts: list[Callable[[Row], Any]] = [
        lambda row: row.get("position", 0),
        lambda row: row.get("segment", ()),
        identity,
        lambda row: -math.inf if row.get("nonce") is None else row["nonce"],
        lambda row: -math.inf if row.get("timestamp") is None else row["timestamp"],
        lambda row: row["clock"],
    ]
    for sort_key in sorts:
        lane.sort(key=sort_key)

    def told(row: Row, names: Sequence[str]) -> str:
        values = [row.get(name) for name in names]  # as text NaN equals NaN; -0.0 + 0.0 is 0.0
        return repr([value + 0.0 if isinstance(value, float) else value for value in values])

    first: dict[str, Row] = {}
    for row in lane:
        first.setdefault(told(row, [name for name in BRONZE[channel] if name not in PARTITION]), row)
    lane = list(first.values())
    if channel == "trades":
        groups: dict[str, list[Row]] = {}
        for row in lane:
            if row.get("trade_id") is not None:
                key = told(row, ["trade_id", "timestamp", "price", "amount"]) + str(buys(row))
                groups.setdefault(key, []).append(row)
        span = round(variables["trade_dedupe_window"] * 1_000_000)
        again = {id(b) for group in groups.values() for a, b in pairwise(group) if b["clock"] - a["clock"] < span}
        lane = [row for row in lane if id(row) not in again]
    for row in lane:
        row["clock_ts"] = row["clock"]
        symbol = row.get("symbol") or ""
        row["source_symbol"] = symbol.translate(str.maketrans('/\\:*?"<>|', "-" * 9))
    return lane


def buys(row: Row) -> bool | None:
    return {"buy": True, "sell": False}.get(str(row.get("side")).lower())


def real_positive(value: Any) -> bool:
    return value is not None and 0 < value < math.inf


def real_not_negative(value: Any) -> bool:
    return value is not None and 0 <= value < math.inf


def book_mid(row: Row) -> float | None:
    """Mid of a valid book, None of an invalid one."""
    sides = []
    for levels, direction in ((row.get("bids"), -1), (row.get("asks"), 1)):
        if levels is None or any(p is None or q is None for p, q in levels if q != 0):
            return None
        kept = np.array([level for level in levels if level[1] != 0], dtype=float).reshape(-1, 2)
        if len(kept) == 0 or not np.isfinite(kept).all() or (kept < 0).any() or (kept[:, 0] == 0).any():
            return None
        if not (np.diff(kept[:, 0]) * direction > 0).all():
            return None
        sides.append(float(kept[0, 0]))
    return (sides[0] + sides[1]) / 2 if sides[0] < sides[1] else None


def edges(clocks: np.ndarray[Any, Any], h: float) -> list[int]:
    """First row of each row's window: the first clock later than t-h."""
    return np.searchsorted(clocks, clocks - round(h * 1_000_000), side="right").tolist()  # type: ignore[no-any-return]


def calendar_features(clocks: np.ndarray[Any, Any]) -> Iterable[tuple[int, int, bool]]:
    times = clocks.astype("datetime64[us]")
    days = times.astype("datetime64[D]")
    hours = (times - days) // np.timedelta64(1, "h")
    monday = np.datetime64("2024-01-01")
    weekdays = ((days - monday) // np.timedelta64(1, "D")) % 7
    return zip(hours.tolist(), weekdays.tolist(), (weekdays > 4).tolist(), strict=True)


def no_inf(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def trades(rows: Iterable[Row], books: Iterable[Row], variables: Row | None = None) -> list[Row]:
    v = settings(variables)
    out, valid = [], []
    for row in in_order(rows, "trades", v):
        row["is_valid"] = real_positive(row.get("price")) and real_not_negative(row.get("amount"))
        out.append(silver_row(row, "trades", trades_columns(v)))
        if row["is_valid"]:
            valid.append(out[-1])

    mids = [(row["clock"], book_mid(row)) for row in in_order(books, "orderbook", v)]
    mids = [(clock, mid) for clock, mid in mids if mid is not None]
    book_clocks = np.array([clock for clock, _ in mids], dtype=np.int64)
    clocks = np.array([row["clock"] for row in valid], dtype=np.int64)
    latest = (np.searchsorted(book_clocks, clocks, side="left") - 1).tolist()
    size, inverse = v["contract_size"], v["contract_kind"] == "inverse"
    oldest = round(v["max_staleness"] * 1_000_000)
    for index, (row, (hour, weekday, weekend)) in enumerate(zip(valid, calendar_features(clocks), strict=True)):
        price, amount, buy = row["price"], row["amount"], buys(row)
        row.update(hour_of_day=hour, day_of_week=weekday, is_weekend=weekend, is_buy=buy)
        row["dollar_volume"] = no_inf(amount * size if inverse else price * amount * size)
        row["signed_volume"] = None if buy is None else amount if buy else -amount
        if index:
            change = price / valid[index - 1]["price"]
            row["log_return"] = math.log(change) if 0 < change < math.inf else None
        if latest[index] >= 0 and row["clock"] - mids[latest[index]][0] <= oldest:
            mid = mids[latest[index]][1]
            row["mid_before"] = mid
            row["effective_spread"] = no_inf(2 * abs(price - mid) / mid)

    amounts = Sums([row["amount"] for row in valid])
    bought = Sums([row["amount"] * size / row["price"] if inverse else row["amount"] * size for row in valid])
    dollars = Sums([row["dollar_volume"] for row in valid])
    sided = Sums([None if row["is_buy"] is None else float(row["is_buy"]) for row in valid])
    squares = Sums([row["log_return"] for row in valid], power=2)
    for h in v["rolling_windows"]:
        for index, (row, lo) in enumerate(zip(valid, edges(clocks, h), strict=True)):
            hi = index + 1
            row[f"volume_{h}s"] = amounts.sum(lo, hi)
            row[f"dollar_volume_{h}s"] = spent = dollars.sum(lo, hi)
            base = bought.sum(lo, hi)
            row[f"vwap_{h}s"] = None if spent is None or not base else no_inf(spent / base)
            row[f"trade_count_{h}s"] = hi - lo
            row[f"buy_ratio_{h}s"] = sided.mean(lo, hi)
            row[f"realized_var_{h}s"] = squares.sum(lo, hi)
    return out


def ticker(rows: Iterable[Row], variables: Row | None = None) -> list[Row]:
    v = settings(variables)
    out, valid = [], []
    for row in in_order(rows, "ticker", v):
        bid, ask = row.get("bid"), row.get("ask")
        row["is_valid"] = real_positive(bid) and real_positive(ask) and bid < ask  # type: ignore[operator]
        out.append(silver_row(row, "ticker", ticker_columns(v)))
        if row["is_valid"]:
            valid.append(out[-1])

    clocks = np.array([row["clock"] for row in valid], dtype=np.int64)
    for row, (hour, weekday, weekend) in zip(valid, calendar_features(clocks), strict=True):
        row.update(hour_of_day=hour, day_of_week=weekday, is_weekend=weekend)
        row["mid_price"] = (row["bid"] + row["ask"]) / 2
        row["spread"] = row["ask"] - row["bid"]
        row["relative_spread"] = row["spread"] / row["mid_price"]
        sizes = (row["bid_volume"], row["ask_volume"])
        if all(map(real_not_negative, sizes)) and 0 < sum(sizes) < math.inf:
            row["volume_imbalance"] = (sizes[0] - sizes[1]) / (sizes[0] + sizes[1])

    mids, squares = Sums([row["mid_price"] for row in valid]), Sums([row["mid_price"] for row in valid], power=2)
    spreads = Sums([row["spread"] for row in valid])
    tilts = Sums([row["volume_imbalance"] for row in valid])
    leans = Sums([None if row["volume_imbalance"] is None else abs(row["volume_imbalance"]) for row in valid])
    for h in v["rolling_windows"]:
        for index, (row, lo) in enumerate(zip(valid, edges(clocks, h), strict=True)):
            hi, n = index + 1, index + 1 - lo
            row[f"mid_price_mean_{h}s"] = average = mids.mean(lo, hi)
            if n > 1:
                above = n * squares.whole(lo, hi) - mids.whole(lo, hi) ** 2
                row[f"mid_price_std_{h}s"] = math.sqrt(above / (n * (n - 1) * squares.unit))
                row["_scale"][f"mid_price_std_{h}s"] = ROUNDING * (average or 0.0)
            row[f"spread_mean_{h}s"] = spreads.mean(lo, hi)
            row[f"vol_imbalance_mean_{h}s"] = tilts.mean(lo, hi)
            row["_scale"][f"vol_imbalance_mean_{h}s"] = leans.mean(lo, hi) or 0.0
    return out
