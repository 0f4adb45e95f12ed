"""The watcher, one thing after the other: what it waits for, what it does not wait for, and what it survives."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest

from daedalus_etl.simulator import Market, simulate
from tests import harness, roots
from tests.crash.faults import mounts, runs
from tests.crash.faults.plan import Plan
from tests.e2e.conftest import daedalus
from tests.feeder import write_whole
from tests.roots import DAY, MINUTE, rows_of
from tests.watching import Watcher, fingerprint, wait_until

PATIENCE = 14  # s
SOON = 11.0  # s; machines that test are loaded: how soon it is, benchmarks/watch.py measures
PROFILE = "variables: {{bar_durations: [{0}]}}\n"
ROOM = 64 << 20  # bytes of the disk


@dataclass
class Desk:
    """A watcher on a disk of its own, and a hand that puts segments into its bronze."""

    watcher: Watcher
    raw: Path
    project: Path
    stage: Path
    plan: Plan | None = None  # where no disk can be mounted
    put_count: int = field(default=0)

    @property
    def data(self) -> Path:
        return self.watcher.data

    def segment(
        self, channel: str, symbol: str, minutes: Sequence[float], name: str, hour: int = 1
    ) -> tuple[Path, bytes]:
        """Where it would lie, and its bytes."""
        self.put_count += 1
        stage = self.stage / str(self.put_count)
        (path,) = harness.write_bronze(stage, channel, rows_of(channel, hour, minutes), symbol=symbol, name=name)
        return self.raw / path.relative_to(stage / "raw"), path.read_bytes()

    def put(self, channel: str, symbol: str, minutes: Sequence[float], name: str, hour: int = 1) -> Path:
        path, content = self.segment(channel, symbol, minutes, name, hour)
        write_whole(path, content)
        return path

    def minutes(self, table: str, symbol: str, hour: int = 1) -> list[float]:
        """The clocks of a lane's published rows, in minutes of the hour."""
        for _ in range(50):
            try:
                rows = harness.published(self.data, table, f"symbol = '{symbol}'", columns=("clock_ts", "lane_order"))
            except (OSError, duckdb.Error):  # it was replaced after we had listed it
                continue
            return [(row["clock_ts"] - DAY - hour * roots.HOUR) / MINUTE for row in rows]
        pytest.fail(f"{table} cannot be read")

    def until(self, table: str, symbol: str, minutes: Sequence[float], longest: float = SOON) -> float:
        def said() -> str:
            return f"{self.minutes(table, symbol)}, not {minutes} after {longest} s\n{self.watcher.log[-2000:]}"

        return wait_until(lambda: self.minutes(table, symbol) == list(minutes), longest, said)

    def fill(self) -> None:
        """No more room for anything."""
        if self.plan is not None:
            self.plan.fill()
            return
        with (self.data / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def make_room(self) -> None:
        if self.plan is not None:
            Path(self.plan.work, "full").unlink()
        else:
            (self.data / "ballast").unlink()


def options_of(folder: Path) -> tuple[str | Path, ...]:
    """Those of a watcher in a new folder; makes what they name."""
    for name in ("data", "raw", "project", "work", "stage"):
        (folder / name).mkdir()
    (folder / "project" / "duckdb_profiles.yaml").write_text(PROFILE.format("60"))
    return ("--poll-interval", "0.5", "--workers", "1", "--log-format", "json", "--project", folder / "project",
            "--var", f"channel_patience={PATIENCE}")  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    options = options_of(folder)
    with ExitStack() as stack:
        plan = None
        environment = {}
        if mounts.can_mount():
            stack.enter_context(mounts.tiny_disk(folder / "data", ROOM))
        else:
            plan = Plan(str(folder / "data"), str(folder / "work"), full=("processed", "staging", "state"))
            environment = {"PYTHONPATH": str(runs.HERE / "layer"), **plan.environment()}
        (folder / "raw" / "ready" / "ccxt").mkdir(parents=True)
        (folder / "data" / "raw").symlink_to(folder / "raw")
        watcher = Watcher(folder / "data", folder / "scratch", *options, environment=environment)
        stack.enter_context(watcher)
        watcher.wait_ready()
        yield Desk(watcher, folder / "raw", folder / "project", folder / "stage", plan)
        code, seconds = watcher.terminate()
        assert code == 0, watcher.log
        assert seconds < 10
        assert "Traceback" not in watcher.whole_log


def test_a_book_waits_until_trades_pass_its_clock_or_patience_runs_out(desk: Desk) -> None:
    """A trade at the book's own clock does not pass it; a trade waits for a book that reaches it."""
    desk.put("trades", "AAA-EUR", [1, 3, 5], "a")
    desk.put("orderbook", "AAA-EUR", [2, 4, 5, 6], "a")
    desk.until("silver/orderbook", "AAA-EUR", [2, 4])
    desk.until("silver/trades", "AAA-EUR", [1, 3, 5])
    time.sleep(0.8)
    assert desk.minutes("silver/orderbook", "AAA-EUR") == [2, 4], "published before the trades have passed it"
    desk.put("trades", "AAA-EUR", [7], "b")
    desk.until("silver/orderbook", "AAA-EUR", [2, 4, 5, 6])
    assert desk.minutes("silver/trades", "AAA-EUR") == [1, 3, 5], "published before a book has reached it"
    desk.put("orderbook", "AAA-EUR", [7, 8], "b")
    began = time.monotonic()
    desk.until("silver/trades", "AAA-EUR", [1, 3, 5, 7])
    assert desk.minutes("silver/orderbook", "AAA-EUR") == [2, 4, 5, 6]
    desk.until("silver/orderbook", "AAA-EUR", [2, 4, 5, 6, 7, 8], PATIENCE + 15)
    assert time.monotonic() - began > PATIENCE - 1.5, "it had no patience"  # the trades came that much earlier at most


def test_a_lane_with_no_other_channel_does_not_wait(desk: Desk) -> None:
    desk.put("orderbook", "BBB-EUR", [1, 2], "a")
    desk.put("trades", "BBC-EUR", [1, 2], "a")
    desk.until("silver/orderbook", "BBB-EUR", [1, 2])
    desk.until("silver/trades", "BBC-EUR", [1, 2])


def test_ended_bars_are_there_as_soon_as_a_row_ends_them(desk: Desk) -> None:
    desk.put("ticker", "BAR-EUR", [1.2, 1.5, 2.1], "a")

    def bars() -> list[int]:
        rows = harness.published(desk.data, "gold/ticker_bars/60s", "symbol = 'BAR-EUR'", columns=("bar_start",))
        return [(row["bar_start"] - DAY - roots.HOUR) // MINUTE for row in rows]

    wait_until(lambda: bars() == [1], SOON, lambda: str(bars()))
    desk.put("ticker", "BAR-EUR", [2.5, 4.2], "b")
    wait_until(lambda: bars() == [1, 2], SOON, lambda: str(bars()))


def test_status_and_plan_know_of_an_hour_that_is_not_over(desk: Desk) -> None:
    desk.put("ticker", "STA-EUR", [1, 2, 3.5], "a")
    desk.until("silver/ticker", "STA-EUR", [1, 2, 3.5])
    given = ("--data", desk.data, "--json", "--project", desk.project, "--select", "silver.ticker")
    found = [json.loads(line) for line in daedalus("status", *given).stdout.splitlines()]
    (lane,) = (e for e in found if e.get("symbol") == "STA-EUR")
    assert (lane["live"], lane["rows"], lane["stale"]) == (3, 0, 0)
    assert lane["last_clock"].startswith("2026-02-03 01:03:30")
    found = [json.loads(line) for line in daedalus("plan", *given).stdout.splitlines()]
    (reason,) = (e["reason"] for e in found if e.get("symbol") == "STA-EUR")
    assert reason == "new; 3 rows are published in parts"


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_torn_segment_waits_and_is_taken_up_when_it_is_whole(desk: Desk, share: float) -> None:
    symbol, other = f"CC{int(share * 10)}-EUR", f"CD{int(share * 10)}-EUR"
    path, content = desk.segment("ticker", symbol, [1, 2], "a")
    write_whole(path, content[: int(len(content) * share)])
    desk.put("ticker", other, [1, 2], "a")
    desk.until("silver/ticker", other, [1, 2])
    assert desk.minutes("silver/ticker", symbol) == []
    write_whole(path, content)
    desk.until("silver/ticker", symbol, [1, 2])


def test_a_deleted_segment_changes_nothing_and_is_warned_of(desk: Desk) -> None:
    path = desk.put("ticker", "DDD-EUR", [1, 2], "a")
    desk.put("ticker", "DDD-EUR", [3], "a", hour=2)
    desk.until("silver/ticker", "DDD-EUR", [1, 2, 63])
    desk.watcher.wait_still(1)
    before, said = fingerprint(desk.data), len(desk.watcher.log)
    path.unlink()
    time.sleep(1.5)
    assert fingerprint(desk.data) == before
    assert re.search("delet|gone|removed|missing|no longer", desk.watcher.log[said:], re.IGNORECASE)


def test_what_was_published_of_a_segment_deleted_before_its_hour_closed_stays(desk: Desk) -> None:
    path = desk.put("ticker", "GGG-EUR", [1, 2], "a")
    desk.put("ticker", "GGG-EUR", [3], "b")
    desk.until("silver/ticker", "GGG-EUR", [1, 2, 3])
    path.unlink()
    time.sleep(0.7)
    desk.put("ticker", "GGG-EUR", [4], "c")
    desk.until("silver/ticker", "GGG-EUR", [1, 2, 3, 4])
    desk.put("ticker", "GGG-EUR", [3], "a", hour=2)
    desk.until("silver/ticker", "GGG-EUR", [1, 2, 3, 4, 63])
    folder = desk.data / "processed/silver/ticker/exchange=kraken/symbol=GGG-EUR/year=2026/month=2/day=3/hour=1"
    wait_until(lambda: len(list(folder.iterdir())) == 1, 10, lambda: desk.watcher.log[-2000:])
    assert desk.minutes("silver/ticker", "GGG-EUR") == [1, 2, 3, 4, 63]


def test_a_segment_that_comes_late_into_a_closed_hour_is_taken_in(desk: Desk) -> None:
    desk.put("ticker", "LAT-EUR", [1, 3], "a")
    desk.put("ticker", "LAT-EUR", [1], "a", hour=2)
    desk.until("silver/ticker", "LAT-EUR", [1, 3, 61])
    desk.put("ticker", "LAT-EUR", [2], "late")
    desk.until("silver/ticker", "LAT-EUR", [1, 2, 3, 61], 10)


def test_sighup_reads_the_profile_again_and_it_goes_on(desk: Desk) -> None:
    desk.put("ticker", "HUP-EUR", [0.5, 1.5, 2.5, 4.5], "a")
    desk.until("silver/ticker", "HUP-EUR", [0.5, 1.5, 2.5, 4.5])
    (desk.project / "duckdb_profiles.yaml").write_text(PROFILE.format("60, 120"))
    desk.watcher.signal(signal.SIGHUP)
    folder = desk.data / "processed/gold/ticker_bars/120s/exchange=kraken/symbol=HUP-EUR"
    wait_until(lambda: list(folder.rglob("*.parquet")), 60, lambda: desk.watcher.log[-2000:])
    desk.put("ticker", "HUP-EUR", [5], "b")
    desk.until("silver/ticker", "HUP-EUR", [0.5, 1.5, 2.5, 4.5, 5])


def test_a_full_disk_is_said_waited_for_and_gone_on_from(desk: Desk) -> None:
    desk.put("ticker", "EEE-EUR", [1], "a")
    desk.until("silver/ticker", "EEE-EUR", [1])
    desk.watcher.wait_still(1)
    said = len(desk.watcher.log)
    desk.fill()
    try:
        desk.put("ticker", "EEE-EUR", [2], "b")
        wait_until(lambda: "o space" in desk.watcher.log[said:], 10, "it does not say that the disk is full")
        used = desk.watcher.cpu_seconds()
        time.sleep(2)
        assert desk.watcher.cpu_seconds() - used < 1, "it is busy while it waits"
        assert desk.watcher.is_running
        assert desk.minutes("silver/ticker", "EEE-EUR") == [1]
        assert desk.watcher.log[said:].count("o space") < 10
    finally:
        desk.make_room()
    desk.until("silver/ticker", "EEE-EUR", [1, 2], 20)


def test_each_line_of_its_log_is_an_object(desk: Desk) -> None:
    lines = [line for line in desk.watcher.log.splitlines() if line]
    assert len(desk.watcher.events()) == len(lines)


def test_where_folders_cannot_change_places_an_hour_is_published_when_it_is_over(tmp_path: Path) -> None:
    """And not before, in one file, again when a segment comes late; that is said at the start."""
    plan = Plan(str(tmp_path / "data"), str(tmp_path / "work"), no_exchange=True)
    environment = {"PYTHONPATH": str(runs.HERE / "layer"), **plan.environment()}
    options = options_of(tmp_path)
    (tmp_path / "raw" / "ready" / "ccxt").mkdir(parents=True)
    (tmp_path / "data" / "raw").symlink_to(tmp_path / "raw")
    with Watcher(tmp_path / "data", tmp_path / "scratch", *options, environment=environment) as watcher:
        watcher.wait_ready()
        wait_until(lambda: "cannot exchange folders" in watcher.log, SOON, "it does not say so")
        desk = Desk(watcher, tmp_path / "raw", tmp_path / "project", tmp_path / "stage")
        desk.put("ticker", "AAA-EUR", [1, 2], "a")
        desk.put("ticker", "AAA-EUR", [3], "b")
        time.sleep(2)
        assert desk.minutes("silver/ticker", "AAA-EUR") == []
        desk.put("ticker", "AAA-EUR", [1], "a", hour=2)
        desk.until("silver/ticker", "AAA-EUR", [1, 2, 3])
        desk.put("ticker", "AAA-EUR", [2.5], "late")
        desk.until("silver/ticker", "AAA-EUR", [1, 2, 2.5, 3])
        assert len(list((tmp_path / "data/processed/silver/ticker").rglob("*.parquet"))) == 1
        code, _ = watcher.terminate()
        assert code == 0, watcher.log


def test_the_last_bar_of_a_day_is_there_after_a_start_and_stays_when_its_day_changes(tmp_path: Path) -> None:
    """A row of the next day shows that it has ended, in an hour that is open then."""
    options = options_of(tmp_path)
    (tmp_path / "raw" / "ready" / "ccxt").mkdir(parents=True)
    (tmp_path / "data" / "raw").symlink_to(tmp_path / "raw")
    with Watcher(tmp_path / "data", tmp_path / "scratch", *options) as watcher:
        desk = Desk(watcher, tmp_path / "raw", tmp_path / "project", tmp_path / "stage")

        def bars() -> list[float]:
            rows = harness.published(desk.data, "gold/ticker_bars/60s", columns=("bar_start",))
            return sorted((row["bar_start"] - DAY) / MINUTE - 23 * 60 for row in rows)

        def until_bars(minutes: list[float]) -> None:
            wait_until(lambda: bars() == minutes, SOON, lambda: f"{bars()}\n{watcher.log[-2000:]}")

        desk.put("ticker", "AAA-EUR", [55.2, 59.1], "a", hour=23)
        desk.put("ticker", "AAA-EUR", [0.3], "a", hour=24)
        watcher.wait_ready()
        until_bars([55, 59])
        watcher.kill()
        watcher.start()
        watcher.wait_ready()
        desk.put("ticker", "AAA-EUR", [57.5], "late", hour=23)
        until_bars([55, 57, 59])
        watcher.signal(signal.SIGHUP)
        desk.put("ticker", "AAA-EUR", [56.5], "late too", hour=23)
        until_bars([55, 56, 57, 59])
        desk.put("ticker", "AAA-EUR", [1.3], "b", hour=24)
        until_bars([55, 56, 57, 59, 60])


def test_a_lane_that_could_not_be_brought_up_to_date_is_made_when_there_is_room(tmp_path: Path) -> None:
    """And not followed before: it would go on from a state of hours ago."""
    plan = Plan(str(tmp_path / "data"), str(tmp_path / "work"), full=("processed",))
    options = options_of(tmp_path)
    (tmp_path / "raw" / "ready" / "ccxt").mkdir(parents=True)
    (tmp_path / "data" / "raw").symlink_to(tmp_path / "raw")
    plan.fill()
    environment = {"PYTHONPATH": str(runs.HERE / "layer"), **plan.environment()}
    with Watcher(tmp_path / "data", tmp_path / "scratch", *options, environment=environment) as watcher:
        desk = Desk(watcher, tmp_path / "raw", tmp_path / "project", tmp_path / "stage", plan)
        for hour in (1, 2, 3):
            desk.put("ticker", "AAA-EUR", [1, 30, 59], "a", hour=hour)
        watcher.wait_ready()
        wait_until(lambda: "No space left" in watcher.log, SOON, lambda: watcher.log)
        desk.put("ticker", "AAA-EUR", [59.5], "b", hour=3)
        time.sleep(1.5)
        assert desk.minutes("silver/ticker", "AAA-EUR") == []
        desk.make_room()
        minutes = [60 * hour + minute for hour in range(3) for minute in (1, 30, 59)]
        desk.until("silver/ticker", "AAA-EUR", [*minutes, 179.5], 2 * SOON)
        desk.put("ticker", "AAA-EUR", [1], "a", hour=4)
        desk.until("silver/ticker", "AAA-EUR", [*minutes, 179.5, 181])
        watcher.wait_still(1)
        code, _ = watcher.terminate()
        assert code == 0, watcher.log
    quiet = roots.copied(tmp_path / "data", tmp_path / "quiet")
    given = ("--project", tmp_path / "project")
    assert roots.run_child(tmp_path / "data", *given).code == 0
    assert roots.run_child(quiet, *given).code == 0
    roots.assert_same(tmp_path / "data", quiet)


def test_sigterm_while_it_catches_up_ends_it_after_the_partition_in_hand(tmp_path: Path) -> None:
    data = tmp_path / "data"
    simulate(data, Market(hours=12, symbols=2, books_per_second=0.3, trades_per_second=0.3, quotes_per_second=0.3))
    with Watcher(data, tmp_path / "scratch") as watcher:
        wait_until(lambda: records(data), 60, lambda: watcher.log)
        code, seconds = watcher.terminate()
        assert code == 0, watcher.log
        assert seconds < 10
        assert "error" not in watcher.log.lower()
    made = records(data)
    assert 0 < len(made) < 12 * 2 * 3
    assert roots.run_child(data).code == 0
    assert {name: records(data)[name] for name in made} == made, "what was made is made again"


def records(data: Path) -> dict[str, int]:
    """The records of hours of silver, and when they were written."""
    return {str(path): path.stat().st_mtime_ns for path in data.glob("state/silver.*/**/*T*.json")}
