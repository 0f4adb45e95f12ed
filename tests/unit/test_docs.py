"""The documents say what is so: every column that a model makes is described, and nothing else is; links resolve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from daedalus_etl import cli, engine, models, profiles, runner
from daedalus_etl.simulator import Market, simulate

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").glob("*.md"), *ROOT.glob("sql/*/*.yml")]
)
PAGES = [path for path in DOCUMENTS if path.suffix == ".md"]
APPENDIX = ROOT / "docs" / "IMPLEMENTATION_APPENDIX.md"
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "resampled": {"resample_frequency": 5},
    "with the predecessor's names": {"legacy_aliases": True},
    "other windows, levels, bands and durations": {
        "rolling_windows": [7, 90],
        "levels": 6,
        "ofi_levels": 3,
        "bands_bps": [[0, 3], [3, 9.5], [9.5, 40]],
        "bar_durations": [30],
    },
}
MARKET = Market(
    hours=0.1,
    symbols=("BTC-USDT",),
    start=datetime(2026, 2, 3, 23, 57, tzinfo=UTC),
    dirt=0.05,
    books_per_second=1,
    trades_per_second=1,
    quotes_per_second=1,
)
GRAPH = models.Graph([profiles.shipped()], profiles.load().variables)
TYPES = {"TIMESTAMP WITH TIME ZONE": "timestamptz"}


# -- what is described ----------------------------------------------------------------------------------------


def described(model: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "sql" / f"{model.replace('.', '/')}.yml").read_text())


def expanded(name: str, variables: Mapping[str, Any]) -> list[str]:
    """The columns that an entry stands for, as docs/reference/columns.md says."""
    if "{lo}" in name:
        return [name.format(lo=lo, hi=hi) for lo, hi in variables["bands_bps"]]
    for letter, values in (
        ("h", variables["rolling_windows"]),
        ("i", range(variables["levels"])),
        ("k", (1, 3, 5, 10)),
    ):
        if f"{{{letter}}}" in name:
            return [name.format(**{letter: value}) for value in values]
    return [name]


def columns_described(model: str, variables: Mapping[str, Any]) -> dict[str, str]:
    """Column -> type, with these variables."""
    return {
        column: entry["type"]
        for name, entry in described(model)["columns"].items()
        if "when" not in entry or variables[entry["when"]]
        for column in expanded(name, variables)
    }


def disagreements(said: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    found = [f"{c} is in the model and not described" for c in there if c not in said]
    found += [f"{c} is described and not in the model" for c in said if c not in there]
    return found + [f"{c} is {there[c]}, described as {said[c]}" for c in said if c in there and said[c] != there[c]]


# -- what is there --------------------------------------------------------------------------------------------


class Demo:
    """The simulated market, run in each of the ways."""

    def __init__(self, root: Path):
        self.root = root
        simulate(root, MARKET)
        self._runs: dict[str, tuple[Path, profiles.Profile]] = {}

    def run(self, way: str) -> tuple[Path, profiles.Profile]:
        if way not in self._runs:
            data = self.root / f"run-{len(self._runs)}"
            data.mkdir()
            (data / "raw").symlink_to(self.root / "raw")
            profile = profiles.load("laptop", None, WAYS[way]).with_data(str(data), None)
            graph = models.Graph(profile.projects, profile.variables)
            assert runner.Run(profile, graph, runner.Selection(), lambda *_: None).run().failed == []
            self._runs[way] = data, profile
        return self._runs[way]

    def rows(self, model: str, way: str) -> str:
        """SQL of all that a model published."""
        data, _ = self.run(way)
        files = f"{data}/processed/{GRAPH.models[model].folder}/**/*.parquet"
        return f"read_parquet('{files}', hive_partitioning = false, union_by_name = true)"

    def bronze(self, con: duckdb.DuckDBPyConnection, model: str, way: str) -> str:
        """SQL of a bronze model over the whole market."""
        profile = profiles.load("laptop", None, WAYS[way])
        graph = models.Graph(profile.projects, profile.variables)
        channel = graph.models[model].channel
        con.execute(
            "set variable files = $1", [[str(p) for p in sorted(self.root.glob(f"raw/ready/*/{channel}/**/*.parquet"))]]
        )
        types = con.execute(
            "describe select * from read_parquet(getvariable('files'), hive_partitioning = false)"
        ).fetchall()
        facts = engine.Facts(types=tuple((str(t[0]), str(t[1])) for t in types))
        bound = {"span_start_us": -(2**62), "span_end_us": 2**62, "horizon_us": 2**62, "price_unit": None}
        context = models.Context(
            {**profile.variables, "input_is_ordered": False},
            lambda name: name,
            lambda _: engine.raw_relation(channel, None, [(None, facts)], "getvariable('files')"),  # type: ignore[list-item]
            lambda name: models.quote(bound[name]),
        )
        (statement,) = graph.render(graph.models[model], context)
        return f"({statement})"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("market"))


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    return con


PUBLISHED = sorted(name for name, model in GRAPH.models.items() if model.is_published)
BRONZE = sorted(name for name in GRAPH.models if name.startswith("bronze."))


def relation(market: Demo, con: duckdb.DuckDBPyConnection, model: str, way: str) -> str:
    return market.bronze(con, model, way) if model in BRONZE else market.rows(model, way)


# -- columns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", PUBLISHED + BRONZE)
def test_every_column_of_a_model_is_described_and_nothing_else(market, con, model: str, way: str):
    rows = con.execute(f"describe select * from {relation(market, con, model, way)}").fetchall()
    there = {str(row[0]): TYPES.get(str(row[1]), str(row[1]).lower()) for row in rows}
    variables = profiles.load("laptop", None, WAYS[way]).variables
    assert disagreements(columns_described(model, variables), there) == []


def test_a_missing_an_extra_and_a_wrongly_typed_column_would_be_seen():
    said = {"a": "double", "b": "bigint"}
    assert disagreements(said, said) == []
    assert disagreements(said, {"a": "double"}) == ["b is described and not in the model"]
    assert disagreements(said, {**said, "c": "double"}) == ["c is in the model and not described"]
    assert disagreements(said, {"a": "double", "b": "double"}) == ["b is double, described as bigint"]


@pytest.mark.parametrize("model", PUBLISHED + BRONZE)
def test_a_description_is_whole(model: str):
    entry = described(model)
    assert set(entry) == {"model", "grain", "columns", "checks"}
    assert entry["model"] == model
    assert entry["grain"]
    for name, column in entry["columns"].items():
        assert set(column) - {"when"} == {"type", "unit", "formula", "null_when", "source"}, name
        assert all(column.values()), name
        assert column.get("when") in (None, "resample_frequency", "legacy_aliases"), name


def test_each_model_has_its_description_beside_it_and_no_description_stands_alone():
    names = {f"{path.parent.name}.{path.stem}" for path in ROOT.glob("sql/*/*.yml")}
    assert names == set(GRAPH.models)


@pytest.mark.parametrize(
    "way", [way for way in WAYS if "rolling_windows" not in WAYS[way]]
)  # checks name default windows
@pytest.mark.parametrize("model", PUBLISHED + BRONZE)
def test_the_checks_of_a_model_hold_on_a_dirty_market(market, con, model: str, way: str):
    rows = relation(market, con, model, way)
    for name, predicate in described(model)["checks"].items():
        broken = con.execute(f"select count(*) from {rows} where not coalesce({predicate}, false)").fetchone()
        assert broken == (0,), f"{model}: {name}"


# -- the appendix ---------------------------------------------------------------------------------------------


def table_row(name: str, column: Mapping[str, str]) -> str:
    return f"| `{name}` | {column['unit']} | {column['formula']} | {column['null_when']} | {column['source']} |"


def appendix_tables() -> dict[str, list[str]]:
    """Model -> the rows of its table: below a heading that ends in the model's name."""
    tables: dict[str, list[str]] = {}
    model = None
    for line in APPENDIX.read_text().splitlines():
        if line.startswith("#"):
            found = re.search(r"`((?:bronze|silver|gold)\.\w+)`$", line)
            model = found[1] if found else None
        elif model and line.startswith("| `"):
            tables.setdefault(model, []).append(line)
    return tables


