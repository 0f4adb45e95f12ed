"""Rows as bytes: what went in comes out, and equal rows are equal bytes."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daedalus_etl import canonical
from daedalus_etl.errors import DaedalusError

LEVEL = pa.struct([("price", pa.float64()), ("size", pa.float64())])
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int8(), st.integers(-128, 127)),
    "place": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "real": (pa.float64(), st.floats()),
    "truth": (pa.bool_(), st.booleans()),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "moment": (pa.timestamp("us", tz="UTC"), st.integers(-62135596800000000, 253402300799999999)),
    "list": (pa.list_(pa.float64()), st.lists(st.none() | st.floats())),
    "levels": (
        pa.list_(LEVEL),
        st.lists(st.none() | st.fixed_dictionaries({"price": st.floats(), "size": st.none() | st.floats()})),
    ),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in KINDS.items()])
rows = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (_, values) in KINDS.items()}), max_size=12)


@settings(deadline=None)
@given(rows)
def test_what_went_in_comes_out(given_rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(given_rows, schema=SCHEMA)
    again = canonical.table_from_bytes(canonical.table_to_bytes(table))
    assert again.schema == SCHEMA
    assert repr(again.to_pylist()) == repr(table.to_pylist())


@settings(deadline=None)
@given(rows, st.integers(0, 12))
def test_the_bytes_do_not_tell_how_the_rows_were_cut(given_rows: list[dict[str, Any]], cut: int) -> None:
    table = pa.Table.from_pylist(given_rows, schema=SCHEMA)
    in_two = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert canonical.table_to_bytes(in_two) == canonical.table_to_bytes(table)


@settings(deadline=None)
@given(rows, st.integers(0, 12))
def test_the_bytes_of_a_slice_are_those_of_its_rows(given_rows: list[dict[str, Any]], cut: int) -> None:
    table = pa.Table.from_pylist(given_rows, schema=SCHEMA)
    alone = pa.Table.from_pylist(given_rows[cut:], schema=SCHEMA)
    assert canonical.table_to_bytes(table.slice(cut)) == canonical.table_to_bytes(alone)


def test_what_lies_behind_a_null_does_not_count() -> None:
    garbage = pa.array([1.5, math.pi, 2.5]).buffers()[1]
    nothing = pa.array([1.5, 0.0, 2.5]).buffers()[1]
    holes = pa.array([1.5, None, 2.5]).buffers()[0]
    one, other = (
        pa.table({"x": pa.Array.from_buffers(pa.float64(), 3, [holes, values])}) for values in (garbage, nothing)
    )
    assert canonical.table_to_bytes(one) == canonical.table_to_bytes(other)


def test_an_order_of_rows_is_told() -> None:
    one, other = pa.table({"x": [1, 2]}), pa.table({"x": [2, 1]})
    assert canonical.table_to_bytes(one) != canonical.table_to_bytes(other)


def test_a_type_that_is_not_carried_is_refused_with_the_cure() -> None:
    with pytest.raises(DaedalusError, match=r"x is decimal128.*\n  Cast it to a number"):
        canonical.table_to_bytes(pa.table({"x": pa.array([1], pa.decimal128(38, 0))}))
