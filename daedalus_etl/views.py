"""Every model as a view for ad-hoc SQL, in a sandbox that reads the data root and writes nothing (FACTS 12, 13)."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import duckdb

from daedalus_etl import audit, catalog, engine, lanes
from daedalus_etl.errors import DaedalusError, UsageError
from daedalus_etl.lanes import CHANNELS
from daedalus_etl.models import Context, Graph, Model
from daedalus_etl.profiles import Profile, nearest

FORMATS = ("table", "csv", "json", "parquet", "markdown")
UNION_FILES = 2000  # above, files must have the same columns: to compare them would read every footer first
LISTING = re.compile(r"\b(show|describe|desc|summarize|information_schema|pragma\w*|duckdb_\w+|sqlite_master)\b")


class Views:
    """A session that sees the models that a query speaks of."""

    def __init__(self, profile: Profile, graph: Graph, temp: Path):
        self.profile, self.graph = profile, graph
        self._notes: list[str] = []
        self._unpublished: list[str] = []
        self.con = engine.connect(profile.memory_limit, profile.temp_directory or temp, profile.threads)

    @property
    def notes(self) -> list[str]:
        """What a reader of the result should know, for stderr."""
        notes = list(self._notes)
        if self._unpublished:
            names = ", ".join(self._unpublished)
            notes.append(
                f"nothing is there yet of {names}; `daedalus run --data {self.profile.data}` makes what can be made."
            )
        return notes

    def create(self, sql: str) -> None:
        """Make a view of each model that the query names, or of all where it asks what there is."""
        text = sql.lower().replace('"', "")
        wanted = {
            name
            for name in self.graph.models
            if re.search(r"\b" + re.escape(name.lower()).replace(r"\.", r"\s*\.\s*") + r"\b", text)
        }
        if not wanted and LISTING.search(text):
            wanted = set(self.graph.models)
        for layer in sorted({model.layer for model in self.graph.models.values()}):
            self.con.execute(f'create schema if not exists "{layer}"')
        ordered = [model for model in self.graph.order() if model.name in wanted or self._is_below(model, wanted)]
        found = self._bronze([model for model in ordered if model.layer == "bronze"])
        for model in ordered:
            made = found(model) if model.layer == "bronze" else self._published(model)
            if made:
                schema, _, name = model.name.partition(".")
                self.con.execute(f'create view "{schema}"."{name}" as select * from {made}')

    def _is_below(self, model: Model, wanted: set[str]) -> bool:
        """Is it read by a wanted model that is no more than a view itself?"""
        return any(
            model.name in self.graph.models[name].refs and not self.graph.models[name].is_published for name in wanted
        )

    def _bronze(self, models: Sequence[Model]) -> Callable[[Model], str]:
        """The raw segments of all lanes, with what their folder says and the file's name."""
        channels = {model.channel for model in models} & set(CHANNELS)
        if not channels:
            return lambda _: ""
        folders = {c: folder for c, folder in catalog.roots(self.profile).items() if c in channels}
        with catalog.opened(self.profile, folders, remember=False) as there:
            lanes_there = there.survey().lanes
            found = {
                channel: {
                    s.path: (s, f) for lane in lanes_there if lane.channel == channel for s, f in there.of(lane).whole()
                }
                for channel in channels
            }
        if there.bad:
            self._notes.append(
                f"{len(there.bad)} bronze segments cannot be used and are left out: `daedalus check` lists them."
            )

        def relation(model: Model) -> str:
            if model.channel not in channels:
                return ""
            files = found[model.channel]
            self._bind(model, list(files))
            if not files:
                self._unpublished.append(model.name)
            more = {name: audit.SANITIZED.format(name) for name in ("exchange", "symbol")} | {"filename": "filename"}
            made = engine.raw_relation(model.channel, None, list(files.values()), _bound(model), more)
            return f"(select exchange, symbol, * exclude (exchange, symbol, segment, position) from {made})"

        return relation

    def _published(self, model: Model) -> str:
        """The published files of a model; an unpublished one is a view of the views that it reads."""
        if not model.is_published:
            return self._rendered(model)
        files = parquet_files(self.profile.data / "processed" / model.folder)
        if files:
            self._bind(model, files)
            union = ", union_by_name = true" if len(files) <= UNION_FILES else ""
            return f"read_parquet({_bound(model)}, hive_partitioning = false{union})"
        self._unpublished.append(model.name)
        from daedalus_etl import compile as compiled

        return f"(\n{compiled.empty(self.profile, self.graph, model)}\n)"

    def _rendered(self, model: Model) -> str:
        def bind(name: str) -> str:
            raise UsageError(f"binds {name} and is not published", model.name, 'Give it config(partition="hour").')

        def ref(name: str) -> str:
            schema, _, short = name.partition(".")
            return f'"{schema}"."{short}"'

        (statement,) = self.graph.render(model, Context(self.profile.variables, ref, ref, bind))
        return f"(\n{statement}\n)"

    def _bind(self, model: Model, files: Sequence[str]) -> None:
        self.con.execute(f"set variable {_variable(model)} = $1::varchar[]", [[lanes.literal(f) for f in files]])

    def lock(self) -> None:
        """From here on: no file outside the data is opened, no setting is changed."""
        folders = {self.profile.data, *catalog.roots(self.profile).values(), self.profile.data / "processed"}
        allowed = sorted({f"{path}/" for folder in folders for path in (folder.absolute(), folder.resolve(), folder)})
        self.con.execute("set allow_persistent_secrets = false")
        self.con.execute("set allowed_directories = $1", [allowed])
        self.con.execute("set enable_external_access = false")
        self.con.execute("set lock_configuration = true")

    def refuse_writes(self, sql: str) -> None:
        """Raises UsageError for what is no query: the sandbox alone would let a COPY write below the data root."""
        kinds = duckdb.StatementType
        allowed = {
            kinds.SELECT,
            kinds.EXPLAIN,
            kinds.CREATE,
            kinds.SET,
            kinds.DROP,
            kinds.INSERT,
            kinds.UPDATE,
            kinds.DELETE,
        }
        statements = self.con.extract_statements(sql)
        if not statements:
            raise UsageError(
                "there is no SQL", "query", 'For example: daedalus query "select count(*) from silver.trades"'
            )
        for statement in statements:
            kind = statement.type
            explained = kind == kinds.EXPLAIN and re.search(
                r"\b(copy|export|attach|install)\b", statement.query.lower()
            )
            if kind not in allowed or explained:
                raise UsageError(
                    f"{kind.name if not explained else 'EXPLAIN of a write'} is not allowed", "query",
                    "A query reads; --output FILE with --format writes its result.",
                )  # fmt: skip

    def hint(self, message: str, sql: str) -> str | None:
        """What to do about an error of DuckDB's."""
        missing = re.search(r"Table with name (\S+) does not exist", message)
        if missing:
            written = re.search(rf"\w+\s*\.\s*{re.escape(missing[1])}", sql)
            return (
                f"{nearest(written[0] if written else missing[1], self.graph.models)} `daedalus ls` shows all models."
            )
        if "No files found" in message or "No such file" in message:
            return "A run replaced files meanwhile: try again."
        return None


