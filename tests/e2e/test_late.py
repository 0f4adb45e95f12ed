"""Bronze that comes late, twice, changed or torn, and bronze that goes: what is made again, and what stays.

Whatever happened, a root ends as a quiet run over what is there would have made it, unless bronze was deleted: then
what was published of it stays.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daedalus_etl.simulator import Market, simulate
from tests import harness, roots
from tests.roots import DAY, HOUR, MINUTE, rows_of
from tests.tables import at, given_rows, read_published

SILVER = ("--select", "silver.trades")
BOTH = ("--select", "silver.trades", "--select", "silver.orderbook")
ALL = ("--durations", "60")


def name_of(hour: int) -> str:
    """As events name the hour; counted from midnight, so 24 is the next day's first."""
    return f"2026-02-{3 + hour // 24:02d}T{hour % 24:02d}"


def names_of(hours: Iterable[int]) -> list[str]:
    return [name_of(hour) for hour in hours]


def given(data: Path, hours: Iterable[int], *channels: str, symbol: str = "ABC-EUR", name: str = "a") -> Path:
    for channel in channels or ("trades",):
        for hour in hours:
            harness.write_bronze(data, channel, rows_of(channel, hour), symbol=symbol, name=name)
    return data


def late(
    data: Path,
    hour: int,
    minutes: Sequence[float],
    channel: str = "trades",
    *,
    name: str = "late",
    salt: int = 7,
    symbol: str = "ABC-EUR",
) -> Path:
    """One more segment of an hour."""
    (path,) = harness.write_bronze(data, channel, rows_of(channel, hour, minutes, salt), symbol=symbol, name=name)
    return path


def folder_of(data: Path, hour: int, channel: str = "trades", symbol: str = "ABC-EUR") -> Path:
    from daedalus_etl.lanes import partition_path

    return data / "raw/ready/ccxt" / channel / partition_path("kraken", symbol, DAY + hour * HOUR)


def delete(data: Path, *hours: int, channel: str = "trades", name: str = "*") -> None:
    for hour in hours:
        found = list(folder_of(data, hour, channel).glob(f"{name}.parquet"))
        assert found
        for path in found:
            path.unlink()


def fresh(data: Path, *arguments: str, code: int = 0, **variables: Any) -> Path:
    """What one quiet run makes of the bronze that is there now."""
    other = data.parent / "fresh"
    while other.exists():
        other = other.with_name(other.name + "-")
    roots.copied(data, other)
    roots.run(other, *arguments, code=code, **variables)
    return other


def makes_nothing(data: Path, *arguments: str, code: int = 0, **variables: Any) -> roots.Ran:
    before = roots.contents(data)
    ran = roots.run(data, *arguments, code=code, **variables)
    assert ran.summary["made"] == 0
    assert roots.contents(data) == before
    return ran


def is_as_fresh(data: Path, *arguments: str, **variables: Any) -> None:
    roots.assert_same(data, fresh(data, *arguments, **variables))
    makes_nothing(data, *arguments, **variables)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


# -- counts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dirty market of three channels on both sides of midnight. Read it only."""
    root = tmp_path_factory.mktemp("dirty")
    simulate(
        root,
        Market(hours=0.5, symbols=("SHIB-USDT",), seed=23, dirt=0.1, start=_utc("2026-02-03T23:45"),
               books_per_second=0.5, trades_per_second=0.5, quotes_per_second=0.5, segment_seconds=600),
    )  # fmt: skip
    return root


