"""What a follower sees of hours that another process closes meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from daedalus_etl import files, live_hours
from daedalus_etl.lanes import HOUR_US, Lane
from daedalus_etl.ledger import Ledger, Record
from daedalus_etl.live_hours import LiveHours
from daedalus_etl.times import parse_time

LANE = Lane("kraken", "BTC-USD", "trades")
RECORD = Record("2026-02-03T14", "BTC-USD", {"macros": "a"}, {"levels": 20}, {}, "", "", 5, "listing")


@pytest.mark.parametrize("closes", [False, True])
def test_an_hour_that_is_closed_while_it_is_asked_for_is_closed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """It had neither record nor journal once, and the bars made of it were gone for a while."""
    files.empty_folder(tmp_path / "state" / "staging")
    book = Ledger(tmp_path, "silver.trades", LANE)
    book._write(RECORD, [])
    (book.folder / "2026-02-03T15.open").touch()
    hours = LiveHours.__new__(LiveHours)
    hours.scope = SimpleNamespace(ledger=lambda *_: Ledger(tmp_path, "silver.trades", LANE))  # type: ignore[assignment]
    hours.model = hours.lane = None  # type: ignore[assignment]
    hours.hour = parse_time("2026-02-03T16") // HOUR_US
    journaled, left = live_hours.journaled, [closes]

    def closing(of: Ledger) -> list[int]:
        if left.pop():
            book._write(Record("2026-02-03T15", "BTC-USD", {}, {}, {}, "", "", 5, "listing"), [])
            (book.folder / "2026-02-03T15.open").unlink()
        left.append(False)
        return journaled(of)

    monkeypatch.setattr(live_hours, "journaled", closing)
    found, not_closed = hours.standing()
    assert found.partitions == ["2026-02-03T14", "2026-02-03T15"][: 1 + closes]
    assert not_closed == ([] if closes else [hours.hour - 1])
