"""One output by whatever path (RELIABILITY 6, 7, 9): whole roots, file by file, cell by cell, to the last bit.

The quiet run is one worker over all of it at once. Every other path must publish the same files.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import lanes
from daedalus_etl.simulator import Market, simulate
from tests import harness, roots

HOUR = 3600 * 1_000_000


@dataclass(frozen=True)
class Given:
    """Bronze, the variables of its runs, and what one quiet run makes of it."""

    bronze: Path
    quiet: Path
    arguments: tuple[str | Path, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    kills: int = 30
    is_dirty: bool = True

    def run(self, root: Path, *more: str | Path, child: bool = False, code: int = 0) -> roots.Ran:
        through = roots.run_child if child else roots.run
        return through(root, *self.arguments, *more, code=code, **self.variables)

    def start(self, root: Path, *more: str) -> subprocess.Popen[str]:
        """A run in a session of its own, so that its workers can be told from all other processes."""
        return subprocess.Popen(
            roots.command(root, *self.arguments, *more, **self.variables), env=roots.child_environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip

    def is_reached(self, root: Path, *, state: bool = True) -> None:
        """Does the root hold what the quiet run made, and nothing is left to do?"""
        roots.assert_same(root, self.quiet)
        if state:  # as long as the segments are the same ones
            assert roots.states(root) == roots.states(self.quiet)
        before = roots.contents(root)
        assert self.run(root).summary["made"] == 0
        assert roots.contents(root) == before


SHORT = Market(
    hours=1.5, symbols=("SHIB-USDT",), start=datetime(2026, 2, 3, 23, 12, tzinfo=UTC), seed=3, dirt=0.06,
    books_per_second=0.15, trades_per_second=0.15, quotes_per_second=0.15, segment_seconds=1800,
)  # fmt: skip
SOAK = Market(
    hours=6, symbols=("BTC-USDT", "ETH-USDT", "SHIB-USDT", "BTC-USDT-USDT"), seed=17, dirt=0.04,
    start=datetime(2026, 2, 3, 21, 20, tzinfo=UTC), books_per_second=1, trades_per_second=1, quotes_per_second=1,
    segment_seconds=300,
)  # fmt: skip
KINDS: dict[str, tuple[Market | None, Mapping[str, Any]]] = {
    "short": (SHORT, {}),
    "soak": (SOAK, {}),
    "event": (SOAK, {"clock": "event"}),
    "resampled": (SOAK, {"resample_frequency": 5, "fill_gaps": "true"}),
    "captures": (None, {}),
}
only_with_captures = pytest.mark.skipif(
    not harness.SHARED.is_dir(), reason="the real captures are not beside the project"
)


@pytest.fixture(
    scope="module",
    params=[
        "short",
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("soak", "event", "resampled")),
        pytest.param("captures", marks=[pytest.mark.soak, only_with_captures]),
    ],
)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    market, variables = KINDS[request.param]
    bronze = tmp_path_factory.mktemp("bronze")
    if market is None:
        (bronze / "raw").symlink_to(harness.SHARED / "raw")
    else:
        simulate(bronze, market)
    quiet = roots.copied(bronze, tmp_path_factory.mktemp("quiet"))
    is_short = request.param == "short"  # bars of 420 s lie across midnight
    durations = ("--durations", "420" if is_short else "60,420")
    found = Given(bronze, quiet, durations, variables, 3 if is_short else 30, market is not None)
    found.run(found.quiet)
    return found


@pytest.fixture
def root(given: Given, tmp_path: Path) -> Path:
    """The same bronze, nothing made of it yet."""
    return roots.copied(given.bronze, tmp_path)


def test_there_is_something_to_compare(given: Given) -> None:
    """All layers and channels, several hours; in a dirty market also duplicates and invalid rows."""
    found = roots.files(given.quiet)
    tables = {"/".join(Path(name).parts[:2]) for name in found}
    channels = ("orderbook", "trades", "ticker")
    assert tables == {f"silver/{c}" for c in channels} | {f"gold/{c}_bars" for c in channels}
    quotes = harness.published(given.quiet, "silver/ticker", columns=["is_valid", "hour"])
    assert len({row["hour"] for row in quotes}) > 1
    read = sum(pq.read_metadata(p).num_rows for p in roots.segments(given.bronze) if "/ticker/" in str(p))
    if given.is_dirty:
        assert {row["is_valid"] for row in quotes} == {True, False}
        assert read / 2 < len(quotes) < read
    else:
        assert read / 2 < len(quotes)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_any_number_of_workers_makes_the_same(given: Given, root: Path, workers: int) -> None:
    given.run(root, "--workers", str(workers), child=True)
    given.is_reached(root)


@pytest.mark.parametrize("memory", ["128MB", pytest.param("4GB", marks=pytest.mark.soak)])
def test_little_memory_makes_the_same(given: Given, root: Path, tmp_path: Path, memory: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "duckdb_profiles.yaml").write_text(
        f"profiles:\n  other: {{threads: 1, workers: 1, memory_limit: {memory}, batch_rows: 1000, "
        "parquet: {row_group_size: 8192}}\n"
    )
    given.run(root, "--project", project, "--profile", "other", child=True)
    roots.assert_same(root, given.quiet)
    assert roots.states(root) == roots.states(given.quiet)


def test_hour_by_hour_makes_the_same(given: Given, tmp_path: Path) -> None:
    """Each hour's segments arrive, then a run: state is saved and taken up in between."""
    hours: dict[int, list[Path]] = {}
    for path in roots.segments(given.bronze):
        hours.setdefault(roots.hour_of(path), []).append(path)
    assert len(hours) > 1
    for hour in sorted(hours):
        for path in hours[hour]:
            roots.bring(path, given.bronze, tmp_path)
        given.run(tmp_path)
    given.is_reached(tmp_path)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_hours_split_into_any_number_of_segments_make_the_same(given: Given, tmp_path: Path, seed: int) -> None:
    """The rows of each lane-hour, in the order of its segments, cut anew at random; names keep the order."""
    pick = random.Random(seed)
    folders: dict[Path, list[Path]] = {}
    for path in roots.segments(given.bronze):
        folders.setdefault(path.parent, []).append(path)
    counts = set()
    for folder, paths in folders.items():
        rows = pa.concat_tables([pq.ParquetFile(path).read() for path in sorted(paths)])
        cuts = sorted({0, rows.num_rows, *(pick.randrange(rows.num_rows) for _ in range(pick.randrange(8)))})
        there = tmp_path / folder.relative_to(given.bronze)
        there.mkdir(parents=True)
        for i, (a, b) in enumerate(itertools.pairwise(cuts)):
            pq.write_table(rows.slice(a, b - a), there / f"part_{i:03d}.parquet")
        counts.add(len(cuts) - 1)
    assert len(counts) > 2
    given.run(tmp_path)
    given.is_reached(tmp_path, state=False)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_segments_in_any_order_with_a_run_after_each_make_the_same(given: Given, tmp_path: Path, seed: int) -> None:
    """Everything is late but what comes in order by chance; now and then a file comes twice."""
    pick = random.Random(seed)
    paths = roots.segments(given.bronze)
    pick.shuffle(paths)
    at_once = max(1, len(paths) // 100)  # of many, a few at a time
    for i in range(0, len(paths), at_once):
        for path in paths[i : i + at_once]:
            roots.bring(path, given.bronze, tmp_path)
        if i and pick.random() < 0.3:
            again = pick.choice(paths[:i])
            os.utime(roots.bring(again, given.bronze, tmp_path))
        given.run(tmp_path)
    for path in paths:
        roots.bring(path, given.bronze, tmp_path)  # with the times of the quiet root's
    given.run(tmp_path)
    given.is_reached(tmp_path)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_killed_and_resumed_makes_the_same(given: Given, root: Path, workers: int) -> None:
    """SIGKILL for the run at random moments (its workers are on their own then, and must end); then a run to the end.

    A moment is a number of published files and some milliseconds, so that it is in the midst on any machine.
    """
    pick = random.Random(workers)
    more = ("--workers", str(workers))
    moments = sorted(pick.sample(range(len(roots.files(given.quiet))), given.kills))
    kills = 0
    for moment in moments:
        process = given.start(root, *more)
        while process.poll() is None and len(_published(root)) < moment:
            time.sleep(0.002)
        time.sleep(pick.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        _until_all_are_gone(process.pid)
        for path in roots.files(root).values():
            pq.read_metadata(path)  # each is whole
    assert kills > len(moments) // 2
    given.run(root, *more, child=True)
    given.is_reached(root)


def _published(root: Path) -> list[Path]:
    # os.walk, unlike rglob, does not mind that a folder is swapped while it looks
    return [Path(folder) / name for folder, _, names in os.walk(root / "processed") for name in names]


def _until_all_are_gone(session: int, within: float = 20) -> None:
    """Workers of a killed run end by themselves, soon."""
    deadline = time.monotonic() + within
    while left := _members(session):
        assert time.monotonic() < deadline, f"processes {left} outlive the run that was killed"
        time.sleep(0.02)


def _members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def test_piece_by_piece_with_start_and_end_makes_the_same(given: Given, root: Path) -> None:
    """Cuts inside an hour and at midnight; the pieces in order, and then the rest."""
    for span in _pieces(given):
        given.run(root, *span)
    given.run(root)
    given.is_reached(root)


@pytest.mark.soak
def test_the_last_piece_first_makes_the_same(given: Given, root: Path) -> None:
    for span in reversed(_pieces(given)):
        given.run(root, *span)
    given.run(root)
    given.is_reached(root)


def _pieces(given: Given) -> Sequence[tuple[str, ...]]:
    clocks = [row["clock_ts"] for row in harness.published(given.quiet, "silver/trades", columns=["clock_ts"])]
    low, high = clocks[0], clocks[-1]
    midnight = (low // (24 * HOUR) + 1) * 24 * HOUR
    cuts = sorted({low + (high - low) * 7 // 31, midnight, midnight + (high - midnight) // 3})
    moments = [datetime.fromtimestamp(cut // 1_000_000, UTC).isoformat() for cut in cuts]
    pairs = itertools.pairwise([None, *moments, None])
    return [(*(("--start", first) if first else ()), *(("--end", behind) if behind else ())) for first, behind in pairs]


# -- the comparison itself ------------------------------------------------------------------------------------------


OTHERWISE: dict[str, pa.Table] = {
    "a zero's sign": pa.table({"x": [-0.0, 1.0, float("nan"), None], "t": ["a", "b", None, ""]}),
    "the last bit": pa.table({"x": [0.0, np.nextafter(1.0, 2.0), float("nan"), None], "t": ["a", "b", None, ""]}),
    "NULL for NaN": pa.table({"x": [0.0, 1.0, None, None], "t": ["a", "b", None, ""]}),
    "0 for NULL": pa.table({"x": [0.0, 1.0, float("nan"), 0.0], "t": ["a", "b", None, ""]}),
    "'' for NULL": pa.table({"x": [0.0, 1.0, float("nan"), None], "t": ["a", "b", "", ""]}),
    "the order of rows": pa.table({"x": [1.0, 0.0, float("nan"), None], "t": ["b", "a", None, ""]}),
    "one row less": pa.table({"x": [0.0, 1.0, float("nan")], "t": ["a", "b", None]}),
    "the order of columns": pa.table({"t": ["a", "b", None, ""], "x": [0.0, 1.0, float("nan"), None]}),
    "a type": pa.table({"x": pa.array([0.0, 1.0, float("nan"), None], pa.float32()), "t": ["a", "b", None, ""]}),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_the_comparison_sees(tmp_path: Path, what: str) -> None:
    same = pa.table({"x": [0.0, 1.0, float("nan"), None], "t": ["a", "b", None, ""]})
    for name, table in (("one", same), ("two", same), ("other", OTHERWISE[what])):
        (tmp_path / name / "processed").mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "processed/a.parquet")
    roots.assert_same(tmp_path / "one", tmp_path / "two")
    with pytest.raises(AssertionError):
        roots.assert_same(tmp_path / "other", tmp_path / "one")
    (tmp_path / "two/processed/b.parquet").write_bytes(b"")
    with pytest.raises(AssertionError):
        roots.assert_same(tmp_path / "two", tmp_path / "one")


# -- the real captures ------------------------------------------------------------------------------------------------


@only_with_captures
def test_two_workers_make_of_real_captures_what_one_does(tmp_path: Path) -> None:
    some = ("--symbol", "ETH/USDT", "--end", "2024-08-08T23:56", "--durations", "60")
    done = []
    for workers in ("1", "2"):
        root = tmp_path / workers
        root.mkdir()
        (root / "raw").symlink_to(harness.SHARED / "raw")
        done.append(roots.run_child(root, *some, "--workers", workers).summary["made"])
    assert done[0] == done[1] > 0
    roots.assert_same(tmp_path / "2", tmp_path / "1")
    assert roots.states(tmp_path / "2") == roots.states(tmp_path / "1")


# -- what comes later -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dropped", "scrambled"])
def test_what_comes_later_changes_nothing_before(given: Given, tmp_path: Path, how: str) -> None:
    """From a random moment on all rows are gone, or hold what others held: all before is the same."""
    clocks = [row["clock_ts"] for row in harness.published(given.quiet, "silver/trades", columns=["clock_ts"])]
    cut = clocks[int(len(clocks) * random.Random(how).uniform(0.3, 0.7))]
    last: dict[tuple[str, str], int] = {}  # clock of a lane's last row before the cut
    for path in roots.segments(given.bronze):
        table = pq.ParquetFile(path).read()
        clock = _clocks(table, given.variables)
        kept = _scrambled(table, clock >= cut) if how == "scrambled" else table.filter(pa.array(clock < cut))
        if kept.num_rows:
            there = tmp_path / path.relative_to(given.bronze)
            there.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(kept, there)
        channel = path.relative_to(given.bronze / "raw/ready/ccxt").parts[0]
        lane = channel, str(lanes.parse_path(path)["symbol"])
        last[lane] = max([last.get(lane, 0), *clock[clock < cut].tolist()])
    given.run(tmp_path)
    compared = 0
    for name, path in roots.files(given.quiet).items():
        layer, model = Path(name).parts[:2]
        whole = pq.ParquetFile(path).read()
        until, column = cut, "clock_ts"
        if layer == "gold" or "resample_frequency" in given.variables:
            # what is written when a later row is in: up to the last one that is there
            if how == "dropped":
                until = last[model.removesuffix("_bars"), whole["source_symbol"][0].as_py()]
            column, until = ("bar_end", until + 1) if layer == "gold" else (column, until)
        want = _before(whole, column, until)
        if want.num_rows:
            got = _before(pq.ParquetFile(tmp_path / "processed" / name).read(), column, until)
            assert roots.unlike(got, want) == [], name
        compared += want.num_rows
    assert compared > 200


def _clocks(table: pa.Table, variables: Mapping[str, Any]) -> np.ndarray:
    """The lane's clock of bronze rows, us (SPEC 4)."""
    capture = table["capture_ts"].cast(pa.int64()).to_numpy()
    if variables.get("clock") != "event":
        return capture
    event = table["timestamp"].fill_null(2**40).to_numpy() * 1000
    return np.where(np.abs(event - capture) <= 24 * HOUR, event, table["collected_at"].to_numpy() * 1000)


def _scrambled(table: pa.Table, which: np.ndarray) -> pa.Table:
    """What the market said in these rows is dealt out to them anew; their times stay."""
    places = np.arange(table.num_rows)
    places[which] = np.random.default_rng(1).permutation(places[which])
    for name in ("bids", "asks", "price", "amount", "side", "bid", "ask", "bid_volume", "ask_volume"):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].take(pa.array(places)))
    return table


def _before(table: pa.Table, column: str, until: int) -> pa.Table:
    return table.filter(pa.array(table[column].cast(pa.int64()).to_numpy() < until))
