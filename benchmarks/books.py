"""Order book lanes against the floor, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks import bronze
from benchmarks.measure import Measured, in_turn, ratio
from daedalus_etl import audit, kernels, models, silver
from daedalus_etl.engine import Engine, batches, connect
from daedalus_etl.lanes import HOUR_US, Lane

PREDECESSOR = 3700  # rows/s, on the machine of docs/performance.md


def floor_of(subject: bronze.Subject, lane: Lane, out: Path) -> Callable[[], None]:
    """Read the lane's bronze (books, and the trades beside them) through an Arrow reader, and write its silver rows
    from memory: by DuckDB, on one thread, with the product's Parquet options, an hour a file."""
    con = connect(subject.profile.memory_limit, None)
    hours = [con.execute("select * from read_parquet($1, hive_partitioning = false)", [[path]]).to_arrow_table()
             for path in subject.published("silver.orderbook")]  # fmt: skip
    read = {
        "orderbook": subject.paths(lane),
        "trades": subject.paths(subject.beside(lane, "trades")),
    }
    options = bronze.parquet_options(subject.profile)

    def work() -> None:
        for channel, by_hour in read.items():
            columns = ", ".join(audit.SCHEMAS[channel])
            for paths in by_hour:
                reader = con.execute(
                    f"select {columns} from read_parquet($1, hive_partitioning = false)", [paths]
                ).to_arrow_reader(subject.profile.batch_rows)
                for _ in reader:
                    pass
        for i, hour in enumerate(hours):
            con.register("hour", hour)
            con.execute(f"copy (select * from hour) to $1 ({options})", [str(out / f"floor-{i}.parquet")])
            con.unregister("hour")

    return work


@cache
def _against_floor(data: Path, hours: int, repeats: int, profile: str) -> dict[str, Any]:
    with bronze.scratch(data) as root:
        subject = bronze.Subject(root, hours, profile)
        lane = subject.busiest("orderbook")
        rows = subject.rows(lane)
        first = time.process_time()
        subject.publish(lane, "silver.orderbook")  # audits the segments, which is remembered
        first = time.process_time() - first
        times = in_turn(
            {
                "ours": lambda: subject.publish(lane, "silver.orderbook"),
                "floor": floor_of(subject, lane, root),
            },
            repeats,
        )
        size = sum(Path(path).stat().st_size for path in subject.published("silver.orderbook"))
        return {"lane": str(lane), "rows": rows, "bytes_per_row": round(size / rows), "with_audit": first, **times}


def against_floor(settings: Any) -> Measured:
    found = _against_floor(settings.data, settings.hours, settings.repeats, settings.profile)
    details = {name: found[name] for name in ("lane", "rows", "bytes_per_row")}
    return ratio(found["ours"], found["floor"], **details)


def rows_a_second(settings: Any) -> Measured:
    found = _against_floor(settings.data, settings.hours, settings.repeats, settings.profile)
    speed = found["rows"] / statistics.median(found["ours"])
    details = {
        "lane": found["lane"],
        "rows": found["rows"],
        "times_the_predecessor": round(speed / PREDECESSOR, 1),
        "rows_a_second_with_the_audit_of_new_segments": round(found["rows"] / found["with_audit"]),
    }
    return Measured(speed, "rows/s", found["ours"], (), details)