def _utc(text: str) -> Any:
    from datetime import UTC, datetime

    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_counts_of_a_partition_are_those_of_its_rows(dirty: Path, data: Path) -> None:
    """read = duplicate + invalid + valid; written = read - duplicate = the rows of its file; nothing is lost."""
    roots.copied(dirty, data)
    ran = roots.run(data, "--durations", "60")
    total = dict.fromkeys(("read", "duplicate", "invalid", "written"), 0)
    for done in ran.of("partition"):
        layer, model = done["model"].split(".")
        place = f"{layer}/{model}" + (f"/{done['duration']}s" if layer == "gold" else "")
        day, _, hour = done["partition"].partition("T")
        folder = f"exchange={done['exchange']}/symbol={done['symbol']}/" + "/".join(
            f"{key}={int(value)}" for key, value in zip(("year", "month", "day"), day.split("-"), strict=True)
        )
        folder += f"/hour={int(hour)}" if hour else ""
        table = pa.concat_tables([pq.ParquetFile(p).read() for p in (data / "processed" / place / folder).iterdir()])
        assert done["written"] == table.num_rows
        if layer == "silver":
            valid = sum(table["is_valid"].to_pylist())
            assert done["written"] == done["read"] - done["duplicate"]
            assert done["read"] == done["duplicate"] + done["invalid"] + valid
            assert 0 <= done["overflow"] <= done["invalid"]
            for name in total:
                total[name] += done[name]
    assert total["read"] == sum(pq.read_metadata(path).num_rows for path in roots.segments(data))
    assert min(total.values()) > 0
    assert ran.summary["rows"] == sum(done["written"] for done in ran.of("partition"))


# -- late segments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["trades", pytest.param("ticker", marks=pytest.mark.soak), "orderbook"])
def test_a_late_segment_of_duplicates_is_taken_note_of_and_makes_nothing(data: Path, channel: str) -> None:
    run = ("--select", f"silver.{channel}")
    given(data, range(2), channel)
    roots.run(data, *run)
    (first, *_) = roots.segments(data)
    table = pq.ParquetFile(first).read()
    pq.write_table(table.slice(2, 9), first.with_name("zz.parquet"))
    makes_nothing(data, *run)
    makes_nothing(data, *run)
    late(data, 0, [2.5, 58.5], channel, name="more")  # the hour is made again later: they are still duplicates
    assert name_of(0) in roots.run(data, *run).made(f"silver.{channel}")
    is_as_fresh(data, *run)


def test_late_duplicates_that_change_the_order_of_equal_clocks_are_not_mistaken_for_nothing(data: Path) -> None:
    """Rows without event time and id go by segment: a copy in an earlier one comes first."""
    rows = [{"capture_ts": DAY + MINUTE, "price": price, "amount": 1.0} for price in (100.0, 101.0, 102.0)]
    harness.write_bronze(data, "trades", rows, symbol="ABC-EUR", name="m")
    roots.run(data, *SILVER)
    harness.write_bronze(data, "trades", rows[2:], symbol="ABC-EUR", name="c")
    roots.run(data, *SILVER)
    assert [row["price"] for row in read_published(data, "silver/trades", "kraken")] == [102, 100, 101]
    is_as_fresh(data, *SILVER)


def test_segments_with_the_same_content_make_nothing(data: Path) -> None:
    """Touched, written again, moved in again under its name: what is in a file decides, not when it came."""
    given(data, range(3), "trades")
    given(data, range(1), "orderbook")
    roots.run(data, *ALL)
    touched, again, moved, *_ = roots.segments(data)
    os.utime(touched, (1.8e9, 1.8e9))
    again.write_bytes(again.read_bytes())
    part = moved.with_suffix(".part")
    part.write_bytes(moved.read_bytes())
    os.replace(part, moved)
    assert len({moved.stat().st_mtime_ns, again.stat().st_mtime_ns, touched.stat().st_mtime_ns}) == 3
    makes_nothing(data, *ALL)
    makes_nothing(data, *ALL)


LATE = [4.5, 5.25, 9.75]  # minutes: no window of 900 s reaches from here into the next hour


@pytest.mark.parametrize("channel", ["trades", "ticker", "orderbook"])
def test_late_rows_are_replayed_until_the_state_is_the_same_again(data: Path, channel: str) -> None:
    run = ("--select", f"silver.{channel}")
    given(data, range(3), channel)
    roots.run(data, *run)
    late(data, 0, LATE, channel)
    made = roots.run(data, *run).made(f"silver.{channel}")
    assert made in (names_of((0,)), names_of((0, 1)))
    is_as_fresh(data, *run)


