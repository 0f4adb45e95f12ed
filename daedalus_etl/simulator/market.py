"""What a user says of a market, and the scales of its symbols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import HOUR_US

LEVELS = 20  # visible levels per side
QUOTE_COLUMNS = (
    *("bid", "ask", "bid_volume", "ask_volume", "last", "open", "high", "low", "close", "vwap"),
    *("base_volume", "quote_volume", "change", "percentage"),
)


@dataclass(frozen=True)
class Instrument:
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
INSTRUMENTS: dict[str, Instrument] = {
    "BTC-USDT": Instrument(78_412.3, 10, 100_000, 0.6, 0.02, 2, 6.0, 0.25),
    "ETH-USDT": Instrument(2_318.45, 100, 10_000, 8.0, 0.4, 2, 4.0, 0.3),
    "SOL-USDT": Instrument(103.42, 100, 1_000, 150.0, 6.0, 1, 1.3, 0.4),
    "DOGE-USDT": Instrument(0.10873, 100_000, 1, 40_000.0, 1_500.0, 1, 1.4, 0.45),
    "SHIB-USDT": Instrument(0.00001214, 100_000_000, 1, 180_000_000.0, 4_000_000.0, 1, 1.05, 0.5),
    "BTC-USDT-USDT": Instrument(78_430.1, 10, 1_000, 2.5, 0.05, 1, 4.0, 0.25),
    "ETH-USDT-USDT": Instrument(2_319.1, 100, 1_000, 30.0, 1.0, 1, 3.0, 0.3),
    "XRP-USDT": Instrument(1.6123, 10_000, 10, 9_000.0, 400.0, 1, 1.3, 0.35),
    "BNB-USDT": Instrument(761.52, 100, 1_000, 6.0, 0.3, 1, 3.0, 0.25),
    "ADA-USDT": Instrument(0.2957, 10_000, 10, 60_000.0, 2_000.0, 1, 1.1, 0.45),
    "LINK-USDT": Instrument(9.731, 1_000, 100, 700.0, 25.0, 1, 1.4, 0.4),
    "AVAX-USDT": Instrument(10.04, 1_000, 100, 500.0, 20.0, 2, 2.0, 0.45),
    "LTC-USDT": Instrument(59.87, 100, 1_000, 90.0, 3.0, 1, 1.2, 0.35),
    "DOT-USDT": Instrument(1.552, 1_000, 100, 3_000.0, 120.0, 1, 1.1, 0.45),
    "PEPE-USDT": Instrument(0.00000432, 1_000_000_000, 1, 900_000_000.0, 20_000_000.0, 1, 1.2, 0.6),
    "ETH-BTC": Instrument(0.02957, 1_000_000, 10_000, 12.0, 0.2, 2, 3.0, 0.2),
}
OTHER = Instrument(100.0, 100, 1_000, 20.0, 1.0, 1, 1.5, 0.4)


def well_known_symbols(count: int) -> tuple[str, ...]:
    """The first `count` of a fixed list of symbols; from the 17th on SYM017-USDT, SYM018-USDT, ..."""
    names = list(INSTRUMENTS)[:count]
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
    if not isinstance(market.exchange, str) or not is_name(market.exchange):
        refuse("exchange", "A name of 1 to 200 printable characters.")
    if isinstance(market.symbols, tuple) and not (
        market.symbols and all(isinstance(symbol, str) and is_name(symbol) for symbol in market.symbols)
    ):
        refuse("symbols", "At least one name; each has 1 to 200 printable characters.")
    if len(set(market.names)) < len(market.names):
        refuse("symbols", "Each symbol once, also after / : and the like became hyphens.")


def is_name(value: str) -> bool:
    return bool(value.strip()) and value.isprintable() and len(value.encode()) <= 200
