"""Lanes brought up to date for who watches: the hours that are over, and no more than they show."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from daedalus_etl import files
from daedalus_etl.lanes import HOUR_US
from daedalus_etl.plan import Selection
from daedalus_etl.session import Session
from daedalus_etl.visible import Visible
from daedalus_etl.worker import Hand
from tests import harness
from tests.roots import DAY, MINUTE, rows_of


@pytest.mark.parametrize("alone", [False, True])
def test_a_bar_that_reaches_into_the_open_hour_is_not_made_of_the_hours_before(tmp_path: Path, alone: bool) -> None:
    """Its end has passed, but not all of its rows are in what settles."""
    for hour, minutes in ((0, [5, 50]), (1, [10, 40])):
        harness.write_bronze(tmp_path, "ticker", rows_of("ticker", hour, minutes))
    files.empty_folder(tmp_path / "state" / "staging")
    told = []
    hand = Hand(
        harness.profile(tmp_path, bar_durations=(600, 5400)), Selection(), frozenset({"ticker"}),
        lambda event, details: told.append((event, dict(details))),
    )  # fmt: skip
    hand.begin(hand.survey())
    (lane,) = hand.scope.survey.lanes
    (hand.settle_alone if alone else hand.settle)(lane, tmp_path / "temp")
    hand.close()
    (settled,) = (details for event, details in told if event == "settled")
    assert settled["proved"] == DAY + 100 * MINUTE
    staged = [details["path"] for event, details in told if event == "staged" and details["path"]]
    assert bool(staged) != alone
    paths = [*staged, *(tmp_path / "processed" / "gold").rglob("*.parquet")]
    names = ("bar_start", "bar_duration_sec")
    starts, seconds = (
        [value for path in paths for value in pq.ParquetFile(path).read([name])[name].cast("int64").to_pylist()]
        for name in names
    )
    bars = [(length, (start - DAY) / MINUTE) for start, length in zip(starts, seconds, strict=True)]
    assert sorted(bars) == [(600, 0), (600, 50)]


def test_what_came_before_a_lane_is_looked_at_from_an_earlier_hour_on_is_told(tmp_path: Path) -> None:
    """Another lane needs more of it. Who follows it already knows of what was there then only."""
    files.empty_folder(tmp_path / "state" / "staging")
    harness.write_bronze(tmp_path, "ticker", rows_of("ticker", 0, [5]), name="a")
    harness.write_bronze(tmp_path, "ticker", rows_of("ticker", 1, [10]), name="a")
    hand = Hand(harness.profile(tmp_path), Selection(), frozenset({"ticker"}), lambda *_: None)
    hand.begin(hand.survey())
    (lane,) = hand.scope.survey.lanes
    visible = Visible(hand.scope.there, lambda *_: None)
    hour = DAY // HOUR_US
    assert visible.begin(lane, hour + 1) == []
    (new,) = harness.write_bronze(tmp_path, "ticker", rows_of("ticker", 1, [20]), name="b")
    harness.write_bronze(tmp_path, "ticker", rows_of("ticker", 0, [20]), name="b")
    assert visible.begin(lane, hour + 1) == []
    assert [found.segment.path for found in visible.begin(lane, hour)] == [str(new)]
    assert len(visible.lanes[lane].segments) == 4
    hand.close()


def test_what_failed_while_all_was_brought_up_to_date_is_not_followed_before_it_has_settled() -> None:
    session = Session.__new__(Session)
    session.unsettled, session.catching_up = set(), True
    heard: list[str] = []

    class Watch:
        def hear(self, event: str, details: object) -> None:
            heard.append(event)

    session.watch = Watch()  # type: ignore[assignment]
    session.hear("failed", {"model": "silver.ticker", "lane": "kraken BTC-USD", "error": "No space left on device"})
    session.catching_up = False
    session.hear("failed", {"model": "silver.ticker", "lane": "kraken ETH-USD", "error": "No space left on device"})
    assert session.unsettled == {"kraken BTC-USD"}
    assert heard == ["failed", "failed"]
