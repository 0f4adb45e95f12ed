"""What is to go wrong: one frozen value, handed to a process and to all that it starts in one environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

VARIABLE = "DAEDALUS_FAULTS"


@dataclass(frozen=True)
class Plan:
    """Operations are counted from 1 over all processes; 0 means never.

    root: the data root. work: a folder of the layer's own, outside the root: counter, trace, journal.
    kill_at, moment, whom: kill -9 "before", "during" (a write, half done) or "after" that operation; "self", or the
    whole process "group".
    fail_at, error: that operation fails with this errno ("EIO").
    full, full_from: from that operation on, everything that takes room in these areas fails with ENOSPC, as long as
    the file `work/full` is there (`fill()` makes it).
    pause_at: that operation waits, once `work/paused` holds the process's id, until `work/go_on` is there.
    unlink, unlink_at: this file is removed before that operation.
    vanish: this file below raw/ is removed as soon as somebody has asked for its size.
    file_limit: no file may grow beyond so many bytes (RLIMIT_FSIZE): the one limit that DuckDB's writes meet, too.
    no_exchange: folders cannot change places in one step (renameat2), as on some filesystems.
    journal: write down each operation with the bytes of the file that it is about.
    """

    root: str
    work: str
    kill_at: int = 0
    moment: str = "before"
    whom: str = "group"
    fail_at: int = 0
    error: str = "EIO"
    full: tuple[str, ...] = field(default=())
    full_from: int = 1
    pause_at: int = 0
    unlink: str = ""
    unlink_at: int = 0
    vanish: str = ""
    file_limit: int = 0
    no_exchange: bool = False
    journal: bool = False

    def fill(self) -> Plan:
        Path(self.work, "full").touch()
        return self

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def from_environment() -> Plan | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    values = json.loads(text)
    return Plan(**{**values, "full": tuple(values["full"])})
