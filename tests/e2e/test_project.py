"""A user's own project, written exactly as docs/how-to/add-a-feature.md says, runs and computes what it claims."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from daedalus_etl import compile as compiled
from daedalus_etl import models, profiles, runner
from daedalus_etl.errors import UsageError
from daedalus_etl.simulator import Market, simulate
from tests import naive
from tests.harness import published, write_bronze
from tests.naive.order import side_of
from tests.tables import at

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-feature.md"
MARKET = Market(
    hours=0.05,
    symbols=("BTC-USDT", "SHIB-USDT"),
    start=datetime(2026, 2, 3, 23, 58, 30, tzinfo=UTC),  # so that state crosses an hour and a day
    dirt=0.05,
    books_per_second=0.2,
    trades_per_second=4,
    quotes_per_second=0.2,
)
FILE = re.compile(
    r"^`mine/(?P<path>[\w/.]+)`[^\n]*:\n\n```(?:sql|python)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


def snippets() -> list[tuple[str, str]]:
    """(path below the project, text) of every file that the how-to shows, in its order."""
    return [(found["path"], found["text"]) for found in FILE.finditer(HOW_TO.read_text())]


def write(project: Path, files: list[tuple[str, str]]) -> Path:
    for path, text in files:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    return project


def run(data: Path, project: Path, *select: str) -> runner.Report:
    profile = profiles.load("laptop", project).with_data(str(data), None)
    graph = models.Graph(profile.projects, profile.variables)
    report = runner.Run(profile, graph, runner.Selection(models=select), lambda *_: None).run()
    assert report.failed == []
    return report


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("market")
    simulate(data, MARKET)
    return data


@pytest.fixture
def data(market: Path, tmp_path: Path) -> Path:
    """A data root of its own over the same bronze."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "raw").symlink_to(market / "raw")
    return root


def trades(data: Path, symbol: str) -> list[dict[str, Any]]:
    """The lane's rows by the oracle: valid or not, no duplicates, in lane order."""
    rows = naive.read_bronze(data, "ccxt", "trades", "demo", symbol)
    return naive.ordered(rows, "trades", naive.DEFAULTS)


