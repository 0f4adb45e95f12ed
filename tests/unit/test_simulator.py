"""The demo's market: what it writes, that it repeats itself, and that its dirt is there when asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import simulator
from daedalus_etl.errors import DaedalusError
from daedalus_etl.simulator import CHANNELS, DIRT_KINDS, SCHEMAS, Market, lane_tables, simulate, write_segments

MIDNIGHT = datetime(2026, 2, 3, 23, 54, tzinfo=UTC)
SHORT = Market(hours=0.2, symbols=("BTC/USDT:USDT", "SHIB-USDT"), start=MIDNIGHT, dirt=0.05)
QUIET = {"books_per_second": 0.2, "trades_per_second": 0.2, "quotes_per_second": 0.2}


def capture_us(table: pa.Table) -> np.ndarray:
    return table["capture_ts"].cast(pa.int64()).to_numpy()


def files(root: Path) -> dict[str, str]:
    """Path inside the root -> digest of the file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows_of(table: pa.Table) -> list[dict]:
    """Rows with the capture time as a number of microseconds."""
    index = table.schema.get_field_index("capture_ts")
    return table.set_column(index, "capture_ts", table["capture_ts"].cast(pa.int64())).to_pylist()


@pytest.fixture(scope="module")
def dirty() -> dict[str, pa.Table]:
    return lane_tables(Market(dirt=0.01), "BTC-USDT")


@pytest.fixture(scope="module")
def clean() -> dict[str, pa.Table]:
    return lane_tables(Market(dirt=0), "BTC-USDT")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bronze")
    simulate(root, SHORT)
    return root


# What is wrong with rows, by looking at them: the names are those of DIRT_KINDS.


def flaws_of_any_row(rows: list[dict]) -> Iterator[str]:
    latest, seen, by_capture = 0, {}, {}
    for before, row in zip([None, *rows], rows, strict=False):
        key = repr(row)
        if row["timestamp"] is None:
            yield "timestamp_null"
        if key in seen:
            yield "duplicate_adjacent" if repr(before) == key else "duplicate_later"
            if repr(before) != key:
                assert latest - row["capture_ts"] > 60e6
        elif row["capture_ts"] < latest:
            yield "out_of_order"
        elif row["capture_ts"] in by_capture:
            yield "same_capture_microsecond"
        seen[key] = by_capture[row["capture_ts"]] = True
        latest = max(latest, row["capture_ts"])


def timestamps_fall(rows: list[dict]) -> bool:
    times = [row["timestamp"] for row in rows if row["timestamp"] is not None]
    return any(later < earlier for earlier, later in pairwise(times))


def flaws_of_books(rows: list[dict]) -> Iterator[str]:
    yield from flaws_of_any_row(rows)
    if timestamps_fall(sorted((row for row in rows if row["nonce"] is not None), key=lambda row: row["nonce"])):
        yield "timestamp_back"
    for row in rows:
        if row["nonce"] is None:
            yield "nonce_null"
        bids, asks = row["bids"], row["asks"]
        if bids is None or asks is None:
            yield "book_side_null"
            continue
        if not bids and not asks:
            yield "book_empty"
        elif not bids or not asks:
            yield "book_one_sided"
        else:
            yield from flaws_of_levels(bids, asks)


def flaws_of_levels(bids: list[dict], asks: list[dict]) -> Iterator[str]:
    prices = [[level["price"] for level in side] for side in (bids, asks)]
    sizes = [[level["size"] for level in side] for side in (bids, asks)]
    flat_prices, flat_sizes = prices[0] + prices[1], sizes[0] + sizes[1]
    for values, name in ((flat_prices, "level_price"), (flat_sizes, "level_size")):
        checks = {
            f"{name}_nan": any(map(math.isnan, values)),
            f"{name}_infinite": any(map(math.isinf, values)),
            f"{name}_negative": any(value < 0 for value in values),
        }
        yield from (flaw for flaw, found in checks.items() if found)
    if 0 in flat_prices:
        yield "level_price_zero"
    if sizes[0][0] == 0 or sizes[1][0] == 0:
        yield "level_size_zero_best"
    if 0 in sizes[0][1:] + sizes[1][1:]:
        yield "level_size_zero_inside"
    if min(len(bids), len(asks)) <= 8:
        yield "book_short"
    if all(math.isfinite(price) and price > 0 for price in flat_prices):
        if any(lower >= upper for upper, lower in pairwise(prices[0])) or any(
            upper <= lower for lower, upper in pairwise(prices[1])
        ):
            yield "book_unsorted"
        elif prices[0][0] > prices[1][0]:
            yield "book_crossed"
        elif prices[0][0] == prices[1][0]:
            yield "book_locked"


