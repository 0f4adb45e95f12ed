"""The stateful features of an order book lane, one snapshot after the other (SPEC section 7, 'Stateful').

One call takes a batch of books and the trades up to them. Windows are rings: a row enters once and leaves once, sums
are exact (`exact`), ranks cost O(log n) (`ranks`), extremes are monotonic queues. What is in the rings is the whole
memory, so a state that is saved, loaded and walked on gives the same bits.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from daedalus_etl.kernels import exact, flow, ranks

VERSION = 1

MAX_WINDOWS = 16  # rolling windows
MAX_LEVELS = 64
# A row of the ring, float64: what must be known of a valid book to have it in, and take it out of, every window.
(
    RETURN, OFI, MLOFI, RELATIVE, BID_SLOPE, ASK_SLOPE, COG, DEPTH, SPREAD, NET, REGIME, HELD,
) = range(12)  # fmt: skip
FIELDS = 12
NORMAL, TIGHT, WIDE = 0, 1, 2

# Exact sums, in the order of BOOK.sums. First the running sums of what every rolling window has, of which a row keeps
# the values before it; then sums over one window: (x), (x*x) of the two slopes, the centre of gravity and the depth;
# then the two regressions, (x), (y), (xy), (xx), (yy) each.
S_RETURN, S_SQUARE, S_OFI, S_MLOFI, S_RELATIVE, ROLLING_SUMS = range(6)
S_SLOW, S_REGRESSION, SUMS = 5, 13, 23
# What a row adds to them: term j goes to sum TARGET[j]; a product is two terms, itself and its rounding error.
TARGET = np.array(
    [0, 1, 1, 2, 3, 4]
    + [S_SLOW + 2 * k + d for k in range(4) for d in (0, 1, 1)]
    + [S_REGRESSION + 5 * w + d for w in range(2) for d in (0, 1, 2, 2, 3, 3, 4, 4)]
)
E_ROLLING, E_SLOPES, E_DEPTH, E_KYLE, E_BETA, TERMS = 0, 6, 15, 18, 26, 34
# Tails of the windows beyond the rolling ones.
T_SLOPES, T_DEPTH, T_REGIME, T_KYLE, T_EDGE = range(5)
# Monotonic queues: least and greatest y and x of either regression.
QUEUES = 8

# One record of the lane. The arrays in it have fixed shapes, so that other windows or levels need no new compilation; a
# record, not a tuple of arrays or a jitclass, because it has no reference counts (3 us a row) and is cached on disk.
BOOK = np.dtype(
    [
        ("order", np.int64),  # lane order of the last book of this partition; the next must be one more
        ("clock", np.int64),  # us, of the last book, valid or not
        ("books", np.int64),  # valid books since the lane's beginning
        ("at", np.int64),  # us, clock of the last valid book
        ("origin", np.int64),  # us, when it was received (its own clock unless resampled): gaps are judged on this
        ("mid", np.float64),
        ("dt", np.float64),  # s
        ("velocity", np.float64),  # price per s, NaN where it does not exist
        ("levels", np.float64, (4, MAX_LEVELS)),  # its bid prices, bid sizes, ask prices, ask sizes
        ("head", np.int64),  # ring position of the next row
        ("returns", np.int64),  # rows with a log return since the ring's beginning
        ("spent", np.int64, (3,)),  # counted time since the ring's beginning, us: all, tight, wide
        ("sums", np.uint64, (SUMS, exact.LIMBS)),
        ("counts", np.int64, (6,)),  # values of the slow fields and pairs of the regressions in their windows
        ("tail", np.int64, (MAX_WINDOWS + 5,)),  # ring position of each window's first row
        ("ends", np.int64, (QUEUES, 2)),  # first and behind the last of each monotonic queue
        ("heap", np.int64, (3,)),
        # configuration
        ("rolling", np.int64),
        ("depth", np.int64),
        ("window", np.int64, (MAX_WINDOWS + 5,)),  # us
        ("weight", np.float64, (MAX_LEVELS,)),
        # scratch
        ("row", np.float64, (FIELDS,)),
        ("terms", np.float64, (TERMS,)),
        ("pair", np.float64, (5, 2)),
        ("number", np.uint64, (1, exact.LIMBS)),
        ("zero", np.uint64, (SUMS, exact.LIMBS)),
    ]
)

# The ring of valid books, a power of two long.
RING = np.dtype(
    [
        ("clock", np.int64),
        ("row", np.float64, (FIELDS,)),
        ("returns", np.int64),  # BOOK.returns, .spent and .sums as they were before this row
        ("spent", np.int64, (3,)),
        ("sums", np.uint64, (ROLLING_SUMS, exact.LIMBS)),
        ("queue", np.int64, (QUEUES,)),  # slot k of the queues: a ring position
    ]
)

Books = namedtuple("Books", "order clock origin is_valid mid spread relative bid_slope ask_slope cog depth levels")
Trades = flow.Trades

LARGEST = 4503599627370496.0  # 2**52: a larger term's square would not fit the sums; it counts as missing
MISSING_ORDER, BAD_CLOCK = flow.MISSING_ORDER, flow.BAD_CLOCK


@njit(cache=True, error_model="numpy")
def _level_flow(price, size, last_price, last_size, direction):
    """One side's part of e_n (Cont, Kukanov, Stoikov 2014); direction 1 for bids, -1 for asks."""
    change = (price - last_price) * direction
    if change > 0.0:
        return size
    if change < 0.0:
        return -last_size
    return size - last_size


