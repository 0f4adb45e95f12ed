"""Order-book features (SPEC 7)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from .order import (
    ROUNDING,
    SECOND,
    Row,
    Scaled,
    deviation,
    log_ratio,
    mean,
    micros,
    ordered,
    put,
    ratio,
    settings,
    side_of,
    silver_row,
    total,
    window_starts,
)
from .resample import COLUMNS as RESAMPLED
from .resample import resample

Side = Sequence[tuple[float, float]]  # (price, size), best first

BANDS_KEPT = ("bid_vol_band", "ask_vol_band", "imb_band")
WINDOWED = ["ofi_sum", "mlofi_sum", "realized_vol", "return_std", "mean_return", "mean_relative_spread"]
WINDOWED += ["tfi", "trade_vol"]
ALIASES = {
    "amihud_like": "spread_per_depth_L6",
    "lambda_like": "spread_per_depth_L3",
    "bid_slope_simple": "bid_slope",
    "ask_slope_simple": "ask_slope",
    "total_bid_volume": "total_bid_depth",
    "total_ask_volume": "total_ask_depth",
    "ofi_step": "ofi",
    "mlofi_step": "mlofi",
    "log_return_step": "log_return",
}  # and per window; book_pressure and order_flow_toxicity have no definition in SPEC


def columns(variables: Row) -> list[str]:
    names = [f"{side}_{what}_L{i}" for i in range(variables["levels"]) for side in SIDES for what in ("price", "size")]
    names += ["best_bid", "best_ask", "mid_price", "spread", "relative_spread", "dt_prev_ms", "is_gap"]
    names += ["microprice", "micro_minus_mid", "imbalance_L1", "imbalance_L3", "imbalance_L5", "imbalance_L10"]
    names += ["total_bid_depth", "total_ask_depth", "total_imbalance", "vwap_bid_5", "vwap_ask_5", "vwap_spread"]
    names += ["smart_bid_depth", "smart_ask_depth", "smart_depth_imbalance", "bid_slope", "ask_slope"]
    names += ["bid_slope_regression", "ask_slope_regression", "slope_asymmetry", "center_of_gravity", "cog_vs_mid"]
    names += ["bid_depth_decay_5", "ask_depth_decay_5", "avg_depth_decay_5", "bid_concentration", "ask_concentration"]
    names += ["spread_per_depth_L3", "spread_per_depth_L6", "bid_reach_bps", "ask_reach_bps"]
    names += [f"{name}_{lo}_{hi}bps" for lo, hi in variables["bands_bps"] for name in BANDS_KEPT]
    names += ["book_convexity", "ofi", "mlofi", "log_return", "mid_velocity", "mid_accel"]
    names += ["interval_buy_volume", "interval_sell_volume", "interval_trade_count"]
    names += [f"{name}_{h}s" for h in variables["rolling_windows"] for name in WINDOWED]
    names += ["spread_percentile", "spread_regime", "spread_regime_tight_frac", "spread_regime_wide_frac"]
    names += ["kyle_lambda", "kyle_lambda_r2", "ofi_beta", "ofi_beta_r2"]
    names += [f"{side}_slope_{what}_60s" for side in SIDES for what in ("mean", "std")]
    names += ["cog_momentum_mean_60s", "cog_momentum_std_60s", "depth_0_5bps_sigma", "vpin"]
    if variables["resample_frequency"]:
        names += RESAMPLED
    return names


SIDES = ("bid", "ask")


def orderbook(rows: Iterable[Row], trades: Iterable[Row] = (), variables: Row | None = None) -> list[Row]:
    """One silver row per surviving book (or grid time) in lane order; `trades` are raw rows of the trades lane."""
    variables = settings(variables)
    lane = ordered(rows, "orderbook", variables)
    if variables["resample_frequency"]:
        lane = resample(lane, variables)
    taken = [trade for trade in ordered(trades, "trades", variables) if trade["is_valid"]]
    names = columns(variables)
    out = []
    for row in lane:
        new = silver_row(row, "orderbook", names)
        new.update({name: row[name] for name in RESAMPLED if name in row})
        new["_bids"] = (row["_bids"] or [])[: variables["levels"]]
        new["_asks"] = (row["_asks"] or [])[: variables["levels"]]
        new["_received"] = row.get("original_timestamp", row["clock"])
        out.append(new)
    valid = [row for row in out if row["is_valid"]]
    for row in valid:
        structural(row, row["_bids"], row["_asks"], variables)
    neighbours(valid, variables)
    trade_flow(valid, taken, variables)
    windows(valid, variables)
    spread_regimes(valid, variables)
    regressions(valid, variables)
    vpin(valid, taken, variables)
    for row in out:
        for name in ("_bids", "_asks", "_received", "_traded", "_near", "_flow"):
            row.pop(name, None)
        if variables["legacy_aliases"]:
            aliases(row, variables)
    return out


def aliases(row: Row, variables: Row) -> None:
    names = dict(ALIASES)
    for h in variables["rolling_windows"]:
        names |= {f"rv_{h}s": f"return_std_{h}s", f"mean_spread_{h}s": f"mean_relative_spread_{h}s"}
    for new, old in names.items():
        row[new] = row[old]
        if old in row["_scale"]:
            row["_scale"][new] = row["_scale"][old]


# Structural ---------------------------------------------------------------------------------------------------------


def distance(price: float, mid: float) -> float:
    """Distance from the mid in bps, in double, in this order."""
    return (abs(price - mid) / mid) * 1e4


def size_of(side: Side) -> float:
    return math.fsum(q for _, q in side)


def imbalance(bid: float | None, ask: float | None) -> float | None:
    return None if bid is None or ask is None else ratio(bid - ask, bid + ask)


def vwap(side: Side) -> float | None:
    return ratio(math.fsum(p * q for p, q in side), size_of(side))


def smart_depth(side: Side, mid: float) -> float:
    return math.fsum(q * math.exp(-100 * abs(p - mid) / mid) for p, q in side)


def slope(side: Side) -> float | None:
    return ratio(abs(side[0][0] - side[4][0]), size_of(side[:5])) if len(side) >= 5 else None


def centred(values: Sequence[float]) -> list[float]:
    shifted = [value - values[0] for value in values]  # exact for close values
    centre = math.fsum(shifted) / len(shifted)
    return [value - centre for value in shifted]


def slope_regression(side: Side, mid: float) -> Scaled:
    """Least-squares slope of cumulative size on distance over the first 10 levels (at least 3).

    Scale: sum |dx||dy| / sum dx^2, times the digits that distances far from the mid but close to each other cost.
    """
    side = side[:10]
    if len(side) < 3:
        return None, 0.0
    x = [distance(p, mid) for p, _ in side]
    y = [size_of(side[1 : i + 1]) for i in range(len(side))]  # less the best level's, which moves no slope
    dx, dy = centred(x), centred(y)
    sxx = math.fsum(d * d for d in dx)
    if sxx == 0:
        return None, 0.0
    sxy = [a * b for a, b in zip(dx, dy, strict=True)]
    return math.fsum(sxy) / sxx, math.fsum(map(abs, sxy)) / sxx * max(x) / max(map(abs, dx))


def depth_decay(side: Side) -> float | None:
    return ratio(side[4][1], side[0][1]) if len(side) >= 5 else None


def concentration(side: Side) -> float | None:
    whole = size_of(side)
    return math.fsum((q / whole) ** 2 for _, q in side) if whole else None


def size_within(side: Side, mid: float, lo: float, hi: float) -> float:
    return math.fsum(q for p, q in side if lo <= distance(p, mid) < hi)


def structural(row: Row, bids: Side, asks: Side, variables: Row) -> None:
    for name, side in (("bid", bids), ("ask", asks)):
        for i, (price, size) in enumerate(side):
            row[f"{name}_price_L{i}"], row[f"{name}_size_L{i}"] = price, size
    (best_bid, bid_size), (best_ask, ask_size) = bids[0], asks[0]
    mid = (best_bid + best_ask) / 2
    spread = best_ask - best_bid
    row.update(best_bid=best_bid, best_ask=best_ask, mid_price=mid, spread=spread, relative_spread=spread / mid)

    microprice = ratio(bid_size * best_ask + ask_size * best_bid, bid_size + ask_size)
    put(row, "microprice", microprice)
    put(row, "micro_minus_mid", None if microprice is None else microprice - mid, ROUNDING * mid)

    for k in (1, 3, 5, 10):
        put(row, f"imbalance_L{k}", imbalance(size_of(bids[:k]), size_of(asks[:k])), ROUNDING)
    bid_depth, ask_depth = size_of(bids), size_of(asks)
    put(row, "total_bid_depth", bid_depth)
    put(row, "total_ask_depth", ask_depth)
    put(row, "total_imbalance", imbalance(bid_depth, ask_depth), ROUNDING)

    vwap_bid, vwap_ask = vwap(bids[:5]), vwap(asks[:5])
    put(row, "vwap_bid_5", vwap_bid)
    put(row, "vwap_ask_5", vwap_ask)
    vwap_spread = None if vwap_bid is None or vwap_ask is None else vwap_ask - vwap_bid
    put(row, "vwap_spread", vwap_spread, ROUNDING * mid)

    smart_bid, smart_ask = smart_depth(bids, mid), smart_depth(asks, mid)
    put(row, "smart_bid_depth", smart_bid)
    put(row, "smart_ask_depth", smart_ask)
    put(row, "smart_depth_imbalance", imbalance(smart_bid, smart_ask), ROUNDING)

    put(row, "bid_slope", slope(bids))
    put(row, "ask_slope", slope(asks))
    (bid_slope, bid_scale), (ask_slope, ask_scale) = slope_regression(bids, mid), slope_regression(asks, mid)
    put(row, "bid_slope_regression", bid_slope, bid_scale)
    put(row, "ask_slope_regression", ask_slope, ask_scale)
    asymmetry = ratio(bid_slope, ask_slope)
    if bid_slope and ask_slope and asymmetry is not None:
        put(row, "slope_asymmetry", asymmetry, abs(asymmetry) * (bid_scale / bid_slope + ask_scale / ask_slope))

    gravity = vwap([*bids, *asks])
    put(row, "center_of_gravity", gravity)
    put(row, "cog_vs_mid", None if gravity is None else (gravity - mid) / mid * 1e4, ROUNDING * 1e4)

    bid_decay, ask_decay = depth_decay(bids), depth_decay(asks)
    put(row, "bid_depth_decay_5", bid_decay)
    put(row, "ask_depth_decay_5", ask_decay)
    put(row, "avg_depth_decay_5", None if bid_decay is None or ask_decay is None else (bid_decay + ask_decay) / 2)
    put(row, "bid_concentration", concentration(bids))
    put(row, "ask_concentration", concentration(asks))
    for k in (3, 6):
        put(row, f"spread_per_depth_L{k}", ratio(spread, size_of([*bids[:k], *asks[:k]])))

    bid_reach, ask_reach = distance(bids[-1][0], mid), distance(asks[-1][0], mid)
    row.update(bid_reach_bps=bid_reach, ask_reach_bps=ask_reach)
    for lo, hi in variables["bands_bps"]:
        band = f"{lo}_{hi}bps"
        bid_volume = None if lo >= bid_reach else size_within(bids, mid, lo, hi)
        ask_volume = None if lo >= ask_reach else size_within(asks, mid, lo, hi)
        put(row, f"bid_vol_band_{band}", bid_volume)
        put(row, f"ask_vol_band_{band}", ask_volume)
        put(row, f"imb_band_{band}", imbalance(bid_volume, ask_volume), ROUNDING)
    both = [*bids, *asks]
    row["_near"] = size_within(both, mid, 0, 5)
    if bid_reach >= 50 and ask_reach >= 50:
        put(row, "book_convexity", ratio(row["_near"], size_within(both, mid, 0, 50)))


# Between consecutive valid books ------------------------------------------------------------------------------------


def bid_part(now: tuple[float, float], before: tuple[float, float]) -> float:
    (price, size), (old_price, old_size) = now, before
    if price > old_price:
        return size
    return size - old_size if price == old_price else -old_size


def ask_part(now: tuple[float, float], before: tuple[float, float]) -> float:
    """The mirror: a lower ask is an improvement."""
    (price, size), (old_price, old_size) = now, before
    return bid_part((-price, size), (-old_price, old_size))


def level_flow(row: Row, before: Row, i: int) -> Scaled:
    """Order flow at level i; a side that lacks the level in either book adds nothing. Scale: the sizes involved."""
    flow, scale = 0.0, 0.0
    for side, part, sign in (("_bids", bid_part, 1), ("_asks", ask_part, -1)):
        now, old = row[side], before[side]
        if i < len(now) and i < len(old):
            flow += sign * part(now[i], old[i])
            scale += now[i][1] + old[i][1]
    return flow, scale


def neighbours(valid: list[Row], variables: Row) -> None:
    previous: Row | None = None
    previous_dt = 0.0
    for row in valid:
        row["is_gap"] = False
        if previous is not None:
            elapsed = row["clock"] - previous["clock"]
            dt = elapsed / SECOND
            row["dt_prev_ms"] = elapsed / 1000
            row["is_gap"] = row["_received"] - previous["_received"] > micros(variables["max_staleness"])
            if not row["is_gap"]:
                flow, size = level_flow(row, previous, 0)
                put(row, "ofi", flow, ROUNDING * size)
                weights = [math.exp(-variables["ofi_decay_alpha"] * i) for i in range(variables["ofi_levels"])]
                flows = [level_flow(row, previous, i) for i in range(variables["ofi_levels"])]
                sizes = math.fsum(w * scale for w, (_, scale) in zip(weights, flows, strict=True))
                flow = math.fsum(w * (value or 0.0) for w, (value, _) in zip(weights, flows, strict=True))
                put(row, "mlofi", flow, ROUNDING * sizes)
                row["log_return"] = log_ratio(row["mid_price"], previous["mid_price"])
                if dt > 0:
                    velocity = (row["mid_price"] - previous["mid_price"]) / dt
                    put(row, "mid_velocity", velocity)
                    if (before := previous["mid_velocity"]) is not None:
                        step = (dt + previous_dt) / 2
                        size = ROUNDING * (abs(velocity) + abs(before)) / step
                        put(row, "mid_accel", (velocity - before) / step, size)
            previous_dt = dt
        previous = row


# Trades between books -----------------------------------------------------------------------------------------------


def trade_flow(valid: list[Row], taken: list[Row], variables: Row) -> None:
    """A trade belongs to the first valid book at or after it: at equal clocks the trade is before the book."""
    clocks = [trade["clock"] for trade in taken]
    sides = [side_of(trade) for trade in taken]
    buys = [trade["amount"] if side == "buy" else 0.0 for trade, side in zip(taken, sides, strict=True)]
    sells = [trade["amount"] if side == "sell" else 0.0 for trade, side in zip(taken, sides, strict=True)]
    before = 0  # trades that belong to earlier books
    for row in valid:
        upto = bisect_right(clocks, row["clock"])  # trades that belong to this or an earlier book
        row["_traded"] = upto
        row["_flow"] = None
        if upto:
            bought, sold = math.fsum(buys[before:upto]), math.fsum(sells[before:upto])
            put(row, "interval_buy_volume", bought)
            put(row, "interval_sell_volume", sold)
            row["interval_trade_count"] = upto - before
            row["_flow"] = (0.0 if abs(bought - sold) <= 1e-12 * (bought + sold) else bought - sold, bought + sold)
            for h in variables["rolling_windows"]:
                start = bisect_right(clocks, row["clock"] - micros(h))
                bought, sold = math.fsum(buys[start:upto]), math.fsum(sells[start:upto])
                put(row, f"trade_vol_{h}s", bought + sold)
                put(row, f"tfi_{h}s", imbalance(bought, sold), 1.0)
        before = upto


def vpin(valid: list[Row], taken: list[Row], variables: Row) -> None:
    """Buckets of exactly V units of 1e-9; of each full one |Vb-Vs| is kept."""
    bucket = round(variables["vpin_bucket_volume"] * 1e9)
    full: deque[int] = deque(maxlen=variables["vpin_window_buckets"])
    filled = signed = 0  # of the running bucket
    last_price: float | None = None
    tick = 0  # sign of the last non-zero price change
    done = 0
    for row in valid:
        for trade in taken[done : row["_traded"]]:
            if last_price is not None and trade["price"] != last_price:
                tick = 1 if trade["price"] > last_price else -1
            last_price = trade["price"]
            sign = {"buy": 1, "sell": -1, None: tick}[side_of(trade)]  # tick 0: half is bought, half is sold
            rest = round(trade["amount"] * 1e9)  # half to even
            if filled + rest >= bucket:
                first = bucket - filled
                full.append(abs(signed + sign * first))
                whole, rest = divmod(rest - first, bucket)
                full.extend([abs(sign) * bucket] * min(whole, variables["vpin_window_buckets"]))
                filled = signed = 0
            filled += rest
            signed += sign * rest
        done = row["_traded"]
        if full:
            row["vpin"] = sum(full) / (len(full) * bucket)


# Windows ------------------------------------------------------------------------------------------------------------


def windows(valid: list[Row], variables: Row) -> None:
    clocks = [row["clock"] for row in valid]
    ofi, mlofi = [row["ofi"] for row in valid], [row["mlofi"] for row in valid]
    ofi_scales, mlofi_scales = ([row["_scale"].get(name, 0.0) for row in valid] for name in ("ofi", "mlofi"))
    returns = [row["log_return"] for row in valid]
    squares = [None if r is None else r * r for r in returns]
    relative = [row["relative_spread"] for row in valid]
    for h in variables["rolling_windows"]:
        starts = window_starts(clocks, h)
        for index, row in enumerate(valid):
            window = slice(starts[index], index + 1)
            for name, values, scales in (("ofi_sum", ofi, ofi_scales), ("mlofi_sum", mlofi, mlofi_scales)):
                value, scale = total(values[window])
                put(row, f"{name}_{h}s", value, scale + sum(scales[window]))
            squared, _ = total(squares[window])
            put(row, f"realized_vol_{h}s", None if squared is None else math.sqrt(squared))
            put(row, f"return_std_{h}s", *deviation(returns[window]))
            put(row, f"mean_return_{h}s", *mean(returns[window]))
            put(row, f"mean_relative_spread_{h}s", *mean(relative[window]))

    starts = window_starts(clocks, 60)
    for name, column in (
        ("bid_slope", "bid_slope_regression"),
        ("ask_slope", "ask_slope_regression"),
        ("cog_momentum", "cog_vs_mid"),
    ):
        values = [row[column] for row in valid]
        scales = [row["_scale"].get(column, 0.0) for row in valid]
        for index, row in enumerate(valid):
            window = slice(starts[index], index + 1)
            value, scale = mean(values[window])
            put(row, f"{name}_mean_60s", value, max(scale, *scales[window], 0.0))
            value, scale = deviation(values[window])
            put(row, f"{name}_std_60s", value, scale + max(scales[window]))

    near = [row["_near"] for row in valid]
    starts = window_starts(clocks, 300)
    for index, row in enumerate(valid):
        put(row, "depth_0_5bps_sigma", *deviation(near[starts[index] : index + 1]))


def spread_regimes(valid: list[Row], variables: Row) -> None:
    span = micros(variables["spread_regime_window"])
    clocks = [row["clock"] for row in valid]
    starts = window_starts(clocks, variables["spread_regime_window"])
    spreads = [row["spread"] for row in valid]
    for index, row in enumerate(valid):
        window = spreads[starts[index] : index + 1]
        smaller = sum(1 for spread in window if row["spread"] - spread > 1e-9 * row["mid_price"])
        share = smaller / len(window)
        row["spread_percentile"] = share
        row["spread_regime"] = "tight" if share <= 0.2 else "wide" if share >= 0.8 else "normal"

        time = {"tight": 0, "normal": 0, "wide": 0}
        edge = row["clock"] - span
        for j in range(max(starts[index] - 1, 0), index):  # the regime that holds at the edge began before it
            if not valid[j + 1]["is_gap"]:
                time[valid[j]["spread_regime"]] += clocks[j + 1] - max(clocks[j], edge)
        counted = sum(time.values())
        row["spread_regime_tight_frac"] = ratio(time["tight"], counted)
        row["spread_regime_wide_frac"] = ratio(time["wide"], counted)


Pair = tuple[float, float, float]  # x, y, and the magnitude that y is the difference of


def one_value(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= 1e-9 * max(map(abs, values))


def beta(pairs: Sequence[Pair]) -> tuple[Scaled, Scaled]:
    """Cov(x, y)/Var(y) and r squared, each with its scale: what input errors of 1e-12 * (|x|, magnitude of y) move."""
    nothing = (None, 0.0)
    if len(pairs) < 3:
        return nothing, nothing
    x, y, magnitudes = zip(*pairs, strict=True)
    if one_value(y):
        return nothing, nothing
    dx, dy = centred(x), centred(y)
    sxy = math.fsum(a * b for a, b in zip(dx, dy, strict=True))
    sxx, syy = math.fsum(a * a for a in dx), math.fsum(b * b for b in dy)
    abs_x, abs_y = math.fsum(map(abs, dx)), math.fsum(map(abs, dy))
    x_size, y_size = max(map(abs, x)), max(magnitudes)
    slope, slope_scale = sxy / syy, (abs_x * y_size + x_size * abs_y + 2 * abs(sxy / syy) * abs_y * y_size) / syy
    if one_value(x):
        return (slope, slope_scale), nothing
    r2 = ratio(sxy * sxy, sxx * syy)
    return (slope, slope_scale), (r2, 1.0 + 2 * y_size * abs_y / syy + 2 * x_size * abs_x / sxx)


def regressions(valid: list[Row], variables: Row) -> None:
    starts = window_starts([row["clock"] for row in valid], variables["kyle_lambda_window"])
    kyle: list[Pair | None] = []
    cont: list[Pair | None] = []
    for row in valid:
        x, ofi = row["log_return"], row["ofi"]
        kyle.append(None if x is None or row["_flow"] is None else (x, *row["_flow"]))
        cont.append(None if x is None or ofi is None else (x, ofi, max(abs(ofi), row["_scale"]["ofi"])))
    for index, row in enumerate(valid):
        for name, pairs in (("kyle_lambda", kyle), ("ofi_beta", cont)):
            window = [pair for pair in pairs[starts[index] : index + 1] if pair is not None]
            value, r2 = beta(window)
            put(row, name, *value)
            put(row, f"{name}_r2", *r2)
