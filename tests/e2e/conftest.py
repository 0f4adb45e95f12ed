"""A small market on both sides of midnight, simulated and run once; and the command line as a user types it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from daedalus_etl.cli import main
from daedalus_etl.simulator import Market, simulate

MARKET = Market(
    hours=0.1,
    symbols=("BTC-USDT", "SHIB-USDT"),
    start=datetime(2026, 2, 3, 23, 57, tzinfo=UTC),
    seed=5,
    dirt=0.02,
    books_per_second=3,
    trades_per_second=2,
    quotes_per_second=3,
)


def daedalus(*arguments: str | Path) -> Result:
    """A command in this process: what it prints, and its exit code."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def typed(*arguments: str | Path, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, from any folder."""
    command = [sys.executable, "-m", "daedalus_etl", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    return subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def bronze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with raw/ only. Read it, do not run over it."""
    data = tmp_path_factory.mktemp("bronze")
    simulate(data, MARKET)
    return data


@pytest.fixture(scope="session")
def market(bronze: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BTC, and the quotes of SHIB, after `daedalus run --durations 60,300`. Read it only."""
    data = tmp_path_factory.mktemp("it's a market")  # a quote in the path: paths are data, not SQL
    kept = shutil.ignore_patterns("symbol=SHIB-USDT")
    for channel in ("orderbook", "trades", "ticker"):
        part = f"raw/ready/ccxt/{channel}"
        shutil.copytree(bronze / part, data / part, ignore=None if channel == "ticker" else kept)
    result = daedalus("run", "--data", data, "--durations", "60,300")
    assert result.exit_code == 0, result.output
    return data


@pytest.fixture
def raw(bronze: Path, tmp_path: Path) -> Callable[..., Path]:
    """A fresh data root with some channels of one symbol, to run over."""

    def make(*channels: str, symbol: str = "BTC-USDT") -> Path:
        for channel in channels:
            part = f"raw/ready/ccxt/{channel}/exchange=demo/symbol={symbol}"
            shutil.copytree(bronze / part, tmp_path / "data" / part)
        return tmp_path / "data"

    return make
