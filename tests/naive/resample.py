"""Books on a grid (SPEC 9)."""

from __future__ import annotations

from bisect import bisect_right

from .order import SECOND, Row, micros

COLUMNS = ["original_timestamp", "data_staleness", "is_stale", "snapshot_count"]


def resample(lane: list[Row], variables: Row) -> list[Row]:
    """From the ordered rows of a lane (`order.ordered`) the rows of the grid, each a copy of the book that it shows."""
    step, stale_after = micros(variables["resample_frequency"]), micros(variables["resample_max_staleness"])
    books = [row for row in lane if row["is_valid"]]
    if not books:
        return []
    clocks = [book["clock"] for book in books]
    first_grid_time = -(-clocks[0] // step) * step  # the first one at or after the first valid book
    out: list[Row] = []
    for grid_time in range(first_grid_time, lane[-1]["clock"], step):  # written once a row with a later clock is in
        received = bisect_right(clocks, grid_time)
        count = received - bisect_right(clocks, grid_time - step)  # valid books in (T-f, T]
        book = books[received - 1]
        staleness = grid_time - book["clock"]
        if count or (variables["fill_gaps"] and staleness <= stale_after):
            shown = {
                "clock": grid_time,
                "clock_ts": grid_time,
                "original_timestamp": book["clock"],
                "data_staleness": staleness / SECOND,
                "is_stale": staleness > stale_after,
                "snapshot_count": count,
            }
            out.append({**book, **shown})
    return out
