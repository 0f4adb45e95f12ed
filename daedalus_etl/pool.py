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
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "daedalus_etl.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(), keep_open),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints must not stand among our results
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self.lane: Lane | None = None
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
        if answer[0] == "error":
            raise DaedalusError(answer[1])
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

    def __init__(self, size: int, started_with: tuple[Any, ...], tell: Listener, keep_open: int):
        self.size, self._started_with, self._tell, self._keep_open = size, started_with, tell, keep_open
        self.processes: list[Process] = []

    def first(self) -> Process:
        """The worker that does what is done once."""
        return self.processes[0] if self.processes else self._start()

    def _start(self, begin: Any = None) -> Process:
        process = Process(self._started_with, self._tell, self._keep_open)
        self.processes.append(process)
        if begin is not None:
            process.call("begin", begin)
        return process

    def end_soon(self) -> None:
        """Ask all workers to end after the partition in hand."""
        for one in self.processes:
            one.process.terminate()

    def close(self) -> None:
        for one in self.processes:
            one.close()

    def make(self, lanes: Iterable[Lane], survey: Any, temp: Path, stopping: Callable[[], bool], *, warm: bool) -> None:
        """Hand out lanes until all are made. What happens to a worker happens to its lane only.

        warm: are the kernels compiled? If not, one process does it first; the others take them from the cache.
        """
        left = list(lanes)
        first = self.first()
        first.call("begin", survey)
        if not warm:
            first.call("warm")
        while len(self.processes) < min(self.size, len(left)):
            self._start(survey)
        idle = list(self.processes)
        while True:
            while idle and left and not stopping():
                one = idle.pop()
                one.lane = left.pop(0)
                one.send("lane", one.lane, temp)
            busy = [one for one in self.processes if one.lane is not None]
            if not busy:
                return
            for line in wait([one.line for one in busy]):
                one = next(p for p in busy if p.line is line)
                if self._hear(one):
                    one.lane = None
                    if one in self.processes:
                        idle.append(one)
                    elif left and not stopping():
                        idle.append(self._start(survey))

    def _hear(self, one: Process) -> bool:
        """Take one message; has the worker ended with its lane?"""
        try:
            answer = one.line.recv()
        except (EOFError, ConnectionError):
            answer = ("error", f"its process {one.ended()}")
            self.processes.remove(one)
        if answer[0] == "event":
            self._tell(answer[1], answer[2])
            return False
        if answer[0] == "error":
            self._tell("failed", {"model": "all models of", "lane": str(one.lane), "error": answer[1]})
        return True
