"""Windows over a lane sort its rows only where these do not lie in lane order already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daedalus_etl.engine import Engine
from daedalus_etl.silver import IN_ORDER, Walk
from daedalus_etl.simulator import Market, simulate
from tests import harness, roots

MARKET = Market(hours=2.2, symbols=("BTC-USDT",), books_per_second=0.1, trades_per_second=0.4, quotes_per_second=0.5,
                dirt=0.1)  # fmt: skip


@pytest.mark.parametrize(("channel", "clock"), [("trades", "event"), ("ticker", "capture")])
def test_rows_that_lie_in_another_order_are_sorted_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str, clock: str
) -> None:
    """Hours with rows that were carried over, duplicates and rows that came out of order."""
    found: list[bool] = []
    row, bronze, name = Engine.row, Walk._bronze, f"bronze.{channel}"

    def watched(self: Engine, sql: str) -> tuple[Any, ...]:
        result = row(self, sql)
        if sql == IN_ORDER.format(name.replace(".", "_")):
            found.append(result[0])
        return result

    def shuffled(self: Walk, asked: str, files: Any) -> str:
        statement = bronze(self, asked, files)
        return f"select * from (\n{statement}\n) order by hash(lane_order)" if asked == name else statement

    monkeypatch.setattr(Engine, "row", watched)
    for folder in ("lying", "shuffled"):
        simulate(tmp_path / folder, MARKET)
    harness.run(tmp_path / "lying", f"silver.{channel}", clock=clock)
    assert len(found) >= 3
    assert set(found) == {True}
    found.clear()
    monkeypatch.setattr(Walk, "_bronze", shuffled)
    harness.run(tmp_path / "shuffled", f"silver.{channel}", clock=clock)
    assert set(found) == {False}
    roots.assert_same(tmp_path / "shuffled", tmp_path / "lying")


@pytest.mark.parametrize(
    ("rows", "in_order"),
    [
        ("(1, 0), (1, 1), (2, 2)", True),
        ("(1, 0), (2, 1), (2, 0)", False),
        ("(2, 0), (1, 1)", False),
        ("(1, 0), (1, 0)", False),
        ("(1, 0)", True),
    ],
)
def test_lane_order_is_strict(tmp_path: Path, rows: str, in_order: bool) -> None:
    engine = Engine(harness.profile(tmp_path), tmp_path)
    engine.table("lane", f"select *, false as is_duplicate from (values {rows}) as r(clock_us, lane_order)")
    assert engine.row(IN_ORDER.format("lane")) == (in_order,)
    engine.table("lane", "select * from lane where false")
    assert engine.row(IN_ORDER.format("lane")) == (True,)
    engine.close()
