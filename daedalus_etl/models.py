"""sql/ -> a graph of models: what each refers to, their order, selection, and the SQL text of one for a span."""

from __future__ import annotations

import graphlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from daedalus_etl.errors import DaedalusError, UsageError
from daedalus_etl.lanes import CHANNELS
from daedalus_etl.profiles import nearest

LAYERS = ("bronze", "silver", "gold")
KERNEL_OUTPUT = "kernel_output"
SLICES = "bar_slices"
OF_BARS_AND_NAMES = {"bar_durations", "partial_bars", "normalize_quotes", "usd_quotes"}


@dataclass(frozen=True)
class Model:
    """One SQL file. `config` is its header; `refs` and `sources` are its only inputs."""

    name: str
    path: Path
    text: str = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict)
    refs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]

    @property
    def channel(self) -> str:
        return str(self.config.get("channel", self.name.partition(".")[2]))

    @property
    def folder(self) -> str:
        """Where it is published, below processed/."""
        return f"{self.layer}/{self.config.get('folder', self.name.partition('.')[2])}"

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.layer, self.channel, *self.config.get("tags", ()))

    @property
    def is_published(self) -> bool:
        return "partition" in self.config


def quote(value: Any) -> str:
    """A Python value as a SQL literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}::bigint"
    if isinstance(value, float):
        return f"{value!r}::double"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(quote(v) for v in value) + "]"
    text = str(value)
    plain = "'" + text.replace("'", "''") + "'"
    return f"{plain}::varchar" if text == "" else plain


@dataclass(frozen=True)
class Context:
    """What a model is rendered for: where relations come from and what names are bound to."""

    variables: Mapping[str, Any]
    ref: Callable[[str], str]
    source: Callable[[str], str]
    bind: Callable[[str], str]
    carries: Callable[[str], bool] = lambda name: False
    carry: Callable[[str], str] = lambda name: name


class Graph:
    """All models of the project folders; a later folder's model of the same name replaces an earlier one."""

    def __init__(self, projects: Iterable[Path], variables: Mapping[str, Any]):
        self.projects = tuple(projects)
        self._config: dict[str, Any] = {}
        self._read: set[str] = set()  # the variables that rendering asked for
        self._env = jinja2.Environment(
            undefined=jinja2.StrictUndefined,
            loader=jinja2.FileSystemLoader([str(p / "macros") for p in reversed(self.projects)]),
            trim_blocks=False,
            lstrip_blocks=False,
            keep_trailing_newline=False,
            extensions=["jinja2.ext.do"],
        )
        self._compiled: dict[str, jinja2.Template] = {}
        self.models: dict[str, Model] = {}
        for project in self.projects:
            for path in sorted((project / "sql").glob("*/*.sql")):
                name = f"{path.parent.name}.{path.stem}"
                self.models[name] = self._load(name, path, variables)
        self._check()

    # -- reading ----------------------------------------------------------------------------------------------

    def _load(self, name: str, path: Path, variables: Mapping[str, Any]) -> Model:
        refs: list[str] = []
        sources: list[str] = []

        def ref(other: str) -> str:
            refs.append(other)
            return other

        def source(channel: str) -> str:
            sources.append(channel)
            return channel

        text = path.read_text(encoding="utf-8")
        model = Model(name, path, text)
        self._config = {}
        self.render(model, Context({**variables, "bar_duration_sec": 60}, ref, source, lambda n: n))
        return Model(name, path, text, dict(self._config), tuple(dict.fromkeys(refs)), tuple(dict.fromkeys(sources)))

    def config_for(self, model: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
        """A model's header with one lane's variables: what it looks back on may differ from lane to lane."""
        self._config = {}
        self.render(model, Context({**variables, "bar_duration_sec": 60}, lambda n: n, lambda c: c, lambda n: n))
        return {**model.config, **self._config}

    def variables_of(self, model: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a lane's variables that a model's rows depend on: what it and its bronze inputs ask for, with these
        values.

        A kernel may read any but those of bars and of names.
        """
        self._read = set()
        for name in (model.name, *(r for r in model.refs if r.startswith("bronze."))):
            self.config_for(self.models[name], variables)
        names = self._read | (set(variables) - OF_BARS_AND_NAMES if "kernel" in model.config else set())
        return {name: variables[name] for name in sorted(names) if name in variables}

    def _check(self) -> None:
        for model in self.models.values():
            for other in model.refs:
                if other not in self.models:
                    raise UsageError(
                        f"refers to {other}, which no model defines.",
                        str(model.path),
                        f"{nearest(other, self.models)} `daedalus ls` shows all models.",
                    )
            self._check_layer(model)
        folders: dict[str, Model] = {}
        for model in self.models.values():
            if model.is_published and folders.setdefault(model.folder, model) is not model:
                raise UsageError(
                    f"is published in {model.folder}, as {folders[model.folder].name} is",
                    str(model.path),
                    "Give one of them another config(folder=...).",
                )
        try:
            self.order()
        except graphlib.CycleError as error:
            raise UsageError(f"models refer to each other in a circle: {' -> '.join(error.args[1])}", "sql/") from None

    def _check_layer(self, model: Model) -> None:
        """Inputs run one layer up, so that each partition's are known before it is made."""
        refs, layers = model.refs, {name.partition(".")[0] for name in model.refs}
        what = ""
        if model.layer == "silver" and (model.sources or layers - {"bronze"}):
            what = "a silver model reads bronze models only"
        elif model.layer == "gold" and (model.sources or len(refs) != 1 or layers != {"silver"}):
            what = "a gold model reads exactly one silver model"
        elif model.layer == "bronze" and refs:
            what = "a bronze model reads source() only"
        if what:
            raise UsageError(what, str(model.path), f"It reads {', '.join((*refs, *model.sources)) or 'nothing'}.")
        if model.is_published and model.channel not in CHANNELS:
            raise UsageError(
                f"no channel is called {model.channel}",
                str(model.path),
                f"Write config(channel=...) with one of {', '.join(CHANNELS)}: it says whose lanes the model walks.",
            )

    # -- order and selection ----------------------------------------------------------------------------------

    def order(self) -> list[Model]:
        """All models, inputs before what reads them; by name where that leaves a choice."""
        sorter = graphlib.TopologicalSorter({m.name: m.refs for m in self.models.values()})
        sorter.prepare()
        out: list[Model] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            out += [self.models[name] for name in ready]
            sorter.done(*ready)
        return out

    def select(self, patterns: Iterable[str]) -> list[Model]:
        """The models that the patterns name, in order: a name, `+name` with all it needs, `name+` with all that needs
        it, `tag:`.

        No pattern selects all.
        """
        patterns = [p for text in patterns for p in text.split()]
        if not patterns:
            return self.order()
        chosen: set[str] = set()
        for pattern in patterns:
            name = pattern.strip("+")
            if name.startswith("tag:"):
                found = {m.name for m in self.models.values() if name[4:] in m.tags}
                known = sorted({f"tag:{t}" for m in self.models.values() for t in m.tags})
            else:
                found = {m for m in self.models if m == name or m.split(".")[1] == name}
                known = sorted(self.models)
            if not found:
                raise UsageError(
                    f"no model matches {name}", "--select", f"{nearest(name, known)} `daedalus ls` shows all models."
                )
            chosen |= found
            for start in found:
                if pattern.startswith("+"):
                    chosen |= self._reach(start, lambda m: self.models[m].refs)
                if pattern.endswith("+"):
                    chosen |= self._reach(start, lambda m: [k.name for k in self.models.values() if m in k.refs])
        return [m for m in self.order() if m.name in chosen]

    @staticmethod
    def _reach(start: str, step: Callable[[str], Iterable[str]]) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for other in step(stack.pop()):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return seen

    # -- rendering --------------------------------------------------------------------------------------------

    def render(self, model: Model, context: Context) -> list[str]:
        """The model's statements as SQL text: one; or two, the kernel's ordered input and the shape of its result, or
        the slices of bars and the bars that are made of them."""

        def config(**values: Any) -> str:
            self._config.update(values)
            return ""

        def var(name: str, default: Any = None) -> Any:
            self._read.add(name)
            if name in context.variables:
                return context.variables[name]
            if name in ("bar_duration_sec", "input_is_ordered"):
                return default
            if default is not None:
                return default
            raise UsageError(f"no variable is called {name}", str(model.path), nearest(name, context.variables))

        names: dict[str, Any] = {
            **self._env.globals,
            "config": config,
            "var": var,
            "ref": context.ref,
            "source": context.source,
            "bind": context.bind,
            "carries": context.carries,
            "carry": context.carry,
            "kernel_output": lambda: KERNEL_OUTPUT,
            "slices": lambda: SLICES,
        }
        try:
            for name in sorted(self._env.list_templates(extensions=["sql"])):
                # shared, not copied: each macro sees all others, and nothing of an earlier rendering
                module = self._env.get_template(name).make_module(names, shared=True)
                names.update({k: v for k, v in vars(module).items() if isinstance(v, jinja2.runtime.Macro)})
            if model.text not in self._compiled:
                self._compiled[model.text] = self._env.from_string(model.text)
            text = self._compiled[model.text].render(names)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            raise UsageError(f"cannot be rendered: {error}", f"{model.path}{f':{line}' if line else ''}") from error
        return _statements(text)

    def digests(self, model: Model) -> dict[str, str]:
        """Of the texts that make a model's rows: its own, those of the models that it reads inside its own SQL, and all
        macros."""
        texts = {
            f"sql/{self.models[name].layer}/{self.models[name].path.name}": self.models[name].text
            for name in (model.name, *(r for r in model.refs if r.startswith("bronze.")))
        }
        macros = hashlib.sha256()
        for name in sorted(self._env.list_templates(extensions=["sql"])):
            assert self._env.loader is not None
            macros.update(self._env.loader.get_source(self._env, name)[0].encode() + b"\0")
        found = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
        return {**found, "macros": macros.hexdigest()[:16]}


def _statements(text: str) -> list[str]:
    """Split at the semicolons that end a line; there are none inside our statements."""
    parts: list[list[str]] = [[]]
    for line in text.strip().splitlines():
        bare = line.rstrip()
        if bare.endswith(";") and not bare.lstrip().startswith("--"):
            parts[-1].append(bare[:-1])
            parts.append([])
        else:
            parts[-1].append(bare)
    out = ["\n".join(p).strip() for p in parts]
    return [p for p in out if p and not all(line.startswith("--") or not line for line in p.splitlines())]


def statements_of_bars(model: Model, statements: list[str]) -> tuple[str | None, str]:
    """The statement of a gold model's slices, None if it has none, and that of its bars. Raises DaedalusError if there
    are more."""
    if not 1 <= len(statements) <= 2:
        raise DaedalusError(
            f"has {len(statements)} statements",
            str(model.path),
            "Write one, or two, each ended by a semicolon: the slices of bars, and the bars, from slices().",
        )
    return (None if len(statements) == 1 else statements[0]), statements[-1]


def bars_in_one(model: Model, statements: list[str]) -> str:
    """A gold model as one statement."""
    slices, bars = statements_of_bars(model, statements)
    if slices is None:
        return bars
    return f"with {SLICES} as materialized (\n{slices}\n)\n\nselect * from (\n{bars}\n) as bars"


def require_kernel_statements(model: Model, statements: list[str]) -> tuple[str, str]:
    """The two statements of a model with a kernel. Raises DaedalusError if there are not two."""
    if len(statements) != 2:
        raise DaedalusError(
            f"has a kernel and {len(statements)} statement(s)",
            str(model.path),
            "Write two, each ended by a semicolon: the kernel's ordered input, and its shape over kernel_output().",
        )
    return statements[0], statements[1]