def flaws_of_trades(rows: list[dict]) -> Iterator[str]:
    fresh = [row for row in rows if row["timestamp"] is None or not is_history(row)]
    yield from flaws_of_any_row(fresh)
    numbered = [row for row in fresh if (row["trade_id"] or "").isdigit()]
    if timestamps_fall(sorted(numbered, key=lambda row: int(row["trade_id"]))):
        yield "timestamp_back"
    first: dict[str, int] = {}
    for row in fresh:
        identity = repr([row[name] for name in ("trade_id", "timestamp", "price", "amount", "side")])
        age = row["capture_ts"] - first.setdefault(identity, row["capture_ts"])
        if row["trade_id"] is not None and age:
            yield "second_connection_late" if age > 900e6 else "second_connection"
        yield from flaws_of_numbers(row, {"price": "price", "amount": "amount"})
        if row["trade_id"] is None:
            yield "trade_id_null"
        elif not row["trade_id"].isdigit():
            yield "trade_id_text"
        if row["side"] is None:
            yield "side_null"
        elif row["side"] in ("BUY", "SELL"):
            yield "side_upper_case"
        elif row["side"].lower() not in ("buy", "sell"):
            yield "side_nonsense"


def flaws_of_quotes(rows: list[dict]) -> Iterator[str]:
    yield from flaws_of_any_row(rows)
    if timestamps_fall(sorted(rows, key=lambda row: row["capture_ts"])):
        yield "timestamp_back"
    for row in rows:
        names = {"bid": "quote", "ask": "quote", "bid_volume": "volume", "ask_volume": "volume"}
        for column, name in names.items():
            if row[column] is None:
                yield f"{name}_null"
        yield from flaws_of_numbers(row, names)
        bid, ask = row["bid"], row["ask"]
        if bid and ask and bid > 0 and ask > 0 and math.isfinite(ask):
            if bid > ask:
                yield "quote_crossed"
            elif bid == ask:
                yield "quote_locked"


def flaws_of_numbers(row: dict, names: dict[str, str]) -> Iterator[str]:
    for column, name in names.items():
        value = row[column]
        if value is None:
            continue
        if math.isnan(value):
            yield f"{name}_nan"
        elif math.isinf(value):
            yield f"{name}_infinite"
        elif value <= 0:
            yield f"{name}_zero" if value == 0 else f"{name}_negative"


def is_history(row: dict) -> bool:
    return row["capture_ts"] / 1e3 - row["timestamp"] > 40 * 86_400_000


FLAWS = {"orderbook": flaws_of_books, "trades": flaws_of_trades, "ticker": flaws_of_quotes}


# Repeatable


def test_the_same_arguments_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    simulate(tmp_path, SHORT)
    assert files(tmp_path) == files(written)


def test_another_seed_is_another_market(clean: dict[str, pa.Table]) -> None:
    other = lane_tables(Market(dirt=0, seed=8, hours=0.05), "BTC-USDT")
    for channel in CHANNELS:
        assert not clean[channel].slice(0, 20).equals(other[channel].slice(0, 20))


def test_the_market_is_the_same_without_the_jit(tmp_path: Path) -> None:
    market = "Market(hours=0.01, symbols=('ETH-USDT',), dirt=0.1)"
    code = f"from daedalus_etl.simulator import *; simulate({str(tmp_path / 'off')!r}, {market})"
    root = Path(simulator.__file__).parents[2]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment, timeout=60)
    simulate(tmp_path / "on", Market(hours=0.01, symbols=("ETH-USDT",), dirt=0.1))
    assert files(tmp_path / "off") == files(tmp_path / "on")


def test_dirt_leaves_the_market_under_it_as_it_is(dirty: dict[str, pa.Table], clean: dict[str, pa.Table]) -> None:
    for channel in CHANNELS:
        known = {repr(row) for row in rows_of(clean[channel].slice(0, 8000))}
        rows = rows_of(dirty[channel].slice(0, 5000))
        strange = sum(repr(row) not in known for row in rows)
        assert 0.003 * len(rows) < strange < 0.02 * len(rows)


