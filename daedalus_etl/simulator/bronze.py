"""The market's rows as bronze: Arrow tables, and segments of Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import CHANNELS, HOUR_US, US
from daedalus_etl.simulator.dirt import received_hours
from daedalus_etl.simulator.exchange import gather
from daedalus_etl.simulator.market import QUOTE_COLUMNS, Market, is_name, sanitize
from daedalus_etl.simulator.rows import SIDES, Hour, Rows

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
            *[pa.field(name, pa.float64()) for name in QUOTE_COLUMNS],
            pa.field("timestamp", pa.int64()),
            pa.field("info_json", pa.string()),
        ]
    ),
}
_DICTIONARY_COLUMNS = ("exchange", "symbol", "year", "month", "day", "hour", "side")


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


def _levels_array(rows: Rows, column: str, price: np.ndarray, size: np.ndarray) -> pa.Array:
    start, length = rows[f"{column}_start"], rows[f"{column}_length"]
    null = rows[f"{column}_null"]
    length = np.where(null, 0, length)
    offsets = np.zeros(len(length) + 1, np.int32)
    np.cumsum(length, out=offsets[1:])
    out_price, out_size = np.empty(offsets[-1]), np.empty(offsets[-1])
    gather(start, length, price, size, out_price, out_size)
    levels = pa.StructArray.from_arrays([pa.array(out_price), pa.array(out_size)], fields=list(_LEVEL_LIST.value_type))
    mask = pa.array(null) if null.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), levels, type=_LEVEL_LIST, mask=mask)


def _plain(rows: Rows, name: str) -> pa.Array:
    """A numeric column; without a mask where nothing is NULL, which writes faster."""
    null = rows.get(f"{name}_null")
    return pa.array(rows[name], mask=null if null is not None and null.any() else None)


def _text(*parts: object) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _table(hour: Hour, channel: str, exchange: str, symbol: str) -> pa.Table:
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
        columns["side"] = pa.DictionaryArray.from_arrays(codes, pa.array(SIDES)).dictionary_decode()
        columns["price"], columns["amount"] = pa.array(rows["price"]), pa.array(rows["amount"])
        with np.errstate(invalid="ignore"):  # dirt multiplies infinity by zero
            columns["cost"] = pa.array(rows["price"] * rows["amount"])
        columns["info_json"] = _text('{"e":"trade","t":', number, "}")
    else:
        columns |= {name: _plain(rows, name) for name in QUOTE_COLUMNS}
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
    for hour in received_hours(market, name):
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
        cuts = _cuts(capture[at], round(segment_seconds * US))
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
    if unknown or not channels or isinstance(channels, str) or not is_name(source):
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
        for hour in received_hours(market, symbol):
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
