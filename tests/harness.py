"""Run the project as a library in a test, and read back what it published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from daedalus_etl import models, profiles, runner
from daedalus_etl.audit import LEVELS, SCHEMAS
from daedalus_etl.lanes import HOUR_US, parse_path, partition_path, sanitize

SHARED = Path(__file__).parents[2] / "shared" / "data" / "bronze"
LEVEL = pa.list_(pa.struct([("price", pa.float64()), ("size", pa.float64())]))
ARROW = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "VARCHAR": pa.string(), LEVELS: LEVEL}
ARROW["TIMESTAMP WITH TIME ZONE"] = pa.timestamp("us", tz="UTC")


def profile(data: Path, **variables: Any) -> profiles.Profile:
    return profiles.load("laptop", None, variables).with_data(str(data), None)


def run(data: Path, *select: str, selection: Mapping[str, Any] | None = None, **variables: Any) -> runner.Report:
    """`daedalus run --select ...` over a data root; fails the test if any lane failed."""
    p = profile(data, **variables)
    graph = models.Graph(p.projects, p.variables)
    report = runner.Run(p, graph, runner.Selection(models=select, **(selection or {})), lambda *_: None).run()
    assert report.failed == [], report.failed
    return report


def published(
    data: Path,
    table: str,
    where: str = "true",
    *,
    columns: Sequence[str] = (),
    limit: int = 2**40,
    order: bool = True,
) -> list[dict[str, Any]]:
    """The rows of a published folder ('silver/trades', 'gold/trades_bars/60s') in order, as dicts; times are us."""
    files = sorted((data / "processed" / table).glob("exchange=*/**/*.parquet"))
    if not files:
        return []
    by = ("bar_start" if table.startswith("gold") else "clock_ts, lane_order") if order else "all"
    wanted = ", ".join(f'"{name}"' for name in columns) or "*"
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    found = con.execute(
        f"select {wanted} from read_parquet(?, hive_partitioning = false, union_by_name = true) "
        f"where {where} order by {by} limit {limit}",
        [[str(f) for f in files]],
    ).to_arrow_table()
    for i, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):
            found = found.set_column(i, field.name, found.column(i).cast(pa.int64()))
    return found.to_pylist()


def write_bronze(
    data: Path,
    channel: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    exchange: str = "kraken",
    symbol: str = "BTC-USD",
    name: str = "segment",
    source: str = "ccxt",
) -> list[Path]:
    """Rows (capture_ts in us; other columns of the channel, missing ones NULL) as one segment an hour of capture."""
    hours: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        hours.setdefault(row["capture_ts"] // HOUR_US, []).append(row)
    paths = []
    for hour, part in hours.items():
        folder = data / "raw" / "ready" / source / channel / partition_path(exchange, symbol, hour * HOUR_US)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.parquet"
        pq.write_table(bronze_table(channel, part, exchange=exchange, symbol=symbol), path)
        paths.append(path)
    return paths


def parse_symbol(path: Path) -> str:
    """The symbol that a segment's path names."""
    return str(parse_path(path)["symbol"])


def bronze_table(channel: str, rows: Iterable[Mapping[str, Any]], *, exchange: str, symbol: str) -> pa.Table:
    from datetime import UTC, datetime

    rows = list(rows)
    columns: dict[str, pa.Array] = {}
    for name, kind in SCHEMAS[channel].items():
        values = [r.get(name) for r in rows]
        if name == "collected_at":
            values = [r.get(name, r["capture_ts"] // 1000) for r in rows]
        if kind == LEVELS:
            values = [None if v is None else [{"price": p, "size": q} for p, q in v] for v in values]
        columns[name] = pa.array(values, ARROW[kind])
    columns["exchange"] = pa.array([sanitize(exchange)] * len(rows), pa.string())
    columns["symbol"] = pa.array([sanitize(symbol)] * len(rows), pa.string())
    when = [datetime.fromtimestamp(r["capture_ts"] // 1_000_000, UTC) for r in rows]
    for part in ("year", "month", "day", "hour"):
        columns[part] = pa.array([getattr(w, part) for w in when], pa.int32())
    return pa.table(columns)


def raw(rows: Iterable[Mapping[str, Any]], name: str = "segment", channel: str = "trades") -> list[dict[str, Any]]:
    """The same rows as the oracle takes them: every contract column, and where each lies."""
    out = []
    for i, row in enumerate(rows):
        full = {column: row.get(column) for column in SCHEMAS[channel]}
        full["collected_at"] = row.get("collected_at", row["capture_ts"] // 1000)
        out.append({**full, "segment": (row["capture_ts"] // HOUR_US, name), "position": i})
    return out
