"""Every operation passes here: it is counted, then killed, failed, held up or written down, as the plan says."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from tests.crash.faults.areas import Areas
from tests.crash.faults.counter import Counter
from tests.crash.faults.journal import Journal
from tests.crash.faults.plan import Plan

TAKES_ROOM = ("create", "write", "mkdir", "link", "symlink", "replace", "rename")


class Gate:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.areas = Areas(plan.root)
        self.counter = Counter(os.path.join(plan.work, "count"))
        self.journal = Journal(plan.work, contents=plan.journal)
        self._inside = threading.local()

    def operation(
        self, op: str, paths: tuple[str, ...], do: Callable[[], Any], half: Callable[[], Any] | None = None
    ) -> Any:
        """Do it, unless the plan has something against it. half: what a write leaves if the process dies in it."""
        area = next((a for a in map(self.areas.of, reversed(paths)) if a), None)
        if area is None or getattr(self._inside, "yes", False):
            return do()
        self._inside.yes = True  # what the layer itself does on the way is not counted
        try:
            with self.counter.next() as n:
                if n != self.plan.pause_at:
                    return self._passes(n, op, area, paths, do, half)
            self._pause()  # not under the lock: the others go on
            return do()
        finally:
            self._inside.yes = False

    def _passes(
        self,
        n: int,
        op: str,
        area: str,
        paths: tuple[str, ...],
        do: Callable[[], Any],
        half: Callable[[], Any] | None,
    ) -> Any:
        plan = self.plan
        if n == plan.unlink_at:
            os.unlink(plan.unlink)
        if n == plan.kill_at and plan.moment != "after":
            if plan.moment == "during" and half is not None:
                half()
            self._kill()
        if n == plan.fail_at:
            with open(os.path.join(plan.work, "failed"), "w") as file:
                file.write(f"{op} {area}")
            self._fail(plan.error, paths)
        if area in plan.full and n >= plan.full_from and op in TAKES_ROOM and self._is_full():
            self._fail("ENOSPC", paths)
        try:
            done = do()
        except OSError:  # a folder that is there already, say: it was reached all the same
            if n == plan.kill_at:
                self._kill()
            raise
        self.journal.write(n, op, area, paths)
        if n == plan.kill_at:
            self._kill()
        return done

    def _is_full(self) -> bool:
        return os.path.exists(os.path.join(self.plan.work, "full"))

    def _kill(self) -> NoReturn:
        if self.plan.whom == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive after kill -9")

    @staticmethod
    def _fail(name: str, paths: tuple[str, ...]) -> NoReturn:
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number), *paths[:1])

    def _pause(self) -> None:
        paused = os.path.join(self.plan.work, "paused")
        with open(paused + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.rename(paused + ".part", paused)
        while not os.path.exists(os.path.join(self.plan.work, "go_on")):
            time.sleep(0.01)
