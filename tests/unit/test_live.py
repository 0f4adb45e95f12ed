"""What a follower makes of what another process closes and makes meanwhile."""

from __future__ import annotations

import time
from dataclasses import replace
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
from daedalus_etl.visible import Seen, Visible

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


def test_a_channel_is_not_taken_for_silent_before_its_folder_was_looked_at(tmp_path: Path) -> None:
    """Who begins anew after a while has heard nothing yet of what has come meanwhile."""
    book = replace(LANE, channel="orderbook")
    hour, now = parse_time("2026-02-03T16") // HOUR_US, time.monotonic()
    root = tmp_path / "trades"
    path = root / f"exchange=kraken/symbol=BTC-USD/year=2026/month=2/day=3/hour={16}/new.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    visible = Visible(SimpleNamespace(roots={"trades": root}), lambda *_: None)  # type: ignore[arg-type]
    visible.lanes = {
        book: Seen(last=hour * HOUR_US + 9 * MINUTE, heard=now),
        LANE: Seen(last=hour * HOUR_US + 5 * MINUTE, heard=now - 100),
    }

    class Following(LiveHours):
        waits = True

        def __init__(self) -> None:
            self.lane, self.channels, self.hour = book, {"orderbook": book, "trades": LANE}, hour
            self.live = SimpleNamespace(visible=visible)  # type: ignore[assignment]
            self.patience = 99.0

    hours = Following()
    assert hours.not_told(now - 2) == [], "it was not silent for so long"
    assert hours.not_told(now) == [str(path)]
    assert hours.not_told(now + 0.5) == [], "it was looked at just now"
    visible.lanes[LANE].looked = 0.0
    visible.lanes[LANE].segments[str(path)] = None  # type: ignore[assignment]
    assert hours.not_told(now) == [], "it is known"
    visible.lanes[LANE].looked, visible.lanes[LANE].segments = 0.0, {}
    Following.waits = False
    assert hours.not_told(now) == [], "nobody waits for it"


def test_a_bad_segment_is_told_of_once(tmp_path: Path) -> None:
    """Put aside, it is looked at when somebody says that it changed; once its hour is over it is for who closes."""
    root = tmp_path / "trades"
    folder = root / "exchange=kraken/symbol=BTC-USD/year=2026/month=2/day=3/hour=16"
    folder.mkdir(parents=True)
    bad, torn = str(folder / "bad.parquet"), str(folder / "torn.parquet")
    Path(torn).touch()
    hour = parse_time("2026-02-03T16") // HOUR_US
    visible = Visible(SimpleNamespace(roots={"trades": root}), lambda *_: None)  # type: ignore[arg-type]
    visible.lanes[LANE], visible.from_hour[LANE] = Seen(waiting={bad: ((1, 2), -1), torn: ((1, 2), 1)}), hour
    assert visible.unread() == [torn]
    visible.prune({LANE: hour + 1})
    assert visible.unread() == [torn]
    assert visible.look(torn) == (LANE, hour)
    assert (visible.unread(), visible.lanes[LANE].waiting) == ([], {})
    visible.keep({LANE})
    assert set(visible.lanes) == {LANE}
    visible.keep(())
    assert not visible.lanes
    assert not visible.from_hour


def test_a_lane_that_is_silent_for_hours_sleeps_while_another_channel_goes_on() -> None:
    book = replace(LANE, channel="orderbook")

    class Following(LiveHours):
        waits = False

        def __init__(self) -> None:
            self.lane, self.channels, self.back = book, {"orderbook": book, "trades": LANE}, None
            self.live = SimpleNamespace(visible=SimpleNamespace(lanes=seen))  # type: ignore[assignment]

    seen = {book: Seen(last=HOUR_US), LANE: Seen(last=7 * HOUR_US)}
    hours = Following()
    assert not hours.sleeps
    seen[LANE].last += 1
    assert hours.sleeps
    Following.waits = True
    assert not hours.sleeps


DAY, MINUTE = parse_time("2026-02-03"), 60 * US
MIDNIGHT = DAY + DAY_US


