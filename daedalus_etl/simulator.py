"""The demo's market: a seeded limit order book that writes bronze segments.

One lane (a symbol of one exchange) is one random market: a fundamental price that walks with clustered
volatility, a book on a price grid whose spread changes between tight and wide regimes, order flow with a
persistent sign, trades that take what they hit out of the book, and quotes that follow its best levels. The
market runs in integer ticks, lots and microseconds inside numba kernels; the generator is ours, so the numbers
are the same with the JIT on and off. A second, independent step soils the rows in the ways SPEC section 2
lists: the market under the dirt is the one that `dirt=0` shows.

Everything is made capture hour by capture hour, so memory does not grow with the length of the market. No wall
clock: same arguments, same bytes (for one pyarrow version).

    summary = simulate("data", Market(hours=0.5, symbols=2, seed=7))
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit

from daedalus_etl.errors import DaedalusError

CHANNELS = ("orderbook", "trades", "ticker")
LEVELS = 20  # visible levels per side
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
WARM_UP_US = 60 * SECOND_US
GAP_US = 7 * 60 * SECOND_US  # longer than max_staleness (300 s)
HISTORY_MS = 41 * 24 * 3600 * 1000  # the age of a replayed history at subscription
TRADE_DEDUPE_WINDOW_US = 900 * SECOND_US

_LEVEL_LIST = pa.list_(pa.struct([pa.field("price", pa.float64()), pa.field("size", pa.float64())]))
_COMMON = [
    pa.field("collected_at", pa.int64()),
    pa.field("capture_ts", pa.timestamp("us", tz="UTC")),
    pa.field("exchange", pa.string()),
    pa.field("symbol", pa.string()),
    pa.field("year", pa.int32()),
    pa.field("month", pa.int32()),
    pa.field("day", pa.int32()),
    pa.field("hour", pa.int32()),
]
_QUOTE_COLUMNS = (
    *("bid", "ask", "bid_volume", "ask_volume", "last", "open", "high", "low", "close", "vwap"),
    *("base_volume", "quote_volume", "change", "percentage"),
)
#: The bronze columns of each channel (SPEC section 2), in the order in which they are written.
SCHEMAS: dict[str, pa.Schema] = {
    "orderbook": pa.schema(
        [
            *_COMMON,
            pa.field("timestamp", pa.int64()),
            pa.field("nonce", pa.int64()),
            pa.field("bids", _LEVEL_LIST),
            pa.field("asks", _LEVEL_LIST),
        ]
    ),
    "trades": pa.schema(
        [
            *_COMMON,
            pa.field("trade_id", pa.string()),
            pa.field("timestamp", pa.int64()),
            pa.field("side", pa.string()),
            pa.field("price", pa.float64()),
            pa.field("amount", pa.float64()),
            pa.field("cost", pa.float64()),
            pa.field("info_json", pa.string()),
        ]
    ),
    "ticker": pa.schema(
        [
            *_COMMON,
            *[pa.field(name, pa.float64()) for name in _QUOTE_COLUMNS],
            pa.field("timestamp", pa.int64()),
            pa.field("info_json", pa.string()),
        ]
    ),
}
_DICTIONARY_COLUMNS = ("exchange", "symbol", "year", "month", "day", "hour", "side")


# ---------------------------------------------------------------------------------------------------------------
# What a user says


@dataclass(frozen=True)
class _Instrument:
    """The scale of one symbol. price = ticks / ticks_per_unit, size = lots / lots_per_unit."""

    price: float  # where the market starts, quote currency
    ticks_per_unit: int
    lots_per_unit: int
    level_size: float  # a typical level, in units
    trade_size: float  # a typical market order, in units
    spread: int  # the tight spread, ticks
    gap: float  # mean distance of neighbouring levels, ticks
    volatility_bps: float  # of the fundamental, per square root of a second


# price, tick and size scales near those of large venues; SHIB and PEPE check what assumes numbers near 1.
_INSTRUMENTS: dict[str, _Instrument] = {
    "BTC-USDT": _Instrument(78_412.3, 10, 100_000, 0.6, 0.02, 2, 6.0, 0.25),
    "ETH-USDT": _Instrument(2_318.45, 100, 10_000, 8.0, 0.4, 2, 4.0, 0.3),
    "SOL-USDT": _Instrument(103.42, 100, 1_000, 150.0, 6.0, 1, 1.3, 0.4),
    "DOGE-USDT": _Instrument(0.10873, 100_000, 1, 40_000.0, 1_500.0, 1, 1.4, 0.45),
    "SHIB-USDT": _Instrument(0.00001214, 100_000_000, 1, 180_000_000.0, 4_000_000.0, 1, 1.05, 0.5),
    "BTC-USDT-USDT": _Instrument(78_430.1, 10, 1_000, 2.5, 0.05, 1, 4.0, 0.25),
    "ETH-USDT-USDT": _Instrument(2_319.1, 100, 1_000, 30.0, 1.0, 1, 3.0, 0.3),
    "XRP-USDT": _Instrument(1.6123, 10_000, 10, 9_000.0, 400.0, 1, 1.3, 0.35),
    "BNB-USDT": _Instrument(761.52, 100, 1_000, 6.0, 0.3, 1, 3.0, 0.25),
    "ADA-USDT": _Instrument(0.2957, 10_000, 10, 60_000.0, 2_000.0, 1, 1.1, 0.45),
    "LINK-USDT": _Instrument(9.731, 1_000, 100, 700.0, 25.0, 1, 1.4, 0.4),
    "AVAX-USDT": _Instrument(10.04, 1_000, 100, 500.0, 20.0, 2, 2.0, 0.45),
    "LTC-USDT": _Instrument(59.87, 100, 1_000, 90.0, 3.0, 1, 1.2, 0.35),
    "DOT-USDT": _Instrument(1.552, 1_000, 100, 3_000.0, 120.0, 1, 1.1, 0.45),
    "PEPE-USDT": _Instrument(0.00000432, 1_000_000_000, 1, 900_000_000.0, 20_000_000.0, 1, 1.2, 0.6),
    "ETH-BTC": _Instrument(0.02957, 1_000_000, 10_000, 12.0, 0.2, 2, 3.0, 0.2),
}
_OTHER = _Instrument(100.0, 100, 1_000, 20.0, 1.0, 1, 1.5, 0.4)


def well_known_symbols(count: int) -> tuple[str, ...]:
    """The first `count` of a fixed list of symbols; from the 17th on SYM017-USDT, SYM018-USDT, ..."""
    names = list(_INSTRUMENTS)[:count]
    return (*names, *(f"SYM{number:03d}-USDT" for number in range(len(names) + 1, count + 1)))


def sanitize(value: str) -> str:
    """A name as it stands in paths and data: each of / \\ : * ? " < > | becomes a hyphen (SPEC section 2)."""
    return re.sub(r'[/\\:*?"<>|]', "-", value)


