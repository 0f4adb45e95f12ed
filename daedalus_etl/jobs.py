"""What is to be closed or mended of the lanes that are watched: one thing at a time, and after a failure later."""

from __future__ import annotations

from dataclasses import dataclass, replace

from daedalus_etl.lanes import Lane

PAUSES = (1.0, 60.0)  # seconds after a failure: the first, and the longest


@dataclass
class Job:
    """The part of a lane from an hour (since the epoch) on; with the bars of its open days, or without. Times in s."""

    since: int
    open_days: bool = False
    not_before: float = 0.0
    pause: float = 0.0

    def widen(self, since: int, open_days: bool) -> None:
        self.since, self.open_days = min(self.since, since), self.open_days or open_days


class Jobs:
    """At most one of a lane; what comes for a lane meanwhile goes together."""

    def __init__(self) -> None:
        self.waiting: dict[Lane, Job] = {}
        self.in_hand: tuple[Lane, Job] | None = None
        self.fails = False  # what is in hand

    def add(self, lane: Lane, since: int, *, open_days: bool = False) -> None:
        self.waiting.setdefault(lane, Job(since)).widen(since, open_days)

    def take(self, now: float) -> tuple[Lane, Job] | None:
        """The one that has been due longest is in hand then; None if there is one already, or none is due."""
        due = [lane for lane, job in self.waiting.items() if job.not_before <= now]
        if self.in_hand is not None or not due:
            return None
        lane = min(due, key=lambda one: self.waiting[one].not_before)
        self.in_hand, self.fails = (lane, self.waiting.pop(lane)), False
        return self.in_hand

    def done(self, now: float) -> tuple[Lane, bool]:
        """What was in hand is over: its lane, and whether all went well. If not, it waits to be tried again."""
        assert self.in_hand is not None
        (lane, job), self.in_hand = self.in_hand, None
        if self.fails:
            again = self.waiting.setdefault(lane, replace(job))
            again.widen(job.since, job.open_days)
            again.pause = min(max(PAUSES[0], 2 * job.pause), PAUSES[1])
            again.not_before = now + again.pause
        return lane, not self.fails

    def next_due(self, now: float) -> float | None:
        """When the next one can be taken that cannot be now; None if there is one in hand, or none that waits."""
        if self.in_hand is not None:
            return None
        return min((job.not_before for job in self.waiting.values() if job.not_before > now), default=None)
