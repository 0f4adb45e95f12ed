"""Books with fewer levels than a feature looks at, and features that see fewer levels than a book has (SPEC 7)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests import harness, naive

START = 1_770_159_600_000_000


def side(pick: random.Random, best: float, tick: float, direction: int) -> list[tuple[float, float]]:
    price, levels = best, []
    for _ in range(pick.choice([0, 1, 1, 2, 2, 3, 4, 5, 6, 9, 10, 11, 13])):
        levels.append((price, pick.choice([0.0, 1.0, 1.0, 2.5, 1e-8, 3e6, 0.1])))
        price += direction * tick * pick.choice([1, 1, 2, 7, 60])
    return levels


def books_of_all_depths(seed: int, price: float) -> list[dict[str, Any]]:
    """A tick is a bp of the price; distances from the mid run over all bands, exactly on their edges at times."""
    pick = random.Random(seed)
    tick = price / 10_000
    rows: list[dict[str, Any]] = []
    for i in range(250):
        bid = price + pick.randrange(-3, 4) * tick
        bids, asks = side(pick, bid, tick, -1), side(pick, bid + pick.choice([1, 1, 2, 10, 120]) * tick, tick, 1)
        rows.append({"capture_ts": START + i * 1_700_000, "bids": pick.choice([bids] * 30 + [None]), "asks": asks})
    return rows


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6, 9, 10, 12])
def test_features_of_few_levels_and_of_books_that_have_few(tmp_path: Path, levels: int) -> None:
    variables: dict[str, Any] = {
        "levels": levels,
        "ofi_levels": 11,
        "bands_bps": [[0, 1], [1, 5], [5, 12.5], [12.5, 400]],
    }
    rows = books_of_all_depths(levels, price=[1e-9, 10_000.0, 78_123.4][levels % 3])
    harness.write_bronze(tmp_path, "orderbook", rows)
    harness.run(tmp_path, "silver.orderbook", **variables)
    got = harness.published(tmp_path, "silver/orderbook")
    read = naive.read_bronze(tmp_path, "ccxt", "orderbook", "kraken", "BTC-USD")
    want = naive.orderbook(read, [], variables)
    assert {row["is_valid"] for row in got} == {True, False}
    assert naive.compare(got, [{k: v for k, v in row.items() if k != "symbol"} for row in want])[:10] == []
