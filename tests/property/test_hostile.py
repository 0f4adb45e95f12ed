"""Garbage in (RELIABILITY 5, 8, 10, 11): put aside with its reason, or taken exactly; nothing else is lost."""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl.audit import SCHEMAS
from daedalus_etl.lanes import parse_path, partition_path, sanitize
from daedalus_etl.simulator import Market, simulate
from tests import harness, roots
from tests.e2e.conftest import daedalus
from tests.roots import DAY, HOUR, MINUTE, rows_of
from tests.tables import Rows, read_published

CHANNELS = ("trades", "ticker", "orderbook")
SYMBOL = "ABC-EUR"
SILVER = ("--select", "tag:silver")
ALL = ("--durations", "60")


def table_of(channel: str, hour: int = 0, *, exchange: str = "kraken", symbol: str = SYMBOL, salt: int = 0) -> pa.Table:
    rows = rows_of(channel, hour, range(1, 60, 3), salt)
    return harness.bronze_table(channel, rows, exchange=exchange, symbol=symbol)


def place(data: Path, channel: str, hour: int = 0, *, exchange: str = "kraken", symbol: str = SYMBOL) -> Path:
    folder = data / "raw/ready/ccxt" / channel / partition_path(exchange, symbol, DAY + hour * HOUR)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def written(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def blob_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def fresh(data: Path, target: Path, *arguments: str) -> Path:
    roots.copied(data, target)
    roots.run(target, *arguments)
    return target


def infinite_features(data: Path) -> list[str]:
    """NaN or infinity in any column that is ours: all of gold; of silver what is no copy of a bronze scalar."""
    off = []
    for name, path in roots.files(data).items():
        layer, model = Path(name).parts[:2]
        copies = set(SCHEMAS[model]) if layer == "silver" else set()
        table = pq.ParquetFile(path).read()
        for column in table.column_names:
            if pa.types.is_floating(table[column].type) and column not in copies:
                values = table[column].drop_null().to_numpy()
                off += [f"{name} {column} {value}" for value in values[~np.isfinite(values)][:3]]
    return off


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_search_for_infinite_features_finds_them(tmp_path: Path, value: float) -> None:
    written(tmp_path / "processed/silver/trades/a.parquet", pa.table({"price": [value], "volume_5s": [value]}))
    written(tmp_path / "processed/gold/trades_bars/60s/a.parquet", pa.table({"open": [1.0, value, None]}))
    assert [line.split()[1] for line in infinite_features(tmp_path)] == ["open", "volume_5s"]


# -- what cannot be used ------------------------------------------------------------------------------------------

Spoil = Callable[[pa.Table], pa.Table]


def column(name: str, change: Callable[[np.ndarray], Any], kind: pa.DataType | None = None) -> Spoil:
    """A column of integers (times in us) computed anew."""

    def spoil(table: pa.Table) -> pa.Table:
        old = table[name]
        values = change(old.cast(pa.int64()).to_numpy())
        return table.set_column(table.column_names.index(name), name, pa.array(values, kind or old.type))

    return spoil


def typed(name: str, kind: pa.DataType, value: Any) -> Spoil:
    return lambda t: t.set_column(t.column_names.index(name), name, pa.array([value] * len(t), kind))


def without(name: str) -> Spoil:
    return lambda table: table.drop_columns([name])


def null_once(name: str) -> Spoil:
    return lambda t: t.set_column(
        t.column_names.index(name), name, pa.array([None, *t[name].to_pylist()[1:]], t.schema.field(name).type)
    )


def _misread_capture(table: pa.Table) -> pa.Table:
    """Milliseconds taken for microseconds: an hour of January 1970, and all else in keeping with it."""
    table = column("capture_ts", lambda us: us // 1000)(table)
    for name, value in (("year", 1970), ("month", 1), ("day", 21), ("hour", 11)):
        table = typed(name, pa.int32(), value)(table)
    return table


INSTANT = pa.timestamp("us", tz="UTC")
FACTOR = "off by a factor of 1000"
PAIRS = pa.list_(pa.list_(pa.float64()))
TEXT_LEVELS = pa.list_(pa.struct([("price", pa.string()), ("size", pa.float64())]))
# kind -> channel, what is done to its table, words of the reason
SPOILED: dict[str, tuple[str, Spoil, str]] = {
    "collected_at in us": ("trades", column("collected_at", lambda ms: ms * 1000), FACTOR),
    "collected_at in ns": ("trades", column("collected_at", lambda ms: ms * 1_000_000), "off by a factor of"),
    "timestamp in s": ("trades", column("timestamp", lambda ms: ms // 1000), FACTOR),
    "timestamp in us": ("orderbook", column("timestamp", lambda ms: ms * 1000), FACTOR),
    "timestamp in ns": ("ticker", column("timestamp", lambda ms: ms * 1_000_000), "off by a factor of"),
    "most timestamps in us": (
        "trades", column("timestamp", lambda ms: np.where(np.arange(len(ms)) % 5 < 3, ms * 1000, ms)), FACTOR
    ),
    "year in the data": ("trades", typed("year", pa.int32(), 2025), "year to hour differ from capture_ts"),
    "month in the data": ("trades", typed("month", pa.int32(), 3), "year to hour differ from capture_ts"),
    "day in the data": ("trades", typed("day", pa.int32(), 4), "year to hour differ from capture_ts"),
    "hour in the data": ("trades", typed("hour", pa.int32(), 1), "year to hour differ from capture_ts"),
    "hour in the data, once": ("trades", null_once("hour"), "year to hour differ from capture_ts in 1 of"),
    "no symbol, once": ("trades", null_once("symbol"), "1 of 20 rows have no exchange or no symbol"),
    "capture_ts is a number": ("ticker", typed("capture_ts", pa.int64(), DAY), "column capture_ts is BIGINT"),
    "capture_ts is text": ("trades", typed("capture_ts", pa.string(), "2026-02-03"), "column capture_ts is VARCHAR"),
    "capture_ts is NULL": ("orderbook", typed("capture_ts", INSTANT, None), "rows have no capture_ts"),
    "timestamp is text": ("trades", typed("timestamp", pa.string(), "1770076800000"), "column timestamp is VARCHAR"),
    "symbol is a number": ("trades", typed("symbol", pa.int64(), 5), "column symbol is BIGINT"),
    "bid is text": ("ticker", typed("bid", pa.string(), "100"), "column bid is VARCHAR"),
    "no ask": ("ticker", without("ask"), "has no column ask"),
    "no bids": ("orderbook", without("bids"), "has no column bids"),
    "nonce is text": ("orderbook", typed("nonce", pa.string(), "5"), "column nonce is VARCHAR"),
    "levels are pairs": ("orderbook", typed("bids", PAIRS, [[1.0, 2.0]]), "column bids is DOUBLE[][]"),
    "levels are text": ("orderbook", typed("bids", pa.string(), "[[1, 2]]"), "column bids is VARCHAR"),
    "prices are text": ("orderbook", typed("asks", TEXT_LEVELS, [{"price": "1", "size": 1.0}]), "column asks is"),
}  # fmt: skip
# kind -> its place instead of year=2026/month=2/day=3/hour=0, words of the reason
MISPLACED = {
    "another year": ("year=2025/month=2/day=3/hour=0", "the hour in the path is not that of capture_ts"),
    "another month": ("year=2026/month=3/day=3/hour=0", "the hour in the path is not that of capture_ts"),
    "another day": ("year=2026/month=2/day=2/hour=0", "the hour in the path is not that of capture_ts"),
    "another hour": ("year=2026/month=2/day=3/hour=23", "the hour in the path is not that of capture_ts"),
    "another day, less deep": ("year=2026/month=2/day=04", "the day in the path is not that of capture_ts"),
    "month 13": ("year=2026/month=13/day=3/hour=0", "there is no such hour"),
    "30 February": ("year=2026/month=2/day=30/hour=0", "there is no such hour"),
    "hour 24": ("year=2026/month=2/day=3/hour=24", "there is no such hour"),
    "hour -1": ("year=2026/month=2/day=3/hour=-1", "which is no number"),
    "hour of superscripts": ("year=2026/month=2/day=3/hour=¹", "which is no number"),
    "default partition": ("year=2026/month=2/day=3/hour=__HIVE_DEFAULT_PARTITION__", "which is no number"),
}
GOOD = blob_of(harness.bronze_table("trades", rows_of("trades", 0), exchange="kraken", symbol=SYMBOL))
NO_PARQUET = {
    "nothing": b"",
    "one byte": b"P",
    "both magics": b"PAR1PAR1",
    "text": b"capture_ts,price\n2026-02-03,100\n" * 9,
    "zeros": bytes(4096),
    "an Arrow file": b"ARROW1\0\0" + bytes(800) + b"ARROW1",
    "an encrypted footer": GOOD[:-4] + b"PARE",
    "its second half": GOOD[len(GOOD) // 2 :],
    "its footer's length is a lie": GOOD[:-8] + b"\xff\xff\xff\x7f" + b"PAR1",
    "its footer is said to be empty": GOOD[:-8] + bytes(4) + b"PAR1",
}


def spoil_all(data: Path) -> dict[str, tuple[Path, str]]:
    """A bad segment of each kind, all of one lane a channel. -> kind: its path, words of its reason."""
    found: dict[str, tuple[Path, str]] = {}
    for kind, (channel, spoil, words) in SPOILED.items():
        found[kind] = written(place(data, channel) / f"{kind}.parquet", spoil(table_of(channel))), words
    lane = data / f"raw/ready/ccxt/trades/exchange=kraken/symbol={SYMBOL}"
    misread = lane / "year=1970/month=1/day=21/hour=11/bad.parquet"
    found["capture in ms"] = written(misread, _misread_capture(table_of("trades"))), FACTOR
    for kind, (hour, words) in MISPLACED.items():
        found[kind] = written(lane / hour / "bad.parquet", table_of("trades")), words
    for kind, other in {"exchange": "exchange=kranken", "symbol": "symbol=ABC-USD"}.items():
        path = str(place(data, "trades") / "bad.parquet")
        path = path.replace(f"{kind}={'kraken' if kind == 'exchange' else SYMBOL}", other)
        found[f"another {kind}"] = (
            written(Path(path), table_of("trades")),
            f"{kind} is {other.partition('=')[2]} in the path",
        )
    for kind, content in NO_PARQUET.items():
        path = place(data, "trades") / f"{kind}.parquet"
        path.write_bytes(content)
        found[kind] = path, "cannot be read as Parquet"
    return found


@pytest.fixture(scope="module")
def put_aside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[Path, str]], roots.Ran]:
    """Each kind of bad segment, with a good one of its lane beside them, after a run."""
    data = tmp_path_factory.mktemp("aside")
    bad = spoil_all(data)
    for channel in CHANNELS:
        written(place(data, channel) / "good.parquet", table_of(channel, salt=1))
    return data, bad, roots.run_child(data, *SILVER, code=1)


def test_each_kind_is_put_aside_with_its_reason_and_nothing_else_is_lost(
    put_aside: tuple[Path, dict[str, tuple[Path, str]], roots.Ran],
) -> None:
    data, bad, ran = put_aside
    reasons = {
        kind: ran.quarantined.get(str(path.relative_to(data)), "not put aside") for kind, (path, _) in bad.items()
    }
    assert {kind: reason for kind, reason in reasons.items() if bad[kind][1] not in reason} == {}
    assert len(ran.quarantined) == len(bad)
    assert not [reason for reason in reasons.values() if "\n" in reason or len(reason) > 300]
    assert ran.of("failed") == []
    for channel in CHANNELS:
        clocks = [row["clock_ts"] for row in read_published(data, f"silver/{channel}", "kraken")]
        assert clocks == [row["capture_ts"] for row in rows_of(channel, 0, range(1, 60, 3))]


def test_they_are_named_again_by_each_run_and_taken_up_when_they_are_mended(
    put_aside: tuple[Path, dict[str, tuple[Path, str]], roots.Ran], tmp_path: Path
) -> None:
    source, bad, first = put_aside
    before = roots.contents(source)
    again = roots.run(source, *SILVER, code=1)
    assert again.quarantined == first.quarantined
    assert again.summary["made"] == 0
    assert roots.contents(source) == before
    data = tmp_path / "data"
    shutil.copytree(source, data, copy_function=shutil.copy2)
    for i, (path, _) in enumerate(bad.values()):
        (data / path.relative_to(source)).unlink()
        channel = path.relative_to(source).parts[3]
        written(place(data, channel) / path.name, table_of(channel, salt=2 + i % 3))
    mended = roots.run(data, *SILVER)
    assert mended.quarantined == {}
    roots.assert_same(data, fresh(data, tmp_path / "fresh", *SILVER))


def test_what_is_no_plain_file_is_put_aside_and_never_opened(tmp_path: Path) -> None:
    """A pipe would hold a run for ever, a link may lead anywhere."""
    import socket

    data = tmp_path / "data"
    folder = place(data, "trades")
    written(folder / "good.parquet", table_of("trades"))
    outside = written(tmp_path / "outside/good.parquet", table_of("trades", salt=3))
    os.mkfifo(folder / "a pipe.parquet")
    (folder / "a folder.parquet").mkdir()
    (folder / "a dangling link.parquet").symlink_to(tmp_path / "nowhere")
    (folder / "a link to itself.parquet").symlink_to(folder / "a link to itself.parquet")
    (folder / "a link to a good file.parquet").symlink_to(outside)
    (folder.parent / "hour=1").symlink_to(outside.parent, target_is_directory=True)  # not followed
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        try:
            server.bind("a socket.parquet")
        finally:
            os.chdir(here)
        ran = roots.run_child(data, *SILVER, code=1, timeout=60)
    names = {Path(path).stem: reason for path, reason in ran.quarantined.items()}
    odd = ("a pipe", "a socket", "a folder", "a dangling link", "a link to itself", "a link to a good file")
    assert names == dict.fromkeys(odd, "is not a plain file")
    assert len(read_published(data, "silver/trades", "kraken")) == 20


def test_hidden_and_temporary_files_are_left_alone(tmp_path: Path) -> None:
    folder = place(tmp_path, "trades")
    written(folder / "good.parquet", table_of("trades"))
    for name in (".hidden.parquet", "_temporary.parquet", "x.parquet.inprogress", "x.parquet.tmp", "x.parq", "README"):
        (folder / name).write_bytes(b"torn")
    (folder / "_delta_log").mkdir()
    (folder / "_delta_log/x.parquet").write_bytes(b"torn")
    assert roots.run(tmp_path, *SILVER).quarantined == {}
    assert len(read_published(tmp_path, "silver/trades", "kraken")) == 20


# -- torn and growing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "step"), [("trades", 97), *(pytest.param(c, 1, marks=pytest.mark.soak) for c in CHANNELS)]
)
def test_a_segment_torn_at_any_byte_of_its_footer_is_put_aside(tmp_path: Path, channel: str, step: int) -> None:
    """And none of its rows counts, though they are all there."""
    folder = place(tmp_path, channel)
    written(folder / "good.parquet", table_of(channel))
    blob = blob_of(table_of(channel, salt=1))
    footer = int.from_bytes(blob[-8:-4], "little") + 8
    cuts = sorted({*range(1, footer, step), *range(1, 10), footer - 1, footer, footer + 1})
    for cut in cuts:
        (folder / f"torn_{cut:05d}.parquet").write_bytes(blob[:-cut])
    ran = roots.run(tmp_path, *SILVER, code=1)
    assert len(ran.quarantined) == len(cuts) > 20
    assert all("torn_" in path for path in ran.quarantined)
    assert ran.of("failed") == []
    roots.assert_same(tmp_path, _only_good(tmp_path, channel))


def _only_good(data: Path, channel: str) -> Path:
    other = data.with_name(data.name + "-good")
    written(place(other, channel) / "good.parquet", table_of(channel))
    roots.run(other, *SILVER)
    return other


def test_a_segment_that_still_grows_counts_when_it_is_whole(tmp_path: Path) -> None:
    """Written under its final name, bit by bit, as no collector should; with a run at each stage."""
    data = tmp_path / "data"
    written(place(data, "trades") / "a.parquet", table_of("trades"))
    roots.run(data, *ALL)
    before = roots.contents(data)
    blob = blob_of(table_of("trades", 0, salt=1))
    path = place(data, "trades") / "b.parquet"
    for share in (0, 0.2, 0.6, 0.95, 1):
        path.write_bytes(blob[: int(share * (len(blob) - 1))])
        ran = roots.run(data, *ALL, code=1)
        assert list(ran.quarantined) == [str(path.relative_to(data))]
        assert ran.summary["made"] == 0
        assert roots.contents(data) == before
    path.write_bytes(blob)
    assert roots.run(data, *ALL).made("silver.trades") == ["2026-02-03T00"]
    roots.assert_same(data, fresh(data, tmp_path / "fresh", *ALL))


# -- damaged ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 60))])
def test_flipped_bits_crash_nothing_and_lose_no_row_of_sound_segments(tmp_path: Path, seed: int) -> None:
    """Damage in pages that carry no checksum may pass for other values: they are judged as such, row by row."""
    pick = random.Random(seed)
    data = tmp_path / "data"
    for channel in CHANNELS:
        folder = place(data, channel)
        written(folder / "good.parquet", table_of(channel))
        for i in range(12 if seed == 1 else 40):
            plain = {"compression": pick.choice(["none", "zstd", "snappy"]), "use_dictionary": pick.random() < 0.5}
            blob = bytearray(blob_of(table_of(channel, salt=2 + i), **plain))
            low = pick.choice([0, len(blob) - int.from_bytes(blob[-8:-4], "little") - 8])  # anywhere, or in the footer
            for _ in range(pick.choice([1, 1, 2, 8])):
                blob[pick.randrange(low, len(blob))] ^= 1 << pick.randrange(8)
            (folder / f"bad_{i:03d}.parquet").write_bytes(blob)
    ran = _survived(data)
    assert ran.quarantined
    again = roots.run(data, *ALL, code=ran.code)
    assert again.quarantined == ran.quarantined
    assert again.summary["made"] == 0


def _survived(data: Path, code: int | None = None) -> roots.Ran:
    """A run over damage: no crash, no lane lost, each row of the good segments there, no NaN in features."""
    try:
        ran = roots.run_child(data, *ALL, code=1)
    except AssertionError as error:
        if code == 1 or "exit code 0" not in str(error):
            raise
        ran = roots.run(data, *ALL)
    assert ran.of("failed") == []
    assert not [path for path in ran.quarantined if "/good" in path]
    for path in roots.segments(data):
        if path.name.startswith("good"):
            channel = path.relative_to(data).parts[3]
            want = pq.ParquetFile(path).read()["capture_ts"].cast(pa.int64()).to_pylist()
            exchange = str(parse_path(path)["exchange"])
            found = {row["capture_ts"] for row in read_published(data, f"silver/{channel}", exchange)}
            assert set(want) <= found, path
    assert infinite_features(data) == []
    return ran


def varint(n: int) -> bytes:
    """Of Thrift's compact protocol, zigzag."""
    n, out = n << 1, b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def lying(table: pa.Table, says: int, which: slice) -> bytes:
    """A segment whose footer gives another number of rows: the file's own (the first), those of columns, the row
    group's (the last)."""
    blob = blob_of(table, compression="none")
    start = len(blob) - 8 - int.from_bytes(blob[-8:-4], "little")
    old, new = b"\x16" + varint(table.num_rows), b"\x16" + varint(says)  # an i64, in the next field
    assert len(old) == len(new)
    parts = blob[start:-8].split(old)
    assert len(parts) > 3
    said = [old] * (len(parts) - 1)
    said[which] = [new] * len(said[which])
    footer = b"".join(part for pair in itertools.zip_longest(parts, said, fillvalue=b"") for part in pair)
    return blob[:start] + footer + blob[-8:]


FILE, COLUMNS, GROUP = slice(0, 1), slice(1, -1), slice(-1, None)
LIES: dict[str, Callable[[str, int], bytes]] = {
    "fewer rows in the file": lambda c, m: lying(_long(c, m), 199, FILE),
    "more rows in the file": lambda c, m: lying(_long(c, m), 777, FILE),
    "fewer rows in the row group": lambda c, m: lying(_long(c, m), 199, GROUP),
    "more rows in the row group": lambda c, m: lying(_long(c, m), 777, GROUP),
    "fewer values in the columns": lambda c, m: lying(_long(c, m), 199, COLUMNS),
    "more values in the columns": lambda c, m: lying(_long(c, m), 777, COLUMNS),
    "more rows everywhere": lambda c, m: lying(_long(c, m), 777, slice(None)),
    "a column that lies behind the file": lambda c, m: _far_away(_long(c, m), c),
    "another file's footer": lambda c, m: _footer_of(blob_of(table_of(c)), blob_of(_long(c, m))),
    "its pages are zeros": lambda c, m: _zeroed(blob_of(_long(c, m), compression="none")),
}


ROWS = 301  # a number that nothing else in a footer is likely to be


def _long(channel: str, minute: int) -> pa.Table:
    """ROWS rows of one minute."""
    start = DAY + minute * MINUTE
    rows = [rows_of(channel, 0, (1,))[0] | {"capture_ts": start + i * 10_000} for i in range(ROWS)]
    for i, row in enumerate(rows):
        row["timestamp"] = row["capture_ts"] // 1000
        if channel == "trades":
            row["trade_id"] = f"{minute}{i:04d}"
    return harness.bronze_table(channel, rows, exchange="kraken", symbol=SYMBOL)


UNAUDITED = {"trades": "price", "ticker": "bid", "orderbook": "nonce"}  # the audit reads no row of it


def _place(blob: bytes, name: str) -> int:
    """Where the first page of a column begins."""
    group = pq.read_metadata(pa.BufferReader(blob)).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (place,) = [column.data_page_offset for column in columns if column.path_in_schema == name]
    return place


def _far_away(table: pa.Table, channel: str) -> bytes:
    """A column is said to begin where no byte is."""
    table = table.select(
        sorted(table.column_names, key=lambda name: name == UNAUDITED[channel])
    )  # far back, as the lie
    blob = blob_of(table, compression="none", use_dictionary=False)
    old, new = (b"\x26" + varint(n) for n in (_place(blob, UNAUDITED[channel]), 1_000_000))  # an i64, two fields on
    assert len(old) == len(new)
    footer = len(blob) - 8 - int.from_bytes(blob[-8:-4], "little")
    assert blob.count(old, footer) == 1
    return blob[:footer] + blob[footer:].replace(old, new)


def _endless(table: pa.Table, channel: str) -> bytes:
    """A page's header begins with a text that goes on behind the end of the file."""
    blob = bytearray(blob_of(table, compression="none", use_dictionary=False))
    place = _place(bytes(blob), UNAUDITED[channel])
    blob[place : place + 4] = b"\x18\xff\xff\x7f"
    assert len(blob) < 2_097_151
    return bytes(blob)


def _footer_of(body: bytes, other: bytes) -> bytes:
    size = int.from_bytes(other[-8:-4], "little") + 8
    return body[: -(int.from_bytes(body[-8:-4], "little") + 8)] + other[-size:]


def _zeroed(blob: bytes) -> bytes:
    end = len(blob) - 8 - int.from_bytes(blob[-8:-4], "little")
    return blob[:4] + bytes(end - 4) + blob[end:]


@pytest.fixture(scope="module")
def lied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, roots.Ran]:
    """A lane of each channel with a good segment, and one of each lie in a minute of its own."""
    data = tmp_path_factory.mktemp("lied")
    for channel in CHANNELS:
        written(place(data, channel) / "good.parquet", table_of(channel))
        for minute, (lie, make) in zip(range(2, 60, 3), LIES.items(), strict=False):
            (place(data, channel) / f"{lie}.parquet").write_bytes(make(channel, minute))
    return data, _survived(data, code=1)


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_footer_is_put_aside_or_every_row_is_taken(lied: tuple[Path, roots.Ran], lie: str) -> None:
    """Never as many rows as it says, and never others than there are."""
    data, ran = lied
    start = DAY + (2 + 3 * list(LIES).index(lie)) * MINUTE
    for channel in CHANNELS:
        clocks = [row["clock_ts"] for row in read_published(data, f"silver/{channel}", "kraken")]
        aside = [path for path in ran.quarantined if f"/{channel}/" in path and path.endswith(f"/{lie}.parquet")]
        got = [clock for clock in clocks if start <= clock < start + MINUTE]
        assert got == ([] if aside else [start + i * 10_000 for i in range(ROWS)]), channel


def test_a_page_that_leads_behind_the_end_of_the_file_is_the_files_fault(tmp_path: Path) -> None:
    """DuckDB calls it an error of input and output. The lane does not fail for it: this segment is put aside."""
    for channel in CHANNELS:
        written(place(tmp_path, channel) / "good.parquet", table_of(channel))
        (place(tmp_path, channel) / "endless.parquet").write_bytes(_endless(_long(channel, 5), channel))
    for _ in range(2):
        ran = _survived(tmp_path, code=1)
        assert len(ran.quarantined) == len(CHANNELS)


# -- values -------------------------------------------------------------------------------------------------------

EXTREME = [
    5e-324, 2.3e-308, 1e-300, 1e-30, 1e-12, 1.0, 1e12, 1e30, 1e300, math.nextafter(math.inf, 0), 0.0, -0.0, -1.0,
    -math.inf, math.inf, math.nan, None,
]  # fmt: skip


def extremes(channel: str) -> Rows:
    """Every pair of extreme values, with ordinary rows between them."""
    rows: Rows = []
    for i, (a, b) in enumerate(itertools.product(EXTREME, EXTREME)):
        clock = DAY + i * 10_000_000
        for late, (x, y) in ((0, (a, b)), (5_000_000, (100.0, 1.5))):
            row: dict[str, Any] = {"capture_ts": clock + late, "timestamp": (clock + late) // 1000}
            if channel == "trades":
                row |= {"trade_id": f"{i}-{late}", "price": x, "amount": y, "side": "buy" if i % 2 else "sell"}
            elif channel == "ticker" and not late:
                row |= {"bid": a, "ask": b, "bid_volume": b, "ask_volume": a}
            elif channel == "ticker":
                row |= {"bid": 100.0, "ask": 100.5, "bid_volume": a, "ask_volume": b}
            elif not late:
                row |= {"bids": [(a, b), (99.0, a)], "asks": [(b, a), (101.0, b)]}
            else:  # a sound book with an extreme level in the depth
                row |= {"bids": [(100.0, 1.0), (99.0, a), (1e-12, b)], "asks": [(101.0, 1.0), (102.0, b), (1e12, a)]}
            rows.append(row)
    return rows


@pytest.mark.parametrize("channel", CHANNELS)
def test_no_extreme_value_makes_a_feature_or_a_bar_nan_or_infinite(tmp_path: Path, channel: str) -> None:
    rows = extremes(channel)
    harness.write_bronze(tmp_path, channel, rows, symbol=SYMBOL)
    if channel == "orderbook":
        harness.write_bronze(tmp_path, "trades", extremes("trades"), symbol=SYMBOL)
    ran = roots.run(tmp_path, "--durations", "60,3600", "--var", "partial_bars=true")
    assert ran.of("failed") == []
    got = read_published(tmp_path, f"silver/{channel}", "kraken")
    assert len(got) == len(rows)
    assert 20 < sum(row["is_valid"] for row in got) < len(rows)
    ours = set(got[0]) - set(SCHEMAS[channel]) - {"exchange", "symbol", "source_symbol", "year", "month", "day", "hour",
                                                  "clock_ts", "lane_order", "is_valid"}  # fmt: skip
    assert {name for row in got if not row["is_valid"] for name in ours if row[name] is not None} == set()
    assert infinite_features(tmp_path) == []


def level(price: float | None, size: float | None) -> dict[str, float | None]:
    return {"price": price, "size": size}


RAGGED: dict[str, tuple[list[Any] | None, bool]] = {
    "one level": ([level(99, 1)], True),
    "a thousand levels": ([level(99 - i / 100, 1) for i in range(1000)], True),
    "a level that is NULL": ([level(99, 1), None, level(98, 1)], False),
    "a price that is NULL": ([level(99, 1), level(None, 1)], False),
    "a size that is NULL": ([level(99, 1), level(98, None)], False),
    "only sizes of 0": ([level(99, 0), level(98, 0)], False),
    "a negative size": ([level(99, 1), level(98, -1)], False),
    "a negative size behind all levels": ([*(level(99 - i / 10, 1) for i in range(40)), level(90, -1)], False),
    "NULL": (None, False),
    "empty": ([], False),
}


def test_ragged_levels_are_judged_book_by_book(tmp_path: Path) -> None:
    rows = [
        {"capture_ts": DAY + i * MINUTE, "bids": [], "asks": [(101.0, 2.0), (102.0, 1.0)]} for i in range(len(RAGGED))
    ]
    table = harness.bronze_table("orderbook", rows, exchange="kraken", symbol=SYMBOL)
    bids = pa.array([bids for bids, _ in RAGGED.values()], harness.LEVEL)
    written(
        place(tmp_path, "orderbook") / "a.parquet", table.set_column(table.column_names.index("bids"), "bids", bids)
    )
    roots.run(tmp_path, *ALL)
    got = read_published(tmp_path, "silver/orderbook", "kraken")
    judged = dict(zip(RAGGED, (row["is_valid"] for row in got), strict=True))
    assert judged == {kind: is_valid for kind, (_, is_valid) in RAGGED.items()}
    assert got[0]["bid_price_L1"] is None
    assert got[1]["bid_price_L19"] == 99 - 19 / 100
    assert infinite_features(tmp_path) == []


def test_extra_columns_of_any_kind_and_other_orders_of_them_change_nothing(tmp_path: Path) -> None:
    """Also columns that carry the names of ours."""
    extra = {
        "clock_ts": pa.timestamp("us"), "is_valid": pa.string(), "lane_order": pa.float64(), "source_symbol": pa.int8(),
        "segment": pa.string(), "position": pa.list_(pa.int8()), "file_row_number": pa.string(), "filename": pa.int64(),
        "clock_us": pa.string(), "price_unit": pa.binary(), "'; drop table trades; --": pa.int8(),
        "{{ 7*7 }}": pa.int8(), "": pa.int8(), "\n": pa.int8(),
    }  # fmt: skip
    for root, hostile in (("plain", False), ("hostile", True)):
        for channel in CHANNELS:
            table = table_of(channel)
            if hostile:
                for name, kind in extra.items():
                    table = table.append_column(name, pa.nulls(len(table), kind))
                table = table.select(list(reversed(table.column_names)))
            written(place(tmp_path / root, channel) / "a.parquet", table)
        roots.run(tmp_path / root, *ALL)
    roots.assert_same(tmp_path / "hostile", tmp_path / "plain")


@pytest.mark.parametrize("first", [True, False])
def test_a_column_whose_name_differs_in_case_is_not_taken_for_ours(tmp_path: Path, first: bool) -> None:
    """DuckDB's names have no case: such a segment is put aside, or read right."""
    table = table_of("trades")
    other = pa.array([1.0] * len(table))
    table = table.add_column(0, "Price", other) if first else table.append_column("Price", other)
    written(place(tmp_path, "trades") / "a.parquet", table)
    written(place(tmp_path, "trades", 1) / "b.parquet", table_of("trades", 1))
    done = daedalus("run", "--data", tmp_path, *ALL)
    assert done.exit_code in (0, 1)
    got = [row["price"] for row in read_published(tmp_path, "silver/trades", "kraken")]
    assert (
        got == (table["price"].to_pylist() if done.exit_code == 0 else []) + table_of("trades", 1)["price"].to_pylist()
    )


OPTIONAL = {
    "trades": ("timestamp", "collected_at", "trade_id", "side", "cost", "info_json"),
    "ticker": ("timestamp", "bid_volume", "last", "info_json"),
    "orderbook": ("timestamp", "nonce"),
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_an_optional_column_without_a_type_is_null(tmp_path: Path, channel: str) -> None:
    """As libraries write a column in which nothing is. Alone, and beside a segment that has the type."""
    for root, typeless in (("typed", False), ("typeless", True)):
        for hour, beside in ((0, False), (1, True)):
            table = table_of(channel, hour)
            for name in OPTIONAL[channel]:
                kind = pa.null() if typeless else table.schema.field(name).type
                table = typed(name, kind, None)(table)
            written(place(tmp_path / root, channel, hour) / "a.parquet", table)
            if beside:
                written(place(tmp_path / root, channel, hour) / "b.parquet", table_of(channel, hour, salt=2))
        roots.run(tmp_path / root, *ALL)
    roots.assert_same(tmp_path / "typeless", tmp_path / "typed")


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_a_capture_time_in_another_unit_is_the_same_time(tmp_path: Path, unit: str) -> None:
    """The type tells the unit: it is read right, or put aside, and never taken for another time."""
    table = table_of("trades")
    other = table["capture_ts"].cast(pa.timestamp(unit, tz="UTC"))
    table = table.set_column(table.column_names.index("capture_ts"), "capture_ts", other)
    written(place(tmp_path, "trades") / "a.parquet", table)
    done = daedalus("run", "--data", tmp_path, *ALL)
    assert done.exit_code in (0, 1)
    clocks = [row["clock_ts"] for row in read_published(tmp_path, "silver/trades", "kraken")]
    want = [row["capture_ts"] for row in rows_of("trades", 0, range(1, 60, 3))]
    assert clocks == (want if done.exit_code == 0 else [])


def test_segments_of_a_lane_may_differ_in_columns_and_widths(tmp_path: Path) -> None:
    """A collector was upgraded in the midst of an hour."""
    whole = table_of("trades")
    narrow = whole.drop_columns(["side", "trade_id", "info_json", "cost", "timestamp"])
    floats = narrow.set_column(narrow.column_names.index("price"), "price", narrow["price"].cast(pa.float32()))
    pieces = (whole.slice(0, 7), narrow.slice(7, 7), floats.slice(14))
    for i, piece in enumerate(pieces):
        written(place(tmp_path, "trades") / f"{i}.parquet", piece)
    roots.run(tmp_path, *ALL)
    got = read_published(tmp_path, "silver/trades", "kraken")
    assert [row["price"] for row in got[:14]] == whole["price"].to_pylist()[:14]
    assert [row["price"] for row in got[14:]] == floats["price"].cast(pa.float64()).to_pylist()[14:]
    assert [row["trade_id"] for row in got] == whole["trade_id"].to_pylist()[:7] + [None] * 13


# -- times --------------------------------------------------------------------------------------------------------


def test_event_times_before_1970_and_of_any_size_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = [-1, -1_770_000_000_000, 0, 1, 2**53, -(2**63), 2**63 - 1, None]
    rows = [{"capture_ts": DAY + i * MINUTE, "price": 100.0, "amount": 1.0, "timestamp": None} for i in range(30)]
    for row, value in zip(rows, odd, strict=False):
        row["timestamp"] = value
    harness.write_bronze(tmp_path, "trades", rows, symbol=SYMBOL)
    for clock in ("capture", "event"):
        roots.run(tmp_path, *ALL, clock=clock)
        got = read_published(tmp_path, "silver/trades", "kraken")
        assert [row["timestamp"] for row in got] == [*odd, *[None] * 22]
        assert [row["clock_ts"] for row in got] == [row["capture_ts"] for row in rows]  # all are far off, or NULL


@pytest.mark.parametrize(
    "day",
    ["2028-02-29", "1969-12-31", *(pytest.param(d, marks=pytest.mark.soak) for d in ("2100-02-28", "2000-02-29"))],
)
def test_a_leap_day_and_days_before_1970_are_days_like_others(tmp_path: Path, day: str) -> None:
    """The same rows on another day make the same features and bars, but for their times."""
    there = round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000
    for name, start in (("day", there), ("plain", DAY)):
        rows = [
            {"capture_ts": start + i * 12 * MINUTE - 7, "price": 100.0 + i % 5, "amount": 1.0 + i % 3, "side": "buy"}
            for i in (*range(-3, 9), *range(115, 125))  # from the day before to the day after
        ]
        harness.write_bronze(tmp_path / name, "trades", rows, symbol=SYMBOL)
        roots.run(tmp_path / name, "--durations", "3600")
    dates = {"year", "month", "day", "hour", "day_of_week", "is_weekend"}
    times = {"capture_ts", "clock_ts", "bar_start", "bar_end", "first_at", "last_at"}
    for table in ("silver/trades", "gold/trades_bars/3600s"):
        got, want = (harness.published(tmp_path / name, table) for name in ("day", "plain"))
        assert len(got) == len(want) > 3
        for g, w in zip(got, want, strict=True):
            for name in w.keys() - dates - {"collected_at"}:
                assert g[name] == (w[name] + there - DAY if name in times and w[name] is not None else w[name]), name
    folder = {str(parse_path(path)["day"]) for path in roots.files(tmp_path / "day").values()}
    assert len(folder) == 3


SHIFTED = """
import datetime, os, time
by = float(os.environ["SHIFT_SECONDS"])
of_time, of_ns = time.time, time.time_ns
time.time = lambda: of_time() + by
time.time_ns = lambda: of_ns() + int(by * 1e9)


class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)

    @classmethod
    def today(cls):
        return cls.now()


datetime.datetime = Shifted
open(os.environ["SHIFT_MARK"], "w").write(str(time.time()))
"""


def test_neither_wall_clock_nor_time_zone_nor_locale_changes_anything(tmp_path: Path) -> None:
    """Two hours behind and ahead; the market is of an hour ago by one clock and yet to come by the other."""
    start = datetime(2026, 2, 3, 23, 40, tzinfo=UTC)
    rates = {"books_per_second": 0.1, "trades_per_second": 0.1, "quotes_per_second": 0.1, "segment_seconds": 600}
    simulate(tmp_path / "market", Market(hours=0.6, symbols=("ETH-USDT",), start=start, seed=2, dirt=0.05, **rates))
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(SHIFTED)
    now = datetime.now(UTC).timestamp()
    apart = start.timestamp() - now
    done = []
    for i, (shift, zone) in enumerate(((apart - 7200, "Pacific/Kiritimati"), (apart + 7200, "America/St_Johns"))):
        data = roots.copied(tmp_path / "market", tmp_path / str(i))
        shutil.rmtree(data / "raw/ready/ccxt/ticker")
        mark = tmp_path / f"mark{i}"
        told = {"SHIFT_SECONDS": str(shift), "SHIFT_MARK": str(mark), "TZ": zone, "LC_ALL": "C", "LANG": "tr_TR.UTF-8",
                "PYTHONPATH": f"{patch}:{roots.PROJECT}", "PYTHONHASHSEED": str(i)}  # fmt: skip
        roots.run_child(data, *ALL, environment=told)
        assert abs(float(mark.read_text()) - start.timestamp()) > 7000  # the clock was another one
        done.append(data)
    roots.assert_same(*done)
    assert roots.states(done[0]) == roots.states(done[1])
    for root in done:  # nor does it, when it changes between two runs
        assert roots.run(root, *ALL).summary["made"] == 0


# -- hostile names ------------------------------------------------------------------------------------------------

NAMES = [
    "'; DROP", "{{ 7*7 }}", "{% raw %}", "$(id)", "..", "../../x", "%2e%2e", "line\nbreak", "\r", " ", " leading",
    "trailing ", "\U0001f680", "e\u0301", "\u00e9", "0x10", "007", "inf", "nan", "NULL", "2026-02-03",
    "__HIVE_DEFAULT_PARTITION__", "a=b", "=", "symbol=x", "[a-z]", "~", "-", "--full-refresh", "a,b", "\x01", "\ufeff",
    "x" * 240,
]  # fmt: skip


def outside(folder: Path, data: Path) -> dict[str, int]:
    """Everything beside the data root."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p != data and data not in p.parents}


def published_names(data: Path) -> dict[tuple[str, str, str], int]:
    """(exchange, symbol, source symbol) -> rows of silver, by the data, which must agree with the path."""
    found: dict[tuple[str, str, str], int] = {}
    for name, path in roots.files(data).items():
        table = pq.ParquetFile(path).read(columns=["exchange", "symbol", "source_symbol"])
        values = _path_values(name)
        ((exchange, symbol, source),) = set(zip(*(c.to_pylist() for c in table.columns), strict=True))
        assert (exchange, symbol) == (values["exchange"], values["symbol"])
        if name.startswith("silver"):
            found[exchange, symbol, source] = found.get((exchange, symbol, source), 0) + table.num_rows
    return found


def _path_values(name: str) -> Mapping[str, str]:
    """Of folders that are called key=value; a value may hold another '='."""
    return {part.partition("=")[0]: part.partition("=")[2] for part in name.split("/")[:-1] if "=" in part}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, roots.Ran]:
    """Trades of each name as symbol, and as exchange of the next: in data and paths. Run with bars."""
    folder = tmp_path_factory.mktemp("named")
    data = folder / "data"
    for exchange, symbol in pairs():
        rows = rows_of("trades", 0, (1, 2, 4))
        harness.write_bronze(data, "trades", rows, exchange=exchange, symbol=symbol)
    before = outside(folder, data)
    ran = roots.run_child(data, *ALL, normalize_quotes="false")
    assert outside(folder, data) == before
    return data, ran


def pairs() -> Iterable[tuple[str, str]]:
    return zip(NAMES, [*NAMES[1:], NAMES[0]], strict=True)


def test_hostile_names_round_trip_through_silver_and_gold(named: tuple[Path, roots.Ran]) -> None:
    data, ran = named
    want = {(sanitize(exchange), sanitize(symbol)) for exchange, symbol in pairs()}
    assert {(e["exchange"], e["symbol"]) for e in ran.of("partition")} == want
    assert published_names(data) == {(exchange, symbol, symbol): 3 for exchange, symbol in want}
    bars = {
        tuple(_path_values(n)[k] for k in ("exchange", "symbol")) for n in roots.files(data) if n.startswith("gold")
    }
    assert bars == want
    assert roots.run(data, *ALL, normalize_quotes="false").summary["made"] == 0


@pytest.mark.parametrize("name", ["'; DROP", "{{ 7*7 }}", "..", "\U0001f680", "line\nbreak", "a=b", "-"])
def test_hostile_names_can_be_asked_for(named: tuple[Path, roots.Ran], name: str) -> None:
    """As a filter, and in SQL."""
    import json

    data, _ = named
    asked = roots.planned(data, "--full-refresh", *SILVER, f"--symbol={name}", normalize_quotes="false")
    assert {e["source_symbol"] for e in asked} == {sanitize(name)}
    quoted = sanitize(name).replace("'", "''")
    sql = f"select count(*) as n, min(price) > 0 as sound from silver.trades where symbol = '{quoted}'"
    shown = daedalus("query", sql, "--data", data, "--format", "json", "--var", "normalize_quotes=false")
    assert shown.exit_code == 0, shown.stderr
    lanes = {(sanitize(exchange), sanitize(symbol)) for exchange, symbol in pairs()}
    rows = 3 * sum(symbol == sanitize(name) for _, symbol in lanes)
    assert json.loads(shown.stdout) == [{"n": rows, "sound": True}]


def test_hostile_names_are_normalized_like_others(tmp_path: Path) -> None:
    """A quote is a whole part of a symbol, whatever the other parts are."""
    given = {"'; DROP-USDT": "'; DROP-USD", "..-USDC": "..-USD", "\U0001f680-USDT-USDT": "\U0001f680-USD-USD",
             "{{ 7-7 }}-EUR": "{{ 7-7 }}-EUR"}  # fmt: skip
    for symbol in given:
        harness.write_bronze(tmp_path, "trades", rows_of("trades", 0, (1, 2)), symbol=symbol)
    roots.run(tmp_path, *ALL)
    assert set(published_names(tmp_path)) == {("kraken", symbol, source) for source, symbol in given.items()}


REFUSED = ["x" * 300, "\U0001f680" * 70, "", "nul\0byte"]


def test_names_that_no_folder_can_have_are_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    """In a flat file, where the path need not repeat them."""
    data = tmp_path / "data"
    for i, (exchange, symbol) in enumerate([*((bad, SYMBOL) for bad in REFUSED), *(("good", bad) for bad in REFUSED)]):
        written(data / f"raw/ready/ccxt/trades/{i}.parquet", table_of("trades", exchange=exchange, symbol=symbol))
    written(data / "raw/ready/ccxt/trades/good.parquet", table_of("trades", exchange="good"))
    before = outside(tmp_path, data)
    for _ in range(2):
        ran = roots.run(data, *ALL, code=1)
        assert len(ran.quarantined) + len({e["lane"] for e in ran.of("failed")}) == 2 * len(REFUSED)
        assert set(published_names(data)) == {("good", SYMBOL, SYMBOL)}
        assert outside(tmp_path, data) == before


FILE_NAMES = ["'; DROP", "{{ 7*7 }}", "%2e%2e", "a..b", "line\nbreak", "\U0001f680", "[a-c]", "*", "?", "a b", "$HOME",
              "~", "exchange=x", "hour=5", "0x10", "\\", "x" * 247, "-", "a;b", '"']  # fmt: skip


def test_segments_of_any_name_are_read_each_once(tmp_path: Path) -> None:
    """No name is a pattern, an option or a piece of SQL."""
    rows = rows_of("trades", 0, range(1, 1 + len(FILE_NAMES)))
    for name, row in zip(FILE_NAMES, rows, strict=True):
        harness.write_bronze(tmp_path, "trades", [row], symbol=SYMBOL, name=name)
    assert len(roots.segments(tmp_path)) == len(FILE_NAMES)
    ran = roots.run(tmp_path, *ALL)
    assert ran.quarantined == {}
    assert [row["clock_ts"] for row in read_published(tmp_path, "silver/trades", "kraken")] == [
        row["capture_ts"] for row in rows
    ]
    assert roots.run(tmp_path, *ALL).summary["made"] == 0


def test_a_name_that_is_not_utf_8_is_put_aside(tmp_path: Path) -> None:
    folder = place(tmp_path, "trades")
    written(folder / "good.parquet", table_of("trades"))
    os.link(folder / "good.parquet", os.fsencode(folder) + b"/\xff\xfe.parquet")
    ran = roots.run_child(tmp_path, *SILVER, code=1)
    assert list(ran.quarantined.values()) == ["has a name that is not UTF-8"]
    assert len(read_published(tmp_path, "silver/trades", "kraken")) == 20


@pytest.mark.parametrize(
    "name", ["'; DROP", "{{ 7*7 }}", "line\nbreak", "\U0001f680", "a b", "[a-c]*?", "%2e%2e", "-x"]
)
def test_a_data_root_of_any_name_works(tmp_path: Path, name: str) -> None:
    data = tmp_path / name / "da=ta"
    written(place(data, "trades") / "a.parquet", table_of("trades"))
    (tmp_path / name / "untouched").touch()
    before = outside(tmp_path, data)
    roots.run(data, *ALL)
    assert len(read_published(data, "silver/trades", "kraken")) == 20
    assert outside(tmp_path, data) == before


@pytest.mark.parametrize("source", ["'; DROP", "{{ 7*7 }}", "\U0001f680", "a b", "exchange=x", "[a-c]"])
def test_a_source_of_any_name_works(tmp_path: Path, source: str) -> None:
    (path,) = harness.write_bronze(tmp_path, "trades", rows_of("trades", 0), symbol=SYMBOL, source=source)
    assert source in str(path)
    roots.run(tmp_path, *SILVER, f"--source={source}")
    assert set(published_names(tmp_path)) == {("kraken", SYMBOL, SYMBOL)}


def test_hostile_text_in_rows_comes_through_as_it_is(tmp_path: Path) -> None:
    """Trade ids of any kind; a side that is none counts as NULL."""
    ids = [*NAMES, "", "\0", "9" * 400, "-1", "00", "+1", "\u0661\u0662"]
    rows = rows_of("trades", 0, [1 + i / 4 for i in range(len(ids))])
    for row, text in zip(rows, ids, strict=True):
        row |= {"trade_id": text, "side": text, "info_json": text}
    harness.write_bronze(tmp_path, "trades", rows, symbol=SYMBOL)
    roots.run(tmp_path, *ALL)
    got = read_published(tmp_path, "silver/trades", "kraken")
    assert [row["trade_id"] for row in got] == ids
    assert [row["is_buy"] for row in got] == [None] * len(ids)