def test_late_rows_that_the_next_hour_looks_back_on_change_it_too(data: Path) -> None:
    given(data, range(5))
    roots.run(data, *SILVER)
    late(data, 1, [50.5, 59.5])
    made = roots.run(data, *SILVER).made("silver.trades")
    assert made in (names_of((1, 2)), names_of((1, 2, 3)))
    is_as_fresh(data, *SILVER)


def test_late_rows_before_the_first_are_the_lanes_first(data: Path) -> None:
    """The ticker's unit of exact prices is that of its first valid row: here another power of two."""
    run = ("--select", "silver.ticker")
    given(data, range(2, 5), "ticker")
    roots.run(data, *run)
    clock = DAY + HOUR
    harness.write_bronze(data, "ticker", [{"capture_ts": clock, "bid": 9.0, "ask": 9.5}], symbol="ABC-EUR", name="late")
    roots.run(data, *run)
    is_as_fresh(data, *run)


def test_late_rows_in_the_last_hour_touch_no_other(data: Path) -> None:
    given(data, range(3))
    roots.run(data, *SILVER)
    late(data, 2, [3.5])
    assert roots.run(data, *SILVER).made("silver.trades") == [name_of(2)]
    is_as_fresh(data, *SILVER)


def test_late_rows_in_two_hours_leave_those_between_alone(data: Path) -> None:
    given(data, range(7))
    roots.run(data, *SILVER)
    late(data, 1, LATE)
    late(data, 5, LATE)
    made = roots.run(data, *SILVER).made("silver.trades")
    assert {name_of(1), name_of(5)} <= set(made)
    assert not {name_of(hour) for hour in (0, 3, 4)} & set(made)
    is_as_fresh(data, *SILVER)


def test_late_trades_carry_vpin_on_to_the_last_book(data: Path) -> None:
    """Every bucket after them is another one: all later hours are other ones, and as one run makes them."""
    run = ("--select", "silver.orderbook")
    given(data, range(3), "trades", "orderbook")
    roots.run(data, *run, vpin_bucket_volume=1.5)
    late(data, 0, LATE)
    assert roots.run(data, *run, vpin_bucket_volume=1.5).made("silver.orderbook") == names_of(range(3))
    is_as_fresh(data, *run, vpin_bucket_volume=1.5)


def test_late_books_change_the_trades_beside_them(data: Path) -> None:
    given(data, range(4), "trades", "orderbook")
    roots.run(data, *SILVER)
    late(data, 0, [4.5, 5.25], "orderbook", salt=9)
    made = roots.run(data, *SILVER).made("silver.trades")
    assert made in (names_of((0,)), names_of((0, 1)))
    is_as_fresh(data, *SILVER)


def test_late_rows_make_the_bars_of_their_day_again_and_of_no_other(data: Path) -> None:
    given(data, (20, 21, 30, 31, 50))
    run = ("--select", "tag:trades", "--durations", "60,3600")
    roots.run(data, *run)
    late(data, 30, LATE)
    made = roots.run(data, *run)
    assert set(made.made("gold.trades_bars")) == {"2026-02-04"}
    is_as_fresh(data, *run)


def test_a_late_hour_is_made_where_there_was_none(data: Path) -> None:
    given(data, (0, 1, 4, 5))
    roots.run(data, *SILVER)
    given(data, (2,))
    made = roots.run(data, *SILVER).made("silver.trades")
    assert made[0] == name_of(2)
    assert name_of(5) not in made
    is_as_fresh(data, *SILVER)


@pytest.mark.soak
def test_a_late_hour_of_long_ago_is_replayed_without_its_forerunners_being_made_again(data: Path) -> None:
    """Older than the states that are kept: the lane is walked from an older one, or from its first row."""
    for hour in range(100):
        harness.write_bronze(data, "trades", rows_of("trades", hour, (1, 30, 59)), symbol="ABC-EUR", name="a")
    roots.run(data, *SILVER)
    late(data, 27, [7.5])
    late(data, 3, [7.5])
    made = roots.run(data, *SILVER).made("silver.trades")
    assert {name_of(3), name_of(27)} <= set(made)
    assert len(made) <= 6
    is_as_fresh(data, *SILVER)


# -- deleted segments ---------------------------------------------------------------------------------------------


