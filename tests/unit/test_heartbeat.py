"""What a watcher says of itself, and what `daedalus health` makes of it, at the exact edges."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from daedalus_etl import cli, files, heartbeat
from daedalus_etl.heartbeat import Beat, verdict
from daedalus_etl.runner import exclusive
from tests.crash.faults import mounts

ROOT = Path(__file__).parents[2]
WELL = Beat(30.0, 0.02, 12, pid=77, started=1_770_000_000, beat=1_770_128_405, monotonic=5000.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


def health(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["health", "--data", str(data), *arguments], catch_exceptions=False)


@contextmanager
def watching(data: Path, **said: object) -> Iterator[Beat]:
    """This process holds the lock, as a watcher does, and has beaten once."""
    with exclusive(data):
        beat = Beat(**{"poll_interval": 30.0, "lanes": 2, **said})  # type: ignore[arg-type]
        assert beat.write(data)
        yield beat


# -- the file -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(data: Path) -> None:
    beat = Beat(
        15.5, 0.25, 3, "disk full", [("silver.trades a b", "e\nf")], [("x.parquet", "no footer")], {"trades a b": 0.3}
    )
    assert beat.write(data)
    assert Beat.read(data) == beat
    assert beat.pid == os.getpid()
    assert abs(beat.beat - time.time()) < 5
    assert abs(beat.monotonic - time.monotonic()) < 5
    assert beat.counts == {"failed": 1, "quarantined": 1}


def test_a_beat_leaves_no_other_file_and_is_valid_json(data: Path) -> None:
    Beat(30).write(data)
    Beat(30).write(data)
    assert [str(p.relative_to(data)) for p in sorted(data.rglob("*")) if p.is_file()] == ["state/watch.json"]
    json.loads((data / "state" / "watch.json").read_text(), parse_constant=pytest.fail)


def test_a_beat_names_the_first_of_many_and_counts_all(data: Path) -> None:
    bad = [(f"{n}.parquet", "no footer") for n in range(5000)]
    Beat(30, quarantined=bad).write(data)
    assert (data / "state" / "watch.json").stat().st_size < 4096
    found = Beat.read(data)
    assert found is not None
    assert (found.quarantined, found.counts["quarantined"]) == (bad[: heartbeat.LISTED], 5000)


def test_without_a_file_there_is_no_beat(tmp_path: Path) -> None:
    assert Beat.read(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"pid": 1}',
        b"\xff\xfe",
        '{"poll_interval": "soon"}',
    ],
)
def test_a_file_that_says_nothing_is_no_beat(data: Path, content: str | bytes) -> None:
    (data / "state" / "watch.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert Beat.read(data) is None


@pytest.mark.parametrize(
    "name", ["poll_interval", "lanes", "failed", "quarantined", "lag", "pid", "beat", "started", "counts"]
)
@pytest.mark.parametrize("value", ["soon", {"a": "b"}, [1], 1e300])
def test_whatever_a_field_holds_reading_and_judging_raise_nothing(data: Path, name: str, value: object) -> None:
    Beat(30).write(data)
    path = data / "state" / "watch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    beat = Beat.read(data)
    for is_locked in (True, False):
        assert isinstance(verdict(beat, time.monotonic(), is_locked)[1], str)


def test_each_cut_of_a_torn_file_is_no_beat(data: Path) -> None:
    Beat(30, failed=[("a", "b")]).write(data)
    path = data / "state" / "watch.json"
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:cut])
        assert Beat.read(data) is None


def test_a_field_that_a_later_version_adds_does_no_harm(data: Path) -> None:
    Beat(30).write(data)
    path = data / "state" / "watch.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert Beat.read(data) is not None


def test_a_beat_before_a_reboot_is_infinitely_old(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Beat(30).write(data)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(heartbeat, "BOOT", tmp_path / "boot_id")
    found = Beat.read(data)
    assert found is not None
    assert found.monotonic == -math.inf
    assert verdict(found, time.monotonic(), is_locked=True)[1].startswith(
        f"stalled: process {os.getpid()} has given no sign of life since this machine was started"
    )


def test_on_a_full_disk_the_file_that_is_there_says_why_it_waits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(data, lag={"a": 1.0}, quarantined=[("x", "y")] * 20) as beat:
        size = (data / "state" / "watch.json").stat().st_size

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "write_cache", full)
        beat.waiting = "disk full: processed/silver"
        assert beat.write(data)
        assert (data / "state" / "watch.json").stat().st_size < size
        assert health(data).output == "waiting: disk full: processed/silver\n"
        beat.waiting = ""  # it does not know yet
        assert beat.write(data)
        assert health(data).output.endswith("watch.json cannot be written: No space left on device\n")


def test_a_beat_that_cannot_be_put_in_place_leaves_nothing_in_staging(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Beat(30).write(data)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    for _ in range(3):
        assert Beat(30).write(data)
    assert list((data / "state" / "staging").iterdir()) == []


def test_a_disk_that_is_really_full_is_said_too(data: Path) -> None:
    """Where a disk of its own can be mounted; the test above says the same of one that only seems to be full."""
    if not mounts.can_mount():
        return
    with mounts.tiny_disk(data, 128 << 10):
        (data / "state").mkdir()
        beat = Beat(30.0, lag={f"trades demo {n}": 1.0 for n in range(20)})
        assert beat.write(data)
        with open(data / "fill", "wb", buffering=0) as fill, contextlib.suppress(OSError):
            while True:
                fill.write(bytes(4096))
        for waiting in ("disk full: processed", ""):
            beat.waiting = waiting
            assert beat.write(data)
            found = Beat.read(data)
            assert found is not None
            assert found.waiting.endswith(waiting or "cannot be written: No space left on device")
        assert list((data / "state" / "staging").iterdir()) == []


def test_where_nothing_can_be_written_a_beat_says_so_and_raises_nothing(tmp_path: Path) -> None:
    assert not Beat(30).write(tmp_path / "unplugged")
    assert list(tmp_path.iterdir()) == []  # above all, no new data root where a disk is mounted else


# -- the verdict ----------------------------------------------------------------------------------------------


def test_without_a_beat_it_is_not_running() -> None:
    for is_locked in (True, False):
        ok, reason = verdict(None, 0.0, is_locked)
        assert (ok, reason.partition(":")[0]) == (False, "not running")


def test_without_the_lock_it_is_not_running_however_fresh_the_beat() -> None:
    assert verdict(WELL, 5000.0, is_locked=False) == (
        False,
        "not running: the last sign of life of process 77 was at 2026-02-03 14:20:05 UTC",
    )


@pytest.mark.parametrize(("poll", "last"), [(30.0, 150.0), (1.0, 63.0), (300.0, 960.0)])
def test_it_has_stalled_when_three_polls_and_a_minute_have_passed_and_not_before(poll: float, last: float) -> None:
    beat = replace(WELL, poll_interval=poll)
    assert verdict(beat, 5000.0 + last, is_locked=True)[0]
    ok, reason = verdict(beat, 5000.0 + last + 0.001, is_locked=True)
    assert not ok
    assert reason == f"stalled: process 77 has given no sign of life for {last:,.0f} s (last: 2026-02-03 14:20:05 UTC)"


def test_a_time_of_day_that_jumps_changes_no_verdict() -> None:
    for jump in (-1e6, 0, 1e6):
        assert verdict(replace(WELL, beat=WELL.beat + jump), 5001.0, is_locked=True)[0]


def test_it_waits_and_is_not_well() -> None:
    beat = replace(WELL, waiting="disk full:\n  /srv", failed=[("a", "b")])
    assert verdict(beat, 5001.0, is_locked=True) == (False, "waiting: disk full: /srv")


def test_a_lane_that_fails_is_not_well() -> None:
    one = replace(WELL, failed=[("silver.trades trades demo BTC-USDT", "is gone\n  Make it again.")])
    assert verdict(one, 5001.0, is_locked=True) == (
        False,
        "1 model and lane failing: silver.trades trades demo BTC-USDT: is gone Make it again.",
    )
    many = replace(WELL, failed=[("a", "b"), ("c", "d")], counts={"failed": 70})
    assert verdict(many, 5001.0, is_locked=True) == (False, "70 models and lanes failing: a: b")


def test_a_segment_in_quarantine_is_told_of_and_wakes_nobody() -> None:
    beat = replace(WELL, quarantined=[("x.parquet", "no footer")])
    assert verdict(beat, 5003.0, is_locked=True) == (
        True,
        "running: 12 lanes, last beat 3 s ago; 1 segment in quarantine: x.parquet: no footer",
    )


# -- the lock -------------------------------------------------------------------------------------------------


def test_the_lock_is_seen_and_whose_it_is(data: Path) -> None:
    assert not heartbeat.is_locked(data)
    with exclusive(data):
        assert heartbeat.is_locked(data)
        assert heartbeat.is_locked(data, os.getpid())
        assert not heartbeat.is_locked(data, os.getpid() + 1)
    assert (data / "state" / "lock").exists()
    assert not heartbeat.is_locked(data)
    assert not heartbeat.is_locked(data, os.getpid())


def test_two_that_ask_at_once_do_not_see_each_other(data: Path) -> None:
    (data / "state" / "lock").touch()
    with open(data / "state" / "lock") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not heartbeat.is_locked(data)


# -- the command ----------------------------------------------------------------------------------------------


def test_health_of_a_watcher_that_runs_is_0(data: Path) -> None:
    with watching(data):
        done = health(data)
    assert (done.exit_code, done.output) == (0, "running: 2 lanes, last beat 0 s ago\n")


def test_health_of_a_watcher_that_ended_is_1(data: Path) -> None:
    with watching(data):
        pass
    done = health(data)
    assert (done.exit_code, done.stderr) == (1, "")
    assert done.stdout.startswith("not running: the last sign of life of process ")
    assert done.stdout.count("\n") == 1


def test_health_is_1_while_another_run_has_the_lock(data: Path) -> None:
    with watching(data, pid=os.getpid() + 1):
        assert health(data).exit_code == 1


def test_health_of_a_named_root_needs_no_profile(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "duckdb_profiles.yaml").write_text("profiles: {pi4: {thread: 1}}\n")  # broken since it was started
    monkeypatch.chdir(tmp_path)
    with watching(data):
        assert health(data).exit_code == 0


def test_health_without_a_named_root_is_that_of_the_profile(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "duckdb_profiles.yaml").write_text(f"profiles: {{mine: {{data: {data}}}}}\n")
    monkeypatch.chdir(tmp_path)
    with watching(data):
        done = CliRunner().invoke(cli.main, ["health", "--profile", "mine"], catch_exceptions=False)
    assert done.output == "running: 2 lanes, last beat 0 s ago\n"


def test_health_of_a_root_that_is_none_is_1_and_makes_nothing(tmp_path: Path) -> None:
    done = health(tmp_path / "nowhere")
    assert (done.exit_code, done.output) == (1, "not running: no watcher has said anything of itself here\n")
    assert list(tmp_path.iterdir()) == []


def test_health_as_json_carries_the_beat(data: Path) -> None:
    with watching(data, quarantined=[("x.parquet", "no footer")], lag={"trades demo BTC": 0.5}):
        done = health(data, "--json")
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert done.exit_code == 0
    assert (found["event"], found["ok"], found["lanes"], found["lag"]) == ("health", True, 2, {"trades demo BTC": 0.5})
    assert found["quarantined"] == [["x.parquet", "no footer"]]
    assert json.loads(health(data, "--json").stdout)["ok"] is False


def test_health_loads_nothing_heavy(data: Path) -> None:
    code = (
        "import sys; from daedalus_etl.cli import main\n"
        "try: main(['health', '--data', sys.argv[1]])\n"
        "except SystemExit as end: print(end.code)\n"
        "print([m for m in ('duckdb', 'pyarrow', 'numba', 'numpy', 'jinja2', 'rich', 'prometheus_client') "
        "if m in sys.modules])"
    )
    with watching(data):
        done = subprocess.run(
            [sys.executable, "-c", code, str(data)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.stdout.splitlines()[1:] == ["0", "[]"], done.stdout + done.stderr
