"""What a lane is and is called: names, partners, clocks, layouts, what cannot be used (SPEC 2, 4, 10, 11.6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import models, runner
from daedalus_etl.lanes import parse_path, sanitize
from tests import harness
from tests.tables import Market, Rows, assert_rows, at, given_rows, read_published

SILVER = ("silver.orderbook", "silver.trades")
NAMES = Market(*SILVER)
AS_IS = Market(*SILVER, normalize_quotes=False)
EVENTS = Market(*SILVER, clock="event")


@pytest.fixture(scope="module", autouse=True)
def _run(tmp_path_factory: pytest.TempPathFactory) -> None:
    for market in (NAMES, AS_IS, EVENTS):
        market.run(tmp_path_factory.mktemp("lanes"))


def report_of(data: Path, selection: Mapping[str, Any] | None = None, **variables: Any) -> runner.Report:
    """A run that may leave lanes behind."""
    profile = harness.profile(data, **variables)
    graph = models.Graph(profile.projects, profile.variables)
    return runner.Run(profile, graph, runner.Selection(**(selection or {})), lambda *_: None).run()


# -- names ---------------------------------------------------------------------------------------------------------

ONE_BOOK = """
    at       | bids | asks
    00:00:10 | 99x1 | 101x1
"""
ONE_TRADE = """
    at       | price | amount | side
    00:00:05 | 100   | 3      | buy
"""
SPOT = NAMES.lane("BTC-USDT", exchange="plain", trades=ONE_TRADE)
SWAP = NAMES.lane("BTC-USDT-USDT", exchange="plain", trades=ONE_TRADE)
LOWER = NAMES.lane("USDT-EUR", exchange="plain", trades=ONE_TRADE)


def test_dollar_quotes_and_settlements_count_as_usd() -> None:
    for lane, canonical in ((SPOT, "BTC-USD"), (SWAP, "BTC-USD-USD"), (LOWER, "USDT-EUR")):
        assert [row["symbol"] for row in lane.rows("silver/trades")] == [canonical]
    folders = {path.name for path in (NAMES.data / "processed/silver/trades/exchange=plain").iterdir()}
    assert folders == {"symbol=BTC-USD", "symbol=BTC-USD-USD", "symbol=USDT-EUR"}


TETHER = NAMES.lane("ETH-USDT", exchange="crowd", trades=ONE_TRADE)
CIRCLE = NAMES.lane("ETH-USDC", exchange="crowd", trades=ONE_TRADE)
DOLLAR = NAMES.lane("ETH-USD", exchange="crowd", orderbook=ONE_BOOK)


def test_lanes_that_would_collide_keep_their_own_names_with_a_warning() -> None:
    assert [row["symbol"] for row in TETHER.rows("silver/trades")] == ["ETH-USDT"]
    assert [row["symbol"] for row in CIRCLE.rows("silver/trades")] == ["ETH-USDC"]
    (warning,) = [w for w in NAMES.report.warnings if "ETH-USDT" in w and "ETH-USDC" in w]
    assert "crowd" in warning
    assert not [w for w in NAMES.report.warnings if "plain" in w]


def test_a_book_with_several_trades_lanes_of_its_canonical_symbol_takes_none_with_a_warning() -> None:
    assert_rows(DOLLAR.rows("silver/orderbook"), """
        symbol  | interval_buy_volume | interval_trade_count | tfi_60s | vpin
        ETH-USD | -                   | -                    | -       | -
    """)
    assert [w for w in NAMES.report.warnings if "orderbook crowd ETH-USD:" in w]


ALONE = NAMES.lane("SOL-USDC", exchange="pair", orderbook="""
    at       | bids | asks
    00:00:01 | 99x1 | 101x1
    00:00:10 | 99x1 | 101x1
""")
OTHER = NAMES.lane("SOL-USDT", exchange="pair", trades=ONE_TRADE)


def test_a_book_takes_the_only_trades_lane_of_its_canonical_symbol_and_trades_take_books_likewise() -> None:
    assert_rows(ALONE.rows("silver/orderbook"), """
        symbol  | source_symbol | interval_buy_volume | vpin
        SOL-USD | SOL-USDC      | -                   | -
        SOL-USD | SOL-USDC      | 3                   | 1
    """)
    assert_rows(OTHER.rows("silver/trades"), """
        symbol  | source_symbol | mid_before
        SOL-USD | SOL-USDT      | 100
    """)


OWN = NAMES.lane("ADA-USDT", exchange="own", orderbook=ONE_BOOK, trades=ONE_TRADE)
NOT_OWN = NAMES.lane("ADA-USDC", exchange="own", trades="""
    at       | price | amount | side
    00:00:05 | 100   | 7      | sell
