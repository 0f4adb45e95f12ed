"""What a follower makes of what another process closes and makes meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from daedalus_etl import files, live_hours
from daedalus_etl.lanes import DAY_US, HOUR_US, US, Lane
from daedalus_etl.ledger import Ledger, Record
from daedalus_etl.live_bars import LiveBars
from daedalus_etl.live_hours import LiveHours
from daedalus_etl.parts import OpenPartition
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


def test_a_published_bar_stays_when_its_day_is_taken_over_by_one_who_knows_of_no_row_behind_it(tmp_path: Path) -> None:
    """The last bar before midnight, ended by a row of the next day; then the lane begins anew, and what is made of the
    day elsewhere ends before it."""
    files.empty_folder(tmp_path / "state" / "staging")
    book = Ledger(tmp_path, "gold.trades_bars", LANE, "60s")
    day, minute = parse_time("2026-02-03"), 60 * US
    last = day + DAY_US
    open_day = OpenPartition(book, "2026-02-03", "gold/trades_bars/60s/2026-02-03-x.parquet", {})
    open_day.begin({"symbol": "BTC-USD"})
    mine = [open_day.stage(bars(last - minute, last), "bar_end")]
    open_day.commit(mine, last)
    theirs, _ = open_day.stage(bars(last - 2 * minute, last - minute), "bar_end")
    (path,) = (tmp_path / "state" / "staging").glob("*.part")
    live = LiveBars.__new__(LiveBars)
    live.hours = SimpleNamespace(is_whole=True, last=0)  # type: ignore[assignment]
    live.durations, live.columns, live.rows_from = (60,), [], 0
    live.until, live.redo, live.offered = {}, {}, {}
    live.days = {(60, day // DAY_US): open_day}
    live.adopt(60, "2026-02-03", last - minute + 5 * US, str(path))
    assert theirs.last == last - minute
    found = sorted(row["bar_end"] for part in open_day.now.parts for row in open_day.read([part]).to_pylist())
    assert [int(end.timestamp() * US) for end in found] == [last - 2 * minute, last - minute, last]
    assert {part.name for part in open_day.now.parts} == {path.name for path in open_day.target.parent.iterdir()}


def bars(*ends: int) -> pa.Table:
    """Of so many bars that end there, us."""
    return pa.table({"bar_end": pa.array(ends, pa.timestamp("us", "UTC")), "close": [1.0] * len(ends)})
