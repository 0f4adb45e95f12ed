"""Rows as bytes in one form: equal rows give equal bytes, whatever lies behind their NULLs or how they were cut.

Arrow's own stream is not such a form: the bytes behind a NULL are whatever was there.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from daedalus_etl.errors import DaedalusError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "schema"


def arrays_to_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Named NumPy arrays as bytes, the same for the same arrays."""
    out = io.BytesIO()
    for name in sorted(arrays):
        np.lib.format.write_array(out, np.frombuffer(name.encode(), np.uint8), allow_pickle=False)
        np.lib.format.write_array(out, np.ascontiguousarray(arrays[name]), allow_pickle=False)
    return out.getvalue()


def arrays_from_bytes(blob: bytes) -> dict[str, Any]:
    source, out = io.BytesIO(blob), {}
    while source.tell() < len(blob):
        name = np.lib.format.read_array(source, allow_pickle=False).tobytes().decode()
        out[name] = np.lib.format.read_array(source, allow_pickle=False)
    return out


def table_to_bytes(table: pa.Table) -> bytes:
    """Raises DaedalusError for a column of a type that this form does not have."""
    import pyarrow as pa

    schema = table.schema.remove_metadata()
    parts = {SCHEMA: np.frombuffer(schema.serialize(), np.uint8)}
    for i, field in enumerate(schema):
        column = table.column(i).combine_chunks()
        _take_apart(str(i), column if isinstance(column, pa.Array) else column.chunk(0), parts, field.name)
    blob = arrays_to_bytes(parts)
    packed: bytes = pa.compress(blob, "zstd", asbytes=True)
    return len(blob).to_bytes(8, "little") + packed


def table_from_bytes(blob: bytes) -> pa.Table:
    import pyarrow as pa

    size = int.from_bytes(blob[:8], "little")
    parts = arrays_from_bytes(pa.decompress(blob[8:], size, "zstd", asbytes=True))
    schema = pa.ipc.read_schema(pa.py_buffer(parts[SCHEMA].tobytes()))
    return pa.table([_put_together(str(i), field.type, parts) for i, field in enumerate(schema)], schema=schema)


def _take_apart(path: str, column: pa.Array, parts: dict[str, Any], name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    parts[f"{path}.null"] = pc.is_null(column).to_numpy(zero_copy_only=False).astype(np.int8)
    if pa.types.is_list(kind):
        parts[f"{path}.length"] = _whole(pc.list_value_length(column))
        _take_apart(f"{path}.item", column.flatten(), parts, name)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            _take_apart(f"{path}.{i}", pc.struct_field(column, i), parts, name)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        values = pc.fill_null(column.cast(pa.binary()), b"")
        parts[f"{path}.length"] = pc.binary_length(values).to_numpy()
        parts[f"{path}.text"] = np.frombuffer(_text(values), np.uint8)
    elif pa.types.is_floating(kind):
        parts[f"{path}.value"] = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False)
    elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_boolean(kind):
        parts[f"{path}.value"] = _whole(column)
    else:
        raise DaedalusError(
            f"column {name} is {kind}, which is not carried from hour to hour",
            hint="Cast it to a number, text, a truth value, a timestamp, or a list or struct of these.",
        )


def _whole(column: pa.Array) -> Any:
    """Whole numbers, times and truth values; 0 for NULL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return pc.fill_null(column, 0).to_numpy(zero_copy_only=False)


def _text(values: pa.Array) -> memoryview:
    """What an array of bytes without NULL holds, one after the other. `values` may be a slice of a longer one."""
    _, edges, text = values.buffers()
    if not len(values) or text is None:
        return memoryview(b"")
    first, behind = np.frombuffer(edges, np.int32)[[values.offset, values.offset + len(values)]]
    return memoryview(text)[first:behind]


def _put_together(path: str, kind: pa.DataType, parts: Mapping[str, Any]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    null = parts[f"{path}.null"].astype(bool)
    if pa.types.is_list(kind):
        items = _put_together(f"{path}.item", kind.value_type, parts)
        offsets = pa.array(_offsets(parts[f"{path}.length"]), pa.int32())
        return pa.ListArray.from_arrays(offsets, items, type=kind, mask=pa.array(null))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        columns = [_put_together(f"{path}.{i}", field.type, parts) for i, field in enumerate(fields)]
        return pa.StructArray.from_arrays(columns, fields=fields, mask=pa.array(null))
    if f"{path}.text" in parts:
        edges, text = pa.py_buffer(_offsets(parts[f"{path}.length"])), pa.py_buffer(parts[f"{path}.text"])
        values = pa.Array.from_buffers(pa.binary(), len(null), [None, edges, text])
        return pc.if_else(pa.array(null), None, values).cast(kind)
    values = parts[f"{path}.value"]
    if pa.types.is_boolean(kind):
        values = values.astype(bool)
    return pa.array(values, pa.int64() if pa.types.is_timestamp(kind) else kind, mask=null).cast(kind)


def _offsets(lengths: Any) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
