"""Lanes in parallel processes, each lane in one of them and in order. The process that hands them out imports neither
DuckDB, nor pyarrow, nor numba: it stays small, and its memory is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane

Listener = Callable[[str, Mapping[str, Any]], None]
PACKAGES = str(Path(__file__).parents[1])


class Process:
    """A worker, and what it is at."""

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
        self.lane: Lane | None = None
        self.channel: str | None = None  # of the lanes that it had
        self.call("start", *started_with)

    def send(self, name: str, *arguments: Any) -> None:
        self.line.send((name, arguments))

    def call(self, name: str, *arguments: Any) -> Any:
        """Send, and wait for the result. Raises DaedalusError if there is none."""
        try:
            self.send(name, *arguments)
            while (answer := self.line.recv())[0] == "event":
                self.tell(answer[1], answer[2])
        except (EOFError, ConnectionError):
            raise DaedalusError(self.ended(), "a worker process") from None
        if answer[0] != "done":
            raise DaedalusError(answer[1] or "was asked to end", "a worker process")
        return answer[1]

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
    """At most `size` workers. started_with: what each is started with; keep_open: a file descriptor that they keep."""

    def __init__(self, size: int, started_with: tuple[Any, ...], tell: Listener, keep_open: int, *, does: str = "lane"):
        self.does = does  # what a worker is asked to do with a lane
        self.size, self._started_with, self._tell, self._keep_open = size, started_with, tell, keep_open
        self.processes: list[Process] = []

    def first(self) -> Process:
        """The worker that does what is done once."""
        return self.processes[0] if self.processes else self._start()

    def _start(self, begin: Any = None) -> Process:
        process = Process(self._started_with, self._tell, self._keep_open)
        if begin is not None:
            process.call("begin", begin)
        self.processes.append(process)
        return process

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
        left = list(lanes)
        first = self.first()
        first.call("begin", survey)
        if not warm:
            first.call("warm")
        idle = [first]
        while left or any(one.lane is not None for one in self.processes):
            if stopping():
                left.clear()
            while len(self.processes) < self.size and len(idle) < len(left):
                started = self._another(survey)
                if started is None:
                    break
                idle.append(started)
            while idle and left and not stopping():
                one = self._fit_for(left[0], idle.pop(), survey)
                if one is not None:
                    self._hand_out(one, left, temp)
            busy = [one for one in self.processes if one.lane is not None]
            if left and not self.processes:
                raise DaedalusError(f"no worker is left for {len(left)} lanes", "a worker process", "Run again.")
            for line in wait([one.line for one in busy]) if busy else ():
                one = next(p for p in busy if p.line is line)
                if self._hear(one, stopping):
                    one.lane = None
                    if one in self.processes:
                        idle.append(one)

    def _another(self, survey: Any) -> Process | None:
        """One more worker; None if it cannot be had: the others go on."""
        try:
            return self._start(survey)
        except (DaedalusError, OSError) as error:
            self._tell("warning", {"text": f"a worker could not be started: {error}"})
            self.size = max(len(self.processes), 1)
            return None

    def _fit_for(self, lane: Lane, one: Process, survey: Any) -> Process | None:
        """A worker for a lane: a fresh one if this one had another channel. What a channel took of memory (the books'
        kernel and its rings, most of all) is not given back by a process that goes on."""
        if one.channel in (None, lane.channel):
            return one
        self.processes.remove(one)
        one.close()
        return self._another(survey)

    def _hand_out(self, one: Process, left: list[Lane], temp: Path) -> None:
        try:
            one.send(self.does, left[0], temp)
        except OSError:  # it has died meanwhile
            self.processes.remove(one)
            return
        one.lane = left.pop(0)
        one.channel = one.lane.channel

    def _hear(self, one: Process, stopping: Callable[[], bool]) -> bool:
        """Take one message; is the worker through with its lane?"""
        try:
            answer = one.line.recv()
        except (EOFError, OSError):
            answer = ("error", f"its process {one.ended()}")
            self.processes.remove(one)
        if answer[0] == "event":
            self._tell(answer[1], answer[2])
            return False
        if answer[0] == "stopped":
            self.processes.remove(one)
            one.close()  # none of us outlives the run
            if not stopping():
                answer = ("error", "its process was asked to end")
        if answer[0] == "error":
            self._tell("failed", {"model": "all models of", "lane": str(one.lane), "error": answer[1]})
        return True
