"""`daedalus watch` in a process of its own, who looks on beside it, and how long after bronze its outputs show.

    with Watcher(data, tmp_path / "scratch", "--poll-interval", "0.2") as watcher:
        watcher.wait_ready()
        ...
        assert watcher.terminate() == 0

Everything here sees the watcher from outside: its processes, its log, its files.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane, canonical_names, partition_path
from tests.crash.market import parquet_files, rows_in
from tests.feeder import Arrival, Feeder

PROJECT = Path(__file__).parents[1]
WATCH = (sys.executable, "-m", "daedalus_etl", "watch")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAMES = {"normalize_quotes": True, "usd_quotes": ("USDT", "USDC")}  # what the lanes of tests need
READY_LINE = re.compile(r"\b(ready|watching)\b", re.IGNORECASE)
TICKS = os.sysconf("SC_CLK_TCK")


def wait_until(true: Callable[[], object], longest: float = 30, what: object = "waited in vain") -> float:
    """Seconds that it took until something was true. `what` is said if it never is; a callable is called for it."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < longest, what() if callable(what) else what
        time.sleep(0.02)
    return time.monotonic() - began


# -- processes ------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU of a process and of its children that have ended; 0 if it is gone."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, values[11:15])) / TICKS


def pss(pid: int) -> int:
    """Proportional set size, bytes; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def written_bytes(pid: int) -> dict[str, int]:
    """What a process and its ended children have written: `wchar` by calls, `write_bytes` caused on disks."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return {}
    values = dict(line.split(": ") for line in text.splitlines())
    return {name: int(values[name]) for name in ("wchar", "write_bytes")}


