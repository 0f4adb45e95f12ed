"""Window sums are those of math.fsum, to the last bits, whatever a coin costs (SPEC 11.2)."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from daedalus_etl.lanes import HOUR_US
from tests import harness, naive

START = 1_770_159_600_000_000 + HOUR_US - 60_000_000  # a minute before the hour turns
LAST_BITS = 1e-15  # of a sum: four to five roundings
SUMS = [f"{name}_{h}s" for h in (5, 60, 900) for name in ("vwap", "volume", "dollar_volume", "realized_var")]
CONTRACTS: dict[str, dict[str, Any]] = {
    "linear": {},
    "ten in one": {"contract_size": 10},
    "inverse": {"contract_kind": "inverse", "contract_size": 100},
}


def lane_at(price: float, seed: int, dust: float = 1e-8, bulk: float = 1e8) -> list[dict[str, Any]]:
    """Trades of all sizes around a price, a third of a second apart, over the turn of an hour."""
    pick = random.Random(seed)
    rows = []
    for i in range(400):
        price *= math.exp(pick.gauss(0, 1e-6))
        amount = math.exp(pick.uniform(math.log(dust), math.log(bulk)))
        side = pick.choice(["buy", "sell"])
        rows.append({"capture_ts": START + i * 333_333, "price": price, "amount": amount, "side": side})
    return rows


def silver_trades(root: Path, **variables: Any) -> list[dict[str, Any]]:
    harness.run(root, "silver.trades", **variables, rolling_windows=[5, 60, 900])
    return harness.published(root, "silver/trades")


@pytest.mark.parametrize("price", [1e-12, 1e-10, 3e-5, 7.5e4, 1e9])
@pytest.mark.parametrize("contract", CONTRACTS)
def test_sums_of_trades_are_exact_at_any_price(tmp_path: Path, price: float, contract: str) -> None:
    variables = {**CONTRACTS[contract], "rolling_windows": [5, 60, 900]}
    rows = lane_at(price, seed=1)
    harness.write_bronze(tmp_path, "trades", rows)
    want = naive.trades(harness.raw(rows), [], variables)
    got = silver_trades(tmp_path, **CONTRACTS[contract])
    assert all(row["is_valid"] for row in got)
    assert naive.compare(got, want, SUMS, rel=LAST_BITS)[:5] == []


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_first_price_of_a_lane_binds_no_later_one(tmp_path: Path, contract: str) -> None:
    """A coin may be listed at a joke of a price, or lose all it had."""
    rows = lane_at(1e-9, 1)[:50] + lane_at(8e4, 2)[50:100] + lane_at(2e-12, 3)[100:]
    harness.write_bronze(tmp_path, "trades", rows)
    variables = {**CONTRACTS[contract], "rolling_windows": [5, 60, 900]}
    want = naive.trades(harness.raw(rows), [], variables)
    assert naive.compare(silver_trades(tmp_path, **CONTRACTS[contract]), want, SUMS, rel=LAST_BITS)[:5] == []


def test_a_sum_of_trades_is_the_same_bits_wherever_the_lane_is_cut(tmp_path: Path) -> None:
    rows = lane_at(1e-10, 4)
    whole, hourly = tmp_path / "whole", tmp_path / "hourly"
    for root in (whole, hourly):
        harness.write_bronze(root, "trades", rows)
    want = silver_trades(whole)
    harness.run(hourly, "silver.trades", selection={"end": START + 60_000_000}, rolling_windows=[5, 60, 900])
    assert 0 < len(harness.published(hourly, "silver/trades")) < len(rows)
    assert silver_trades(hourly) == want


def test_a_trade_alone_in_its_window_is_its_own_sum(tmp_path: Path) -> None:
    rows = [{**row, "capture_ts": START + i * 6_000_000} for i, row in enumerate(lane_at(1e-10, 5)[:200])]
    harness.write_bronze(tmp_path, "trades", rows)
    got = silver_trades(tmp_path)
    assert [row["volume_5s"] for row in got] == [row["amount"] for row in got]
    assert [row["dollar_volume_5s"] for row in got] == [row["dollar_volume"] for row in got]


def test_sums_leave_room_for_eight_million_of_the_largest_trades_an_hour(tmp_path: Path) -> None:
    """What a trade at the bounds adds, times 2**24, stays below the 127 bits of an integer sum."""
    assert 2.0**90 * 2**12 * 2**24 < 2**127
    largest = {"price": 2.0**40, "amount": 2.0**50, "side": "buy"}
    beyond = [{**largest, "price": math.nextafter(2.0**40, math.inf)}, {**largest, "amount": 2.0**51},
              {**largest, "price": 2.0**101, "amount": 1.0}]  # fmt: skip
    rows = [{"capture_ts": START + i, **trade} for i, trade in enumerate([largest, *beyond])]
    harness.write_bronze(tmp_path, "trades", rows)
    got = silver_trades(tmp_path)
    assert [row["is_valid"] for row in got] == [True, False, False, False]
    assert got[0]["dollar_volume_900s"] == 2.0**90
