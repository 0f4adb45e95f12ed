"""Dirt, of the kinds that real feeds have (SPEC section 2).

Each kind has its own seeded generator and its own rows; kinds that add rows come last, so that a full duplicate is one.
A kind edits the picked rows in place or returns rows to add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from daedalus_etl.lanes import CHANNELS, DAY_US, HOUR_US, US
from daedalus_etl.simulator.exchange import ASK, BID
from daedalus_etl.simulator.market import Market
from daedalus_etl.simulator.rows import Hour, Rows, clean_hours, digest

GAP_US = 7 * 60 * US  # longer than max_staleness (300 s)
HISTORY_MS = 41 * 24 * 3600 * 1000  # the age of a replayed history at subscription
TRADE_DEDUPE_WINDOW_US = 900 * US


@dataclass(frozen=True)
class _Soil:
    """What a kind of dirt gets: the hour, the channel's rows, the picked ones, its generator."""

    hour: Hour
    rows: Rows
    picks: np.ndarray
    random: np.random.Generator
    segment_us: int

    def take(self, picks: np.ndarray) -> Rows:
        return {name: column[picks] for name, column in self.rows.items()}


_Kind = Callable[[_Soil], Rows | None]


def _set(column: str, value: float | bool) -> _Kind:
    def kind(soil: _Soil) -> None:
        soil.rows[column][soil.picks] = value

    return kind


def _negate(column: str) -> _Kind:
    def kind(soil: _Soil) -> None:
        soil.rows[column][soil.picks] *= -1

    return kind


def _null(*columns: str) -> _Kind:
    """NULL in one of the columns, or in all of them."""

    def kind(soil: _Soil) -> None:
        which = soil.random.integers(0, len(columns) + (len(columns) > 1), len(soil.picks))
        for i, column in enumerate(columns):
            soil.rows[f"{column}_null"][soil.picks[(which == i) | (which == len(columns))]] = True

    return kind


def _timestamp_back(soil: _Soil) -> None:
    at = np.maximum(soil.picks, 1)
    soil.rows["timestamp"][at] = soil.rows["timestamp"][at - 1] - soil.random.integers(1, 2000, len(at))


def _same_capture(soil: _Soil) -> None:
    """The following one to three rows were captured in the same microsecond."""
    width = soil.random.integers(1, 4, len(soil.picks))
    for step in (1, 2, 3):
        source = soil.picks[(width >= step) & (soil.picks + step < len(soil.rows["capture"]))]
        for column in ("capture", "arrival"):
            soil.rows[column][source + step] = soil.rows[column][source]


def _late_in_segment(soil: _Soil) -> None:
    """The row stands one to three places too late in its file."""
    behind = np.minimum(soil.picks + soil.random.integers(1, 4, len(soil.picks)), len(soil.rows["capture"]) - 1)
    soil.rows["arrival"][soil.picks] = soil.rows["capture"][behind] + 1


def _duplicate_adjacent(soil: _Soil) -> Rows:
    return soil.take(soil.picks)


