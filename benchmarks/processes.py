"""What takes processes of their own: a day against an hour, two workers, memory, starting, compiling."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import bronze, memory
from benchmarks.books import floor_of
from benchmarks.measure import Measured, ratio

DAEDALUS = (sys.executable, "-m", "daedalus_etl")


def _run(root: Path, *options: str, samples: bool = False) -> dict[str, float]:
    """Seconds, CPU seconds, and with `samples` the memory of `daedalus run`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen([*DAEDALUS, "run", "--data", str(root), *options], stdout=subprocess.DEVNULL)
    found = memory.watch(process) if samples else {}
    code = process.wait()
    assert code == 0, code
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**found, "seconds": seconds, "cpu": spent}


def day(settings: Any) -> Measured:
    """CPU of 24 h of one order book lane over that of 1 h; the peaks of memory stand beside."""
    spent, peaks = {}, {}
    for hours in (1, settings.day):
        data = settings.long_data(hours)
        with bronze.scratch(data) as root:
            symbol = bronze.Subject(root, 1, settings.profile).busiest("orderbook").symbol
            options = ("--profile", "pi4", "--workers", "1", "--select", "silver.orderbook", "--symbol", symbol)
            runs = [_run(root, *options, "--full-refresh", samples=True) for _ in range(1 if hours > 1 else 3)]
            spent[hours] = [one["cpu"] for one in runs]
            peaks[hours] = max(one["all"] for one in runs)
    found = ratio(spent[settings.day], spent[1], hours=settings.day)
    found.details = {
        "hours": settings.day,
        "peak_of_an_hour_mb": peaks[1],
        "peak_of_a_day_mb": peaks[settings.day],
        "peak_ratio": round(peaks[settings.day] / peaks[1], 2),
    }
    return found


def pool(settings: Any) -> Measured:
    """The speed-up of two workers over one on 8 lanes, over that of two independent floor processes."""
    data = settings.pool_data()
    ours: dict[int, list[float]] = {1: [], 2: []}
    floors: dict[int, list[float]] = {1: [], 2: []}
    with bronze.scratch(data) as root:
        options = ("--select", "silver.orderbook", "--select", "silver.trades", "--profile", settings.profile)
        _run(root, *options, "--workers", "1")  # audits the segments and compiles
        gate = multiprocessing.get_context("spawn")
        for _ in range(settings.repeats):
            for workers in (1, 2):
                ours[workers].append(_run(root, *options, "--workers", str(workers), "--full-refresh")["seconds"])
            for workers in (1, 2):
                floors[workers].append(_floors(gate, root, settings.profile, workers))
    middle = {k: sorted(v)[len(v) // 2] for k, v in ours.items()}
    floor = {k: sorted(v)[len(v) // 2] for k, v in floors.items()}
    speedup, reachable = middle[1] / middle[2], 2 * floor[1] / floor[2]
    return Measured(
        speedup / reachable, "x", ours[2], floors[2],
        {"speed_up": round(speedup, 2), "speed_up_of_two_floors": round(reachable, 2), "seconds": middle},
    )  # fmt: skip


def _floors(gate: Any, root: Path, profile: str, count: int) -> float:
    """Wall-clock seconds in which so many processes each do the floor of a lane, at the same time."""
    ready, go = gate.Semaphore(0), gate.Event()
    done = gate.Queue()
    each = [gate.Process(target=_floor, args=(str(root), profile, i, ready, go, done)) for i in range(count)]
    for process in each:
        process.start()
    for _ in each:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    for _ in each:
        done.get()
    seconds = time.perf_counter() - began
    for process in each:
        process.join()
    return seconds


def _floor(root: str, profile: str, number: int, ready: Any, go: Any, done: Any) -> None:
    subject = bronze.Subject(Path(root), 1, profile)
    lane = subject.busiest("orderbook")
    with TemporaryDirectory(dir=root) as out:
        work = floor_of(subject, lane, Path(out))
        work()
        ready.release()
        go.wait()
        work()
        done.put(number)


def peak(settings: Any) -> Measured:
    """The sum of PSS of all processes of a run of all channels, profile pi4, 2 workers."""
    with bronze.scratch(settings.long_data(settings.day, symbols=4)) as root:
        found = _run(root, "--profile", "pi4", "--workers", "2", samples=True)
    return Measured(found["all"], "MB", details={"hours": settings.day, **found})


def _child(*command: str) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start(*arguments: str) -> Any:
    def measure(settings: Any) -> Measured:
        seconds = sorted(_child(*DAEDALUS, *arguments) for _ in range(max(settings.repeats, 5)))
        python = sorted(_child(sys.executable, "-c", "pass") for _ in range(5))
        middle = seconds[len(seconds) // 2]
        return Measured(middle, "s", seconds, python, {"python alone": round(python[2], 3)})

    return measure


_COMPILE = """
import time
began = time.process_time()
from daedalus_etl import kernels, profiles
kernel = kernels.load("orderbook")(dict(profiles.load("laptop").variables))
kernel.warm()
print(time.process_time() - began)
"""


def compiling(settings: Any) -> Measured:
    """CPU seconds that an empty kernel cache costs: warming with it, less warming without."""
    cold, warm = [], []
    for _ in range(min(settings.repeats, 3)):
        with TemporaryDirectory() as folder:
            for times in (cold, warm):
                done = subprocess.run(
                    [sys.executable, "-c", _COMPILE], check=True, capture_output=True, text=True,
                    env={**os.environ, "NUMBA_CACHE_DIR": folder},
                )  # fmt: skip
                times.append(json.loads(done.stdout))
    extra = sorted(c - w for c, w in zip(cold, warm, strict=True))
    return Measured(extra[len(extra) // 2], "s", cold, warm)
