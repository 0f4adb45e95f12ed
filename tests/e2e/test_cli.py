"""The command line as a user types it: what it does, what it says, and its exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from daedalus_etl.cli import main
from daedalus_etl.times import parse_time, show_time
from tests.e2e.conftest import daedalus, typed

COMMANDS = sorted(main.commands)


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# -- help -----------------------------------------------------------------------------------------------------


def test_the_commands_are_those_that_were_asked_for() -> None:
    assert {"run", "ls", "compile", "query", "lint", "clean", "check", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_with_examples_that_parse(name: str) -> None:
    command = main.commands[name]
    assert command.help
    assert "Examples:" in command.help
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name}"  # type: ignore[attr-defined]
    examples = [line.strip() for line in command.help.splitlines() if line.strip().startswith("daedalus ")]
    assert examples
    for example in examples:
        _, typed_name, *arguments = shlex.split(example.split(" < ")[0], comments=True)
        assert typed_name == name
        command.make_context(name, arguments)  # raises for what is no option of it


def test_help_and_ls_load_nothing_heavy() -> None:
    code = (
        "import sys; from daedalus_etl.cli import main; main({!r}, standalone_mode=False); "
        "print([m for m in {!r} if m in sys.modules], file=sys.stderr)"
    )
    for arguments, heavy in (
        (["--help"], ["duckdb", "pyarrow", "numba", "numpy", "jinja2", "yaml", "rich", "sqlfluff"]),
        (["ls"], ["duckdb", "pyarrow", "numba", "numpy", "rich", "sqlfluff"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments, heavy)], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == "[]"


def test_ls_lists_inputs_before_what_reads_them() -> None:
    found = [e["model"] for e in events(daedalus("ls", "--json").stdout)]
    assert found.index("bronze.trades") < found.index("silver.trades") < found.index("gold.trades_bars")
    text = daedalus("ls", "--select", "+gold.trades_bars").stdout
    assert "silver.orderbook" not in text
    assert "lane-day, per bar_durations" in text


def test_version() -> None:
    assert daedalus("--version").stdout.startswith("daedalus ")


# -- wrong usage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rum", "Did you mean 'run'?"),
        ("run --selekt x", "Did you mean '--select'?"),
        ("run --data nowhere", "there is no bronze\n  Collectors write nowhere/raw/ready/ccxt/<channel>/..."),
        ("run --data {bronze} --source other", "there is no bronze"),
        ("run --data {bronze} --select silver.trade", "Did you mean silver.trades?"),
        ("run --data {bronze} --select tag:silber", "Did you mean tag:silver?"),
        ("run --data {bronze} --select bronze.trades", "bronze.trades is not published"),
        ("run --data {bronze} --symbol BTC/USTD --dry-run", "no symbol matches BTC/USTD\n  Did you mean BTC-USDT?"),
        ("run --data {bronze} --exchange dem --dry-run", "no exchange matches dem\n  Did you mean demo?"),
        ("run --data {bronze} --start yesterday", "'yesterday' is no time. Write 2026-02-03"),
        ("run --data {bronze} --start 2026-02-04 --end 2026-02-04", "is not after --start"),
        ("run --data {bronze} --trades nowhere", "nowhere: is no folder"),
        ("run --data {bronze} --var max_stalness=60", "Did you mean max_staleness?"),
        ("run --data {bronze} --var max_staleness=soon", "max_staleness = 'soon' is not a number"),
        ("run --data {bronze} --var max_staleness", "is not name=value"),
        ("run --data {bronze} --durations 60s", "Write 60,300."),
        ("run --data {bronze} --durations 0", "is not between"),
        ("run --data {bronze} --profile pi5", "Did you mean pi4?"),
        ("run --data {bronze} --project nowhere", "nowhere: is no folder"),
        ("check nowhere", "nowhere: is no bronze"),
        ("clean --published", "needs --data"),
        ("demo --symbols 0", "makes no market"),
        ("demo --hours 0", "makes no market"),
    ],
)
def test_wrong_usage_says_what_where_and_the_cure_and_ends_with_2(
    bronze: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = daedalus(*arguments.format(bronze=bronze).split())
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    assert [p.name for p in bronze.iterdir()] == ["raw"]


def test_errors_are_no_tracebacks(tmp_path: Path) -> None:
    done = typed("run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "Error: data/raw/ready/ccxt: there is no bronze"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-02-03", "2026-02-03 00:00:00"),
        ("2026-02", "2026-02-01 00:00:00"),
        ("20260203", "2026-02-03 00:00:00"),
        ("2026-02-03T14", "2026-02-03 14:00:00"),
        ("2026-02-03 14:30", "2026-02-03 14:30:00"),
        ("2026-02-03T14:30:05.25Z", "2026-02-03 14:30:05.25"),
        ("2026-02-03T14:30:05+02:00", "2026-02-03 12:30:05"),
    ],
)
def test_times_are_utc_in_several_forms(text: str, shown: str) -> None:
    assert show_time(parse_time(text)) == shown


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-30", "14:30", "1770128405"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_time(text)


# -- run ------------------------------------------------------------------------------------------------------


def test_a_run_makes_everything_and_a_second_one_nothing(raw: Callable[..., Path]) -> None:
    data = raw("trades")
    first = typed("run", "--data", data, "--durations", "60")
    assert first.returncode == 0, first.stderr
    assert "silver.trades" in first.stdout
    assert "silver.trades demo BTC-USDT: 2 partitions" in first.stderr
    before = tree(data / "processed")
    second = typed("run", "--data", data, "--durations", "60")
    assert second.returncode == 0
    assert second.stdout.startswith("0 partitions made, 4 were up to date;")
    assert tree(data / "processed") == before


def test_json_is_one_object_a_line_on_stdout_and_nothing_else(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    found = events(typed("run", "--data", data, "--durations", "60", "--json").stdout)
    assert [e["event"] for e in found] == ["plan", *["partition"] * 4, "summary"]
    assert found[1] | {"seconds": 0} == {
        "event": "partition", "model": "silver.ticker", "exchange": "demo", "symbol": "BTC-USD",
        "source_symbol": "BTC-USDT", "partition": "2026-02-03T23", "read": found[1]["read"],
        "duplicate": found[1]["duplicate"], "invalid": found[1]["invalid"], "overflow": 0,
        "written": found[1]["written"], "seconds": 0,
    }  # fmt: skip
    assert found[1]["written"] == found[1]["read"] - found[1]["duplicate"] > 0
    assert found[-1]["made"] == 4
    assert found[-1]["exit_code"] == 0


def test_one_torn_segment_is_quarantined_and_all_else_is_done(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    raw_files = sorted(data.glob("raw/**/*.parquet"))
    raw_files[0].write_bytes(b"PAR1 torn")
    done = typed("run", "--data", data, "--select", "silver.ticker")
    assert done.returncode == 1
    assert f"Quarantined: {raw_files[0].relative_to(data)}: cannot be read as Parquet" in done.stderr
    assert "1 segment quarantined" in done.stdout
    assert len(list(data.glob("processed/silver/ticker/**/*.parquet"))) == 2


def test_a_dry_run_says_what_and_why_and_touches_nothing(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    result = daedalus("run", "--data", data, "--durations", "60", "--dry-run")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [(line[0], line[3], line[5]) for line in lines[1:3]] == [
        ("silver.ticker", "2026-02-03T23", "new"),
        ("silver.ticker", "2026-02-04T00", "new"),
    ]
    assert [(line[0], line[1], line[4]) for line in lines[3:-1]] == [
        ("gold.ticker_bars", "60s", "2026-02-03"),
        ("gold.ticker_bars", "60s", "2026-02-04"),
    ]
    assert [p.name for p in data.iterdir()] == ["raw"]
    daedalus("run", "--data", data, "--select", "silver.ticker")
    before = tree(data)
    again = events(
        daedalus("run", "--data", data, "--select", "silver.ticker", "--dry-run", "--full-refresh", "--json").stdout
    )
    assert [e.get("reason") for e in again] == ["full refresh", "full refresh", None]
    assert tree(data) == before


def test_start_and_end_choose_the_partitions(raw: Callable[..., Path]) -> None:
    data = raw("trades")
    result = daedalus(
        "run", "--data", data, "--select", "silver.trades", "--start", "2026-02-04", "--end", "2026-02-05"
    )
    assert result.exit_code == 0
    (file,) = data.glob("processed/silver/trades/**/*.parquet")
    assert "/day=4/hour=0/" in str(file)


def test_symbol_filters_match_as_people_write_them(bronze: Path) -> None:
    found = events(
        daedalus(
            "run", "--data", bronze, "--symbol", "SHIB/USDC", "--select", "silver.ticker", "--dry-run", "--json"
        ).stdout
    )
    assert {e["source_symbol"] for e in found[:-1]} == {"SHIB-USDT"}


def test_trades_may_come_from_elsewhere(raw: Callable[..., Path], bronze: Path) -> None:
    data = raw("orderbook")
    for elsewhere in (bronze, bronze / "raw/ready/ccxt/trades"):
        result = daedalus("run", "--data", data, "--trades", elsewhere, "--select", "silver.orderbook",
                          "--end", "2026-02-04", "--full-refresh")  # fmt: skip
        assert result.exit_code == 0
        (file,) = data.glob("processed/silver/orderbook/**/*.parquet")
        assert pc.sum(pq.read_table(file)["interval_trade_count"]).as_py() > 100


def test_durations_set_the_bars(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    daedalus("run", "--data", data, "--durations", "30,120")
    assert sorted(p.name for p in (data / "processed/gold/ticker_bars").iterdir()) == ["120s", "30s"]


def test_bars_without_silver_are_explained(raw: Callable[..., Path]) -> None:
    result = daedalus("run", "--data", raw("ticker"), "--select", "gold.ticker_bars")
    assert result.exit_code == 0
    assert "`--select +gold.ticker_bars` makes both" in result.stderr


def test_a_second_runner_is_refused_naming_the_first(raw: Callable[..., Path]) -> None:
    from daedalus_etl.runner import exclusive

    data = raw("ticker")
    with exclusive(data):
        done = typed("run", "--data", data)
    assert done.returncode == 1
    assert "another run is writing here: process" in done.stderr


def test_a_lock_that_was_removed_since_it_was_opened_keeps_others_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`clean` takes the file away; who had opened it just before would lock one that nobody else can find."""
    import fcntl

    from daedalus_etl.errors import DaedalusError
    from daedalus_etl.runner import exclusive

    path, flock, removes = tmp_path / "state" / "lock", fcntl.flock, [True]

    def late(lock: object, how: int) -> None:
        if removes.pop():
            path.unlink()
        removes.append(False)
        flock(lock, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with exclusive(tmp_path):
        assert path.read_text().startswith("process ")
        with pytest.raises(DaedalusError, match="another run"), exclusive(tmp_path):
            pass


# -- check, clean, lint, demo ---------------------------------------------------------------------------------


def test_check_counts_what_is_allowed_and_writes_nothing(bronze: Path) -> None:
    before = tree(bronze)
    result = daedalus("check", bronze)
    assert result.exit_code == 0, result.output
    assert "0 do not." in result.stdout
    assert "with zero sizes" in result.stdout
    by_folder = events(daedalus("check", bronze / "raw/ready/ccxt", "--json").stdout)
    lanes = [e for e in by_folder if e["event"] == "lane"]
    assert len(lanes) == 6
    assert all(lane["rows"] > 500 and lane["invalid"] > 0 for lane in lanes)
    assert by_folder[-1]["problems"] == 0
    assert tree(bronze) == before


def test_check_names_the_files_that_break_the_contract(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    torn, moved, *_ = sorted(data.glob("raw/**/*.parquet"))
    torn.write_bytes(b"")
    other = Path(str(moved.parent).replace("symbol=BTC-USDT", "symbol=ETH-USDT"))
    other.mkdir(parents=True)
    moved.rename(other / moved.name)
    result = daedalus("check", data)
    assert result.exit_code == 1
    assert f"{torn}: cannot be read as Parquet" in result.stdout
    assert f"{other / moved.name}: symbol is ETH-USDT in the path and BTC-USDT in the data" in result.stdout


def test_clean_removes_only_what_can_be_made_again(
    raw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = raw("ticker")
    daedalus("run", "--data", data, "--select", "silver.ticker")
    daedalus("compile", "--data", data, "--select", "silver.ticker")
    assert (tmp_path / "target/silver/ticker.sql").is_file()
    (data / "state/staging/left.parquet.part").touch()
    assert daedalus("clean", "--data", data).exit_code == 0
    assert not (tmp_path / "target").exists()
    assert not (data / "state/staging/left.parquet.part").exists()
    assert list(data.glob("processed/silver/ticker/**/*.parquet"))

    refused = daedalus("clean", "--data", data, "--published")  # stdin is empty: no yes
    assert refused.exit_code == 1
    assert (data / "processed").is_dir()
    before = tree(data / "raw")
    assert daedalus("clean", "--data", data, "--published", "--yes").exit_code == 0
    assert sorted(p.name for p in data.iterdir()) == ["raw"]
    assert tree(data / "raw") == before


def test_clean_leaves_another_tools_target_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    result = daedalus("clean")
    assert result.stdout == "nothing to remove\n"
    assert (tmp_path / "target").is_dir()


def test_lint_finds_what_our_rules_forbid_in_a_project_of_ones_own(tmp_path: Path) -> None:
    model = tmp_path / "sql/gold/mine.sql"
    model.parent.mkdir(parents=True)
    good = '-- A view of silver.\nselect\n    symbol,\n    {{ double(1) }} as one\nfrom {{ ref("silver.trades") }}\n'
    model.write_text(good)
    clean = typed("lint", "--project", tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    model.write_text(good.replace("select", "SELECT"))
    done = typed("lint", "--project", tmp_path)
    assert done.returncode == 1
    assert "capitalisation.keywords" in done.stdout


def test_the_demo_runs_twice_and_its_queries_work(tmp_path: Path) -> None:
    arguments = (
        "demo",
        "--hours",
        "0.05",
        "--symbols",
        "1",
        "--var",
        "bar_durations=60",
        "--data",
        "d e",
    )  # a folder that wants quotes
    first = typed(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = typed(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "0 partitions made" in again.stderr
    assert "it is there already" in again.stderr
    assert again.stdout == first.stdout
    commands = [shlex.split(line) for line in first.stdout.splitlines() if line.startswith("  daedalus ")]
    assert len(commands) == 4
    for command in commands:
        done = typed(*command[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "0 rows" not in done.stdout
    other = typed("demo", "--hours", "0.05", "--symbols", "3", "--data", "d e", cwd=tmp_path)
    assert other.returncode == 2
    assert "holds another market" in other.stderr


def test_the_demo_touches_no_data_that_is_not_its_own(raw: Callable[..., Path]) -> None:
    data = raw("ticker")
    before = tree(data)
    result = daedalus("demo", "--data", data)
    assert result.exit_code == 2
    assert "holds data that is not the demo's" in result.stderr
    assert tree(data) == before


def test_a_market_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    from daedalus_etl import demo
    from daedalus_etl.simulator import Market

    market = Market(hours=0.01, symbols=1, start=datetime(2026, 2, 3, tzinfo=UTC))
    (tmp_path / demo.MAKING / "raw").mkdir(parents=True)
    assert demo.make(tmp_path, "ccxt", market)
    assert not demo.make(tmp_path, "ccxt", market)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.json", "raw"]
