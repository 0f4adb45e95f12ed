"""The wheel holds all that `daedalus` needs, and the lock and pyproject.toml say the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from daedalus_etl.simulator import Market, simulate

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project installed from its wheel, which was made of a copy of what is packed."""
    temp = tmp_path_factory.mktemp("wheel")
    copy = temp / "copy"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("daedalus_etl", "sql", "macros"):
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "duckdb_profiles.yaml"):
        shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(temp / "site"), str(copy)]
    subprocess.run(command, check=True, cwd=temp)
    shutil.rmtree(copy)
    return temp / "site"


def installed(site: Path, cwd: Path, *args: str) -> str:
    """The output of `daedalus ARGS` of the installed project, in a folder that has nothing to do with it."""
    path = os.pathsep.join([str(site), *(p for p in sys.path if p and Path(p).resolve() != ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "daedalus_etl", *args],
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_ships_every_model_macro_and_profile(site: Path) -> None:
    shipped = site / "daedalus_etl" / "_project"
    for folder in ("sql", "macros"):
        ours = {str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*") if p.is_file()}
        assert {str(p.relative_to(shipped)) for p in (shipped / folder).rglob("*") if p.is_file()} == ours
    assert (shipped / "duckdb_profiles.yaml").read_bytes() == (ROOT / "duckdb_profiles.yaml").read_bytes()


def test_an_installed_daedalus_runs_from_any_folder(site: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "market", Market(hours=0.05, symbols=1), "ccxt")
    installed(site, tmp_path, "run", "--data", "market", "--select", "silver.trades")
    counted = installed(
        site, tmp_path, "query", "--data", "market", "--format", "csv", "select count(*) > 0 as some from silver.trades"
    )
    assert counted.split() == ["some", "true"]


def test_an_installed_daedalus_lints_its_own_models(site: Path, tmp_path: Path) -> None:
    assert "sql/gold" not in installed(site, tmp_path, "lint", "macros", "sql/gold")


def test_what_pyproject_asks_for_is_locked_in_its_range() -> None:
    locked = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
    )
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    for wanted in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]:
        name, ranges = re.fullmatch(r"([a-z0-9-]+)(.*)", wanted).groups()  # type: ignore[union-attr]
        assert locked[name] in SpecifierSet(ranges), wanted
