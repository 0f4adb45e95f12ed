"""The bronze contract, applied to segments: what a file holds, or why it cannot be used (SPEC sections 2 and 11.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from daedalus_etl import files
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import HOUR_US, KEYS, Lane, Segment, hour_of, literal

SANITIZED = r"""regexp_replace({}, '[/\\:*?"<>|]', '-', 'g')"""  # lanes.sanitize in SQL
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
NO_TYPE = '"NULL"'  # as DuckDB calls it
NUMBERS = (*INTEGERS, "FLOAT", "DOUBLE")


@dataclass(frozen=True)
class Span:
    """What a segment holds of one lane: clocks in us, `hours` in hours since the epoch, ascending."""

    exchange: str
    symbol: str
    rows: int
    min_clock: int
    max_clock: int
    hours: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a segment holds, or why it cannot be used (`problem`)."""

    digest: str = ""  # of its bytes
    first_capture: int = 0  # us, of its first row: stands in for partition values that its path does not have
    spans: tuple[Span, ...] = ()  # by exchange and symbol; none if it has no rows
    types: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    passing: bool = False  # the problem may be the machine's, not the file's: it is not remembered

    def of(self, lane: Lane) -> Span | None:
        """What it holds of a lane."""
        return next((s for s in self.spans if (s.exchange, s.symbol) == (lane.exchange, lane.symbol)), None)

    def span(self, lane: Lane) -> Span:
        """The same, of a lane that is known to be in it."""
        found = self.of(lane)
        assert found is not None, lane
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Facts:
        """Raises KeyError or TypeError for what `to_json` did not make."""
        spans = tuple(Span(**{**span, "hours": tuple(span["hours"])}) for span in value["spans"])
        return cls(**{**value, "spans": spans, "types": tuple((n, t) for n, t in value["types"])})


def as_column(name: str, wanted: str, found: str | None) -> str:
    """The SQL that reads one contract column from a file column of type `found` (None: not there)."""
    if found is None or found == NO_TYPE:
        return f"null::{wanted} as {name}"
    if wanted == "BIGINT" and found in ("FLOAT", "DOUBLE"):
        return f"try_cast({name} as bigint) as {name}"
    if found == wanted:
        return name
    if found == "other" and wanted != LEVELS:
        return f"try_cast({name} as {wanted}) as {name}"
    if wanted == LEVELS:
        return f"list_transform({name}, lambda x: {{'price': x.price::double, 'size': x.size::double}}) as {name}"
    return f"{name}::{wanted} as {name}"


def _type_problem(name: str, wanted: str, found: str) -> str:
    """Why a column of this type cannot be read as wanted; '' if it can."""
    if found == NO_TYPE:
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
    """Read what decides whether a segment can be used. Never raises for what the file holds, nor if it has gone."""
    if segment.size < 0:
        return Facts(problem="is not a plain file")
    try:
        segment.path.encode()
    except UnicodeEncodeError:
        return Facts(problem="has a name that is not UTF-8")
    digest = ""
    try:
        # said before the data is opened: a path that names no hour
        path_hour(segment)
        digest = files.digest_of(segment.path)
        found = {
            str(row[0]): str(row[1])
            for row in con.execute(
                "describe select * from read_parquet(?, hive_partitioning = false)", [[literal(segment.path)]]
            ).fetchall()
        }
        _take_empty_for_missing(con, segment, found)
        problem = _columns_problem(segment, found) or _footer_problem(con, segment)
        if problem:
            return Facts(digest, problem=problem)
        return _look_inside(con, segment, digest, found, variables)
    except DaedalusError as error:
        return Facts(digest, problem=str(error.what))
    except (duckdb.ParserException, duckdb.CatalogException):
        raise  # ours, not the file's
    except (duckdb.Error, UnicodeDecodeError) as error:
        passing = isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException))
        return Facts(digest, problem=f"cannot be read as Parquet: {str(error).splitlines()[0][:200]}", passing=passing)
    except OSError as error:
        return Facts(problem=f"cannot be read: {error.strerror}", passing=True)


def path_hour(segment: Segment) -> int | None:
    """The start of the hour that a segment's path names, us; None if it names none. Raises DaedalusError."""
    values: dict[str, str | int] = {}
    for key, value in segment.values.items():
        if key in ("exchange", "symbol"):
            continue
        if not (str(value).isascii() and str(value).isdigit()):
            raise DaedalusError(f"{key} is {str(value)[:40]!r} in the path, which is no number")
        values[key] = int(value)
    return hour_of(values)


