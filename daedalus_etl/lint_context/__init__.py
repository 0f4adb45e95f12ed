"""What models may call, for sqlfluff's jinja templater (its library_path): the shipped variables, and names as they are.

sqlfluff puts every public name of this folder into the templates. It must not import more of ours than it needs.
"""

from daedalus_etl.models import KERNEL_OUTPUT as _KERNEL_OUTPUT
from daedalus_etl.profiles import load as _load

_VARIABLES = _load("laptop").variables


def var(name, default=None):  # type: ignore[no-untyped-def]
    """A variable's default. One that no profile has must come with one, as in Graph.render."""
    return default if default is not None else _VARIABLES.get(name, 60 if name == "bar_duration_sec" else None)


def config(**values: object) -> str:
    return ""


def ref(model: str) -> str:
    return model


def source(channel: str) -> str:
    return f"source_{channel}"


def bind(name: str) -> str:
    return f"getvariable('{name}')"


def carries(relation: str) -> bool:
    return True


def carry(relation: str) -> str:
    return f"carry_{relation.replace('.', '_')}"


def kernel_output() -> str:
    return _KERNEL_OUTPUT
