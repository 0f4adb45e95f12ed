"""A small dirty market, how to run over it, and what a quiet run makes of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from daedalus_etl.simulator import Market, simulate
from tests.crash.faults import journal, runs
from tests.crash.faults.journal import Entry
from tests.crash.faults.plan import Plan
from tests.crash.faults.runs import Ended

Rows = dict[str, list[str]]  # partition folder below processed/ -> its rows in order, to the last bit


@dataclass(frozen=True)
class Case:
    """A market, and the options of the runs over it."""

    symbols: tuple[str, ...]
    select: tuple[str, ...]
    workers: int = 1
    hours: float = 2.2  # from 23:30: three hours of two days
    quotes_per_second: float = 0.05
    memory_limit: str = "1GB"

    def simulate(self, root: Path) -> None:
        simulate(
            root,
            Market(hours=self.hours, symbols=self.symbols, seed=11, dirt=0.05, books_per_second=0.05,
                   trades_per_second=0.05, quotes_per_second=self.quotes_per_second, segment_seconds=1800),
        )  # fmt: skip


TRADES = Case(("BTC-USDT",), ("+gold.trades_bars",))
TWO_WORKERS = Case(("BTC-USDT", "ETH-USDT"), ("+gold.trades_bars",), workers=2)
EVERYTHING = Case(("BTC-USDT", "ETH-USDT"), ("tag:silver", "tag:gold"), workers=2)


#: What a root has published of a market when a test begins; the rest of bronze has just arrived.
NOTHING, ALL_BUT_THE_LAST_HOUR, ALL_BUT_A_LATE_SEGMENT = "nothing", "all but the last hour", "all but a late segment"
STARTS = (NOTHING, ALL_BUT_THE_LAST_HOUR, ALL_BUT_A_LATE_SEGMENT)


@dataclass
class Quiet:
    """Bronze, and what one run without faults made of it: outputs and kept states."""

    case: Case
    folder: Path
    rows: Rows = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    data: Path = Path()
    _begun: dict[str, Path] = field(default_factory=dict)
    _operations: dict[str, list[Entry]] = field(default_factory=dict)
    _made: Iterator[int] = field(default_factory=itertools.count)

    @property
    def bronze(self) -> Path:
        return self.folder / "bronze"

    def fresh(self, folder: Path, start: str = NOTHING) -> Root:
        """A data root with all of this bronze, and with what a run has made of the part of it that `start` says.

        Runs leave bronze alone, so raw/ is a link.
        """
        root = Root(self, folder / f"data-{next(self._made)}", start)
        root.data.mkdir(parents=True)
        if start != NOTHING:
            shutil.copytree(self._begin(start), root.data, dirs_exist_ok=True)
        (root.data / "raw").symlink_to(self.bronze / "raw")
        return root

    def _begin(self, start: str) -> Path:
        if start not in self._begun:
            root = Root(self, self.folder / f"begun-{len(self._begun)}")
            hours = arrivals(self.bronze)
            if start == ALL_BUT_THE_LAST_HOUR:
                there = [path for hour in hours[:-1] for path in hour]
            else:
                late = [path for path in hours[1] if "trades" in path.parts][-1]  # the second of two in its hour
                there = [path for hour in hours for path in hour if path != late]
            arrive(self.bronze, root.data, there)
            ended = root.run()
            assert ended.code == 0, ended.err
            shutil.rmtree(root.data / "raw")
            self._begun[start] = root.data
        return self._begun[start]

    def rows_before(self, start: str) -> Rows:
        """What a root has published when a test begins."""
        return {} if start == NOTHING else rows_of(self._begin(start))

    def operations(self, start: str = NOTHING) -> list[Entry]:
        """What passes the gate in a run from there."""
        if start not in self._operations:
            root = self.fresh(self.folder, start)
            plan = root.plan()
            ended = root.run(plan)
            assert ended.code == 0, ended.err
            self._operations[start] = journal.read(Path(plan.work))
        return self._operations[start]


@dataclass
class Root:
    """A data root of a test."""

    quiet: Quiet
    data: Path
    start: str = NOTHING  # what it had published when the test began
    settings: dict[str, Any] = field(default_factory=dict)  # of the profile, beside the workers
    _runs: Iterator[int] = field(default_factory=itertools.count)

    def launch(self, plan: Plan | None = None, *more: str) -> runs.Running:
        return runs.Running(self.arguments(*more), plan, self.scratch / f"run-{next(self._runs)}")

    def run(self, plan: Plan | None = None, *more: str) -> Ended:
        return self.launch(plan, *more).wait()

    def plan(self, **what: Any) -> Plan:
        """A plan for the next run; its counter starts at 1."""
        work = self.scratch / f"faults-{next(self._runs)}"
        work.mkdir(parents=True)
        return Plan(str(self.data), str(work), **what)

    @property
    def scratch(self) -> Path:
        return self.data.with_name(self.data.name + "-scratch")

    def arguments(self, *more: str) -> tuple[str, ...]:
        case = self.quiet.case
        chosen = [word for name in case.select for word in ("--select", name)]
        return ("run", "--data", str(self.data), "--project", str(self._project()), "--durations", "60", *chosen, *more)

    def _project(self) -> Path:
        import yaml

        folder = self.scratch / "project"
        folder.mkdir(parents=True, exist_ok=True)
        case = self.quiet.case
        laptop = {"workers": case.workers, "memory_limit": case.memory_limit, **self.settings}
        (folder / "duckdb_profiles.yaml").write_text(yaml.safe_dump({"profiles": {"laptop": laptop}}))
        return folder

    # -- what must hold ---------------------------------------------------------------------------------------

    def ends_as_the_quiet_run(self) -> None:
        """One more run, without faults and without a hand: outputs and states are the quiet run's."""
        ended = self.run()
        assert ended.code == 0, ended.err
        self.equals_the_quiet_run()

    def equals_the_quiet_run(self) -> None:
        assert_same_rows(rows_of(self.data), self.quiet.rows)
        got, want = states_of(self.data), self.quiet.states
        assert sorted(got) == sorted(want), f"other states are kept: {sorted(got.keys() ^ want.keys())}"
        assert [name for name in want if got[name] != want[name]] == [], "states that are not the quiet run's"

    def has_nothing_left_to_do(self) -> None:
        """A further run touches no file that lasts."""
        before = everything_below(self.data)
        ended = self.run()
        assert ended.code == 0, ended.err
        assert everything_below(self.data) == before, "a further run made something"


