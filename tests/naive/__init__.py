"""The definitions of SPEC in plain Python: the independent judge of everything that Daedalus computes.

Written from SPEC alone; imports nothing of daedalus_etl and shares no idea with it. Rows are dicts, times are integer
microseconds since the epoch (`timestamp`, `collected_at`: integer milliseconds, as in bronze), NULL is None. Each
feature is computed from the rows of its own window, with math.fsum, so no result depends on where the input begins.

    rows = naive.read_bronze(root, "ccxt", "orderbook", "binance", "BTC-USDT")
    silver = naive.orderbook(rows, trades, {"levels": 10})
    gold = naive.bars("orderbook", silver, 60)
    assert naive.compare(got, silver) == []

Modules: order (reading, lane order, duplicates, validity, sums), trades, ticker, books, resample, bars; `fast` says
the same of complete lanes of trades and tickers a second time, in other words.

Scales. A value that is left of a subtraction has no relative precision: beside it, `row["_scale"][column]` holds the
magnitude that its error is relative to, and `compare` allows rel * max(|got|, |want|, scale):
- a sum or mean of signed terms: sum of |terms| (over n for a mean);
- a difference of two rounded values (micro_minus_mid, imbalances, cog_vs_mid in bps, ...) and a standard deviation:
  0.01 of the magnitude subtracted, so that 1e-14 of it (45 to 90 ulps) is allowed; tfi and trade_imbalance (long
  sums): 1;
- regression slopes, kyle_lambda, ofi_beta and their r2: the propagated effect of relative errors in the inputs;
- all others: none. Prices, counts, spreads, log returns, volumes and depths must agree relatively.

What SPEC leaves open, as chosen here:
 1. Lane: `exchange`, `symbol` and year..hour are not compared among rows of a lane (equal by definition, after
    sanitizing). A row equal in all columns counts as a full duplicate, not as a window duplicate; the first in lane
    order stays. -0.0 equals 0.0.
 2. Dedupe: NULL equals NULL, and a side that is neither buy nor sell is NULL, in the key too; ids are compared as
    text ('7' is not '07'), though they are equal in the order (segment and position then decide).
 3. Digits in a trade_id are ASCII. `clock: event` without timestamp and collected_at falls back on capture_ts;
    exactly one day is not more than a day. A flat file's first capture_ts is that of its first row, whatever its
    lane.
 4. Invalid rows have every feature NULL, the time features too. They do not move the log return's or tick rule's last
    price.
 5. A result that would be infinite or NaN is NULL. The overflows of SPEC 11.2 are the implementation's and not
    judged.
 6. vwap is a price: dollars per base unit, linear dollar_volume/(amount*contract_size), inverse
    dollar_volume/(amount*contract_size/price), the harmonic mean. volume is in the exchange's unit. buy_ratio counts
    trades.
 7. A book is cut to its first `levels` right after validity; no feature sees deeper ones (imbalance_L10 with levels =
    5 looks at 5). avg_depth_decay_5 is NULL unless both sides have one.
 8. A NULL of one side makes imb_band NULL. 'Within 5 bps' and the depth of depth_0_5bps_sigma are 0 <= distance < 5
    whatever `bands_bps`, never NULL; its window is 300 s whatever `spread_regime_window`.
 9. dt_prev_ms and velocities use the lane's clock (the grid's, when resampled); only is_gap looks at
    original_timestamp. In the row after a gap dt_prev_ms is given.
10. The regime held at the window's edge counts from the edge on, though its book is outside the window. A gap's whole
    interval counts as no time.
11. All earlier trades belong to the lane's first valid book, however old. A first trade without a known side starts
    the counting (trade_vol 0, tfi NULL).
12. VPIN: a trade with no side and no earlier price change adds volume and nothing to the imbalance of a bucket.
13. Resampling: fill_gaps writes a grid time without books while its staleness is <= resample_max_staleness; a grid
    time with books is always written. Trades are those before or at the grid time. Invalid books leave no row.
    Trades' mid_before uses the received books. Bars of resampled rows count rows (snapshot_count = rows) and close by
    the silver rows' clocks, or by `end`.
14. A value's time in a running bar (partial_bars) holds to bar_end, too. Only the bar that holds the lane's last
    clock, or is not over by it, is partial.
15. legacy_aliases: book_pressure and order_flow_toxicity have no definition in SPEC and are not given;
    bid_slope_simple and total_bid_volume are taken for bid_slope and total_bid_depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any

from . import fast
from .bars import bars
from .books import orderbook
from .order import DEFAULTS, SCALARS, Row, deduplicated, ordered, read_bronze, rows_from_table, sanitized
from .resample import resample
from .ticker import ticker
from .trades import trades

__all__ = [
    "DEFAULTS",
    "bars",
    "compare",
    "deduplicated",
    "fast",
    "orderbook",
    "ordered",
    "read_bronze",
    "resample",
    "rows_from_table",
    "sanitized",
    "ticker",
    "trades",
]

NOT_COMPARED = {"clock", "segment", "position"}  # the oracle's own: clock_ts is the published one
AS_RECEIVED = {name for names in SCALARS.values() for name in names}  # may hold NaN and infinity


def compare(
    got_rows: Iterable[Row],
    want_rows: Iterable[Row],
    columns: Sequence[str] | None = None,
    rel: float = 1e-12,
    scale: dict[str, float] | None = None,
) -> list[str]:
    """The differences, one a line: 'row 3, ofi: got 1.0, want None'. Empty if all agree.

    Without `columns`, all that the wanted rows have. NULL matches NULL only; whole numbers, truth values and texts
    match exactly and in type; floats within rel * max(|got|, |want|, the wanted row's scale). `scale` adds scales by
    column name or pattern ({"volume_*": 1e-3}), for an implementation that sums in a fixed unit. Times may be
    datetimes. NaN and infinity match themselves in columns that bronze has, and nothing else.
    """
    got_rows, want_rows = list(got_rows), list(want_rows)
    differences = []
    if len(got_rows) != len(want_rows):
        differences.append(f"{len(got_rows)} rows, want {len(want_rows)}")
    for index, (got, want) in enumerate(zip(got_rows, want_rows, strict=False)):
        names = columns or [name for name in want if name not in NOT_COMPARED and not name.startswith("_")]
        for name in names:
            if name not in want:
                raise KeyError(f"the oracle has no column {name}")
            if name not in got:
                differences.append(f"row {index}, {name}: missing")
                continue
            if type(got[name]) is type(want[name]) and got[name] == want[name] and abs_or_zero(got[name]) < math.inf:
                continue
            scales = [want.get("_scale", {}).get(name, 0.0)]
            scales += [value for pattern, value in (scale or {}).items() if fnmatchcase(name, pattern)]
            if not matches(plain(got[name]), plain(want[name]), rel, max(scales), name in AS_RECEIVED):
                differences.append(f"row {index}, {name}: got {got[name]!r}, want {want[name]!r}")
    return differences


def abs_or_zero(value: Any) -> float:
    return abs(value) if isinstance(value, float) else 0.0


def plain(value: Any) -> Any:
    """A datetime as microseconds since the epoch, a NumPy scalar as Python's."""
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return value.item() if hasattr(value, "item") else value


def matches(got: Any, want: Any, rel: float, scale: float, received: bool) -> bool:
    if got is None or want is None:
        return got is want
    if isinstance(want, (bool, str)) or isinstance(got, (bool, str)):
        return type(got) is type(want) and bool(got == want)
    if isinstance(want, Integral):
        return isinstance(got, Integral) and got == want
    if not isinstance(got, Real):
        return False
    if not (math.isfinite(got) and math.isfinite(want)):
        return received and (got == want or (math.isnan(got) and math.isnan(want)))
    return bool(abs(got - want) <= rel * max(abs(got), abs(want), scale))
