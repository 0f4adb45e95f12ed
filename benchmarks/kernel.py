"""The order book kernel against the same formulas in C (kernel.c), built here: arrays in memory, batch after batch.

Both walk the same books and trades of one hour with the same rings, and every bit of what comes out is compared.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import bronze
from benchmarks.measure import CannotMeasureError, Measured, in_turn, ratio
from daedalus_etl import kernels, models, silver
from daedalus_etl.beside import Beside, as_numpy
from daedalus_etl.engine import Engine, batches
from daedalus_etl.kernels import orderbook
from daedalus_etl.lanes import HOUR_US

SOURCE = Path(__file__).with_name("kernel.c")
BOOKS = ("clock_us", "origin_us", "is_valid", "mid_price", "spread", "relative_spread",
         "bid_slope_regression", "ask_slope_regression", "cog_vs_mid", "depth_0_5bps")  # fmt: skip
TRADES = ("clock_us", "is_valid", "price", "amount", "direction")


def build(folder: Path) -> ctypes.CDLL:
    """The C kernel as a library. Raises CannotMeasureError without gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise CannotMeasureError("gcc is not there: apt-get install gcc")
    target = folder / "kernel.so"
    options = ("-O3", "-march=native", "-ffp-contract=off", "-Wall", "-shared", "-fPIC")
    subprocess.run([compiler, *options, "-o", str(target), str(SOURCE), "-lm"], check=True)
    library = ctypes.CDLL(str(target))
    library.lane_new.restype = ctypes.c_void_p
    library.lane_free.argtypes = [ctypes.c_void_p]
    library.walk.restype = ctypes.c_int64
    return library


class InC:
    """The kernel in C, called as the product calls its own."""

    def __init__(self, library: ctypes.CDLL, like: orderbook.OrderBookKernel, ring: int, deals: int):
        self.library, self.like = library, like
        self.bucket = np.zeros(len(like.bucket), np.int64)
        self.lane = ctypes.c_void_p(library.lane_new(ctypes.c_int64(ring), ctypes.c_int64(deals)))

    def close(self) -> None:
        self.library.lane_free(self.lane)

    def advance(self, columns: Mapping[str, Any], trades: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        s, depth = self.like.s[0], self.like.depth
        n, stride = len(columns["clock_us"]), orderbook._stride(len(columns["clock_us"]))
        levels = np.empty((4, depth, stride))
        for k, prefix in enumerate(("bid_price", "bid_size", "ask_price", "ask_size")):
            for i in range(depth):
                levels[k, i, :n] = columns[f"{prefix}_L{i}"]
        out = np.empty((len(self.like.columns), stride))
        window, weight = s["window"].copy(), s["weight"].copy()
        number = ctypes.c_int64
        taken = self.library.walk(
            self.lane, number(n), *(_at(columns[name]) for name in BOOKS), _at(levels),
            number(len(trades["clock_us"])), *(_at(trades[name]) for name in TRADES), int(s["rolling"]), _at(window),
            depth, _at(weight), number(self.like.max_staleness), number(self.like.volume), _at(self.bucket),
            number(len(self.bucket)), len(self.like.columns), _at(out), number(stride),
        )  # fmt: skip
        return out[:, :n], int(taken)


def _at(values: np.ndarray) -> ctypes.c_void_p:
    assert values.flags.c_contiguous
    return ctypes.c_void_p(values.ctypes.data)


def _inputs(subject: bronze.Subject) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The lane's variables, its batches of books as the kernel gets them, and all its trades."""
    import pyarrow.compute as pc

    lane = subject.busiest("orderbook")
    start, end = subject.span(lane)
    inputs = {"bronze.orderbook": lane, "bronze.trades": subject.beside(lane, "trades")}
    files = {x.channel: subject.there.of(x).during(start // HOUR_US) for x in inputs.values() if x}
    variables = subject.profile.for_lane(lane.exchange, lane.symbol)
    kernel = kernels.load("orderbook")(variables)
    engine = Engine(subject.profile)
    model = subject.graph.models["silver.orderbook"]
    walk = silver.Walk(engine, subject.graph, model, lane, lane.symbol, variables, inputs, kernel)
    counts = dict.fromkeys(silver.COUNTS, 0)
    walk._enter(start, end, end, files, counts)
    walk._flags = {"input_is_ordered": walk._is_ordered(files, counts)}
    statements = subject.graph.render(model, walk._context(files))
    ordered, _ = models.require_kernel_statements(model, statements)
    books = [
        {name: as_numpy(batch.column(name), pc).copy() for name in kernel.reads()}
        for batch in batches(engine.reader(ordered, subject.profile.batch_rows))
    ]
    beside = Beside(engine, "bronze_trades", kernel.reads_beside()["bronze.trades"])
    trades = {name: values.copy() for name, values in beside.rest().items()}
    engine.close()
    for columns in (*books, trades):
        for values in columns.values():
            values.flags.writeable = False
    return variables, books, trades


def _near(books: Mapping[str, Any], trades: Mapping[str, Any], taken: int) -> dict[str, Any]:
    """The trades from `taken` on up to the batch's end, as the runner gives them."""
    behind = int(np.searchsorted(trades["clock_us"], books["clock_us"][-1], side="right"))
    return {name: values[taken:behind] for name, values in trades.items()}


def against_c(settings: Any) -> Measured:
    with bronze.scratch(settings.data) as root, TemporaryDirectory() as folder:
        library = build(Path(folder))
        variables, books, trades = _inputs(bronze.Subject(root, 1, settings.profile))
        made: dict[str, list[np.ndarray]] = {}
        rings: list[int] = [1024, 1024]

        def ours() -> None:
            kernel = kernels.load("orderbook")(variables)
            kernel.start_partition()
            taken, made["ours"] = 0, []
            for columns in books:
                near = _near(columns, trades, taken)
                out, n = kernel.advance(columns, {"bronze.trades": near})
                taken += n["bronze.trades"]
                made["ours"].append(out)
            rings[:] = len(kernel.ring), len(kernel.deals)

        def theirs() -> None:
            kernel = InC(library, kernels.load("orderbook")(variables), *rings)
            taken, made["c"] = 0, []
            for columns in books:
                out, n = kernel.advance(columns, _near(columns, trades, taken))
                taken += n
                made["c"].append(out)
            kernel.close()

        times = in_turn({"ours": ours, "c": theirs}, settings.repeats)
        differ = sum(int((a.view(np.uint64) != b.view(np.uint64))[~(np.isnan(a) & np.isnan(b))].sum())
                     for a, b in zip(made["ours"], made["c"], strict=True))  # fmt: skip
        rows = sum(len(columns["clock_us"]) for columns in books)
        return ratio(times["ours"], times["c"], rows=rows, ring=rings[0], values_that_differ=differ)
