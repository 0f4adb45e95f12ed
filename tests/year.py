"""A data root with a long history, made in minutes: as if a run had taken in every hour of it.

A real run over two hours of one lane shows what bronze, the cache of segments, records, state and outputs look like.
Every hour of every lane then gets its own segment, valid and with the times of its path, its own entry in the cache
and its own record; outputs are links to the sample's files, whose content nobody reads who finds nothing to do.
`is_up_to_date` asks `daedalus plan` whether that is so: a change of the formats cannot go unnoticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from daedalus_etl import files
from daedalus_etl.catalog import hour_name, partition_name
from daedalus_etl.lanes import DAY_US, HOUR_US, US, partition_path
from daedalus_etl.plan import digest
from tests import harness

PROJECT = Path(__file__).parents[1]
CHANNEL, MODEL, BARS, DURATION = "ticker", "silver.ticker", "gold.ticker_bars", 3600
EXCHANGE, SAMPLE = "demo", "YEAR000-EUR"
FIRST_ROW_US = 60 * US  # after the hour's begin
STATES = 48  # of a lane's newest hours that are kept
LINKS = 50_000  # of one file: ext4 allows 65,000
OPTIONS = ("--select", f"+{BARS}", "--durations", str(DURATION))
WATCH_OPTIONS = ("--select", f"+{BARS}", "--var", f"bar_durations={DURATION}")

PLACEHOLDERS = {"capture_ts": 0x0123456789ABCDE1, "collected_at": 0x0123456789ABCDE2, "timestamp": 0x0123456789ABCDE3,
                "year": 0x11223341, "month": 0x11223342, "day": 0x11223343, "hour": 0x11223344}  # fmt: skip


def bronze_template() -> bytes:
    """A segment of one row, uncompressed, in which every value of `PLACEHOLDERS` stands once."""
    import io

    import pyarrow.parquet as pq

    row = {"capture_ts": 0, "bid": 100.0, "ask": 100.5, "bid_volume": 1.0, "ask_volume": 2.0}
    table = harness.bronze_table(CHANNEL, [row], exchange=EXCHANGE, symbol=SAMPLE)
    for name, value in PLACEHOLDERS.items():
        kind = table.schema.field(name).type
        raw = np.array([value], np.int32 if pa.types.is_int32(kind) else np.int64)
        column = pa.array(raw).view(kind)
        table = table.set_column(table.column_names.index(name), name, column)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class Template:
    """Bytes and where in them an hour's values stand."""

    content: bytes
    at: dict[str, int]
    symbol_at: int

    @classmethod
    def make(cls) -> Template:
        content = bronze_template()
        at = {}
        for name, value in PLACEHOLDERS.items():
            pattern = value.to_bytes(4 if name in ("year", "month", "day", "hour") else 8, "little")
            assert content.count(pattern) == 1, name
            at[name] = content.index(pattern)
        assert content.count(SAMPLE.encode()) == 1
        return cls(content, at, content.index(SAMPLE.encode()))

    def segment(self, symbol: str, hour_us: int) -> bytes:
        assert len(symbol) == len(SAMPLE)
        clock = hour_us + FIRST_ROW_US
        when = datetime.fromtimestamp(hour_us // US, UTC)
        values = {"capture_ts": clock, "collected_at": clock // 1000, "timestamp": clock // 1000 - 100}
        parts = bytearray(self.content)
        for name, at in self.at.items():
            size = 4 if name in ("year", "month", "day", "hour") else 8
            parts[at : at + size] = (values.get(name) or getattr(when, name, 0)).to_bytes(size, "little")
        parts[self.symbol_at : self.symbol_at + len(symbol)] = symbol.encode()
        return bytes(parts)


def make(root: Path, lanes: int = 20, hours: int = 8760, end_us: int = 1770163200 * US, workers: int = 2) -> None:
    """The root, up to `end_us`, a turn of the day (2026-02-04). lanes: at most 999."""
    assert end_us % DAY_US == 0, "the newest day is whole"
    sample = root / "sample"
    template = Template.make()
    begin = end_us - 2 * HOUR_US
    for hour in (begin, begin + HOUR_US):
        path = sample / _segment_path(SAMPLE, hour)
        path.parent.mkdir(parents=True)
        path.write_bytes(template.segment(SAMPLE, hour))
    _daedalus("run", sample, "--workers", "1")
    shapes = _shapes(sample, begin)
    work = partial(_lane, root, template, shapes, end_us - hours * HOUR_US, hours)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(work, [f"YEAR{i:03d}-EUR" for i in range(1, lanes + 1)]))
    shutil.rmtree(sample)


def is_up_to_date(root: Path) -> bool:
    """Does `daedalus plan` find every hour taken in, and nothing to do?"""
    done = _daedalus("run", root, "--dry-run", "--json")
    summary = json.loads(done.splitlines()[-1])
    if summary["pending"] or summary["perhaps"]:
        print(*done.splitlines()[:3], sep="\n", file=sys.stderr)
    return not (summary["pending"] or summary["perhaps"])


def _daedalus(command: str, data: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "daedalus_etl", command, "--data", data, *OPTIONS, *more],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout


def _segment_path(symbol: str, hour_us: int) -> str:
    return f"raw/ready/ccxt/{CHANNEL}/{partition_path(EXCHANGE, symbol, hour_us)}/segment_00001.parquet"


@dataclass(frozen=True)
class Shapes:
    """What the real run made of the sample's second hour and its day, as JSON and bytes."""

    cache: list[Any]
    record: dict[str, Any]
    entry: dict[str, Any]
    bars: dict[str, Any]
    silver: bytes
    gold: bytes
    state: bytes


def _shapes(sample: Path, begin: int) -> Shapes:
    name = hour_name(begin + HOUR_US)
    lane = Path(f"exchange={EXCHANGE}/symbol={SAMPLE}")
    cache = [*map(json.loads, (sample / f"state/segments/{CHANNEL}" / lane / f"{name}.json").read_bytes().splitlines())]
    book = sample / f"state/{MODEL}" / lane
    record, entry = map(json.loads, (book / f"{name}.json").read_bytes().splitlines())
    (bars,) = map(json.loads, _only(sample / f"state/{BARS}" / lane / f"{DURATION}s", "2*.json").splitlines())
    return Shapes(
        cache, record, entry, bars,
        _only(sample / "processed/silver" / CHANNEL / partition_path(EXCHANGE, SAMPLE, begin + HOUR_US), "*"),
        _only(sample / "processed" / Path(bars["outputs"][0]["path"]).parent, "*"),
        _only(book, f"{name}.*.state"),
    )  # fmt: skip


def _only(folder: Path, pattern: str) -> bytes:
    (path,) = folder.glob(pattern)
    return path.read_bytes()


def _lane(root: Path, template: Template, shapes: Shapes, begin: int, hours: int, symbol: str) -> None:
    """All of one lane."""
    end = ""
    lane = f"exchange={EXCHANGE}/symbol={symbol}"
    book, memory = root / f"state/{MODEL}/{lane}", root / f"state/segments/{CHANNEL}/{lane}"
    for folder in (book, memory):
        folder.mkdir(parents=True)
    silver, gold = _linked(root, shapes.silver, symbol, "silver"), _linked(root, shapes.gold, symbol, "gold")
    days: list[tuple[int, str, str]] = []
    for hour in range(begin, begin + hours * HOUR_US, HOUR_US):
        path, clock, name = _segment_path(symbol, hour), hour + FIRST_ROW_US, hour_name(hour)
        content = template.segment(symbol, hour)
        _write(root / path, content)
        status = os.stat(root / path)
        found = files.digest(content)
        times = {"min_clock": clock, "max_clock": clock}
        mark, (_, key, facts) = shapes.cache
        spans = [{**facts["spans"][0], "symbol": symbol, **times, "hours": [hour // HOUR_US]}]
        known = [
            [status.st_size, status.st_mtime_ns],
            {**facts, "digest": found, "first_capture": clock, "spans": spans},
        ]
        assert len(key) == 2
        (memory / f"{name}.json").write_text(
            f"{json.dumps(mark)}\n{json.dumps([str((root / path).absolute()), *known])}\n"
        )
        is_kept = hour >= begin + (hours - STATES) * HOUR_US
        start, end = end, files.digest(shapes.state if is_kept else name.encode())
        output = silver(f"{CHANNEL}/{partition_path(EXCHANGE, symbol, hour)}/{name}-year.parquet", name.encode())
        listing = digest([[CHANNEL, path, status.st_size, status.st_mtime_ns]])
        record = {
            **shapes.record, "partition": name, "symbol": symbol, "start": start, "end": end, "listing": listing,
            "max_clock": clock, "until": hour + HOUR_US, "state": f"{name}.{end}.state", "outputs": [output],
        }  # fmt: skip
        entry = {**shapes.entry, **times, "path": path, "digest": found, "size": status.st_size,
                 "mtime_ns": status.st_mtime_ns}  # fmt: skip
        (book / f"{name}.json").write_text(json.dumps(record) + "\n" + json.dumps(entry) + "\n")
        if is_kept:
            (book / record["state"]).write_bytes(shapes.state)
        days.append((hour // DAY_US, name, output["digest"]))
    head = {"partition": record["partition"], "state": record["state"], "max_clock": record["max_clock"]}
    (book / "head.json").write_text(json.dumps(head))
    _days(root / f"state/{BARS}/{lane}/{DURATION}s", shapes, symbol, days, gold, record["max_clock"])


Output = Callable[[str, bytes], dict[str, Any]]


def _days(
    book: Path, shapes: Shapes, symbol: str, hours: Iterable[tuple[int, str, str]], gold: Output, last: int
) -> None:
    book.mkdir(parents=True)
    name = ""
    for day, of_day in groupby(hours, key=lambda hour: hour[0]):
        name = partition_name(day * DAY_US, "day")
        made_of = digest([[partition, [output]] for _, partition, output in of_day])
        folder = partition_path(EXCHANGE, symbol, day * DAY_US, by="day")
        output = gold(f"{CHANNEL}_bars/{DURATION}s/{folder}/{name}-year.parquet", name.encode())
        until = min(last, (day + 1) * DAY_US + DURATION * US)
        record = {**shapes.bars, "partition": name, "symbol": symbol, "start": made_of, "until": until,
                  "outputs": [output]}  # fmt: skip
        (book / f"{name}.json").write_text(json.dumps(record) + "\n")
    (book / "head.json").write_text(json.dumps({"partition": name, "state": "", "max_clock": None}))


def _linked(root: Path, content: bytes, symbol: str, layer: str) -> Output:
    """Makes outputs: links to a file of this lane, and what a record says of them. Digests differ, as real ones do."""
    import io

    import pyarrow.parquet as pq

    rows = pq.ParquetFile(io.BytesIO(content)).metadata.num_rows

    def sources() -> Iterator[Path]:
        number = 0
        while True:
            source = root / "state" / "linked" / f"{layer}-{symbol}-{number}"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(content)
            for _ in range(LINKS):
                yield source
            number += 1

    those = sources()

    def output(below: str, key: bytes) -> dict[str, Any]:
        source = next(those)
        path = root / "processed" / layer / below
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)
        status = os.stat(path)
        return {"digest": files.digest(symbol.encode() + key), "mtime_ns": status.st_mtime_ns, "rows": rows,
                "path": f"{layer}/{below}", "size": status.st_size}  # fmt: skip

    return output


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        file.write(content)