def test_what_was_published_of_deleted_segments_stays(data: Path) -> None:
    """Hours of it, with a warning and no error; the lane goes on from its state as if all were there."""
    given(data, range(3))
    roots.run(data, *SILVER)
    whole = roots.copied(data, data.parent / "whole")
    delete(data, 1)
    ran = makes_nothing(data, *SILVER)
    assert "delete" in ran.warnings
    assert "kraken ABC-EUR" in ran.warnings
    for root in (data, whole):
        given(root, (3,))
    ran = roots.run(data, *SILVER)
    assert ran.made("silver.trades") == [name_of(3)]
    roots.run(whole, *SILVER)
    roots.assert_same(data, whole)
    makes_nothing(data, *SILVER)


def test_what_was_published_of_one_deleted_segment_of_an_hour_stays(data: Path) -> None:
    given(data, range(3))
    late(data, 1, [20.5, 40.5], name="b")
    roots.run(data, *ALL)
    delete(data, 1, name="b")
    assert "delete" in makes_nothing(data, *ALL).warnings
    late(data, 1, [20.5, 40.5], name="b")  # and there again
    assert makes_nothing(data, *ALL).warnings == ""
    is_as_fresh(data, *ALL)


@pytest.mark.parametrize("rest", ["nothing", "its books"])
def test_a_lane_whose_segments_are_all_deleted_keeps_what_was_published(data: Path, rest: str) -> None:
    given(data, range(2), "trades")
    given(data, range(2), "orderbook", symbol="ABC-EUR" if rest == "its books" else "OTHER-EUR")
    roots.run(data, *ALL)
    delete(data, 0, 1)
    assert "delete" in makes_nothing(data, *ALL).warnings
    given(data, (2,), "orderbook", symbol="ABC-EUR" if rest == "its books" else "OTHER-EUR")
    ran = roots.run(data, *ALL)
    assert ran.made("silver.orderbook") == [name_of(2)]
    assert ran.made("silver.trades") == []
    makes_nothing(data, *ALL)


def test_a_late_segment_of_an_hour_that_lost_others_is_left_out_with_a_warning(data: Path) -> None:
    """The hour cannot be made again: what is published of it stays, and the lane goes on."""
    given(data, range(3))
    roots.run(data, *SILVER)
    whole = roots.copied(data, data.parent / "whole")
    before = roots.contents(data)
    delete(data, 1)
    late(data, 1, [20.5])
    for root in (data, whole):
        given(root, (3,))
    ran = roots.run(data, *SILVER)
    assert name_of(1) in ran.warnings
    assert ran.made("silver.trades") == [name_of(3)]
    assert {name: roots.contents(data)[name] for name in before} == before
    roots.run(whole, *SILVER)
    roots.assert_same(data, whole)
    assert name_of(1) in makes_nothing(data, *SILVER).warnings


def test_a_full_refresh_makes_anew_what_is_left_and_keeps_the_rest(data: Path) -> None:
    """An hour that lost a segment cannot be made again as it was: it stays, and its state with it."""
    given(data, range(5))
    late(data, 3, [20.5], name="b")
    roots.run(data, *ALL)
    before = roots.contents(data)
    delete(data, 1)
    delete(data, 3, name="b")
    ran = roots.run(data, *ALL, "--full-refresh")
    assert ran.made("silver.trades") == names_of((0, 2, 4))
    assert ran.made("gold.trades_bars") == ["2026-02-03"]
    assert name_of(1) in ran.warnings
    assert roots.contents(data) == before
    makes_nothing(data, *ALL)


@pytest.mark.parametrize("channel", ["trades", "orderbook"])
def test_another_variable_makes_anew_what_is_left_and_keeps_the_rest(data: Path, channel: str) -> None:
    """Also where the state at the end of what is lost was made with other windows."""
    run, windows = ("--select", f"silver.{channel}"), {"rolling_windows": "60,1800"}
    given(data, range(3), channel)
    roots.run(data, *run)
    before = roots.contents(data)
    delete(data, 1, channel=channel)
    ran = roots.run(data, *run, **windows)
    assert ran.made(f"silver.{channel}") == names_of((0, 2))
    assert name_of(1) in ran.warnings
    now = roots.contents(data)
    assert {name.partition("/hour=")[2][0] for name in now if now[name] == before[name]} == {"1"}
    assert len(read_published(data, f"silver/{channel}", "kraken")) == 3 * 15
    makes_nothing(data, *run, **windows)