def quiet_run(case: Case, folder: Path) -> Quiet:
    quiet = Quiet(case, folder)
    case.simulate(quiet.bronze)
    root = quiet.fresh(folder)
    ended = root.run()
    assert ended.code == 0, ended.err
    quiet.data, quiet.rows, quiet.states = root.data, rows_of(root.data), states_of(root.data)
    return quiet


def parquet_files(data: Path) -> list[Path]:
    """What a plain glob finds, in the order of the names."""
    found = []
    for folder, _, names in os.walk(data / "processed"):
        found += [Path(folder, name) for name in names if name.endswith(".parquet")]
    return sorted(found)


def rows_of(data: Path) -> Rows:
    rows: Rows = {}
    for path in parquet_files(data):
        rows.setdefault(str(path.parent.relative_to(data / "processed")), []).extend(rows_in(path.read_bytes()))
    return rows


_known: dict[bytes, list[str]] = {}


def rows_in(content: bytes) -> list[str]:
    """A Parquet file's rows as text that tells every bit: -0.0 from 0.0, NaN from NULL."""
    key = hashlib.sha256(content).digest()
    if key not in _known:
        table = pq.read_table(pa.BufferReader(content))
        for i, column in enumerate(table.schema):
            if pa.types.is_timestamp(column.type):
                table = table.set_column(i, column.name, table.column(i).cast(pa.int64()))
        columns = [table.column(name).to_pylist() for name in table.column_names]
        _known[key] = [repr(row) for row in zip(*columns, strict=True)]
    return _known[key]


def states_of(data: Path) -> dict[str, bytes]:
    """The kernels' and the lanes' states."""
    return {str(p.relative_to(data)): p.read_bytes() for p in sorted((data / "state").rglob("*.state"))}


def records_of(data: Path) -> dict[str, list[Any]]:
    """The ledger's JSON files, line by line, without what tells one copy from another: times of modification, and
    what was found out about segments, which names them by their absolute paths."""
    return {
        str(path.relative_to(data)): [_timeless(json.loads(line)) for line in path.read_bytes().splitlines()]
        for path in sorted((data / "state").rglob("*.json"))
        if "segments" not in path.relative_to(data).parts
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if key != "mtime_ns"}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def files_below(data: Path) -> list[str]:
    """The files below processed/ and state/."""
    found = []
    for part in ("processed", "state"):
        found += [str(p.relative_to(data)) for p in (data / part).rglob("*") if p.is_file() or p.is_symlink()]
    return sorted(found)


def everything_below(data: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file that lasts, with its inode and time: equal means untouched."""
    found = {}
    for part in ("processed", "state"):
        for path in sorted((data / part).rglob("*")):
            below = path.relative_to(data).parts
            if path.is_file() and below[:2] not in (("state", "staging"), ("state", "lock")):
                status = path.stat()
                found["/".join(below)] = (status.st_ino, status.st_mtime_ns, path.read_bytes())
    return found


def assert_same_rows(got: Rows, want: Rows) -> None:
    assert sorted(got) == sorted(want), "other partitions"
    for partition, rows in want.items():
        if got[partition] != rows:
            wrong = next((i for i, (g, w) in enumerate(zip(got[partition], rows, strict=False)) if g != w), "the end")
            raise AssertionError(f"{partition}: {len(got[partition])} rows of {len(rows)}, another one at {wrong}")


def arrivals(bronze: Path) -> list[list[Path]]:
    """Bronze by the hour that it is of, in order."""
    hours: dict[tuple[int, ...], list[Path]] = {}
    for path in sorted((bronze / "raw").rglob("*.parquet")):
        hour = tuple(int(part.partition("=")[2]) for part in path.parent.parts[-4:])
        hours.setdefault(hour, []).append(path)
    return [hours[hour] for hour in sorted(hours)]


def arrive(bronze: Path, data: Path, segments: list[Path]) -> None:
    """Segments of bronze show up in a data root, whole."""
    for path in segments:
        target = data / path.relative_to(bronze)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)


#: Kinds of operations, those first on which most depends.
WEIGHTY = ("replace", "unlink", "write", "fsync", "mkdir", "create", "rmdir", "open", "list")


def spread(operations: list[Entry], count: int) -> list[Entry]:
    """So many operations: of every kind before any comes twice, the weightiest first; from the beginning, the end and
    between."""
    kinds: dict[str, list[Entry]] = {}
    for entry in operations:
        kinds.setdefault(entry.kind, []).append(entry)
    weight = {op: i for i, op in enumerate(WEIGHTY)}
    names = sorted(kinds, key=lambda kind: (weight.get(kind.split()[0], len(weight)), kind))
    picked: list[Entry] = []
    for turn in range(len(operations)):
        for i, name in enumerate(names):
            left = kinds[name]
            if left and len(picked) < count:
                picked.append(left.pop((0, len(left) // 2, len(left) - 1)[(i + turn) % 3]))
    return sorted(picked, key=lambda entry: entry.n)