""")
ELSEWHERE = NAMES.lane("XRP-USDT", exchange="here", orderbook=ONE_BOOK)
ABROAD = NAMES.lane("XRP-USDT", exchange="there", trades=ONE_TRADE)


def test_a_book_prefers_the_trades_of_its_own_symbol_and_never_takes_those_of_another_exchange() -> None:
    assert_rows(OWN.rows("silver/orderbook"), """
        interval_buy_volume | interval_sell_volume | interval_trade_count
        3                   | 0                    | 1
    """)
    assert [row["interval_trade_count"] for row in ELSEWHERE.rows("silver/orderbook")] == [None]


PLAIN = AS_IS.lane("SOL-USDC", orderbook="""
    at       | bids | asks
    00:00:04 | 99x1 | 101x1
    00:00:10 | 99x1 | 101x1
""")
NO_PARTNER = AS_IS.lane("SOL-USDT", trades=ONE_TRADE)


def test_without_normalization_symbols_are_what_bronze_says() -> None:
    assert_rows(PLAIN.rows("silver/orderbook"), """
        symbol   | source_symbol | interval_trade_count
        SOL-USDC | SOL-USDC      | -
        SOL-USDC | SOL-USDC      | -
    """)
    assert_rows(NO_PARTNER.rows("silver/trades"), """
        symbol   | source_symbol | mid_before
        SOL-USDT | SOL-USDT      | -
    """)
    assert AS_IS.report.warnings == []


@pytest.mark.parametrize("symbol", ["BTC-USD", "BTC/USDC", "BTC-USDT"])
def test_a_symbol_filter_matches_all_variants(tmp_path: Path, symbol: str) -> None:
    for name in ("BTC-USDT", "BTC-EUR"):
        harness.write_bronze(tmp_path, "trades", given_rows(ONE_TRADE), symbol=name)
    harness.run(tmp_path, "silver.trades", selection={"symbols": (symbol,)})
    assert [row["source_symbol"] for row in read_published(tmp_path, "silver/trades", "kraken")] == ["BTC-USDT"]


# -- the event clock -----------------------------------------------------------------------------------------------

LATE = EVENTS.lane("late", trades="""
    at       | timestamp           | collected_at | price | amount
    00:00:05 | 00:00:04            | 00:00:05     | 100   | 1
    00:00:06 | 00:00:01            | 00:00:06     | 101   | 2
    00:00:07 | -                   | 00:00:02     | 102   | 4
    00:00:08 | 2026-02-04 00:00:08 | 00:00:08     | 103   | 8    # exactly a day
    00:00:09 | 2026-02-04 00:00:09.001 | 00:00:09 | 104   | 16   # a millisecond more
    00:00:10 | 2026-01-01 00:00    | 00:00:03     | 105   | 32
""")


def test_the_event_clock_orders_by_event_time_and_falls_back_to_collected_at() -> None:
    assert_rows(LATE.rows("silver/trades"), """
        clock_ts            | price | volume_5s | day
        00:00:01            | 101   | 2         | 3
        00:00:02            | 102   | 6         | 3
        00:00:03            | 105   | 38        | 3
        00:00:04            | 100   | 39        | 3
        00:00:09            | 104   | 16        | 3
        2026-02-04 00:00:08 | 103   | 8         | 4
    """)


HOURS = EVENTS.lane("hours", trades={
    "b": """
        at       | timestamp | price | amount
        09:59:59 | 10:00:01  | 1     | 1
        """,
    "a": """
        at       | timestamp | price | amount
        10:00:02 | 10:00:01  | 2     | 2
        10:00:03 | 10:00:02  | 3     | 4
        """,
}, orderbook="""
        at       | timestamp | bids | asks
        09:59:58 | 10:00:00  | 99x1 | 101x1
        10:00:05 | 10:00:02  | 99x1 | 101x1
