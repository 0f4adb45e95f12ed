"""Commands about models: ls, compile, lint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daedalus_etl import options as opt
from daedalus_etl.errors import UsageError


@click.command()
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


@click.command("compile")
@opt.selection_options
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

    work = opt.run_of(given)
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


@click.command()
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
