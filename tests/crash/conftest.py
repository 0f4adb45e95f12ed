"""One quiet run of each market, for all tests of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash import market
from tests.crash.faults import runs
from tests.crash.market import Quiet


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """A test that fails in the middle leaves no paused run behind."""
    yield
    runs.kill_what_is_left()


@pytest.fixture(scope="session")
def trades(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """One lane of trades and its bars, one worker: the same operations in the same order every time."""
    return market.quiet_run(market.TRADES, tmp_path_factory.mktemp("trades"))


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """Two lanes of trades and two of tickers, two workers."""
    return market.quiet_run(market.TWO_WORKERS, tmp_path_factory.mktemp("two-workers"))


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    """Every model of two lanes of every channel, kernels too, two workers."""
    return market.quiet_run(market.EVERYTHING, tmp_path_factory.mktemp("everything"))
