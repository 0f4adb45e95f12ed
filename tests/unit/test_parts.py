"""An open partition: what is published, what its journal says, and what a kill leaves of both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl import files, parts
from daedalus_etl.lanes import Lane
from daedalus_etl.ledger import Input, Ledger, Record
from daedalus_etl.parts import OpenPartition

HEADER: dict[str, Any] = {"version": 2, "start": "", "symbol": "BTC-USD"}
TARGET = "silver/x/exchange=E/symbol=BTC-USD/year=2026/hour=7/h-1.parquet"


def table(*clocks: int) -> pa.Table:
    return pa.table({"clock_ts": pa.array(clocks, pa.timestamp("us", tz="UTC")), "n": pa.array(clocks, pa.int64())})


def opened(data: Path) -> OpenPartition:
    book = Ledger(data, "silver.x", Lane("E", "BTC-USDT", "trades"))
    book.staging.mkdir(parents=True, exist_ok=True)
    (data / "processed").mkdir(exist_ok=True)
    return OpenPartition(book, "2026-02-03T07", TARGET, {"compression": "zstd"})


@pytest.fixture
def open_hour(tmp_path: Path) -> OpenPartition:
    found = opened(tmp_path)
    found.begin(HEADER)
    return found


def add(one: OpenPartition, *clocks: int, **more: Any) -> None:
    one.commit([one.stage(table(*clocks), "clock_ts")], max(clocks) + 1, last=max(clocks), **more)


def rows(one: OpenPartition) -> list[int]:
    return sorted(n for path in one.target.parent.glob("*.parquet") for n in pq.read_table(path)["n"].to_pylist())


def test_parts_are_published_and_noted(open_hour: OpenPartition, tmp_path: Path) -> None:
    one = Input("trades", "raw/a.parquet", 1, 2, "d", 3, 4, 5)
    add(open_hour, 1, 2, inputs=[one])
    add(open_hour, 3)
    assert rows(open_hour) == [1, 2, 3]
    again = opened(tmp_path)
    assert again.resume(HEADER)
    assert [(part.rows, part.first, part.last) for part in again.now.parts] == [(2, 1, 2), (1, 3, 3)]
    assert (again.now.until, again.now.last) == (4, 3)
    assert list(again.now.inputs.values()) == [one]
    assert not opened(tmp_path).resume({**HEADER, "start": "other"})


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_that_was_not_written_whole_does_not_count_and_the_next_one_stands(
    open_hour: OpenPartition, tmp_path: Path, cut: int
) -> None:
    add(open_hour, 1)
    size = open_hour.path.stat().st_size
    add(open_hour, 2)
    line = open_hour.path.read_bytes()[size:]
    os.truncate(open_hour.path, size + (cut if cut > 0 else len(line) - 1))
    again = opened(tmp_path)
    assert again.resume(HEADER)
    assert again.now.until == 2
    add(again, 2, 3)  # what the kill left of the other part goes in the same step
    assert rows(again) == [1, 2, 3]
    third = opened(tmp_path)
    assert third.resume(HEADER)
    assert third.now == again.now


def test_a_part_that_has_gone_is_noticed(open_hour: OpenPartition, tmp_path: Path) -> None:
    add(open_hour, 1)
    next(open_hour.target.parent.glob("*.parquet")).unlink()
    assert not opened(tmp_path).resume(HEADER)


def test_what_replaces_parts_takes_their_place_in_one_step(
    open_hour: OpenPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(open_hour, 1)
    add(open_hour, 2)
    add(open_hour, 3)
    seen = []
    real = files.exchange

    def exchange(one: Path, other: Path) -> bool:
        seen.append(rows(open_hour))
        done = real(one, other)
        seen.append(rows(open_hour))
        return done

    monkeypatch.setattr(files, "exchange", exchange)
    add(open_hour, 2, 3, 4, gone=open_hour.now.parts[1:], back=1)
    assert seen == [[1, 2, 3], [1, 2, 3, 4]]
    assert len(list(open_hour.target.parent.glob("*"))) == 2
    assert not list(open_hour.book.staging.iterdir())


def test_where_folders_cannot_be_exchanged_no_row_is_missing_at_any_time(
    open_hour: OpenPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(open_hour, 1)
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    add(open_hour, 1, 2, gone=open_hour.now.parts)
    assert rows(open_hour) == [1, 2]


def test_the_same_rows_again_are_not_written_again(open_hour: OpenPartition) -> None:
    add(open_hour, 1)
    (path,) = open_hour.target.parent.glob("*.parquet")
    before = path.stat().st_ino
    add(open_hour, 1, gone=open_hour.now.parts)
    assert path.stat().st_ino == before
    assert len(open_hour.now.parts) == 1


def test_small_parts_are_joined_and_never_reach_a_hundred(open_hour: OpenPartition) -> None:
    most = 0
    for clock in range(1, 700):
        add(open_hour, clock)
        open_hour.join("clock_ts")
        most = max(most, len(open_hour.now.parts))
    assert most < 100
    assert rows(open_hour) == list(range(1, 700))
    assert len(list(open_hour.target.parent.glob("*"))) == len(open_hour.now.parts)


def test_a_state_is_one_to_go_back_to_only_where_no_part_reaches_over_it(open_hour: OpenPartition) -> None:
    add(open_hour, 1, 2)
    state = {"kernel": b"abc"}
    open_hour.commit([], 3, state=(3, open_hour.save(state)))
    add(open_hour, 3, 4)
    assert open_hour.back_to(2) is None
    found = open_hour.back_to(3)
    assert found is not None
    assert open_hour.load(found[1]) == state
    joined = open_hour.stage(open_hour.read(open_hour.now.parts), "clock_ts", 1)
    open_hour.commit([joined], 5, gone=open_hour.now.parts)
    assert open_hour.back_to(4) is None


def test_a_record_ends_it(open_hour: OpenPartition, tmp_path: Path) -> None:
    add(open_hour, 1)
    add(open_hour, 2)
    open_hour.commit([], 3, state=(3, open_hour.save({"kernel": b"abc"})))
    staged = open_hour.book.staging / "whole.part"
    pq.write_table(table(1, 2), staged)
    record = Record(
        open_hour.partition, "BTC-USD", {}, {}, {}, "", "", 9, "", counts={"read": 2, "written": 2}
    )  # fmt: skip
    open_hour.book.commit(record, (), staged, TARGET)
    assert [path.name for path in open_hour.target.parent.glob("*")] == ["h-1.parquet"]
    assert not open_hour.book.opened()
    assert parts.read(open_hour.path).header == {}


def test_a_state_that_was_let_go_is_not_gone_back_to(open_hour: OpenPartition, tmp_path: Path) -> None:
    """Who begins anew reads of all of them in the journal."""
    open_hour.begin(HEADER, (0, {"kernel": b"0"}))
    for clock in range(1, 8):
        add(open_hour, clock, state=(clock + 1, open_hour.save({"kernel": b"%d" % clock})))
    again = opened(tmp_path)
    assert again.resume(HEADER)
    assert again.now.states == open_hour.now.states
    for clock in range(9):
        found = again.back_to(clock)
        assert found is not None
        assert again.load(found[1]) is not None


def test_a_journal_comes_with_its_state_or_not_at_all(
    open_hour: OpenPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hour.begin(HEADER, (0, {"kernel": b"0"}))
    add(open_hour, 1, state=(2, open_hour.save({"kernel": b"1"})))
    write, left = files.write_synced, [1, 0]

    def full(*given: Any) -> None:
        if left.pop() == 0:
            raise OSError(28, "No space left on device")
        write(*given)

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        open_hour.begin(HEADER, (0, {"kernel": b"new"}))
    left[:] = [0, 1]
    with pytest.raises(OSError, match="No space"):
        open_hour.begin(HEADER, (0, {"kernel": b"new"}))
    again = opened(tmp_path)
    assert again.resume(HEADER)
    assert rows(again) == [1]
    assert [again.load(digest) for _, digest in again.now.states] == [{"kernel": b"0"}, {"kernel": b"1"}]


def test_parts_under_another_name_go_with_the_record(open_hour: OpenPartition, tmp_path: Path) -> None:
    """The lane had another name while the partition was open; a run makes it whole."""
    add(open_hour, 1, 2)
    target = TARGET.replace("BTC-USD", "BTC-USDT")
    folder = (tmp_path / "processed" / target).parent
    assert parts.under_another_name(open_hour.path, open_hour.target.parent, "BTC-USD") == []
    left = parts.under_another_name(open_hour.path, folder, "BTC-USDT")
    assert [path.parent for path in left] == [open_hour.target.parent]
    staged = open_hour.book.staging / "whole.part"
    pq.write_table(table(1, 2), staged)
    old = tuple(str(path.relative_to(tmp_path / "processed")) for path in left)
    record = Record(
        open_hour.partition, "BTC-USDT", {}, {}, {}, "", "", 9, "", obsolete=old, counts={"read": 2, "written": 2}
    )  # fmt: skip
    open_hour.book.commit(record, (), staged, target)
    assert rows(open_hour) == []
    assert [path.name for path in folder.iterdir()] == ["h-1.parquet"]
