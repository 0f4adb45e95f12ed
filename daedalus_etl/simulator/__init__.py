"""The demo's market: a seeded limit order book that writes bronze segments.

One lane (a symbol of one exchange) is one random market: a fundamental price that walks with clustered
volatility, a book on a price grid whose spread changes between tight and wide regimes, order flow with a
persistent sign, trades that take what they hit out of the book, and quotes that follow its best levels. The
market runs in integer ticks, lots and microseconds inside numba kernels; the generator is ours, so the numbers
are the same with the JIT on and off. A second, independent step soils the rows in the ways SPEC section 2
lists: the market under the dirt is the one that `dirt=0` shows.

Everything is made capture hour by capture hour, so memory does not grow with the length of the market. No wall
clock: same arguments, same bytes (for one pyarrow version).

    summary = simulate("data", Market(hours=0.5, symbols=2, seed=7))
"""

from daedalus_etl.lanes import CHANNELS
from daedalus_etl.simulator.bronze import (
    SCHEMAS,
    LaneSummary,
    Summary,
    lane_hours,
    lane_tables,
    partition_folder,
    simulate,
    write_segments,
)
from daedalus_etl.simulator.dirt import DIRT_KINDS
from daedalus_etl.simulator.market import Market, sanitize, well_known_symbols

__all__ = [
    "CHANNELS",
    "DIRT_KINDS",
    "SCHEMAS",
    "LaneSummary",
    "Market",
    "Summary",
    "lane_hours",
    "lane_tables",
    "partition_folder",
    "sanitize",
    "simulate",
    "well_known_symbols",
    "write_segments",
]
