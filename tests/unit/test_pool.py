"""What becomes of workers, and of the lanes that they were given."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daedalus_etl import pool as pools
from daedalus_etl import profiles
from daedalus_etl.catalog import Catalog, Survey, roots
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane
from daedalus_etl.models import Graph
from daedalus_etl.pool import Pool, Process
from daedalus_etl.runner import Run, Selection

BOOKS = [Lane("demo", symbol, "orderbook") for symbol in ("BTC-USD", "ETH-USD", "SOL-USD")]
TRADES = [Lane("demo", "BTC-USD", "trades")]


def test_a_worker_that_was_asked_to_end_has_ended_when_the_run_has() -> None:
    """It has answered, and takes its time to go: whoever starts next must not meet it."""
    one = Process.__new__(Process)
    one.line, theirs = Pipe()
    slow = "import sys, time; sys.stdin.read(); time.sleep(0.5)"
    one.process = subprocess.Popen([sys.executable, "-c", slow], stdin=subprocess.DEVNULL)
    one.lane, one.asked = BOOKS[0], deque(["lane"])
    pool = Pool(1, (), lambda *_: None, 0)
    pool.processes = [one]
    theirs.send(("stopped", None))
    pool._hear(one, lambda: True)
    assert (pool.processes, one.lane) == ([], None)
    assert one.process.poll() == 0
    theirs.close()


class Workers:
    """In place of processes: threads that answer by `answers(number, asked)`; 'dies' ends one without an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Callable[[int, str], Any] = lambda *_: ("done", None)):
        self.answers, self.started = answers, 0
        self.heard: list[tuple[str, Mapping[str, Any]]] = []
        self.made: list[tuple[int, Lane]] = []
        workers = self

        class Scripted(Process):
            def __init__(self, started_with: tuple[Any, ...], tell: pools.Listener, _: int):
                workers.started += 1
                self.tell, self.asked, self.lane, self.channel = tell, deque(), None, None
                self.line, theirs = Pipe()
                thread = threading.Thread(target=workers._serve, args=(workers.started, theirs), daemon=True)
                self.process = SimpleNamespace(wait=lambda *_: thread.join() or -signal.SIGKILL)  # type: ignore[assignment]
                thread.start()
                self.send("start", *started_with)

        monkeypatch.setattr(pools, "Process", Scripted)

    def _serve(self, number: int, line: Any) -> None:
        with line:
            while True:
                try:
                    asked, arguments = line.recv()
                except (EOFError, OSError):
                    return
                answer = self.answers(number, asked)
                if answer == "dies":
                    return
                if asked == "lane" and answer[0] == "done":
                    self.made.append((number, arguments[0]))
                with contextlib.suppress(OSError):  # who asked has closed it
                    line.send(answer)
                if asked in ("start", "begin") and answer[0] == "error":
                    return

    def make(self, lanes: list[Lane], size: int = 2, profile: str = "laptop") -> Pool:
        pool = Pool(size, (profiles.load(profile, None, {}),), lambda *event: self.heard.append(event), 0)
        pool.make(lanes, None, Path(), lambda: False, warm=True)
        pool.close()
        return pool


def test_each_lane_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.make(BOOKS + TRADES)
    assert sorted(lane for _, lane in workers.made) == sorted(BOOKS + TRADES)
    assert workers.started == 2


@pytest.mark.parametrize("asked", ["start", "begin"])
@pytest.mark.parametrize("answer", [("error", "no room"), "dies"])
def test_a_worker_that_cannot_start_gives_its_lane_back(
    monkeypatch: pytest.MonkeyPatch, asked: str, answer: Any
) -> None:
    workers = Workers(monkeypatch, lambda number, what: answer if (number, what) == (2, asked) else ("done", None))
    workers.make(BOOKS)
    assert sorted(lane for _, lane in workers.made) == BOOKS
    assert {number for number, _ in workers.made} == {1}
    ((event, details),) = workers.heard
    assert event == "warning"
    reason = "no room" if answer != "dies" else "its process was ended by SIGKILL; is there too little memory?"
    assert details["text"] == f"a worker could not be started: {reason}"


