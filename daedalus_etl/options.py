"""Options that several commands share, and what they make: a Profile, a Graph, a Run, a time. Imports click only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daedalus_etl.errors import UsageError
from daedalus_etl.times import parse_time, show_time

if TYPE_CHECKING:
    from daedalus_etl.models import Graph
    from daedalus_etl.profiles import Profile

Command = TypeVar("Command", bound=Callable[..., Any])


class Time(click.ParamType[int]):
    """A moment in UTC -> microseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time. Write 2026-02-03, 2026-02-03T14, '2026-02-03 14:30:05' or "
                "2026-02-03T14:30:05.25Z; without a zone it is UTC.",
                param,
                ctx,
            )


class Seconds(click.ParamType[tuple[int, ...]]):
    """'60,300' -> (60, 300)."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.replace(",", " ").split())
        except ValueError:
            self.fail(f"{value!r} is no list of whole seconds. Write 60,300.", param, ctx)


def _stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


FOLDER = click.Path(file_okay=False, path_type=Path)

project_options = _stacked(
    click.option(
        "--profile",
        metavar="NAME",
        help="pi4, laptop, cloud or your own; else DAEDALUS_PROFILE, else the file's default.",
    ),
    click.option(
        "--project",
        type=FOLDER,
        metavar="DIR",
        help="Folder with models or a duckdb_profiles.yaml of your own, which add to ours or replace them. "
        "Else the nearest one upwards with a duckdb_profiles.yaml.",
    ),
    click.option(
        "--var",
        "variables",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a variable, for example max_staleness=60. Repeatable.",
    ),
)
data_option = click.option(
    "--data", type=FOLDER, metavar="DIR", help="Root of raw/ and processed/.  [default: ./data, or the profile's]"
)
data_options = _stacked(
    data_option,
    click.option(
        "--source", metavar="NAME", help="Folder below raw/ready/ that the collectors write.  [default: ccxt]"
    ),
)
select_option = click.option(
    "--select",
    "-s",
    multiple=True,
    metavar="MODEL",
    help="A model, `+model` with all that it needs, `model+` with all that needs it, or `tag:gold`. Repeatable.  "
    "[default: all]",
)
lane_options = _stacked(
    click.option(
        "--exchange",
        "exchanges",
        multiple=True,
        metavar="NAME",
        help="Only lanes of this exchange; * and ? are wildcards. Repeatable.",
    ),
    click.option(
        "--symbol",
        "symbols",
        multiple=True,
        metavar="NAME",
        help="Only this symbol, as BTC/USDT or BTC-USDT, and its variants in other dollar quotes; "
        "* and ? are wildcards. Repeatable.",
    ),
    click.option("--start", type=Time(), metavar="TIME", help="From here on: a date or time, UTC."),
    click.option("--end", type=Time(), metavar="TIME", help="Up to here, exclusive: a date or time, UTC."),
    click.option("--trades", type=FOLDER, metavar="DIR", help="Take trades from this root, or trades folder, instead."),
)
durations_option = click.option(
    "--durations",
    type=Seconds(),
    metavar="SECONDS",
    help="Bars of these durations, for example 60,300; the same as --var bar_durations=60,300.",
)
selection_options = _stacked(data_options, select_option, lane_options, durations_option)
refresh_option = click.option(
    "--full-refresh", is_flag=True, help="Make what is selected again, even if nothing has changed."
)
workers_option = click.option(
    "--workers",
    metavar="N|auto",
    help="Processes that make lanes in parallel, all within the profile's memory limit; auto: as cores and memory "
    "allow.  [default: the profile's]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
log_format_option = click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How events are written to stderr: as text, or as one JSON object a line.",
)


def profile_of(given: Mapping[str, Any]) -> Profile:
    """The profile that the options name, with their overrides. Raises UsageError."""
    from daedalus_etl import profiles

    overrides = dict(profiles.parse_override(text) for text in given.get("variables", ()))
    if given.get("durations"):
        overrides["bar_durations"] = list(given["durations"])
    profile = profiles.load(given.get("profile"), project_folder(given.get("project")), overrides)
    data = given.get("data")
    return profile.with_data(str(data) if data else None, given.get("source"))


def workers_of(text: str | None, profile: Profile) -> int:
    """How many processes --workers means. Raises UsageError."""
    from daedalus_etl import limits

    if text is None:
        return profile.workers
    if text == "auto":
        return limits.workers_for(profile, len(os.sched_getaffinity(0)))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 256):
        raise UsageError(f"{text!r} is neither auto nor a number from 1 to 256", "--workers")
    return int(text)


def watchers_of(text: str | None, profile: Profile) -> int:
    """How many processes `daedalus watch` has beside the one that looks: as many as there are cores follow lanes, and
    one closes hours, if the memory limit has room for them. Raises UsageError."""
    from daedalus_etl import limits

    if text is not None:
        return workers_of(text, profile)
    return max(profile.workers, limits.workers_for(profile, len(os.sched_getaffinity(0)) + 1))


def project_folder(named: Path | None) -> Path | None:
    """The user's own project folder: as named, else the nearest one upwards. None: only ours."""
    from daedalus_etl import profiles

    if named is None:
        return profiles.find_project(Path.cwd())
    if not named.is_dir():
        raise UsageError("is no folder", str(named), "--project names a folder with sql/ or a duckdb_profiles.yaml.")
    if not (named / profiles.FILE).is_file() and not (named / "sql").is_dir():
        raise UsageError("holds neither sql/ nor duckdb_profiles.yaml", str(named), "See docs/how-to/add-a-feature.md.")
    return named


def graph_of(profile: Profile) -> Graph:
    """All models of the profile's projects."""
    from daedalus_etl.models import Graph

    return Graph(profile.projects, profile.variables)


def check_span(given: Mapping[str, Any]) -> None:
    """Raises UsageError unless --start is before --end."""
    start, end = given.get("start"), given.get("end")
    if start is not None and end is not None and start >= end:
        raise UsageError(
            f"{show_time(end)} is not after --start {show_time(start)}",
            "--end",
            "The end is exclusive: for a day, give the next one.",
        )


def run_of(given: dict[str, Any]) -> Any:
    from daedalus_etl.runner import Run, Selection

    check_span(given)
    profile = profile_of(given)
    if given["trades"] is not None and not given["trades"].is_dir():
        raise UsageError(
            "is no folder", str(given["trades"]), "--trades names a data root, or a folder of trades segments."
        )
    selection = Selection(
        given["select"], given["exchanges"], given["symbols"], given["start"], given["end"], given["trades"],
        given.get("full_refresh", False),
    )  # fmt: skip
    workers = workers_of(given.get("workers"), profile)
    return Run(profile, graph_of(profile), selection, lambda *_: None, workers)
