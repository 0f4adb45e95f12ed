"""One lane without dirt, capture hour by capture hour.

Rows are a dict of equally long arrays. "x_null" marks NULLs of x, "arrival" and then "place" give the order in the
files, and books point at their levels (start and length in flat arrays).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daedalus_etl.lanes import HOUR_US, US
from daedalus_etl.simulator.exchange import MEAN_FILLS, PARAMETERS, STATE, open_book, run
from daedalus_etl.simulator.market import INSTRUMENTS, LEVELS, OTHER, QUOTE_COLUMNS, Market

WARM_UP_US = 60 * US
SIDES = ("buy", "sell", "BUY", "SELL", "Buy", "unknown", "b", "")
BUY, SELL = 0, 1

Rows = dict[str, np.ndarray]


@dataclass
class Hour:
    """The rows of one lane captured in one hour (or in the part of it that the market covers)."""

    number: int
    start_us: int
    end_us: int
    rows: dict[str, Rows]
    price: np.ndarray  # float64[2, levels]: the books' levels, flat
    size: np.ndarray


def digest(*key: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def _parameters(market: Market, symbol: str) -> tuple[np.void, np.void]:
    """The two records of a lane's market before its first event."""
    scale = INSTRUMENTS.get(symbol, OTHER)
    bits = digest("market", market.seed, market.exchange, symbol)
    home = round(scale.price * scale.ticks_per_unit)
    p = np.zeros(1, PARAMETERS)[0]
    p["ticks_per_unit"] = scale.ticks_per_unit
    p["lots_per_unit"] = scale.lots_per_unit
    p["level_lots"] = scale.level_size * scale.lots_per_unit
    p["trade_lots"] = scale.trade_size * scale.lots_per_unit
    p["spread"] = scale.spread
    p["gap"] = scale.gap
    p["sigma"] = home * scale.volatility_bps * 1e-4
    p["home"] = home
    # 1 to 2 s, and the symbol decides the sign: a market of two symbols mostly has both
    p["offset_us"] = (1_000_000 + bits % 1_000_000) * (1 if digest("offset", symbol) % 2 else -1)
    p["flow_rate"] = 6.0 + 2.0 * market.books_per_second  # the other rates are 0 until the market opens
    s = np.zeros(1, STATE)[0]
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


def clean_hours(market: Market, symbol: str) -> Iterator[Hour]:
    """The lane without dirt."""
    p, s = _parameters(market, symbol)
    ticks, lots = np.zeros((2, LEVELS), np.int64), np.zeros((2, LEVELS), np.int64)
    count = np.zeros(2, np.int64)
    world = (p, s, ticks, lots, count)
    begin, end = market.span_us
    open_book(*world)
    _hour(market, 0, begin, begin, world)  # the flow that made the book; nobody sees it
    p["book_rate"] = market.books_per_second
    p["order_rate"] = market.trades_per_second / MEAN_FILLS
    p["quote_rate"] = market.quotes_per_second
    number = 0
    while begin < end:
        stop = min(begin - begin % HOUR_US + HOUR_US, end)
        yield _hour(market, number, begin, stop, world)
        begin, number = stop, number + 1


def _hour(market: Market, number: int, begin: int, end: int, world: tuple[Any, ...]) -> Hour:
    """Runs the market to `end`; a full output only means one more piece."""
    rates = (market.books_per_second, market.trades_per_second, market.quotes_per_second)
    room = [int(1.15 * rate * (end - begin) / US) + 64 for rate in rates]
    pieces = []
    levels, done = 0, False
    while not done:
        rows = np.zeros(3, np.int64)
        out = _outputs(*room)
        done = run(*(*world, end, rows, *out))
        piece = _filled(out, *rows.tolist())
        piece["books"][:, [3, 5]] += levels  # the level runs of later pieces stand behind those of earlier ones
        levels += piece["price"].shape[1]
        pieces.append(piece)
        room = [n // 8 + 64 for n in room]
    whole = pieces[0]
    if len(pieces) > 1:
        axes = {name: 1 if name in ("price", "size") else 0 for name in whole}
        whole = {name: np.concatenate([piece[name] for piece in pieces], axis=axis) for name, axis in axes.items()}
    return Hour(number, begin, end, _columns(whole), whole["price"], whole["size"])


def _outputs(books: int, trades: int, quotes: int) -> tuple[np.ndarray, ...]:
    """What `run` fills, with room for so many rows."""
    levels = books * LEVELS
    return (
        *(np.empty((books, 7), np.int64), np.empty((2, levels)), np.empty((2, levels))),
        *(np.empty((trades, 4), np.int64), np.empty((trades, 2))),
        *(np.empty((quotes, 3), np.int64), np.empty((quotes, len(QUOTE_COLUMNS)))),
    )


def _filled(out: tuple[np.ndarray, ...], books: int, trades: int, quotes: int) -> Rows:
    """The part of the outputs that `run` filled."""
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


def _columns(whole: Rows) -> dict[str, Rows]:
    """The kernel's matrices as columns that dirt can edit."""
    layout: dict[str, list[tuple[str, Sequence[str]]]] = {
        "orderbook": [
            ("books", ("capture", "timestamp", "nonce", "bids_start", "bids_length", "asks_start", "asks_length"))
        ],
        "trades": [("trades", ("capture", "timestamp", "trade_id", "side")), ("trade_values", ("price", "amount"))],
        "ticker": [("quotes", ("capture", "timestamp", "nonce")), ("quote_values", QUOTE_COLUMNS)],
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
    trades["side"] = np.where(trades["side"] > 0, BUY, SELL).astype(np.int8)
    trades["is_text_id"] = np.zeros(len(trades["side"]), bool)
    return by_channel
