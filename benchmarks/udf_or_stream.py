"""Two ways for a kernel to work on ordered rows, measured on the real order book model.

stream: an ordered Arrow reader on one cursor, the kernel in a Python generator, COPY on a second cursor.
udf: the kernel as an Arrow UDF of a STRUCT, in the ordered input itself, on one thread (chunks of 2,048 rows).

    python benchmarks/udf_or_stream.py BRONZE [--repeats 5]

BRONZE is a data root; its busiest order book lane is used. Prints the median seconds of both and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from daedalus_etl import catalog, kernels, models, profiles, silver
from daedalus_etl.beside import Beside, as_numpy
from daedalus_etl.engine import Engine
from daedalus_etl.lanes import HOUR_US


def measure(bronze: Path, repeats: int) -> dict[str, Any]:
    """Seconds of the busiest lane's first hour, by each way; that both write the same rows is checked."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "raw").symlink_to((bronze / "raw").resolve())
        profile = profiles.load("laptop").with_data(str(root), None)
        graph = models.Graph(profile.projects, profile.variables)
        there = catalog.Catalog(profile, catalog.roots(profile), remember=False)
        lanes = there.survey().lanes
        books = {lane: there.of(lane).whole() for lane in lanes if lane.channel == "orderbook"}
        lane = max(books, key=lambda lane: sum(facts.span(lane).rows for _, facts in books[lane]))
        hour = there.of(lane).hours[0]
        start = hour * HOUR_US
        model = graph.models["silver.orderbook"]
        trades = next((x for x in lanes if x.channel == "trades" and x.symbol == lane.symbol), None)
        inputs = {"bronze.orderbook": lane, "bronze.trades": trades}
        files = {x.channel: there.of(x).during(hour) for x in inputs.values() if x}
        variables = profile.for_lane(lane.exchange, lane.symbol)
        times: dict[str, list[float]] = {"stream": [], "udf": []}
        rows: dict[str, int] = {}
        for _ in range(repeats + 1):  # the first warms up
            for way, walk_of in (("stream", silver.Walk), ("udf", UdfWalk)):
                kernel = kernels.load("orderbook")(variables)
                engine = Engine(profile)
                walk = walk_of(engine, graph, model, lane, lane.symbol, variables, inputs, kernel)
                target = root / f"{way}.parquet"
                began = time.perf_counter()
                walk.step(start, start + HOUR_US, start + HOUR_US, files, target)
                times[way].append(time.perf_counter() - began)
                rows[way] = engine.row(f"select count(*) from read_parquet('{target}')")[0]
                if way == "udf":
                    differ = engine.row(
                        f"select count(*) from (from read_parquet('{root}/udf.parquet') "
                        f"except from read_parquet('{root}/stream.parquet'))"
                    )[0]
                    assert differ == 0
                    assert rows["udf"] == rows["stream"]
                engine.close()
        medians = {way: statistics.median(seconds[1:]) for way, seconds in times.items()}
        return {"rows": rows["stream"], **medians, "udf_over_stream": medians["udf"] / medians["stream"]}


class UdfWalk(silver.Walk):
    """The same model with its kernel as a UDF."""

    def _through(self, spans: Any, target: Path | None, counts: dict[str, int]) -> None:
        (span,) = spans
        self._enter(*span, counts)
        self._as_udf(span[3], target, counts)
        self._leave(span[1])

    def _as_udf(self, files: Any, target: Path | None, counts: dict[str, int]) -> None:
        kernel = self.kernel
        assert kernel is not None
        assert target is not None
        self._flags = {"input_is_ordered": self._is_ordered(files, counts)}
        ordered, shape = models.require_kernel_statements(
            self.model, self.graph.render(self.model, self._context(files))
        )
        self._flags = {}
        reads = kernel.reads()
        beside = {"bronze.trades": Beside(self.engine, "bronze_trades", kernel.reads_beside()["bronze.trades"])}
        kernel.start_partition()

        def walk(rows: pa.ChunkedArray) -> pa.Array:
            import pyarrow.compute as pc

            arrays = dict(zip(reads, rows.combine_chunks().flatten(), strict=True))
            columns = {n: as_numpy(a, pc) for n, a in arrays.items()}
            out, taken = kernel.advance(columns, {n: b.up_to(int(columns["clock_us"][-1])) for n, b in beside.items()})
            beside["bronze.trades"].drop(taken["bronze.trades"])
            parts = [pa.array(row, from_pandas=True) for row in out]
            return pa.StructArray.from_arrays(parts, list(kernel.columns))

        kinds = {"is_valid": "BOOLEAN", "lane_order": "BIGINT", "clock_us": "BIGINT", "origin_us": "BIGINT"}
        result = "STRUCT(" + ", ".join(f'"{name}" DOUBLE' for name in kernel.columns) + ")"
        con = self.engine.con
        given = "STRUCT(" + ", ".join(f'"{n}" {kinds.get(n, "DOUBLE")}' for n in reads) + ")"
        con.create_function("walk", walk, [given], result, type="arrow", null_handling="special", side_effects=True)
        arguments = "{" + ", ".join(f"'{name}': \"{name}\"" for name in reads) + "}"
        self.engine.copy(
            f"with kernel_output as (select o.* exclude (k), unnest(k) from "
            f"(select *, walk({arguments}) as k from ({ordered})) as o) select * from ({shape})",
            target,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bronze", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = measure(options.bronze, options.repeats)
    print(f"{found['rows']} rows")
    print(f"stream {found['stream']:.3f} s, udf {found['udf']:.3f} s, udf / stream {found['udf_over_stream']:.2f}")


if __name__ == "__main__":
    main()