def _take_empty_for_missing(con: duckdb.DuckDBPyConnection, segment: Segment, found: dict[str, str]) -> None:
    """A column without any value may have any type: some writers know none for it."""
    for name, wanted in SCHEMAS[segment.channel].items():
        if name in found and wanted != LEVELS and _type_problem(name, wanted, found[name]):
            (values,) = con.execute(
                f"select count({name}) from read_parquet($1, hive_partitioning = false)", [[literal(segment.path)]]
            ).fetchall()[0]
            if not values:
                found[name] = NO_TYPE


def _footer_problem(con: duckdb.DuckDBPyConnection, segment: Segment) -> str:
    """Do the footer's own counts agree? DuckDB believes a row group's, and would leave out the rest in silence."""
    disagree, rows, promised = con.execute(
        """
        with columns as (
            select row_group_id, row_group_num_rows as rows, num_values, path_in_schema from parquet_metadata($1)
        ),
        groups as (
            select
                any_value(rows) as rows,
                bool_or(num_values < rows or (path_in_schema = 'capture_ts' and num_values > rows)) as disagree
            from columns
            group by row_group_id
        )
        select
            coalesce(bool_or(disagree), false),
            coalesce(sum(rows), 0),
            (select num_rows from parquet_file_metadata($1))
        from groups
        """,
        [[literal(segment.path)]],
    ).fetchall()[0]
    return "its footer disagrees with itself about the number of rows" if disagree or rows != promised else ""


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


def _look_inside(
    con: Any, segment: Segment, digest: str, found: Mapping[str, str], variables: Mapping[str, Any]
) -> Facts:
    columns = [f"{SANITIZED.format(f'{key}::varchar')} as {key}" for key in ("exchange", "symbol")]
    columns += ["epoch_us(capture_ts) as capture_us", "make_timestamp(epoch_us(capture_ts)) as moment"]
    columns += [as_column(name, "BIGINT", found.get(name)) for name in ("collected_at", "timestamp")]
    parts = {"year": "year(moment)", "month": "month(moment)", "day": "day(moment)", "hour": "hour(moment)"}
    columns += [f"{name}" for name in parts if name in found]
    off = " or ".join(f"{name} is distinct from {of}" for name, of in parts.items() if name in found) or "false"
    by_lane = con.execute(
        f"""
        with rows as (
            select {", ".join(columns)}, file_row_number from read_parquet($1, hive_partitioning = false)
        ),
        clocked as (
            select
                *,
                {_clock(variables, found)} as clock_us,
                collected_at::double / nullif(capture_us / 1000, 0) as collected_ratio,
                timestamp::double / nullif(capture_us / 1000, 0) as timestamp_ratio
            from rows
        )
        select
            exchange, symbol, count(*), min(clock_us), max(clock_us),
            list_sort(list(distinct floor(clock_us / 3600000000)::bigint)),
            count(capture_us), min(capture_us), max(capture_us),
            count(*) filter (where {off}),
            count(collected_at), count(*) filter (where {_off_by_thousand("collected_ratio")}),
            count(timestamp), count(*) filter (where {_off_by_thousand("timestamp_ratio")}),
            min(file_row_number), arg_min(capture_us, file_row_number)
        from clocked
        group by exchange, symbol
        order by exchange, symbol
        """,
        [[literal(segment.path)]],
    ).fetchall()
    if not by_lane:
        return Facts(digest, types=tuple(found.items()))
    rows, captured, wrong, collected, collected_off, timed, timed_off = (
        sum(row[i] for row in by_lane) for i in (2, 6, 9, 10, 11, 12, 13)
    )
    nameless = sum(row[2] for row in by_lane if row[0] is None or row[1] is None)
    first = min((row[7] for row in by_lane if row[7] is not None), default=0)
    last = max((row[8] for row in by_lane if row[8] is not None), default=0)
    names = [(str(row[0]), str(row[1])) for row in by_lane]
    if not (first >= -62135596800000000 and last < 253402300800000000):
        return Facts(problem="capture_ts is outside the years 1 to 9999")
    if captured < rows:
        return Facts(problem=f"{rows - captured} of {rows} rows have no capture_ts")
    if nameless:
        return Facts(problem=f"{nameless} of {rows} rows have no exchange or no symbol")
    for i, key in enumerate(("exchange", "symbol")):
        if key in segment.values:
            others = [n[i] for n in names if n[i] != segment.values[key]]
            if others:
                return Facts(problem=f"{key} is {segment.values[key]} in the path and {others[0]} in the data")
    if wrong:
        return Facts(problem=f"year to hour differ from capture_ts in {wrong} of {rows} rows")
    hour = path_hour(segment)
    for name, of in parts.items():
        if hour is None and name in segment.values:
            low, high = con.execute(
                f"select min({of}), max({of}) from (select make_timestamp(epoch_us(capture_ts)) as moment "
                "from read_parquet($1, hive_partitioning = false))",
                [[literal(segment.path)]],
            ).fetchone()
            if not low == high == int(segment.values[name]):
                return Facts(problem=f"the {name} in the path is not that of capture_ts")
    if hour is not None and not (hour <= first and last < hour + HOUR_US):
        return Facts(problem="the hour in the path is not that of capture_ts")
    for name, n, n_off in (("collected_at", collected, collected_off), ("timestamp", timed, timed_off)):
        if n_off * 2 > n:
            return Facts(problem=f"{name} is off by a factor of 1000 from capture_ts in {n_off} of {n} rows")
    spans = tuple(
        Span(*name, rows=row[2], min_clock=row[3], max_clock=row[4], hours=tuple(row[5]))
        for name, row in zip(names, by_lane, strict=True)
    )
    return Facts(digest, min(by_lane, key=lambda row: row[14])[15], spans, tuple(found.items()))