# -- replaced segments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hour", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_a_segment_that_comes_again_with_other_content_is_made_again(data: Path, hour: int) -> None:
    given(data, range(4))
    roots.run(data, *ALL)
    late(data, hour, range(3, 50, 5), name="a")
    roots.run(data, *ALL)
    is_as_fresh(data, *ALL)


def test_a_segment_that_comes_again_without_rows_takes_them_back(data: Path) -> None:
    given(data, range(4))
    roots.run(data, *ALL)
    (path,) = folder_of(data, 1).iterdir()
    pq.write_table(pq.ParquetFile(path).read().slice(0, 0), path)
    roots.run(data, *ALL)
    assert not [name for name in roots.files(data) if "/hour=1/" in name]
    is_as_fresh(data, *ALL)


@pytest.mark.parametrize("healed", ["as before", pytest.param("with other content", marks=pytest.mark.soak)])
def test_a_segment_that_is_torn_later_keeps_what_was_published_until_it_is_whole(data: Path, healed: str) -> None:
    run = BOTH if healed == "as before" else SILVER
    given(data, range(2), "trades", "orderbook")
    roots.run(data, *run)
    (path,) = folder_of(data, 0).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    name = str(path.relative_to(data))
    for _ in range(2):
        assert list(makes_nothing(data, *run, code=1).quarantined) == [name]
    given(data, (2,), "trades", "orderbook")  # and the lane goes on
    ran = roots.run(data, *run, code=1)
    assert list(ran.quarantined) == [name]
    assert {model: ran.made(model) for model in run[1::2]} == {model: [name_of(2)] for model in run[1::2]}
    if healed == "as before":
        path.write_bytes(whole)
    else:
        late(data, 0, range(3, 50, 5), name="a")
    roots.run(data, *run)
    is_as_fresh(data, *run)


def test_the_only_segment_of_a_lane_torn_later_keeps_what_was_published(data: Path) -> None:
    given(data, (1,))
    given(data, (1,), symbol="OTHER-EUR")
    roots.run(data, *ALL)
    (path,) = folder_of(data, 1).iterdir()
    whole = path.read_bytes()
    path.write_bytes(b"")
    makes_nothing(data, *ALL, code=1)
    path.write_bytes(whole)
    makes_nothing(data, *ALL)
    is_as_fresh(data, *ALL)


def flat(data: Path, *hours: int, name: str = "all", salt: int = 0) -> Path:
    """One file of trades beside the folders, with several hours."""
    rows = [row for hour in hours for row in rows_of("trades", hour, salt=salt)]
    path = data / f"raw/ready/ccxt/trades/{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(harness.bronze_table("trades", rows, exchange="kraken", symbol="ABC-EUR"), path)
    return path


def test_hours_that_a_flat_file_no_longer_holds_lose_their_rows(data: Path) -> None:
    """Silver's hours and gold's days: nothing is deleted, so nothing stays of what is not there any more."""
    flat(data, 0, 1, 2, 30)
    roots.run(data, *ALL)
    flat(data, 1, 5)
    roots.run(data, *ALL)
    assert {name.rpartition("/day=")[2][:1] for name in roots.files(data)} == {"3"}
    is_as_fresh(data, *ALL)


def test_one_clock_and_then_the_other_are_as_fresh_runs_make_them(dirty: Path, data: Path) -> None:
    """Rows near an hour's edge move; an hour that only one clock knows comes and goes."""
    roots.copied(dirty, data)
    late_event = given_rows("""
        at                  | timestamp           | price | amount
        2026-02-03 23:50:01 | 2026-02-03 20:50:01 | 100   | 1
    """)
    harness.write_bronze(data, "trades", late_event, exchange="demo", symbol="SHIB-USDT", name="odd")
    run = (*ALL, "--select", "tag:trades")
    by_capture, by_event = fresh(data, *run), fresh(data, *run, clock="event")
    assert set(roots.files(by_capture)) != set(roots.files(by_event))
    roots.run(data, *run)
    for clock, want in (("event", by_event), ("capture", by_capture)):
        roots.run(data, *run, clock=clock)
        roots.assert_same(data, want)
        makes_nothing(data, *run, clock=clock)


