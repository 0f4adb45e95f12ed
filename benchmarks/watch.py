"""The watcher's latency, cost and memory, from outside. Each part prints one JSON object.

    python -m benchmarks.watch latency [--minutes 10] [--symbols 4] [--together]
    python -m benchmarks.watch idle [--lanes 20] [--hours 8760] [--minutes 3]
    python -m benchmarks.watch bytes [--minutes 30] [--speed 20]
    python -m benchmarks.watch memory [--hours 24] [--speed 60]

What follows a lone -- goes to `daedalus watch`: `-- --profile pi4 --workers 1`. --folder: where to work (else a
temporary folder); `idle` finds the root that it made there before. Kernels must be compiled already (`daedalus demo`
does it).

latency: symbols x three channels in real time, a segment a second each, the turn of the hour in the middle. Seconds
from the moment when all that a segment's last row needs was visible in bronze until it is in silver, and for each
ended bar until it is in gold; of all, and of those within a minute of the turn. Lanes' segments come one after the
other within the second, or all at once (--together). What comes in the first --warm-up seconds is not counted.
idle: a year of hours, all taken in; CPU per cycle and the share of a core while nothing comes.
bytes: what is written per layer against what lies there in the end.
memory: PSS of all processes at the end of each hour of a feed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daedalus_etl.lanes import HOUR_US, US
from daedalus_etl.simulator import Market, simulate
from tests import year
from tests.feeder import Feeder
from tests.watching import (
    Latency,
    Probe,
    Watcher,
    came,
    folders_of,
    gold_latency,
    quantiles,
    silver_latency,
    wait_until,
)

TURN = datetime(2026, 2, 3, 23, tzinfo=UTC)
DURATIONS = (60, 300)
LAYERS = ("processed/silver", "processed/gold", "state")


class Sampler(threading.Thread):
    """PSS of a watcher's processes once a second, and its largest share of a core."""

    def __init__(self, watcher: Watcher):
        super().__init__(daemon=True)
        self.watcher = watcher
        self.pss: list[float] = []
        self._stop_now = threading.Event()
        self._began, self._used = time.monotonic(), watcher.cpu_seconds()

    def run(self) -> None:
        while not self._stop_now.wait(1):
            self.pss.append(self.watcher.pss() / 1e6)

    def stop(self) -> dict[str, Any]:
        seconds, used = time.monotonic() - self._began, self.watcher.cpu_seconds() - self._used
        self._stop_now.set()
        self.join()
        return {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used, 2),
            "cpu_share_of_a_core": round(used / seconds, 4),
            "pss_mb": {name: round(value, 1) for name, value in quantiles(self.pss).items()},
        }


class Sizes(threading.Thread):
    """Adds up the sizes of all files that ever show in the outputs and the state, by layer; looks 20 times a second,
    so what is replaced at once is missed: `wchar` and `write_bytes` of the processes have it."""

    def __init__(self, data: Path):
        super().__init__(daemon=True)
        self.data = data
        self.seen: Counter[str] = Counter()
        self._known: set[tuple[int, int]] = set()
        self._stop_now = threading.Event()

    def look(self) -> Counter[str]:
        """The sizes of what lies there now."""
        now: Counter[str] = Counter()
        for layer in LAYERS:
            for folder, below, names in os.walk(self.data / layer):
                if "staging" in below:
                    below.remove("staging")  # what is made there is counted where it is published
                for name in names:
                    try:
                        status = os.stat(os.path.join(folder, name))
                    except FileNotFoundError:
                        continue
                    now[layer] += status.st_size
                    key = status.st_ino, status.st_mtime_ns
                    if key not in self._known:
                        self._known.add(key)
                        self.seen[layer] += status.st_size
        return now

    def run(self) -> None:
        while not self._stop_now.wait(0.05):
            self.look()

    def stop(self) -> Counter[str]:
        self._stop_now.set()
        self.join()
        return self.look()


@contextmanager
def watching(folder: Path, data: Path, options: Sequence[str]) -> Iterator[Watcher]:
    """A ready watcher; on the way out it must end well."""
    (data / "raw" / "ready" / "ccxt").mkdir(parents=True, exist_ok=True)
    with Watcher(data, folder / "scratch", *options) as watcher:
        watcher.wait_ready(900)
        yield watcher
        code, seconds = watcher.terminate(60)
        print(f"ended with {code} after {seconds:.1f} s", file=sys.stderr)


def market(start: datetime, minutes: float, symbols: int, seed: int = 7, rate: float = 5) -> Market:
    """All of whose rows are valid: what a latency is counted from is then sure."""
    return Market(hours=minutes / 60, symbols=symbols, start=start, seed=seed, dirt=0, books_per_second=rate,
                  trades_per_second=rate * 0.6, quotes_per_second=rate)  # fmt: skip


def summed(found: dict[str, Latency]) -> dict[str, Any]:
    every = Latency([s for one in found.values() for s in one.seconds], sum(one.missing for one in found.values()))
    return {"all": every.summary(), **{channel: one.summary() for channel, one in sorted(found.items())}}


