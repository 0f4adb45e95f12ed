"""One count of operations, shared by all processes of a run: a number in a file, under a lock.

The lock is held while the operation passes, so that the count, the journal and the disk tell the same order. The
kernel releases it when its holder is killed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Counter:
    def __init__(self, path: str):
        self.path = path
        self._thread = threading.Lock()  # the file's lock is the process's, not the thread's

    @contextmanager
    def next(self) -> Iterator[int]:
        with self._thread:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX)
                n = int(os.read(handle, 20) or b"0") + 1
                os.pwrite(handle, b"%d" % n, 0)
                yield n
            finally:
                os.close(handle)