@njit(cache=True, error_model="numpy")
def _bounded(x):
    return x if abs(x) <= LARGEST else np.nan


@njit(cache=True, error_model="numpy")
def _y(row, which):
    """The regressor of regression `which` (0 Kyle, 1 OFI beta)."""
    return row[NET] if which == 0 else row[OFI]


@njit(cache=True, error_model="numpy")
def _terms(row, terms, first, last):
    """What the row adds to the sums: terms[first:last], NaN where it adds nothing. `first` and `last` stand between the
    groups of terms: rolling, slopes and centre of gravity, depth, the two regressions."""
    x = row[RETURN]
    if first == E_ROLLING:
        terms[0] = x
        terms[1], terms[2] = exact.product(x, x)
        terms[3], terms[4], terms[5] = row[OFI], row[MLOFI], row[RELATIVE]
    for k in range(4):
        e = E_SLOPES + 3 * k
        if first <= e < last:
            y = row[BID_SLOPE + k]
            terms[e] = y
            terms[e + 1], terms[e + 2] = exact.product(y, y)
    if last == TERMS:
        for which in range(2):
            y = _y(row, which)
            e = E_KYLE + 8 * which
            terms[e], terms[e + 1] = x + 0.0 * y, y + 0.0 * x  # NaN unless there is a pair
            terms[e + 2], terms[e + 3] = exact.product(x, y)
            terms[e + 4], terms[e + 5] = exact.product(terms[e], terms[e])
            terms[e + 6], terms[e + 7] = exact.product(terms[e + 1], terms[e + 1])


@njit(cache=True, error_model="numpy")
def _queue_value(ring, q, seq):
    row = ring[seq & (ring.shape[0] - 1)]["row"]
    return row[RETURN] if q & 2 else _y(row, q >> 2)


@njit(cache=True, error_model="numpy")
def _enqueue(s, ring, which, seq):
    """Queues of a regression, in order: least y, greatest y, least x, greatest x."""
    mask = ring.shape[0] - 1
    ends = s["ends"]
    for q in range(4 * which, 4 * which + 4):
        x = _queue_value(ring, q, seq)
        direction = 1.0 if q & 1 else -1.0
        last = ends[q, 1]
        while last > ends[q, 0] and (
            (x - _queue_value(ring, q, ring[(last - 1) & mask]["queue"][q])) * direction >= 0.0
        ):
            last -= 1
        ring[last & mask]["queue"][q] = seq
        ends[q, 1] = last + 1


