"""The ledger: which states are kept, what a record says, and how memory is shared among processes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daedalus_etl import files, ledger, limits, profiles
from daedalus_etl.engine import Engine
from daedalus_etl.errors import DaedalusError
from daedalus_etl.lanes import Lane
from daedalus_etl.ledger import Input, Ledger, Record

LANE = Lane("kraken", "BTC-USD", "trades")
RECORD = Record("2026-02-03T14", "BTC-USD", {"macros": "a"}, {"levels": 20}, {}, "", "", 5, "listing")
INPUT = Input("trades", "raw/a.parquet", 10, 20, "digest", 3, 1, 2)


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    files.empty_folder(tmp_path / "state" / "staging")
    return Ledger(tmp_path, "silver.trades", LANE)


def hour(n: int) -> str:
    return f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n):%Y-%m-%dT%H}"


def kept_of(hours: int) -> list[str]:
    """The states that are left after so many hours, one committed after the other."""
    kept: list[str] = []
    for n in range(hours):
        kept.append(f"{hour(n)}.x.state")
        drop = set(ledger.states_to_drop(kept))
        kept = [name for name in kept if name not in drop]
    return [name[:13] for name in kept]


def test_the_newest_hours_are_kept_whole() -> None:
    assert kept_of(48) == [hour(n) for n in range(48)]
    assert kept_of(500)[-48:] == [hour(n) for n in range(452, 500)]


def test_older_states_are_those_at_the_ends_of_days_then_of_months() -> None:
    kept = kept_of(200 * 24)
    old = kept[:-48]
    assert all(name.endswith("T23") for name in old)
    days = [datetime.fromisoformat(name[:10]) for name in old]
    coarse, fine = days[: -ledger.DAYS_KEPT], days[-ledger.DAYS_KEPT :]
    assert {after - day for day, after in itertools.pairwise(fine)} == {timedelta(days=1)}
    assert [day.month for day in coarse] == sorted({day.month for day in coarse})
    assert all((day + timedelta(days=1)).day == 1 for day in coarse[:-1])


def test_the_number_of_states_hardly_grows_with_history() -> None:
    assert len(kept_of(365 * 24)) - len(kept_of(90 * 24)) <= 10


def test_a_record_comes_back_as_it_was_written(book: Ledger) -> None:
    written = book.commit(RECORD, [INPUT, INPUT], state={"b": b"2", "a": b"1"})
    assert written.end == files.digest(ledger.pack({"a": b"1", "b": b"2"}))
    again = Ledger(book.folder.parents[3], "silver.trades", LANE)
    found = again.get(RECORD.partition)
    assert found == replace(written, inputs=2)
    assert again.inputs(found) == [INPUT, INPUT]
    assert again.load_state(found) == {"a": b"1", "b": b"2"}
    assert again.head() == {"partition": RECORD.partition, "state": written.state, "max_clock": None}


def test_the_head_is_that_of_the_newest_partition(book: Ledger) -> None:
    late = replace(RECORD, partition="2026-02-04T00", max_clock=7)
    book.commit(late, state={"a": b"1"})
    book.commit(RECORD, state={"a": b"2"})
    assert book.head()["partition"] == late.partition
    assert book.head()["max_clock"] == 7


def test_a_state_that_is_not_what_was_written_is_none(book: Ledger) -> None:
    written = book.commit(RECORD, state={"a": b"1"})
    (book.folder / written.state).write_bytes(ledger.pack({"a": b"2"}))
    assert book.load_state(written) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"version": 2}\n', b"\0\0\0"])
def test_what_is_no_record_is_refused_with_the_cure(book: Ledger, content: bytes) -> None:
    book.commit(RECORD)
    (book.folder / f"{RECORD.partition}.json").write_bytes(content)
    with pytest.raises(DaedalusError, match="is no record\n  Remove it"):
        book.get(RECORD.partition)


def test_a_record_that_was_cut_short_is_refused(book: Ledger) -> None:
    book.commit(RECORD, [INPUT, INPUT])
    path = book.folder / f"{RECORD.partition}.json"
    path.write_bytes(path.read_bytes().rpartition(b"\n{")[0] + b"\n")
    found = book.get(RECORD.partition)
    assert found is not None
    with pytest.raises(DaedalusError, match="is cut short"):
        book.inputs(found)


def test_a_record_of_another_version_is_as_none(book: Ledger) -> None:
    book.commit(RECORD)
    path = book.folder / f"{RECORD.partition}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    assert book.get(RECORD.partition) is None


# -- memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pi4", "laptop", "cloud"])
def test_all_processes_of_a_profile_fit_its_memory_limit(name: str) -> None:
    profile = profiles.load(name)
    worker = limits.share_of(profile) + limits.BESIDE
    assert limits.HANDING_OUT + profile.workers * worker <= profile.memory_limit
    assert limits.share_of(profile) >= limits.LEAST


@pytest.mark.parametrize(("cores", "gigabytes", "workers"), [(4, 1, 2), (1, 1, 1), (8, 32, 8), (4, 0.2, 1), (64, 2, 4)])
def test_auto_takes_what_cores_and_memory_allow(cores: int, gigabytes: float, workers: int) -> None:
    profile = replace(profiles.load("laptop"), memory_limit=int(gigabytes * 1e9))
    assert limits.workers_for(profile, cores) == workers


def test_a_piece_is_never_empty(tmp_path: Path) -> None:
    profile: Any = replace(profiles.load("pi4"), memory_limit=32_000_000)
    assert limits.rows_at_once(profile, "orderbook") >= 10_000


@pytest.mark.parametrize(
    ("name", "lasts", "small"), [("pi4", False, True), ("laptop", False, False), ("laptop", True, True)]
)
def test_tables_are_compressed_where_memory_is_scarce_and_in_sessions_that_last(name: str, lasts: bool, small: bool):
    first = Engine(profiles.load(name))
    engine = Engine(profiles.load(name), within=first) if lasts else first
    engine.table("t", "select 7 as x from range(100000)")
    kinds = {kind for (kind,) in engine.con.execute("select compression from pragma_storage_info('t')").fetchall()}
    assert ("Uncompressed" not in kinds) == small
    if lasts:
        engine.close()
    first.close()


def test_tidying_is_linear_in_the_records(book: Ledger) -> None:
    """Each name of a partition is taken a number of times that does not grow with how many there are."""
    compared = itertools.count()

    class Name(str):
        __slots__ = ()

        def __lt__(self, other: str) -> bool:
            next(compared)
            return str.__lt__(self, other)

    book._write(RECORD, [])
    book._names = [Name(hour(n)) for n in range(2_000)]
    book.tidy(replace(RECORD, partition=name) for name in list(book._names))
    assert next(compared) < 100 * 2_000