def layers(settings: Any) -> Measured:
    """Microseconds a row of each step of one hour, taken apart: each step's output is held, and fed to the next."""
    times: dict[str, list[float]] = {}

    def clocked(name: str, began: float) -> None:
        times.setdefault(name, []).append(time.process_time() - began)

    with bronze.scratch(settings.data) as root:
        subject = bronze.Subject(root, 1, settings.profile)
        lane = subject.busiest("orderbook")
        start, end = subject.span(lane)
        inputs = {"bronze.orderbook": lane, "bronze.trades": subject.beside(lane, "trades")}
        files = {x.channel: subject.there.of(x).during(start // HOUR_US) for x in inputs.values() if x}
        variables = subject.profile.for_lane(lane.exchange, lane.symbol)
        model = subject.graph.models["silver.orderbook"]
        for _ in range(settings.repeats + 1):
            engine = Engine(subject.profile)
            kernel = kernels.load("orderbook")(variables)
            walk = silver.Walk(engine, subject.graph, model, lane, lane.symbol, variables, inputs, kernel)
            counts = dict.fromkeys(silver.COUNTS, 0)
            began = time.process_time()
            walk._enter(start, end, end, files, counts)
            clocked("trades beside", began)
            began = time.process_time()
            walk._flags = {"input_is_ordered": walk._is_ordered(files, counts)}
            clocked("is the hour in order?", began)
            began = time.process_time()
            statements = subject.graph.render(model, walk._context(files))
            ordered, shape = models.require_kernel_statements(model, statements)
            clocked("render", began)
            source = engine.raw("orderbook", lane, files["orderbook"])
            began = time.process_time()
            rows = sum(b.num_rows for b in engine.reader(f"select * from {source}", subject.profile.batch_rows))
            clocked("of that: read bronze", began)
            began = time.process_time()
            engine.con.execute(f"explain {ordered}").fetchall()
            clocked("of that: plan", began)
            began = time.process_time()
            held = list(batches(engine.reader(ordered, subject.profile.batch_rows)))
            clocked("validity and structure, to Arrow", began)
            schema = pa.schema([*held[0].schema, *(pa.field(name, pa.float64()) for name in kernel.columns)])
            began = time.process_time()
            walked = list(walk._walked(Held(held), schema, counts))
            clocked("kernel, from Arrow and back", began)
            began = time.process_time()
            engine.copy(shape, root / "out.parquet", pa.RecordBatchReader.from_batches(schema, walked))
            clocked("shape and write", began)
            engine.close()
    each = {name: statistics.median(spent[1:]) / rows * 1e6 for name, spent in times.items()}
    whole = sum(value for name, value in each.items() if not name.startswith("of that"))
    return Measured(whole, "us a row", details={name: round(value, 2) for name, value in each.items()})


class Held:
    """Batches in memory, as a reader."""

    def __init__(self, held: list[pa.RecordBatch]):
        self.held, self.schema = held, held[0].schema

    def __iter__(self) -> Any:
        return iter(self.held)


def parquet(settings: Any) -> Measured:
    """Write the same silver rows with other Parquet options: how the product's were chosen."""
    with bronze.scratch(settings.data) as root:
        subject = bronze.Subject(root, 1, settings.profile)
        lane = subject.busiest("orderbook")
        subject.publish(lane, "silver.orderbook")
        con = connect(subject.profile.memory_limit, None)
        rows = con.execute(
            "select * from read_parquet($1, hive_partitioning = false)", [subject.published("silver.orderbook")]
        ).to_arrow_table()
        con.register("silver", rows)
        found = {}
        target = str(root / "out.parquet")
        for version in ("v1", "v2"):
            for level in (1, 3):
                for limit in ("", ", dictionary_size_limit 128"):
                    options = (
                        f"format parquet, compression zstd, compression_level {level}, parquet_version {version}, "
                        f"row_group_size {subject.profile.parquet.get('row_group_size', 61440)}{limit}"
                    )
                    times = in_turn({"": partial(_write, con, options, target)}, min(settings.repeats, 3))[""]
                    size = Path(target).stat().st_size
                    found[f"{version}, zstd {level}{limit}"] = (
                        f"{statistics.median(times) / rows.num_rows * 1e6:.2f} us and "
                        f"{size / rows.num_rows:.0f} bytes a row"
                    )
        own = in_turn({"": partial(_write, con, bronze.parquet_options(subject.profile), target)}, settings.repeats)[""]
        return Measured(statistics.median(own) / rows.num_rows * 1e6, "us a row", own, (), found)


def _write(con: duckdb.DuckDBPyConnection, options: str, target: str) -> None:
    con.execute(f"copy (select * from silver) to $1 ({options})", [target])
