"""What a watcher measures of itself, for Prometheus, on a port of its own that only this machine sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daedalus_etl.errors import DaedalusError, UsageError

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

LANE = ("channel", "exchange", "symbol")
MODEL = ("model", "exchange", "symbol")
LAGS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)  # seconds; the promise is 1 at the 99th percentile
CYCLES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # seconds; one with nothing new: 0.05
PROC = Path("/proc")


class Metrics:
    """Counts what a run tells, and serves it at http://ADDRESS:PORT/metrics until `close`. Without a port it does
    nothing at all, and loads nothing.

    port: 0 takes any that is free; `port` says which. Raises UsageError for what is no port, DaedalusError if it cannot
    be had.
    """

    def __init__(self, port: int | None, address: str = "127.0.0.1"):
        self.port: int | None = None
        self._exporter: _Exporter | None = None
        if port is not None:
            self._exporter = _Exporter(port, address)
            self.port = self._exporter.port

    def hear(self, event: str, details: Mapping[str, Any]) -> None:
        """Count an event that a run or the watcher tells. Those that are not counted are let pass.

        taken (live rows were published): model, exchange, symbol, rows, segments, lag (seconds from the newest
        segment's being visible to its rows' being published); if there: channel (else the model's name says it) and
        last_clock (of the newest row, microseconds since the epoch). partition, quarantined, failed, warning: as
        `runner.Run` tells them.
        """
        if self._exporter is not None:
            count = getattr(self._exporter, f"on_{event}", None)
            if count is not None:
                count(details)

    def cycle(self, seconds: float) -> None:
        """A look at bronze, with all that it led to, has taken so long."""
        if self._exporter is not None:
            self._exporter.cycles.observe(seconds)

    def quarantined(self, segments: Iterable[str]) -> None:
        """The segments that cannot be used now: replaces what was known, so that one that was mended is forgotten."""
        if self._exporter is not None:
            self._exporter.bad = set(segments)

    def processes(self, pids: Mapping[str, int]) -> None:
        """The processes whose memory is told, by name: {"watch": 1234, "worker-0": 1240}. Replaces those before."""
        if self._exporter is not None:
            self._exporter.pids = dict(pids)

    def close(self) -> None:
        """Give the port back. Twice does no harm."""
        if self._exporter is not None:
            self._exporter.close()
            self._exporter = None


class _Exporter:
    """The metrics in a registry of their own, and the server of them."""

    def __init__(self, port: int, address: str):
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            disable_created_metrics,
            start_http_server,
        )

        if not 0 <= port < 1 << 16:
            raise UsageError(f"{port} is no port", "--metrics-port", "Name one from 1024 to 65535, such as 9108.")
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double what is served, and nobody asks for them
        self.pids: dict[str, int] = {}
        self.bad: set[str] = set()
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.lag = Gauge(
            "daedalus_lag_seconds",
            "From a segment's being visible to its rows' being published, the last.",
            LANE,
            **made,
        )
        self.lags = Histogram(
            "daedalus_publish_seconds",
            "The same, of all segments: for percentiles.",
            ("channel",),
            buckets=LAGS,
            **made,
        )
        self.clock = Gauge(
            "daedalus_last_clock_seconds", "Clock of the newest live row, seconds since the epoch.", LANE, **made
        )
        self.rows = Counter("daedalus_rows", "Rows that were published live.", MODEL, **made)
        self.segments = Counter("daedalus_segments", "Segments that were taken in live.", LANE, **made)
        self.partitions = Counter(
            "daedalus_partitions",
            "Hours and days that were written whole: caught up, closed or replayed.",
            ("model",),
            **made,
        )
        self.partition_rows = Counter(
            "daedalus_partition_rows", "Rows in these; the same hour again counts again.", ("model",), **made
        )
        self.failures = Counter("daedalus_failures", "Lanes that could not be made.", ("model",), **made)
        self.warnings = Counter("daedalus_warnings", "Warnings.", **made)
        self.cycles = Histogram(
            "daedalus_cycle_seconds", "A look at bronze with all it led to.", buckets=CYCLES, **made
        )
        Gauge("daedalus_quarantined_segments", "Segments that cannot be used now.", **made).set_function(
            lambda: len(self.bad)
        )
        self.registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, address, self.registry)
        except OSError as error:
            raise DaedalusError(
                f"metrics cannot be served at {address}, port {port}: {error.strerror or error}",
                "--metrics-port",
                f"Another program has it (`ss -ltnp 'sport = :{port}'` says which), or it may not be used. "
                "Choose another, or leave the option out.",
            ) from None
        self.port = int(self._server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- what is counted ----------------------------------------------------------------------------------------

    def on_taken(self, details: Mapping[str, Any]) -> None:
        model = details["model"]
        where = (details["exchange"], details["symbol"])
        lane = (details.get("channel") or model.partition(".")[2], *where)
        self.rows.labels(model, *where).inc(details.get("rows", 0))
        if details.get("segments"):
            self.segments.labels(*lane).inc(details["segments"])
        if details.get("lag") is not None:
            self.lag.labels(*lane).set(details["lag"])
            self.lags.labels(lane[0]).observe(details["lag"])
        if details.get("last_clock") is not None:
            self.clock.labels(*lane).set(details["last_clock"] / 1e6)

    def on_partition(self, details: Mapping[str, Any]) -> None:
        self.partitions.labels(details["model"]).inc()
        self.partition_rows.labels(details["model"]).inc(details.get("written", 0))

    def on_failed(self, details: Mapping[str, Any]) -> None:
        model = details["model"]
        self.failures.labels("all" if model == "all models of" else model).inc()  # its process died: `pool` says so

    def on_quarantined(self, details: Mapping[str, Any]) -> None:
        self.bad.add(details["segment"])

    def on_warning(self, _: Mapping[str, Any]) -> None:
        self.warnings.inc()

    # -- memory, when it is asked for -----------------------------------------------------------------------------

    def collect(self) -> Iterator[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily("daedalus_resident_bytes", "Memory of a process (VmRSS).", labels=["process"])
        for name, pid in self.pids.items():
            size = resident(pid)
            if size is not None:
                family.add_metric([name], size)
        yield family


def resident(pid: int) -> int | None:
    """Bytes of a process that are in memory (VmRSS). None if there is no such process."""
    try:
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