@njit(cache=True, error_model="numpy")
def _is_constant(s, ring, q):
    """Do the values between queues q (least) and q + 1 (greatest) differ by no more than 1e-9 of the largest?"""
    mask = ring.shape[0] - 1
    low = _queue_value(ring, q, ring[s["ends"][q, 0] & mask]["queue"][q])
    high = _queue_value(ring, q + 1, ring[s["ends"][q + 1, 0] & mask]["queue"][q + 1])
    return high - low <= 1e-9 * max(abs(low), abs(high))


@njit(cache=True, error_model="numpy")
def _count(counts, terms, first, last, by):
    """Count the row's slow fields and pairs among terms[first:last]."""
    for k in range(4):
        e = E_SLOPES + 3 * k
        if first <= e < last and terms[e] == terms[e]:
            counts[k] += by
    for k in range(2):
        e = E_KYLE + 8 * k
        if first <= e < last and terms[e] == terms[e]:
            counts[4 + k] += by


@njit(cache=True, error_model="numpy", inline="always")
def remember(s, ring, nodes, clock, row):
    """Put a row (float64[FIELDS]) into every window. HELD is the counted time since the row before it, us."""
    mask = ring.shape[0] - 1
    spent, sums, terms = s["spent"], s["sums"], s["terms"]
    if s["head"] > 0 and row[HELD] > 0.0:
        held = np.int64(row[HELD])
        regime = np.int64(ring[(s["head"] - 1) & mask]["row"][REGIME])
        spent[0] += held
        if regime != NORMAL:
            spent[regime] += held
    new = ring[s["head"] & mask]
    new["clock"] = clock
    for k in range(FIELDS):
        new["row"][k] = row[k]
    for k in range(ROLLING_SUMS):
        for limb in range(exact.LIMBS):
            new["sums"][k, limb] = sums[k, limb]
    new["returns"] = s["returns"]
    for k in range(3):
        new["spent"][k] = spent[k]
    _terms(row, terms, 0, TERMS)
    exact.add_terms(sums, TARGET, terms, 0, TERMS, 1.0)
    _count(s["counts"], terms, 0, TERMS, 1)
    if row[RETURN] == row[RETURN]:
        s["returns"] += 1
    for which in range(2):
        if terms[E_KYLE + 8 * which] == terms[E_KYLE + 8 * which]:
            _enqueue(s, ring, which, s["head"])
    ranks.insert(s["heap"], nodes, row[SPREAD])
    s["head"] += 1


@njit(cache=True, error_model="numpy", inline="always")
def expire(s, ring, nodes, now):
    """Take out of every window the rows whose clock is at or before now - h."""
    mask = ring.shape[0] - 1
    ends, terms = s["ends"], s["terms"]
    for w in range(s["rolling"] + 5):
        edge = now - s["window"][w]
        tail = s["tail"][w]
        kind = w - s["rolling"]
        if kind == T_EDGE:  # the last row at or before the edge: its regime reaches into the window
            while tail + 1 < s["head"] and ring[(tail + 1) & mask]["clock"] <= edge:
                tail += 1
            s["tail"][w] = tail
            continue
        while tail < s["head"] and ring[tail & mask]["clock"] <= edge:
            row = ring[tail & mask]["row"]
            if kind == T_REGIME:
                ranks.remove(s["heap"], nodes, row[SPREAD])
            elif kind >= 0:
                first, last = E_SLOPES, E_DEPTH
                if kind == T_DEPTH:
                    first, last = E_DEPTH, E_KYLE
                elif kind == T_KYLE:
                    first, last = E_KYLE, TERMS
                    for q in range(QUEUES):
                        if ends[q, 1] > ends[q, 0] and ring[ends[q, 0] & mask]["queue"][q] == tail:
                            ends[q, 0] += 1
                _terms(row, terms, first, last)
                exact.add_terms(s["sums"], TARGET, terms, first, last, -1.0)
                _count(s["counts"], terms, first, last, -1)
            tail += 1
        s["tail"][w] = tail


