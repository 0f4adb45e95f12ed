"""A data root as its user has it: `daedalus run` typed over it, and all that it published, compared bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from daedalus_etl import lanes
from daedalus_etl.cli import main
from tests.e2e.conftest import daedalus
from tests.tables import Rows, at

PROJECT = Path(__file__).parents[1]
MINUTE = 60 * 1_000_000
HOUR = 60 * MINUTE
DAY = at("00:00")  # Tuesday 2026-02-03


@dataclass(frozen=True)
class Ran:
    """What a run said: exit code, the events of --json, stderr."""

    code: int
    events: tuple[dict[str, Any], ...]
    stderr: str

    def of(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    @property
    def summary(self) -> dict[str, Any]:
        (found,) = self.of("summary")
        return found

    @property
    def quarantined(self) -> dict[str, str]:
        """Path below the data root -> reason."""
        found = {e["segment"]: e["reason"] for e in self.of("quarantined")}
        assert len(found) == len(self.of("quarantined")), "a segment is named twice"
        return found

    @property
    def warnings(self) -> str:
        return "\n".join(e["text"] for e in self.of("warning"))

    def made(self, model: str, symbol: str | None = None) -> list[str]:
        """The partitions of a model that were made, in the order in which they were."""
        return [
            e["partition"] for e in self.of("partition") if e["model"] == model and symbol in (None, e["source_symbol"])
        ]


def run(data: Path, *arguments: str | Path, code: int = 0, **variables: Any) -> Ran:
    """`daedalus run --json` in this process. Fails the test if it ends with another exit code."""
    if "--workers" in {name for option in main.commands["run"].params for name in option.opts}:
        arguments = ("--workers", "1", *arguments)
    done = daedalus(*_command(data, arguments, variables))
    return _checked(done.exit_code, done.stdout, done.stderr, code)


def run_child(
    data: Path,
    *arguments: str | Path,
    code: int = 0,
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
    **variables: Any,
) -> Ran:
    """The same in a process of its own."""
    done = subprocess.run(
        command(data, *arguments, **variables), env=child_environment() | (environment or {}), capture_output=True,
        text=True, check=False, timeout=timeout,
    )  # fmt: skip
    return _checked(done.returncode, done.stdout, done.stderr, code)


def planned(data: Path, *arguments: str | Path, **variables: Any) -> list[dict[str, Any]]:
    """The partitions that a run would make, by `daedalus run --dry-run --json`."""
    done = daedalus(*_command(data, ("--dry-run", *arguments), variables))
    assert done.exit_code == 0, done.stderr
    return [e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == "pending"]


def command(data: Path, *arguments: str | Path, **variables: Any) -> list[str]:
    """What a shell would be given."""
    return [sys.executable, "-m", "daedalus_etl", *map(str, _command(data, arguments, variables))]


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def _command(data: Path, arguments: Iterable[str | Path], variables: Mapping[str, Any]) -> list[str | Path]:
    given = [part for name, value in variables.items() for part in ("--var", f"{name}={value}")]
    return ["run", "--data", data, "--json", *arguments, *given]


def _checked(code: int, stdout: str, stderr: str, expected: int) -> Ran:
    assert code == expected, f"exit code {code}, not {expected}:\n{stderr}\n{stdout[-2000:]}"
    if code == 2:
        return Ran(code, (), stderr)
    found = Ran(code, tuple(json.loads(line) for line in stdout.splitlines()), stderr)
    assert found.summary["exit_code"] == code
    assert found.summary["made"] == len(found.of("partition"))
    assert found.summary["quarantined"] == len(found.of("quarantined"))
    assert found.summary["failed"] == len(found.of("failed"))
    assert code == (1 if found.summary["failed"] or found.summary["quarantined"] else 0)
    return found


# -- bronze -------------------------------------------------------------------------------------------------------


def rows_of(channel: str, hour: int, minutes: Iterable[float] = range(1, 60, 4), salt: int = 0) -> Rows:
    """A few rows of an hour (counted from DAY), all different; `salt` makes other ones at the same times."""
    found: Rows = []
    for i, minute in enumerate(minutes):
        clock = DAY + hour * HOUR + round(minute * MINUTE)
        price = 100 + (clock // MINUTE * 7 + salt) % 23 / 10
        row: dict[str, Any] = {"capture_ts": clock, "timestamp": clock // 1000 - 150}
        if channel == "trades":
            side = ("buy", "sell", None)[(i + salt) % 3]
            row |= {"trade_id": f"{clock // MINUTE}{salt:03d}", "price": price, "amount": 1 + i % 5 / 4, "side": side}
        elif channel == "ticker":
            row |= {"bid": price, "ask": price + 0.1 * (1 + i % 3), "bid_volume": 1.5 + i, "ask_volume": 2.25}
        else:
            row |= {"nonce": clock // MINUTE, "bids": [(price - k / 10, 1.0 + k + i % 4) for k in range(6)],
                    "asks": [(price + 0.1 + k / 10, 2.0 + k) for k in range(6)]}  # fmt: skip
        found.append(row)
    return found


def segments(root: Path) -> list[Path]:
    return sorted((root / "raw").rglob("*.parquet"))


def copied(source: Path, target: Path) -> Path:
    """A root with the same bronze: content, names, times."""
    shutil.copytree(source / "raw", target / "raw", copy_function=shutil.copy2)
    return target


def bring(path: Path, source: Path, target: Path) -> Path:
    """Let one segment of `source` arrive in `target`."""
    there = target / path.relative_to(source)
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, there)
    return there


def hour_of(path: Path) -> int:
    """The hour that a segment's folder names, counted since the epoch."""
    start = lanes.hour_of(lanes.parse_path(path))
    assert start is not None
    return start // lanes.HOUR_US


