"""A market of its own, made once and run through everything."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from daedalus_etl.errors import DaedalusError, UsageError
from daedalus_etl.lanes import Lane, canonical_names
from daedalus_etl.simulator import Market, simulate

RECORD = "demo.json"  # beside raw/: what the market in there was made of
MAKING = "demo.making"  # a market that is not finished lies here


def market(hours: float, symbols: str, seed: int, dirt: float) -> Market:
    """The market that the options mean; `symbols` is a number or names with commas. Raises UsageError."""
    try:
        chosen = (
            int(symbols) if symbols.strip().isdigit() else tuple(s.strip() for s in symbols.split(",") if s.strip())
        )
        return Market(hours=hours, symbols=chosen, seed=seed, dirt=dirt)
    except DaedalusError as error:
        raise UsageError(error.what, "demo", error.hint) from None


def make(data: Path, source: str, wanted: Market) -> bool:
    """Write the market's bronze below `data` unless it is there already; says whether it wrote.

    Raises UsageError if the folder holds anything else.
    """
    asked = _record(wanted, source)
    raw = data / "raw"
    found = _read(data / RECORD)
    if raw.exists():
        if found == asked:
            return False
        there = f"another market ({_words(found)})" if found else "data that is not the demo's"
        raise UsageError(f"holds {there}", str(data), "Choose another folder with --data, or remove this one.")
    making = data / MAKING
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    simulate(making, wanted, source)
    (data / RECORD).write_text(json.dumps(asked) + "\n", encoding="utf-8")
    (making / "raw").rename(raw)
    making.rmdir()
    return True


def _record(wanted: Market, source: str) -> dict[str, Any]:
    return {
        "hours": wanted.hours,
        "symbols": list(wanted.names),
        "seed": wanted.seed,
        "dirt": wanted.dirt,
        "source": source,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def _words(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {','.join(value) if isinstance(value, list) else value}" for key, value in record.items())


def lanes(con: Any, views: Sequence[str]) -> list[list[Any]]:
    """channel, symbol, rows of silver and bars of gold of each lane, from the views that are there."""
    silver = [_counted(v, v[7:], "rows") for v in views if v.startswith("silver.")]
    gold = [_counted(v, v[5:-5], "bars") for v in views if v.startswith("gold.")]
    found = con.execute(
        f"select channel, symbol, rows, coalesce(bars, 0)::bigint from ({_all(silver, 'rows')}) left join "
        f"({_all(gold, 'bars')}) using (channel, symbol) order by channel, symbol"
    ).fetchall()
    return [list(row) for row in found]


def _all(selects: Sequence[str], name: str) -> str:
    nothing = f"select '' as channel, '' as symbol, 0 as {name} where false"
    return " union all ".join([nothing, *selects])


def _counted(view: str, channel: str, name: str) -> str:
    return f"select '{channel}' as channel, symbol, count(*) as {name} from {view} group by all"


def queries(data: Path, symbol: str, variables: Mapping[str, Any]) -> list[str]:
    """Commands to try next; each works as it stands."""
    names = {Lane("demo", symbol, "orderbook")}
    (name,) = canonical_names(names, variables).values()
    shortest = variables["bar_durations"][0]
    root = f"--data {shlex.quote(str(data))} "
    bars = (
        "select symbol, bar_start, open, high, low, close, sum_ofi, annualized_vol from gold.orderbook_bars "
        f"where bar_duration_sec = {shortest} and symbol = '{name}' order by bar_start limit 10"
    )
    regimes = (
        "select symbol, spread_regime, count(*) as books, avg(relative_spread) * 1e4 as spread_bps, "
        "avg(kyle_lambda) as kyle_lambda from silver.orderbook where is_valid group by all order by all"
    )
    flow = (
        "select b.symbol, corr(b.sum_ofi, t.trade_imbalance) as flow_agrees from gold.orderbook_bars as b "
        "join gold.trades_bars as t using (symbol, bar_start, bar_duration_sec) "
        f"where bar_duration_sec = {shortest} group by all order by all"
    )
    commands = [f'daedalus query {root}"{text}"' for text in (bars, regimes, flow)]
    return [*commands, f"daedalus check {shlex.quote(str(data))}"]