def is_alive(pid: int) -> bool:
    """One that is dead and not yet fetched is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Watcher:
    """The command, in a process group of its own; it may be started again after it has ended.

    program: what to start instead of `daedalus watch`. project: where its code is. environment: more of it.
    """

    def __init__(
        self,
        data: Path,
        scratch: Path,
        *options: str | Path,
        program: Sequence[str] = WATCH,
        project: Path = PROJECT,
        environment: Mapping[str, str] | None = None,
    ):
        self.data, self.scratch = data, scratch
        self.command = [*program, "--data", str(data), *map(str, options)]
        given = environment or {}
        path = os.pathsep.join(part for part in (given.get("PYTHONPATH", ""), str(project)) if part)
        self.environment = {k: v for k, v in os.environ.items() if k != "DAEDALUS_PROFILE"} | given
        self.environment["PYTHONPATH"] = path
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._spent = 0.0  # CPU of what has ended
        self._sockets = Path(tempfile.mkdtemp(prefix="notify-"))
        self._socket: socket.socket | None = None
        self.notified: list[str] = []

    def start(self) -> Watcher:
        assert not self.is_running, "it runs already"
        self.starts += 1
        self.scratch.mkdir(parents=True, exist_ok=True)
        address = self._sockets / str(self.starts)
        self._close_socket()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.setblocking(False)
        self.notified = []
        with self._log_path(self.starts).open("wb") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.scratch, env={**self.environment, "NOTIFY_SOCKET": str(address)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self

    def _log_path(self, number: int) -> Path:
        return self.scratch / f"log-{number}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was never started"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has said since its last start, on stdout and stderr."""
        return self._log_path(self.starts).read_text(errors="replace")

    @property
    def whole_log(self) -> str:
        return "".join(self._log_path(i + 1).read_text(errors="replace") for i in range(self.starts))

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON objects (--log-format json)."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(line), dict):
                    found.append(value)
        return found

    def heard(self) -> str:
        """All that it has told the service manager since its start."""
        with contextlib.suppress(BlockingIOError):
            while self._socket is not None:
                self.notified.append(self._socket.recv(4096).decode())
        return "\n".join(self.notified)

    def wait_ready(self, longest: float = 60) -> float:
        """Until it says READY=1, or as much in its log; returns the seconds."""

        def is_ready() -> bool:
            assert self.is_running, f"it ended with {self.process and self.process.returncode}:\n{self.log}"
            return "READY=1" in self.heard() or bool(READY_LINE.search(self.log))

        return wait_until(is_ready, longest, lambda: f"it is not ready after {longest} s:\n{self.log}")

    def signal(self, number: signal.Signals) -> None:
        assert self.is_running, f"it has ended:\n{self.log}"
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9 of its process group. None that it started may outlive it."""
        if not self.is_running:
            return
        mine = self._remember()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        wait_until(lambda: not any(map(is_alive, mine)), 10, "a process of a killed watcher lives on")

    def terminate(self, longest: float = 30) -> tuple[int, float]:
        """SIGTERM: its exit code, and the seconds until it had ended. None that it started may outlive it."""
        mine = self._remember()
        self.signal(signal.SIGTERM)
        began = time.monotonic()
        code = self.wait(longest)
        seconds = time.monotonic() - began
        left = [pid for pid in mine if is_alive(pid)]
        assert not left, f"processes that outlive the watcher: {left}"
        return code, seconds

    def wait(self, longest: float = 60) -> int:
        """Until it ends by itself; its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(longest)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {longest} s:\n{self.log}") from None

    def _remember(self) -> list[int]:
        mine = family(self.pid)
        self._spent += sum(map(cpu_seconds, mine))
        return mine

    def pids(self) -> list[int]:
        return family(self.pid) if self.is_running else []

    def cpu_seconds(self) -> float:
        """Of all its processes, all starts together; of one that was killed, what it had used by then."""
        return self._spent + sum(map(cpu_seconds, self.pids()))

    def pss(self) -> int:
        """Of all its processes, bytes."""
        return sum(map(pss, self.pids()))

    def written_bytes(self) -> Counter[str]:
        """By all its processes since its last start."""
        total: Counter[str] = Counter()
        for pid in self.pids():
            total.update(written_bytes(pid))
        return total

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        self.kill()
        self._close_socket()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self) -> Watcher:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # -- its outputs ------------------------------------------------------------------------------------------

    def wait_rows(self, want: Mapping[str, int], longest: float = 60) -> float:
        """Until each lane's silver ('trades/exchange=demo/symbol=BTC-USD') has so many rows at least; the seconds."""
        count = RowCount(self.data)

        def there() -> bool:
            assert self.is_running, f"it has ended:\n{self.log}"
            got = count.lanes()
            return all(got[lane] >= rows for lane, rows in want.items())

        def said() -> str:
            got = count.lanes()
            off = {lane: f"{got[lane]} rows, not {rows}" for lane, rows in want.items() if got[lane] < rows}
            return f"not quiet after {longest} s: {off}\n{self.log[-3000:]}"

        return wait_until(there, longest, said)

    def wait_still(self, seconds: float = 1, longest: float = 60) -> None:
        """Until nothing below processed/ has changed for some seconds."""
        deadline = time.monotonic() + longest
        last, since = fingerprint(self.data), time.monotonic()
        while time.monotonic() - since < seconds:
            assert time.monotonic() < deadline, f"it is still at work after {longest} s:\n{self.log[-3000:]}"
            time.sleep(0.05)
            if (now := fingerprint(self.data)) != last:
                last, since = now, time.monotonic()


def fingerprint(data: Path) -> dict[str, tuple[int, int, int]]:
    """Every published file with its inode, time and size: equal means untouched."""
    found = {}
    for path in parquet_files(data):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


class RowCount:
    """Rows of silver by lane, from the footers; each file's is read once."""

    def __init__(self, data: Path):
        self.data = data
        self._known: dict[tuple[str, int, int], int] = {}

    def lanes(self) -> Counter[str]:
        rows: Counter[str] = Counter()
        root = self.data / "processed" / "silver"
        for path in parquet_files(self.data):
            if root in path.parents:
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    key = str(path), status.st_ino, status.st_mtime_ns
                    if key not in self._known:
                        self._known[key] = pq.read_metadata(path).num_rows
                    rows["/".join(path.relative_to(root).parts[:3])] += self._known[key]
        return rows


# -- what was published, against one quiet run ------------------------------------------------------------------------


