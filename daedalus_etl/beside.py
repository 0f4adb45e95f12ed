"""Rows of another relation of a lane, merged with a stream on the clock; and what a kernel sees of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daedalus_etl.engine import Engine, batches


class Beside:
    """The rows of another relation of the lane, merged with the stream on the clock."""

    def __init__(self, engine: Engine, table: str, columns: Sequence[str]):
        self.columns = tuple(columns)
        sql = (
            f"select {', '.join(columns)} from {table} where not is_context and not is_duplicate "
            "order by clock_us, lane_order"
        )
        self._reader = engine.reader(sql, 8192)
        self._batches = batches(self._reader)
        self._rows: dict[str, Any] | None = None
        self._done = False

    def up_to(self, until: int) -> dict[str, Any]:
        """At least all rows with a clock at or before `until` that were not dropped yet."""
        while not self._done and (
            self._rows is None or not len(self._rows["clock_us"]) or self._rows["clock_us"][-1] <= until
        ):
            self._pull()
        assert self._rows is not None
        return self._rows

    def drop(self, n: int) -> None:
        assert self._rows is not None
        if n:
            self._rows = {name: values[n:] for name, values in self._rows.items()}

    def rest(self) -> dict[str, Any]:
        while not self._done:
            self._pull()
        assert self._rows is not None
        return self._rows

    def _pull(self) -> None:
        import numpy as np
        import pyarrow.compute as pc

        batch = next(self._batches, None)
        if batch is None:
            self._done = True
            if self._rows is None:
                schema = self._reader.schema
                self._rows = {n: fixed(np.empty(0, schema.field(n).type.to_pandas_dtype())) for n in self.columns}
            return
        new = {name: as_numpy(batch.column(name), pc) for name in self.columns}
        if self._rows is not None and len(self._rows[self.columns[0]]):
            new = {name: fixed(np.concatenate([self._rows[name], values])) for name, values in new.items()}
        self._rows = new


def as_numpy(column: Any, pc: Any) -> Any:
    """An Arrow column as NumPy: NULL is NaN in floats; booleans and integers have no NULL here."""
    import pyarrow as pa

    if column.null_count:
        if not pa.types.is_floating(column.type):
            raise AssertionError(f"NULL in a column of type {column.type}")
        column = pc.fill_null(column, float("nan"))
    return fixed(column.to_numpy(zero_copy_only=False))


def fixed(values: Any) -> Any:
    """Read-only, whether Arrow's memory or a copy: numba compiles a kernel again for arrays that can be written."""
    values.flags.writeable = False
    return values
