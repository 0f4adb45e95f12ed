"""What systemd hears: real datagrams on a real socket."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daedalus_etl import notify
from daedalus_etl.notify import Notifier


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, name: str):
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name[0] == "@" else name)

    def heard(self) -> list[str]:
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@daedalus-test-{os.getpid()}")
    with made.socket:
        yield made


def notifier(manager: Manager, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.name, **more})


def test_each_word_is_a_datagram_of_its_own(manager: Manager) -> None:
    told = notifier(manager)
    told.ready()
    told.status("4 lanes")
    told.stopping()
    assert manager.heard() == ["READY=1", "STATUS=4 lanes", "STOPPING=1"]


def test_reloading_names_the_monotonic_moment_in_microseconds(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier(manager).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (text,) = manager.heard()
    word, moment = text.split("\n")
    assert word == "RELOADING=1"
    name, _, value = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= after


def test_a_status_is_one_line_and_is_told_when_it_changes(manager: Manager) -> None:
    told = notifier(manager)
    for text in ("disk full:\n  wait\nREADY=1", "disk full: wait READY=1", "on it", "on it"):
        told.status(text)
    assert manager.heard() == ["STATUS=disk full: wait READY=1", "STATUS=on it"]


def test_a_status_of_any_characters_is_told(manager: Manager) -> None:
    notifier(manager).status("symbol \udcff é")
    assert manager.heard() == ["STATUS=symbol \\udcff é"]


def test_a_sign_of_life_is_passed_on_at_half_of_the_watchdogs_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(notify.time, "monotonic", lambda: now)
    told = notifier(manager, WATCHDOG_USEC="40000000", WATCHDOG_PID=str(os.getpid()))
    heard = []
    for at in (0, 1, 19.9, 20, 39.9, 40, 200):
        now = 1000.0 + at
        told.alive()
        if manager.heard() == ["WATCHDOG=1"]:
            heard.append(at)
    assert heard == [0, 20, 40, 200]


def test_called_at_its_interval_at_the_latest_the_watchdog_is_never_kept_waiting(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(notify.time, "monotonic", lambda: now)
    told = notifier(manager, WATCHDOG_USEC="8000000")
    assert told.interval == 2.0
    sent = []
    for step in range(400):  # a little too early each time: the worst that is allowed
        now += told.interval - 0.001 * (step % 7)
        told.alive()
        if manager.heard():
            sent.append(now)
    assert max(b - a for a, b in itertools.pairwise(sent)) < 8 * 0.76


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_without_a_watchdog_of_this_process_there_is_no_sign_of_life(manager: Manager, more: dict[str, str]) -> None:
    told = notifier(manager, **more)
    told.alive()
    assert told.interval is None
    assert manager.heard() == []


@pytest.mark.parametrize("named", ["", "@", "/", "relative/path", "vsock:2:1"])
def test_without_a_socket_that_is_one_nothing_is_sent(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify.socket, "socket", lambda *_: pytest.fail("it spoke"))
    told = Notifier({"NOTIFY_SOCKET": named, "WATCHDOG_USEC": "1000000"})
    for word in (told.ready, told.reloading, told.stopping, told.alive):
        word()
    told.status("x")
    assert told.interval is None


def test_a_socket_that_has_gone_does_no_harm(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    told = notifier(manager, WATCHDOG_USEC="1000000")
    told.ready()
    manager.socket.close()
    (tmp_path / "notify").unlink()
    for word in (told.ready, told.reloading, told.stopping, told.alive):
        word()
    told.status("x")


def test_a_path_that_is_too_long_for_a_socket_does_no_harm() -> None:
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 300}).ready()


def test_a_manager_that_is_stuck_holds_nothing_up_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.01)
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        told = notifier(manager)
        began = time.monotonic()
        for n in range(1000):  # more than its queue takes, and it reads none
            told.status(str(n))
            if time.monotonic() - began > 0.2:
                break
        assert time.monotonic() - began < 5


def test_the_process_environment_is_read_if_none_is_given(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    told = Notifier()
    told.ready()
    assert told.interval == 1.0
    assert manager.heard() == ["READY=1"]
