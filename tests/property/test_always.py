"""What always holds (SPEC 11): no lookahead, one output by whatever path, nothing lost."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from daedalus_etl.simulator import Market, simulate
from tests import harness

TABLES = {
    "silver/orderbook": "clock_ts",
    "silver/trades": "clock_ts",
    "silver/ticker": "clock_ts",
    "gold/orderbook_bars/60s": "bar_end",
    "gold/trades_bars/60s": "bar_end",
    "gold/ticker_bars/60s": "bar_end",
    "gold/trades_bars/420s": "bar_end",
}
DURATIONS = [60, 420]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dirty lane of every channel over four hours, one of them without data; both sides of midnight."""
    root = tmp_path_factory.mktemp("market")
    simulate(
        root,
        Market(hours=3.5, symbols=("ETH-USDT",), seed=11, dirt=0.05, books_per_second=0.5, trades_per_second=0.5,
               quotes_per_second=0.5, segment_seconds=300),
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def quiet(market: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What one quiet run over all of it publishes."""
    root = copied(market, tmp_path_factory.mktemp("quiet"))
    harness.run(root, bar_durations=DURATIONS)
    return outputs(root)


def copied(market: Path, root: Path) -> Path:
    shutil.copytree(market / "raw", root / "raw")
    return root


def outputs(root: Path) -> dict[str, list[dict[str, Any]]]:
    return {table: harness.published(root, table) for table in TABLES}


def same(got: dict[str, list[dict[str, Any]]], want: dict[str, list[dict[str, Any]]]) -> None:
    """Equal in every cell, to the bit (repr tells -0.0 from 0.0 and NaN from NULL)."""
    for table, rows in want.items():
        assert len(got[table]) == len(rows), table
        for i, (g, w) in enumerate(zip(got[table], rows, strict=True)):
            if g != w or repr(g) != repr(w):
                assert {k: (g.get(k), w[k]) for k in w if repr(g.get(k)) != repr(w[k])} == {}, (table, i)


def test_there_is_something_to_compare(quiet: dict[str, list[dict[str, Any]]]) -> None:
    assert all(len(rows) > 20 for rows in quiet.values())
    assert {row["is_valid"] for row in quiet["silver/orderbook"]} == {True, False}
    assert any(row["is_gap"] for row in quiet["silver/orderbook"])


def test_path_and_data_agree_in_every_file(market: Path, tmp_path: Path) -> None:
    from daedalus_etl.lanes import parse_path

    root = copied(market, tmp_path)
    harness.run(root, bar_durations=DURATIONS)
    files = list((root / "processed").rglob("*.parquet"))
    assert len(files) > 20
    for path in files:
        table = pq.ParquetFile(path).read(columns=list(parse_path(path)))
        for key, value in parse_path(path).items():
            assert set(table[key].to_pylist()) == {value}, path


@pytest.mark.parametrize("share", [0.03, 0.31, 0.5, 0.77])
def test_nothing_looks_ahead(
    market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path, share: float
) -> None:
    """Cut the input at a clock: every earlier row, and every bar that had ended, is unchanged."""
    clocks = [row["clock_ts"] for row in quiet["silver/trades"]]
    cut = clocks[int(share * len(clocks))]
    root = copied(market, tmp_path)
    for path in root.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        kept = table.filter([int(v.timestamp() * 1e6 + 0.5) < cut for v in table["capture_ts"].to_pylist()])
        path.unlink()
        if kept.num_rows:
            pq.write_table(kept, path)
    harness.run(root, bar_durations=DURATIONS)
    got = outputs(root)
    ends = {c: max(r["clock_ts"] for r in got[f"silver/{c}"]) for c in ("orderbook", "trades", "ticker")}
    want = {}
    for table, column in TABLES.items():
        if column == "clock_ts":
            want[table] = [row for row in quiet[table] if row["clock_ts"] < cut]
        else:
            channel = table.split("/")[1].split("_")[0]
            want[table] = [row for row in quiet[table] if row["bar_end"] <= ends[channel]]
    same(got, want)


def test_hour_by_hour_equals_all_at_once(market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Segments arrive hour by hour, with a run after each: state is saved and loaded in between."""
    hours = sorted({path.parent.relative_to(market / "raw" / "ready" / "ccxt").parts[3:] for path in segments(market)},
                   key=lambda parts: [int(p.split("=")[1]) for p in parts])  # fmt: skip
    assert len(hours) >= 3
    for hour in hours:
        for path in segments(market):
            if path.parent.relative_to(market / "raw" / "ready" / "ccxt").parts[3:] == hour:
                target = tmp_path / path.relative_to(market)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        harness.run(tmp_path, bar_durations=DURATIONS)
    same(outputs(tmp_path), quiet)


def test_segments_in_any_order_converge(market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """Late, shuffled segments with a run in between: the end result is that of the quiet run."""
    paths = segments(market)
    random.Random(5).shuffle(paths)
    for part in (paths[: len(paths) // 3], paths[len(paths) // 3 :]):
        for path in part:
            target = tmp_path / path.relative_to(market)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        harness.run(tmp_path, bar_durations=DURATIONS)
    same(outputs(tmp_path), quiet)


def test_more_segments_of_the_same_rows_change_nothing(
    market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Each segment cut into up to three files whose names keep the order."""
    pick = random.Random(3)
    for path in segments(market):
        table = pq.ParquetFile(path).read()
        target = tmp_path / path.relative_to(market)
        target.parent.mkdir(parents=True, exist_ok=True)
        cuts = sorted({0, table.num_rows, *(pick.randrange(table.num_rows) for _ in range(2))})
        for i, (a, b) in enumerate(itertools.pairwise(cuts)):
            pq.write_table(table.slice(a, b - a), target.with_name(f"{target.stem}_{i}.parquet"))
    harness.run(tmp_path, bar_durations=DURATIONS)
    same(outputs(tmp_path), quiet)


@pytest.mark.parametrize("batch_rows", [7, 100_000])
def test_batches_of_any_size_give_the_same(
    market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path, batch_rows: int
) -> None:
    import dataclasses

    from daedalus_etl import models, runner

    root = copied(market, tmp_path)
    profile = dataclasses.replace(harness.profile(root, bar_durations=DURATIONS), batch_rows=batch_rows)
    graph = models.Graph(profile.projects, profile.variables)
    report = runner.Run(profile, graph, runner.Selection(), lambda *_: None).run()
    assert report.failed == []
    same(outputs(root), quiet)


@pytest.mark.parametrize("more", [{}, {"resample_frequency": 7, "fill_gaps": True}], ids=["received", "resampled"])
def test_an_hour_in_pieces_is_the_same(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """Memory decides how much of an hour is taken at once; 300 rows here, with cuts wherever they fall."""
    whole, pieces = copied(market, tmp_path / "whole"), copied(market, tmp_path / "pieces")
    harness.run(whole, bar_durations=DURATIONS, **more)
    monkeypatch.setattr("daedalus_etl.limits.rows_at_once", lambda *_: 300)
    harness.run(pieces, bar_durations=DURATIONS, **more)
    same(outputs(pieces), outputs(whole))
    states = [{p.name: p.read_bytes() for p in (root / "state").rglob("*.state")} for root in (whole, pieces)]
    assert states[0]
    assert states[0] == states[1]


def test_a_filtered_run_writes_what_a_full_one_would(
    market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """--start chooses what is written; the state is the lane's from its first row."""
    root = copied(market, tmp_path)
    day = 86_400_000_000
    start = quiet["silver/trades"][-1]["clock_ts"] // day * day
    harness.run(root, selection={"start": start}, bar_durations=DURATIONS)
    column = {"silver": "clock_ts", "gold": "bar_start"}
    want = {t: [r for r in rows if r[column[t.split("/")[0]]] >= start] for t, rows in quiet.items()}
    assert all(want.values())
    same(outputs(root), want)
    harness.run(root, bar_durations=DURATIONS)  # and the rest can follow
    same(outputs(root), quiet)


def test_a_second_run_does_nothing(market: Path, tmp_path: Path) -> None:
    root = copied(market, tmp_path)
    assert harness.run(root, bar_durations=DURATIONS).done
    stamps = {p: p.stat().st_mtime_ns for p in (root / "processed").rglob("*.parquet")}
    again = harness.run(root, bar_durations=DURATIONS)
    assert again.done == []
    assert again.fresh > 10
    assert stamps == {p: p.stat().st_mtime_ns for p in (root / "processed").rglob("*.parquet")}


def test_a_lost_output_is_made_again(market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    root = copied(market, tmp_path)
    harness.run(root, bar_durations=DURATIONS)
    lost = sorted((root / "processed" / "silver" / "orderbook").rglob("*.parquet"))[1]
    lost.unlink()
    harness.run(root, bar_durations=DURATIONS)
    same(outputs(root), quiet)


def test_counts_add_up(market: Path, tmp_path: Path) -> None:
    root = copied(market, tmp_path)
    report = harness.run(root, bar_durations=DURATIONS)
    for channel in ("orderbook", "trades", "ticker"):
        done = [d for d in report.done if d["model"] == f"silver.{channel}"]
        read = sum(pq.read_metadata(p).num_rows for p in segments(root) if f"/{channel}/" in str(p))
        assert sum(d["read"] for d in done) == read
        assert sum(d["duplicate"] for d in done) > 0
        assert sum(d["invalid"] for d in done) > 0
        assert all(d["written"] == d["read"] - d["duplicate"] for d in done)


def segments(root: Path) -> list[Path]:
    return sorted((root / "raw").rglob("*.parquet"))


def test_start_takes_nothing_back(market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A filtered run, even one that makes everything anew, leaves what was published before --start."""
    root = copied(market, tmp_path)
    harness.run(root, bar_durations=DURATIONS)
    day = 86_400_000_000
    start = quiet["silver/trades"][-1]["clock_ts"] // day * day
    harness.run(root, selection={"start": start, "full_refresh": True}, bar_durations=DURATIONS)
    same(outputs(root), quiet)


def test_what_a_crash_left_of_an_older_name_is_removed(market: Path, tmp_path: Path) -> None:
    import json

    root = copied(market, tmp_path)
    harness.run(root, "silver.trades")
    record = next((root / "state" / "silver.trades").rglob("2*.json"))
    left = root / "processed" / "silver" / "trades" / "exchange=demo" / "symbol=OLD" / "left.parquet"
    left.parent.mkdir(parents=True)
    shutil.copy(next((root / "processed").rglob("*.parquet")), left)
    first, *inputs = record.read_text().splitlines()
    value = {**json.loads(first), "obsolete": [str(left.relative_to(root / "processed"))]}
    record.write_text("\n".join([json.dumps(value), *inputs]))
    harness.run(root, "silver.trades")
    assert not left.exists()


def test_a_segment_of_known_rows_makes_nothing_whatever_the_pieces(
    market: Path, quiet: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are duplicates, in an hour that memory takes in pieces too; the record counts them."""
    monkeypatch.setattr("daedalus_etl.limits.rows_at_once", lambda *_: 300)
    root = copied(market, tmp_path)
    harness.run(root, bar_durations=DURATIONS)
    for channel in ("orderbook", "trades", "ticker"):
        path = [path for path in segments(root) if f"/{channel}/" in str(path)][3]
        shutil.copy(path, path.with_name(f"again_{path.name}"))
    report = harness.run(root, bar_durations=DURATIONS)
    assert report.done == []
    assert report.recorded == 4  # trades are read by two models; copies of books do not concern the trades' mids
    assert harness.run(root, bar_durations=DURATIONS).recorded == 0
    same(outputs(root), quiet)
