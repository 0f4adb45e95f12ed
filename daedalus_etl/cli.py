"""click: parse, call, print. A command imports what it needs itself, so that `daedalus --help` answers at once."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import click

from daedalus_etl import options as opt
from daedalus_etl.errors import DaedalusError, UsageError

QUERY_FORMATS = ("table", "csv", "json", "parquet", "markdown")


class Commands(click.Group):
    """Errors of the user's and of the data's end a command with what, where and the cure, and no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DaedalusError as error:
            self._fail(ctx, error, 2 if isinstance(error, UsageError) else 1)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone: nothing is left to say
            ctx.exit(1)
        except OSError as error:
            self._fail(ctx, DaedalusError(error.strerror or str(error), error.filename), 1)

    @staticmethod
    def _fail(ctx: click.Context, error: DaedalusError, code: int) -> None:
        what = f"{error.where}: {error.what}" if error.where else str(error.what)
        click.echo(f"Error: {what}", err=True)
        if error.hint:
            click.echo(textwrap.indent(error.hint, "  "), err=True)
        ctx.exit(code)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        found = metadata.version("daedalus-etl")
    except metadata.PackageNotFoundError:
        found = "(not installed)"
    click.echo(f"daedalus {found}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def main() -> None:
    """Market data from bronze captures to silver features and gold bars.

    \b
    Examples:
      daedalus demo                                     a market of its own, in ./data-demo
      daedalus run --data data                          bring everything up to date
      daedalus query "from gold.trades_bars limit 5"    look at it

    Exit codes: 0 done, 1 some lanes failed or segments were quarantined (the others are done), 2 wrong usage or
    configuration.
    """


# -- run ------------------------------------------------------------------------------------------------------


@main.command()
@opt.data_options
@opt.select_option
@opt.lane_options
@opt.durations_option
@opt.refresh_option
@click.option("--dry-run", is_flag=True, help="The same as `daedalus plan`: say what would be made, and make nothing.")
@opt.workers_option
@opt.json_option
@opt.project_options
def run(as_json: bool, dry_run: bool, **given: Any) -> None:
    """Turn bronze into silver and gold.

    \b
    Examples:
      daedalus run
      daedalus run --data /srv/market --profile pi4 --workers auto
      daedalus run --select +gold.trades_bars --durations 60,300 --symbol BTC/USDT
      daedalus run --select silver.trades --start 2024-08-09T00 --end 2024-08-09T01
      daedalus run --dry-run --json

    What is there, minus what is in: a second run does only what is new or has changed. --start and --end choose what
    is written; features are those of a full run, since state is walked from the lane's first row. Progress and
    warnings go to stderr. Ctrl-C and SIGTERM end it after the partition in hand; the next run goes on from there.
    """
    from daedalus_etl import console

    work = _run_of(given)
    _refuse_unpublished(work)
    if dry_run:
        _show_plan(work, as_json)
        return
    began = time.monotonic()
    with console.teller(as_json=as_json) as tell:
        work.tell = tell
        report = work.run()
    seconds = time.monotonic() - began
    if as_json:
        console.emit("summary", console.summary(report, seconds))
    else:
        click.echo(console.summary_text(report, seconds))
    if (
        not report.done
        and not report.fresh
        and not report.stopped
        and all(model.layer == "gold" for model in work.chosen)
    ):
        console.note(f"Bars are made of silver, and there is none yet: `--select +{work.chosen[0].name}` makes both.")
    click.get_current_context().exit(report.exit_code)


def _run_of(given: dict[str, Any]) -> Any:
    from daedalus_etl.runner import Run, Selection

    opt.check_span(given)
    profile = opt.profile_of(given)
    if given["trades"] is not None and not given["trades"].is_dir():
        raise UsageError(
            "is no folder", str(given["trades"]), "--trades names a data root, or a folder of trades segments."
        )
    selection = Selection(
        given["select"], given["exchanges"], given["symbols"], given["start"], given["end"], given["trades"],
        given.get("full_refresh", False),
    )  # fmt: skip
    workers = opt.workers_of(given.get("workers"), profile)
    return Run(profile, opt.graph_of(profile), selection, lambda *_: None, workers)


def _refuse_unpublished(work: Any) -> None:
    if not work.chosen:
        names = ", ".join(model.name for model in work.graph.select(work.selection.models))
        raise UsageError(
            f"{names} is not published", "--select", "Only silver and gold are; `daedalus query` shows bronze."
        )


@main.command()
@opt.data_options
@opt.select_option
@opt.lane_options
@opt.durations_option
@opt.refresh_option
@opt.json_option
@opt.project_options
def plan(as_json: bool, **given: Any) -> None:
    """Say what a run would make, and why.

    \b
    Examples:
      daedalus plan
      daedalus plan --data data --var max_staleness=60
      daedalus plan --select gold.trades_bars --json

    Nothing is made or written. An hour that follows one that is to be made is made again too if that one ends in
    another state than before: it is listed as one that may be.
    """
    work = _run_of(given)
    _refuse_unpublished(work)
    _show_plan(work, as_json)


def _show_plan(work: Any, as_json: bool) -> None:
    from daedalus_etl import console, outlook

    with console.teller(as_json=False) as tell:
        work.tell = tell
        found = list(outlook.pending(work.look(), work.selected))
    sure = [one for one in found if not one.perhaps]
    for one in found if as_json else ():
        console.emit("pending", {
            "model": one.model, "exchange": one.lane.exchange, "symbol": one.symbol, "source_symbol": one.lane.symbol,
            "partition": one.partition, "rows": one.rows, "reason": one.reason, "certain": not one.perhaps,
            **({"duration": one.duration} if one.duration else {}),
        })  # fmt: skip
    if as_json:
        quarantined = len(work.report.quarantined)
        console.emit("summary", {"pending": len(sure), "perhaps": len(found) - len(sure), "quarantined": quarantined})
        return
    rows = [
        [f"{one.model} {one.duration}s" if one.duration else one.model, one.lane.exchange, one.symbol, one.partition,
         one.rows, f"perhaps: {one.reason}" if one.perhaps else one.reason]
        for one in found
    ]  # fmt: skip
    if rows:
        click.echo(console.table(["model", "exchange", "symbol", "partition", "rows", "why"], rows))
    more = f", and perhaps {len(found) - len(sure):,} that follow them" if len(found) > len(sure) else ""
    click.echo(f"{len(sure):,} partitions would be made{more}.")


@main.command()
@opt.data_options
@opt.select_option
@opt.lane_options
@opt.durations_option
@opt.json_option
@opt.project_options
def status(as_json: bool, **given: Any) -> None:
    """Say how each lane stands.

    \b
    Examples:
      daedalus status
      daedalus status --data /srv/market --exchange binance
      daedalus status --json

    Per lane of silver: rows and hours that are in, the last clock, gaps (silences between books that are longer than
    max_staleness), rows that were invalid or duplicates, segments in quarantine, and how many partitions, bars
    included, are not up to date. Exit code 1 if a segment is in quarantine.
    """
    from daedalus_etl import console, outlook
    from daedalus_etl.times import show_time

    work = _run_of(given)
    _refuse_unpublished(work)
    found = outlook.standing(work.look(), work.selected, work.report)
    for one in found if as_json else ():
        last = show_time(one.last_clock) if one.last_clock is not None else None
        names = {**vars(one.lane), "symbol": one.symbol, "source_symbol": one.lane.symbol}
        console.emit("lane", {"model": one.model, **names, **one.counts, "last_clock": last})
    for path, reason in work.report.quarantined:
        if as_json:
            console.emit("quarantined", {"segment": path, "reason": reason})
    if as_json:
        console.emit("summary", {"lanes": len(found), "quarantined": len(work.report.quarantined)})
    else:
        click.echo(console.standing(found, work.report))
    click.get_current_context().exit(1 if work.report.quarantined else 0)


@main.command()
@opt.data_option
@opt.json_option
@opt.project_options
def health(as_json: bool, **given: Any) -> None:
    """Say whether the watcher is well.

    \b
    Examples:
      daedalus health --data /srv/market
      daedalus health --json

    One line with the reason. Exit code 0 if it is running; 1 if it is not, has stalled, has to wait (for a full disk,
    for example), or cannot make a lane. Segments in quarantine are mentioned, and do not make it unwell. Nothing is
    changed, and nothing of the market is read.
    """
    from daedalus_etl import console, heartbeat

    data = given["data"] or opt.profile_of(given).data  # a profile that is broken by now is no matter of health
    beat = heartbeat.Beat.read(data)
    is_locked = beat is not None and heartbeat.is_locked(data, beat.pid)
    ok, reason = heartbeat.verdict(beat, time.monotonic(), is_locked)
    if as_json:
        console.emit("health", {"ok": ok, "reason": reason, **(beat.facts() if beat is not None else {})})
    else:
        click.echo(reason)
    click.get_current_context().exit(0 if ok else 1)


@main.command()
@opt.data_options
@opt.select_option
@opt.lane_options
@opt.durations_option
@click.option(
    "--poll-interval",
    type=click.FloatRange(0.05, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often bronze is looked at, even if the filesystem tells of nothing.",
)
@click.option("--once", is_flag=True, help="Bring everything up to date that is there, as `daedalus run`, and end.")
@click.option("--metrics-port", type=int, metavar="PORT", help="Serve Prometheus metrics on this port of 127.0.0.1.")
@opt.log_format_option
@opt.workers_option
@opt.project_options
def watch(poll_interval: float, once: bool, metrics_port: int | None, log_format: str | None, **given: Any) -> None:
    """Follow bronze as it grows.

    \b
    Examples:
      daedalus watch --data /srv/market
      daedalus watch --profile pi4 --poll-interval 60 --metrics-port 9108 --log-format json
      daedalus watch --once

    The rows of a new segment are in silver, and the bars that have ended in gold, within a second; an hour that is over
    becomes one file, as `daedalus run` writes it. SIGTERM ends it after what is in hand, with exit code 0; SIGHUP reads
    the profile again. `daedalus health` says how it is.
    """
    from daedalus_etl.logs import Log

    with Log(log_format or "text") as log:
        work = _run_of(given)
        _refuse_unpublished(work)
        if once:
            work.tell = log
            click.get_current_context().exit(work.run().exit_code)
        from daedalus_etl.metrics import Metrics
        from daedalus_etl.notify import Notifier
        from daedalus_etl.watch import Watch

        def reload() -> tuple[Any, Any]:
            profile = opt.profile_of(given)
            return profile, opt.graph_of(profile)

        metrics = Metrics(metrics_port)
        watcher = Watch(
            reload, work.selection, log, poll_interval=poll_interval, metrics=metrics, notifier=Notifier(),
            workers=opt.watchers_of(given["workers"], work.profile),
        )  # fmt: skip
        try:
            code = watcher.run()
        finally:
            metrics.close()
    click.get_current_context().exit(code)


# -- models ---------------------------------------------------------------------------------------------------


@main.command()
@opt.select_option
@opt.json_option
@opt.project_options
def ls(select: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """List the models, in order.

    \b
    Examples:
      daedalus ls
      daedalus ls --select +gold.trades_bars
      daedalus ls --select tag:silver --json
    """
    from daedalus_etl import console

    graph = opt.graph_of(opt.profile_of(given))
    rows = []
    for model in graph.select(select):
        inputs = [*model.refs, *(f"source {name}" for name in model.sources)]
        by = model.config.get("partition", "")
        partition = f"lane-{by}" if by else "not published"
        partition += f", per {model.config['per']}" if "per" in model.config else ""
        if as_json:
            console.emit("model", {
                "model": model.name, "layer": model.layer, "tags": model.tags, "inputs": inputs,
                "partition": by or None, "per": model.config.get("per"), "kernel": model.config.get("kernel"),
                "path": str(model.path),
            })  # fmt: skip
        rows.append([model.name, " ".join(model.tags), ", ".join(inputs), partition, model.config.get("kernel", "")])
    if not as_json:
        click.echo(console.table(["model", "tags", "inputs", "partition", "kernel"], rows))


@main.command("compile")
@opt.data_options
@opt.select_option
@opt.lane_options
@opt.durations_option
@click.option("--all-lanes", is_flag=True, help="One folder for each selected lane, not only the first.")
@click.option(
    "--output", type=opt.FOLDER, default=Path("target"), show_default=True, metavar="DIR", help="Folder for the SQL."
)
@opt.project_options
def compile_(all_lanes: bool, output: Path, **given: Any) -> None:
    """Write models as plain SQL under target/.

    \b
    Examples:
      daedalus compile --select silver.trades --symbol BTC/USDT
      duckdb < target/silver/trades.sql
      daedalus compile --all-lanes --output /tmp/sql

    It is made for the first selected lane, and runs as it is in the DuckDB CLI. A model with a kernel becomes two
    files: <model>.input.sql, which runs as it is, and <model>.shape.sql over a table kernel_output. A lane is one
    span, from its first segment up to --end; --start only chooses the rows that are shown.
    """
    from daedalus_etl import compile as compiled
    from daedalus_etl import console, lanes

    work = _run_of(given)
    work.tell = console.Lines()
    work.look()
    compiler = compiled.Compiler(work)
    written: list[Path] = []
    for model in work.graph.select(work.selection.models):
        for lane in compiled.lanes_of(work, model, every=all_lanes):
            part = f"exchange={lane.exchange}/symbol={lanes.sanitize(lane.symbol)}" if all_lanes else ""
            written += compiled.write(compiler.scripts(model, lane), output / part)
    if not written:
        raise UsageError(
            "no lane has these models' channels", "--select", "`daedalus check` shows the lanes that are there."
        )
    (output / compiled.MARK).touch()
    for text in compiler.notes:
        console.note(f"Note: {text}")
    for path in written:
        click.echo(path)


@main.command()
@click.argument("paths", nargs=-1)
@opt.project_options
def lint(paths: tuple[str, ...], **given: Any) -> None:
    """Check the style of SQL with sqlfluff.

    \b
    Examples:
      daedalus lint
      daedalus lint sql/gold
      daedalus lint --project my-models

    All of sql/ and macros/ of the project, or PATHS in it. Exit code 1 if there are findings.
    """
    from daedalus_etl import lint as linter

    click.get_current_context().exit(linter.lint(opt.project_folder(given["project"]), paths))


# -- data -----------------------------------------------------------------------------------------------------


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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
