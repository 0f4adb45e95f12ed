"""click: parse, call, print. A command imports what it needs itself, so that `daedalus --help` answers at once."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import click

from daedalus_etl import cli_data, cli_models, cli_runs
from daedalus_etl.errors import DaedalusError, UsageError


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


for command in (
    cli_runs.run, cli_runs.plan, cli_runs.status, cli_runs.watch, cli_runs.health,
    cli_models.ls, cli_models.compile_, cli_models.lint,
    cli_data.query, cli_data.check, cli_data.clean, cli_data.demo,
):  # fmt: skip
    main.add_command(command)
