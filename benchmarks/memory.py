"""The memory of a run: the sum of PSS of all its processes, sampled at 10 Hz.

    python benchmarks/memory.py DATA [--profile pi4] [--workers 2] [daedalus run options]

DATA is a data root with raw/; processed/ and state/ of it are removed first. Prints one JSON object: the peak of the
whole, of the process that hands out lanes and of the largest worker, in MB, and the seconds. Kernels must be compiled
already (`daedalus demo` does it).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HERTZ = 10


def pss(pid: int) -> int:
    """Proportional set size of a process, bytes; 0 if it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(p) for p in found]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Sample until it ends."""
    whole = own = worker = 0
    samples = 0
    began = time.monotonic()
    while process.poll() is None:
        each = {pid: pss(pid) for pid in family(process.pid)}
        whole = max(whole, sum(each.values()))
        own = max(own, each.pop(process.pid, 0))
        worker = max([worker, *each.values()])
        samples += 1
        time.sleep(1 / HERTZ)
    peaks = {"all": whole, "parent": own, "largest_worker": worker}
    seconds = time.monotonic() - began
    return {
        **{name: round(value / 1e6, 1) for name, value in peaks.items()},
        "seconds": round(seconds, 1),
        "samples": samples,
    }


def main() -> int:
    data, *options = sys.argv[1:]
    subprocess.run([sys.executable, "-m", "daedalus_etl", "clean", "--data", data, "--published", "--yes"], check=True)
    if "--profile" not in options:
        options += ["--profile", "pi4"]
    process = subprocess.Popen([sys.executable, "-m", "daedalus_etl", "run", "--data", data, *options])
    print(json.dumps({"options": options, **watch(process), "exit": process.returncode}))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
