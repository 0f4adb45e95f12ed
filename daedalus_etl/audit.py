"""The bronze contract, applied to segments: what a file holds, or why it cannot be used (SPEC sections 2 and 11.6)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import HOUR_US, KEYS, Segment, hour_of, literal

LEVELS = "STRUCT(price DOUBLE, size DOUBLE)[]"
COMMON = {"collected_at": "BIGINT", "capture_ts": "TIMESTAMP WITH TIME ZONE", "timestamp": "BIGINT"}
SCHEMAS: Mapping[str, Mapping[str, str]] = {
    "orderbook": COMMON | {"nonce": "BIGINT", "bids": LEVELS, "asks": LEVELS},
    "trades": COMMON
    | {"trade_id": "VARCHAR", "side": "VARCHAR", "price": "DOUBLE", "amount": "DOUBLE", "cost": "DOUBLE",
       "info_json": "VARCHAR"},
    "ticker": COMMON
    | dict.fromkeys(("bid", "ask", "bid_volume", "ask_volume", "last", "open", "high", "low", "close",
       "vwap", "base_volume", "quote_volume", "change", "percentage"), "DOUBLE")
    | {"info_json": "VARCHAR"},
}  # fmt: skip
REQUIRED = {
    "orderbook": ("bids", "asks"),
    "trades": ("price", "amount"),
    "ticker": ("bid", "ask"),
}
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NUMBERS = (*INTEGERS, "FLOAT", "DOUBLE")


@dataclass(frozen=True)
class Facts:
    """What a segment holds; clocks in us, `hours` in hours since the epoch. `problem` says why it cannot be used."""

    rows: int = 0
    min_clock: int = 0
    max_clock: int = 0
    hours: tuple[int, ...] = ()
    lanes: tuple[tuple[str, str], ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    passing: bool = False  # the problem may be the machine's, not the file's: it is not remembered

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Facts:
        return cls(**{**value, "lanes": tuple(map(tuple, value["lanes"])), "types": tuple(map(tuple, value["types"])),
                      "hours": tuple(value["hours"])})  # fmt: skip


def as_column(name: str, wanted: str, found: str | None) -> str:
    """The SQL that reads one contract column from a file column of type `found` (None: not there)."""
    if found is None or found in ('"NULL"', "NULL"):
        return f"null::{wanted} as {name}"
    if wanted == "BIGINT" and found in ("FLOAT", "DOUBLE"):
        return f"try_cast({name} as bigint) as {name}"
    if found == wanted:
        return name
    if wanted == LEVELS:
        return f"list_transform({name}, lambda x: {{'price': x.price::double, 'size': x.size::double}}) as {name}"
    return f"{name}::{wanted} as {name}"


def _type_problem(name: str, wanted: str, found: str) -> str:
    """Why a column of this type cannot be read as wanted; '' if it can."""
    if found in ('"NULL"', "NULL"):
        return ""
    if wanted in ("BIGINT", "DOUBLE"):
        good = found in NUMBERS or (found.startswith("DECIMAL") and wanted == "DOUBLE")
    elif wanted == LEVELS:
        good = found.endswith("[]") and all(
            any(f"{key} {number}" in found.replace('"', "") for number in NUMBERS) for key in ("price", "size")
        )
    elif wanted == "VARCHAR":
        good = found == "VARCHAR" or found.startswith("ENUM")
    else:
        good = found == wanted
    return "" if good else f"column {name} is {found}, not {wanted}"


def _clock(variables: Mapping[str, Any], types: Mapping[str, str]) -> str:
    if variables["clock"] != "event":
        return "capture_us"
    return (
        "case when timestamp between ceil((capture_us - 86400000000) / 1000)::bigint "
        "and floor((capture_us + 86400000000) / 1000)::bigint then timestamp * 1000 "
        "when collected_at between -62135596800000 and 253402300799999 then collected_at * 1000 else capture_us end"
    )


def audit(con: duckdb.DuckDBPyConnection, segment: Segment, variables: Mapping[str, Any]) -> Facts:
    """Read what decides whether a segment can be used. Never raises for what the file holds."""
    if segment.size < 0:
        return Facts(problem="is not a plain file")
    try:
        segment.path.encode()
    except UnicodeEncodeError:
        return Facts(problem="has a name that is not UTF-8")
    try:
        # said before the data is opened: a path that names no hour
        _path_hour(segment)
        found = {
            str(row[0]): str(row[1])
            for row in con.execute(
                "describe select * from read_parquet(?, hive_partitioning = false)", [[literal(segment.path)]]
            ).fetchall()
        }
        problem = _columns_problem(segment, found)
        if problem:
            return Facts(problem=problem)
        return _look_inside(con, segment, found, variables)
    except DaedalusError as error:
        return Facts(problem=str(error.what))
    except (duckdb.ParserException, duckdb.CatalogException):
        raise  # ours, not the file's
    except (duckdb.Error, UnicodeDecodeError) as error:
        passing = isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException))
        return Facts(problem=f"cannot be read as Parquet: {str(error).splitlines()[0][:200]}", passing=passing)


def _path_hour(segment: Segment) -> int | None:
    values: dict[str, str | int] = {}
    for key, value in segment.values.items():
        if key in ("exchange", "symbol"):
            continue
        if not (str(value).isascii() and str(value).isdigit()):
            raise DaedalusError(f"{key} is {str(value)[:40]!r} in the path, which is no number")
        values[key] = int(value)
    return hour_of(values)


def _columns_problem(segment: Segment, found: Mapping[str, str]) -> str:
    for name in ("capture_ts", "exchange", "symbol", *REQUIRED[segment.channel]):
        if name not in found:
            return f"has no column {name}"
    for name, wanted in SCHEMAS[segment.channel].items():
        if name in found:
            problem = _type_problem(name, wanted, found[name])
            if problem:
                return problem
    for name in ("exchange", "symbol"):
        if _type_problem(name, "VARCHAR", found[name]):
            return f"column {name} is {found[name]}, not VARCHAR"
    for name in KEYS[2:]:
        if name in found and found[name] not in NUMBERS:
            return f"column {name} is {found[name]}, not an integer"
    return ""


def _look_inside(con: Any, segment: Segment, found: Mapping[str, str], variables: Mapping[str, Any]) -> Facts:
    columns = ["exchange::varchar as exchange", "symbol::varchar as symbol", "epoch_us(capture_ts) as capture_us",
               "make_timestamp(epoch_us(capture_ts)) as moment"]  # fmt: skip
    columns += [as_column(name, "BIGINT", found.get(name)) for name in ("collected_at", "timestamp")]
    parts = {"year": "year(moment)", "month": "month(moment)", "day": "day(moment)", "hour": "hour(moment)"}
    columns += [f"{name}" for name in parts if name in found]
    off = " or ".join(f"{name} is distinct from {of}" for name, of in parts.items() if name in found) or "false"
    row = con.execute(
        f"""
        with rows as (
            select {", ".join(columns)} from read_parquet($1, hive_partitioning = false)
        ),
        clocked as (
            select *, {_clock(variables, found)} as clock_us from rows
        )
        select
            count(*), count(capture_us), min(clock_us), max(clock_us), min(capture_us), max(capture_us),
            count(*) filter (where {off}),
            count(collected_at), count(*) filter (where {_off_by_thousand("collected_at")}),
            count(timestamp), count(*) filter (where {_off_by_thousand("timestamp")}),
            count(*) filter (where exchange is null or symbol is null),
            list_sort(list(distinct floor(clock_us / 3600000000)::bigint))
        from clocked
        """,
        [[literal(segment.path)]],
    ).fetchone()
    (rows, captured, low, high, first, last, wrong, collected, collected_off, timed, timed_off, nameless, hours) = row
    if rows == 0:
        return Facts(types=tuple(found.items()))
    if not (first is None or (first >= -62135596800000000 and last < 253402300800000000)):
        return Facts(problem="capture_ts is outside the years 1 to 9999")
    if captured < rows:
        return Facts(problem=f"{rows - captured} of {rows} rows have no capture_ts")
    if nameless:
        return Facts(problem=f"{nameless} of {rows} rows have no exchange or no symbol")
    names = [
        (str(e), str(s))
        for e, s in con.execute(
            r"""
            select distinct regexp_replace(exchange, '[/\\:*?"<>|]', '-', 'g'),
                regexp_replace(symbol, '[/\\:*?"<>|]', '-', 'g')
            from read_parquet($1, hive_partitioning = false) order by all
            """,
            [[literal(segment.path)]],
        ).fetchall()
    ]
    for i, key in enumerate(("exchange", "symbol")):
        if key in segment.values:
            others = [n[i] for n in names if n[i] != segment.values[key]]
            if others:
                return Facts(problem=f"{key} is {segment.values[key]} in the path and {others[0]} in the data")
    if wrong:
        return Facts(problem=f"year to hour differ from capture_ts in {wrong} of {rows} rows")
    hour = _path_hour(segment)
    for name, of in parts.items():
        if hour is None and name in segment.values:
            low_part, high_part = con.execute(
                f"select min({of}), max({of}) from (select make_timestamp(epoch_us(capture_ts)) as moment "
                "from read_parquet($1, hive_partitioning = false))",
                [[literal(segment.path)]],
            ).fetchone()
            if not low_part == high_part == int(segment.values[name]):
                return Facts(problem=f"the {name} in the path is not that of capture_ts")
    if hour is not None and not (hour <= first and last < hour + HOUR_US):
        return Facts(problem="the hour in the path is not that of capture_ts")
    for name, n, n_off in (("collected_at", collected, collected_off), ("timestamp", timed, timed_off)):
        if n_off * 2 > n:
            return Facts(problem=f"{name} is off by a factor of 1000 from capture_ts in {n_off} of {n} rows")
    return Facts(rows, low, high, tuple(hours), tuple(names), tuple(found.items()))


def _off_by_thousand(name: str) -> str:
    """Is a time in ms 500 to 2,000 times capture_ts, or the inverse (seconds, microseconds)?"""
    ratio = f"({name}::double / nullif(capture_us / 1000, 0))"
    return f"{ratio} between 500 and 2000 or {ratio} between 0.0005 and 0.002"


def is_unreadable(con: duckdb.DuckDBPyConnection, segment: Segment, facts: Facts) -> str:
    """Read a segment whole; why that fails, or ''. For when an hour of several could not be read."""
    found = dict(facts.types)
    columns = ", ".join(as_column(n, t, found.get(n)) for n, t in SCHEMAS[segment.channel].items())
    try:
        con.execute(
            f"select count(*), bit_xor(hash(r)) "
            f"from (select {columns} from read_parquet($1, hive_partitioning = false)) as r",
            [[literal(segment.path)]],
        ).fetchone()
    except (duckdb.IOException, duckdb.OutOfMemoryException):
        return ""  # the machine's trouble, perhaps; the lane fails, and is taken up again
    except (duckdb.Error, UnicodeDecodeError) as error:
        return f"cannot be read as Parquet: {str(error).splitlines()[0][:200]}"
    return ""


def segment_order(segments: Iterable[tuple[Segment, Facts]]) -> list[tuple[Segment, Facts]]:
    """In the order that decides ties of lane order: partition values as numbers, the file's name, the full path."""

    def key(item: tuple[Segment, Facts]) -> tuple[int, str, str]:
        segment, facts = item
        hour = _path_hour(segment)
        if hour is None:
            hour = facts.min_clock // HOUR_US * HOUR_US
        return hour, segment.path.rsplit("/", 1)[-1], segment.path

    return sorted(segments, key=key)
