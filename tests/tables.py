"""Drawn tables: what is given to a lane, and what it must publish; only the drawn columns are compared.

A cell is a number or arithmetic on literals (`2/3`, `ln(1.01)`), a time of Tuesday 2026-02-03 (`00:00:01.5`) or of
another day (`2026-02-02 23:59`), levels best first (`99x1 98x2`, `[]`), a word, or `-` for NULL. What follows a `#` is
a comment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from daedalus_etl import runner
from daedalus_etl.lanes import parse_path
from tests import harness

Rows = list[dict[str, Any]]

TODAY = "2026-02-03"
TEXT = {"trade_id", "side", "info_json", "exchange", "symbol", "source_symbol", "spread_regime"}
IN_MS = {"timestamp", "collected_at"}
_TIME = re.compile(r"(?:(\d{4}-\d\d-\d\d) )?(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?")
_WORDS = {"true": True, "false": False, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_FUNCTIONS = {"ln": math.log, "exp": math.exp, "sqrt": math.sqrt}


def at(text: str) -> int:
    """A drawn time in us since the epoch."""
    found = _TIME.fullmatch(text)
    assert found, text
    day, hour, minute, second, fraction = found.groups()
    whole = datetime.fromisoformat(f"{day or TODAY}T{hour}:{minute}:{second or '00'}+00:00").astimezone(UTC)
    return int(whole.timestamp()) * 1_000_000 + int((fraction or "").ljust(6, "0"))


def drawn(text: str) -> Rows:
    """The rows of a table as dicts."""
    lines = [bare for line in text.strip().splitlines() if (bare := line.split("#")[0].strip())]
    names = [name.strip() for name in lines[0].split("|")]
    table = [[cell.strip() for cell in line.split("|")] for line in lines[1:]]
    return [{n: _cell(n, c) for n, c in zip(names, cells, strict=True)} for cells in table]


def _cell(name: str, text: str) -> Any:
    if text == "-":
        return None
    if name in TEXT:
        return "" if text == "''" else text
    if name in ("bids", "asks"):
        return [] if text == "[]" else [tuple(_number(part) for part in level.split("x")) for level in text.split()]
    if _TIME.fullmatch(text):
        return at(text) // 1000 if name in IN_MS else at(text)
    return _WORDS[text] if text in _WORDS else eval(text, {"__builtins__": {}}, _FUNCTIONS)


def _number(text: str) -> float | None:
    return None if text == "null" else float(text)


def assert_rows(got: Rows, text: str) -> None:
    """Are these the drawn rows, in this order? Numbers within 1e-9 of themselves; integers, times and NULL exactly."""
    want = drawn(text)
    shown = [{name: row.get(name, "no such column") for name in want[0]} for row in got] if want else got
    off = [
        f"row {i} {name}: {g[name]!r}, not {w[name]!r}"
        for i, (g, w) in enumerate(zip(shown, want, strict=False))
        for name in w
        if not _same(g[name], w[name])
    ]
    if len(got) != len(want):
        off.insert(0, f"{len(got)} rows, not {len(want)}: {shown}")
    if off:
        raise AssertionError("\n".join(off))


def _same(got: Any, want: Any) -> bool:
    if want is None or isinstance(want, (bool, str)) or isinstance(got, (bool, str)) or got is None:
        return type(got) is type(want) and got == want
    if isinstance(got, int):
        return bool(got == want)
    return math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-12)


class Market:
    """Lanes drawn by tests, written as one bronze root and run together, once."""

    def __init__(self, *select: str, **variables: Any):
        self.select, self.variables = select, variables
        self.lanes: list[Lane] = []
        self.data = Path()
        self.report = runner.Report()
        self.read: dict[tuple[str, str], Rows] = {}

    def lane(self, symbol: str, *, exchange: str = "kraken", **given: str | Mapping[str, str]) -> Lane:
        """given: channel -> its drawn rows (`at` is capture_ts), or segment name -> rows."""
        lane = Lane(self, exchange, symbol)
        for channel, tables in given.items():
            named = {"segment": tables} if isinstance(tables, str) else tables
            lane.given += [(channel, name, given_rows(text)) for name, text in named.items()]
        self.lanes.append(lane)
        return lane

    def run(self, data: Path) -> None:
        self.data = data
        for lane in self.lanes:
            for channel, name, rows in lane.given:
                harness.write_bronze(data, channel, rows, exchange=lane.exchange, symbol=lane.symbol, name=name)
        self.report = harness.run(data, *self.select, **self.variables)


class Lane:
    """One (exchange, source symbol) of a market."""

    def __init__(self, market: Market, exchange: str, symbol: str):
        self.market, self.exchange, self.symbol = market, exchange, symbol
        self.given: list[tuple[str, str, Rows]] = []

    def rows(self, table: str) -> Rows:
        """What was published of it in 'silver/trades', 'gold/trades_bars/60s', ...: files by time, rows as they lie."""
        key = table, self.exchange
        if key not in self.market.read:
            self.market.read[key] = read_published(self.market.data, *key)
        return [row for row in self.market.read[key] if row["source_symbol"] == self.symbol]


def given_rows(text: str) -> Rows:
    rows = drawn(text)
    for row in rows:
        row["capture_ts"] = row.pop("at")
    return rows


def read_published(data: Path, table: str, exchange: str) -> Rows:
    """All rows of an exchange, in the order of the files' hours and of the rows inside them; times in us."""
    files = list((data / "processed" / table / f"exchange={exchange}").rglob("*.parquet"))
    rows: Rows = []
    for path in sorted(files, key=_hour):
        rows += _read(path)
    return rows


def _hour(path: Path) -> tuple[Sequence[int | str], str]:
    values = parse_path(path)
    return [values[key] for key in ("year", "month", "day", "hour") if key in values], str(path)


def _read(path: Path) -> Rows:
    found = pq.ParquetFile(path).read()
    for i, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):
            found = found.set_column(i, field.name, found.column(i).cast(pa.int64()))
    rows: Rows = found.to_pylist()
    return rows