@dataclass
class Part:
    """A partition: its rows as text that tells every bit, in order, and their clocks (bars: bar_end), us."""

    rows: list[str] = field(default_factory=list)
    clocks: list[int] = field(default_factory=list)
    files: int = 0


def published(data: Path) -> dict[str, Part]:
    """Partition folder below processed/ -> its files one after the other, sorted by what their rows' order says."""
    found: dict[str, list[tuple[tuple[int, ...], list[str], list[int]]]] = {}
    for path in parquet_files(data):
        content = path.read_bytes()
        keys = ("bar_end",) if "gold" in path.relative_to(data).parts else ("clock_ts", "lane_order")
        table = pq.read_table(pa.BufferReader(content), columns=list(keys))
        columns = [table[key].cast(pa.int64()).to_pylist() for key in keys]
        first = tuple(column[0] for column in columns)
        folder = str(path.parent.relative_to(data / "processed"))
        found.setdefault(folder, []).append((first, rows_in(content), columns[0]))
    parts = {}
    for folder, files in found.items():
        part = parts[folder] = Part(files=len(files))
        for _, rows, clocks in sorted(files, key=lambda file: file[0]):
            part.rows += rows
            part.clocks += clocks
    return parts


def lane_of(partition: str) -> tuple[str, str]:
    """Channel and published lane of a partition: 'gold/trades_bars/60s/exchange=E/symbol=S/...' -> trades, E/S."""
    parts = partition.split("/")
    lane = "/".join(part for part in parts if part.startswith(("exchange=", "symbol=")))
    return parts[1].removesuffix("_bars"), lane


def published_lane(lane: Lane, among: Iterable[Lane]) -> str:
    """As `lane_of` names it."""
    return f"exchange={lane.exchange}/symbol={canonical_names(among, NAMES)[lane]}"


def last_clocks(feeder: Feeder) -> dict[tuple[str, str], int]:
    """(channel, published lane) -> the last clock in bronze, us."""
    return {
        (lane.channel, published_lane(lane, feeder.lanes)): max(int(piece.clocks()[-1]) for piece in pieces)
        for lane, pieces in feeder.lanes.items()
    }


def may_wait(channel: str, lane: str, clock: int, lasts: Mapping[tuple[str, str], int]) -> bool:
    """May a row of this clock wait for more of the other channel, if this is all that has come?"""
    if channel == "orderbook":
        return clock >= lasts.get(("trades", lane), 2**62)
    return channel == "trades" and clock > lasts.get(("orderbook", lane), 2**62)


def rows_that_cannot_wait(quiet: Mapping[str, Part], lasts: Mapping[tuple[str, str], int]) -> Counter[str]:
    """How many rows of silver each lane must have while the watcher runs, as `Watcher.wait_rows` takes them."""
    rows: Counter[str] = Counter()
    for partition, part in quiet.items():
        if partition.startswith("silver/"):
            channel, lane = lane_of(partition)
            rows[f"{channel}/{lane}"] += sum(not may_wait(channel, lane, clock, lasts) for clock in part.clocks)
    return rows


def differences(
    got: Mapping[str, Part], quiet: Mapping[str, Part], lasts: Mapping[tuple[str, str], int] | None = None
) -> list[str]:
    """Partitions that are not the quiet run's: all of its rows, in its order, bit for bit.

    With `lasts` (`last_clocks`) rows may be missing at a lane's end that still wait for the other channel, and the bars
    that only they end.
    """
    off = [f"{partition}: it should not be there" for partition in got if partition not in quiet]
    ends: dict[tuple[str, str], int] = {}
    for partition, part in got.items():
        if partition.startswith("silver/") and part.clocks:
            ends[lane_of(partition)] = max(ends.get(lane_of(partition), 0), part.clocks[-1])
    for partition, want in quiet.items():
        there = got.get(partition, Part())
        count = len(there.rows)
        if there.rows != want.rows[:count]:
            at = next((i for i, pair in enumerate(zip(there.rows, want.rows, strict=False)) if len(set(pair)) == 2), -1)
            off.append(f"{partition}: {count} rows of {len(want.rows)}, another one at {at}")
        elif count < len(want.rows):
            channel, lane = lane_of(partition)
            clock = want.clocks[count]
            if partition.startswith("gold/"):
                waits = lasts is not None and clock > ends.get((channel, lane), 0)
            else:
                waits = lasts is not None and may_wait(channel, lane, clock, lasts)
            if not waits:
                off.append(f"{partition}: {count} rows of {len(want.rows)}")
    return off