def differences(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> list[str]:
    return naive.compare(got, want, [name for name in want[0] if name != "clock"])


def test_the_how_to_shows_a_column_a_window_and_a_kernel():
    assert [path for path, _ in snippets()] == [
        "sql/silver/my_trades.sql",
        "sql/silver/my_trades.sql",
        "sql/silver/trade_runs.sql",
        "kernels/trade_runs.py",
    ]


@pytest.mark.parametrize("symbol", ["BTC-USDT", "SHIB-USDT"])
def test_a_column_and_then_a_window_of_a_users_own(data: Path, tmp_path: Path, symbol: str):
    column, window, *_ = snippets()
    project = write(tmp_path / "mine", [column])
    run(data, project, "silver.my_trades")
    first = published(data, "silver/my_trades", f"source_symbol = '{symbol}'")
    assert "bought_30s" not in first[0]

    write(project, [window])
    report = run(data, project, "silver.my_trades")
    got = published(data, "silver/my_trades", f"source_symbol = '{symbol}'")

    assert report.fresh == 0, "an edited model makes its partitions again"
    want = []
    lane = trades(data, symbol)
    valid = [t for t in lane if t["is_valid"]]
    for t in lane:
        row: dict[str, Any] = {
            "clock_ts": t["clock"],
            "is_valid": t["is_valid"],
            "root_dollars": None,
            "bought_30s": None,
        }
        if t["is_valid"]:
            upto = valid.index(t) + 1
            near = [u for u in valid[:upto] if u["clock"] > t["clock"] - 30_000_000]
            row["root_dollars"] = math.sqrt(t["price"] * t["amount"])
            row["bought_30s"] = math.fsum(u["amount"] for u in near if side_of(u) == "buy")
        want.append(row)
    assert len(want) > 300
    assert {datetime.fromtimestamp(r["clock_ts"] // 1_000_000, UTC).day for r in want} == {3, 4}
    assert differences(got, want) == []
    assert [r["root_dollars"] for r in first] == [r["root_dollars"] for r in got]


@pytest.mark.parametrize("symbol", ["BTC-USDT", "SHIB-USDT"])
def test_a_kernel_of_a_users_own_keeps_its_state_over_the_hour(data: Path, tmp_path: Path, symbol: str):
    run(data, write(tmp_path / "mine", snippets()), "silver.trade_runs")
    got = published(data, "silver/trade_runs", f"source_symbol = '{symbol}'")

    want: list[dict[str, Any]] = []
    side, length, began = None, 0, 0
    for t in trades(data, symbol):
        row: dict[str, Any] = {
            "clock_ts": t["clock"],
            "is_valid": t["is_valid"],
            "run_length": None,
            "run_seconds": None,
        }
        if t["is_valid"] and (now := side_of(t)) is not None:
            if now != side:
                side, length, began = now, 0, t["clock"]
            length += 1
            row |= {"run_length": length, "run_seconds": (t["clock"] - began) * 1e-6}
        want.append(row)
    assert len(want) > 300
    assert differences(got, want) == []


def test_an_edited_kernel_makes_its_partitions_again(data: Path, tmp_path: Path):
    project = write(tmp_path / "mine", snippets())
    run(data, project, "silver.trade_runs")
    assert run(data, project, "silver.trade_runs").done == []

    kernel = project / "kernels" / "trade_runs.py"
    kernel.write_text(kernel.read_text().replace("* 1e-6", "* 1e-3"))
    run(data, project, "silver.trade_runs")
    seconds = [r["run_seconds"] for r in published(data, "silver/trade_runs") if r["run_seconds"]]
    assert max(seconds) > 1000


def test_a_kernel_runs_again_from_numbas_cache_in_another_process(data: Path, tmp_path: Path):
    project = write(tmp_path / "mine", snippets())
    script = (
        "import sys, pathlib; from tests.e2e import test_project as t; "
        "data, project = map(pathlib.Path, sys.argv[1:]); "
        "print(len(t.run(data, project, 'silver.trade_runs').done))"
    )
    for _ in range(2):  # compiled, then cached
        shutil.rmtree(data / "processed", ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", script, str(data), str(project)],
            cwd=HOW_TO.parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize("broken", ["import nothing_of_that_name", "KERNEL2 = 1", "def ("])
def test_a_kernel_that_cannot_be_loaded_fails_its_lanes_with_the_file_and_the_reason(
    data: Path, tmp_path: Path, broken: str
):
    project = write(tmp_path / "mine", [*snippets(), ("kernels/trade_runs.py", broken)])
    profile = profiles.load("laptop", project).with_data(str(data), None)
    graph = models.Graph(profile.projects, profile.variables)
    report = runner.Run(profile, graph, runner.Selection(models=("silver.trade_runs",)), lambda *_: None).run()
    assert len(report.failed) == 2
    assert all("kernels/trade_runs.py: cannot be loaded" in reason for _, reason in report.failed)


def test_a_kernel_refuses_a_row_that_comes_twice(data: Path, tmp_path: Path):
    files = [(path, text.replace("not is_context and not is_duplicate", "not is_context")) for path, text in snippets()]
    profile = profiles.load("laptop", write(tmp_path / "mine", files)).with_data(str(data), None)
    graph = models.Graph(profile.projects, profile.variables)
    report = runner.Run(profile, graph, runner.Selection(models=("silver.trade_runs",)), lambda *_: None).run()
    assert len(report.failed) == 2
    assert all("twice, out of order or not at all" in reason for _, reason in report.failed)


def test_a_lanes_own_dedupe_window_reaches_over_the_hour(tmp_path: Path):
    hour = 495_000 * 3_600_000_000
    same = {"timestamp": 1, "trade_id": "1", "price": 1.0, "amount": 1.0, "side": "buy"}
    other = {**same, "trade_id": "2"}
    rows = [(-1000, same), (-950, other), (100, same), (101, other)]
    write_bronze(tmp_path, "trades", [{"capture_ts": hour + s * 1_000_000, **row} for s, row in rows])
    entry = 'instruments: [{exchange: kraken, symbol: "BTC-*", trade_dedupe_window: 1080}]\n'
    run(tmp_path, write(tmp_path / "mine", [("duckdb_profiles.yaml", entry)]), "silver.trades")
    kept = [(row["clock_ts"] - hour) // 1_000_000 for row in published(tmp_path, "silver/trades")]
    assert kept == [-1000, -950, 100]  # the first came again after 1100 s, the second after 1051 s


@pytest.mark.parametrize(
    ("name", "reads", "why"),
    [
        ("sql/silver/mine.sql", '{{ ref("silver.trades") }}', "bronze"),
        ("sql/gold/mine.sql", '{{ ref("bronze.trades") }}', "exactly one silver model"),
        ("sql/gold/mine.sql", '{{ ref("silver.trades") }}, {{ ref("silver.ticker") }}', "exactly one silver model"),
    ],
)
def test_a_model_that_reads_the_wrong_layer_is_refused_with_the_cure(tmp_path: Path, name: str, reads: str, why: str):
    text = f'{{{{ config(channel="trades", partition="hour") }}}}\nselect * from {reads}\n'
    profile = profiles.load("laptop", write(tmp_path / "mine", [(name, text)]))
    with pytest.raises(UsageError, match=why):
        models.Graph(profile.projects, profile.variables)


def test_an_unknown_kernel_is_named_with_those_that_there_are(data: Path, tmp_path: Path):
    project = write(tmp_path / "mine", [file for file in snippets() if not file[0].startswith("kernels")])
    profile = profiles.load("laptop", project).with_data(str(data), None)
    graph = models.Graph(profile.projects, profile.variables)
    report = runner.Run(profile, graph, runner.Selection(models=("silver.trade_runs",)), lambda *_: None).run()
    assert any("no kernel is called trade_runs" in reason for _, reason in report.failed)


UNIT = """-- The lane's unit of exact prices, beside each row.
{{{{ config(channel="{channel}", partition="hour", price_unit="{price}"{more}) }}}}

with final as (
    select
        clock_us,
        lane_order,
        is_valid,
        {{{{ bind("price_unit") }}}}::double as unit
    from {{{{ ref("bronze.{channel}") }}}}
    where not is_duplicate and not is_context
)

"""
SHAPE = """select
    {{ partition_columns("clock_us") }},
    {{ instant("clock_us") }} as clock_ts,
    lane_order,
    is_valid,
    unit
"""
COUNT = """import numpy as np

from daedalus_etl.kernels.base import Kernel


class Count(Kernel):
    columns = ("number",)

    def reads(self):
        return ("lane_order", "clock_us", "is_valid")

    def advance(self, columns, beside):
        return columns["lane_order"][np.newaxis].astype(float), {}

    def save(self):
        return {}

    def load(self, kept):
        pass


KERNEL = Count
"""
ORDER = "order by clock_us, lane_order"


def unit_model(channel: str, price: str, *, streamed: bool = False) -> list[tuple[str, str]]:
    if not streamed:
        text = UNIT.format(channel=channel, price=price, more="") + SHAPE + f"from final\n{ORDER}\n"
        return [("sql/silver/units.sql", text)]
    head = UNIT.format(channel=channel, price=price, more=f', kernel="count", streams="bronze.{channel}"')
    text = head + f"select * from final\n{ORDER};\n\n" + SHAPE + "from {{ kernel_output() }};\n"
    return [("sql/silver/units.sql", text), ("kernels/count.py", COUNT)]


@pytest.mark.parametrize(
    ("channel", "price", "streamed"),
    [
        ("trades", "price", False),
        ("ticker", "(bid + ask) / 2", False),
        ("orderbook", "mid_price", False),
        ("orderbook", "mid_price", True),
    ],
)
def test_a_model_says_which_price_fixes_its_lanes_unit(
    data: Path, tmp_path: Path, channel: str, price: str, streamed: bool
):
    run(data, write(tmp_path / "mine", unit_model(channel, price, streamed=streamed)), "silver.units")
    for symbol in MARKET.symbols:
        got = published(data, "silver/units", f"source_symbol = '{symbol}'")
        lane = naive.ordered(naive.read_bronze(data, "ccxt", channel, "demo", symbol), channel, naive.DEFAULTS)
        first = next(row for row in lane if row["is_valid"])
        if channel == "orderbook":
            first["mid_price"] = (first["_bids"][0][0] + first["_asks"][0][0]) / 2
        value = eval(price, {}, first)  # the same in Python
        unit = 2.0 ** (math.frexp(value)[1] - 55)
        assert len({row["clock_ts"] // 3_600_000_000 for row in got}) == 2
        assert {row["unit"] for row in got if row["is_valid"]} == {unit}


@pytest.mark.parametrize(
    ("segments", "first"),  # of each segment: clock, event time, bid (negative: invalid)
    [
        ([[(0, 0, -1), (9, 0, 2)], [(5, 0, 64)]], 64),  # another segment begins before the price of the first
        ([[(0, 0, -1), (5, 7, 2)], [(5, 3, 64)]], 64),  # at its clock, and earlier by event time
        ([[(0, 0, -1), (5, 3, 2)], [(5, 7, 64)]], 2),
        ([[(0, 0, 2)], [(1, 0, 64)], [(2, 0, 512)]], 2),
        ([[(k, 0, -1)] for k in range(6)] + [[(9, 0, 2)], [(6, 0, -1), (8, 0, 64)]], 64),
        ([[(0, 0, -1)], [(1, 0, -1)]], None),
    ],
)
def test_the_first_valid_price_may_lie_in_any_segment(
    tmp_path: Path, segments: list[list[tuple[int, int, float]]], first: float | None
):
    data = tmp_path / "data"
    for k, rows in enumerate(segments):
        quotes = [{"capture_ts": at("01:00") + c, "timestamp": e, "bid": bid, "ask": bid * 1.5} for c, e, bid in rows]
        write_bronze(data, "ticker", quotes, name=f"{k:02}")
    run(data, write(tmp_path / "mine", unit_model("ticker", "(bid + ask) / 2")), "silver.units")
    units = {row["unit"] for row in published(data, "silver/units")}
    assert units == {None if first is None else 2.0 ** (math.frexp(first * 1.25)[1] - 55)}


def test_a_compiled_model_has_the_unit_of_the_published_one_by_the_lanes_own_variables(data: Path, tmp_path: Path):
    instruments = "instruments: [{symbol: 'SHIB-*', contract_size: 1024}]\n"
    files = unit_model("trades", 'price * " ~ var("contract_size") ~ "')
    project = write(tmp_path / "mine", [*files, ("duckdb_profiles.yaml", instruments)])
    run(data, project, "silver.units")
    profile = profiles.load("laptop", project).with_data(str(data), None)
    graph = models.Graph(profile.projects, profile.variables)
    of = runner.Run(profile, graph, runner.Selection(), lambda *_: None)
    of.look()
    lane = next(lane for lane in of.selected if lane.channel == "trades" and lane.symbol == "SHIB-USDT")
    (script,) = compiled.Compiler(of).scripts(graph.models["silver.units"], lane)
    units = {unit for (unit,) in duckdb.sql(f"select unit from ({script.sql.rpartition(';')[0]})").fetchall()}
    first = next(row for row in trades(data, "SHIB-USDT") if row["is_valid"])
    assert units == {2.0 ** (math.frexp(first["price"])[1] - 55 + 10)}
    assert units == {row["unit"] for row in published(data, "silver/units", "source_symbol = 'SHIB-USDT'")}
