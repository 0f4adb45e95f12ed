"""What systemd is told of a service (sd_notify): datagrams on the socket that it names, and no library for that."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

PATIENCE = 1.0  # seconds for the service manager to take a datagram: a stuck one must not stop the work


class Notifier:
    """Speaks to the service manager that started this process; silent where there is none. Never raises: a manager
    that does not listen is no reason to end.

    environment: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up; None: this process's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environment) if self._address else None
        self._alive_at: float | None = None
        self._status = ""

    @property
    def interval(self) -> float | None:
        """Seconds at which `alive` must be called at the latest; None: nobody watches.

        It is a quarter of the watchdog's time. `alive` passes on what comes half of that time after the last one, so
        three quarters of it can pass in silence, and no more.
        """
        return self._watchdog / 4 if self._watchdog is not None else None

    def ready(self) -> None:
        """The service is up, or has read its configuration again."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; the same one twice is told once."""
        text = " ".join(text.split())
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The service does what it should. Call it as often as you like: it is passed on when half of the watchdog's
        time has gone by."""
        if self._watchdog is None:
            return
        now = time.monotonic()
        if self._alive_at is None or now - self._alive_at >= self._watchdog / 2:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(PATIENCE)
                line.sendto(text.encode(errors="backslashreplace"), self._address)
        except OSError:  # gone, full or forbidden
            pass


def _address(named: str) -> str | bytes | None:
    """An AF_UNIX address: a path, or @name of the abstract namespace. None: nothing of the kind."""
    if len(named) < 2 or named[0] not in "/@":
        return None
    return b"\0" + os.fsencode(named[1:]) if named[0] == "@" else named


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Seconds after which the manager takes this process for dead; None: it does not watch, or watches another one."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if (pid and pid != str(os.getpid())) or not (text.isascii() and text.isdigit()):
        return None
    return int(text) / 1e6 or None
