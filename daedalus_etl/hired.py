"""A process that a watcher keeps: it is asked one thing after the other, and what can go together does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from daedalus_etl.pool import Process


@dataclass
class Ask:
    """What a process is to be asked."""

    name: str
    arguments: tuple[Any, ...]


class Hired:
    """What it is asked waits here until it has answered what it is at."""

    def __init__(self, process: Process):
        self.process = process
        self.asks: deque[Ask] = deque()
        self.busy: Ask | None = None
        self.waits = False  # for a file, another channel, or the end of a pause: it wants to be asked again soon

    def ask(self, name: str, *arguments: Any) -> None:
        self.asks.append(Ask(name, arguments))

    def pulse(self, paths: Iterable[str] = ()) -> None:
        """Ask for a look at files; what is asked already goes together."""
        for ask in self.asks:
            if ask.name == "pulse":
                ask.arguments = ((*ask.arguments[0], *paths),)
                return
        self.ask("pulse", tuple(paths))

    def go_on(self) -> None:
        if self.busy is None and self.asks:
            self.busy = self.asks.popleft()
            self.process.send(self.busy.name, *self.busy.arguments)
