"""Somebody who globs processed/ all the time, and never may see a wrong row, a row twice, or miss a published one."""

from __future__ import annotations

import threading
from types import TracebackType

from tests.crash.market import Root, Rows, parquet_files, rows_in

Seen = tuple[int, set[int]]  # version of a partition, and which of its rows


class Reader(threading.Thread):
    """Reads until it is stopped; as a context it then raises what it saw. `look()` reads once.

    A partition is what was published before the test, or what the quiet run makes of it, or a beginning of either;
    never of both, and never the older one again.
    """

    def __init__(self, root: Root):
        super().__init__(daemon=True)
        self.data = root.data
        self.versions = (root.quiet.rows_before(root.start), root.quiet.rows)
        self.passes = 0
        self._seen: dict[str, Seen] = {}
        self._stop_now = threading.Event()
        self._error: Exception | None = None

    def look(self) -> None:
        """Read all that is there. Raises AssertionError for what must not be; a file that went since the listing is
        left to the next look."""
        got: Rows = {}
        whole = True
        for path in parquet_files(self.data):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                whole = False
                continue
            got.setdefault(str(path.parent.relative_to(self.data / "processed")), []).extend(rows_in(content))
        found = {partition: self._find(partition, rows) for partition, rows in got.items()}
        if whole:
            for partition, (version, places) in self._seen.items():
                now, there = found.get(partition, (version, set()))
                assert now >= version, f"{partition}: the older rows are back"
                gone = places - there if now == version else ()
                assert not gone, f"{partition}: {len(gone)} published rows are missing"
            self._seen = found
        self.passes += 1

    def _find(self, partition: str, rows: list[str]) -> Seen:
        """Which version of a partition these rows are of, the newest that may be: all in it, each once, in order."""
        for version in (1, 0):
            places = _places(rows, self.versions[version].get(partition, []))
            if places is not None:
                return version, places
        raise AssertionError(f"{partition}: {len(rows)} rows with one that is wrong, double or out of order")

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                self.look()
                self._stop_now.wait(0.05)
        except Exception as error:  # noqa: BLE001  # whatever a reader meets is told to the test
            self._error = error

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop_now.set()
        self.join()
        if self._error is not None:
            raise self._error
        if error is None:
            self.look()


def _places(rows: list[str], want: list[str]) -> set[int] | None:
    """Where the rows stand in those that are wanted; None if they are not a part of them in the same order."""
    places: set[int] = set()
    at = 0
    for row in rows:
        try:
            at = want.index(row, at) + 1
        except ValueError:
            return None
        places.add(at - 1)
    return places
