"""Trades on their way to a book: signed volume in time windows, and VPIN's volume clock.

Trade flow imbalance windows hold the known-side trades by their own clock. VPIN (Easley, Lopez de Prado, O'Hara 2012)
counts in whole units of 1e-9, so a bucket is full at exactly its volume and a split loses nothing.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from daedalus_etl.kernels import exact

MAX_WINDOWS = 16

FLOW = np.dtype(
    [
        ("order", np.int64),  # lane order of the last trade of this partition; the next must be one more
        ("clock", np.int64),  # us, of the last trade
        ("seen", np.int64),  # valid trades since the lane's beginning
        ("since", np.int64),  # valid trades since the last valid book
        ("price", np.float64),  # of the last valid trade
        ("tick", np.int64),  # sign of the last non-zero price change, 0 before the first
        ("fill", np.int64),  # units in the open bucket
        ("net", np.int64),  # buys - sells in the open bucket, units
        ("full", np.int64),  # buckets filled since the lane's beginning
        ("vpin", np.float64),
        ("valued", np.int64),  # 1 while that is the value of the buckets as they are
        ("head", np.int64),  # ring position of the next trade
        ("total", np.uint64, (2, exact.LIMBS)),  # bought and sold since the ring's beginning
        ("mark", np.uint64, (2, exact.LIMBS)),  # the same at the last valid book
        ("tail", np.int64, (MAX_WINDOWS,)),  # ring position of each window's first trade
        ("rolling", np.int64),  # windows in use
        ("window", np.int64, (MAX_WINDOWS,)),  # us
    ]
)

# The ring of known-side trades, a power of two long: amount is + for a buy, - for a sell.
DEAL = np.dtype([("clock", np.int64), ("amount", np.float64), ("total", np.uint64, (2, exact.LIMBS))])

# order, clock int64[n]; is_valid bool[n]; price, amount float64[n]; side int8[n], 1 buy, -1 sell, 0 unknown
Trades = namedtuple("Trades", "order clock is_valid price amount side")

BUY, SELL = 0, 1
MISSING_ORDER = -2
BAD_CLOCK = -3


@njit(cache=True, error_model="numpy")
def _close_bucket(f, bucket, net):
    bucket[f["full"] % bucket.shape[0]] = abs(net)
    f["full"] += 1
    f["net"] = 0
    f["fill"] = 0
    f["valued"] = 0


@njit(cache=True, error_model="numpy")
def fill_buckets(f, bucket, amount, sign, volume):
    """Add `amount` to VPIN's buckets of `volume` units of 1e-9; sign 0 counts half and half, so nets nothing."""
    units = np.rint(amount * 1e9)
    rest = np.int64(np.fmod(units, np.float64(volume)))
    whole = np.int64(min((units - np.float64(rest)) / np.float64(volume), 1e15))
    space = volume - f["fill"]
    if whole == 0 and rest < space:
        f["fill"] += rest
        f["net"] += sign * rest
        return
    _close_bucket(f, bucket, f["net"] + sign * space)
    if rest >= space:
        rest -= space
    else:
        rest += volume - space
        whole -= 1
    kept = min(whole, np.int64(bucket.shape[0]))  # older ones would be overwritten at once
    f["full"] += whole - kept
    for _ in range(kept):
        _close_bucket(f, bucket, sign * volume)
    f["fill"] = rest
    f["net"] = sign * rest


@njit(cache=True, error_model="numpy", inline="always")
def vpin(f, bucket, volume):
    """sum |Vb - Vs| / (n V) over the last full buckets; NaN until the first is full. Most books find none filled since
    the last."""
    n = min(f["full"], np.int64(bucket.shape[0]))
    if n == 0:
        return np.nan
    if f["valued"] == 0:
        total = 0.0
        for i in range(f["full"] - n, f["full"]):  # oldest first: sums beyond 2**53 round
            total += np.float64(bucket[i % bucket.shape[0]])
        f["vpin"] = total / (np.float64(n) * np.float64(volume))
        f["valued"] = 1
    return f["vpin"]


@njit(cache=True, error_model="numpy")
def remember_trade(f, deals, clock, amount):
    """Put a known-side trade (amount + buy, - sell) into the ring."""
    deal = deals[f["head"] & (deals.shape[0] - 1)]
    deal["clock"] = clock
    deal["amount"] = amount
    for side in range(2):
        for limb in range(exact.LIMBS):
            deal["total"][side, limb] = f["total"][side, limb]
    f["head"] += 1
    exact.add(f["total"], BUY if amount >= 0.0 else SELL, abs(amount))
    expire_trades(f, deals, clock)


@njit(cache=True, error_model="numpy", inline="always")
def expire_trades(f, deals, now):
    """Move every window's tail to its first trade with a clock in (now - h, now]."""
    mask = deals.shape[0] - 1
    for w in range(f["rolling"]):
        tail = f["tail"][w]
        edge = now - f["window"][w]
        while tail < f["head"] and deals[tail & mask]["clock"] <= edge:
            tail += 1
        f["tail"][w] = tail


@njit(cache=True, error_model="numpy", inline="always")
def imbalances(f, deals, out, c, i):
    """tfi and trade_vol of every window into out[c + 2w], out[c + 2w + 1]."""
    for w in range(f["rolling"]):
        bought, sold = 0.0, 0.0
        if f["tail"][w] < f["head"]:
            first = deals[f["tail"][w] & (deals.shape[0] - 1)]
            bought = exact.difference(f["total"], BUY, first["total"], BUY)
            sold = exact.difference(f["total"], SELL, first["total"], SELL)
        out[c + 2 * w + 1, i] = bought + sold
        if bought + sold > 0.0:
            out[c + 2 * w, i] = (bought - sold) / (bought + sold)


@njit(cache=True, error_model="numpy")
def take(f, deals, bucket, volume, until, first, trades):
    """Take the trades from `first` on with a clock at or before `until`; returns the position of the next.

    Returns MISSING_ORDER or BAD_CLOCK if the trades are not in lane order.
    """
    i = first
    while i < trades.order.shape[0] and trades.clock[i] <= until:
        if trades.order[i] != f["order"] + 1:
            return MISSING_ORDER
        if trades.clock[i] < f["clock"]:
            return BAD_CLOCK
        f["order"] = trades.order[i]
        f["clock"] = trades.clock[i]
        if trades.is_valid[i]:
            price, amount = trades.price[i], trades.amount[i]
            if f["seen"] > 0 and price != f["price"]:
                f["tick"] = 1 if price > f["price"] else -1
            f["price"] = price
            f["seen"] += 1
            f["since"] += 1
            sign = np.int64(trades.side[i])
            if sign != 0:
                remember_trade(f, deals, trades.clock[i], amount if sign > 0 else -amount)
            else:
                sign = f["tick"]
            fill_buckets(f, bucket, amount, sign, volume)
        i += 1
    return i


@njit(cache=True, error_model="numpy")
def recall(f, deals, clock, amount):
    """Put saved trades back."""
    for i in range(clock.shape[0]):
        remember_trade(f, deals, clock[i], amount[i])
