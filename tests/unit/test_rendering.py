"""A model rendered many times, as who watches does for months: each time with its own names only, and nothing stays."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from daedalus_etl import profiles
from daedalus_etl.models import Context, Graph

VARIABLES = profiles.load().variables


class Names:
    """A context's functions, which live as long as somebody holds them."""

    def __init__(self, mark: str):
        self.mark = mark

    def source(self, channel: str) -> str:
        return f"{self.mark}_{channel}"

    def bind(self, name: str) -> str:
        return f"{self.mark}_{name}"


def rendered(graph: Graph, name: str, names: Names) -> str:
    context = Context({**VARIABLES, "bar_duration_sec": 60}, lambda other: other, names.source, names.bind)
    return "\n".join(graph.render(graph.models[name], context))


def test_nothing_of_a_rendering_stays() -> None:
    graph = Graph([profiles.shipped()], VARIABLES)
    kept = []
    for k in range(5):
        names = Names(f"of_{k}")
        for model in graph.models:
            rendered(graph, model, names)
        kept.append(weakref.ref(names))
    del names
    gc.collect()
    assert [one() for one in kept] == [None] * 5


def test_macros_see_all_others_and_the_names_of_their_rendering(tmp_path: Path) -> None:
    """Whatever their files are called, and however often they were rendered before."""
    (tmp_path / "sql" / "bronze").mkdir(parents=True)
    (tmp_path / "macros").mkdir()
    (tmp_path / "macros" / "first.sql").write_text("{% macro outer() %}{{ inner() }}{% endmacro %}")
    (tmp_path / "macros" / "last.sql").write_text("{% macro inner() %}{{ bind('symbol') }}{% endmacro %}")
    model = "select {{ outer() }} as symbol from {{ source('trades') }};"
    (tmp_path / "sql" / "bronze" / "trades.sql").write_text(model)
    graph = Graph([tmp_path], VARIABLES)
    for mark in ("one", "two", "three"):
        found = rendered(graph, "bronze.trades", Names(mark))
        assert found == f"select {mark}_symbol as symbol from {mark}_trades"