def test_the_appendix_has_a_table_for_each_model_and_no_other():
    assert set(appendix_tables()) == set(GRAPH.models)


@pytest.mark.parametrize("model", PUBLISHED + BRONZE)
def test_the_appendix_says_of_each_column_what_its_description_says(model: str):
    want = [table_row(name, column) for name, column in described(model)["columns"].items()]
    got = appendix_tables()[model]
    assert [line for line in want if line not in got] == [], "write these rows into the appendix"
    assert [line for line in got if line not in want] == [], "these rows describe nothing"
    assert got == want, "in the order of the columns"


# -- pages ----------------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that a Markdown viewer gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^    [^\n]*$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def broken_links(page: Path) -> Iterable[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            yield f"{target}: there is no such file"
        elif anchor and there.suffix == ".md":
            anchors = {slug(line.lstrip("#")) for line in there.read_text().splitlines() if line.startswith("#")}
            if anchor not in anchors:
                yield f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_resolve(page: Path):
    assert list(broken_links(page)) == []


def test_a_link_to_nothing_would_be_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n[a](page.md#one) [b](#one) [c](gone.md) [d](page.md#two) `[e](gone.md)` [f](https://x.org)\n"
    )
    assert list(broken_links(page)) == ["gone.md: there is no such file", "page.md#two: there is no such heading"]


