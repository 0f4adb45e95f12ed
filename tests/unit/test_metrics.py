"""What Prometheus sees: scraped over HTTP from a port of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daedalus_etl import metrics
from daedalus_etl.errors import DaedalusError, UsageError
from daedalus_etl.metrics import Metrics

ROOT = Path(__file__).parents[2]
TAKEN = {"model": "silver.trades", "exchange": "demo", "symbol": "BTC-USD", "rows": 40, "segments": 2, "lag": 0.4}
TRADES = {"channel": "trades", "exchange": "demo", "symbol": "BTC-USD"}


@pytest.fixture
def measured() -> Iterator[Metrics]:
    found = Metrics(0)
    yield found
    found.close()


def scrape(measured: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Sample name -> (labels, value)."""
    with urllib.request.urlopen(f"http://127.0.0.1:{measured.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_what_was_taken_live_is_counted_by_lane(measured: Metrics) -> None:
    measured.hear("taken", TAKEN)
    measured.hear("taken", TAKEN | {"rows": 2, "segments": 1, "lag": 1.5, "last_clock": 1_770_128_405_250_000})
    found = scrape(measured)
    model = {"model": "silver.trades", "exchange": "demo", "symbol": "BTC-USD"}
    assert found["daedalus_rows_total"] == [(model, 42)]
    assert found["daedalus_segments_total"] == [(TRADES, 3)]
    assert found["daedalus_lag_seconds"] == [(TRADES, 1.5)]
    assert found["daedalus_last_clock_seconds"] == [(TRADES, 1_770_128_405.25)]
    assert found["daedalus_publish_seconds_count"] == [({"channel": "trades"}, 2)]
    assert ({"channel": "trades", "le": "1.0"}, 1) in found["daedalus_publish_seconds_bucket"]


def test_bars_that_were_taken_have_rows_and_neither_segments_nor_a_lag(measured: Metrics) -> None:
    measured.hear("taken", {"model": "gold.trades_bars", "exchange": "demo", "symbol": "BTC-USD", "rows": 1})
    found = scrape(measured)
    assert found["daedalus_rows_total"][0][1] == 1
    assert "daedalus_segments_total" not in found
    assert "daedalus_lag_seconds" not in found


def test_the_channel_is_the_one_that_is_named_if_one_is(measured: Metrics) -> None:
    measured.hear("taken", TAKEN | {"model": "silver.mine", "channel": "trades"})
    assert scrape(measured)["daedalus_lag_seconds"] == [(TRADES, 0.4)]


def test_lanes_are_apart_whatever_their_names_hold(measured: Metrics) -> None:
    odd = 'BTC"\\\n/ü'
    measured.hear("taken", TAKEN)
    measured.hear("taken", TAKEN | {"symbol": odd, "lag": 9})
    assert ({**TRADES, "symbol": odd}, 9) in scrape(measured)["daedalus_lag_seconds"]


def test_partitions_written_whole_are_counted_apart_from_live_rows(measured: Metrics) -> None:
    for written in (100, 0):
        measured.hear("partition", {"model": "gold.trades_bars", "exchange": "e", "symbol": "s", "written": written})
    found = scrape(measured)
    assert found["daedalus_partitions_total"] == [({"model": "gold.trades_bars"}, 2)]
    assert found["daedalus_partition_rows_total"] == [({"model": "gold.trades_bars"}, 100)]
    assert "daedalus_rows_total" not in found


def test_failures_are_counted_by_model_and_a_worker_that_died_under_all(measured: Metrics) -> None:
    for model in ("silver.trades", "silver.trades", "all models of"):
        measured.hear("failed", {"model": model, "lane": "trades e s", "error": "x"})
    assert scrape(measured)["daedalus_failures_total"] == [({"model": "silver.trades"}, 2), ({"model": "all"}, 1)]


def test_a_quarantined_segment_counts_once_until_it_is_mended(measured: Metrics) -> None:
    assert scrape(measured)["daedalus_quarantined_segments"] == [({}, 0)]
    for segment in ("a", "b", "a"):
        measured.hear("quarantined", {"segment": segment, "channel": "trades", "reason": "no footer"})
    assert scrape(measured)["daedalus_quarantined_segments"] == [({}, 2)]
    measured.quarantined(["b"])
    assert scrape(measured)["daedalus_quarantined_segments"] == [({}, 1)]


def test_warnings_are_counted_and_other_events_let_pass(measured: Metrics) -> None:
    measured.hear("warning", {"text": "x"})
    for event in ("look", "lane", "recorded", "planned", "of a later version", "", "failed_"):
        measured.hear(event, {})
    assert scrape(measured)["daedalus_warnings_total"] == [({}, 1)]


def test_cycles_are_a_histogram_in_which_the_quiet_ones_can_be_told(measured: Metrics) -> None:
    for seconds in (0.004, 0.04, 4.0):
        measured.cycle(seconds)
    found = scrape(measured)
    assert found["daedalus_cycle_seconds_count"] == [({}, 3)]
    assert found["daedalus_cycle_seconds_sum"] == [({}, pytest.approx(4.044))]
    assert ({"le": "0.05"}, 2) in found["daedalus_cycle_seconds_bucket"]


def test_memory_is_read_when_it_is_asked_for_and_a_process_that_ended_is_left_out(measured: Metrics) -> None:
    assert "daedalus_resident_bytes" not in scrape(measured)
    program = [sys.executable, "-c", "print('up', flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"  # before, it has hardly any memory
        measured.processes({"watch": os.getpid(), "worker-0": child.pid})
        found = {labels["process"]: value for labels, value in scrape(measured)["daedalus_resident_bytes"]}
        assert set(found) == {"watch", "worker-0"}
        assert 1e6 < found["worker-0"] < found["watch"]
        child.communicate(b"\n")
    assert [labels for labels, _ in scrape(measured)["daedalus_resident_bytes"]] == [{"process": "watch"}]


@pytest.mark.parametrize("text", ["", "VmRSS:", "VmRSS: much kB", "Name: x"])
def test_a_status_that_says_nothing_of_memory_is_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(metrics, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(text)
    assert metrics.resident(7) is None


def test_a_port_in_use_is_named_with_the_cure(measured: Metrics) -> None:
    with pytest.raises(DaedalusError) as error:
        Metrics(measured.port)
    assert not isinstance(error.value, UsageError)  # a service manager may try again: another may still be ending
    assert f"port {measured.port}: Address already in use" in error.value.what
    assert error.value.where == "--metrics-port"
    assert error.value.hint
    assert f"ss -ltnp 'sport = :{measured.port}'" in error.value.hint


def test_an_address_that_is_none_of_this_machine_is_told() -> None:
    with pytest.raises(DaedalusError, match=r"metrics cannot be served at 192\.0\.2\.1, port 0"):
        Metrics(0, "192.0.2.1")


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_what_is_no_port_is_wrong_usage(port: int) -> None:
    with pytest.raises(UsageError, match=f"{port} is no port"):
        Metrics(port)


def test_closed_it_gives_the_port_back_and_hears_on_in_silence(measured: Metrics) -> None:
    port = measured.port
    threads = threading.active_count()
    measured.close()
    measured.close()
    assert threading.active_count() == threads - 1
    measured.hear("taken", TAKEN)
    with pytest.raises(urllib.error.URLError):
        scrape(measured)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port or 0))


def test_it_is_seen_from_this_machine_only(measured: Metrics) -> None:
    (listening,) = [
        line.split()[1]
        for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{measured.port:04X}") and line.split()[3] == "0A"
    ]
    assert listening.startswith("0100007F:")


def test_without_a_port_nothing_is_loaded_and_nothing_is_done() -> None:
    code = (
        "import sys, threading; from daedalus_etl.metrics import Metrics\n"
        "m = Metrics(None); m.hear('taken', {}); m.cycle(1); m.quarantined(['x']); m.processes({}); m.close()\n"
        "print(m.port, threading.active_count(), [n for n in ('prometheus_client', 'http') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "None 1 []\n"


def test_every_metric_has_help_and_our_prefix(measured: Metrics) -> None:
    events: dict[str, dict[str, Any]] = {
        "taken": TAKEN | {"last_clock": 1},
        "partition": TAKEN,
        "failed": TAKEN,
        "warning": {},
    }
    for event, details in events.items():
        measured.hear(event, details)
    measured.processes({"watch": os.getpid()})
    with urllib.request.urlopen(f"http://127.0.0.1:{measured.port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert len(families) >= 11
    assert [f.name for f in families if not f.name.startswith("daedalus_") or not f.documentation] == []
    assert [f.name for f in families if not f.samples] == []