@njit(cache=True, error_model="numpy")
def recall(s, ring, nodes, clock, row):
    """Put saved rows back."""
    for i in range(clock.shape[0]):
        remember(s, ring, nodes, clock[i], row[i])


@njit(cache=True, error_model="numpy")
def _std(n, pair):
    """Sample standard deviation of n >= 2 values from pair = [sum(x), sum(x*x)]."""
    v = exact.centred(n, pair[1, 0], pair[1, 1], pair[0, 0], pair[0, 1], pair[0, 0], pair[0, 1])
    return np.sqrt(max(v, 0.0) / (np.float64(n) * np.float64(n - 1)))


@njit(cache=True, error_model="numpy")
def _regression(n, p):
    """Slope of x on y, and r2 (NaN if x does not vary), from pair = sums of x, y, xy, xx, yy."""
    covariance = exact.centred(n, p[2, 0], p[2, 1], p[0, 0], p[0, 1], p[1, 0], p[1, 1])
    of_x = exact.centred(n, p[3, 0], p[3, 1], p[0, 0], p[0, 1], p[0, 0], p[0, 1])
    of_y = exact.centred(n, p[4, 0], p[4, 1], p[1, 0], p[1, 1], p[1, 0], p[1, 1])
    if of_y <= 0.0:
        return np.nan, np.nan
    if of_x <= 0.0:
        return covariance / of_y, np.nan
    return covariance / of_y, min((covariance / of_y) * (covariance / of_x), 1.0)


@njit(cache=True, error_model="numpy", inline="always")
def _regime_shares(s, ring, now, out, column, i):
    """Share of the window's counted time spent tight and wide."""
    mask = ring.shape[0] - 1
    w = s["rolling"] + T_EDGE
    tail = s["tail"][w]
    first = ring[tail & mask]
    edge = now - s["window"][w]
    before = 0  # of the edge row's own time, what lies before the window
    if first["clock"] < edge and tail + 1 < s["head"] and ring[(tail + 1) & mask]["spent"][0] > first["spent"][0]:
        before = edge - first["clock"]
    regime = np.int64(first["row"][REGIME])
    counted = s["spent"][0] - first["spent"][0] - before
    if counted <= 0:
        return
    for k in (TIGHT, WIDE):
        spent = s["spent"][k] - first["spent"][k] - (before if regime == k else 0)
        out[column + k - 1, i] = spent / counted


@njit(cache=True, error_model="numpy", inline="always")
def _against_last(s, now, origin, mid, levels, i, max_staleness, out):
    """What compares a valid book with the last valid one; fills s.row and s.velocity, s.dt of this book.

    Takes of the books what it needs: a call counts a reference to each array that it is given, 6 ns an array.
    """
    row = s["row"]
    for k in range(FIELDS):
        row[k] = np.nan
    row[HELD] = 0.0
    has_last = s["books"] > 0
    gap = has_last and origin - s["origin"] > max_staleness
    out[1, i] = 1.0 if gap else 0.0
    if has_last:
        out[0, i] = now - s["at"]
    dt = (now - s["at"]) * 1e-6
    velocity = np.nan
    if has_last and not gap:
        row[HELD] = now - s["at"]
        mlofi = 0.0
        for k in range(s["depth"]):
            e = 0.0
            price, last = levels[0, k, i], s["levels"][0, k]
            if price == price and last == last:
                e += _level_flow(price, levels[1, k, i], last, s["levels"][1, k], 1.0)
            price, last = levels[2, k, i], s["levels"][2, k]
            if price == price and last == last:
                e -= _level_flow(price, levels[3, k, i], last, s["levels"][3, k], -1.0)
            if k == 0:
                row[OFI] = e
            mlofi += s["weight"][k] * e
        row[MLOFI] = mlofi
        row[RETURN] = np.log(mid / s["mid"])
        out[2, i], out[3, i], out[4, i] = row[OFI], row[MLOFI], row[RETURN]
        if now > s["at"]:
            velocity = (mid - s["mid"]) / dt
            out[5, i] = velocity
            if s["velocity"] == s["velocity"]:
                out[6, i] = (velocity - s["velocity"]) / ((dt + s["dt"]) / 2.0)
    s["dt"], s["velocity"] = dt, velocity