def test_a_symbol_does_not_depend_on_its_neighbours() -> None:
    alone = lane_tables(Market(hours=0.02, symbols=("SOL-USDT",)), "SOL-USDT")
    together = lane_tables(Market(hours=0.02, symbols=3), "SOL-USDT")
    assert alone["trades"].equals(together["trades"])


# The contract of bronze


def test_each_file_keeps_the_contract(written: Path) -> None:
    pattern = re.compile(
        r"raw/ready/ccxt/(?P<channel>\w+)/exchange=(?P<exchange>[^/]+)/symbol=(?P<symbol>[^/]+)/year=(?P<year>\d+)"
        r"/month=(?P<month>[1-9]\d?)/day=(?P<day>[1-9]\d?)/hour=(?P<hour>\d|1\d|2[0-3])"
        r"/segment_(?P<stamp>\d{8}T\d{2})_(?P<number>\d{5})\.parquet"
    )
    lanes = Counter()
    for path in files(written):
        part = pattern.fullmatch(path)
        assert part, path
        table = pq.ParquetFile(written / path).read()
        assert table.schema.equals(SCHEMAS[part["channel"]])
        assert table.num_rows > 0
        for name in ("exchange", "symbol", "year", "month", "day", "hour"):
            assert set(map(str, table[name].to_pylist())) == {part[name]}
        capture = capture_us(table)
        start = datetime(*(int(part[name]) for name in ("year", "month", "day", "hour")), tzinfo=UTC)
        assert set(capture // 3_600_000_000 * 3600) == {int(start.timestamp())}
        assert part["stamp"] == f"{start:%Y%m%dT%H}"
        assert np.array_equal(table["collected_at"].to_numpy(), capture // 1000)
        lanes[part["channel"], part["symbol"]] += 1
    assert set(lanes) == {(channel, symbol) for channel in CHANNELS for symbol in ("BTC-USDT-USDT", "SHIB-USDT")}


def test_both_sides_of_midnight_are_present(written: Path, dirty: dict[str, pa.Table]) -> None:
    for channel in CHANNELS:
        days = {path.parts[-3:-1] for path in written.glob(f"raw/ready/ccxt/{channel}/*/*/*/*/*/*/*.parquet")}
        assert days == {("day=3", "hour=23"), ("day=4", "hour=0")}
        assert set(dirty[channel]["day"].to_pylist()) == {3, 4}


def test_segments_are_numbered_from_one_and_end_after_their_seconds(written: Path) -> None:
    folders = {path.parent for path in written.rglob("*.parquet")}
    for folder in folders:
        paths = sorted(folder.iterdir())
        assert [int(path.stem[-5:]) for path in paths] == list(range(1, len(paths) + 1))
        firsts = []
        for path in paths:
            capture = capture_us(pq.ParquetFile(path).read(columns=["capture_ts"]))
            assert capture.max() - capture[0] < 60_000_000
            firsts.append(capture.max())
        assert firsts == sorted(firsts)


def test_the_files_in_order_are_the_lane_in_memory(written: Path) -> None:
    tables = lane_tables(SHORT, "SHIB-USDT")
    for channel in CHANNELS:
        paths = sorted(
            written.glob(f"raw/ready/ccxt/{channel}/*/symbol=SHIB-USDT/*/*/*/*/*"), key=lambda path: path.name
        )
        read = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
        # compared as text, where NaN equals NaN
        assert repr(read.to_pylist()) == repr(tables[channel].to_pylist())


def test_the_summary_counts_what_is_there(tmp_path: Path) -> None:
    market = Market(hours=0.1, symbols=2)
    summary = simulate(tmp_path, market, source="feed", channels=("trades",))
    paths = list(tmp_path.glob("raw/ready/feed/trades/**/*.parquet"))
    assert len(paths) == len([path for path in tmp_path.rglob("*") if path.is_file()]) == summary.segments
    assert summary.bytes == sum(path.stat().st_size for path in paths)
    assert [lane.symbol for lane in summary.lanes] == ["BTC-USDT", "ETH-USDT"]
    for lane in summary.lanes:
        assert lane.rows == lane_tables(market, lane.symbol)["trades"].num_rows
    assert summary.channel("trades").rows == summary.rows > 0


# The market


def test_a_clean_market_has_no_flaw(clean: dict[str, pa.Table]) -> None:
    for channel in CHANNELS:
        rows = rows_of(clean[channel].slice(4000, 6000))  # midnight is in it
        assert not Counter(FLAWS[channel](rows))
        assert not any(is_history(row) for row in rows)
        assert np.diff(capture_us(clean[channel])).max() < 120e6


@pytest.mark.parametrize("symbol", ["BTC-USDT", "SHIB-USDT", "PEPE-USDT", "XYZ/ABC"])
def test_a_clean_book_is_sorted_uncrossed_and_positive(symbol: str) -> None:
    books = lane_tables(Market(hours=0.1, symbols=(symbol,), dirt=0), symbol)["orderbook"]
    assert books.num_rows > 500
    assert not Counter(flaws_of_books(rows_of(books)))
    levels = [len(row) for row in books["bids"].to_pylist()]
    assert max(levels) == 20
    assert 10 < min(levels) < 20


def test_ids_and_nonces_rise_and_clocks_are_a_second_or_two_apart(clean: dict[str, pa.Table]) -> None:
    assert (np.diff(clean["orderbook"]["nonce"].to_numpy()) > 0).all()
    assert (np.diff([int(number) for number in clean["trades"]["trade_id"].to_pylist()]) > 0).all()
    for channel in CHANNELS:
        lag = clean[channel]["collected_at"].to_numpy() - clean[channel]["timestamp"].to_numpy()
        assert ((np.abs(lag) > 800) & (np.abs(lag) < 2200)).all()
        assert (np.diff(clean[channel]["timestamp"].to_numpy()) == 0).any()  # several events in one millisecond


def test_trades_lie_at_plausible_quotes(clean: dict[str, pa.Table]) -> None:
    quotes, trades = clean["ticker"], clean["trades"]
    at = np.searchsorted(capture_us(quotes), capture_us(trades)) - 1
    bid, ask = (quotes[name].to_numpy()[np.maximum(at, 0)] for name in ("bid", "ask"))
    price = trades["price"].to_numpy()
    sign = np.where(np.array(trades["side"].to_pylist()) == "buy", 1, -1)
    mid = (bid + ask) / 2
    known = at >= 0
    assert (np.abs(price / mid - 1)[known] < 0.001).all()
    assert (((price - mid) * sign > 0)[known]).mean() > 0.75
    assert np.array_equal(price * trades["amount"].to_numpy(), trades["cost"].to_numpy())


def test_a_book_nets_the_trades_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no other flow, what a book lacks is what was traded since the last one."""
    parameters = simulator.rows._parameters

    def only_trades(market: Market, symbol: str) -> tuple[np.void, np.void]:
        p, s = parameters(market, symbol)
        p["flow_rate"] = 1e-9
        return p, s

    monkeypatch.setattr(simulator.rows, "_parameters", only_trades)
    tables = lane_tables(Market(hours=0.02, symbols=("BTC-USDT",), dirt=0), "BTC-USDT")
    trades = rows_of(tables["trades"])
    assert len(trades) > 50
    checked = 0
    for before, after in pairwise(rows_of(tables["orderbook"])):
        traded = Counter()
        for trade in trades:
            if before["capture_ts"] < trade["capture_ts"] <= after["capture_ts"]:
                traded[trade["price"]] += round(trade["amount"] * 100_000)
        for side in ("bids", "asks"):
            then = {level["price"]: round(level["size"] * 100_000) for level in before[side]}
            now = {level["price"]: round(level["size"] * 100_000) for level in after[side]}
            for price in now.keys() & then.keys():
                assert then[price] - now[price] == traded[price]
                checked += traded[price] > 0
            for price in set(then) - set(now):
                gone = price > max(now) if side == "bids" else price < min(now)
                assert not gone or traded[price] == then[price]
    assert checked > 20


def test_signs_persist_spreads_change_and_volatility_clusters(clean: dict[str, pa.Table]) -> None:
    sign = np.where(np.array(clean["trades"]["side"].to_pylist()) == "buy", 1.0, -1.0)
    assert np.corrcoef(sign[1:], sign[:-1])[0, 1] > 0.3
    bid, ask = (clean["ticker"][name].to_numpy() for name in ("bid", "ask"))
    tight, wide = np.quantile(ask - bid, [0.1, 0.95])
    assert wide > 3 * tight
    moves = np.abs(np.diff(np.log((bid + ask) / 2)))
    blocks = moves[: len(moves) // 100 * 100].reshape(-1, 100).mean(axis=1)
    assert np.corrcoef(blocks[1:], blocks[:-1])[0, 1] > 0.1


def test_the_ticker_figures_belong_together(clean: dict[str, pa.Table]) -> None:
    quotes = {name: clean["ticker"][name].to_numpy() for name in SCHEMAS["ticker"].names[8:22]}
    assert (quotes["low"] <= quotes["last"]).all()
    assert (quotes["last"] <= quotes["high"]).all()
    assert np.allclose(quotes["vwap"] * quotes["base_volume"], quotes["quote_volume"], rtol=1e-12)
    assert np.allclose(quotes["last"] - quotes["open"], quotes["change"], atol=1e-6)
    assert (np.diff(quotes["base_volume"]) >= 0).all()
    assert all("u" in json.loads(text) for text in clean["ticker"]["info_json"].to_pylist()[:50])


@pytest.mark.parametrize("rate", [5, 40])
def test_rates_are_means_with_bursts(rate: float) -> None:
    market = Market(hours=1, symbols=1, dirt=0, books_per_second=rate, trades_per_second=rate, quotes_per_second=rate)
    for table in lane_tables(market, "BTC-USDT").values():
        assert 0.8 * rate < table.num_rows / 3600 < 1.2 * rate
        per_second = np.bincount(capture_us(table) // 1_000_000 - capture_us(table)[0] // 1_000_000)
        assert per_second.var() > 2 * per_second.mean()  # a Poisson process has 1


def test_a_rate_of_zero_makes_no_rows_and_no_files(tmp_path: Path) -> None:
    market = Market(hours=0.05, symbols=1, trades_per_second=0)
    summary = simulate(tmp_path, market)
    assert summary.channel("trades").segments == 0
    assert summary.channel("orderbook").rows > 0
    assert not list(tmp_path.rglob("trades"))


# Dirt


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_kind_of_dirt_appears_within_an_hour(channel: str, dirty: dict[str, pa.Table]) -> None:
    found = Counter(FLAWS[channel](rows_of(dirty[channel])))
    assert set(found) == set(DIRT_KINDS[channel])


def test_old_trades_are_replayed_at_subscription(dirty: dict[str, pa.Table]) -> None:
    rows = rows_of(dirty["trades"])
    old = [i for i, row in enumerate(rows) if row["timestamp"] is not None and is_history(row)]
    assert old == list(range(len(old)))
    assert len(old) >= 8
    assert 41 <= (rows[0]["capture_ts"] / 1e3 - rows[0]["timestamp"]) / 86_400_000 < 41.1


def test_an_hour_has_a_gap_of_seven_minutes_in_all_channels(dirty: dict[str, pa.Table]) -> None:
    for table in dirty.values():
        capture = np.sort(capture_us(table))
        assert 420e6 <= np.diff(capture).max() < 480e6


def test_three_hours_have_one_without_data(tmp_path: Path) -> None:
    simulate(tmp_path, Market(hours=3, symbols=1, start=datetime(2026, 2, 3, 22, tzinfo=UTC), **QUIET))
    for channel in CHANNELS:
        folders = sorted({path.parts[-3:-1] for path in tmp_path.glob(f"raw/ready/ccxt/{channel}/**/*.parquet")})
        assert folders == [("day=3", "hour=22"), ("day=4", "hour=0")]


def test_the_second_connection_crosses_the_hour() -> None:
    found = 0
    for seed in range(4):
        market = Market(hours=0.3, start=MIDNIGHT, symbols=1, dirt=0.02, seed=seed)
        trades = rows_of(lane_tables(market, "BTC-USDT")["trades"])
        last = {row["trade_id"]: row for row in trades if row["hour"] == 23 and row["trade_id"]}
        found += any(row["hour"] == 0 and row["trade_id"] in last for row in trades)
    assert found


def test_more_dirt_makes_more_dirty_rows() -> None:
    def null_timestamps(dirt: float) -> int:
        return lane_tables(Market(hours=0.4, symbols=1, dirt=dirt), "BTC-USDT")["orderbook"]["timestamp"].null_count

    assert null_timestamps(0) < null_timestamps(0.05) < null_timestamps(0.4)


# Files, cost and errors


def test_segments_are_added_and_never_changed(tmp_path: Path) -> None:
    table = lane_tables(Market(hours=0.1, symbols=1, dirt=0), "BTC-USDT")["trades"]
    where = (tmp_path, "ccxt", "trades", "demo", "BTC/USDT")
    first = write_segments(*where, table.slice(0, 300))
    before = files(tmp_path)
    second = write_segments(*where, table.slice(300), segment_seconds=20)
    assert len(first) + len(second) == len(set(first + second)) == len(files(tmp_path))
    assert before.items() <= files(tmp_path).items()
    assert pa.concat_tables([pq.ParquetFile(path).read() for path in first + second]).equals(table)


def test_a_late_row_goes_to_its_own_hour(tmp_path: Path) -> None:
    table = lane_tables(Market(hours=0.05, start=MIDNIGHT.replace(minute=58, second=30), symbols=1, dirt=0), "BTC-USDT")
    trades = table["trades"]
    order = [*range(1, len(trades)), 0]
    paths = write_segments(tmp_path, "ccxt", "trades", "demo", "BTC-USDT", trades.take(order))
    hours = [set(pq.ParquetFile(path).read(columns=["hour"])["hour"].to_pylist()) for path in paths]
    assert all(len(hour) == 1 for hour in hours)
    late = [path for path in paths if f"{os.sep}hour=23{os.sep}" in path][-1]
    assert pq.ParquetFile(late).read()["trade_id"].to_pylist()[-1] == trades["trade_id"][0].as_py()


def test_a_second_market_over_the_same_hours_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    simulate(tmp_path, Market(hours=0.02, symbols=("ETH-USDT",)))
    before = files(tmp_path)
    with pytest.raises(DaedalusError, match="segments already"):
        simulate(tmp_path, Market(hours=0.02, symbols=("BTC-USDT", "ETH-USDT"), seed=9))
    assert files(tmp_path) == before


def test_four_lane_hours_take_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    summary = simulate(tmp_path, Market(symbols=4))
    assert summary.rows > 120_000
    assert time.perf_counter() - started < 20  # 2 s on a quiet machine


def test_memory_does_not_grow_with_the_hours() -> None:
    def peak(hours: float) -> int:
        tracemalloc.start()
        for tables in simulator.lane_hours(
            Market(hours=hours, symbols=1, start=datetime(2026, 1, 1, tzinfo=UTC)), "BTC-USDT"
        ):
            assert set(tables) == set(CHANNELS)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(8) < 1.1 * peak(3) < 120e6


@pytest.mark.parametrize(
    "wrong",
    [
        {"hours": 0},
        {"hours": math.nan},
        {"hours": "1"},
        {"symbols": ()},
        {"symbols": 0},
        {"symbols": ("",)},
        {"symbols": ("A/B", "A:B")},
        {"symbols": ("new\nline",)},
        {"exchange": " "},
        {"dirt": 1},
        {"dirt": -0.1},
        {"seed": 1.5},
        {"segment_seconds": 0},
        {"trades_per_second": -1},
        {"start": "2026-02-03"},
    ],
)
def test_a_market_that_cannot_be_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(DaedalusError) as caught:
        Market(**wrong)
    assert next(iter(wrong)) in caught.value.what
    assert caught.value.hint


def test_unknown_channels_symbols_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DaedalusError, match="trade_s"):
        simulate(tmp_path, Market(hours=0.01), channels=("trade_s",))
    with pytest.raises(DaedalusError, match="NOPE"):
        lane_tables(Market(hours=0.01), "NOPE")
    with pytest.raises(DaedalusError, match="columns"):
        write_segments(tmp_path, "ccxt", "trades", "demo", "X", pa.table({"price": [1.0]}))
    assert not files(tmp_path)


def test_symbols_by_number_are_well_known_first() -> None:
    assert Market(symbols=2).names == ("BTC-USDT", "ETH-USDT")
    assert Market(symbols=18).names[-1] == "SYM018-USDT"
    assert len(set(Market(symbols=40).names)) == 40
