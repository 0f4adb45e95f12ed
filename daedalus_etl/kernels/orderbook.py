"""The order book kernel as the runner sees it: arrays in, columns out, and a state that can be kept."""

from __future__ import annotations

import numpy as np

from daedalus_etl.errors import DaedalusError
from daedalus_etl.kernels import base, book, exact, flow, ranks

US = 1_000_000
BATCH = 1024  # first capacity of the rings
BOOK_COLUMNS = (
    "lane_order", "clock_us", "origin_us", "is_valid", "mid_price", "spread", "relative_spread",
    "bid_slope_regression", "ask_slope_regression", "cog_vs_mid", "depth_0_5bps",
)  # fmt: skip
TRADE_COLUMNS = ("lane_order", "clock_us", "is_valid", "price", "amount", "direction")


class OrderBookKernel(base.Kernel):
    """Stateful features between consecutive valid books of a lane (SPEC section 7).

    Its state is what the windows hold. `save` gives it in one canonical form: two lanes with the same rows in their
    windows save the same bytes, however they got there.
    """

    version = book.VERSION

    def __init__(self, variables):
        super().__init__(variables)
        self.windows = tuple(variables["rolling_windows"])
        self.depth = min(int(variables["ofi_levels"]), int(variables["levels"]))
        self.max_staleness = round(variables["max_staleness"] * US)
        self.volume = int(np.rint(variables["vpin_bucket_volume"] * 1e9))
        if self.volume < 1:
            raise DaedalusError(
                "vpin_bucket_volume is below 1e-9, the unit in which VPIN counts volume",
                hint="Set it to a typical minute's volume.",
            )
        windows = np.array([round(h * US) for h in self.windows], np.int64)
        regime = round(variables["spread_regime_window"] * US)
        slow = [60 * US, 300 * US, regime, round(variables["kyle_lambda_window"] * US), regime]
        if len(windows) > book.MAX_WINDOWS or self.depth > book.MAX_LEVELS:
            raise DaedalusError(
                f"at most {book.MAX_WINDOWS} rolling_windows and {book.MAX_LEVELS} ofi_levels are possible"
            )
        self.columns = book.output_columns(self.windows)
        self.s = np.zeros(1, book.BOOK)
        s = self.s[0]
        s["velocity"] = np.nan
        s["levels"] = np.nan
        s["clock"] = np.iinfo(np.int64).min  # there are days before 1970
        s["rolling"], s["depth"] = len(windows), self.depth
        s["window"][: len(windows)] = windows
        s["window"][len(windows) : len(windows) + 5] = slow
        s["weight"][: self.depth] = np.exp(-float(variables["ofi_decay_alpha"]) * np.arange(self.depth))
        self.f = np.zeros(1, flow.FLOW)
        self.f[0]["clock"] = np.iinfo(np.int64).min
        self.f[0]["rolling"] = len(windows)
        self.f[0]["window"][: len(windows)] = windows
        self.ring = np.zeros(BATCH, book.RING)
        self.nodes = np.zeros(BATCH + 2, ranks.NODE)
        self.deals = np.zeros(BATCH, flow.DEAL)
        self.bucket = np.zeros(int(variables["vpin_window_buckets"]), np.int64)
        self.start_partition()

    def reads(self):
        levels = tuple(
            f"{side}_{what}_L{i}" for side in ("bid", "ask") for what in ("price", "size") for i in range(self.depth)
        )
        return BOOK_COLUMNS + levels

    def reads_beside(self):
        return {"bronze.trades": TRADE_COLUMNS}

    def start_partition(self):
        self.s[0]["order"] = -1
        self.f[0]["order"] = -1

    def advance(self, columns, beside):
        """Walk one batch. `columns`: name -> array of n (see `reads`); `beside`: the trades not yet taken, same form.

        Returns float64[len(self.columns), n], NaN for NULL, and how many of the trades were taken.
        """
        n = len(columns["lane_order"])
        trades = self._trades(beside)
        self._grow(n, len(trades.order))
        levels = np.empty((4, self.depth, _stride(n)))
        for k, prefix in enumerate(("bid_price", "bid_size", "ask_price", "ask_size")):
            for i in range(self.depth):
                levels[k, i, :n] = columns[f"{prefix}_L{i}"]
        books = book.Books._make([*(columns[name] for name in BOOK_COLUMNS), levels])
        out = np.empty((len(self.columns), _stride(n)))
        taken = book.advance(
            self.s[0], self.ring, self.nodes, self.f[0], self.deals, self.bucket,
            books, trades, self.max_staleness, self.volume, out,
        )  # fmt: skip
        self._check(taken)
        return out[:, :n], {"bronze.trades": taken}

    def finish(self, beside):
        """Take the trades of the partition that no book of it came after."""
        trades = self._trades(beside)
        self._grow(0, len(trades.order))
        taken = flow.take(self.f[0], self.deals, self.bucket, self.volume, np.iinfo(np.int64).max, 0, trades)
        self._check(taken)

    def warm(self):
        """Walk an invalid book and a trade, as Arrow gives them: read-only."""
        whole = ("lane_order", "clock_us", "origin_us")
        kinds = dict.fromkeys(whole, np.int64) | {"is_valid": np.bool_, "direction": np.int8}
        columns: dict[str, np.ndarray] = {}
        for name in (*self.reads(), *TRADE_COLUMNS):
            columns[name] = np.zeros(1, kinds.get(name, np.float64))
            columns[name].flags.writeable = False
        trade = {"bronze.trades": {name: columns[name] for name in TRADE_COLUMNS}}
        kernel = OrderBookKernel(self.variables)
        kernel.advance({name: columns[name] for name in self.reads()}, trade)
        kernel.start_partition()
        kernel.finish(trade)
        kernel.load(kernel.save())

    @staticmethod
    def _check(taken):
        if taken == book.MISSING_ORDER:
            raise DaedalusError(
                "a row reached the order book kernel twice, out of order or not at all",
                hint="This is a defect of the model's ordered input: lane_order must count up from 0 without a hole.",
            )
        if taken == book.BAD_CLOCK:
            raise DaedalusError(
                "rows reached the order book kernel with the clock running backwards",
                hint="This is a defect of the model's ordered input: order it by clock_us, lane_order.",
            )

    @staticmethod
    def _trades(beside):
        t = beside["bronze.trades"]
        return flow.Trades(*(t[name] for name in TRADE_COLUMNS))

    def _oldest(self):
        s, f = self.s[0], self.f[0]
        row = int(s["tail"][: s["rolling"] + 5].min())
        deal = min([int(f["head"]), *f["tail"][: f["rolling"]].tolist()])
        return row, deal

    def _grow(self, books, trades):
        """Make room for so many more rows: rings double, and keep what is in their windows."""
        s, f = self.s[0], self.f[0]
        row, deal = self._oldest()
        if s["head"] - row + books > len(self.ring):
            size, old = _capacity(int(s["head"]) - row + books), len(self.ring)
            ring = np.zeros(size, book.RING)
            keep = np.arange(row, s["head"])
            for name in book.RING.names or ():
                if name != "queue":
                    ring[name][keep & (size - 1)] = self.ring[name][keep & (old - 1)]
            for q in range(book.QUEUES):
                places = np.arange(s["ends"][q, 0], s["ends"][q, 1])
                ring["queue"][places & (size - 1), q] = self.ring["queue"][places & (old - 1), q]
            nodes = np.zeros(size + 2, ranks.NODE)
            nodes[: len(self.nodes)] = self.nodes
            self.ring, self.nodes = ring, nodes
        if f["head"] - deal + trades > len(self.deals):
            size, old = _capacity(int(f["head"]) - deal + trades), len(self.deals)
            deals = np.zeros(size, flow.DEAL)
            keep = np.arange(deal, f["head"])
            deals[keep & (size - 1)] = self.deals[keep & (old - 1)]
            self.deals = deals

    def save(self):
        s, f = self.s[0], self.f[0]
        oldest_row, oldest_deal = self._oldest()
        rows = self.ring[np.arange(oldest_row, s["head"]) & (len(self.ring) - 1)]
        deals = self.deals[np.arange(oldest_deal, f["head"]) & (len(self.deals) - 1)]
        row = rows["row"].copy()
        if len(row):
            row[0, book.HELD] = 0.0  # time before the oldest row is in no window
        since = np.zeros((2, exact.LIMBS), np.uint64)
        for side in range(2):
            since[side] = exact._minus(f["total"], side, f["mark"], side)
        full = min(int(f["full"]), len(self.bucket))
        return {
            "book": np.array([min(s["books"], 1), s["clock"], s["at"], s["origin"]], np.int64),
            "book_float": np.array([s["mid"], s["dt"], s["velocity"]]),
            "levels": s["levels"][:, : self.depth].copy(),
            "clock": rows["clock"].copy(),
            "row": row,
            "flow": np.array([min(f["seen"], 1), f["clock"], f["since"], f["tick"], f["fill"], f["net"]], np.int64),
            "price": np.array([f["price"]]),
            "trade_clock": deals["clock"].copy(),
            "trade_amount": deals["amount"].copy(),
            "since": since,
            "bucket": self.bucket[np.arange(int(f["full"]) - full, int(f["full"])) % len(self.bucket)],
        }

    def load(self, kept):
        s, f = self.s[0], self.f[0]
        try:
            s["levels"][:, : self.depth] = kept["levels"]
            self._grow(len(kept["clock"]), len(kept["trade_clock"]))
            book.recall(s, self.ring, self.nodes, kept["clock"], kept["row"])
            s["books"], s["clock"], s["at"], s["origin"] = kept["book"]
            s["mid"], s["dt"], s["velocity"] = kept["book_float"]
            book.expire(s, self.ring, self.nodes, s["at"])
            flow.recall(f, self.deals, kept["trade_clock"], kept["trade_amount"])
            f["seen"], f["clock"], f["since"], f["tick"], f["fill"], f["net"] = kept["flow"]
            f["price"] = kept["price"][0]
            for side in range(2):
                f["mark"][side] = exact._minus(f["total"], side, kept["since"], side)
            f["full"], f["valued"] = len(kept["bucket"]), 0
            self.bucket[: len(kept["bucket"])] = kept["bucket"]
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DaedalusError(
                "a saved kernel state has another layout than this version's", hint="Run with --full-refresh."
            ) from error


def _stride(rows):
    """A row's length in a table of columns: no multiple of a page. The kernel goes down all columns at once, and 4,096
    rows of 8 bytes would put every one of them into the same set of the processor's cache."""
    return (rows + 7) // 8 * 8 + 8


def _capacity(rows):
    return 1 << max(int(rows - 1).bit_length(), 10)


KERNEL = OrderBookKernel