def test_a_published_bar_stays_when_its_day_is_taken_over_by_one_who_knows_of_no_row_behind_it(tmp_path: Path) -> None:
    """The last bar before midnight, ended by a row of the next day; then the lane begins anew, and what is made of the
    day elsewhere ends before it."""
    open_day = with_bars(tmp_path, MIDNIGHT - MINUTE, MIDNIGHT)
    theirs, _ = open_day.stage(bars(MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE), "bar_end")
    (path,) = (tmp_path / "state" / "staging").glob("*.part")
    live = following(open_day)
    live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE + 5 * US, str(path))
    assert theirs.last == MIDNIGHT - MINUTE
    assert ends(open_day) == [MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE, MIDNIGHT]
    assert {part.name for part in open_day.now.parts} == {path.name for path in open_day.target.parent.iterdir()}


def test_a_published_bar_stays_when_earlier_ones_are_made_again_before_it_is_proved_anew(tmp_path: Path) -> None:
    """The last bar before midnight is in, but a kill took the word that its hour is over; a late row makes the bars
    before it anew."""
    open_day = with_bars(tmp_path, MIDNIGHT - 3 * MINUTE, MIDNIGHT - 2 * MINUTE, MIDNIGHT)
    live = following(open_day, until=MIDNIGHT)
    live.back(MIDNIGHT - 3 * MINUTE)
    live.publish(MIDNIGHT - MINUTE + 5 * US)
    assert ends(open_day) == [MIDNIGHT - k * MINUTE for k in (3, 2, 1, 0)]
    assert live.redo == {60: MIDNIGHT - MINUTE}
    live.publish(MIDNIGHT)
    assert ends(open_day) == [MIDNIGHT - k * MINUTE for k in (3, 2, 1, 0)]
    assert (live.redo, live.until) == ({}, {60: MIDNIGHT})


def test_a_published_bar_stays_until_its_rows_are_in_again(tmp_path: Path) -> None:
    """Rows were gone back to, or the hour's journal was lost: it knows of later ones, and does not have them yet."""
    open_day = with_bars(tmp_path, MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE)
    live = following(open_day, until=MIDNIGHT - MINUTE, last=MIDNIGHT - 1, at=MIDNIGHT - 2 * MINUTE)
    live.redo[60] = MIDNIGHT - 3 * MINUTE
    live.adopt(60, "2026-02-03", MIDNIGHT - 3 * MINUTE, "")
    assert ends(open_day) == [MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE]
    assert (live.redo, live.until) == ({60: MIDNIGHT - 2 * MINUTE}, {60: MIDNIGHT - MINUTE})
    live.publish(MIDNIGHT - 1)
    assert live.made == [(MIDNIGHT - 3 * MINUTE, MIDNIGHT - 2 * MINUTE)]  # type: ignore[attr-defined]
    live.hours.at = MIDNIGHT - 1
    live.publish(MIDNIGHT - 1)
    assert live.made[1:] == [(MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE)]  # type: ignore[attr-defined]
    assert (live.redo, ends(open_day)) == ({}, [MIDNIGHT - 2 * MINUTE, MIDNIGHT - MINUTE])


def test_who_takes_over_a_day_still_has_the_bars_of_the_next_to_make(tmp_path: Path) -> None:
    """Rows of the next day were in already."""
    open_day = with_bars(tmp_path, MIDNIGHT - MINUTE, MIDNIGHT)
    live = following(open_day, until=MIDNIGHT, last=MIDNIGHT + 7 * MINUTE)
    live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE, "")
    assert (ends(open_day), live.until) == ([MIDNIGHT], {60: MIDNIGHT})


def test_who_takes_over_a_day_has_all_rows_of_the_bar_that_its_last_row_is_in(tmp_path: Path) -> None:
    """What was made elsewhere ends within a bar; of that it has only the rows of its own hour, until it reads more."""
    live = following(with_bars(tmp_path, MIDNIGHT - MINUTE), until=MIDNIGHT - MINUTE, last=MIDNIGHT)
    live.rows_from = MIDNIGHT - 30 * US
    live.adopt(60, "2026-02-03", MIDNIGHT - 2 * MINUTE, "")
    assert live.rows_from == MIDNIGHT - 2 * MINUTE
    live.rows_from = MIDNIGHT - 3 * MINUTE
    live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE + 5 * US, "")
    assert live.rows_from == MIDNIGHT - 3 * MINUTE


