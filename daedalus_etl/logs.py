"""What a service says of itself on stderr, an event a line: JSON for programs, text for journald and for people."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LEVELS = {"failed": "error", "quarantined": "warning", "warning": "warning"}  # all others: info
PRIORITIES = {"error": "<3>", "warning": "<4>", "info": "<6>"}  # as journald reads them at the beginning of a line
# of a run with a bar on a terminal: a log of months has no use for them
PROGRESS = frozenset(("look", "plan", "planned", "lane", "lane_done", "walked", "fresh"))
EVERY = 60.0  # seconds between two lines on the live rows of a lane in a model


class Log:
    """Hears what a run tells, as `console.Lines` does, and writes a line for each event, but for those of progress.

    form: "json" or "text". Live rows ("taken") come many times a second, and a card wears out: they are summed, per
    model and lane, and said once a minute, with the largest lag. `pulse` says those that are due where no other event
    comes; the end of the with-block says the rest.

    On the way to journald a line begins with its priority, which journald takes off, and text has no time of its own. A
    log that cannot be written ends nothing: no method raises OSError.
    """

    def __init__(self, form: str = "text"):
        self._line = as_json if form == "json" else as_text
        self._to_journal = is_journal()
        self._taken: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._since = time.monotonic()

    def __call__(self, event: str, details: Mapping[str, Any]) -> None:
        if event == "taken":
            self._take(details)
        elif event not in PROGRESS:
            self._say(event, details)
        self.pulse()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._say_taken()

    def say(self, text: str) -> None:
        """One line that is no event of a run: an "info" with a text."""
        self._say("info", {"text": text})

    def pulse(self) -> None:
        """Say what has been summed, if a minute is over."""
        if time.monotonic() - self._since >= EVERY:
            self._say_taken()

    def _take(self, details: Mapping[str, Any]) -> None:
        if not self._taken:
            self._since = time.monotonic()
        lane = (str(details.get("model")), str(details.get("exchange")), str(details.get("symbol")))
        sums = self._taken.setdefault(lane, {})
        for name, value in details.items():
            known = sums.get(name)
            if known is None or value is None:
                sums[name] = value if known is None else known
            elif name in ("rows", "segments"):
                sums[name] = known + value
            else:
                sums[name] = max(known, value) if name == "lag" else value

    def _say_taken(self) -> None:
        self._since = time.monotonic()
        taken, self._taken = self._taken, {}
        for details in taken.values():
            self._say("taken", details)

    def _say(self, event: str, details: Mapping[str, Any]) -> None:
        level = LEVELS.get(event, "info")
        line = self._line("" if self._to_journal else _now(), level, event, details)
        priority = PRIORITIES[level] if self._to_journal else ""
        try:
            sys.stderr.write(f"{priority}{line}\n")  # in one piece: others may write there too
            sys.stderr.flush()
        except (OSError, ValueError):  # full, or closed by the other side
            pass


def as_json(moment: str, level: str, event: str, details: Mapping[str, Any]) -> str:
    """{"time": ..., "level": ..., "event": ..., and the details}: RFC 8259 JSON in ASCII, on one line.

    moment: UTC, as ISO 8601 writes it; "": now. A detail that is called as one of these three gets a `_` behind its
    name; what JSON cannot say (NaN, a path, bytes) is said as text.
    """
    head = {"time": moment or _now(), "level": level, "event": event}
    return json.dumps(head | {f"{k}_" if k in head else str(k): _plain(v) for k, v in details.items()}, default=str)


def as_text(moment: str, level: str, event: str, details: Mapping[str, Any]) -> str:
    """An event as people read it, on one line. moment: UTC, as ISO 8601 writes it; "": no time is said."""
    if event == "failed":
        text = f"Failed: {details.get('model')} {details.get('lane')}: {details.get('error')}"
    elif event == "quarantined":
        text = f"Quarantined: {details.get('segment')}: {details.get('reason')}"
    elif event in ("warning", "info"):
        text = f"{'Warning: ' if level == 'warning' else ''}{details.get('text')}"
    else:
        text = " ".join([event, *(f"{name}={_word(value)}" for name, value in details.items())])
    return f"{moment} {_line(text)}".lstrip()


def is_journal() -> bool:
    """Does stderr go to journald? JOURNAL_STREAM alone does not say so: whoever redirects stderr leaves it set."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, no infinity, names as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value


def _word(value: Any) -> str:
    """A value in one word, in quotes if it has a space."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text


def _line(text: str) -> str:
    """One line: an error's cure stands behind it."""
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())
