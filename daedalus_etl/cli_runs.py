"""Commands that bring a data root up to date, or say how it stands: run, plan, status, watch, health."""

from __future__ import annotations

import time
from typing import Any

import click

from daedalus_etl import options as opt
from daedalus_etl.errors import UsageError


@click.command()
@opt.selection_options
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

    work = opt.run_of(given)
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


def _refuse_unpublished(work: Any) -> None:
    if not work.chosen:
        names = ", ".join(model.name for model in work.graph.select(work.selection.models))
        raise UsageError(
            f"{names} is not published", "--select", "Only silver and gold are; `daedalus query` shows bronze."
        )


@click.command()
@opt.selection_options
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
    work = opt.run_of(given)
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


@click.command()
@opt.selection_options
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

    work = opt.run_of(given)
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


@click.command()
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


@click.command()
@opt.selection_options
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
        work = opt.run_of(given)
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