def latency(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    minutes = given.minutes or 10
    simulate(folder / "market", market(TURN - timedelta(minutes=minutes / 2), minutes, given.symbols, rate=given.rate))
    feeder = Feeder(folder / "market", segment_seconds=1, staggered=not given.together)
    data = folder / "data"
    options = [*given.options, "--var", f"bar_durations={','.join(map(str, DURATIONS))}"]
    with watching(folder, data, options) as watcher:
        probe, sampler = Probe(folders_of(data, feeder, DURATIONS)), Sampler(watcher)
        probe.start()
        sampler.start()
        own = time.process_time()
        feeding = feeder.into(data).begin(speed=1)
        feeding.wait(longest=minutes * 60 + 120)
        time.sleep(5)  # for what is on its way
        figures = sampler.stop()
        own = time.process_time() - own
        probe.stop()
    bronze = came(feeding.arrivals, feeder.lanes)
    turn = -(-feeder.begins_us // HOUR_US) * HOUR_US
    spans = {
        "whole": (feeder.begins_us + round(given.warm_up * US), 2**62),
        "around_the_turn": (turn - 60 * US, turn + 60 * US),
    }
    return {
        "minutes": minutes, "lanes": len(feeder.lanes), "segments": len(feeding.arrivals),
        **{f"silver_{name}": summed(silver_latency(bronze, probe.seen, span)) for name, span in spans.items()},
        **{f"gold_{name}": summed(gold_latency(bronze, probe.seen, span)) for name, span in spans.items()},
        **figures, "cpu_of_feeder_and_probe": round(own / figures["seconds"], 3),
    }  # fmt: skip


def idle(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    hours, minutes = given.hours or 8760, given.minutes or 3
    data = folder / f"year-{given.lanes}-{hours}"
    began = time.monotonic()
    if not (folder / f"{data.name}.made").exists():
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        year.make(data, given.lanes, hours)
        if not year.is_up_to_date(data):
            raise SystemExit("the year is not taken for one that was made: see tests/year.py")
        (folder / f"{data.name}.made").touch()
    made = time.monotonic() - began
    began = time.monotonic()
    with watching(folder, data, [*year.WATCH_OPTIONS, *given.options]) as watcher:
        wait_until(lambda: "Watching" in watcher.log, 3600, lambda: watcher.log)
        ready, used = time.monotonic() - began, watcher.cpu_seconds()
        time.sleep(10)
        if "Failed" in watcher.log:
            raise SystemExit(watcher.log[-2000:])
        sampler = Sampler(watcher)
        sampler.start()
        time.sleep(minutes * 60)
        figures = sampler.stop()
    cycles = figures["seconds"] / given.interval
    return {
        "partitions": given.lanes * hours, "seconds_to_make": round(made, 1), "seconds_to_ready": round(ready, 1),
        "cpu_seconds_to_ready": round(used, 2), "interval": given.interval,
        "cpu_ms_per_cycle": round(1000 * figures["cpu_seconds"] / cycles, 1), **figures,
    }  # fmt: skip


def bytes_written(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    minutes = given.minutes or 30
    start = TURN - timedelta(minutes=minutes / 2)
    simulate(folder / "market", market(start, minutes, given.symbols, rate=given.rate))
    feeder = Feeder(folder / "market", segment_seconds=given.speed, staggered=True)
    data = folder / "data"
    with watching(folder, data, given.options) as watcher:
        sizes = Sizes(data)
        sizes.start()
        feeding = feeder.into(data).begin(given.speed)
        feeding.wait(longest=minutes * 60 / given.speed + 300)
        watcher.wait_still(5, 300)
        written = watcher.written_bytes()
        now = sizes.stop()
    mb = {layer: round(sizes.seen[layer] / 1e6, 2) for layer in LAYERS}
    there = {layer: round(now[layer] / 1e6, 2) for layer in LAYERS}
    outputs = sum(now[layer] for layer in LAYERS[:2])
    return {
        "minutes": minutes, "speed": given.speed, "segments": len(feeding.arrivals), "seen_mb": mb, "there_mb": there,
        "seen_over_there": {layer: round(mb[layer] / there[layer], 2) for layer in LAYERS if there[layer]},
        **{f"{name}_mb": round(value / 1e6, 2) for name, value in written.items()},
        "wchar_over_silver_and_gold": round(written["wchar"] / max(1, outputs), 2),
    }  # fmt: skip


def memory(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    hours = given.hours or 24
    data = folder / "data"
    by_hour = []
    with watching(folder, data, given.options) as watcher:
        whole = Sampler(watcher)
        whole.start()
        for hour in range(hours):
            made = folder / f"market-{hour}"
            simulate(made, market(TURN + timedelta(hours=hour), 60, given.symbols, seed=hour, rate=given.rate))
            feeder = Feeder(made, segment_seconds=given.speed, staggered=True)
            shutil.rmtree(made)
            sampler = Sampler(watcher)
            sampler.start()
            feeder.into(data).begin(given.speed).wait(longest=3600 / given.speed * 3 + 300)
            by_hour.append(sampler.stop()["pss_mb"])
            print(hour, by_hour[-1], file=sys.stderr)
        figures = whole.stop()
    return {"hours": hours, "speed": given.speed, "rows_per_second": given.rate, "pss_mb_by_hour": by_hour, **figures}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "latency": latency, "idle": idle, "bytes": bytes_written, "memory": memory
}  # fmt: skip


def arguments(given: Sequence[str]) -> argparse.Namespace:
    at = list(given).index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--hours", type=int)
    parser.add_argument("--symbols", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5, help="books and quotes a second")
    parser.add_argument("--speed", type=float, default=20)
    parser.add_argument("--lanes", type=int, default=20)
    parser.add_argument("--interval", type=float, default=30, help="of the watcher's poll, as it is set")
    parser.add_argument("--warm-up", type=float, default=15)
    parser.add_argument("--together", action="store_true")
    found = parser.parse_args(list(given)[:at])
    found.options = list(given)[at + 1 :]
    return found


def main(given: Sequence[str] | None = None) -> int:
    found = arguments(sys.argv[1:] if given is None else given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = found.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = PARTS[found.part](folder.absolute(), found)
    machine = {"name": platform.node(), "machine": platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"part": found.part, "on": machine, "options": found.options, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
