"""What waits to be closed or mended: no two things at a time, nothing forgotten, and pauses that grow."""

from __future__ import annotations

from daedalus_etl.jobs import PAUSES, Job, Jobs
from daedalus_etl.lanes import Lane

BTC, ETH = Lane("demo", "BTC-USD", "trades"), Lane("demo", "ETH-USD", "trades")


def test_what_comes_for_a_lane_goes_together() -> None:
    jobs = Jobs()
    jobs.add(BTC, 7)
    jobs.add(BTC, 9, open_days=True)
    jobs.add(BTC, 8)
    assert jobs.take(0) == (BTC, Job(7, open_days=True))
    assert jobs.waiting == {}


def test_one_is_in_hand_at_a_time_and_what_comes_for_it_waits() -> None:
    jobs = Jobs()
    assert jobs.take(0) is None
    jobs.add(BTC, 7)
    jobs.add(ETH, 5)
    assert jobs.take(0) == (BTC, Job(7))
    assert jobs.take(0) is None
    jobs.add(BTC, 3)
    assert jobs.done(0) == (BTC, True)
    assert [jobs.take(0), jobs.done(0)] == [(ETH, Job(5)), (ETH, True)]
    assert jobs.take(0) == (BTC, Job(3))


def test_what_failed_is_tried_again_after_pauses_that_grow_up_to_a_limit() -> None:
    jobs, now, pauses = Jobs(), 100.0, []
    jobs.add(BTC, 7, open_days=True)
    for _ in range(8):
        assert jobs.take(now) is not None
        jobs.fails = True
        jobs.add(BTC, 9)
        assert jobs.next_due(now) is None, "there is one in hand"
        assert jobs.done(now) == (BTC, False)
        due = jobs.next_due(now)
        assert due is not None
        assert jobs.take(due - 0.01) is None
        pauses.append(due - now)
        now = due
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert PAUSES == (1, 60)
    lane, job = jobs.take(now) or (None, None)
    assert (lane, job.since, job.open_days) == (BTC, 7, True)  # type: ignore[union-attr]
    assert jobs.done(now) == (BTC, True)
    jobs.add(BTC, 11)
    assert jobs.take(now) == (BTC, Job(11)), "what went well begins without a pause"


def test_who_fails_does_not_keep_others_waiting() -> None:
    jobs = Jobs()
    jobs.add(BTC, 7)
    jobs.take(0)
    jobs.fails = True
    jobs.done(0)
    jobs.add(ETH, 5)
    assert jobs.next_due(0) == PAUSES[0]
    assert jobs.take(0) == (ETH, Job(5))
    assert jobs.done(0) == (ETH, True)
