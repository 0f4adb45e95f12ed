"""What the watcher's tests rest on: a handle on its processes, readers that see what is wrong, and right figures."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl.lanes import US
from daedalus_etl.simulator import Market, simulate
from tests import roots
from tests.feeder import Feeder, Mischief
from tests.watching import (
    Came,
    Latency,
    Onlooker,
    Part,
    Probe,
    RowCount,
    Seen,
    Watcher,
    differences,
    folders_of,
    gold_latency,
    is_alive,
    last_clocks,
    published,
    quantiles,
    rows_that_cannot_wait,
    silver_latency,
    wait_until,
    with_keys,
)

STAND_IN = """
import os, signal, socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
def end(*_):
    child.kill(); child.wait(); sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGHUP, lambda *_: print('{"event": "profile"}', flush=True))
blob = bytearray(os.urandom(1 << 20) * 30)
open("written", "wb").write(bytes(1 << 20))
deadline = time.process_time() + 0.2
while time.process_time() < deadline: pass
if "--silent" not in sys.argv:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1\\nSTATUS=up", os.environ["NOTIFY_SOCKET"])
else:
    print("watching", flush=True)
print(*sys.argv[1:], os.environ["PYTHONPATH"], flush=True)
while True: time.sleep(0.02)  # pause() would miss a signal that comes just before it
"""


def stand_in(folder: Path, *options: str) -> Watcher:
    return Watcher(folder / "data", folder / "scratch", *options, program=(sys.executable, "-c", STAND_IN))


@pytest.mark.parametrize("options", [(), ("--silent",)])
def test_it_is_ready_when_it_says_so_to_the_service_manager_or_in_its_log(tmp_path: Path, options: list[str]) -> None:
    with stand_in(tmp_path, *options) as watcher:
        watcher.wait_ready()
        code, seconds = watcher.terminate()
        assert code == 0
        assert seconds < 5


def test_its_processes_are_seen_signalled_and_killed_as_one(tmp_path: Path) -> None:
    with stand_in(tmp_path, "--poll-interval", "1") as watcher:
        watcher.wait_ready()
        wait_until(lambda: f"--data {tmp_path / 'data'} --poll-interval 1" in watcher.log)
        first, child = watcher.pids()
        assert 0.2 <= watcher.cpu_seconds() < 5
        assert 30 << 20 < watcher.pss() < 200 << 20
        assert watcher.written_bytes()["wchar"] >= 1 << 20
        watcher.signal(signal.SIGHUP)
        wait_until(lambda: watcher.events() == [{"event": "profile"}])
        used = watcher.cpu_seconds()
        watcher.kill()
        assert not is_alive(first)
        assert not is_alive(child)
        assert watcher.cpu_seconds() >= used
        watcher.start().wait_ready()
        assert watcher.pid != first
        assert "profile" not in watcher.log
        assert "profile" in watcher.whole_log
        code, seconds = watcher.terminate()
        assert code == 0
        assert seconds < 5


def test_one_that_ends_before_it_is_ready_is_told_with_its_log(tmp_path: Path) -> None:
    program = (sys.executable, "-c", "import sys; sys.exit('no such option')")
    with (
        Watcher(tmp_path, tmp_path / "scratch", program=program) as watcher,
        pytest.raises(AssertionError, match="no such option"),
    ):
        watcher.wait_ready()


# -- readers ------------------------------------------------------------------------------------------------------

SILVER = "silver/trades/exchange=demo/symbol=BTC-USD/year=2026/month=2/day=3/hour=22"


@dataclass
class Outputs:
    """What a quiet run made, and a place to put parts of it."""

    feeder: Feeder
    quiet: Path
    want: dict[str, Part]
    data: Path = Path()

    def at(self, data: Path) -> Outputs:
        return Outputs(self.feeder, self.quiet, self.want, data)

    def rows(self, partition: str = SILVER) -> pa.Table:
        (path,) = (self.quiet / "processed" / partition).glob("*.parquet")
        return pq.ParquetFile(path).read()

    def put(self, rows: pa.Table, name: str, partition: str = SILVER) -> Path:
        path = self.data / "processed" / partition / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, self.data / "hidden")
        os.replace(self.data / "hidden", path)
        return path

    def onlooker(self, *exact: str) -> Onlooker:
        return Onlooker(self.data, self.want, self.feeder, exact)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("made")
    market = Market(hours=0.1, symbols=("BTC-USDT",), start=datetime(2026, 2, 3, 22, 57, tzinfo=UTC), seed=3, dirt=0.05,
                    books_per_second=0.2, trades_per_second=0.5)  # fmt: skip
    simulate(folder / "market", market, channels=("orderbook", "trades"))
    feeder = Feeder(folder / "market", segment_seconds=20, seed=1, mischief=Mischief(changed=0.3, duplicate=0.3))
    quiet = feeder.final(folder / "quiet")
    roots.run(quiet, "--select", "+gold.trades_bars", "--select", "silver.orderbook", "--durations", "60")
    return Outputs(feeder, quiet, with_keys(quiet))


@pytest.fixture
def outputs(made: Outputs, tmp_path: Path) -> Outputs:
    return made.at(tmp_path)


EXACT = "exchange=demo/symbol=BTC-USD"
LANES = pytest.mark.parametrize("exact", [(EXACT,), ()], ids=["exact", "with mischief"])


@LANES
def test_a_reader_is_content_with_the_quiet_runs_rows_in_parts_that_are_joined(
    outputs: Outputs, exact: tuple[str, ...]
) -> None:
    rows = outputs.rows()
    onlooker = outputs.onlooker(*exact)
    one = outputs.put(rows.slice(0, 20), "one")
    onlooker.look()
    two = outputs.put(rows.slice(20), "two")
    onlooker.look()
    assert onlooker.most_files == {SILVER: 2}
    two.unlink()
    one.unlink()
    outputs.put(rows, "joined")
    onlooker.look()
    shutil.copytree(outputs.quiet / "processed", outputs.data / "processed", dirs_exist_ok=True)
    (outputs.data / "processed" / SILVER / "joined.parquet").unlink()
    onlooker.look()
    assert onlooker.passes == 4


@LANES
def test_a_reader_sees_a_row_twice(outputs: Outputs, exact: tuple[str, ...]) -> None:
    rows = outputs.rows()
    outputs.put(rows.slice(0, 20), "one")
    outputs.put(rows.slice(19), "two")
    with pytest.raises(AssertionError, match="1 rows are there too often"):
        outputs.onlooker(*exact).look()


@LANES
def test_a_reader_sees_that_published_rows_are_missing(outputs: Outputs, exact: tuple[str, ...]) -> None:
    rows = outputs.rows()
    onlooker = outputs.onlooker(*exact)
    path = outputs.put(rows, "one")
    onlooker.look()
    path.unlink()
    outputs.put(rows.slice(2), "two")
    with pytest.raises(AssertionError, match="2 published rows are missing"):
        onlooker.look()


@LANES
def test_a_reader_sees_a_row_that_was_never_received(outputs: Outputs, exact: tuple[str, ...]) -> None:
    rows = outputs.rows()
    at = rows.column_names.index("price")
    outputs.put(rows.set_column(at, "price", pa.array(rows["price"].to_numpy() + 1)), "one")
    with pytest.raises(AssertionError, match=r"rows are (there too often|wrong)"):
        outputs.onlooker(*exact).look()


@LANES
def test_a_reader_does_not_bear_a_torn_file(outputs: Outputs, exact: tuple[str, ...]) -> None:
    path = outputs.put(outputs.rows(), "one")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(pa.ArrowInvalid):
        outputs.onlooker(*exact).look()


def test_a_reader_of_a_lane_without_mischief_sees_a_wrong_feature_and_a_wrong_order(outputs: Outputs) -> None:
    rows = outputs.rows()
    at = rows.column_names.index("volume_60s")
    path = outputs.put(rows.set_column(at, "volume_60s", pa.array(rows["volume_60s"].to_numpy() * 2)), "one")
    outputs.onlooker().look()
    with pytest.raises(AssertionError, match="are wrong"):
        outputs.onlooker(EXACT).look()
    path.unlink()
    outputs.put(rows.take(list(reversed(range(rows.num_rows)))), "two")
    with pytest.raises(AssertionError, match="out of order"):
        outputs.onlooker(EXACT).look()


def test_a_reader_lets_rows_go_that_the_quiet_run_does_not_have(outputs: Outputs) -> None:
    """A segment that came with other content first: its rows were received, and go when it comes again."""
    onlooker = outputs.onlooker()
    wrong = next(step for step in outputs.feeder.steps if not step.final and step.piece.lane.channel == "trades")
    rows = wrong.piece.rows.drop_columns(["symbol"])
    path = outputs.put(rows, "one", SILVER)
    onlooker.look()
    path.unlink()
    onlooker.look()
    assert onlooker.passes == 2


def test_a_reader_in_a_thread_tells_what_it_saw(outputs: Outputs) -> None:
    rows = outputs.rows()
    onlooker = outputs.onlooker(EXACT)
    onlooker.start()
    outputs.put(rows, "one")
    outputs.put(rows.slice(3, 1), "two")
    onlooker.join(10)
    with pytest.raises(AssertionError, match="too often"):
        onlooker.__exit__(None, None, None)


# -- the end ------------------------------------------------------------------------------------------------------


def test_the_same_rows_in_any_number_of_files_are_the_same(outputs: Outputs) -> None:
    shutil.copytree(outputs.quiet / "processed", outputs.data / "processed")
    assert differences(published(outputs.data), outputs.want) == []
    rows = outputs.rows()
    shutil.rmtree(outputs.data / "processed" / SILVER)
    outputs.put(rows.slice(0, 30), "z")
    outputs.put(rows.slice(30), "a")
    assert differences(published(outputs.data), outputs.want) == []
    assert RowCount(outputs.data).lanes() == {
        lane: sum(len(part.rows) for name, part in outputs.want.items() if name.startswith(f"silver/{lane}"))
        for lane in ("trades/" + EXACT, "orderbook/" + EXACT)
    }


@pytest.mark.parametrize("broken", ["a row less", "a row changed", "a partition more", "a partition less"])
def test_what_is_not_the_quiet_runs_is_seen(outputs: Outputs, broken: str) -> None:
    shutil.copytree(outputs.quiet / "processed", outputs.data / "processed")
    rows = outputs.rows()
    shutil.rmtree(outputs.data / "processed" / SILVER)
    if broken == "a row changed":
        at = rows.column_names.index("volume_60s")
        rows = rows.set_column(at, "volume_60s", pa.array(rows["volume_60s"].to_numpy() * 2))
    if broken != "a partition less":
        outputs.put(rows.slice(1) if broken == "a row less" else rows, "one")
    if broken == "a partition more":
        outputs.put(rows, "two", SILVER.replace("hour=22", "hour=21"))
    lasts = last_clocks(outputs.feeder)
    assert len(differences(published(outputs.data), outputs.want)) == 1
    assert len(differences(published(outputs.data), outputs.want, lasts)) == 1


def test_only_rows_at_the_end_that_wait_for_the_other_channel_may_be_missing(outputs: Outputs) -> None:
    """One channel's lane ends later than the other's: what it has after that end may be missing, and nothing more."""
    lasts = last_clocks(outputs.feeder)
    books, trades = lasts["orderbook", EXACT], lasts["trades", EXACT]
    channel = "orderbook" if books >= trades else "trades"
    partition = SILVER.replace("trades", channel).replace("hour=22", "hour=23")
    want = outputs.want[partition]
    waiting = sum(clock >= trades if channel == "orderbook" else clock > books for clock in want.clocks)
    assert waiting > 0
    shutil.copytree(outputs.quiet / "processed", outputs.data / "processed")
    rows = outputs.rows(partition)
    shutil.rmtree(outputs.data / "processed" / partition)
    path = outputs.put(rows.slice(0, rows.num_rows - waiting), "one", partition)
    got = published(outputs.data)
    assert differences(got, outputs.want, lasts) == []
    assert len(differences(got, outputs.want)) == 1
    need = rows_that_cannot_wait(outputs.want, lasts)
    assert need == RowCount(outputs.data).lanes()
    path.unlink()
    outputs.put(rows.slice(0, rows.num_rows - waiting - 1), "one", partition)
    assert len(differences(published(outputs.data), outputs.want, lasts)) == 1


# -- latency ------------------------------------------------------------------------------------------------------


def test_the_probe_sees_each_new_row_within_its_interval(outputs: Outputs) -> None:
    rows, want = outputs.rows(), outputs.want[SILVER]
    probe = Probe(folders_of(outputs.data, outputs.feeder))
    probe.start()
    moments = []
    for i in range(5):
        outputs.put(rows.slice(i * 10, 10), f"part-{i}")
        moments.append(time.monotonic())
        time.sleep(0.1)
    other = outputs.data / "processed" / SILVER.replace("hour=22", "other")
    other.mkdir()
    pq.write_table(rows.slice(0, 60), other / "joined.parquet")
    folder = outputs.data / "processed" / SILVER
    folder.rename(folder.with_name("old"))
    other.rename(folder)
    moments.append(time.monotonic())
    time.sleep(0.3)
    probe.stop()
    seen = probe.seen["silver", "trades", EXACT, 0]
    assert seen.newest == [want.clocks[i * 10 + 9] for i in range(6)]
    assert all(-0.02 < at - moment < 0.09 for at, moment in zip(seen.at, moments, strict=True))


def test_the_probe_reads_bars_by_their_start(outputs: Outputs) -> None:
    partition = next(name for name in outputs.want if name.startswith("gold/trades_bars/60s"))
    probe = Probe(folders_of(outputs.data, outputs.feeder))
    probe.look()
    outputs.put(outputs.rows(partition), "one", partition)
    probe.look()
    seen = probe.seen["gold", "trades", EXACT, 60]
    assert seen.newest == [outputs.want[partition].clocks[-1] - 60 * US]


def clocks(*values: int) -> np.ndarray:
    return np.array(values) * US


def seen(*pairs: tuple[float, int]) -> Seen:
    found = Seen()
    for at, clock in pairs:
        found.note(at, clock * US)
    return found


BRONZE = {
    ("orderbook", "X"): Came([1, 2, 3], [clocks(10, 20), clocks(30, 40), clocks(50, 70)]),
    ("trades", "X"): Came([1.5, 2.5, 9], [clocks(20), clocks(45), clocks(80)]),
    ("ticker", "X"): Came([1], [clocks(5)]),
}


def test_a_books_latency_begins_when_trades_have_passed_it_and_a_trades_when_a_book_has_reached_it() -> None:
    found = silver_latency(
        BRONZE,
        {
            ("silver", "orderbook", "X", 0): seen((2.75, 20), (3.0, 40), (9.5, 70)),
            ("silver", "trades", "X", 0): seen((1.75, 20), (3.25, 45)),
            ("silver", "ticker", "X", 0): seen(),
        },
    )
    assert found["orderbook"].seconds == [0.25, 0.5, 0.5]  # from 2.5 (20 is not passed by 20), 2.5 and 9
    assert found["trades"].seconds == [0.25, 0.25]  # from 1.5 and 3; 80 is never reached
    assert (found["trades"].missing, found["ticker"].missing) == (0, 1)


def test_a_bars_latency_begins_when_the_first_row_after_it_has_all_that_it_needs() -> None:
    bronze = {
        ("orderbook", "X"): Came([1, 2, 3], [clocks(10, 59), clocks(60, 100), clocks(130)]),
        ("trades", "X"): Came([1, 4, 5], [clocks(30), clocks(61), clocks(131)]),
    }
    found = gold_latency(bronze, {("gold", "orderbook", "X", 60): seen((4.5, 0), (5.25, 60))})
    assert found["orderbook"].seconds == [0.5, 0.25]
    assert found["orderbook"].missing == 0
    late = gold_latency(bronze, {("gold", "orderbook", "X", 60): seen((4.5, 0))})
    assert late["orderbook"].missing == 1


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([], {}),
        ([0.5], {"p50": 0.5, "p99": 0.5, "max": 0.5}),
        ([i / 100 for i in range(100, 0, -1)], {"p50": 0.5, "p99": 0.99, "max": 1.0}),
        ([i / 1000 for i in range(1, 1001)], {"p50": 0.5, "p99": 0.99, "max": 1.0}),
    ],
)
def test_quantiles_are_values_that_were_measured(values: list[float], want: dict[str, float]) -> None:
    assert quantiles(values) == want


def test_nothing_is_missing_that_never_had_what_it_needed() -> None:
    latency = Latency()
    latency.add(None, None)
    latency.add(1, 1.5)
    latency.add(1, None)
    assert latency.summary() == {"count": 1, "missing": 1, "p50": 0.5, "p99": 0.5, "max": 0.5}


def test_waiting_ends_with_what_was_meant(tmp_path: Path) -> None:
    said: Callable[[], str] = lambda: "the reason"  # noqa: E731
    with pytest.raises(AssertionError, match="the reason"):
        wait_until(lambda: False, 0.05, said)
