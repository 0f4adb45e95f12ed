"""What a figure is, how it is timed, and how the table reads.

Times are seconds of CPU of this process, unless a figure says otherwise: the machine may be busy with other work. Ours
and the yardstick run in turn, so that both see the same machine, and each is run once before, to warm up.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class CannotMeasureError(Exception):
    """Something that a figure needs is not there; the text says what, and how to get it."""


@dataclass(frozen=True)
class Figure:
    """One row of the table. `run` gets the settings and returns what it measured."""

    name: str
    work: str
    yardstick: str
    target: str
    reaches: Callable[[float], bool]
    run: Callable[[Any], Measured]


@dataclass
class Measured:
    """What came out: the figure itself, in which unit, and what it is made of."""

    value: float
    unit: str = "x"
    ours: Sequence[float] = ()
    yardstick: Sequence[float] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cpu(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def in_turn(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, run one after the other, `repeats` times after a first one that warms up."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(cpu(work))
    return times


def ratio(ours: Sequence[float], yardstick: Sequence[float], **details: Any) -> Measured:
    """Of the medians."""
    value = statistics.median(ours) / statistics.median(yardstick)
    return Measured(value, "x", tuple(ours), tuple(yardstick), details)


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    import duckdb
    import numba
    import pyarrow as pa

    return {
        "name": platform.node(),
        "cpu": model,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "pyarrow": pa.__version__,
        "numba": numba.__version__,
    }


def table(rows: Sequence[tuple[Figure, Measured | str]]) -> str:
    """Figures as lines of text, one each, under a heading."""
    heading = ("figure", "work", "yardstick", "measured", "must reach", "verdict")
    lines = [heading]
    for figure, found in rows:
        if isinstance(found, str):
            lines.append((figure.name, figure.work, figure.yardstick, "", figure.target, f"not measured: {found}"))
        else:
            shown = f"{found.value:,.2f} {found.unit}" if found.value < 1000 else f"{found.value:,.0f} {found.unit}"
            verdict = "" if not figure.target else "reached" if figure.reaches(found.value) else "MISSED"
            lines.append((figure.name, figure.work, figure.yardstick, shown, figure.target, verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    text = ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[5]]) for line in lines]
    text.insert(1, "  ".join("-" * w for w in (*widths, len(heading[5]))))
    return "\n".join(text)
