"""Where data lies: hive paths <-> lanes, channels and partitions; what is there; which lanes are meant.

`sanitize`, `partition_path` and `parse_path` are the partition contract in public Python: collectors import them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from daedalus_etl.errors import DaedalusError

CHANNELS = ("orderbook", "trades", "ticker")
KEYS = ("exchange", "symbol", "year", "month", "day", "hour")
US = 1_000_000
HOUR_US = 3600 * US
DAY_US = 24 * HOUR_US
_PROHIBITED = re.compile(r'[/\\:*?"<>|]')
NAME_MAX = 255  # bytes of one folder's name on every filesystem that we know


def sanitize(value: str) -> str:
    r"""A partition value as it stands in a path: each of / \ : * ? " < > | becomes -.

    >>> sanitize("BTC/USDT:USDT")
    'BTC-USDT-USDT'
    """
    return _PROHIBITED.sub("-", str(value))


def partition_path(exchange: str, symbol: str, clock_us: int, *, by: str = "hour") -> str:
    """The hive path of a lane's partition, relative to its channel: numbers unpadded, times in UTC.

    `clock_us` is in microseconds since the epoch; `by` is 'hour' (bronze, silver) or 'day' (gold). Raises DaedalusError
    for a name that no folder can have.

    >>> partition_path("binance", "BTC/USDT", 1723161254000000)
    'exchange=binance/symbol=BTC-USDT/year=2024/month=8/day=8/hour=23'
    """
    for key, value in (("exchange", sanitize(exchange)), ("symbol", sanitize(symbol))):
        if not value or "\0" in value or len(f"{key}={value}".encode(errors="surrogateescape")) > NAME_MAX:
            raise DaedalusError(
                f"{key} {value[:40]!r} cannot be a folder's name", hint="Names have 1 to 240 bytes and no NUL."
            )
    when = datetime.fromtimestamp(clock_us // US, UTC)
    path = f"exchange={sanitize(exchange)}/symbol={sanitize(symbol)}/year={when.year}/month={when.month}/day={when.day}"
    return f"{path}/hour={when.hour}" if by == "hour" else path


def parse_path(path: str | os.PathLike[str]) -> dict[str, str | int]:
    """The partition values in a path: exchange and symbol as text, year to hour as numbers (padded or not).

    What the path does not say is absent from the result. Raises DaedalusError where a number is none.

    >>> parse_path("x/exchange=kraken/symbol=BTC-USD/year=2024/month=08/day=9/hour=00/a.parquet")
    {'exchange': 'kraken', 'symbol': 'BTC-USD', 'year': 2024, 'month': 8, 'day': 9, 'hour': 0}
    """
    values: dict[str, str | int] = {}
    for part in str(path).split("/"):
        key, sign, value = part.partition("=")
        if not sign or key not in KEYS:
            continue
        if key in ("exchange", "symbol"):
            values[key] = value
        elif value.isascii() and value.isdigit() and len(value) <= 4:
            values[key] = int(value)
        else:
            raise DaedalusError(f"{key} is {value[:40]!r}, which is no number", str(path), "Write month=8 or month=08.")
    return values


def hour_of(values: Mapping[str, str | int]) -> int | None:
    """The start of the hour that partition values name, us; None if they name none.

    Raises DaedalusError for an hour that no calendar has.
    """
    if not all(key in values for key in KEYS[2:]):
        return None
    try:
        when = datetime(*(int(values[key]) for key in KEYS[2:]), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError as error:
        raise DaedalusError(f"there is no such hour: {error}") from None
    return int(when.timestamp()) * US


@dataclass(frozen=True, order=True)
class Lane:
    """One (exchange, source symbol) stream of one channel, by sanitized names."""

    exchange: str
    symbol: str
    channel: str

    def __str__(self) -> str:
        return f"{self.channel} {self.exchange} {self.symbol}"


@dataclass(frozen=True)
class Segment:
    """One bronze file as the folder shows it; size in bytes."""

    path: str
    channel: str
    size: int
    mtime_ns: int
    values: Mapping[str, str | int]

    @property
    def key(self) -> tuple[int, int]:
        """What tells an unchanged file."""
        return self.size, self.mtime_ns


def channel_root(data: Path, source: str, channel: str) -> Path:
    return data / "raw" / "ready" / source / channel


def literal(path: str) -> str:
    """A path for read_parquet, which takes [, * and ? in it for a pattern."""
    return re.sub(r"([\[*?])", r"[\1]", path)


def segments(
    root: Path, channel: str, apart: Collection[str] = (), values: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Segment]:
    """Every *.parquet below a folder, folder by folder, but not in the folders `apart`. Hidden and temporary files are
    left alone.

    values: what the path says before `root`. A link, pipe or anything else that is no plain file is not followed: its
    size is -1. A file that goes between listing and stat is not there.
    """
    stack: list[tuple[str, dict[str, str]]] = [(str(root), dict(values))]
    while stack:
        folder, values = stack.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda e: e.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in listed:
            if entry.name.startswith((".", "_")):
                continue
            if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(".parquet"):
                if entry.path not in apart:
                    stack.append((entry.path, {**values, **_partition_of(entry.name)}))
            elif entry.name.endswith(".parquet"):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                plain = entry.is_file(follow_symlinks=False)
                size, mtime = (status.st_size, status.st_mtime_ns) if plain else (-1, 0)
                yield Segment(entry.path, channel, size, mtime, values)


def key_of(path: str) -> tuple[int, int] | None:
    """A file's size and time, as `Segment.key`; None if it is not there."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def folders(path: str, key: str) -> list[str]:
    """The folders `key=...` in a folder, by name; links are not followed."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.path for e in entries if e.name.startswith(f"{key}=") and e.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _partition_of(name: str) -> dict[str, str]:
    key, sign, value = name.partition("=")
    return {key: value} if sign and key in KEYS else {}


# -- names ----------------------------------------------------------------------------------------------------


def canonical(symbol: str, usd_quotes: Iterable[str]) -> str:
    """A source symbol with dollar quotes counted as USD: in the quote and in a perpetual's settlement (SPEC 10).

    >>> canonical("BTC-USDT-USDT", ["USDT"])
    'BTC-USD-USD'
    """
    parts = symbol.split("-")
    quotes = set(usd_quotes)
    return "-".join("USD" if i in (1, 2) and part.upper() in quotes else part for i, part in enumerate(parts))


def canonical_names(lanes: Iterable[Lane], variables: Mapping[str, object]) -> dict[Lane, str]:
    """The symbol under which each lane is published. Lanes that would collide keep their own names.

    Decide this from all of bronze, never from a filter.
    """
    lanes = list(lanes)
    if not variables["normalize_quotes"]:
        return {lane: lane.symbol for lane in lanes}
    names = {lane: canonical(lane.symbol, variables["usd_quotes"]) for lane in lanes}  # type: ignore[arg-type]
    claims: dict[tuple[str, str, str], list[Lane]] = defaultdict(list)
    for lane, name in names.items():
        claims[lane.exchange, lane.channel, name].append(lane)
    return {
        lane: name if len(claims[lane.exchange, lane.channel, name]) == 1 else lane.symbol
        for lane, name in names.items()
    }


def collisions(lanes: Iterable[Lane], variables: Mapping[str, object]) -> list[list[Lane]]:
    """The groups of lanes that keep their own names because their canonical ones would be the same."""
    if not variables["normalize_quotes"]:
        return []
    groups: dict[tuple[str, str, str], list[Lane]] = defaultdict(list)
    for lane in lanes:
        groups[lane.exchange, lane.channel, canonical(lane.symbol, variables["usd_quotes"])].append(lane)  # type: ignore[arg-type]
    return [sorted(group) for group in groups.values() if len(group) > 1]


def partner(
    lane: Lane, channel: str, there: Iterable[Lane], variables: Mapping[str, object]
) -> tuple[Lane | None, bool]:
    """The lane of another channel that this one takes (a book its trades), and whether there were several to choose
    from.

    Its own source symbol; failing that, the only lane of its exchange with its canonical symbol.
    """
    others = [other for other in there if other.channel == channel and other.exchange == lane.exchange]
    for other in others:
        if other.symbol == lane.symbol:
            return other, False
    if not variables["normalize_quotes"]:
        return None, False
    quotes = variables["usd_quotes"]
    name = canonical(lane.symbol, quotes)  # type: ignore[arg-type]
    alike = [other for other in others if canonical(other.symbol, quotes) == name]  # type: ignore[arg-type]
    return (alike[0], False) if len(alike) == 1 else (None, len(alike) > 1)


def is_selected(lane: Lane, exchanges: Iterable[str], symbols: Iterable[str], variables: Mapping[str, object]) -> bool:
    """Do the --exchange and --symbol patterns mean this lane? A symbol matches all its quote variants."""
    exchanges, symbols = tuple(exchanges), tuple(symbols)
    if exchanges and not any(fnmatch.fnmatchcase(lane.exchange, sanitize_pattern(e)) for e in exchanges):
        return False
    if not symbols:
        return True
    names = {lane.symbol}
    if variables["normalize_quotes"]:
        names.add(canonical(lane.symbol, variables["usd_quotes"]))  # type: ignore[arg-type]
    for symbol in symbols:
        pattern = sanitize_pattern(symbol)
        wanted = {pattern}
        if variables["normalize_quotes"]:
            wanted.add(canonical(pattern, variables["usd_quotes"]))  # type: ignore[arg-type]
        if any(fnmatch.fnmatchcase(name, w) for name in names for w in wanted):
            return True
    return False


def sanitize_pattern(pattern: str) -> str:
    """As `sanitize`, but * and ? stay wildcards."""
    return re.sub(r'[/\\:"<>|]', "-", pattern)


def short(text: str) -> str:
    """A name of 8 hexadecimal digits for a name of any length and any characters."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
