"""What is bound to a session is what its SQL sees, on each of its connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daedalus_etl.engine import Engine
from tests import harness

ODD = ["/a/it's.parquet", "/a/two\nlines.parquet", "/ä/[*]?.parquet", "/a/$1, '].parquet", "", "/a/\x1f\t.parquet"]


@pytest.mark.parametrize(
    "value",
    [ODD, ODD[:1], ["", ""], [], "it's", "", None, 0, -(2**62), 0.1, 5e-324, -1.7976931348623157e308, 2.0**-100],
)
def test_a_bound_value_is_what_statements_see(tmp_path: Path, value: Any) -> None:
    engine = Engine(harness.profile(tmp_path), tmp_path)
    engine.bind(some_files="before" if isinstance(value, str) else 7)
    engine.bind(some_files=value)
    sql = f"select {engine.bound('some_files')}"
    assert engine.row(sql) == (value,)
    assert engine.reader(sql, 10).read_all().to_pydict() == {"getvariable('some_files')": [value]}
    engine.close()
