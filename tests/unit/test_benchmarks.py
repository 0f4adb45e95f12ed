"""Benchmarks are run by hand: here only that they still fit the code, on a few minutes of a simulated market."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import books, bronze, kernel, measure, windows
from daedalus_etl.simulator import Market, simulate

HERE = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("memory", "udf_or_stream", "watch", "__main__")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("bench")
    simulate(root, Market(hours=0.05, symbols=("BTC-USDT",), trades_per_second=2, segment_seconds=30))
    return SimpleNamespace(data=root, hours=1, repeats=1, profile="laptop")


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_benchmark_imports_is_there(name: str) -> None:
    assert callable(runpy.run_path(str(HERE / f"{name}.py"))["main"])


def test_the_memory_of_a_run_is_measured(tmp_path: Path) -> None:
    simulate(tmp_path, Market(hours=0.1, symbols=("BTC-USDT",), trades_per_second=1))
    done = subprocess.run(
        [sys.executable, HERE / "memory.py", tmp_path, "--select", "silver.trades", "--profile", "pi4"],
        capture_output=True, text=True, check=True, cwd=HERE.parent,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == 0
    assert 30 < found["parent"] <= found["all"] < 500


def test_books_are_measured_against_the_floor(settings: SimpleNamespace) -> None:
    found = books.against_floor(settings)
    assert found.value == found.ours[0] / found.yardstick[0]
    assert found.details["rows"] > 0
    assert books.rows_a_second(settings).value == pytest.approx(found.details["rows"] / found.ours[0])


def test_the_layers_add_up_to_what_is_shown(settings: SimpleNamespace) -> None:
    found = books.layers(settings)
    steps = [value for name, value in found.details.items() if not name.startswith("of that")]
    assert found.value == pytest.approx(sum(steps), abs=0.1)


def test_the_kernel_in_c_gives_the_same_bits(settings: SimpleNamespace) -> None:
    if shutil.which("gcc") is None:
        with pytest.raises(measure.CannotMeasureError, match="gcc"):
            kernel.against_c(settings)
        return
    found = kernel.against_c(settings)
    assert found.details["values_that_differ"] == 0
    assert found.details["rows"] > 0


def test_a_kernel_in_c_needs_gcc_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(measure.CannotMeasureError, match="gcc"):
        kernel.build(tmp_path)


def test_range_frames_give_the_counts_of_the_exact_model(settings: SimpleNamespace, tmp_path: Path) -> None:
    """Where no clock value is shared by two trades, both have the same trades in a window."""
    import duckdb

    con = duckdb.connect()
    for name, projects in (("exact", ()), ("range", (windows.RANGE,))):
        root = tmp_path / name
        root.mkdir()
        (root / "raw").symlink_to(settings.data / "raw")
        subject = bronze.Subject(root, 1, "laptop", projects)
        subject.publish(subject.busiest("trades"), "silver.trades")
        files = subject.published("silver.trades")
        con.execute(f"create table {name} as from read_parquet(?, hive_partitioning = false)", [files])
    differ, rows = con.execute(
        """
        select count(*) filter (where e.trade_count_60s <> r.trade_count_60s
            or abs(e.vwap_300s / r.vwap_300s - 1) > 1e-12), count(*)
        from exact as e join range as r using (lane_order, hour)
        where e.is_valid and e.clock_ts not in (select clock_ts from exact group by all having count(*) > 1)
        """
    ).fetchall()[0]
    assert differ == 0
    assert rows > 50


def test_the_table_says_what_is_reached_missed_and_not_measured() -> None:
    def figure(name: str) -> measure.Figure:
        return measure.Figure(name, "w", "y", "<= 2", lambda x: x <= 2, lambda _: measure.Measured(0))

    text = measure.table(
        [(figure("a"), measure.Measured(1.5)), (figure("b"), measure.Measured(2.5)), (figure("c"), "no gcc")]
    )
    assert [line.split("  ")[-1] for line in text.splitlines()[2:]] == ["reached", "MISSED", "not measured: no gcc"]


def test_a_figure_is_chosen_by_name_and_written_as_json(settings: SimpleNamespace, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    command.main(["help", "--data", str(settings.data), "--repeats", "1", "--json", str(target)])
    found = json.loads(target.read_text())
    assert list(found["figures"]) == ["help"]
    assert found["machine"]["name"]
    assert np.isfinite(found["figures"]["help"]["value"])
