"""Every column of SPEC, as published, against its definition in plain Python (tests/naive)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import harness, naive

# the modules: `naive.bars` and its like are the functions
naive_bars, naive_books, naive_ticker, naive_trades = (
    importlib.import_module(f"tests.naive.{name}") for name in ("bars", "books", "ticker", "trades")
)
COIN_M = {"contract_kind": "inverse", "contract_size": 10}
LANES = {
    ("binance", "BTC-USDT"): {},
    ("binance", "ETH-USDT"): {},
    ("binanceusdm", "BTC-USDT-USDT"): {},
    ("binancecoinm", "ETH-USD-ETH"): COIN_M,
}
real = pytest.mark.skipif(not harness.SHARED.is_dir(), reason="the real captures are not beside the project")

Rows = list[dict[str, Any]]


def differences(got: Rows, want: Rows, **options: Any) -> list[str]:
    """All but the published symbol, which the oracle takes as it came."""
    want = [{k: v for k, v in row.items() if k != "symbol"} for row in want]
    return naive.compare(got, want, **options)[:20]


def real_root(tmp_path: Path) -> Path:
    (tmp_path / "raw").symlink_to(harness.SHARED / "raw")
    return tmp_path


def bronze(root: Path, channel: str, exchange: str, symbol: str) -> Rows:
    return naive.read_bronze(root, "ccxt", channel, exchange, symbol)


def published(root: Path, table: str, exchange: str, symbol: str, **options: Any) -> Rows:
    where = f"exchange = '{exchange}' and source_symbol = '{symbol}'"
    return harness.published(root, table, where, **options)


# -- real captures -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real captures, run once."""
    root = real_root(tmp_path_factory.mktemp("captures"))
    harness.run(root)
    return root


@real
@pytest.mark.parametrize(("exchange", "symbol"), LANES)
def test_first_books_of_a_capture(captures: Path, exchange: str, symbol: str) -> None:
    books = bronze(captures, "orderbook", exchange, symbol)[:1500]
    until = books[-1]["capture_ts"]
    trades = [t for t in bronze(captures, "trades", exchange, symbol) if t["capture_ts"] <= until]
    got = published(captures, "silver/orderbook", exchange, symbol, limit=1500)
    assert differences(got, naive.orderbook(books, trades, LANES[exchange, symbol])) == []


@real
@pytest.mark.parametrize(("exchange", "symbol"), LANES)
def test_all_trades_of_a_capture(captures: Path, exchange: str, symbol: str) -> None:
    trades, books = (bronze(captures, channel, exchange, symbol) for channel in ("trades", "orderbook"))
    got = published(captures, "silver/trades", exchange, symbol)
    assert differences(got, naive.fast.trades(trades, books, LANES[exchange, symbol])) == []


@real
@pytest.mark.parametrize(("exchange", "symbol"), LANES)
def test_all_quotes_of_a_capture(captures: Path, exchange: str, symbol: str) -> None:
    got = published(captures, "silver/ticker", exchange, symbol)
    assert differences(got, naive.fast.ticker(bronze(captures, "ticker", exchange, symbol))) == []


@real
def test_captures_come_out_whole(captures: Path) -> None:
    channels = ("orderbook", "trades", "ticker")
    counts = {c: len(harness.published(captures, f"silver/{c}", columns=["clock_ts"])) for c in channels}
    assert counts == {"orderbook": 58_641, "trades": 59_327, "ticker": 233_584}


@real
@pytest.mark.parametrize("channel", ["orderbook", "trades", "ticker"])
def test_bars_of_a_capture(captures: Path, channel: str) -> None:
    identity = ["exchange", "symbol", "source_symbol", "year", "month", "day", "clock_ts", "is_valid"]
    columns = sorted({*identity, *bar_inputs(channel)})
    for (exchange, symbol), variables in LANES.items():
        silver = published(captures, f"silver/{channel}", exchange, symbol, columns=columns)
        rows = [{**r, "clock": r["clock_ts"]} for r in silver]
        for duration in (60, 300):
            got = published(captures, f"gold/{channel}_bars/{duration}s", exchange, symbol)
            assert got
            assert differences(got, naive.bars(channel, rows, duration, variables)) == []


def bar_inputs(channel: str) -> set[str]:
    """The silver columns that the definition of bars reads."""
    if channel == "trades":
        return {"price", "amount", "dollar_volume", "is_buy", "effective_spread", "log_return", "side", "signed_volume"}
    means = set(naive_bars.MEANS[channel].values())
    if channel == "ticker":
        return means | {"mid_price"}
    return means | {"mid_price", "ofi", "mlofi", "log_return"}


def stretched(rows: Rows, factor: int, keep: int) -> Rows:
    """Every keep-th row, with `factor` times as much time between them."""
    first = 1_723_161_000_000_000
    out = []
    for row in rows[::keep]:
        shift = (row["capture_ts"] - first) * (factor - 1)
        timestamp = None if row["timestamp"] is None else row["timestamp"] + shift // 1000
        out.append({**row, "capture_ts": row["capture_ts"] + shift, "collected_at": row["collected_at"] + shift // 1000,
                    "timestamp": timestamp})  # fmt: skip
    return out


