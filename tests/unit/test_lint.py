"""sqlfluff does not see macro bodies: here the models are linted as Graph.render gives them, unrolled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlfluff.core import FluffConfig, Linter

from daedalus_etl import lint_context, profiles
from daedalus_etl.models import Context, Graph

ROOT = Path(__file__).parents[2]
VARIABLES = {**profiles.load("laptop").variables, "input_is_ordered": False, "bar_duration_sec": 60}
MODELS = sorted(Graph([ROOT], VARIABLES).models)
# Where a macro's text lands says nothing of its layout, and ST06 would order columns by what they are made of.
RULES = {"rules": "capitalisation,aliasing,ambiguous,convention,references,structure", "exclude_rules": "ST06"}
EVERYTHING = {
    "clock": "event",
    "contract_kind": "inverse",
    "legacy_aliases": True,
    "resample_frequency": 5,
    "fill_gaps": True,
    "partial_bars": True,
    "bands_bps": ((0, 2.5), (2.5, 10)),
}


def rendered(name: str, *, carries: bool = False, **variables: Any) -> list[str]:
    graph = Graph([ROOT], VARIABLES)
    context = Context(
        {**VARIABLES, **variables},
        lint_context.ref,
        lint_context.source,
        lint_context.bind,
        lambda relation: carries,
        lint_context.carry,
    )
    return graph.render(graph.models[name], context)


def linter() -> Linter:
    return Linter(config=FluffConfig.from_path(str(ROOT), overrides={"templater": "raw", **RULES}))


@pytest.mark.parametrize("name", MODELS)
def test_a_rendered_model_has_nothing_that_sqlfluff_would_not_let_pass(name: str) -> None:
    for statement in rendered(name, levels=6):
        found = linter().lint_string(statement + "\n").get_violations()
        assert [(v.rule_code(), v.line_no, v.desc()) for v in found] == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carries", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    "variables",
    [{}, EVERYTHING, {"levels": 1, "rolling_windows": (5,)}, {"input_is_ordered": True}],
    ids=["shipped", "everything", "least", "ordered"],
)
def test_duckdb_can_parse_a_model_with_any_variables(name: str, carries: bool, variables: dict[str, Any]) -> None:
    for statement in rendered(name, carries=carries, **variables):
        assert duckdb.extract_statements(statement)[0].type == duckdb.StatementType.SELECT