""")  # fmt: skip


def test_segments_of_one_event_time_go_by_their_hours_as_numbers() -> None:
    assert_rows(HOURS.rows("silver/trades"), """
        clock_ts | price | hour | volume_5s | mid_before
        10:00:01 | 1     | 10   | 1         | 100
        10:00:01 | 2     | 10   | 3         | 100
        10:00:02 | 3     | 10   | 7         | 100
    """)
    assert [row["interval_trade_count"] for row in HOURS.rows("silver/orderbook")] == [None, 3]


# -- layouts -------------------------------------------------------------------------------------------------------


def trades_table(text: str, *, exchange: str = "kraken", symbol: str = "BTC-USD", times: bool = True) -> pa.Table:
    """Drawn trades as a bronze table; times=False leaves year to hour out."""
    table = harness.bronze_table("trades", given_rows(text), exchange=exchange, symbol=symbol)
    raw = {"exchange": exchange, "symbol": symbol}
    for name, value in raw.items():  # as a collector may have them: not sanitized
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table), pa.string()))
    return table if times else table.drop_columns(["year", "month", "day", "hour"])


def write(table: pa.Table, data: Path, place: str, channel: str = "trades") -> Path:
    path = data / "raw/ready/ccxt" / channel / place
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


LAST_MINUTES = """
    at       | price | amount
    00:59:59 | 100   | 1
    01:00:01 | 101   | 2
