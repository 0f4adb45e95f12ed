"""The exchange: a limit order book and who trades on it, as numba kernels over two records and the two sides of a book.

Side 0 is the bids, side 1 the asks; ticks[side, 0] is the best price. Level arrays are kept one per side.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from daedalus_etl.simulator.market import LEVELS

BID, ASK = 0, 1
_BOOK, _TRADE, _QUOTE, _FLOW = 0, 1, 2, 3
_MAX_FILLS = 8  # of one market order
MEAN_FILLS = 1.52  # measured; the rate of orders is that of trades over this

#: What a market is and does not change.
PARAMETERS = np.dtype(
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
STATE = np.dtype(
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
    chased = ASK if up else BID
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
    spread = ticks[ASK, 0] - ticks[BID, 0]
    drift = s["fundamental"] - 0.5 * (ticks[ASK, 0] + ticks[BID, 0])
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
    sign = _order_sign(s, 0.5 * (ticks[BID, 0] + ticks[ASK, 0]))
    s["sign"] = sign
    side = ASK if sign > 0 else BID
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
    q_float[n, 0] = ticks[BID, 0] / unit
    q_float[n, 1] = ticks[ASK, 0] / unit
    q_float[n, 2] = lots[BID, 0] / p["lots_per_unit"]
    q_float[n, 3] = lots[ASK, 0] / p["lots_per_unit"]
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
def open_book(p, s, ticks, lots, count):
    """The first book, around home."""
    for side in range(2):
        best = int(p["home"]) + side * p["spread"]
        _insert(ticks, lots, count, side, 0, best, _lots(s, p["level_lots"]))
    for i in range(2 * LEVELS):
        side = i % 2
        _deepen(p, s, ticks, lots, count, side, min(count[side] + 1, LEVELS))


@njit(cache=True)
def run(p, s, ticks, lots, count, end_us, rows, b_int, price, size, t_int, t_float, q_int, q_float):
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
def gather(start, length, price, size, out_price, out_size):
    """Copies the levels of each row, in the rows' order, into contiguous arrays."""
    at = 0
    for row in range(len(start)):
        begin = start[row]
        for i in range(length[row]):
            out_price[at + i] = price[begin + i]
            out_size[at + i] = size[begin + i]
        at += length[row]