@dataclass(frozen=True)
class Market:
    """What to simulate.

    hours: length of the market. symbols: names, or how many of the well-known ones (names are sanitized; an
    unknown one gets a price near 100). start: capture time of the beginning, UTC where it names no zone; the
    default has both sides of midnight. dirt: share of dirty rows, spread evenly over the kinds of `DIRT_KINDS`.
    *_per_second: mean rates of rows; calm and bursts alternate. segment_seconds: length of a bronze segment.

    Raises DaedalusError for values that make no market.
    """

    hours: float = 1.0
    symbols: tuple[str, ...] | int = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "SHIB-USDT")
    exchange: str = "demo"
    start: datetime = datetime(2026, 2, 3, 23, 30, tzinfo=UTC)
    seed: int = 7
    dirt: float = 0.01
    segment_seconds: float = 60
    books_per_second: float = 5
    trades_per_second: float = 3
    quotes_per_second: float = 5

    def __post_init__(self) -> None:
        if isinstance(self.symbols, str):  # a str is a sequence of letters: one symbol is meant
            object.__setattr__(self, "symbols", (self.symbols,))
        if not isinstance(self.symbols, int):
            object.__setattr__(self, "symbols", tuple(self.symbols))
        _check_market(self)

    @property
    def names(self) -> tuple[str, ...]:
        """The symbols as they stand in paths and data."""
        if isinstance(self.symbols, int):
            return well_known_symbols(self.symbols)
        return tuple(sanitize(symbol) for symbol in self.symbols)

    @property
    def span_us(self) -> tuple[int, int]:
        """Beginning and end of the capture times, microseconds since the epoch, end excluded."""
        start = self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC)
        start_us = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return start_us, start_us + round(self.hours * HOUR_US)


