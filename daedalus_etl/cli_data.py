"""Commands about data: query, check, clean, demo."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from daedalus_etl import options as opt
from daedalus_etl.errors import UsageError

QUERY_FORMATS = ("table", "csv", "json", "parquet", "markdown")


@click.command()
@click.argument("sql")
@opt.data_options
@click.option(
    "--format",
    "form",
    type=click.Choice(QUERY_FORMATS),
    default="table",
    show_default=True,
    help="How the result is written.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it there, not to stdout.",
)
@opt.project_options
def query(sql: str, form: str, output: Path | None, **given: Any) -> None:
    """Run SQL over all models.

    Every model is a view: bronze.trades, silver.orderbook, gold.orderbook_bars, ... Bars of all durations are one,
    with bar_duration_sec. SQL of - is read from stdin. The query can read what lies below the data root, and writes
    nothing.

    \b
    Examples:
      daedalus query "select * from gold.trades_bars where bar_duration_sec = 60 limit 5"
      daedalus query "describe silver.orderbook"
      daedalus query "from silver.ticker" --format parquet --output ticker.parquet
      daedalus query --format csv - < my.sql
    """
    import shutil

    from daedalus_etl import console, views

    text = sys.stdin.read() if sql == "-" else sql
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", "--format", "Name a file with --output, or pipe it.")
    profile = opt.profile_of(given)
    if not profile.data.is_dir():
        raise UsageError(
            "is no folder",
            str(profile.data),
            "--data names the root of raw/ and processed/; `daedalus demo` makes one.",
        )
    with views.opened(profile, opt.graph_of(profile)) as session:
        found = views.query(session, text, form, output, shutil.get_terminal_size((160, 24)).columns)
        if found is not None:
            click.echo(found)
        for note in session.notes:
            console.note(f"Note: {note}")


@click.command()
@click.argument("bronze", type=click.Path(path_type=Path))
@click.option("--source", metavar="NAME", help="Folder below raw/ready/ that the collectors write.  [default: ccxt]")
@opt.json_option
@opt.project_options
def check(bronze: Path, as_json: bool, **given: Any) -> None:
    """Check bronze against the contract.

    \b
    Examples:
      daedalus check data
      daedalus check data/raw/ready/ccxt --json

    BRONZE is a data root, or the folder of a source. Nothing is run or written. Exit code 1 if a file breaks the
    contract. Duplicates, NULLs, crossed books and the like are allowed, and counted.
    """
    from daedalus_etl import check as checker
    from daedalus_etl import console

    profile = opt.profile_of(given)
    done = checker.check(bronze, profile, opt.graph_of(profile), console.spinner())
    (_check_as_json if as_json else _check_as_text)(done)
    click.get_current_context().exit(1 if done.problems else 0)


def _check_as_json(done: Any) -> None:
    from daedalus_etl import console
    from daedalus_etl.times import show_time

    for path, problem in done.problems:
        console.emit("problem", {"file": path, "problem": problem})
    for one in done.lanes:
        span = [show_time(us) if us is not None else None for us in (one.first, one.last)]
        console.emit("lane", {
            **vars(one.lane), "segments": one.segments, "rows": one.rows, "first": span[0], "last": span[1],
            "duplicates": one.duplicates, "invalid": one.invalid, "quirks": one.quirks,
        })  # fmt: skip
    console.emit("summary", {"files": done.files, "problems": len(done.problems), "lanes": len(done.lanes)})


def _check_as_text(done: Any) -> None:
    from daedalus_etl import console
    from daedalus_etl.times import show_time

    if done.lanes:
        rows = []
        for one in done.lanes:
            counted = {"duplicate": one.duplicates, "invalid": one.invalid, **one.quirks}
            quirks = ", ".join(f"{count:,} {name}" for name, count in counted.items() if count)
            span = [show_time(us)[:19] if us is not None else "" for us in (one.first, one.last)]
            rows.append([one.lane.channel, one.lane.exchange, one.lane.symbol, one.segments, one.rows, *span, quirks])
        click.echo(console.table(["channel", "exchange", "symbol", "files", "rows", "first", "last", "of which"], rows))
    for path, problem in done.problems:
        click.echo(f"{path}: {problem}")
    good = done.files - len(done.problems)
    click.echo(f"{done.files:,} files: {good:,} keep the contract, {len(done.problems):,} do not.")


@click.command()
@opt.data_options
@click.option("--published", is_flag=True, help="Also remove processed/ and state/ of the data root. Never raw/.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@opt.project_options
def clean(published: bool, yes: bool, **given: Any) -> None:
    """Remove what can be made again.

    \b
    Examples:
      daedalus clean
      daedalus clean --data data --published

    That is target/ in this folder, and what killed runs left in the data root.
    """
    from daedalus_etl import clean as cleaner

    profile = opt.profile_of(given)
    gone = cleaner.compiled(Path("target"))
    if published:
        if given["data"] is None:
            raise UsageError(
                "needs --data", "--published", "Say which root is meant: all that was published there will be removed."
            )
        if not yes:
            click.confirm(f"Remove {profile.data}/processed and {profile.data}/state?", abort=True, err=True)
        gone += cleaner.published(profile.data)
    else:
        gone += cleaner.leftovers(profile.data)
    for path in gone:
        click.echo(f"removed {path}")
    if not gone:
        click.echo("nothing to remove")


@click.command()
@click.option("--hours", type=float, default=1.0, show_default=True, help="Length of the market.")
@click.option(
    "--symbols", default="4", show_default=True, metavar="N|NAMES", help="How many symbols, or their names with commas."
)
@click.option("--seed", type=int, default=7, show_default=True, help="Another seed, another market.")
@click.option(
    "--dirt", type=float, default=0.01, show_default=True, help="Share of dirty rows, as real feeds have them."
)
@click.option(
    "--data", type=opt.FOLDER, default=Path("data-demo"), show_default=True, metavar="DIR", help="Folder to make it in."
)
@opt.project_options
def demo(hours: float, symbols: str, seed: int, dirt: float, data: Path, **given: Any) -> None:
    """Make a market and run everything.

    \b
    Examples:
      daedalus demo
      daedalus demo --hours 0.25 --symbols BTC/USDT,ETH/USDT --data /tmp/market
      daedalus demo --dirt 0 --seed 42 --data data-clean

    It ends with the lanes and what to look at next. The same arguments make the same market; a folder that holds it
    already is used as it is.
    """
    from daedalus_etl import console
    from daedalus_etl import demo as demonstration

    wanted = demonstration.market(hours, symbols, seed, dirt)
    profile = opt.profile_of({**given, "data": data, "source": "ccxt"})
    began = time.monotonic()
    console.note(f"making {hours:g} h of {len(wanted.names)} symbols in {data}")
    if demonstration.make(data, profile.source, wanted):
        console.note(f"made it in {time.monotonic() - began:.1f} s")
    else:
        console.note("it is there already")
    report = _demo_run(profile, began)
    click.echo(_demo_table(profile, opt.graph_of(profile)))
    click.echo("\nTo try next:")
    for command in demonstration.queries(data, wanted.names[0], profile.variables):
        click.echo(f"  {command}")
    click.get_current_context().exit(report.exit_code)


def _demo_run(profile: Any, began: float) -> Any:
    from daedalus_etl import console
    from daedalus_etl.runner import Run, Selection

    work = Run(profile, opt.graph_of(profile), Selection(), lambda *_: None, opt.workers_of(None, profile))
    with console.teller(as_json=False) as tell:
        work.tell = tell
        report = work.run()
    console.note(
        f"{len(report.done):,} partitions made, {report.fresh:,} were up to date; "
        f"{time.monotonic() - began:.1f} s in all"
    )
    return report


def _demo_table(profile: Any, graph: Any) -> str:
    from daedalus_etl import console, demo, views

    with views.opened(profile, graph) as session:
        names = [
            m.name
            for m in graph.order()
            if m.is_published and views.parquet_files(profile.data / "processed" / m.folder)
        ]
        session.create(" ".join(names))
        return console.table(["channel", "symbol", "rows", "bars"], demo.lanes(session.con, names))
