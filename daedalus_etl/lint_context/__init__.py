"""What models may call, for sqlfluff's jinja templater (its library_path): shipped variables, and names as they are.

sqlfluff gives every public name of this folder to the templates.
"""

from daedalus_etl.audit import SCHEMAS as _SCHEMAS
from daedalus_etl.models import KERNEL_OUTPUT as _KERNEL_OUTPUT
from daedalus_etl.models import SLICES as _SLICES
from daedalus_etl.profiles import load as _load

# Few levels: sqlfluff needs minutes for 20, and they repeat. tests/unit/test_lint.py parses all of them.
_VARIABLES = {**_load("laptop").variables, "levels": 6, "bar_duration_sec": 60}


def var(name, default=None):  # type: ignore[no-untyped-def]
    """A variable's shipped value."""
    return _VARIABLES.get(name, default)


def config(**values: object) -> str:
    return ""


def ref(model: str) -> str:
    return model


def source(channel: str) -> str:
    """The columns of the contract, so that sqlfluff can count what `*` takes in."""
    columns = ", ".join(f"null::{kind.lower()} as {name}" for name, kind in _SCHEMAS[channel].items())
    return f"(select {columns}, 0::ubigint as segment, 0::bigint as position)"


def bind(name: str) -> str:
    return f"getvariable('{name}')"


def carries(relation: str) -> bool:
    """Nothing: what a model carries over has the columns of the model."""
    return False


def carry(relation: str) -> str:
    return f"carried_{relation.replace('.', '_')}"


def kernel_output() -> str:
    return _KERNEL_OUTPUT


def slices() -> str:
    return _SLICES