@njit(cache=True, error_model="numpy", inline="always")
def _interval(s, f, out, c, i):
    """The trades since the last valid book."""
    if f["seen"] > 0:
        bought = exact.difference(f["total"], 0, f["mark"], 0)
        sold = exact.difference(f["total"], 1, f["mark"], 1)
        out[c, i], out[c + 1, i], out[c + 2, i] = bought, sold, f["since"]
        net = bought - sold
        s["row"][NET] = _bounded(0.0 if abs(net) <= 1e-12 * (bought + sold) else net)
    f["since"] = 0
    for side in range(2):
        for limb in range(exact.LIMBS):
            f["mark"][side, limb] = f["total"][side, limb]


@njit(cache=True, error_model="numpy", inline="always")
def _rolling(s, ring, out, i):
    """Sums, means and deviations of the rolling windows."""
    pair = s["pair"]
    for w in range(s["rolling"]):
        c = 7 + 6 * w
        first = ring[s["tail"][w] & (ring.shape[0] - 1)]
        n = s["returns"] - first["returns"]
        if n > 0:
            exact.pairs(s["sums"], S_RETURN, 2, first["sums"], S_RETURN, s["number"], pair)
            out[c, i] = exact.difference(s["sums"], S_OFI, first["sums"], S_OFI)
            out[c + 1, i] = exact.difference(s["sums"], S_MLOFI, first["sums"], S_MLOFI)
            out[c + 2, i] = np.sqrt(max(pair[S_SQUARE, 0], 0.0))
            out[c + 4, i] = pair[S_RETURN, 0] / n
        if n > 1:
            out[c + 3, i] = _std(n, pair)
        spread = exact.difference(s["sums"], S_RELATIVE, first["sums"], S_RELATIVE)
        out[c + 5, i] = spread / (s["head"] - s["tail"][w])


@njit(cache=True, error_model="numpy", inline="always")
def _slow(s, ring, out, c, i):
    """Regressions, then means and deviations of the fields that have one window."""
    pair = s["pair"]
    for which in range(2):
        n = s["counts"][4 + which]
        if n >= 3 and not _is_constant(s, ring, 4 * which):
            exact.pairs(s["sums"], S_REGRESSION + 5 * which, 5, s["zero"], 0, s["number"], pair)
            slope, r2 = _regression(n, pair)
            out[c + 2 * which, i] = slope
            if not _is_constant(s, ring, 4 * which + 2):
                out[c + 1 + 2 * which, i] = r2
    for k in range(4):
        n = s["counts"][k]
        if n > 0:
            exact.pairs(s["sums"], S_SLOW + 2 * k, 2, s["zero"], 0, s["number"], pair)
        if n > 0 and k < 3:
            out[c + 4 + 2 * k, i] = pair[0, 0] / n
        if n > 1:
            out[c + 5 + 2 * k if k < 3 else c + 10, i] = _std(n, pair)