# -- what was published -------------------------------------------------------------------------------------------


def files(root: Path) -> dict[str, Path]:
    """Every file below processed/, by its path there. A reader's glob would meet each of them."""
    folder = root / "processed"
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    assert [name for name in found if not name.endswith(".parquet")] == []
    return found


def contents(root: Path) -> dict[str, bytes]:
    """The same with their bytes: to tell that nothing was touched."""
    return {name: path.read_bytes() for name, path in files(root).items()}


def assert_same(got: Path, want: Path) -> None:
    """Do two roots hold the same files, with the same schema, the same rows in the same order, bit for bit?"""
    mine, theirs = files(got), files(want)
    assert theirs, "there is nothing to compare"
    assert sorted(mine) == sorted(theirs)
    off = [f"{name}: {text}" for name, path in theirs.items() for text in differences(mine[name], path)]
    assert not off, "\n".join(off[:20])


def differences(got: Path, want: Path) -> list[str]:
    """The first cells in which two Parquet files differ."""
    tables = [pq.ParquetFile(path).read() for path in (got, want)]
    assert tables[1].num_rows, f"{want} is published without a row"
    return unlike(*tables)


def unlike(got: pa.Table, want: pa.Table) -> list[str]:
    """The first cells in which two tables differ."""
    if not got.schema.equals(want.schema):
        return [f"schema: {got.schema} is not {want.schema}"]
    if got.num_rows != want.num_rows:
        return [f"{got.num_rows} rows, not {want.num_rows}"]
    off = []
    for name in want.column_names:
        places = np.flatnonzero(_unlike(got[name].combine_chunks(), want[name].combine_chunks()))
        off += [f"row {i} {name}: {got[name][i].as_py()!r}, not {want[name][i].as_py()!r}" for i in places[:2]]
    return off[:10]


def _unlike(one: pa.Array, other: pa.Array) -> np.ndarray:
    """Which cells differ: floats by their bits, so that -0.0 is not 0.0 and a NaN is itself."""
    nulls = [array.is_null().to_numpy(zero_copy_only=False) for array in (one, other)]
    if pa.types.is_floating(one.type):
        bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.type.bit_width // 8]
        values = [array.fill_null(0).to_numpy(zero_copy_only=False).view(bits) for array in (one, other)]
        return (nulls[0] != nulls[1]) | (values[0] != values[1])
    if one.equals(other):
        return np.zeros(len(one), bool)
    cells = zip(one.to_pylist(), other.to_pylist(), strict=True)
    return np.array([a != b for a, b in cells], bool) | (nulls[0] != nulls[1])


def states(root: Path) -> dict[str, str]:
    """The state of every lane in every model at the end of its last partition: what the next hour goes on from.

    File -> digest of its bytes."""
    last: dict[str, Path] = {}
    for path in sorted((root / "state").rglob("*.state")):
        last[str(path.parent.relative_to(root))] = path
    assert last, "no state was kept"
    return {f"{folder}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()[:16] for folder, p in last.items()}
