"""Reading bronze, clocks, lane order, duplicates, validity, and the sums that every channel uses (SPEC 2 and 4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

SECOND = 1_000_000  # every time is an integer of microseconds
DAY = 86_400 * SECOND

DEFAULTS: dict[str, Any] = {
    "clock": "capture",
    "max_staleness": 300,
    "trade_dedupe_window": 900,
    "rolling_windows": [5, 15, 60, 300, 900],
    "levels": 20,
    "ofi_levels": 10,
    "ofi_decay_alpha": 0.5,
    "bands_bps": [[0, 5], [5, 10], [10, 25], [25, 50], [50, 100]],
    "spread_regime_window": 300,
    "kyle_lambda_window": 300,
    "vpin_bucket_volume": 1.0,
    "vpin_window_buckets": 50,
    "bar_durations": [60, 300, 900, 3600],
    "partial_bars": False,
    "resample_frequency": 0,
    "resample_max_staleness": 60,
    "fill_gaps": False,
    "contract_size": 1,
    "contract_kind": "linear",
    "normalize_quotes": True,
    "usd_quotes": ["USDC", "USDT", "BUSD", "DAI", "TUSD", "GUSD", "USDP", "PYUSD", "FRAX", "LUSD", "UST", "FDUSD"],
    "legacy_aliases": False,
}

PARTITION = ["exchange", "symbol", "year", "month", "day", "hour"]
INTEGERS = {"collected_at", "timestamp", "nonce", "year", "month", "day", "hour"}
TEXTS = {"exchange", "symbol", "trade_id", "side", "info_json"}
BRONZE: dict[str, list[str]] = {
    "orderbook": ["collected_at", "capture_ts", *PARTITION, "timestamp", "nonce", "bids", "asks"],
    "trades": [
        "collected_at",
        "capture_ts",
        *PARTITION,
        "timestamp",
        "trade_id",
        "side",
        "price",
        "amount",
        "cost",
        "info_json",
    ],
    "ticker": [
        "collected_at",
        "capture_ts",
        *PARTITION,
        "timestamp",
        "bid",
        "ask",
        "bid_volume",
        "ask_volume",
        "last",
        "open",
        "high",
        "low",
        "close",
        "vwap",
        "base_volume",
        "quote_volume",
        "change",
        "percentage",
        "info_json",
    ],
}
# What silver copies from bronze: the scalars, without info_json.
SCALARS = {channel: [c for c in BRONZE[channel] if c not in ("bids", "asks", "info_json")] for channel in BRONZE}


def settings(variables: Row | None) -> Row:
    return {**DEFAULTS, **(variables or {})}


def micros(seconds: float) -> int:
    return round(seconds * SECOND)


# Reading ------------------------------------------------------------------------------------------------------------


def sanitized(value: str) -> str:
    return "".join("-" if c in '/\\:*?"<>|' else c for c in value)


def calendar(clock: int) -> tuple[int, int, int, int]:
    """Year, month, day and hour of a time, UTC."""
    at = datetime.fromtimestamp(clock // SECOND, UTC)
    return at.year, at.month, at.day, at.hour


def read_bronze(root: str | Path, source: str, channel: str, exchange: str, symbol: str) -> list[Row]:
    """All rows of a lane in no particular order: bronze's columns, `segment` (sort key) and `position` in the file.

    `root` is `<data>`. Segments that are torn, lack a capture_ts, or disagree with their path are left out, as
    quarantine would; the other reasons of SPEC 11.6 (types, factor of 1000) are not judged here.
    """
    base = Path(root) / "raw" / "ready" / source / channel
    lane = (sanitized(exchange), sanitized(symbol))
    rows: list[Row] = []
    for file in sorted(base.rglob("*.parquet")):
        parts = file.relative_to(base).parts
        if any(part.startswith((".", "_")) for part in parts):
            continue
        path = dict(part.split("=", 1) for part in parts[:-1] if "=" in part)
        if (path.get("exchange", lane[0]), path.get("symbol", lane[1])) != lane:
            continue
        try:
            table = pq.ParquetFile(file).read()
        except (OSError, pa.ArrowInvalid):
            continue
        read = rows_from_table(table, channel)
        if not read or any(row["capture_ts"] is None or not agrees(row, path) for row in read):
            continue
        first = dict(zip(["year", "month", "day", "hour"], calendar(read[0]["capture_ts"]), strict=True))
        values = tuple(int(path.get(name, value)) for name, value in first.items())
        for row in read:
            row["segment"] = (*values, file.name.encode(), "/".join(parts).encode())
        rows += [row for row in read if (sanitized(row["exchange"]), sanitized(row["symbol"])) == lane]
    return rows


def agrees(row: Row, path: dict[str, str]) -> bool:
    """Partition columns equal the path (after sanitizing), and year to hour are those of capture_ts."""
    times = dict(zip(["year", "month", "day", "hour"], calendar(row["capture_ts"]), strict=True))
    for name, value in path.items():
        if name in ("exchange", "symbol") and sanitized(row[name]) != value:
            return False
        if name in times and int(value) != times[name]:
            return False
    return all(row[name] == value for name, value in times.items())


def rows_from_table(table: pa.Table, channel: str, segment: Any = ()) -> list[Row]:
    """An Arrow table as rows: every bronze column of the channel (missing = None), `segment` and `position`."""
    columns: dict[str, list[Any]] = {}
    for name in BRONZE[channel]:
        if name not in table.column_names:
            columns[name] = [None] * table.num_rows
        elif name == "capture_ts":
            column = table[name].cast(pa.timestamp("us", tz="UTC"), safe=False)
            columns[name] = column.cast(pa.int64()).to_pylist()
        elif name in ("bids", "asks"):
            columns[name] = [book for chunk in table[name].chunks for book in book_sides(chunk)]
        elif name in TEXTS:
            columns[name] = table[name].to_pylist()
        else:
            kind = whole if name in INTEGERS else real
            columns[name] = [kind(value) for value in table[name].to_pylist()]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for position, row in enumerate(rows):
        row["segment"], row["position"] = segment, position
        if row["capture_ts"] is not None:
            times = zip(["year", "month", "day", "hour"], calendar(row["capture_ts"]), strict=True)
            row.update({name: value for name, value in times if row[name] is None})
    return rows


def whole(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


def real(value: Any) -> float | None:
    return None if value is None else float(value)


def book_sides(chunk: Any) -> Iterator[list[tuple[Any, Any]] | None]:
    """Each list<struct<price, size>> of an Arrow chunk as a list of (price, size), None for NULL."""
    price, size = (pa.compute.struct_field(chunk.values, name).to_pylist() for name in ("price", "size"))
    levels = [(real(p), real(q)) for p, q in zip(price, size, strict=True)]
    offsets = chunk.offsets.to_pylist()
    for index, known in enumerate(chunk.is_valid().to_pylist()):
        yield levels[offsets[index] : offsets[index + 1]] if known else None


# Order, duplicates, validity ----------------------------------------------------------------------------------------


def clock_of(row: Row, variables: Row) -> int:
    """The lane's clock. `event`: timestamp, or collected_at if that is NULL or over a day from capture_ts."""
    captured: int = row["capture_ts"]
    if variables["clock"] == "capture":
        return captured
    event, collected = row.get("timestamp"), row.get("collected_at")
    if event is not None and abs(event * 1000 - captured) <= DAY:
        return int(event) * 1000
    return captured if collected is None else int(collected) * 1000


