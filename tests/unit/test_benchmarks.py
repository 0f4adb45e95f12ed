"""Benchmarks are run by hand: here only that they still fit the code."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from daedalus_etl.simulator import Market, simulate

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
COMMANDS = ("memory", "udf_or_stream", "watch")


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    found = importlib.import_module(f"benchmarks.{path.stem}")
    assert path.stem not in COMMANDS or callable(found.main)


def test_the_table_lists_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "books" in done.stdout


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
