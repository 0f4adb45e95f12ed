"""How a profile's memory limit is shared among the processes of a run. Imports no engine."""

from __future__ import annotations

import ctypes

from daedalus_etl.profiles import Profile

# What a process takes beside DuckDB's own memory: Python, pyarrow, numba, and what DuckDB needs beyond its limit while
# it writes wide rows; and the process that only hands out lanes (docs/performance.md). Bytes.
BESIDE = 365_000_000
HANDING_OUT = 60_000_000
# Of DuckDB's memory, a row with all that is made of it: 2,200 bytes of a quote, 2,500 of a trade where nothing spills.
# The rows before a piece come on top, 800 bytes each, and a small piece has as many: 50,000 quotes at once rather than
# 80,000 take a tenth more of the processor.
BYTES = {"orderbook": 4000, "trades": 2000, "ticker": 2000}
ROOMY = 1_000_000_000  # of DuckDB's memory: who has so much need not compress its tables
LEAST = 100_000_000  # DuckDB needs so much for real data; a profile that leaves less is gone beyond


def share_of(profile: Profile) -> int:
    """DuckDB's memory limit in one of a profile's processes, bytes: all of them together stay under the profile's."""
    return max((profile.memory_limit - HANDING_OUT) // max(profile.workers, 1) - BESIDE, LEAST)


def rows_at_once(profile: Profile, channel: str) -> int:
    """How many rows of a channel one session takes in at once; an hour of more is taken in pieces."""
    return max(share_of(profile) // BYTES[channel], 10_000)


def is_scarce(profile: Profile) -> bool:
    """Is there so little memory for a session that its tables are compressed, though a lane takes longer then?"""
    return share_of(profile) < ROOMY


def workers_for(profile: Profile, cores: int) -> int:
    """As many processes as there are cores, and as the memory limit has room for."""
    room = (profile.memory_limit - HANDING_OUT) // (BESIDE + LEAST)
    return max(1, min(cores, room))


def give_back() -> None:
    """Let the C library return what it keeps: plans of queries leave holes, and a process that lives for months would
    grow by them (glibc; others return it themselves)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
