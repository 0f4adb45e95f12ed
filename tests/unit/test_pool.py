"""What becomes of workers."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing import Pipe

from daedalus_etl.pool import Pool, Process


def test_a_worker_that_was_asked_to_end_has_ended_when_the_run_has() -> None:
    """It has answered, and takes its time to go: whoever starts next must not meet it."""
    one = Process.__new__(Process)
    one.line, theirs = Pipe()
    slow = "import sys, time; sys.stdin.read(); time.sleep(0.5)"
    one.process = subprocess.Popen([sys.executable, "-c", slow], stdin=subprocess.DEVNULL)
    one.lane = None
    pool = Pool(1, (), lambda *_: None, 0)
    pool.processes = [one]
    theirs.send(("stopped", None))
    assert pool._hear(one, lambda: True)
    assert pool.processes == []
    assert one.process.poll() == 0
    theirs.close()
