"""Times as people write and read them: UTC, to and from integer microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> int:
    """A month (its first midnight), a date (its midnight) or a moment, as ISO 8601 writes it -> us since the epoch.

    UTC unless it names a zone. Raises ValueError.

    >>> parse_time("2026-02-03T14:30Z") - parse_time("2026-02-03")
    52200000000
    """
    text = text.strip()
    if len(text) == len("2026-02") and text[4] == "-":
        text += "-01"
    when = datetime.fromisoformat(text)
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - EPOCH) // timedelta(microseconds=1)


def show_time(us: int) -> str:
    """Microseconds since the epoch as people read them, with no more decimals than there are.

    >>> show_time(1770128405250000)
    '2026-02-03 14:20:05.25'
    """
    when = (EPOCH + timedelta(microseconds=us)).replace(tzinfo=None)
    return when.isoformat(" ", "microseconds").rstrip("0").rstrip(".")