def nulls_first(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, value)


def id_key(trade_id: str | None) -> tuple[Any, ...]:
    """NULL, then numbers (all ASCII digits) by value, then text bytewise."""
    if trade_id is None:
        return (0,)
    if trade_id.isascii() and trade_id.isdigit():
        return (1, int(trade_id))
    return (2, trade_id.encode())


def same(value: Any) -> Any:
    """A value that equals another exactly if SPEC calls them equal: NaN equals NaN, NULL equals NULL."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (list, tuple)):
        return tuple(same(item) for item in value)
    return value


def side_of(row: Row) -> str | None:
    side = (row.get("side") or "").lower()
    return side if side in ("buy", "sell") else None


def ordered(rows: Iterable[Row], channel: str, variables: Row | None = None) -> list[Row]:
    """Rows in lane order without duplicates, with `clock`, `clock_ts`, `source_symbol` and `is_valid`."""
    return deduplicated(rows, channel, variables)[0]


def deduplicated(rows: Iterable[Row], channel: str, variables: Row | None = None) -> tuple[list[Row], dict[str, int]]:
    """`ordered`, and how many rows went: {"full": equal in every column, "window": trades of the dedupe window}."""
    variables = settings(variables)
    lane: list[tuple[Any, Row]] = []
    for number, row in enumerate(rows):
        clock = clock_of(row, variables)
        at = (row.get("segment", ()), row.get("position", number))
        ids = (nulls_first(row.get("timestamp")), nulls_first(row.get("nonce")), id_key(row.get("trade_id")))
        lane.append(((clock, *ids, *at), {**row, "clock": clock}))
    lane.sort(key=lambda pair: pair[0])

    compared = [c for c in BRONZE[channel] if c not in PARTITION]  # a lane's rows have these in common
    dedupe_window = micros(variables["trade_dedupe_window"])
    removed = {"full": 0, "window": 0}
    seen: set[Any] = set()
    last_seen: dict[Any, int] = {}
    kept: list[Row] = []
    for _, row in lane:
        everything = tuple(same(row.get(name)) for name in compared)
        if everything in seen:
            removed["full"] += 1
            continue
        seen.add(everything)
        if channel == "trades" and row.get("trade_id") is not None:
            facts = [row["trade_id"], row.get("timestamp"), row.get("price"), row.get("amount"), side_of(row)]
            trade = same(facts)
            before = last_seen.get(trade)
            last_seen[trade] = row["clock"]  # a duplicate counts as seen, too
            if before is not None and row["clock"] - before < dedupe_window:
                removed["window"] += 1
                continue
        row["clock_ts"] = row["clock"]
        row["source_symbol"] = sanitized(row.get("symbol") or "")
        if channel == "orderbook":
            row["_bids"], row["_asks"] = without_zeros(row.get("bids")), without_zeros(row.get("asks"))
        row["is_valid"] = VALID[channel](row)
        kept.append(row)
    return kept, removed


def positive(value: Any) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def not_negative(value: Any) -> bool:
    return value is not None and math.isfinite(value) and value >= 0


def without_zeros(side: Sequence[tuple[Any, Any]] | None) -> list[tuple[Any, Any]] | None:
    return None if side is None else [(p, q) for p, q in side if q != 0]


def valid_book(row: Row) -> bool:
    bids, asks = row["_bids"], row["_asks"]
    if not bids or not asks:
        return False
    if not all(positive(p) and not_negative(q) for p, q in bids + asks):
        return False
    falling = all(a[0] > b[0] for a, b in itertools.pairwise(bids))
    rising = all(a[0] < b[0] for a, b in itertools.pairwise(asks))
    return bool(falling and rising and bids[0][0] < asks[0][0])


def valid_trade(row: Row) -> bool:
    return positive(row.get("price")) and not_negative(row.get("amount"))


def valid_quote(row: Row) -> bool:
    return positive(row.get("bid")) and positive(row.get("ask")) and bool(row["bid"] < row["ask"])


VALID: dict[str, Callable[[Row], bool]] = {"orderbook": valid_book, "trades": valid_trade, "ticker": valid_quote}


# Silver rows --------------------------------------------------------------------------------------------------------

EXTRA = ["clock", "clock_ts", "source_symbol", "is_valid", "segment", "position"]


def silver_row(row: Row, channel: str, features: Sequence[str]) -> Row:
    """The scalars as received and every feature as None, to be filled if the row is valid."""
    out = {name: row.get(name) for name in SCALARS[channel] + EXTRA}
    out.update(zip(["year", "month", "day", "hour"], calendar(row["clock"]), strict=True))  # silver's are the clock's
    out.update(dict.fromkeys(features))
    out["_scale"] = {}
    return out


def time_features(clock: int) -> Row:
    day = clock // DAY
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday; Monday = 0
    return {"hour_of_day": clock // (3600 * SECOND) % 24, "day_of_week": weekday, "is_weekend": weekday >= 5}


# Sums: each gives (value, scale); see `compare` for what a scale is --------------------------------------------------

ROUNDING = 1e-2  # times compare's 1e-12: 1e-14 of a magnitude, some 45 to 90 ulps, for what is left of a subtraction

Scaled = tuple[float | None, float]


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def ratio(above: float | None, below: float | None) -> float | None:
    """above/below; NULL if either is NULL, below is 0, or the result is not finite."""
    if above is None or below is None or below == 0:
        return None
    return finite(above / below)


def log_ratio(now: float, before: float) -> float | None:
    change = ratio(now, before)
    return math.log(change) if change is not None and change > 0 else None


def known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def total(values: Iterable[float | None]) -> Scaled:
    """Sum of the non-NULL values, NULL over none; the scale is the sum of |terms|."""
    terms = known(values)
    return (math.fsum(terms), math.fsum(map(abs, terms))) if terms else (None, 0.0)


def mean(values: Iterable[float | None]) -> Scaled:
    terms = known(values)
    added, scale = total(terms)
    return (None, 0.0) if added is None else (added / len(terms), scale / len(terms))


def variance(values: Iterable[float | None]) -> Scaled:
    """Sample variance, NULL below 2 values. Scale: what an error of ROUNDING*max|x| in the deviation amounts to."""
    terms = known(values)
    if len(terms) < 2:
        return None, 0.0
    shifted = [x - terms[0] for x in terms]
    centre = math.fsum(shifted) / len(shifted)
    value = math.fsum((d - centre) ** 2 for d in shifted) / (len(terms) - 1)
    largest = max(map(abs, terms))
    return value, ROUNDING * 2 * math.sqrt(value) * largest + 1e-16 * largest**2


def deviation(values: Iterable[float | None]) -> Scaled:
    terms = known(values)
    value, _ = variance(terms)
    return (None, 0.0) if value is None else (math.sqrt(value), ROUNDING * max(map(abs, terms)))


def put(row: Row, name: str, value: float | None, scale: float = 0.0) -> None:
    row[name] = finite(value)
    if scale:
        row["_scale"][name] = scale


def window_starts(clocks: Sequence[int], seconds: float) -> list[int]:
    """For each row, the first row whose clock is in (t-h, t]; the window is [start, row] in lane order."""
    starts, start, span = [], 0, micros(seconds)
    for clock in clocks:
        while clocks[start] <= clock - span:
            start += 1
        starts.append(start)
    return starts