# -- names --------------------------------------------------------------------------------------------------------

USDT, USDC = "BTC-USDT", "BTC-USDC"


def symbols(data: Path, layer: str = "silver/trades") -> set[str]:
    return {path.name.removeprefix("symbol=") for path in (data / "processed" / layer).glob("**/symbol=*")
            if list(path.rglob("*.parquet"))}  # fmt: skip


def test_a_second_variant_moves_the_first_under_its_own_name_as_announced(data: Path) -> None:
    run = ("--select", "tag:trades", "--durations", "60")
    given(data, range(3), symbol=USDT)
    roots.run(data, *run)
    assert symbols(data) == symbols(data, "gold/trades_bars/60s") == {"BTC-USD"}
    given(data, (2,), symbol=USDC)
    before = roots.contents(data)
    planned = roots.planned(data, *run)
    assert roots.contents(data) == before
    moves = [e["partition"] for e in planned if (e["model"], e["source_symbol"]) == ("silver.trades", USDT)]
    assert moves == names_of(range(3))
    assert {(e["source_symbol"], e["symbol"]) for e in planned} == {(USDT, USDT), (USDC, USDC)}
    ran = roots.run(data, *run)
    assert USDT in ran.warnings
    assert USDC in ran.warnings
    assert symbols(data) == symbols(data, "gold/trades_bars/60s") == {USDT, USDC}
    is_as_fresh(data, *run)


@pytest.mark.parametrize("wanted", [("--symbol", "BTC/USDT"), ("--end", "2026-02-03T02")])
def test_a_filter_never_changes_names(data: Path, wanted: tuple[str, str]) -> None:
    """The second variant begins after --end, and yet it counts."""
    given(data, range(2), symbol=USDT)
    given(data, (3,), symbol=USDC)
    roots.run(data, *SILVER, *wanted)
    assert "BTC-USD" not in symbols(data)
    assert USDT in symbols(data)
    roots.run(data, *SILVER)
    is_as_fresh(data, *SILVER)


def test_nothing_moves_back_when_the_second_variants_bronze_is_deleted(data: Path) -> None:
    given(data, range(2), symbol=USDT)
    given(data, range(2), symbol=USDC)
    roots.run(data, *SILVER)
    for path in roots.segments(data):
        if USDC in str(path):
            path.unlink()
    makes_nothing(data, *SILVER)
    given(data, (2,), symbol=USDT)
    assert roots.run(data, *SILVER).made("silver.trades") == [name_of(2)]
    assert symbols(data) == {USDT, USDC}
    makes_nothing(data, *SILVER)


@pytest.mark.parametrize("damage", ["torn", "its pages are zeros"])
def test_a_variant_without_a_usable_segment_counts_in_each_run_alike(data: Path, damage: str) -> None:
    """A sound footer over bad pages shows only when it is read: the run that finds out names lanes as the next does."""
    given(data, range(2), symbol=USDT)
    roots.run(data, *SILVER)
    (path,) = harness.write_bronze(data, "trades", rows_of("trades", 1), symbol=USDC, name="a")
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(6).data_page_offset
    content[start : start + 60] = bytes(60)
    path.write_bytes(content if damage != "torn" else content[:-5])
    ran = roots.run(data, *SILVER, code=1)
    assert list(ran.quarantined) == [str(path.relative_to(data))]
    assert len(symbols(data)) == 1
    assert makes_nothing(data, *SILVER, code=1).quarantined == ran.quarantined
    roots.assert_same(data, fresh(data, *SILVER, code=1))