def test_each_page_can_be_reached_from_the_index():
    index = ROOT / "docs" / "INDEX.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    assert [str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md") if p != index and p not in linked] == []


FOREIGN = re.compile(
    r"(?<![\w.])/(?:work|home|root|Users|mnt|tmp)/|[A-Za-z]:\\\\|file://"
    r"|pypi\.org|pythonhosted\.org|artifactory|nexus|(?:registry|mirror|proxy)\.[\w-]+\.\w+"
    r"|localhost:\d+|\b(?:10|127|192\.168)(?:\.\d{1,3}){2,3}\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_machine_and_no_registry(page: Path):
    assert FOREIGN.findall(page.read_text()) == []


@pytest.mark.parametrize(
    "text", ["/home/someone/x", "see https://pypi.org/x", "cd /work/main", "127.0.0.1", "mirror.acme.com"]
)
def test_a_machine_or_a_registry_would_be_seen(text: str):
    assert FOREIGN.search(text)


def test_decisions_are_numbered_without_a_hole_and_say_what_was_decided_and_why():
    found = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in found] == [f"{n:04d}" for n in range(1, len(found) + 1)]
    for path in found:
        headings = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert headings[0].startswith(f"# {path.name[:4]} "), path.name
        assert headings[1:3] == ["## Decision", "## Why"], path.name


COMMAND = re.compile(r"(?:^|[`|] ?|bin/| {4})daedalus +(?P<name>[a-z]+)(?P<rest>(?:[^`|\n]|\n {8,})*)", re.MULTILINE)


def commands_said(text: str) -> Iterable[tuple[str, str]]:
    """(command, option or '') for each `daedalus ...` in code."""
    for found in COMMAND.finditer(text):
        yield found["name"], ""
        for option in re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", re.sub(r"\"[^\"]*\"|#.*", "", found["rest"])):
            yield found["name"], option


def test_commands_are_found_in_text():
    text = (
        '`daedalus run --data D` and\n    daedalus query -o f "from --x"\n        --format csv # --no\nthe daedalus way'
    )
    assert list(commands_said(text)) == [
        ("run", ""),
        ("run", "--data"),
        ("query", ""),
        ("query", "-o"),
        ("query", "--format"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_that_a_page_shows_exist(page: Path):
    commands = {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        for name, command in cli.main.commands.items()
    }
    said = [(name, option) for name, option in commands_said(page.read_text()) if page.name != "CHANGELOG.md" or option]
    assert [(name, option) for name, option in said if name not in commands] == []
    assert [(name, option) for name, option in said if option and option not in commands[name]] == []


def test_every_command_and_option_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for name, command in cli.main.commands.items():
        assert f"`daedalus {name}" in page, name
        missing = [o for p in command.params for o in p.opts if o.startswith("--") and o != "--help" and o not in page]
        assert missing == [], name


def test_every_variable_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "profiles.md").read_text()
    names = [*profiles.VARIABLES, *profiles.SETTINGS, *profiles.PARQUET]
    assert [name for name in names if f"`{name}`" not in page] == []