def _variable(model: Model) -> str:
    return re.sub(r"\W", "_", model.name) + "_files"


def _bound(model: Model) -> str:
    return f"getvariable('{_variable(model)}')"


def parquet_files(folder: Path) -> list[str]:
    """Every published file below a folder, in order; nothing hidden or half-made."""
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        found += [
            f"{base}/{name}" for name in sorted(names) if name.endswith(".parquet") and not name.startswith((".", "_"))
        ]
    return found


@contextmanager
def opened(profile: Profile, graph: Graph) -> Iterator[Views]:
    """A session over the data root; what it spills goes to a temporary folder."""
    temp = Path(tempfile.mkdtemp(prefix="daedalus-query-"))
    try:
        views = Views(profile, graph, temp)
        try:
            yield views
        finally:
            views.con.close()
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def query(views: Views, sql: str, form: str, output: Path | None, width: int) -> str | None:
    """Run SQL and write its result as `form`, to `output` or stdout; text that is to be printed is returned.

    Raises DaedalusError with DuckDB's message for what the SQL does wrong.
    """
    try:
        views.refuse_writes(sql)
        views.create(sql)
        views.lock()
        reader = views.con.execute(sql).to_arrow_reader(8192)
    except duckdb.Error as error:
        raise UsageError(str(error).strip(), hint=views.hint(str(error), sql)) from None
    writer = engine.connect(views.profile.memory_limit, None)
    try:
        writer.register("result", reader)
        return _write(writer, form, output, width)
    except duckdb.Error as error:
        if "Broken pipe" in str(error):
            raise BrokenPipeError from None
        raise UsageError(str(error).strip(), hint=views.hint(str(error), sql)) from None
    finally:
        writer.close()


def _write(con: duckdb.DuckDBPyConnection, form: str, output: Path | None, width: int) -> str | None:
    if form in ("table", "markdown"):
        text = _as_text(con, form, width)
        if output is None:
            return text
        _replaced(output, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        return None
    options = {
        "csv": "format csv, header true",
        "json": "format json, array true",
        "parquet": "format parquet, compression zstd",
    }
    select = "select * from result"
    if form == "json":  # JSON has no NaN and no infinity
        columns = con.execute("describe select * from result").fetchall()
        numbers = [_quoted(name) for name, kind, *_ in columns if kind in ("FLOAT", "DOUBLE")]
        if numbers:
            finite = ", ".join(f"case when isfinite({n}) then {n} end as {n}" for n in numbers)
            select = f"select * replace ({finite}) from result"

    def copy(path: Path) -> None:
        con.execute(f"copy ({select}) to $1 ({options[form]})", [str(path)])

    if output is None:
        _to_stdout(copy)
    else:
        _replaced(output, copy)
    return None


def _to_stdout(copy: Callable[[Path], None]) -> None:
    """Through a pipe: to open /dev/stdout would empty a file that it is redirected to."""
    read, write = os.pipe()
    failed: list[Exception] = []

    def work() -> None:
        try:
            copy(Path(f"/dev/fd/{write}"))
        except duckdb.Error as error:
            failed.append(error)
        finally:
            os.close(write)

    thread = threading.Thread(target=work)
    thread.start()
    sys.stdout.flush()
    try:
        with open(read, "rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
        sys.stdout.flush()
    finally:
        thread.join()
    if failed:
        raise failed[0]


def _replaced(output: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    part = output.with_name(output.name + ".part")
    try:
        write(part)
        os.replace(part, output)
    except OSError as error:
        raise DaedalusError(f"cannot be written: {error.strerror}", str(output)) from None
    finally:
        part.unlink(missing_ok=True)


def _as_text(con: duckdb.DuckDBPyConnection, form: str, width: int) -> str:
    if form == "markdown":
        found = con.execute("select columns(*)::varchar from result")
        names = [column[0] for column in found.description or ()]
        rows = [names, ["---"] * len(names), *found.fetchall()]
        return "\n".join(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)
    relation = con.sql("select * from result")
    if relation.columns == ["explain_key", "explain_value"]:
        return "\n".join(str(row[1]) for row in relation.fetchall())
    text = io.StringIO()
    with redirect_stdout(text):
        relation.show(max_width=width, max_rows=40)
    return text.getvalue().rstrip("\n")


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