# -- flat files and layouts ---------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[str, str, Any], str]] = {
    "flat": lambda _e, _s, _w: "all",
    "by exchange": lambda e, _s, _w: f"exchange={e}/all",
    "by symbol": lambda e, s, _w: f"exchange={e}/symbol={s}/all",
    "by month, padded": lambda e, s, w: f"exchange={e}/symbol={s}/year={w:%Y}/month={w:%m}/all",
    "by hour, padded": lambda e, s, w: f"exchange={e}/symbol={s}/year={w:%Y}/month={w:%m}/day={w:%d}/hour={w:%H}/all",
    "folders of other names": lambda e, s, w: f"{e} {s}/{w:%Y-%m-%d}/all",
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Several lanes of three channels as hive folders, and the same rows in other layouts."""
    from datetime import UTC, datetime

    hive = tmp_path_factory.mktemp("hive")
    for symbol, hours in (("ABC-EUR", (0, 1)), ("XYZ-EUR", (1, 26))):
        given(hive, hours, "trades", symbol=symbol)
        given(hive, hours[:1], "ticker", "orderbook", symbol=symbol)
    found = {"hive": hive}
    for layout, place in LAYOUTS.items():
        found[layout] = tmp_path_factory.mktemp("layout")
        parts: dict[str, list[pa.Table]] = {}
        for path in roots.segments(hive):
            table = pq.ParquetFile(path).read()
            channel = path.relative_to(hive).parts[3]
            when = datetime.fromtimestamp(roots.hour_of(path) * 3600, UTC)
            name = place("kraken", table["symbol"][0].as_py(), when)
            parts.setdefault(f"{channel}/{name}", []).append(table)
        for name, tables in parts.items():
            path = found[layout] / f"raw/ready/ccxt/{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(tables), path)
    return found


RESAMPLED = {"resample_frequency": 120, "fill_gaps": "true", "resample_max_staleness": 1800}


@pytest.fixture(scope="module")
def hive(layouts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hive folders make."""
    root = roots.copied(layouts["hive"], tmp_path_factory.mktemp("done"))
    roots.run(root, *ALL)
    return root


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=[] if name in ("flat", "by hour, padded") else [pytest.mark.soak]) for name in LAYOUTS],
)
def test_any_layout_of_the_same_rows_makes_the_same(
    layouts: dict[str, Path], hive: Path, data: Path, layout: str
) -> None:
    roots.copied(layouts[layout], data)
    roots.run(data, *ALL)
    roots.assert_same(data, hive)


def test_a_lanes_grid_ends_with_its_own_last_row_in_a_file_of_several(layouts: dict[str, Path], data: Path) -> None:
    """The other lane has rows a day later: they end no grid time of this one."""
    run = ("--select", "silver.orderbook")
    grid = {"resample_frequency": 120, "fill_gaps": "true", "resample_max_staleness": 1800}
    for layout in ("hive", "flat"):
        roots.copied(layouts[layout], data / layout)
        roots.run(data / layout, *run, **grid)
    roots.assert_same(data / "flat", data / "hive")


def test_ties_among_flat_files_go_by_first_capture_then_name_then_path(data: Path) -> None:
    """All in one millisecond of the exchange's clock, without an id: (folder, name) -> first capture, price."""
    instant = at("10:00:01") // 1000
    given_files = {
        ("", "z"): ("09:59:59", 1.0),  # an hour earlier: first, whatever the name
        ("", "a"): ("10:00:02", 2.0),
        ("q", "b"): ("10:00:02", 4.0),
        ("p", "b"): ("10:00:02", 3.0),
        ("", "c"): ("10:00:02", 5.0),
        ("", "0"): ("11:00:02", 6.0),
    }
    for (folder, name), (capture, price) in given_files.items():
        rows = [{"capture_ts": at(capture), "timestamp": instant, "price": price, "amount": 1.0}]
        path = data / "raw/ready/ccxt/trades" / folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(harness.bronze_table("trades", rows, exchange="kraken", symbol="ABC-EUR"), path)
    roots.run(data, *SILVER, clock="event")
    got = [row["price"] for row in read_published(data, "silver/trades", "kraken")]
    assert got == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    is_as_fresh(data, *SILVER, clock="event")


# -- --end --------------------------------------------------------------------------------------------------------