def test_a_day_that_is_over_is_not_taken_over(tmp_path: Path) -> None:
    """It was offered while it was open; then the hour turned, and who closes hours has closed it."""
    open_day = with_bars(tmp_path, MIDNIGHT)
    _, staged = open_day.stage(bars(MIDNIGHT - MINUTE), "bar_end")
    live = following(open_day, until=MIDNIGHT, last=MIDNIGHT + 7 * MINUTE)
    live.hours.hour = MIDNIGHT // HOUR_US
    live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE, str(staged))
    assert ends(open_day) == [MIDNIGHT]
    assert not staged.exists()
    assert live.asked == []  # type: ignore[attr-defined]
    live.until.clear()
    live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE, "")
    assert live.asked == [live.hours.hour - 1]  # type: ignore[attr-defined]


def test_a_day_that_is_over_is_not_published_into(tmp_path: Path) -> None:
    """Who closes hours may have closed it: its file would go."""
    open_day = with_bars(tmp_path, MIDNIGHT - 2 * MINUTE)
    live = following(open_day, until=MIDNIGHT - MINUTE)
    live.hours.hour += 1
    live.publish(MIDNIGHT)
    assert ends(open_day) == [MIDNIGHT - 2 * MINUTE]
    assert live.until == {60: MIDNIGHT}


def test_bars_that_could_not_be_taken_over_are_asked_for_anew(tmp_path: Path) -> None:
    live = following(with_bars(tmp_path, MIDNIGHT - MINUTE), until=MIDNIGHT - MINUTE)
    with pytest.raises(FileNotFoundError):
        live.adopt(60, "2026-02-03", MIDNIGHT - MINUTE, str(tmp_path / "gone"))
    assert live.asked == [live.hours.hour - 1]  # type: ignore[attr-defined]
    assert live.offered == {}


def with_bars(folder: Path, *ends: int) -> OpenPartition:
    """A day of bars that end there, us, in one part."""
    files.empty_folder(folder / "state" / "staging")
    book = Ledger(folder, "gold.trades_bars", LANE, "60s")
    open_day = OpenPartition(book, "2026-02-03", "gold/trades_bars/60s/2026-02-03-x.parquet", {})
    open_day.begin({"symbol": "BTC-USD"})
    open_day.commit([open_day.stage(bars(*ends), "bar_end")], ends[-1])
    return open_day


def following(open_day: OpenPartition, until: int | None = None, last: int = 0, at: int = 2**62) -> LiveBars:
    """One who has this day, and a row in every minute; all before `at` is in."""

    class Following(LiveBars):
        def __init__(self) -> None:
            self.asked: list[int] = []  # for the bars of open days, since an hour
            self.made: list[tuple[int, int]] = []  # from a bar's start to one's end
            live = SimpleNamespace(restage=lambda _, hour: self.asked.append(hour))
            hour = MIDNIGHT // HOUR_US - 1
            self.hours = SimpleNamespace(is_whole=True, last=last, at=at, hour=hour, live=live)  # type: ignore[assignment]
            self.durations, self.columns, self.rows_from = (60,), ["close"] if until else [], 0
            self.until, self.redo, self.offered, self.came = {60: until} if until else {}, {}, {}, None
            self.days = {(60, DAY // DAY_US): open_day}
            self.table, self.engine = "rows", SimpleNamespace(con=SimpleNamespace(execute=lambda _: None))  # type: ignore[assignment]

        def _load_rows(self, edge: int) -> None:
            self.rows_from = edge

        def _bars(self, duration: int, day: int, edge: int, ended: int) -> pa.Table:
            self.made.append((edge, ended))
            return bars(*range(edge + MINUTE, ended + 1, MINUTE))

    return Following()


def ends(open_day: OpenPartition) -> list[int]:
    """When the published bars end, in the order of parts and rows."""
    parts = sorted(open_day.now.parts, key=lambda part: part.first)
    return [int(row["bar_end"].timestamp() * US) for part in parts for row in open_day.read([part]).to_pylist()]


def bars(*ends: int) -> pa.Table:
    """Of so many bars that end there, us."""
    return pa.table({"bar_end": pa.array(ends, pa.timestamp("us", "UTC")), "close": [1.0] * len(ends)})