def last_clock(
    found: Iterable[tuple[Segment, Facts]], lane: Lane, before: int, variables: Mapping[str, Any]
) -> int | None:
    """The last clock of a lane's rows before a moment, us; None if there is none."""
    clocks: list[int] = []
    for segment, facts in found:
        span, types = facts.of(lane), dict(facts.types)
        if span is None or span.min_clock >= before:
            continue
        if span.max_clock < before:
            clocks.append(span.max_clock)
            continue
        times = ", ".join(as_column(name, "BIGINT", types.get(name)) for name in ("collected_at", "timestamp"))
        with duckdb.connect(":memory:", config={"threads": 1}) as con:
            (clock,) = con.execute(
                f"""
                with rows as (
                    select epoch_us(capture_ts) as capture_us, {times}
                    from read_parquet($1, hive_partitioning = false)
                    where {SANITIZED.format("exchange")} = $2 and {SANITIZED.format("symbol")} = $3
                )
                select max(clock_us) from (select {_clock(variables, types)} as clock_us from rows) where clock_us < $4
                """,
                [[literal(segment.path)], lane.exchange, lane.symbol, before],
            ).fetchall()[0]
        clocks += [clock] if clock is not None else []
    return max(clocks, default=None)


def _off_by_thousand(ratio: str) -> str:
    """Is a time in ms, over capture_ts in ms, 500 to 2,000 times too large or small (microseconds, seconds), or that
    again (nanoseconds)?"""
    ranges = (("500", "2000"), ("0.0005", "0.002"), ("500000", "2000000"))
    return " or ".join(f"{ratio} between {low}::double and {high}::double" for low, high in ranges)


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
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        if "Could not read enough bytes" in str(error):
            return "cannot be read as Parquet: it leads behind its own end"
        return ""  # the machine's trouble, perhaps; the lane fails, and is taken up again
    except (duckdb.Error, UnicodeDecodeError) as error:
        return f"cannot be read as Parquet: {str(error).splitlines()[0][:200]}"
    return ""


def segment_key(segment: Segment, facts: Facts) -> tuple[int, str, str]:
    """What decides ties of lane order: partition values as numbers, the file's name, the full path (SPEC 4, 12)."""
    hour = path_hour(segment)
    if hour is None:
        hour = facts.first_capture // HOUR_US * HOUR_US
    return hour, segment.path.rsplit("/", 1)[-1], segment.path


def segment_order(segments: Iterable[tuple[Segment, Facts]]) -> list[tuple[Segment, Facts]]:
    """In the order that decides ties of lane order."""
    return sorted(segments, key=lambda item: segment_key(*item))