@njit(cache=True, error_model="numpy")
def advance(s, ring, nodes, f, deals, bucket, books, trades, max_staleness, volume, out):
    """Walk a batch of books; returns how many trades were taken, or MISSING_ORDER / BAD_CLOCK.

    s, f: records BOOK and FLOW; ring, nodes, deals, bucket: their rings; books: arrays of n rows (levels float64[4,
    ofi_levels, n]: bid prices, bid sizes, ask prices, ask sizes, NaN where a book has no such level); trades: arrays of
    m rows; max_staleness us; volume of a VPIN bucket in units of 1e-9; out float64[columns, n], NaN for NULL.
    """
    rolling = s["rolling"]
    taken = 0
    for i in range(books.order.shape[0]):
        if books.order[i] != s["order"] + 1:
            return MISSING_ORDER
        now = books.clock[i]
        if now < s["clock"]:
            return BAD_CLOCK
        s["order"] = books.order[i]
        s["clock"] = now
        for k in range(out.shape[0]):
            out[k, i] = np.nan
        if not books.is_valid[i]:
            continue
        if taken < trades.order.shape[0] and trades.clock[taken] <= now:
            taken = flow.take(f, deals, bucket, volume, now, taken, trades)
            if taken < 0:
                return taken
        flow.expire_trades(f, deals, now)

        _against_last(s, now, books.origin[i], books.mid[i], books.levels, i, max_staleness, out)
        _interval(s, f, out, 7 + 6 * rolling, i)
        row = s["row"]
        row[RELATIVE] = books.relative[i]
        row[BID_SLOPE] = _bounded(books.bid_slope[i])
        row[ASK_SLOPE] = _bounded(books.ask_slope[i])
        row[COG] = _bounded(books.cog[i])
        row[DEPTH] = _bounded(books.depth[i])
        row[SPREAD] = books.spread[i]
        row[REGIME] = NORMAL  # until its rank is known, below
        remember(s, ring, nodes, now, row)
        expire(s, ring, nodes, now)

        _rolling(s, ring, out, i)
        c = 10 + 6 * rolling
        if f["seen"] > 0:
            flow.imbalances(f, deals, out, c, i)
        c += 2 * rolling
        smaller = ranks.smaller(s["heap"], nodes, books.spread[i], 1e-9 * books.mid[i])
        percentile = smaller / nodes[s["heap"][ranks.ROOT]]["total"]
        regime = TIGHT if percentile <= 0.2 else (WIDE if percentile >= 0.8 else NORMAL)
        ring[(s["head"] - 1) & (ring.shape[0] - 1)]["row"][REGIME] = regime
        out[c, i], out[c + 1, i] = percentile, regime
        _regime_shares(s, ring, now, out, c + 2, i)
        _slow(s, ring, out, c + 4, i)
        if f["seen"] > 0:
            out[c + 15, i] = flow.vpin(f, bucket, volume)

        s["books"] += 1
        s["at"], s["origin"], s["mid"] = now, books.origin[i], books.mid[i]
        for k in range(4):
            for level in range(s["depth"]):
                s["levels"][k, level] = books.levels[k, level, i]
    return taken


def output_columns(rolling_windows):
    """Names of the rows of `out`, in order. dt_prev_us in us; is_gap 0, 1; spread_regime 0 normal, 1 tight, 2 wide."""
    means = ("ofi_sum", "mlofi_sum", "realized_vol", "return_std", "mean_return", "mean_relative_spread")
    return (
        "dt_prev_us", "is_gap", "ofi", "mlofi", "log_return", "mid_velocity", "mid_accel",
        *(f"{name}_{h}s" for h in rolling_windows for name in means),
        "interval_buy_volume", "interval_sell_volume", "interval_trade_count",
        *(f"{name}_{h}s" for h in rolling_windows for name in ("tfi", "trade_vol")),
        "spread_percentile", "spread_regime", "spread_regime_tight_frac", "spread_regime_wide_frac",
        "kyle_lambda", "kyle_lambda_r2", "ofi_beta", "ofi_beta_r2",
        "bid_slope_mean_60s", "bid_slope_std_60s", "ask_slope_mean_60s", "ask_slope_std_60s",
        "cog_momentum_mean_60s", "cog_momentum_std_60s", "depth_0_5bps_sigma", "vpin",
    )  # fmt: skip
