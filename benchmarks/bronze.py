"""The bronze that figures are measured on, and one lane of it as the product walks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import CannotMeasureError
from daedalus_etl import catalog, models, profiles, runner
from daedalus_etl.lanes import HOUR_US, Lane

SCALE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "scale_bronze.py"


def cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "daedalus-etl" / "benchmarks"


def captures(hours: float, symbols: int) -> Path:
    """A data root of real captures tiled in time; made once. Raises CannotMeasureError without the tool."""
    root = cache() / f"captures-{hours:g}h-{symbols}"
    if not (root / "whole").exists():
        if not SCALE.exists():
            raise CannotMeasureError(f"{SCALE} is not there; give a data root with --data, or --simulated")
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        command = [sys.executable, str(SCALE), "--hours", f"{hours:g}", "--symbols", str(symbols), "--out", str(root)]
        subprocess.run([*command, "--force"], check=True, stdout=subprocess.DEVNULL)
        _below_raw(root)
        (root / "whole").touch()
    return root


def simulated(hours: float, symbols: int, **rates: float) -> Path:
    """A data root of the simulator's market, made once."""
    from daedalus_etl.simulator import Market, simulate

    name = "-".join([f"{hours:g}h", str(symbols), *(f"{k[:1]}{v:g}" for k, v in sorted(rates.items()))])
    root = cache() / f"simulated-{name}"
    if not (root / "whole").exists():
        shutil.rmtree(root, ignore_errors=True)
        simulate(root, Market(hours=hours, symbols=symbols, **rates))  # type: ignore[arg-type]
        (root / "whole").touch()
    return root


def _below_raw(root: Path) -> None:
    """The tool may write ready/ where we want raw/ready/."""
    if not (root / "raw").exists():
        (root / "raw").mkdir()
        (root / "ready").rename(root / "raw" / "ready")


@contextmanager
def scratch(bronze: Path) -> Iterator[Path]:
    """A data root of its own over the same bronze."""
    with TemporaryDirectory(prefix="daedalus-bench-") as folder:
        root = Path(folder)
        (root / "raw").symlink_to((bronze / "raw").resolve())
        yield root


class Subject:
    """A data root, and what the product needs to walk one lane of it."""

    def __init__(self, root: Path, hours: int, profile: str, projects: tuple[Path, ...] = ()):
        self.root, self.hours = root, hours
        self.profile = profiles.load(profile).with_data(str(root), None)
        self.graph = models.Graph((*self.profile.projects, *projects), self.profile.variables)
        self.there = catalog.Catalog(self.profile, catalog.roots(self.profile), remember=False)
        self.lanes = self.there.survey().lanes

    def busiest(self, channel: str) -> Lane:
        """The lane of a channel with the most rows."""
        return max((x for x in self.lanes if x.channel == channel), key=self.rows)

    def rows(self, lane: Lane) -> int:
        """Of the hours that are measured."""
        hours = self.there.of(lane).hours[: self.hours]
        found = {s.path: facts.span(lane).rows for hour in hours for s, facts in self.there.of(lane).during(hour)}
        return sum(found.values())

    def beside(self, lane: Lane, channel: str) -> Lane | None:
        """The lane of another channel with the same name."""
        return next((x for x in self.lanes if x.channel == channel and x.symbol == lane.symbol), None)

    def paths(self, lane: Lane | None) -> list[list[str]]:
        """A lane's segments, hour by hour."""
        if lane is None:
            return []
        there = self.there.of(lane)
        return [[s.path for s, _ in there.during(hour)] for hour in there.hours[: self.hours]]

    def span(self, lane: Lane) -> tuple[int, int]:
        """The hours that are measured, us."""
        hours = self.there.of(lane).hours[: self.hours]
        return hours[0] * HOUR_US, (hours[-1] + 1) * HOUR_US

    def publish(self, lane: Lane, *select: str) -> runner.Report:
        """Bring the lane's models up to date in this process, all partitions anew. Its segments are audited once."""
        _, end = self.span(lane)
        selection = runner.Selection(
            models=select, exchanges=(lane.exchange,), symbols=(lane.symbol,), end=end, full_refresh=True
        )
        report = runner.Run(self.profile, self.graph, selection, lambda *_: None, workers=1).run()
        assert not report.failed, report.failed
        return report

    def published(self, model: str) -> list[str]:
        """Files of a published model, in order."""
        folder = self.root / "processed" / self.graph.models[model].folder
        return sorted(str(path) for path in folder.glob("**/*.parquet"))


def parquet_options(profile: Any) -> str:
    """The product's own."""
    from daedalus_etl.engine import Engine

    engine = Engine(profile)
    try:
        return engine.parquet_options()
    finally:
        engine.close()