"""


DEPTHS = {
    "all": "",
    "by-exchange": "exchange=by-exchange/",
    "by-symbol": "exchange=by-symbol/symbol=BTC-USDT-USDT/",
    "by-year": "exchange=by-year/symbol=BTC-USDT-USDT/year=2026/",
    "by-day": "exchange=by-day/symbol=BTC-USDT-USDT/year=2026/month=02/day=03/",
}


@pytest.mark.parametrize("times", [True, False], ids=["with the hour's columns", "without"])
def test_flat_and_less_deep_folders_are_read_by_their_columns(tmp_path: Path, times: bool) -> None:
    for exchange, place in DEPTHS.items():
        table = trades_table(LAST_MINUTES, exchange=exchange, symbol="BTC/USDT:USDT", times=times)
        write(table, tmp_path, f"{place}{exchange}.parquet")
    report = harness.run(tmp_path, "silver.trades")
    assert report.quarantined == []
    for exchange in DEPTHS:
        assert_rows(read_published(tmp_path, "silver/trades", exchange), """
            symbol      | source_symbol | price | hour | volume_5s
            BTC-USD-USD | BTC-USDT-USDT | 100   | 0    | 1
            BTC-USD-USD | BTC-USDT-USDT | 101   | 1    | 3
        """)


def test_a_flat_file_may_hold_several_lanes(tmp_path: Path) -> None:
    ours = trades_table(LAST_MINUTES, symbol="BTC/USD")
    theirs = trades_table(ONE_TRADE, symbol="ETH/USD")
    write(pa.concat_tables([ours.slice(0, 1), theirs, ours.slice(1)]), tmp_path, "all.parquet")
    harness.run(tmp_path, "silver.trades")
    found = {row["symbol"]: row["volume_5s"] for row in read_published(tmp_path, "silver/trades", "kraken")}
    assert found == {"BTC-USD": 3, "ETH-USD": 3}


def test_padded_numbers_in_paths_are_read_and_written_unpadded(tmp_path: Path) -> None:
    place = "exchange=kraken/symbol=BTC-USD/year=2026/month=02/day=03"
    write(trades_table(LAST_MINUTES).slice(0, 1), tmp_path, f"{place}/hour=00/a.parquet")
    write(trades_table(LAST_MINUTES).slice(1), tmp_path, f"{place}/hour=1/a.parquet")
    report = harness.run(tmp_path, "silver.trades")
    assert report.quarantined == []
    hours = sorted((tmp_path / "processed/silver/trades").rglob("hour=*"))
    assert [str(p).partition("year=")[2] for p in hours] == ["2026/month=2/day=3/hour=0", "2026/month=2/day=3/hour=1"]


def test_missing_optional_columns_read_as_null_and_others_are_ignored(tmp_path: Path) -> None:
    table = trades_table(ONE_TRADE).drop_columns(["side", "trade_id", "info_json", "cost", "timestamp"])
    write(table.append_column("surprise", pa.array([[1, 2]])), tmp_path, "a.parquet")
    harness.run(tmp_path, "silver.trades")
    assert_rows(read_published(tmp_path, "silver/trades", "kraken"), """
        price | side | trade_id | timestamp | is_buy | is_valid
        100   | -    | -        | -         | -      | true
    """)


def test_any_width_of_integer_or_float_is_accepted(tmp_path: Path) -> None:
    table = trades_table(ONE_TRADE)
    kinds = {"price": pa.int16(), "amount": pa.float32(), "collected_at": pa.float64(), "year": pa.int64()}
    for name, kind in kinds.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    write(table, tmp_path, "a.parquet")
    assert harness.run(tmp_path, "silver.trades").quarantined == []
    assert [(r["price"], r["amount"]) for r in read_published(tmp_path, "silver/trades", "kraken")] == [(100.0, 3.0)]


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[Path, Path]:
    """A data root with a book and a trade of 3, and another with a trade of 6."""
    data, other = tmp_path / "data", tmp_path / "other"
    harness.write_bronze(data, "orderbook", given_rows(ONE_BOOK))
    harness.write_bronze(data, "trades", given_rows(ONE_TRADE))
    harness.write_bronze(other, "trades", given_rows(ONE_TRADE.replace("| 3 ", "| 6 ")))
    return data, other


def test_books_take_trades_from_another_data_root(elsewhere: tuple[Path, Path]) -> None:
    data, other = elsewhere
    harness.run(data, "silver.orderbook", selection={"trades": other})
    assert [row["interval_buy_volume"] for row in read_published(data, "silver/orderbook", "kraken")] == [6]


def test_trades_may_lie_in_a_folder_of_their_own(elsewhere: tuple[Path, Path]) -> None:
    data, other = elsewhere
    harness.run(data, "silver.trades", selection={"trades": other / "raw/ready/ccxt/trades"})
    assert [row["amount"] for row in read_published(data, "silver/trades", "kraken")] == [6]
    assert read_published(other, "silver/trades", "kraken") == []


# -- what cannot be used -------------------------------------------------------------------------------------------

PLACE = "symbol=BTC-USD/year=2026/month=2/day=3/hour=0"
Spoil = Callable[[pa.Table], pa.Table]


def replaced(name: str, values: pa.Array) -> Spoil:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


CAPTURED = at("00:00:05")
NO_INSTANT = pa.nulls(1, pa.timestamp("us", tz="UTC"))
NAIVE = pa.array([CAPTURED], pa.timestamp("us"))
SPOILED: dict[str, tuple[Spoil, str]] = {
    "text for a number": (replaced("price", pa.array(["100"])), "column price is VARCHAR, not DOUBLE"),
    "no capture_ts": (lambda t: t.drop_columns(["capture_ts"]), "has no column capture_ts"),
    "a NULL capture_ts": (
        lambda t: pa.concat_tables([t, replaced("capture_ts", NO_INSTANT)(t)]), "1 of 2 rows have no capture_ts"
    ),
    "local times": (replaced("capture_ts", NAIVE), "column capture_ts is TIMESTAMP, not"),
    "collected_at in s": (
        replaced("collected_at", pa.array([CAPTURED // 1_000_000])), "collected_at is off by a factor of 1000"
    ),
    "timestamp in us": (replaced("timestamp", pa.array([CAPTURED])), "timestamp is off by a factor of 1000"),
    "another symbol": (
        replaced("symbol", pa.array(["ETH-USD"])), "symbol is BTC-USD in the path and ETH-USD in the data"
    ),
    "another exchange": (replaced("exchange", pa.array(["coinbase"])), "in the path and coinbase in the data"),
    "another hour": (replaced("hour", pa.array([5], pa.int32())), "year to hour differ from capture_ts in 1 of 1 rows"),
    "no price": (lambda t: t.drop_columns(["price"]), "has no column price"),
}  # fmt: skip
ODD_FILES = {
    "torn": "cannot be read as Parquet",
    "empty": "cannot be read as Parquet",
    "fifo": "is not a plain file",
    "dangling link": "is not a plain file",
    "noon": "which is no number",
    "wrong hour": "the hour in the path is not that of capture_ts", "folder": "is not a plain file"}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runner.Report]:
    """For each kind of damage an exchange with a bad segment, and a good one beside it."""
    data = tmp_path_factory.mktemp("spoiled")
    for kind in (*SPOILED, *ODD_FILES):
        harness.write_bronze(data, "trades", given_rows(ONE_TRADE), exchange=kind, name="good")
    for kind, (spoil, _) in SPOILED.items():
        write(spoil(trades_table(ONE_TRADE, exchange=kind)), data, f"exchange={kind}/{PLACE}/bad.parquet")
    places = {"torn": PLACE, "empty": PLACE, "noon": f"{PLACE[:-1]}noon", "wrong hour": f"{PLACE[:-1]}1"}
    for kind, place in places.items():
        path = write(trades_table(ONE_TRADE, exchange=kind), data, f"exchange={kind}/{place}/bad.parquet")
        if kind in ("torn", "empty"):
            path.write_bytes(path.read_bytes()[:-20] if kind == "torn" else b"")
    root = data / "raw/ready/ccxt/trades"
    os.mkfifo(root / "exchange=fifo" / PLACE / "x.parquet")
    (root / "exchange=dangling link" / PLACE / "x.parquet").symlink_to(data / "nowhere.parquet")
    (root / "exchange=folder" / PLACE / "x.parquet").mkdir()
    return data, report_of(data, {"models": ("silver.trades",)})


@pytest.mark.parametrize("kind", [*SPOILED, *ODD_FILES])
def test_what_cannot_be_used_is_put_aside_with_its_reason_and_its_lane_goes_on(
    spoiled: tuple[Path, runner.Report], kind: str
) -> None:
    data, report = spoiled
    reason = SPOILED[kind][1] if kind in SPOILED else ODD_FILES[kind]
    ((path, why),) = [(path, why) for path, why in report.quarantined if f"exchange={kind}/" in path]
    assert reason in why
    assert path.endswith(".parquet")
    assert "\n" not in why
    assert [row["price"] for row in read_published(data, "silver/trades", kind)] == [100]


def test_the_exit_code_tells_of_what_was_put_aside(spoiled: tuple[Path, runner.Report]) -> None:
    assert spoiled[1].failed == []
    assert spoiled[1].exit_code == 1


# -- hostile names -------------------------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP", "{{ 7*7 }}", "..", "../../x", "%2e%2e", "line\nbreak", "x;\ny", "\U0001f680-USD", "0x10", "inf", "NULL",
    "__HIVE_DEFAULT_PARTITION__", "a=b",
]  # fmt: skip


def hostile_rows(i: int) -> Rows:
    return [{"capture_ts": at("00:00:01") + i, "price": 100.0 + i, "amount": 1.0}]


def test_hostile_names_round_trip(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i, name in enumerate(HOSTILE):
        harness.write_bronze(data, "trades", hostile_rows(i), symbol=name)
    for i, name in enumerate(HOSTILE[:3]):
        harness.write_bronze(data, "trades", hostile_rows(i), exchange=name)
    report = report_of(data, {"models": ("silver.trades",)}, normalize_quotes=False)
    assert (report.failed, report.quarantined) == ([], [])
    files = list((data / "processed").rglob("*.parquet"))
    found: dict[tuple[Any, Any], float] = {}
    for path in files:
        (row,) = pq.ParquetFile(path).read(columns=["exchange", "symbol", "source_symbol", "price"]).to_pylist()
        values = parse_path(path.relative_to(data))
        assert (row["exchange"], row["symbol"]) == (values["exchange"], values["symbol"])
        assert row["source_symbol"] == row["symbol"]
        found[row["exchange"], row["symbol"]] = row["price"]
    want = {("kraken", sanitize(name)): 100.0 + i for i, name in enumerate(HOSTILE)}
    want |= {(sanitize(name), "BTC-USD"): 100.0 + i for i, name in enumerate(HOSTILE[:3])}
    assert found == want
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_hostile_names_in_one_flat_file_round_trip(tmp_path: Path) -> None:
    names = HOSTILE[5:8]
    tables = [harness.bronze_table("trades", hostile_rows(i), exchange="a'b", symbol=n) for i, n in enumerate(names)]
    write(pa.concat_tables(tables), tmp_path, "all.parquet")
    report = report_of(tmp_path, {"models": ("silver.trades",)}, normalize_quotes=False)
    assert (report.failed, report.quarantined) == ([], [])
    found = {row["symbol"]: row["price"] for row in read_published(tmp_path, "silver/trades", "a'b")}
    assert found == {sanitize(name): 100.0 + i for i, name in enumerate(names)}


def test_a_name_that_no_folder_can_have_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i, name in enumerate(["good", "x" * 300, "", "nul\0byte", "\U0001f680" * 70]):
        table = harness.bronze_table("trades", hostile_rows(i), exchange="kraken", symbol=name)
        write(table, data, f"{i}.parquet")
    report = report_of(data, {"models": ("silver.trades",)})
    assert report.exit_code == 1
    assert len(report.failed) + len(report.quarantined) == 4
    assert {row["symbol"] for row in read_published(data, "silver/trades", "kraken")} == {"good"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