def test_the_first_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch, lambda _, what: ("error", "no room") if what == "begin" else ("done", None))
    with pytest.raises(DaedalusError, match="no room"):
        workers.make(BOOKS)
    assert workers.made == []


def test_a_worker_that_dies_fails_its_lane_only(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[str] = []

    def answers(number: int, what: str) -> Any:
        if what == "lane" and not died:
            died.append(what)
            return "dies"
        return ("done", None)

    workers = Workers(monkeypatch, answers)
    workers.make(BOOKS)
    assert len(workers.made) == 2
    ((event, details),) = workers.heard
    assert event == "failed"
    assert details["lane"] in {str(lane) for lane in BOOKS} - {str(lane) for _, lane in workers.made}
    assert "SIGKILL" in details["error"]


@pytest.mark.parametrize(("profile", "started"), [("laptop", 1), ("pi4", 2)])
def test_where_memory_is_scarce_a_channel_has_processes_of_its_own(
    monkeypatch: pytest.MonkeyPatch, profile: str, started: int
) -> None:
    workers = Workers(monkeypatch)
    workers.make(BOOKS + TRADES, size=1, profile=profile)
    assert [lane for _, lane in workers.made] == BOOKS + TRADES
    assert workers.started == started


def test_a_fresh_worker_that_cannot_be_had_leaves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch, lambda number, what: "dies" if (number, what) == (2, "begin") else ("done", None))
    with pytest.raises(DaedalusError, match="no worker is left for 1 lanes"):
        workers.make(BOOKS + TRADES, size=1, profile="pi4")
    assert [lane for _, lane in workers.made] == BOOKS


def test_what_takes_longest_is_handed_out_first(tmp_path: Path) -> None:
    """By what the newest hour holds, of the lane and of what is read beside; by name what has no hour folder."""
    data = tmp_path / "raw" / "ready" / "ccxt"
    quotes = replace(TRADES[0], channel="ticker")
    sizes = {
        BOOKS[0]: {9: [90_000], 10: [3000]}, BOOKS[1]: {10: [2000] * 40}, BOOKS[2]: {9: [1]},
        TRADES[0]: {10: [5000]}, quotes: {10: [4000]},
    }  # fmt: skip
    for lane, hours in sizes.items():
        for hour, files in hours.items():
            for number, size in enumerate(files):
                path = data / lane.channel / f"exchange=demo/symbol={lane.symbol}/year=2026/month=2/day=3/hour={hour}"
                path.mkdir(parents=True, exist_ok=True)
                (path / f"{number}.parquet").write_bytes(bytes(size))
    flat = replace(BOOKS[0], symbol="A-USD")
    lanes = (flat, *BOOKS, *TRADES, quotes)

    def ordered(name: str, workers: int) -> list[Lane]:
        profile = profiles.load(name, None, {}).with_data(str(tmp_path), None)
        there = Catalog(profile, roots(profile))
        assert [there.newest_bytes(lane) for lane in sizes] == [3000, 80_000, 1, 5000, 4000]
        assert there.newest_bytes(flat) == 0
        assert there.newest_bytes(replace(flat, symbol="A\0B")) == 0
        run = Run(profile, Graph(profile.projects, profile.variables), Selection(), lambda *_: None, workers)
        run.survey, run.selected = Survey(lanes), list(lanes)
        return run.to_make(there)

    assert ordered("laptop", 2) == [BOOKS[1], quotes, *TRADES, BOOKS[0], BOOKS[2], flat]
    assert ordered("pi4", 2) == [BOOKS[1], BOOKS[0], BOOKS[2], flat, *TRADES, quotes]
    assert ordered("pi4", 1) == ordered("laptop", 1) == [*sorted((flat, *BOOKS)), *TRADES, quotes]
