"""What a run would make and why, how lanes stand, and how a run of several processes ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import harness
from tests.e2e.conftest import daedalus

SILVER = ("--select", "silver.trades")
HOURS = ("2026-02-03T23", "2026-02-04T00")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def plan(data: Path, *arguments: str) -> list[tuple[Any, ...]]:
    """model, partition, reason and whether it is certain, of what is pending."""
    result = daedalus("plan", "--data", data, "--json", *arguments)
    assert result.exit_code == 0, result.output
    found = events(result.stdout)
    assert found[-1]["event"] == "summary"
    assert found[-1]["pending"] + found[-1]["perhaps"] == len(found) - 1
    return [(e["model"], e["partition"], e["reason"], e["certain"]) for e in found[:-1]]


def status(data: Path, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = events(daedalus("status", "--data", data, "--json", *arguments).stdout)
    return {(e["model"], e["source_symbol"]): e for e in found if e["event"] == "lane"}


@pytest.fixture
def trades(raw: Callable[..., Path]) -> Path:
    """Trades of two hours, run."""
    data = raw("trades")
    assert daedalus("run", "--data", data, "--select", "+gold.trades_bars", "--durations", "60").exit_code == 0
    return data


# -- plan -----------------------------------------------------------------------------------------------------


def test_after_a_run_nothing_is_pending(trades: Path) -> None:
    assert plan(trades, "--select", "+gold.trades_bars", "--durations", "60") == []


def test_a_variable_makes_stale_what_depends_on_it_and_plan_says_from_what_to_what(trades: Path) -> None:
    found = plan(trades, *SILVER, "--var", "max_staleness=60")
    assert {f[2:] for f in found} == {("max_staleness was 300, is 60", True)}
    assert {f[1] for f in found} == set(HOURS)
    assert plan(trades, *SILVER, "--var", "levels=5", "--var", "resample_max_staleness=7") == []


def test_a_changed_formula_is_named_by_its_file(trades: Path, tmp_path: Path) -> None:
    from daedalus_etl import profiles

    mine = tmp_path / "mine"
    (mine / "sql" / "silver").mkdir(parents=True)
    text = (profiles.shipped() / "sql/silver/trades.sql").read_text()
    (mine / "sql/silver/trades.sql").write_text(text.replace("-- Trades with", "-- All trades with"))
    found = plan(trades, *SILVER, "--project", str(mine))
    assert {f[2] for f in found} == {"sql/silver/trades.sql changed"}
    assert daedalus("run", "--data", trades, *SILVER, "--project", mine).exit_code == 0
    assert plan(trades, *SILVER, "--project", str(mine)) == []


def test_a_late_segment_makes_its_hour_stale_and_perhaps_what_follows(trades: Path) -> None:
    path = next(trades.glob("raw/**/trades/**/day=3/**/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    late = table.set_column(table.schema.get_field_index("price"), "price", [[1.0] * table.num_rows])
    pq.write_table(late, path.with_name("late.parquet"))
    lane = ("--symbol", harness.parse_symbol(path), "--durations", "60")
    assert plan(trades, "--select", "+gold.trades_bars", *lane) == [
        ("silver.trades", HOURS[0], "1 segment more", True),
        ("silver.trades", HOURS[1], f"it follows {HOURS[0]}", False),
        ("gold.trades_bars", "2026-02-03", f"its silver is made: {HOURS[0]}", True),
        ("gold.trades_bars", "2026-02-04", f"its silver is made: {HOURS[1]}", False),
    ]


def test_what_was_published_and_is_gone_or_changed_is_made_again(trades: Path) -> None:
    gone, changed, *_ = sorted(trades.glob("processed/silver/trades/**/*.parquet"))
    content = changed.read_bytes()
    gone.unlink()
    pq.write_table(pq.ParquetFile(changed).read().slice(1), changed)
    assert [f[2] for f in plan(trades, *SILVER)] == ["what was published of it is gone or has changed"] * 2
    assert daedalus("run", "--data", trades, *SILVER).exit_code == 0
    assert changed.read_bytes() == content
    assert gone.is_file()
    assert plan(trades, *SILVER) == []


def test_a_copied_data_root_is_up_to_date(trades: Path, tmp_path: Path) -> None:
    """Modification times of the copies are others; their bytes are the same."""
    copy = tmp_path / "copy"
    shutil.copytree(trades, copy, copy_function=shutil.copyfile)
    assert plan(copy, *SILVER) == []
    result = daedalus("run", "--data", copy, *SILVER, "--json")
    assert [e["event"] for e in events(result.stdout) if e["event"] == "partition"] == []


def test_a_damaged_record_stops_its_lane_and_says_what_to_do(trades: Path) -> None:
    record = next((trades / "state" / "silver.trades").rglob("2*.json"))
    record.write_bytes(b"\0" * 10)
    result = daedalus("run", "--data", trades, *SILVER)
    assert result.exit_code == 1
    assert f"{record}: is no record\n  Remove it: its partition is then made again." in result.stderr
    record.unlink()
    assert daedalus("run", "--data", trades, *SILVER).exit_code == 0
    assert plan(trades, *SILVER) == []


# -- status ---------------------------------------------------------------------------------------------------


def test_status_counts_add_up_with_what_is_there(raw: Callable[..., Path]) -> None:
    data = raw("orderbook", "trades", "ticker")
    daedalus("run", "--data", data, "--select", "tag:silver")
    found = status(data)
    assert len(found) == 3
    for (model, symbol), lane in found.items():
        bronze = list(data.glob(f"raw/ready/ccxt/{lane['channel']}/**/symbol={symbol}/**/*.parquet"))
        rows = harness.published(data, f"silver/{lane['channel']}", f"source_symbol = '{symbol}'")
        assert lane["read"] == sum(pq.ParquetFile(path).metadata.num_rows for path in bronze)
        assert lane["read"] - lane["duplicate"] == lane["rows"] == len(rows)
        assert lane["invalid"] == sum(not row["is_valid"] for row in rows)
        assert lane["gaps"] == sum(bool(row.get("is_gap")) for row in rows)
        assert (lane["hours"], lane["empty_hours"], lane["quarantined"]) == (2, 0, 0)
        assert lane["stale"] > 0  # bars, which were not selected
        assert model == f"silver.{lane['channel']}"


def test_status_lists_what_is_in_quarantine_and_ends_with_1(trades: Path) -> None:
    path = next(trades.glob("raw/**/trades/**/*.parquet"))
    bad = path.with_name("bad.parquet")
    bad.write_bytes(b"PAR1 and no more")
    for _ in range(2):
        result = daedalus("status", "--data", trades, *SILVER)
        assert result.exit_code == 1
        assert f"Quarantined: {bad.relative_to(trades)}: cannot be read as Parquet" in result.stdout
        assert daedalus("run", "--data", trades, *SILVER).exit_code == 1
    assert sum(lane["quarantined"] for lane in status(trades, *SILVER).values()) == 1
    bad.unlink()
    assert daedalus("status", "--data", trades, *SILVER).exit_code == 0


def test_plan_and_status_write_nothing(raw: Callable[..., Path]) -> None:
    data = raw("trades")
    for command in ("plan", "status"):
        assert daedalus(command, "--data", data).exit_code == 0
        assert [p.name for p in data.iterdir()] == ["raw"]


# -- several processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "many", "-1"])
def test_workers_are_a_number_or_auto(trades: Path, workers: str) -> None:
    result = daedalus("run", "--data", trades, "--workers", workers)
    assert result.exit_code == 2
    assert "neither auto nor a number from 1 to 256" in result.stderr


def test_workers_auto_makes_the_same(trades: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trades / "raw", other / "raw")
    assert daedalus("run", "--data", other, *SILVER, "--workers", "auto").exit_code == 0
    want, got = harness.published(trades, "silver/trades"), harness.published(other, "silver/trades")
    assert repr(got) == repr(want)


def started(data: Path, workers: int, until: str) -> subprocess.Popen[str]:
    """A run that has come to its first event of a kind."""
    command = [sys.executable, "-m", "daedalus_etl", "run", "--data", data, "--workers", str(workers), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert any(json.loads(line)["event"] == until for line in run.stdout)
    return run


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_while_workers_start_ends_a_run_as_cleanly(raw: Callable[..., Path], workers: int) -> None:
    data = raw("orderbook", "trades", "ticker")
    with started(data, workers, until="plan") as run:
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert "Error" not in err
    assert json.loads(out.splitlines()[-1])["failed"] == 0


def test_a_worker_that_is_asked_to_end_by_somebody_else_fails_its_lane_only(raw: Callable[..., Path]) -> None:
    data = raw("orderbook", "trades", "ticker")
    with started(data, 2, until="partition") as run:
        worker = int(Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()[0])
        os.kill(worker, signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    summary = json.loads(out.splitlines()[-1])
    assert summary["failed"] <= 1
    assert run.returncode == (1 if summary["failed"] else 0), err
    assert summary["failed"] == err.count("its process was asked to end")
    missing = 6 - len(list(data.glob("processed/silver/**/*.parquet")))
    assert missing == 0 or summary["failed"] == 1  # nothing is left out in silence
    assert daedalus("run", "--data", data).exit_code == 0
    assert len(list(data.glob("processed/silver/**/*.parquet"))) == 6


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_partition_in_hand(
    raw: Callable[..., Path], number: signal.Signals, workers: int
) -> None:
    data = raw("orderbook", "trades", "ticker")
    with started(data, workers, until="partition") as run:
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number, err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 128 + number
    assert not list((data / "state" / "staging").rglob("*.parquet*"))
    made = {str(p): p.stat().st_mtime_ns for p in data.glob("processed/**/*.parquet")}
    assert made
    time.sleep(0.01)
    assert daedalus("run", "--data", data).exit_code == 0
    after = {str(p): p.stat().st_mtime_ns for p in data.glob("processed/silver/**/*.parquet")}
    assert len(after) == 6
    assert all(after[path] == at for path, at in made.items() if path in after)  # what was in is not made again
