"""Lanes in parallel processes, each lane in one of them and in order. The process that hands them out imports neither
DuckDB, nor pyarrow, nor numba: it stays small, and its memory is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any, NamedTuple

from daedalus_etl import limits
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane

Listener = Callable[[str, Mapping[str, Any]], None]
PACKAGES = str(Path(__file__).parents[1])


class Answer(NamedTuple):
    """What a worker says at the end of what it was asked: 'done' and the result, 'error' and a text, or 'stopped'."""

    asked: str
    kind: str
    value: Any


class Process:
    """A worker, and what it is at. It is asked one thing after the other, and answers in that order."""

    def __init__(self, started_with: tuple[Any, ...], tell: Listener, keep_open: int):
        self.tell = tell
        self.line, theirs = Pipe()
        path = os.pathsep.join(filter(None, (PACKAGES, os.environ.get("PYTHONPATH"))))
        # Ctrl-C in a terminal reaches all of us, and until a worker ignores it, it would end it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "daedalus_etl.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), keep_open),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints must not stand among our results
                env={**os.environ, "PYTHONPATH": path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self.asked: deque[str] = deque()  # and not answered yet
        self.lane: Lane | None = None
        self.channel: str | None = None  # of the lanes that it had
        self.send("start", *started_with)

    def send(self, name: str, *arguments: Any) -> None:
        """Ask for something. Raises OSError if nobody is there any more."""
        self.line.send((name, arguments))
        self.asked.append(name)

    def hear(self) -> Answer | None:
        """Take one message; None for an event, which is told. Raises EOFError or OSError if there is none to come."""
        kind, *content = self.line.recv()
        if kind == "event":
            self.tell(content[0], content[1])
            return None
        return Answer(self.asked.popleft(), kind, content[0])

    def call(self, name: str, *arguments: Any) -> Any:
        """Send, and wait for the result, and for all that was asked before. Raises DaedalusError if there is none."""
        try:
            self.send(name, *arguments)
            while True:
                answer = self.hear()
                if answer is not None and answer.kind != "done":
                    raise DaedalusError(answer.value or "was asked to end", "a worker process")
                if answer is not None and not self.asked:
                    return answer.value
        except (EOFError, OSError):
            raise DaedalusError(self.ended(), "a worker process") from None

    def last_words(self) -> str:
        """What went wrong with a process that has ended."""
        try:
            while (answer := self.hear()) is None or answer.kind != "error":
                pass
        except (EOFError, OSError):
            return f"its process {self.ended()}"
        return str(answer.value)

    def ended(self) -> str:
        """How the process ended, in words."""
        code = self.process.wait()
        if code >= 0:
            return f"ended by itself with code {code}"
        hint = "; is there too little memory?" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{hint}"

    def close(self) -> None:
        self.line.close()  # it ends when nobody speaks to it any more
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """At most `size` workers. started_with: what each is started with, its profile first; keep_open: a file descriptor
    that they keep."""

    def __init__(self, size: int, started_with: tuple[Any, ...], tell: Listener, keep_open: int, *, does: str = "lane"):
        self.does = does  # what a worker is asked to do with a lane
        self.size, self._started_with, self._tell, self._keep_open = size, started_with, tell, keep_open
        self.processes: list[Process] = []
        self.left: deque[Lane] = deque()

    def first(self) -> Process:
        """The worker that does what is done once."""
        if not self.processes:
            self.processes.append(Process(self._started_with, self._tell, self._keep_open))
        return self.processes[0]

    def end_soon(self) -> None:
        """Ask all workers to end after the partition in hand."""
        for one in self.processes:
            one.process.terminate()

    def close(self) -> None:
        for one in self.processes:
            one.close()

    def make(self, lanes: Iterable[Lane], survey: Any, temp: Path, stopping: Callable[[], bool], *, warm: bool) -> None:
        """Hand out lanes until all are made. What happens to a worker happens to its lane only; another one takes its
        place. Raises DaedalusError if the first cannot be started.

        warm: are the kernels compiled? If not, one process does it first; the others take them from the cache.
        """
        self.left = deque(lanes)
        first = self.first()
        self._start_more(survey)  # beside the first
        first.call("begin", survey)
        if not warm:
            first.call("warm")
        while self.left or any(one.lane is not None for one in self.processes):
            if stopping():
                self.left.clear()
            self._start_more(survey)
            for one in [one for one in self.processes if one.lane is None]:
                if self.left and not stopping():
                    self._hand_out(one, survey, temp)
            if self.left and not self.processes:
                raise DaedalusError(f"no worker is left for {len(self.left)} lanes", "a worker process", "Run again.")
            busy = [one for one in self.processes if one.lane is not None]
            for line in wait([one.line for one in busy]) if busy else ():
                self._hear(next(one for one in busy if one.line is line), stopping)

    def _start_more(self, survey: Any) -> None:
        while len(self.processes) < self.size and sum(one.lane is None for one in self.processes) < len(self.left):
            if self._another(survey) is None:
                break

    def _another(self, survey: Any) -> Process | None:
        """One more worker; it is asked to begin, and what it says to that is heard later. None if it cannot be had: the
        others go on."""
        try:
            process = Process(self._started_with, self._tell, self._keep_open)
        except OSError as error:
            self._cannot_start(str(error))
            return None
        self.processes.append(process)
        return process if self._ask(process, "begin", survey) else None

    def _ask(self, one: Process, name: str, *arguments: Any) -> bool:
        """Ask a worker for something; False if it has ended meanwhile."""
        try:
            one.send(name, *arguments)
        except OSError:
            self.processes.remove(one)
            if one.asked:  # before it had begun: another one would as well
                self._cannot_start(one.last_words())
            return False
        return True

    def _cannot_start(self, reason: str) -> None:
        self._tell("warning", {"text": f"a worker could not be started: {reason}"})
        self.size = len(self.processes)

    def _hand_out(self, one: Process, survey: Any, temp: Path) -> None:
        """Give a worker the next lane; a fresh one, where memory is scarce, if it had another channel. What that took
        (the books' kernel and its rings, most of all) is not given back by a process that goes on."""
        lane = self.left[0]
        if one.channel not in (None, lane.channel) and limits.is_scarce(self._started_with[0]):
            self.processes.remove(one)
            one.close()
            fresh = self._another(survey)
            if fresh is None:
                return
            one = fresh
        if self._ask(one, self.does, lane, temp):
            one.lane = self.left.popleft()
            one.channel = lane.channel

    def _hear(self, one: Process, stopping: Callable[[], bool]) -> None:
        """Take one message of a worker that has a lane."""
        is_starting = one.asked[0] != self.does
        try:
            answer = one.hear()
        except (EOFError, OSError):
            answer = Answer(one.asked[0], "error", f"its process {one.ended()}")
            self.processes.remove(one)
        if answer is None or (is_starting and answer.kind == "done"):
            return
        lane, one.lane = one.lane, None
        assert lane is not None
        error = answer.value if answer.kind == "error" else None
        if answer.kind == "stopped":
            self.processes.remove(one)
            one.close()  # none of us outlives the run
            error = None if stopping() else "its process was asked to end"
        if is_starting:  # it never had the lane
            if one in self.processes:
                self.processes.remove(one)
                one.close()
            self.left.appendleft(lane)
            if not stopping():
                self._cannot_start(str(error))
        elif error is not None:
            self._tell("failed", {"model": "all models of", "lane": str(lane), "error": error})
