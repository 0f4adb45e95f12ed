"""Lines on stderr: each is one event, whole, and JSON if that was asked for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daedalus_etl import logs
from daedalus_etl.logs import Log

ROOT = Path(__file__).parents[2]
PARTITION = {
    "model": "gold.trades_bars", "exchange": "demo", "symbol": "BTC-USD", "source_symbol": "BTC-USDT",
    "partition": "2026-02-03", "duration": 60, "read": 12, "written": 3, "seconds": 0.02,
}  # fmt: skip
EVENTS: dict[str, dict[str, Any]] = {
    "partition": PARTITION,
    "quarantined": {"segment": "a b/x.parquet", "channel": "trades", "reason": "no footer"},
    "failed": {"model": "silver.trades", "lane": "trades demo BTC-USDT", "error": "x: is gone\n  Make it again."},
    "warning": {"text": "bronze of 3 hours is deleted"},
    "recorded": {"model": "silver.trades", "lane": "trades demo BTC-USDT", "partition": "2026-02-03T10"},
    "of a later version": {"n": 7, "list": [1, {"a": "b"}], "none": None, "yes": True},
}
LEVELS = {"failed": "error", "quarantined": "warning", "warning": "warning"}
TAKEN = {"model": "silver.trades", "exchange": "demo", "symbol": "BTC-USD", "rows": 40, "segments": 2, "lag": 0.4}


class Clock:
    """time.monotonic of the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monkeypatch.setattr(logs.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def refuse(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def parsed(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# -- JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_a_line_of_json_carries_everything(event: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    with Log("json") as tell:
        tell(event, EVENTS[event])
    said = capsys.readouterr()
    (found,) = parsed(said.err)
    assert said.out == ""
    assert list(found)[:3] == ["time", "level", "event"]
    when = datetime.fromisoformat(found.pop("time"))
    assert when.utcoffset() is not None
    assert -0.01 < (when - before).total_seconds() < 10
    assert found == {"level": LEVELS.get(event, "info"), "event": event, **EVENTS[event]}


def test_json_time_is_utc_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json")("warning", {"text": "x"})
    assert parsed(capsys.readouterr().err)[0]["time"].endswith("Z")


def test_what_json_cannot_say_is_said_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    details = {"a": float("nan"), "b": [float("inf")], "c": Path("x"), "d": b"\xff", "e": "\udcff\n\u2028", 7: {1: {2}}}
    Log("json")("odd", details)  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert text.isascii()
    found = parsed(text)[0]
    assert (found["a"], found["b"], found["c"], found["7"]) == ("nan", ["inf"], "x", {"1": [2]})
    assert found["e"] == "\udcff\n\u2028"


def test_a_detail_that_is_called_as_one_of_ours_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json")("odd", {"time": 1, "level": 2, "event": 3})
    found = parsed(capsys.readouterr().err)[0]
    assert (found["level"], found["event"]) == ("info", "odd")
    assert (found["time_"], found["level_"], found["event_"]) == (1, 2, 3)


# -- text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ("failed", "Failed: silver.trades trades demo BTC-USDT: x: is gone; Make it again."),
        ("quarantined", "Quarantined: a b/x.parquet: no footer"),
        ("warning", "Warning: bronze of 3 hours is deleted"),
        (
            "partition",
            f"partition {' '.join(f'{name}={value}' for name, value in PARTITION.items())}",
        ),
        ("of a later version", "of a later version n=7 list=\"[1, {'a': 'b'}]\" none=None yes=True"),
    ],
)
def test_text_is_one_line_behind_its_time(event: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Log("text") as tell:
        tell(event, EVENTS[event])
    (line,) = capsys.readouterr().err.splitlines()
    moment, _, said = line.partition(" ")
    assert datetime.fromisoformat(moment)
    assert said == text


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("event", ["failed", "quarantined", "warning", "partition", "taken", ""])
def test_an_event_that_lacks_its_details_is_told_all_the_same(
    form: str, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Log(form) as tell:
        tell(event, {})
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_progress_is_not_logged(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Log(form) as tell:
        for event in ("look", "plan", "planned", "lane", "lane_done", "walked", "fresh"):
            tell(event, {"model": "silver.trades", "lane": "trades demo BTC-USDT", "count": 1})
    assert capsys.readouterr().err == ""


def test_a_word_of_the_service_itself_is_an_info(capsys: pytest.CaptureFixture[str]) -> None:
    Log("json").say("profile pi4 read again")
    found = parsed(capsys.readouterr().err)[0]
    assert (found["level"], found["event"], found["text"]) == ("info", "info", "profile pi4 read again")
    Log("text").say("profile pi4 read again")
    assert capsys.readouterr().err.endswith("Z profile pi4 read again\n")


# -- live rows ------------------------------------------------------------------------------------------------


def test_live_rows_are_summed_for_a_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    tell = Log("json")
    for second in range(60):
        clock.now = 1000.0 + second
        tell("taken", TAKEN | {"lag": 0.1 + second % 7})
        tell("taken", TAKEN | {"symbol": "ETH-USD", "rows": 1, "segments": 1})
    assert capsys.readouterr().err == ""
    clock.now = 1060.0
    tell.pulse()
    btc, eth = parsed(capsys.readouterr().err)
    assert (btc["event"], btc["rows"], btc["segments"], btc["lag"]) == ("taken", 2400, 120, 6.1)
    assert (eth["symbol"], eth["rows"], eth["segments"], eth["lag"]) == ("ETH-USD", 60, 60, 0.4)
    clock.now = 1200.0
    tell.pulse()
    assert capsys.readouterr().err == ""


def test_any_event_brings_out_live_rows_that_are_due(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    tell = Log("json")
    tell("taken", TAKEN)
    clock.now += 59.9
    tell("look", {})
    assert capsys.readouterr().err == ""
    clock.now += 0.1
    tell("look", {})
    assert [found["event"] for found in parsed(capsys.readouterr().err)] == ["taken"]


def test_at_the_end_live_rows_are_said_though_no_minute_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    with Log("json") as tell:
        tell("taken", TAKEN)
    (found,) = parsed(capsys.readouterr().err)
    assert {name: found[name] for name in TAKEN} == TAKEN


def test_bars_have_neither_segments_nor_a_lag(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bars = {"model": "gold.trades_bars", "exchange": "demo", "symbol": "BTC-USD", "rows": 1}
    with Log("json") as tell:
        tell("taken", bars)
        tell("taken", bars)
        for lag in (None, 0.4, None):
            tell("taken", TAKEN | {"lag": lag})
    found = parsed(capsys.readouterr().err)
    assert (found[0]["rows"], found[1]["lag"]) == (2, 0.4)


# -- where it goes --------------------------------------------------------------------------------------------


def logged(stderr: Path, form: str, stream: str | None) -> str:
    """What a process of its own writes to a file, with JOURNAL_STREAM as told: "it" is the file itself."""
    with open(stderr, "w") as file:
        found = os.fstat(file.fileno())
        named = {"it": f"{found.st_dev}:{found.st_ino}", "another": "1:2"}
        environment = {k: v for k, v in os.environ.items() if k != "JOURNAL_STREAM"} | {"PYTHONPATH": str(ROOT)}
        if stream:
            environment["JOURNAL_STREAM"] = named[stream]
        code = (
            "from daedalus_etl.logs import Log\n"
            f"with Log({form!r}) as tell:\n"
            "    tell('failed', {'model': 'm', 'lane': 'l', 'error': 'e'})\n"
            "    tell('warning', {'text': 'w'})\n"
            "    tell.say('i')\n"
        )
        subprocess.run([sys.executable, "-c", code], stderr=file, env=environment, check=True)
    return stderr.read_text()


def test_journald_is_given_priorities_and_no_times(tmp_path: Path) -> None:
    assert logged(tmp_path / "log", "text", "it").splitlines() == ["<3>Failed: m l: e", "<4>Warning: w", "<6>i"]


def test_json_for_journald_is_json_once_it_has_taken_the_priority_off(tmp_path: Path) -> None:
    lines = logged(tmp_path / "log", "json", "it").splitlines()
    assert [line[:3] for line in lines] == ["<3>", "<4>", "<6>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["error", "warning", "info"]
    assert all(json.loads(line[3:])["time"] for line in lines)


@pytest.mark.parametrize("stream", [None, "another"])
def test_elsewhere_there_are_times_and_no_priorities_even_if_the_variable_was_inherited(
    tmp_path: Path, stream: str | None
) -> None:
    lines = logged(tmp_path / "log", "text", stream).splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["Failed: m l: e", "Warning: w", "i"]
    assert all(datetime.fromisoformat(line.partition(" ")[0]) for line in lines)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")])
def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    for form in ("text", "json"):
        with Log(form) as tell:
            tell("warning", {"text": "x"})
            tell("taken", TAKEN)


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, daedalus_etl.logs; print([m for m in ('click', 'rich', 'duckdb', 'logging') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "[]\n"