# -- readers ---------------------------------------------------------------------------------------------------------

SCALARS = {
    "orderbook": ("collected_at", "capture_ts", "timestamp", "nonce"),
    "trades": ("collected_at", "capture_ts", "timestamp", "trade_id", "side", "price", "amount"),
    "ticker": ("collected_at", "capture_ts", "timestamp", "bid", "ask", "bid_volume", "ask_volume", "last"),
}


def _keys(table: pa.Table, channel: str) -> list[str]:
    columns = []
    for name in SCALARS[channel]:
        column = table[name] if name in table.column_names else pa.nulls(table.num_rows)
        columns.append((column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist())
    return [repr(row) for row in zip(*columns, strict=True)]


class Onlooker(threading.Thread):
    """Globs processed/ again and again; as a context it then raises what it saw. Only 'no such file' is let pass.

    Lanes without mischief (`exact`: names as `lane_of` gives them): every row is one of the quiet run's, bit for bit,
    none is there twice, none that was there is missing later. The others, whose rows change as late ones come: every
    row was received, none is there more often than it was, and none of the quiet run's that was there is missing
    later; of bars, the starts.
    """

    def __init__(self, data: Path, quiet: Mapping[str, Part], feeder: Feeder, exact: Iterable[str]):
        super().__init__(daemon=True)
        self.data, self.exact = data, frozenset(exact)
        self.passes = self.retries = 0
        self.most_files: dict[str, int] = {}  # partition -> how many there were at once
        self._places = {folder: {row: i for i, row in enumerate(part.rows)} for folder, part in quiet.items()}
        self._quiet = quiet
        self._received: dict[tuple[str, str], Counter[str]] = {}
        for lane in feeder.lanes:
            name = published_lane(lane, feeder.lanes)
            if name not in self.exact:
                rows = _keys(feeder.rows(lane), lane.channel)
                self._received[lane.channel, name] = Counter(rows)
        self._kept: dict[str, Counter[str]] = {}
        self._seen: dict[str, Counter[str]] = {}
        self._read: dict[tuple[int, int, int], list[str]] = {}
        self._stop_now = threading.Event()
        self._error: Exception | None = None

    def look(self) -> None:
        """Read all that is there. Raises AssertionError for what must not be."""
        found: dict[str, list[list[str]]] = {}
        whole = True
        for path in parquet_files(self.data):
            try:
                rows = self._rows(path)
            except FileNotFoundError:
                whole = False
                self.retries += 1
                continue
            found.setdefault(str(path.parent.relative_to(self.data / "processed")), []).append(rows)
        for partition, files in found.items():
            self.most_files[partition] = max(self.most_files.get(partition, 0), len(files))
            self._check(partition, files)
        if whole:
            now = {partition: Counter(row for rows in files for row in rows) for partition, files in found.items()}
            for partition, before in self._seen.items():
                gone = before - now.get(partition, Counter())
                if lane_of(partition)[1] not in self.exact:
                    gone &= self._kept_of(partition)
                assert not gone, f"{partition}: {gone.total()} published rows are missing, first {next(iter(gone))}"
            self._seen = now
        self.passes += 1

    def _check(self, partition: str, files: Sequence[Sequence[str]]) -> None:
        channel, lane = lane_of(partition)
        rows = Counter(row for some in files for row in some)
        if lane in self.exact:
            places = self._places.get(partition, {})
            wrong = [row for row in rows if row not in places]
            assert not wrong, f"{partition}: {len(wrong)} of {rows.total()} rows are wrong, {_how(wrong, places)}"
            for some in files:
                at = [places[row] for row in some]
                assert at == sorted(at), f"{partition}: rows out of order"
            allowed = Counter(dict.fromkeys(places, 1))
        elif partition.startswith("silver/"):
            allowed = self._received[channel, lane]
        else:
            allowed = Counter(dict.fromkeys(rows, 1))
        more = rows - allowed
        assert not more, f"{partition}: {more.total()} rows are there too often, first {next(iter(more))[:300]}"

    def _kept_of(self, partition: str) -> Counter[str]:
        """What the quiet run has of a partition: once published, it stays."""
        if partition not in self._kept:
            part = self._quiet.get(partition)
            self._kept[partition] = Counter(part.keys if isinstance(part, Keyed) else ())
        return self._kept[partition]

    def _rows(self, path: Path) -> list[str]:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            key = status.st_ino, status.st_mtime_ns, status.st_size
            if key not in self._read:
                content = file.read()
                channel, lane = lane_of(str(path.parent.relative_to(self.data / "processed")))
                exact = lane in self.exact
                self._read[key] = rows_in(content) if exact else keys_in(content, channel)
            return self._read[key]

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                self.look()
                self._stop_now.wait(0.02)
        except Exception as error:  # noqa: BLE001  # whatever a reader meets is told to the test
            self._error = error

    def __enter__(self) -> Onlooker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop_now.set()
        self.join()
        if self._error is not None:
            raise self._error
        if error is None:
            self.look()


def _how(wrong: Sequence[str], right: Iterable[str]) -> str:
    """Where the first of the wrong rows is not as the right one that begins like it."""
    values = wrong[0].split(", ")
    near = max((row.split(", ") for row in right), key=lambda row: _alike(row, values), default=[])
    pairs = enumerate(zip(values, near, strict=False))
    off = [f"{at}: {mine}, not {want}" for at, (mine, want) in pairs if mine != want]
    return f"first {wrong[0][:300]}, off at {len(off)} of {len(values)}: {'; '.join(off[:20])}"


def _alike(row: Sequence[str], other: Sequence[str]) -> int:
    return next((at for at, pair in enumerate(zip(row, other, strict=False)) if pair[0] != pair[1]), len(row))


@dataclass
class Keyed(Part):
    """A partition whose rows are also known by what was received of them (bars: by their start)."""

    keys: list[str] = field(default_factory=list)


def keys_in(content: bytes, channel: str) -> list[str]:
    """What a published file's rows are known by in a lane whose features may still change."""
    file = pq.ParquetFile(pa.BufferReader(content))
    if "bar_start" in file.schema_arrow.names:
        return [repr(value) for value in file.read(["bar_start"])["bar_start"].cast(pa.int64()).to_pylist()]
    names = [name for name in SCALARS[channel] if name in file.schema_arrow.names]
    return _keys(file.read(names), channel)


def with_keys(data: Path) -> dict[str, Part]:
    """`published`, and the keys by which readers know the rows."""
    parts: dict[str, Part] = {}
    for folder, part in published(data).items():
        keys: list[str] = []
        for path in sorted((data / "processed" / folder).glob("*.parquet")):
            keys += keys_in(path.read_bytes(), lane_of(folder)[0])
        parts[folder] = Keyed(part.rows, part.clocks, part.files, keys)
    return parts


# -- latency ----------------------------------------------------------------------------------------------------------

Key = tuple[str, str, str, int]  # "silver" or "gold", channel, published lane, duration of bars (s) or 0


@dataclass
class Seen:
    """When the newest clock (bars: the newest start) that an output holds was first seen."""

    at: list[float] = field(default_factory=list)
    newest: list[int] = field(default_factory=list)

    def note(self, at: float, clock: int) -> None:
        if not self.newest or clock > self.newest[-1]:
            self.at.append(at)
            self.newest.append(clock)

    def first(self, clock: int) -> float | None:
        """The first moment at which it held this clock or a later one."""
        i = bisect.bisect_left(self.newest, clock)
        return self.at[i] if i < len(self.at) else None


class Probe(threading.Thread):
    """Looks at the folders of outputs 50 times a second and notes when their newest row changes.

    A folder is listed when its inode or time has changed, and for a while after that: the clock of files is coarse.
    """

    INTERVAL = 0.02
    AGAIN = 4

    def __init__(self, folders: Mapping[Key, Sequence[Path]]):
        super().__init__(daemon=True)
        self.seen: dict[Key, Seen] = {key: Seen() for key in folders}
        self._folders = [(key, path) for key, paths in folders.items() for path in paths]
        self._state: dict[Path, tuple[int, int]] = {}
        self._again: Counter[Path] = Counter()
        self._known: dict[tuple[str, int, int], None] = {}
        self._column: dict[Key, int] = {}
        self._stop_now = threading.Event()
        self.error: Exception | None = None

    def look(self) -> None:
        for key, folder in self._folders:
            try:
                status = os.stat(folder)
            except FileNotFoundError:
                continue
            state = status.st_ino, status.st_mtime_ns
            if state != self._state.get(folder):
                self._state[folder] = state
                self._again[folder] = self.AGAIN
            elif self._again[folder] <= 0:
                continue
            self._again[folder] -= 1
            self._list(key, folder)

    def _list(self, key: Key, folder: Path) -> None:
        new = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".parquet"):
                        status = entry.stat()
                        name = entry.path, status.st_ino, status.st_mtime_ns
                        if name not in self._known:
                            new.append(name)
        except FileNotFoundError:
            return
        at = time.monotonic()
        for name in new:
            with contextlib.suppress(FileNotFoundError):
                self.seen[key].note(at, self._newest(key, name[0]))
                self._known[name] = None

    def _newest(self, key: Key, path: str) -> int:
        wanted = "clock_ts" if key[0] == "silver" else "bar_start"
        found = pq.read_metadata(path)
        group = found.row_group(0)
        at = self._column.get(key, -1)
        if not (0 <= at < group.num_columns and group.column(at).path_in_schema == wanted):
            at = self._column[key] = [group.column(i).path_in_schema for i in range(group.num_columns)].index(wanted)
        maxima = [found.row_group(i).column(at).statistics.max for i in range(found.num_row_groups)]
        return (max(maxima) - EPOCH) // timedelta(microseconds=1)

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                began = time.monotonic()
                self.look()
                self._stop_now.wait(max(0.001, began + self.INTERVAL - time.monotonic()))
        except Exception as error:  # noqa: BLE001  # told by stop()
            self.error = error

    def stop(self) -> None:
        self._stop_now.set()
        self.join()
        if self.error is not None:
            raise self.error