def _check_market(market: Market) -> None:
    """Refuses a market that cannot be, with the field's name and the range that it allows."""

    def refuse(field: str, cure: str) -> None:
        raise DaedalusError(f"{field} = {getattr(market, field)!r} makes no market.", "simulator", cure)

    ranges = {
        "hours": (1 / 3600, 24 * 3660),
        "dirt": (0, 0.5),
        "segment_seconds": (0.1, 3600),
        "books_per_second": (0, 10_000),
        "trades_per_second": (0, 10_000),
        "quotes_per_second": (0, 10_000),
    }
    for field, (low, high) in ranges.items():
        value = getattr(market, field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            refuse(field, f"A number from {low:g} to {high:g}.")
    if isinstance(market.seed, bool) or not isinstance(market.seed, int):
        refuse("seed", "A whole number.")
    if not isinstance(market.start, datetime) or not 1971 <= market.start.year <= 2200:
        refuse("start", "A datetime between 1971 and 2200.")
    if isinstance(market.symbols, int) and not 1 <= market.symbols <= 1000:
        refuse("symbols", "Names, or how many of the well-known ones: 1 to 1000.")
    if not isinstance(market.exchange, str) or not _is_name(market.exchange):
        refuse("exchange", "A name of 1 to 200 printable characters.")
    if isinstance(market.symbols, tuple) and not (
        market.symbols and all(isinstance(symbol, str) and _is_name(symbol) for symbol in market.symbols)
    ):
        refuse("symbols", "At least one name; each has 1 to 200 printable characters.")
    if len(set(market.names)) < len(market.names):
        refuse("symbols", "Each symbol once, also after / : and the like became hyphens.")


def _is_name(value: str) -> bool:
    return bool(value.strip()) and value.isprintable() and len(value.encode()) <= 200


@dataclass(frozen=True)
class LaneSummary:
    """What was written for one lane: rows, segments (files) and bytes on disk."""

    channel: str
    exchange: str
    symbol: str
    rows: int
    segments: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """What `simulate` wrote, per channel and lane, and in all."""

    lanes: tuple[LaneSummary, ...]

    @property
    def rows(self) -> int:
        """Rows of all lanes."""
        return sum(lane.rows for lane in self.lanes)

    @property
    def segments(self) -> int:
        """Files of all lanes."""
        return sum(lane.segments for lane in self.lanes)

    @property
    def bytes(self) -> int:
        """Bytes on disk of all lanes."""
        return sum(lane.bytes for lane in self.lanes)

    def channel(self, name: str) -> LaneSummary:
        """The sums of one channel, with '*' for exchange and symbol."""
        lanes = [lane for lane in self.lanes if lane.channel == name]
        rows, segments, size = (sum(getattr(lane, field.name) for lane in lanes) for field in fields(LaneSummary)[3:])
        return LaneSummary(name, "*", "*", rows, segments, size)


# ---------------------------------------------------------------------------------------------------------------
# The market: numba kernels over two records and the two sides of a book.
# Side 0 is the bids, side 1 the asks; ticks[side, 0] is the best price. Level arrays are kept one per side.

_BID, _ASK = 0, 1
_BOOK, _TRADE, _QUOTE, _FLOW = 0, 1, 2, 3
_MAX_FILLS = 8  # of one market order
_MEAN_FILLS = 1.52  # measured; the rate of orders is that of trades over this

#: What a market is and does not change.
_PARAMETERS = np.dtype(
    [
        ("ticks_per_unit", "f8"),
        ("lots_per_unit", "f8"),
        ("level_lots", "f8"),
        ("trade_lots", "f8"),
        ("spread", "i8"),  # tight, ticks
        ("gap", "f8"),  # ticks
        ("sigma", "f8"),  # of the fundamental, ticks per square root of a second
        ("home", "f8"),  # the fundamental's long-run level, ticks
        ("offset_us", "i8"),  # exchange clock minus local clock
        ("book_rate", "f8"),  # events per second
        ("order_rate", "f8"),
        ("quote_rate", "f8"),
        ("flow_rate", "f8"),
    ]
)
#: What changes.
_STATE = np.dtype(
    [
        ("random", "i8"),
        ("clock_us", "i8"),  # local receive time of the last event
        ("event_ms", "i8"),  # exchange time of the last event: never falls
        ("latency_us", "f8"),
        ("fundamental", "f8"),  # ticks
        ("volatility", "f8"),  # 1 in the mean
        ("activity", "f8"),  # factor on all rates, 1 in the mean
        ("activity_end_us", "i8"),
        ("regime", "i8"),  # of the spread: 0 tight, 1 normal, 2 wide
        ("regime_end_us", "i8"),
        ("target_spread", "i8"),  # ticks
        ("sign", "i8"),  # of the last market order
        ("nonce", "i8"),
        ("trade_id", "i8"),
        ("last", "i8"),  # ticks, like open, high and low: the day's figures of the ticker
        ("open", "i8"),
        ("high", "i8"),
        ("low", "i8"),
        ("volume", "f8"),  # lots
        ("turnover", "f8"),  # lots * ticks
    ]
)


@njit(cache=True)
def _random(s):
    """32 random bits: Marsaglia's multiply-with-carry (the one in KISS99). The product stays below 2**62, so it
    needs no wrap-around and is the same with the JIT off; splitmix64 warns there at every step."""
    x = s["random"]
    x = 698769069 * (x & 0xFFFFFFFF) + (x >> 32)
    s["random"] = x
    return x & 0xFFFFFFFF


@njit(cache=True)
def _uniform(s):
    return (_random(s) + 0.5) / 4294967296.0


@njit(cache=True)
def _below(s, n):
    return (_random(s) * n) >> 32


@njit(cache=True)
def _exponential(s):
    return -math.log(_uniform(s))


@njit(cache=True)
def _normal(s):
    """Mean 0, variance 1: the sum of four uniforms, so bounded by 3.5 and free of libm."""
    return (_uniform(s) + _uniform(s) + _uniform(s) + _uniform(s) - 2.0) * 1.7320508075688772


@njit(cache=True)
def _lots(s, typical):
    return max(1, int(typical * (0.1 + 0.9 * _exponential(s))))


@njit(cache=True)
def _insert(ticks, lots, count, side, i, price, size):
    """A new level at index i; the last one falls off a full side."""
    n = min(count[side], LEVELS - 1)
    for j in range(n, i, -1):
        ticks[side, j] = ticks[side, j - 1]
        lots[side, j] = lots[side, j - 1]
    ticks[side, i] = price
    lots[side, i] = size
    count[side] = n + 1


@njit(cache=True)
def _remove(ticks, lots, count, side, i):
    for j in range(i, count[side] - 1):
        ticks[side, j] = ticks[side, j + 1]
        lots[side, j] = lots[side, j + 1]
    count[side] -= 1


@njit(cache=True)
def _deepen(p, s, ticks, lots, count, side, least):
    """Adds levels behind the last one until the side has `least`; bids end at one tick."""
    outward = 2 * side - 1
    while count[side] < least:
        n = count[side]
        step = 1 + int((p["gap"] - 1.0) * _exponential(s))
        price = ticks[side, n - 1] + outward * step
        if price < 1:
            return
        _insert(ticks, lots, count, side, n, price, _lots(s, p["level_lots"] * (1.0 + 0.08 * n)))


@njit(cache=True)
def _new_regimes(p, s):
    """Draws the next spread regime and the next calm or burst where the present one has ended."""
    now = s["clock_us"]
    if now >= s["activity_end_us"]:
        # 4 of 5 parts of the time at 0.5, one at 3: 1 in the mean
        burst = s["activity"] < 1.0
        s["activity"] = 3.0 if burst else 0.5
        s["activity_end_us"] = now + 1 + int((3e6 if burst else 12e6) * _exponential(s))
    if now >= s["regime_end_us"]:
        draw = _uniform(s)
        spread = p["spread"]
        if draw < 0.45:
            s["regime"] = 0
            s["target_spread"] = spread
        elif draw < 0.8:
            s["regime"] = 1
            s["target_spread"] = 2 * spread + _below(s, spread + 1)
        else:
            s["regime"] = 2
            s["target_spread"] = 4 * spread + _below(s, 3 * spread)
        s["regime_end_us"] = now + 1 + int(25e6 * _exponential(s))


@njit(cache=True)
def _advance(p, s, step_us):
    """Moves the clocks and the fundamental by one step."""
    s["clock_us"] += step_us
    seconds = step_us * 1e-6
    root = math.sqrt(seconds)
    vol = s["volatility"]
    vol += 0.05 * (1.0 - vol) * min(seconds, 10.0) + 0.25 * vol * root * _normal(s)
    s["volatility"] = min(max(vol, 0.3), 5.0)
    pace = 1.5 if s["activity"] > 1.0 else 0.8
    pull = 1e-5 * (p["home"] - s["fundamental"]) * seconds  # over a day: months stay near home
    moved = s["fundamental"] + pull + p["sigma"] * pace * s["volatility"] * root * _normal(s)
    s["fundamental"] = max(moved, 0.2 * p["home"])
    s["latency_us"] = min(max(s["latency_us"] + 2000.0 * _normal(s), 4000.0), 90000.0)
    sent_us = s["clock_us"] - int(s["latency_us"] * (0.8 + 0.4 * _uniform(s))) + p["offset_us"]
    s["event_ms"] = max(s["event_ms"], sent_us // 1000)


@njit(cache=True)
def _requote(p, s, ticks, lots, count, up):
    """The book follows the fundamental: quotes in its way are pulled, the other side moves up behind it."""
    chased = _ASK if up else _BID
    follower = 1 - chased
    sign = 1 if up else -1
    half = 0.5 * s["target_spread"]
    front = math.ceil(s["fundamental"] + half) if up else math.floor(s["fundamental"] - half)
    while count[chased] > 0 and (front - ticks[chased, 0]) * sign > 0:
        _remove(ticks, lots, count, chased, 0)
    if count[chased] == 0:
        _insert(ticks, lots, count, chased, 0, front, _lots(s, p["level_lots"]))
    _deepen(p, s, ticks, lots, count, chased, max(count[chased], 10))
    behind = front - sign * s["target_spread"]
    if behind >= 1 and (behind - ticks[follower, 0]) * sign > 0:
        _insert(ticks, lots, count, follower, 0, behind, _lots(s, p["level_lots"]))


@njit(cache=True)
def _improve(p, s, ticks, lots, count, side, room):
    """A limit order inside the spread."""
    inward = 1 - 2 * side
    price = ticks[side, 0] + inward * (1 + _below(s, room))
    _insert(ticks, lots, count, side, 0, price, _lots(s, 0.5 * p["level_lots"]))


@njit(cache=True)
def _resize(p, s, ticks, lots, count, side):
    """A limit order or a cancellation at a level that is there, or a new level in a gap."""
    i = min(int(2.5 * _exponential(s)), count[side] - 1)
    draw = _uniform(s)
    if draw < 0.42:
        lots[side, i] += _lots(s, 0.5 * p["level_lots"])
    elif draw < 0.85:
        left = int(lots[side, i] * (1.0 - _uniform(s)))
        if left * 20.0 < p["level_lots"] and count[side] > 8:
            _remove(ticks, lots, count, side, i)
        else:
            lots[side, i] = max(left, 1)
    elif i + 1 < count[side]:
        free = abs(ticks[side, i + 1] - ticks[side, i]) - 1
        if free > 0:
            price = ticks[side, i] + (2 * side - 1) * (1 + _below(s, free))
            _insert(ticks, lots, count, side, i + 1, price, _lots(s, p["level_lots"]))


@njit(cache=True)
def _flow(p, s, ticks, lots, count):
    """One event of the order flow that is no trade."""
    s["nonce"] += 1 + _below(s, 3)
    spread = ticks[_ASK, 0] - ticks[_BID, 0]
    drift = s["fundamental"] - 0.5 * (ticks[_ASK, 0] + ticks[_BID, 0])
    side = _below(s, 2)
    draw = _uniform(s)
    if abs(drift) > 0.5 * spread + p["gap"] - 0.5 and draw < 0.5:
        _requote(p, s, ticks, lots, count, drift > 0.0)
    elif spread > s["target_spread"] and draw < 0.6:
        _improve(p, s, ticks, lots, count, side, spread - s["target_spread"])
    elif spread < s["target_spread"] and draw < 0.15:
        _remove(ticks, lots, count, side, 0)
    else:
        _resize(p, s, ticks, lots, count, side)
    for each in range(2):
        _deepen(p, s, ticks, lots, count, each, min(count[each] + 1, LEVELS))


@njit(cache=True)
def _order_sign(s, mid):
    """Mostly that of the last order, otherwise leaning to where the fundamental is: autocorrelated, informed."""
    if _uniform(s) < 0.6:
        return s["sign"]
    lean = 0.7 if s["fundamental"] > mid else 0.3
    return 1 if _uniform(s) < lean else -1


@njit(cache=True)
def _order(p, s, ticks, lots, count, n, end_us, t_int, t_float):
    """One market order: its fills as trades from row n on; the book is smaller at once. Returns the next row."""
    sign = _order_sign(s, 0.5 * (ticks[_BID, 0] + ticks[_ASK, 0]))
    s["sign"] = sign
    side = _ASK if sign > 0 else _BID
    # a ratio of uniforms: a tail as heavy as 1/x, cut at 60 times the typical size
    left = max(1, int(p["trade_lots"] * min(_uniform(s) / _uniform(s), 60.0)))
    if _uniform(s) < 0.04:
        left = max(left, lots[side, 0])  # takes the whole best level
    first = n
    while left > 0 and n - first < _MAX_FILLS and s["clock_us"] < end_us - 1:
        fill = min(left, lots[side, 0])
        if fill > 1 and _uniform(s) < 0.3:
            fill = 1 + _below(s, min(fill, 2147483647))  # two makers at one price
        if n > first:
            s["clock_us"] += 1 + _below(s, min(60, end_us - 1 - s["clock_us"]))
        price = ticks[side, 0]
        s["trade_id"] += 1
        s["nonce"] += 1
        t_int[n, 0] = s["clock_us"]
        t_int[n, 1] = s["event_ms"]
        t_int[n, 2] = s["trade_id"]
        t_int[n, 3] = sign
        t_float[n, 0] = price / p["ticks_per_unit"]
        t_float[n, 1] = fill / p["lots_per_unit"]
        s["last"] = price
        s["high"] = max(s["high"], price)
        s["low"] = min(s["low"], price)
        s["volume"] += float(fill)
        s["turnover"] += float(fill) * float(price)
        left -= fill
        lots[side, 0] -= fill
        n += 1
        if lots[side, 0] == 0:
            if count[side] > 3:
                _remove(ticks, lots, count, side, 0)
            else:
                lots[side, 0] = 1
                left = 0
    return n


@njit(cache=True)
def _snapshot(p, s, ticks, lots, count, n, b_int, price, size, used):
    """Row n of the books: times, nonce and the visible levels (one flat run per side from used[side] on)."""
    visible = LEVELS
    if _uniform(s) < 0.02:
        visible = 12 + _below(s, 8)
    s["nonce"] += 1
    b_int[n, 0] = s["clock_us"]
    b_int[n, 1] = s["event_ms"]
    b_int[n, 2] = s["nonce"]
    for side in range(2):
        levels = min(visible, count[side])
        at = used[side]
        b_int[n, 3 + 2 * side] = at
        b_int[n, 4 + 2 * side] = levels
        for i in range(levels):
            price[side, at + i] = ticks[side, i] / p["ticks_per_unit"]
            size[side, at + i] = lots[side, i] / p["lots_per_unit"]
        used[side] = at + levels


@njit(cache=True)
def _quote(p, s, ticks, lots, n, q_int, q_float):
    """Row n of the ticker: the best levels and the day's figures."""
    unit = p["ticks_per_unit"]
    q_int[n, 0] = s["clock_us"]
    q_int[n, 1] = s["event_ms"]
    q_int[n, 2] = s["nonce"]
    q_float[n, 0] = ticks[_BID, 0] / unit
    q_float[n, 1] = ticks[_ASK, 0] / unit
    q_float[n, 2] = lots[_BID, 0] / p["lots_per_unit"]
    q_float[n, 3] = lots[_ASK, 0] / p["lots_per_unit"]
    q_float[n, 4] = s["last"] / unit
    q_float[n, 5] = s["open"] / unit
    q_float[n, 6] = s["high"] / unit
    q_float[n, 7] = s["low"] / unit
    q_float[n, 8] = s["last"] / unit
    q_float[n, 9] = s["turnover"] / s["volume"] / unit
    q_float[n, 10] = s["volume"] / p["lots_per_unit"]
    q_float[n, 11] = s["turnover"] / p["lots_per_unit"] / unit
    q_float[n, 12] = (s["last"] - s["open"]) / unit
    q_float[n, 13] = 100.0 * (s["last"] - s["open"]) / s["open"]


@njit(cache=True)
def _open_book(p, s, ticks, lots, count):
    """The first book, around home."""
    for side in range(2):
        best = int(p["home"]) + side * p["spread"]
        _insert(ticks, lots, count, side, 0, best, _lots(s, p["level_lots"]))
    for i in range(2 * LEVELS):
        side = i % 2
        _deepen(p, s, ticks, lots, count, side, min(count[side] + 1, LEVELS))


@njit(cache=True)
def _run(p, s, ticks, lots, count, end_us, rows, b_int, price, size, t_int, t_float, q_int, q_float):
    """Runs the market until `end_us` or until an output is full; rows[channel] counts what is in each.

    The waiting time is drawn anew at the end of a run or a regime: it is exponential, so nothing changes by it.
    Returns whether `end_us` was reached.
    """
    used = np.zeros(2, np.int64)
    total = p["book_rate"] + p["order_rate"] + p["quote_rate"] + p["flow_rate"]
    while True:
        if rows[0] >= len(b_int) or rows[1] + _MAX_FILLS > len(t_int) or rows[2] >= len(q_int):
            return False
        wait_us = 1 + int(1e6 * _exponential(s) / (total * s["activity"]))
        stop_us = min(end_us, s["activity_end_us"], s["regime_end_us"])
        if s["clock_us"] + wait_us >= stop_us:
            if stop_us >= end_us:
                # at the last microsecond: the next run begins after it
                _advance(p, s, max(end_us - 1 - s["clock_us"], 0))
                return True
            _advance(p, s, max(stop_us - s["clock_us"], 0))
            _new_regimes(p, s)
            continue
        _advance(p, s, wait_us)
        draw = _uniform(s) * total
        if draw < p["flow_rate"]:
            _flow(p, s, ticks, lots, count)
        elif draw < p["flow_rate"] + p["book_rate"]:
            _snapshot(p, s, ticks, lots, count, rows[0], b_int, price, size, used)
            rows[0] += 1
        elif draw < p["flow_rate"] + p["book_rate"] + p["order_rate"]:
            rows[1] = _order(p, s, ticks, lots, count, rows[1], end_us, t_int, t_float)
        else:
            _quote(p, s, ticks, lots, rows[2], q_int, q_float)
            rows[2] += 1


@njit(cache=True)
def _gather(start, length, price, size, out_price, out_size):
    """Copies the levels of each row, in the rows' order, into contiguous arrays."""
    at = 0
    for row in range(len(start)):
        begin = start[row]
        for i in range(length[row]):
            out_price[at + i] = price[begin + i]
            out_size[at + i] = size[begin + i]
        at += length[row]


# ---------------------------------------------------------------------------------------------------------------
# One lane, capture hour by capture hour: rows are a dict of equally long arrays. "x_null" marks NULLs of x,
# "arrival" and then "place" give the order in the files, and books point at their levels (start and length in flat
# arrays).

_Rows = dict[str, np.ndarray]


@dataclass
class _Hour:
    """The rows of one lane captured in one hour (or in the part of it that the market covers)."""

    number: int
    start_us: int
    end_us: int
    rows: dict[str, _Rows]
    price: np.ndarray  # float64[2, levels]: the books' levels, flat
    size: np.ndarray


def _digest(*key: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def _parameters(market: Market, symbol: str) -> tuple[np.void, np.void]:
    """The two records of a lane's market before its first event."""
    scale = _INSTRUMENTS.get(symbol, _OTHER)
    bits = _digest("market", market.seed, market.exchange, symbol)
    home = round(scale.price * scale.ticks_per_unit)
    p = np.zeros(1, _PARAMETERS)[0]
    p["ticks_per_unit"] = scale.ticks_per_unit
    p["lots_per_unit"] = scale.lots_per_unit
    p["level_lots"] = scale.level_size * scale.lots_per_unit
    p["trade_lots"] = scale.trade_size * scale.lots_per_unit
    p["spread"] = scale.spread
    p["gap"] = scale.gap
    p["sigma"] = home * scale.volatility_bps * 1e-4
    p["home"] = home
    # 1 to 2 s, and the symbol decides the sign: a market of two symbols mostly has both
    p["offset_us"] = (1_000_000 + bits % 1_000_000) * (1 if _digest("offset", symbol) % 2 else -1)
    p["flow_rate"] = 6.0 + 2.0 * market.books_per_second  # the other rates are 0 until the market opens
    s = np.zeros(1, _STATE)[0]
    s["random"] = 1 + bits % (698769069 * 2**32 - 2)
    s["clock_us"] = market.span_us[0] - WARM_UP_US
    s["latency_us"] = 30_000.0
    s["fundamental"] = home
    s["volatility"] = 1.0
    s["activity"] = 3.0
    s["sign"] = 1
    s["nonce"] = 7_000_000_000 + bits % 1_000_000_000
    s["trade_id"] = 400_000_000 + bits % 100_000_000
    day_open = round(home * (0.97 + 0.06 * (bits % 1000) / 1000))
    s["last"], s["open"] = home, day_open
    s["high"] = round(max(home, day_open) * 1.006) + 1
    s["low"] = round(min(home, day_open) * 0.994) - 1
    s["volume"] = round(float(p["trade_lots"]) * 200_000)
    s["turnover"] = s["volume"] * round((home + day_open) / 2)
    return p, s


def _clean_hours(market: Market, symbol: str) -> Iterator[_Hour]:
    """The lane without dirt."""
    p, s = _parameters(market, symbol)
    ticks, lots = np.zeros((2, LEVELS), np.int64), np.zeros((2, LEVELS), np.int64)
    count = np.zeros(2, np.int64)
    world = (p, s, ticks, lots, count)
    begin, end = market.span_us
    _open_book(*world)
    _hour(market, 0, begin, begin, world)  # the flow that made the book; nobody sees it
    p["book_rate"] = market.books_per_second
    p["order_rate"] = market.trades_per_second / _MEAN_FILLS
    p["quote_rate"] = market.quotes_per_second
    number = 0
    while begin < end:
        stop = min(begin - begin % HOUR_US + HOUR_US, end)
        yield _hour(market, number, begin, stop, world)
        begin, number = stop, number + 1


def _hour(market: Market, number: int, begin: int, end: int, world: tuple[Any, ...]) -> _Hour:
    """Runs the market to `end`; a full output only means one more piece."""
    rates = (market.books_per_second, market.trades_per_second, market.quotes_per_second)
    room = [int(1.15 * rate * (end - begin) / SECOND_US) + 64 for rate in rates]
    pieces = []
    levels, done = 0, False
    while not done:
        rows = np.zeros(3, np.int64)
        out = _outputs(*room)
        done = _run(*(*world, end, rows, *out))
        piece = _filled(out, *rows.tolist())
        piece["books"][:, [3, 5]] += levels  # the level runs of later pieces stand behind those of earlier ones
        levels += piece["price"].shape[1]
        pieces.append(piece)
        room = [n // 8 + 64 for n in room]
    whole = pieces[0]
    if len(pieces) > 1:
        axes = {name: 1 if name in ("price", "size") else 0 for name in whole}
        whole = {name: np.concatenate([piece[name] for piece in pieces], axis=axis) for name, axis in axes.items()}
    return _Hour(number, begin, end, _columns(whole), whole["price"], whole["size"])


def _outputs(books: int, trades: int, quotes: int) -> tuple[np.ndarray, ...]:
    """What `_run` fills, with room for so many rows."""
    levels = books * LEVELS
    return (
        *(np.empty((books, 7), np.int64), np.empty((2, levels)), np.empty((2, levels))),
        *(np.empty((trades, 4), np.int64), np.empty((trades, 2))),
        *(np.empty((quotes, 3), np.int64), np.empty((quotes, len(_QUOTE_COLUMNS)))),
    )


def _filled(out: tuple[np.ndarray, ...], books: int, trades: int, quotes: int) -> _Rows:
    """The part of the outputs that `_run` filled."""
    b_int, price, size, t_int, t_float, q_int, q_float = out
    last = b_int[books - 1].tolist() if books else [0] * 7
    levels = max(last[3] + last[4], last[5] + last[6])
    return {
        "books": b_int[:books],
        "price": price[:, :levels],
        "size": size[:, :levels],
        "trades": t_int[:trades],
        "trade_values": t_float[:trades],
        "quotes": q_int[:quotes],
        "quote_values": q_float[:quotes],
    }


def _columns(whole: _Rows) -> dict[str, _Rows]:
    """The kernel's matrices as columns that dirt can edit."""
    layout: dict[str, list[tuple[str, Sequence[str]]]] = {
        "orderbook": [
            ("books", ("capture", "timestamp", "nonce", "bids_start", "bids_length", "asks_start", "asks_length"))
        ],
        "trades": [("trades", ("capture", "timestamp", "trade_id", "side")), ("trade_values", ("price", "amount"))],
        "ticker": [("quotes", ("capture", "timestamp", "nonce")), ("quote_values", _QUOTE_COLUMNS)],
    }
    nullable = {
        "orderbook": ("timestamp", "nonce", "bids", "asks"),
        "trades": ("timestamp", "trade_id", "side"),
        "ticker": ("timestamp", "bid", "ask", "bid_volume", "ask_volume"),
    }
    by_channel = {}
    for channel, matrices in layout.items():
        rows = {name: whole[key][:, i].copy() for key, names in matrices for i, name in enumerate(names)}
        rows["arrival"] = rows["capture"].copy()
        rows["place"] = np.arange(len(rows["capture"]))
        rows |= {f"{name}_null": np.zeros(len(rows["capture"]), bool) for name in nullable[channel]}
        by_channel[channel] = rows
    trades = by_channel["trades"]
    trades["side"] = np.where(trades["side"] > 0, _BUY, _SELL).astype(np.int8)
    trades["is_text_id"] = np.zeros(len(trades["side"]), bool)
    return by_channel


# ---------------------------------------------------------------------------------------------------------------
# Dirt. Each kind has its own seeded generator and its own rows; kinds that add rows come last, so that a full
# duplicate is one. A kind edits the picked rows in place or returns rows to add.


@dataclass(frozen=True)
class _Soil:
    """What a kind of dirt gets: the hour, the channel's rows, the picked ones, its generator."""

    hour: _Hour
    rows: _Rows
    picks: np.ndarray
    random: np.random.Generator
    segment_us: int

    def take(self, picks: np.ndarray) -> _Rows:
        return {name: column[picks] for name, column in self.rows.items()}


_Kind = Callable[[_Soil], _Rows | None]
_SIDES = ("buy", "sell", "BUY", "SELL", "Buy", "unknown", "b", "")
_BUY, _SELL = 0, 1


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


def _duplicate_adjacent(soil: _Soil) -> _Rows:
    return soil.take(soil.picks)


def _duplicate_later(soil: _Soil) -> _Rows:
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

    def kind(soil: _Soil) -> _Rows:
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
    """Spells the side otherwise: codes first..last of _SIDES."""

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
            price[_BID, bid], price[_ASK, ask] = price[_ASK, ask], price[_BID, bid]
        else:
            price[_BID, bid] = price[_ASK, ask]

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
        "second_connection": _second_connection(20_000, 5 * SECOND_US, at_the_end=True),
        "second_connection_late": _second_connection(
            TRADE_DEDUPE_WINDOW_US + SECOND_US, TRADE_DEDUPE_WINDOW_US + 120 * SECOND_US, at_the_end=False
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


def _history(hour: _Hour, rows: _Rows, random: np.random.Generator) -> _Rows:
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
        random = np.random.default_rng(_digest("silence", market.seed, market.exchange, symbol, day_start))
        if span >= HOUR_US // 2:
            at = day_start + int(min(span, HOUR_US) * random.uniform(0.2, 0.6))
            silent.append((at, at + GAP_US))
        if span >= 3 * HOUR_US:
            first = day_start - day_start % HOUR_US + HOUR_US  # neither the first hour nor the last
            hours = (day_start + span - 1 - first) // HOUR_US
            at = first + HOUR_US * int(random.integers(0, hours))
            silent.append((at, at + HOUR_US))
    return silent


def _joined(parts: Sequence[_Rows]) -> _Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _where(rows: _Rows, keep: np.ndarray) -> _Rows:
    return rows if keep.all() else {name: column[keep] for name, column in rows.items()}


def _outside(rows: _Rows, silent: list[tuple[int, int]]) -> _Rows:
    keep = np.ones(len(rows["capture"]), bool)
    for begin, end in silent:
        keep &= (rows["capture"] < begin) | (rows["capture"] >= end)
    return _where(rows, keep)


def _soiled(market: Market, symbol: str, channel: str, hour: _Hour, carried: list[_Rows]) -> list[_Rows]:
    """Soils one channel of one hour in place; returns the rows that belong to later hours."""
    rows = hour.rows[channel]
    n = len(rows["capture"])
    kinds = _DIRT[channel]
    expected = market.dirt * n / len(kinds)
    taken = np.zeros(n, bool)
    parts = [rows]
    for name, kind in kinds.items():
        key = ("dirt", market.seed, market.exchange, symbol, channel, hour.number, name)
        random = np.random.default_rng(_digest(*key))
        picks = _pick(random, taken, int(expected + random.random()))
        extra = (
            kind(_Soil(hour, rows, picks, random, round(market.segment_seconds * SECOND_US))) if len(picks) else None
        )
        if extra is not None:
            parts.append(extra)
    if channel == "trades" and hour.number == 0 and n:
        random = np.random.default_rng(_digest("history", market.seed, market.exchange, symbol))
        parts.insert(0, _history(hour, rows, random))
    every = _joined(parts + carried)
    hour.rows[channel] = _where(every, every["capture"] < hour.end_us)
    later = _where(every, every["capture"] >= hour.end_us)
    return [later]


def _hours(market: Market, symbol: str) -> Iterator[_Hour]:
    """The lane as it is received, dirt and all; rows are in arrival order."""
    silent = _silences(market, symbol) if market.dirt > 0 else []
    carried: dict[str, list[_Rows]] = {channel: [] for channel in CHANNELS}
    for hour in _clean_hours(market, symbol):
        if market.dirt > 0:
            for channel in CHANNELS:
                hour.rows[channel] = _outside(hour.rows[channel], silent)
                carried[channel] = _soiled(market, symbol, channel, hour, carried[channel])
                rows = _outside(hour.rows[channel], silent)
                order = np.lexsort((rows["place"], rows["arrival"]))
                hour.rows[channel] = {name: column[order] for name, column in rows.items()}
        yield hour


# ---------------------------------------------------------------------------------------------------------------
# Arrow and Parquet


def _levels_array(rows: _Rows, column: str, price: np.ndarray, size: np.ndarray) -> pa.Array:
    start, length = rows[f"{column}_start"], rows[f"{column}_length"]
    null = rows[f"{column}_null"]
    length = np.where(null, 0, length)
    offsets = np.zeros(len(length) + 1, np.int32)
    np.cumsum(length, out=offsets[1:])
    out_price, out_size = np.empty(offsets[-1]), np.empty(offsets[-1])
    _gather(start, length, price, size, out_price, out_size)
    levels = pa.StructArray.from_arrays([pa.array(out_price), pa.array(out_size)], fields=list(_LEVEL_LIST.value_type))
    mask = pa.array(null) if null.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), levels, type=_LEVEL_LIST, mask=mask)


def _plain(rows: _Rows, name: str) -> pa.Array:
    """A numeric column; without a mask where nothing is NULL, which writes faster."""
    null = rows.get(f"{name}_null")
    return pa.array(rows[name], mask=null if null is not None and null.any() else None)


def _text(*parts: object) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _table(hour: _Hour, channel: str, exchange: str, symbol: str) -> pa.Table:
    """The rows of a channel as bronze has them."""
    rows = hour.rows[channel]
    n = len(rows["capture"])
    partition = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour.start_us // HOUR_US)
    columns: dict[str, pa.Array] = {
        "collected_at": pa.array(rows["capture"] // 1000),
        "capture_ts": pa.array(rows["capture"]).cast(pa.timestamp("us", tz="UTC")),
        "exchange": pa.repeat(exchange, n),
        "symbol": pa.repeat(symbol, n),
        "timestamp": _plain(rows, "timestamp"),
    }
    for part in ("year", "month", "day", "hour"):
        columns[part] = pa.repeat(pa.scalar(getattr(partition, part), pa.int32()), n)
    if channel == "orderbook":
        columns["nonce"] = _plain(rows, "nonce")
        for side, name in enumerate(("bids", "asks")):
            columns[name] = _levels_array(rows, name, hour.price[side], hour.size[side])
    elif channel == "trades":
        number = pa.array(rows["trade_id"]).cast(pa.string())
        trade_id = pc.if_else(pa.array(rows["is_text_id"]), _text("T", number, "-a"), number)
        columns["trade_id"] = pc.if_else(pa.array(rows["trade_id_null"]), pa.scalar(None, pa.string()), trade_id)
        codes = pa.array(rows["side"], mask=rows["side_null"])
        columns["side"] = pa.DictionaryArray.from_arrays(codes, pa.array(_SIDES)).dictionary_decode()
        columns["price"], columns["amount"] = pa.array(rows["price"]), pa.array(rows["amount"])
        with np.errstate(invalid="ignore"):  # dirt multiplies infinity by zero
            columns["cost"] = pa.array(rows["price"] * rows["amount"])
        columns["info_json"] = _text('{"e":"trade","t":', number, "}")
    else:
        columns |= {name: _plain(rows, name) for name in _QUOTE_COLUMNS}
        columns["info_json"] = _text('{"e":"quote","u":', pa.array(rows["nonce"]).cast(pa.string()), "}")
    schema = SCHEMAS[channel]
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def lane_hours(market: Market, symbol: str) -> Iterator[dict[str, pa.Table]]:
    """One lane in memory, capture hour by capture hour: channel -> rows in arrival order, `SCHEMAS` columns.

    Hours come in order and hold all of the hour's rows, possibly none. Late rows (dirt) arrive in their own hour.
    Raises DaedalusError if the symbol is not one of the market's.
    """
    name = _own_symbol(market, symbol)
    exchange = sanitize(market.exchange)
    for hour in _hours(market, name):
        yield {channel: _table(hour, channel, exchange, name) for channel in CHANNELS}


def lane_tables(market: Market, symbol: str) -> dict[str, pa.Table]:
    """One whole lane in memory: channel -> table in arrival order, columns as in `SCHEMAS` (SPEC section 2).

    About 700 bytes a book. Raises DaedalusError if the symbol is not one of the market's.
    """
    hours = list(lane_hours(market, symbol))
    return {channel: pa.concat_tables([tables[channel] for tables in hours]) for channel in CHANNELS}


def _own_symbol(market: Market, symbol: str) -> str:
    name = sanitize(symbol)
    if name not in market.names:
        raise DaedalusError(f"{symbol} is not in this market.", "simulator", f"Symbols: {', '.join(market.names)}.")
    return name


def partition_folder(
    data_root: str | os.PathLike[str], source: str, channel: str, exchange: str, symbol: str, hour: int
) -> str:
    """The folder of one lane-hour; `hour` counts hours since the epoch. Numbers are unpadded (SPEC section 2)."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
    return os.path.join(
        os.fspath(data_root),
        *("raw", "ready", sanitize(source), channel, f"exchange={sanitize(exchange)}", f"symbol={sanitize(symbol)}"),
        *(f"year={at.year}", f"month={at.month}", f"day={at.day}", f"hour={at.hour}"),
    )


def _last_number(folder: str) -> int:
    """The highest number of a segment in the folder, 0 where there is none."""
    if not os.path.isdir(folder):
        return 0
    found = (re.fullmatch(r"segment_\d{8}T\d{2}_(\d+)\.parquet", name) for name in os.listdir(folder))
    return max((int(match[1]) for match in found if match), default=0)


def _cuts(capture: np.ndarray, segment_us: int) -> list[int]:
    """Where segments begin: at the first row, and where a row came a segment's length after its first."""
    latest = np.maximum.accumulate(capture)
    cuts = [0]
    while cuts[-1] < len(capture):
        cuts.append(int(np.searchsorted(latest, latest[cuts[-1]] + segment_us)))
    return cuts


def write_segments(
    data_root: str | os.PathLike[str],
    source: str,
    channel: str,
    exchange: str,
    symbol: str,
    table: pa.Table,
    segment_seconds: float = 60,
) -> list[str]:
    """Writes rows in arrival order as a collector would; returns the paths of the new files, in order.

    A segment ends when the capture hour does or `segment_seconds` after its first row. Numbers go on after those
    that the hour's folder holds: called again with later rows, it adds files and changes none. Each file is
    written under a name that no reader globs and then renamed (no fsync: a demo can be made again).
    `table` has the columns of `SCHEMAS[channel]`, its exchange and symbol are sanitized. Raises DaedalusError if not.
    """
    if channel not in SCHEMAS:
        raise DaedalusError(f"There is no channel {channel!r}.", "simulator", f"Channels: {', '.join(CHANNELS)}.")
    if not table.schema.equals(SCHEMAS[channel]):
        raise DaedalusError(f"The table has not the columns of {channel}.", "simulator", "See simulator.SCHEMAS.")
    dictionary = [name for name in table.schema.names if name in _DICTIONARY_COLUMNS]
    capture = table["capture_ts"].cast(pa.int64()).to_numpy()
    hours = capture // HOUR_US
    paths = []
    for hour in np.unique(hours):
        at = np.flatnonzero(hours == hour)
        whole = len(at) == at[-1] - at[0] + 1
        part = table.slice(at[0], len(at)) if whole else table.take(pa.array(at))
        folder = partition_folder(data_root, source, channel, exchange, symbol, int(hour))
        os.makedirs(folder, exist_ok=True)
        stamp = f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=int(hour)):%Y%m%dT%H}"
        number = _last_number(folder)
        cuts = _cuts(capture[at], round(segment_seconds * SECOND_US))
        for begin, end in pairwise(cuts):
            number += 1
            path = os.path.join(folder, f"segment_{stamp}_{number:05d}.parquet")
            hidden = path + ".inprogress"
            pq.write_table(part.slice(begin, end - begin), hidden, compression="zstd", use_dictionary=dictionary)
            os.replace(hidden, path)
            paths.append(path)
    return paths


def simulate(
    data_root: str | os.PathLike[str],
    market: Market,
    source: str = "ccxt",
    channels: Sequence[str] = CHANNELS,
) -> Summary:
    """Writes the market's bronze segments under `data_root` (SPEC section 2) and says what it wrote.

    Same arguments, same files. Raises DaedalusError for an unknown channel, and before it writes anything if an
    hour of the market has segments already: bronze is written once.
    """
    unknown = [channel for channel in channels if channel not in CHANNELS]
    if unknown or not channels or isinstance(channels, str) or not _is_name(source):
        what = f"Cannot write channels {channels!r} of source {source!r}."
        raise DaedalusError(what, "simulator", f"Channels: {', '.join(CHANNELS)}; a source has a name.")
    begin, end = market.span_us
    for channel in channels:
        for symbol in market.names:
            for number in range(begin // HOUR_US, (end - 1) // HOUR_US + 1):
                folder = partition_folder(data_root, source, channel, market.exchange, symbol, number)
                if _last_number(folder):
                    hint = "Choose an empty data root, or remove that folder: segments are written once."
                    raise DaedalusError("There are segments already.", folder, hint)
    lanes = []
    exchange = sanitize(market.exchange)
    for symbol in market.names:
        rows = dict.fromkeys(channels, 0)
        paths: dict[str, list[str]] = {channel: [] for channel in channels}
        for hour in _hours(market, symbol):
            for channel in channels:
                table = _table(hour, channel, exchange, symbol)
                rows[channel] += table.num_rows
                paths[channel] += write_segments(
                    data_root, source, channel, exchange, symbol, table, market.segment_seconds
                )
        for channel in channels:
            size = sum(os.path.getsize(path) for path in paths[channel])
            lanes.append(LaneSummary(channel, exchange, symbol, rows[channel], len(paths[channel]), size))
    return Summary(tuple(lanes))
