"""Measures Daedalus against its yardsticks, prints a table, and writes JSON beside it.

    python -m benchmarks                    all figures that take minutes
    python -m benchmarks books rows         these only
    python -m benchmarks --quick            one hour of a quieter market, one repetition: does it still run?
    python -m benchmarks day memory --day 24
    python -m benchmarks --list

The bronze is made once and kept in ~/.cache/daedalus-etl/benchmarks: real captures tiled to hours by
../shared/tools/scale_bronze.py, or with --simulated the simulator's market. --data ROOT takes a data root with raw/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import books, bronze, kernel, processes, windows
from benchmarks.measure import CannotMeasureError, Figure, Measured, machine, table


@dataclass(frozen=True)
class Settings:
    """What all figures share."""

    data: Path
    hours: int
    repeats: int
    profile: str
    day: int
    quick: bool
    given: bool  # --data: nothing else is made
    simulated: bool

    def long_data(self, hours: int, symbols: int = 1) -> Path:
        """Bronze of so many hours."""
        if self.given:
            return self.data
        return made(hours, symbols, self.simulated, self.quick)

    def pool_data(self) -> Path:
        """Bronze of four symbols: eight lanes of books and trades."""
        return self.data if self.given else made(1, 4, True, self.quick)


def made(hours: float, symbols: int, simulated: bool, quick: bool) -> Path:
    """Bronze of that size, made now or before."""
    if simulated or quick:
        rates = {"books_per_second": 10.0, "trades_per_second": 10.0, "quotes_per_second": 10.0}
        return bronze.simulated(0.1 if quick else hours, symbols, **rates)
    return bronze.captures(hours, symbols)


def at_most(limit: float) -> dict[str, object]:
    return {"target": f"<= {limit:g}", "reaches": lambda value: value <= limit}


def at_least(limit: float) -> dict[str, object]:
    return {"target": f">= {limit:,g}", "reaches": lambda value: value >= limit}


def figure(name: str, work: str, yardstick: str, run: object, limit: dict[str, object] | None = None) -> Figure:
    return Figure(name, work, yardstick, run=run, **(limit or {"target": "", "reaches": lambda value: True}))  # type: ignore[arg-type]


FIGURES = (
    figure("books", "order book lane, bronze to silver, all columns",
           "floor: Arrow read of the bronze + write of the silver", books.against_floor, at_most(1.5)),
    figure("rows", "the same, rows/s a core", "the predecessor's 3,700 rows/s", books.rows_a_second, at_least(55_000)),
    figure("trades", "trades lane to silver, 5 windows", "Polars, read and write included", windows.trades, at_most(5)),
    figure("trades-range", "the same", "the same model with RANGE frames", windows.trades_range, at_most(0.2)),
    figure("ticker", "ticker lane to silver, 5 windows", "Polars, read and write included", windows.ticker, at_most(5)),
    figure("bars", "bars of a symbol from silver, 4 durations", "Polars group_by_dynamic", windows.bars, at_most(4)),
    figure("kernel", "order book kernel, arrays in memory", "the same formulas in C, gcc -O3", kernel.against_c,
           at_most(1.3)),
    figure("day", "24 h of one lane", "1 h", processes.day, at_most(25)),
    figure("pool", "speed-up of 2 workers on 8 lanes", "that of two floor processes", processes.pool, at_least(0.9)),
    figure("memory", "all processes, pi4, 2 workers", "1 GB", processes.peak, at_most(1000)),
    figure("help", "daedalus --help, CPU", "", processes.start("--help"), at_most(0.15)),
    figure("ls", "daedalus ls, CPU", "", processes.start("ls"), at_most(0.4)),
    figure("compile", "first run of a fresh install", "later ones", processes.compiling, at_most(15)),
    figure("layers", "one hour of books, step by step", "", books.layers),
    figure("parquet", "silver of books, written from memory", "other options", books.parquet),
)  # fmt: skip
LONG = ("day", "pool", "memory", "parquet")  # not unless asked for


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [figure.name for figure in FIGURES]
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument("--quick", action="store_true", help="small data, one repetition")
    parser.add_argument("--data", type=Path, help="a data root with raw/, in place of made bronze")
    parser.add_argument("--simulated", action="store_true", help="the simulator's market in place of captures")
    parser.add_argument("--hours", type=int, default=2, help="of the lane that is measured")
    parser.add_argument("--day", type=int, default=24, help="hours of the figures day and memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="where the figures are written")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{figure.name:14}{figure.work}" for figure in FIGURES))
        return 0
    unknown = set(options.figures) - set(names)
    if unknown:
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; --list shows all")
    chosen = [f for f in FIGURES if f.name in options.figures or (
        not options.figures and (options.all or f.name not in LONG))]  # fmt: skip
    try:
        data = options.data or made(max(options.hours, 1), 4, options.simulated, options.quick)
    except CannotMeasureError as error:
        parser.error(str(error))
    settings = Settings(
        data, 1 if options.quick else options.hours, 1 if options.quick else options.repeats, options.profile,
        1 if options.quick else options.day, options.quick, options.data is not None, options.simulated,
    )  # fmt: skip
    rows: list[tuple[Figure, Measured | str]] = []
    for figure in chosen:
        print(f"{figure.name} ...", file=sys.stderr, flush=True)
        try:
            rows.append((figure, figure.run(settings)))
        except CannotMeasureError as error:
            rows.append((figure, str(error)))
    host = machine()
    print(
        f"{host['name']}: {host['cpu']}, {host['cores']} cores, load {host['load'][0]}; medians of {settings.repeats}\n"
    )
    print(table(rows))
    for figure, found in rows:
        if isinstance(found, Measured) and found.details:
            print(f"\n{figure.name}: " + ", ".join(f"{name} {value}" for name, value in found.details.items()))
    found_json = {
        "machine": host,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": {"hours": settings.hours, "repeats": settings.repeats, "profile": settings.profile},
        "figures": {
            figure.name: {
                "target": figure.target,
                **({"not_measured": found} if isinstance(found, str) else
                   {"reached": figure.reaches(found.value), **found.to_json()}),
            }
            for figure, found in rows
        },
    }  # fmt: skip
    options.json.write_text(json.dumps(found_json, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