def folders_of(data: Path, feeder: Feeder, durations: Iterable[int] = (60,)) -> dict[Key, list[Path]]:
    """The folders in which a feed's outputs will lie."""
    begin, end = feeder.begins_us, feeder.ends_us
    hours = range(begin // HOUR_US, end // HOUR_US + 1)
    days = range(begin // DAY_US, end // DAY_US + 1)
    found: dict[Key, list[Path]] = {}
    for lane in feeder.lanes:
        name = published_lane(lane, feeder.lanes)
        symbol = name.rpartition("symbol=")[2]
        silver, gold = data / "processed/silver" / lane.channel, data / "processed/gold" / f"{lane.channel}_bars"
        found["silver", lane.channel, name, 0] = [
            silver / partition_path(lane.exchange, symbol, hour * HOUR_US) for hour in hours
        ]
        for seconds in durations:
            found["gold", lane.channel, name, seconds] = [
                gold / f"{seconds}s" / partition_path(lane.exchange, symbol, day * DAY_US, by="day") for day in days
            ]
    return found


@dataclass
class Came:
    """A lane's bronze as it became visible: moments, each segment's clocks, and the highest clock by then."""

    at: list[float]
    clocks: list[np.ndarray]

    @property
    def highest(self) -> list[int]:
        return list(accumulate((int(clocks[-1]) for clocks in self.clocks), max))

    def reaches(self, clock: int) -> float | None:
        """When a row of this clock or a later one was first visible."""
        i = bisect.bisect_left(self.highest, clock)
        return self.at[i] if i < len(self.at) else None

    def passes(self, clock: int) -> float | None:
        return self.reaches(clock + 1)


def came(arrivals: Iterable[Arrival], lanes: Iterable[Lane]) -> dict[tuple[str, str], Came]:
    """(channel, published lane) -> what came of it, in its order."""
    found: dict[tuple[str, str], Came] = {}
    for arrival in arrivals:
        lane = arrival.step.piece.lane
        lane_came = found.setdefault((lane.channel, published_lane(lane, lanes)), Came([], []))
        lane_came.at.append(arrival.visible)
        lane_came.clocks.append(arrival.step.piece.clocks())
    return found


@dataclass
class Latency:
    """Seconds from the moment when all that was needed was visible; how much was never seen, though it was."""

    seconds: list[float] = field(default_factory=list)
    missing: int = 0

    def add(self, needed: float | None, seen: float | None) -> None:
        if needed is None:
            return
        if seen is None:
            self.missing += 1
        else:
            self.seconds.append(max(0.0, seen - needed))

    def summary(self) -> dict[str, float]:
        return {"count": len(self.seconds), "missing": self.missing, **quantiles(self.seconds)}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the largest, by nearest rank; nothing of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {"p50": 0.5, "p99": 0.99}
    found = {name: ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] for name, share in ranks.items()}
    return {name: round(value, 4) for name, value in {**found, "max": ordered[-1]}.items()}


def needed_at(channel: str, lane: str, clock: int, own: float, bronze: Mapping[tuple[str, str], Came]) -> float | None:
    """When all was visible that a row of this clock needs, if its own segment was at `own`; None if it never was.

    A book needs a trade that passes its clock, a trade a book that reaches it; a lane without the other channel waits
    for nothing.
    """
    other = bronze.get(({"orderbook": "trades", "trades": "orderbook"}.get(channel, ""), lane))
    if other is None:
        return own
    then = other.passes(clock) if channel == "orderbook" else other.reaches(clock)
    return None if then is None else max(own, then)


ALWAYS = (-(2**62), 2**62)


def silver_latency(
    bronze: Mapping[tuple[str, str], Came], seen: Mapping[Key, Seen], between: tuple[int, int] = ALWAYS
) -> dict[str, Latency]:
    """Channel -> from each segment's last row until it is in silver. For feeds in order: what shows a later clock is
    taken for all before it. between: only segments whose last clock (us) is there."""
    found: dict[str, Latency] = {}
    for (channel, lane), mine in bronze.items():
        latency = found.setdefault(channel, Latency())
        there = seen["silver", channel, lane, 0]
        for own, clocks in zip(mine.at, mine.clocks, strict=True):
            clock = int(clocks[-1])
            if not between[0] <= clock < between[1]:
                continue
            latency.add(needed_at(channel, lane, clock, own, bronze), there.first(clock))
    return found


def gold_latency(
    bronze: Mapping[tuple[str, str], Came], seen: Mapping[Key, Seen], between: tuple[int, int] = ALWAYS
) -> dict[str, Latency]:
    """Channel -> from the moment at which a bar could be known to have ended until it is in gold. For feeds in order,
    all of whose rows are valid. between: only bars whose end (us) is there."""
    found: dict[str, Latency] = {}
    for (_, channel, lane, seconds), there in seen.items():
        if not seconds or (channel, lane) not in bronze:
            continue
        latency = found.setdefault(channel, Latency())
        mine = bronze[channel, lane]
        clocks = np.concatenate(mine.clocks)
        of_segment = np.repeat(np.arange(len(mine.clocks)), [len(some) for some in mine.clocks])
        length = seconds * US
        for start in np.unique(clocks // length * length).tolist():
            after = np.flatnonzero(clocks >= start + length)
            if len(after) and between[0] <= start + length < between[1]:
                first = after[np.argmin(clocks[after])]
                own = mine.at[of_segment[first]]
                latency.add(needed_at(channel, lane, int(clocks[first]), own, bronze), there.first(start))
    return found
