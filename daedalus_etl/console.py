"""What a user sees: tables on stdout, progress and warnings on stderr, one JSON object a line for programs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from daedalus_etl.outlook import Standing
    from daedalus_etl.runner import Report

EVERY = 5.0  # seconds between lines of progress where there is no terminal


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns; numbers to the right, with separators of thousands."""
    cells = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in [list(header), *cells]
    ]
    return "\n".join(lines)


def emit(event: str, details: Mapping[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    click.echo(json.dumps({"event": event, **details}, default=str))


def note(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


@dataclass
class Progress:
    """One lane in one model, so far."""

    rows: int = 0
    partitions: int = 0
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        plural = "partition" if self.partitions == 1 else "partitions"
        return f"{self.partitions:,} {plural}, {self.rows:,} rows, {self.rows / max(seconds, 1e-3):,.0f} rows/s"


class Lines:
    """A run told in lines on stderr: what is wrong at once, progress every few seconds and at each lane's end. Several
    lanes may be on their way at once."""

    def __init__(self, *, as_json: bool = False):
        self.as_json = as_json
        self._lanes: dict[str, Progress] = {}
        self._segments = 0
        self._said = time.monotonic()

    def __call__(self, event: str, details: Mapping[str, Any]) -> None:
        if self.as_json and event not in ("look", "lane", "lane_done", "walked", "planned", "fresh"):
            emit(event, details)
        told = getattr(self, f"on_{event}", None)
        if told is not None:
            told(details)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        note(text)

    # -- what is wrong ------------------------------------------------------------------------------------------

    def on_warning(self, details: Mapping[str, Any]) -> None:
        self.say(f"Warning: {details['text']}")

    def on_quarantined(self, details: Mapping[str, Any]) -> None:
        self.say(f"Quarantined: {details['segment']}: {details['reason']}")

    def on_failed(self, details: Mapping[str, Any]) -> None:
        self.say(f"Failed: {details['model']} {details['lane']}: {details['error']}")

    # -- progress -----------------------------------------------------------------------------------------------

    def on_look(self, _: Mapping[str, Any]) -> None:
        self._segments += 1
        self._now_and_then(f"looking at bronze: {self._segments:,} new segments")

    def on_lane(self, details: Mapping[str, Any]) -> None:
        self._lanes[_lane_of(details)] = Progress()

    def on_partition(self, details: Mapping[str, Any]) -> None:
        lane = _lane_of(details)
        progress = self._lanes.setdefault(lane, Progress())
        progress.rows += details.get("read", 0)
        progress.partitions += 1
        self._now_and_then(f"{lane}: {details['partition']}, {progress}")

    def on_walked(self, details: Mapping[str, Any]) -> None:
        self._now_and_then(f"{_lane_of(details)}: walking to the first hour, now at {details['partition']}")

    def on_lane_done(self, details: Mapping[str, Any]) -> None:
        lane = _lane_of(details)
        progress = self._lanes.pop(lane, Progress())
        if progress.partitions:
            self.say(f"{lane}: {progress}")

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            self.say(text)


def _lane_of(details: Mapping[str, Any]) -> str:
    """model exchange symbol, from an event of a lane or of a partition."""
    if "lane" in details:
        return f"{details['model']} {details['lane'].partition(' ')[2]}"
    return f"{details['model']} {details['exchange']} {details['source_symbol']}"


class Bar(Lines):
    """The same on a terminal: a bar with the lane, rows/s and the time left."""

    def __init__(self, *, as_json: bool = False):
        super().__init__(as_json=as_json)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("looking at bronze", total=None, rate="")
        self._start: float | None = None
        self._done = self._known = self._planned = self._lanes_to_plan = 0
        self._layer = "silver"

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_look(self, _: Mapping[str, Any]) -> None:
        self._segments += 1
        if self._start is None:  # later it would only hide the lane in hand
            self._progress.update(self._task, description=f"looking at bronze: {self._segments:,} new segments")

    def on_plan(self, details: Mapping[str, Any]) -> None:
        # gold follows silver, many times faster: it counts only where there is nothing else
        self._layer = "silver" if any(name.startswith("silver.") for name in details["models"]) else "gold"
        self._lanes_to_plan = details["lanes"]

    def on_planned(self, details: Mapping[str, Any]) -> None:
        """Rows to make of one more lane; those to come are taken to be like the ones before."""
        if not details["model"].startswith(self._layer):
            return
        self._planned += 1
        self._known += details["rows"]
        guess = self._known * max(self._lanes_to_plan, self._planned) // self._planned
        self._progress.update(self._task, total=max(guess, self._done, 1))

    def on_lane(self, details: Mapping[str, Any]) -> None:
        self._progress.update(self._task, description=_lane_of(details))

    def on_lane_done(self, _: Mapping[str, Any]) -> None:
        pass

    def on_partition(self, details: Mapping[str, Any]) -> None:
        if not details["model"].startswith(self._layer):
            return
        now = time.monotonic()
        if self._start is None:
            self._start = now - details.get("seconds", 0)
        self._done += details.get("read", 0)
        rate = f"{self._done / max(now - self._start, 1e-3):,.0f} rows/s"
        self._progress.update(self._task, completed=self._done, rate=rate, description=_lane_of(details))

    def on_walked(self, details: Mapping[str, Any]) -> None:
        self._progress.update(self._task, description=f"{_lane_of(details)}: walking, {details['partition']}")


def teller(*, as_json: bool) -> Lines:
    """How a run is told: with a bar where stderr is a terminal."""
    return Bar(as_json=as_json) if sys.stderr.isatty() else Lines(as_json=as_json)


def summary(report: Report, seconds: float) -> dict[str, Any]:
    """A run in numbers, for the last line of --json."""
    return {
        "made": len(report.done),
        "fresh": report.fresh,
        "recorded": report.recorded,
        "rows": sum(d.get("written", 0) for d in report.done),
        "failed": len(report.failed),
        "quarantined": len(report.quarantined),
        "warnings": len(report.warnings),
        "seconds": round(seconds, 3),
        "exit_code": report.exit_code,
    }


def summary_text(report: Report, seconds: float) -> str:
    """A run in a few lines, for people."""
    models: dict[str, list[int]] = {}
    lanes: dict[str, set[tuple[str, str]]] = {}
    for done in report.done:
        sums = models.setdefault(done["model"], [0, 0])
        sums[0] += 1
        sums[1] += done.get("written", 0)
        lanes.setdefault(done["model"], set()).add((done["exchange"], done["source_symbol"]))
    lines = []
    if models:
        rows = [[name, len(lanes[name]), *sums] for name, sums in models.items()]
        lines.append(table(["model", "lanes", "partitions", "rows"], rows))
    made = sum(sums[0] for sums in models.values())
    lines.append(f"{made:,} partitions made, {report.fresh:,} were up to date; {seconds:.1f} s.")
    if report.stopped:
        lines.append("It was asked to end early; the next run goes on from here.")
    for count, what in ((len(report.failed), "failed"), (len(report.quarantined), "quarantined")):
        if count:
            thing = ("model and lane" if count == 1 else "models and lanes") if what == "failed" else (
                "segment" if count == 1 else "segments"
            )  # fmt: skip
            lines.append(f"{count:,} {thing} {what}: see above; all others are done.")
    return "\n".join(lines)


def standing(found: list[Standing], report: Report) -> str:
    """How lanes stand, for people."""
    from daedalus_etl.times import show_time

    lines = []
    if found:
        names = ["rows", "hours", "gaps", "invalid", "duplicate", "quarantined", "stale", "live"]
        rows = [
            [one.model, one.lane.exchange, one.symbol, *(one.counts[name] for name in names),
             show_time(one.last_clock)[:19] if one.last_clock is not None else ""]
            for one in found
        ]  # fmt: skip
        lines.append(table(["model", "exchange", "symbol", *names, "last clock"], rows))
    lines += [f"Quarantined: {path}: {reason}" for path, reason in report.quarantined]
    lines.append(f"{len(found):,} lanes, {len(report.quarantined):,} segments in quarantine.")
    return "\n".join(lines)


def spinner() -> Callable[[str], None]:
    """Says on a terminal what is being looked at; silent elsewhere."""
    if not sys.stderr.isatty():
        return lambda _: None
    width = shutil.get_terminal_size().columns - 1

    def show(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text[-width:]}\r")

    return show