def test_end_is_no_row_that_could_end_a_grid_time(data: Path) -> None:
    """A grid row is written when a row with a later clock is in: the last one before --end is at 00:00:20."""
    rows = given_rows("""
        at       | bids | asks
        00:00:10 | 99x1 | 101x1
        00:00:20 | 99x1 | 102x1
        02:00:00 | 99x1 | 103x1
    """)
    harness.write_bronze(data, "orderbook", rows, symbol="ABC-EUR")
    run = ("--select", "silver.orderbook")
    grid = {"resample_frequency": 5, "fill_gaps": "true", "resample_max_staleness": 60}
    roots.run(data, *run, "--end", "2026-02-03T01", **grid)
    got = [row["clock_ts"] - DAY for row in read_published(data, "silver/orderbook", "kraken")]
    assert got == [10 * 1_000_000, 15 * 1_000_000]
    roots.run(data, *run, **grid)
    is_as_fresh(data, *run, **grid)


@pytest.mark.parametrize("end", ["2026-02-03T01:30", pytest.param("2026-02-03T01", marks=pytest.mark.soak)])
def test_what_was_published_whole_is_not_cut_by_a_later_end(data: Path, end: str) -> None:
    """Hours and days: the rows behind --end stay, and so do the bars."""
    given(data, range(3), "trades", "ticker")
    roots.run(data, *ALL)
    makes_nothing(data, *ALL, "--end", end)
    makes_nothing(data, *ALL)


def test_an_hour_that_was_cut_by_end_is_made_whole_later(data: Path) -> None:
    given(data, range(3))
    roots.run(data, *ALL, "--end", "2026-02-03T01:30")
    clocks = [row["clock_ts"] for row in read_published(data, "silver/trades", "kraken")]
    assert max(clocks) < at("01:30")
    makes_nothing(data, *ALL, "--end", "2026-02-03T01:30")
    roots.run(data, *ALL, "--end", "2026-02-03T01:45")
    roots.run(data, *ALL)
    is_as_fresh(data, *ALL)


# -- anything, in any order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 20))])
def test_any_history_of_arrivals_ends_as_a_fresh_run(data: Path, seed: int) -> None:
    """Late, again, changed, touched, torn and healed: with a run after each, equal to one over what is there."""
    pick = random.Random(seed)
    channels = ("trades", "ticker", "orderbook") if seed > 1 else ("trades",)
    run = (*ALL, *(part for channel in channels for part in ("--select", f"tag:{channel}")))
    given(data, (0, 5), *channels)
    torn: dict[Path, bytes] = {}
    for step in range(10 if seed == 1 else 40):
        channel, hour = pick.choice(channels), pick.randrange(6)
        minutes = sorted(pick.sample(range(60), pick.randrange(1, 9)))
        here = [path for path in roots.segments(data) if path not in torn]
        path = pick.choice(here)
        what = pick.choice(["late", "late", "replace", "twice", "touch", "tear", "heal"])
        if what == "late":
            late(data, hour, minutes, channel, name=f"{pick.randrange(100):02d}", salt=pick.randrange(3))
        elif what == "replace":
            hour = roots.hour_of(path) - DAY // HOUR
            late(data, hour, minutes, path.relative_to(data).parts[3], name=path.stem, salt=step)
        elif what == "twice":
            pq.write_table(pq.ParquetFile(path).read(), path.with_name(f"{pick.randrange(100):02d}.parquet"))
        elif what == "touch":
            os.utime(path)
        elif what == "tear" and len(here) > 2:
            torn[path] = path.read_bytes()
            path.write_bytes(torn[path][: pick.randrange(len(torn[path]))])
        elif what == "heal" and torn:
            path = pick.choice(sorted(torn))
            path.write_bytes(torn.pop(path))
        for path in [p for p in torn if p.stat().st_size and pq_is_whole(p)]:
            del torn[path]  # it was replaced
        ran = roots.run(data, *run, code=1 if torn else 0)
        assert set(ran.quarantined) == {str(path.relative_to(data)) for path in torn}
    for path, content in torn.items():
        path.write_bytes(content)
    roots.run(data, *run)
    is_as_fresh(data, *run)


def pq_is_whole(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except pa.ArrowInvalid:
        return False
    return True