@real
@pytest.mark.parametrize(("exchange", "symbol"), LANES)
def test_windows_fill_and_expire(tmp_path: Path, exchange: str, symbol: str) -> None:
    """The captures last 650 s: thinned and stretched, their 900 s windows expire."""
    lane = {"exchange": exchange, "symbol": symbol}
    rows: dict[str, Rows] = {}
    for channel, keep in (("orderbook", 16), ("trades", 16), ("ticker", 48)):
        found = bronze(harness.SHARED, channel, exchange, symbol)
        rows[channel] = stretched(found, 8, max(keep, len(found) // 900))
        harness.write_bronze(tmp_path, channel, rows[channel], **lane)
    harness.run(tmp_path)
    again = {channel: bronze(tmp_path, channel, exchange, symbol) for channel in rows}
    v = LANES[exchange, symbol]
    assert rows["orderbook"][-1]["capture_ts"] - rows["orderbook"][0]["capture_ts"] > 2_000_000_000
    got = harness.published(tmp_path, "silver/orderbook")
    assert differences(got, naive.orderbook(again["orderbook"], again["trades"], v)) == []
    got = harness.published(tmp_path, "silver/trades")
    assert differences(got, naive.trades(again["trades"], again["orderbook"], v)) == []
    assert differences(harness.published(tmp_path, "silver/ticker"), naive.ticker(again["ticker"], v)) == []


# -- simulated dirt ----------------------------------------------------------------------------------------------


def simulated(root: Path, seed: int, **options: Any) -> str:
    from daedalus_etl.simulator import Market, simulate

    symbol = options.pop("symbol", "BTC-USDT")
    simulate(root, Market(symbols=(symbol,), seed=seed, **options))
    return str(symbol)


def check_all(root: Path, symbol: str, variables: Mapping[str, Any], durations: Sequence[int]) -> None:
    rows = {c: bronze(root, c, "demo", symbol) for c in ("orderbook", "trades", "ticker")}
    want = {
        "orderbook": naive.orderbook(rows["orderbook"], rows["trades"], variables),
        "trades": naive.trades(rows["trades"], rows["orderbook"], variables),
        "ticker": naive.ticker(rows["ticker"], variables),
    }
    for channel, expected in want.items():
        got = harness.published(root, f"silver/{channel}")
        assert differences(got, expected) == [], channel
        end = max(r["clock"] for r in naive.ordered(rows[channel], channel, variables))
        for duration in durations:
            bars = naive.bars(channel, [{**r, "clock": r["clock_ts"]} for r in got], duration, variables, end)
            found = harness.published(root, f"gold/{channel}_bars/{duration}s")
            assert differences(found, bars) == [], (channel, duration)


@pytest.mark.parametrize(
    ("seed", "symbol", "variables"),
    [
        (1, "BTC-USDT", {}),
        (2, "SHIB-USDT", {"vpin_bucket_volume": 2e7}),
        (3, "ETH-USDT", {"clock": "event"}),
        (4, "PEPE-USDT", {"levels": 6, "ofi_levels": 4, "vpin_window_buckets": 5, "vpin_bucket_volume": 1e7}),
        (5, "SOL-USDT", {"max_staleness": 2, "rolling_windows": [1, 7, 100], "spread_regime_window": 20}),
        (6, "BTC-USDT", {"resample_frequency": 5, "resample_max_staleness": 7}),
        (7, "ETH-USDT", {"resample_frequency": 3, "fill_gaps": True, "max_staleness": 6}),
        (8, "BTC-USDT", {"partial_bars": True, "trade_dedupe_window": 5}),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else str(v),
)
def test_a_dirty_market(tmp_path: Path, seed: int, symbol: str, variables: dict[str, Any]) -> None:
    simulated(
        tmp_path, seed, symbol=symbol, hours=0.5, dirt=0.15, books_per_second=0.7, trades_per_second=0.6,
        quotes_per_second=0.7, segment_seconds=100,
    )  # fmt: skip
    durations = [7, 60, 90, 420, 5000]  # of slices of 1, 60, 30, 60 and 20 s
    harness.run(tmp_path, **variables, bar_durations=durations)
    check_all(tmp_path, symbol, variables, durations)


def test_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    simulated(tmp_path, 9, hours=0.1, dirt=0)
    harness.run(tmp_path, bar_durations=[60])
    of_silver = {"orderbook": naive_books.columns, "trades": naive_trades.columns, "ticker": naive_ticker.columns}
    for channel, columns in of_silver.items():
        missing = set(columns(naive.DEFAULTS)) - set(harness.published(tmp_path, f"silver/{channel}")[0])
        assert not missing
        missing = set(naive_bars.columns(channel)) - set(harness.published(tmp_path, f"gold/{channel}_bars/60s")[0])
        assert not missing