def _duplicate_later(soil: _Soil) -> Rows:
    """The same rows once more in a later segment of the hour, capture_ts and all: right after a row captured there."""
    capture = soil.rows["capture"]
    eligible = int(np.searchsorted(capture, capture[-1] - int(1.1 * soil.segment_us)))
    extra = soil.take(soil.picks * eligible // len(capture))
    delay = (soil.segment_us * soil.random.uniform(1.05, 4.0, len(soil.picks))).astype(np.int64)
    after = np.searchsorted(capture, extra["capture"] + delay)
    found = (after < len(capture)) & (eligible > 0)
    extra = {name: column[found] for name, column in extra.items()}
    extra["arrival"], extra["place"] = (soil.rows[name][after[found]] for name in ("capture", "place"))
    return extra


def _second_connection(low_us: int, high_us: int, at_the_end: bool) -> _Kind:
    """The same trade by another connection, later; one of them from the hour's end, so that it may cross it."""

    def kind(soil: _Soil) -> Rows:
        picks = soil.picks.copy()
        if at_the_end:
            picks[:1] = len(soil.rows["capture"]) - 1
        extra = soil.take(picks)
        delay = soil.random.integers(low_us, high_us, len(picks))
        extra["capture"] = extra["capture"] + delay
        extra["arrival"] = extra["capture"].copy()
        return extra

    return kind


def _sides(first: int, last: int) -> _Kind:
    """Spells the side otherwise: codes first..last of SIDES."""

    def kind(soil: _Soil) -> None:
        if first == 2:  # upper case keeps its meaning
            soil.rows["side"][soil.picks] = soil.rows["side"][soil.picks] % 2 + 2
        else:
            soil.rows["side"][soil.picks] = soil.random.integers(first, last + 1, len(soil.picks))

    return kind


def _book_sides(soil: _Soil, both: bool) -> Iterator[tuple[int, str, np.ndarray]]:
    """(side, its column, the rows to spoil on it): one side a row at random, or both."""
    choice = soil.random.integers(0, 2, len(soil.picks))
    for side, column in enumerate(("bids", "asks")):
        yield side, column, soil.picks if both else soil.picks[choice == side]


def _empty(both: bool) -> _Kind:
    def kind(soil: _Soil) -> None:
        for _, column, rows in _book_sides(soil, both):
            soil.rows[f"{column}_length"][rows] = 0

    return kind


def _short_book(soil: _Soil) -> None:
    for _, column, rows in _book_sides(soil, both=True):
        length = soil.rows[f"{column}_length"]
        length[rows] = np.minimum(length[rows], soil.random.integers(1, 9, len(rows)))


def _crossed(share: float) -> _Kind:
    """The best bid meets the best ask (share 0), or lies above it by a part of the depth of the asks."""

    def kind(soil: _Soil) -> None:
        bid, ask = soil.rows["bids_start"][soil.picks], soil.rows["asks_start"][soil.picks]
        price = soil.hour.price
        if share:
            # swapping the best prices keeps both sides sorted and on the grid
            price[BID, bid], price[ASK, ask] = price[ASK, ask], price[BID, bid]
        else:
            price[BID, bid] = price[ASK, ask]

    return kind


def _unsorted(soil: _Soil) -> None:
    """Two levels change places."""
    for side, column, rows in _book_sides(soil, both=False):
        last = np.maximum(soil.rows[f"{column}_length"][rows] - 1, 0)
        a = soil.rows[f"{column}_start"][rows] + np.minimum(soil.random.integers(0, 4, len(rows)), last)
        b = soil.rows[f"{column}_start"][rows] + np.minimum(soil.random.integers(4, 9, len(rows)), last)
        for values in (soil.hour.price[side], soil.hour.size[side]):
            values[a], values[b] = values[b], values[a]


def _level(field: str, value: float | None, deepest: int, first: int = 0) -> _Kind:
    """One level (an index from `first` to `deepest`) gets a bad price or size; None negates what is there."""

    def kind(soil: _Soil) -> None:
        values = soil.hour.price if field == "price" else soil.hour.size
        for side, column, rows in _book_sides(soil, both=False):
            last = np.maximum(soil.rows[f"{column}_length"][rows] - 1, 0)
            at = soil.random.integers(first, deepest + 1, len(rows))
            at = soil.rows[f"{column}_start"][rows] + np.minimum(at, last)
            values[side, at] = -values[side, at] if value is None else value

    return kind


def _quote_swap(soil: _Soil) -> None:
    bid, ask = soil.rows["bid"], soil.rows["ask"]
    bid[soil.picks], ask[soil.picks] = ask[soil.picks], bid[soil.picks]


def _quote_lock(soil: _Soil) -> None:
    soil.rows["ask"][soil.picks] = soil.rows["bid"][soil.picks]


def _volumes_zero(soil: _Soil) -> None:
    for column in ("bid_volume", "ask_volume"):
        soil.rows[column][soil.picks] = 0.0


_ANY_CHANNEL: dict[str, _Kind] = {
    "timestamp_back": _timestamp_back,
    "timestamp_null": _null("timestamp"),
    "same_capture_microsecond": _same_capture,
    "out_of_order": _late_in_segment,
}
_REPEATS: dict[str, _Kind] = {"duplicate_adjacent": _duplicate_adjacent, "duplicate_later": _duplicate_later}
_DIRT: dict[str, dict[str, _Kind]] = {
    "orderbook": {
        **_ANY_CHANNEL,
        "nonce_null": _null("nonce"),
        "book_empty": _empty(both=True),
        "book_one_sided": _empty(both=False),
        "book_side_null": _null("bids", "asks"),
        "book_short": _short_book,
        "book_crossed": _crossed(1.0),
        "book_locked": _crossed(0.0),
        "book_unsorted": _unsorted,
        "level_size_zero_inside": _level("size", 0.0, 9, first=1),
        "level_size_zero_best": _level("size", 0.0, 0),
        "level_size_nan": _level("size", math.nan, 4),
        "level_size_infinite": _level("size", math.inf, 4),
        "level_size_negative": _level("size", None, 4),
        "level_price_nan": _level("price", math.nan, 4),
        "level_price_infinite": _level("price", math.inf, 4),
        "level_price_negative": _level("price", None, 4),
        "level_price_zero": _level("price", 0.0, 4),
        **_REPEATS,
    },
    "trades": {
        **_ANY_CHANNEL,
        "trade_id_null": _null("trade_id"),
        "trade_id_text": _set("is_text_id", True),
        "side_null": _null("side"),
        "side_upper_case": _sides(2, 3),
        "side_nonsense": _sides(5, 7),
        "price_nan": _set("price", math.nan),
        "price_infinite": _set("price", math.inf),
        "price_negative": _negate("price"),
        "price_zero": _set("price", 0.0),
        "amount_nan": _set("amount", math.nan),
        "amount_infinite": _set("amount", math.inf),
        "amount_negative": _negate("amount"),
        "amount_zero": _set("amount", 0.0),
        **_REPEATS,
        "second_connection": _second_connection(20_000, 5 * US, at_the_end=True),
        "second_connection_late": _second_connection(
            TRADE_DEDUPE_WINDOW_US + US, TRADE_DEDUPE_WINDOW_US + 120 * US, at_the_end=False
        ),
    },
    "ticker": {
        **_ANY_CHANNEL,
        "quote_null": _null("bid", "ask"),
        "quote_nan": _set("bid", math.nan),
        "quote_infinite": _set("ask", math.inf),
        "quote_zero": _set("bid", 0.0),
        "quote_negative": _negate("ask"),
        "quote_crossed": _quote_swap,
        "quote_locked": _quote_lock,
        "volume_null": _null("bid_volume", "ask_volume"),
        "volume_nan": _set("bid_volume", math.nan),
        "volume_infinite": _set("ask_volume", math.inf),
        "volume_negative": _negate("ask_volume"),
        "volume_zero": _volumes_zero,
        **_REPEATS,
    },
}
#: The kinds of dirt of each channel. Besides these, all with `dirt > 0`: 41-day-old trades at subscription, a gap
#: of seven minutes a day (markets of half an hour and more) and an hour without data a day (three hours and more).
DIRT_KINDS: dict[str, tuple[str, ...]] = {channel: tuple(kinds) for channel, kinds in _DIRT.items()}


def _pick(random: np.random.Generator, taken: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` rows that no kind has yet, in order."""
    if not count or not len(taken):
        return np.zeros(0, np.int64)
    draws = random.integers(0, len(taken), 2 * count + 8)
    free = draws[~taken[draws]]
    picks = np.sort(free[np.sort(np.unique(free, return_index=True)[1])][:count])
    taken[picks] = True
    return picks


def _history(hour: Hour, rows: Rows, random: np.random.Generator) -> Rows:
    """Old trades that an exchange replays at subscription: 41 days old, captured just before the first live one."""
    n = int(random.integers(8, 40))
    before = np.arange(n, 0, -1)
    old = {name: np.repeat(column[:1], n) for name, column in rows.items()}
    old["capture"] = np.maximum(old["capture"] - before * 6, hour.start_us)
    old["arrival"] = old["capture"].copy()
    old["timestamp"] = old["timestamp"] - HISTORY_MS - before * 250
    old["trade_id"] = old["trade_id"] - before - 50_000
    old["side"] = random.integers(0, 2, n).astype(np.int8)
    return old


def _silences(market: Market, symbol: str) -> list[tuple[int, int]]:
    """Capture times (begin, end) without any row, microseconds: gaps, and hours without data."""
    begin, end = market.span_us
    silent = []
    for day_start in range(begin, end, DAY_US):
        span = min(day_start + DAY_US, end) - day_start
        random = np.random.default_rng(digest("silence", market.seed, market.exchange, symbol, day_start))
        if span >= HOUR_US // 2:
            at = day_start + int(min(span, HOUR_US) * random.uniform(0.2, 0.6))
            silent.append((at, at + GAP_US))
        if span >= 3 * HOUR_US:
            first = day_start - day_start % HOUR_US + HOUR_US  # neither the first hour nor the last
            hours = (day_start + span - 1 - first) // HOUR_US
            at = first + HOUR_US * int(random.integers(0, hours))
            silent.append((at, at + HOUR_US))
    return silent


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _where(rows: Rows, keep: np.ndarray) -> Rows:
    return rows if keep.all() else {name: column[keep] for name, column in rows.items()}


def _outside(rows: Rows, silent: list[tuple[int, int]]) -> Rows:
    keep = np.ones(len(rows["capture"]), bool)
    for begin, end in silent:
        keep &= (rows["capture"] < begin) | (rows["capture"] >= end)
    return _where(rows, keep)


def _soiled(market: Market, symbol: str, channel: str, hour: Hour, carried: list[Rows]) -> list[Rows]:
    """Soils one channel of one hour in place; returns the rows that belong to later hours."""
    rows = hour.rows[channel]
    n = len(rows["capture"])
    kinds = _DIRT[channel]
    expected = market.dirt * n / len(kinds)
    taken = np.zeros(n, bool)
    parts = [rows]
    for name, kind in kinds.items():
        key = ("dirt", market.seed, market.exchange, symbol, channel, hour.number, name)
        random = np.random.default_rng(digest(*key))
        picks = _pick(random, taken, int(expected + random.random()))
        extra = kind(_Soil(hour, rows, picks, random, round(market.segment_seconds * US))) if len(picks) else None
        if extra is not None:
            parts.append(extra)
    if channel == "trades" and hour.number == 0 and n:
        random = np.random.default_rng(digest("history", market.seed, market.exchange, symbol))
        parts.insert(0, _history(hour, rows, random))
    every = _joined(parts + carried)
    hour.rows[channel] = _where(every, every["capture"] < hour.end_us)
    later = _where(every, every["capture"] >= hour.end_us)
    return [later]


def received_hours(market: Market, symbol: str) -> Iterator[Hour]:
    """The lane as it is received, dirt and all; rows are in arrival order."""
    silent = _silences(market, symbol) if market.dirt > 0 else []
    carried: dict[str, list[Rows]] = {channel: [] for channel in CHANNELS}
    for hour in clean_hours(market, symbol):
        if market.dirt > 0:
            for channel in CHANNELS:
                hour.rows[channel] = _outside(hour.rows[channel], silent)
                carried[channel] = _soiled(market, symbol, channel, hour, carried[channel])
                rows = _outside(hour.rows[channel], silent)
                order = np.lexsort((rows["place"], rows["arrival"]))
                hour.rows[channel] = {name: column[order] for name, column in rows.items()}
        yield hour
