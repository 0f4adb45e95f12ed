"""Benchmarks are run by hand: here only that they still fit the code."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from daedalus_etl.simulator import Market, simulate

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    assert callable(runpy.run_path(str(path))["main"])


def test_the_memory_of_a_run_is_measured(tmp_path: Path) -> None:
    import json

    simulate(tmp_path, Market(hours=0.1, symbols=("BTC-USDT",), trades_per_second=1))
    path = next(path for path in BENCHMARKS if path.stem == "memory")
    done = subprocess.run(
        [sys.executable, path, tmp_path, "--select", "silver.trades", "--profile", "pi4"],
        capture_output=True, text=True, check=True, cwd=path.parents[1],
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == 0
    assert 30 < found["parent"] <= found["all"] < 500
