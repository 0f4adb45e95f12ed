"""Start, stop and kill the command, with a plan or without."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.crash.faults.plan import Plan

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
LONGEST = 120  # s; a run that takes longer hangs
_started: list[Running] = []


@dataclass(frozen=True)
class Ended:
    """A command that has ended; seconds of CPU of all its processes. A negative code is the signal that ended it."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def environment(plan: Plan | None) -> dict[str, str]:
    """What a Python process, and all that it starts, needs to be under the plan."""
    found = {key: value for key, value in os.environ.items() if key != "DAEDALUS_PROFILE"}
    found["PYTHONPATH"] = str(REPOSITORY)
    if plan is not None:
        found["PYTHONPATH"] = f"{HERE / 'layer'}{os.pathsep}{REPOSITORY}"
        found |= plan.environment()
    return found


class Running:
    """A command at work, in a process group of its own."""

    def __init__(self, arguments: tuple[str | Path, ...], plan: Plan | None, scratch: Path, limit: int = LONGEST):
        scratch.mkdir(parents=True, exist_ok=True)
        self._limit = limit
        self._ended: Ended | None = None
        self._kills_all = plan is not None and plan.whom == "group"
        self._out, self._err = scratch / "stdout", scratch / "stderr"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daedalus_etl", *map(str, arguments)],
                cwd=scratch, env=environment(plan), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        _started.append(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self, *, group: bool = True) -> Ended:
        """kill -9, of all its processes or of the first alone. One that has been waited for has ended already."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        self._kills_all |= group
        return self.wait()

    def wait(self) -> Ended:
        if self._ended is not None:
            return self._ended
        deadline = time.monotonic() + self._limit
        while not (found := os.wait4(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {self._limit} s\n{self._err.read_text()}")
            time.sleep(0.005)
        _, status, usage = found
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._ended = Ended(
            self.process.returncode, self._out.read_text(), self._err.read_text(), usage.ru_utime + usage.ru_stime
        )
        while self._ended.killed and self._kills_all and self.alive() and time.monotonic() < deadline:
            time.sleep(0.005)  # the first is dead; another may still be on its way out, with the lock in its hand
        return self._ended

    def alive(self) -> bool:
        """Is any process of its group still there? One that is dead and not yet fetched is not."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group, *_ = status.read_text().rpartition(")")[2].split()
                if group == str(self.pid) and state not in ("Z", "X"):
                    return True
        return False


def kill_what_is_left() -> None:
    """kill -9 of all that a test started and that is still alive: a paused run, an orphaned worker."""
    while _started:
        running = _started.pop()
        if running.alive():  # else its number may be another's by now
            running.kill()
