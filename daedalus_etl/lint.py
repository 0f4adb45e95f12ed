"""sqlfluff over a project's sql/ and macros/: with the project's own rules, or with ours and both projects' macros."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daedalus_etl import profiles
from daedalus_etl.errors import UsageError

PACKAGE = Path(__file__).parent


def lint(project: Path | None, paths: tuple[str, ...] = ()) -> int:
    """Run sqlfluff; its findings go to stdout. Returns 0 for none, 1 for some. Raises UsageError if it cannot run."""
    folder = (project or profiles.shipped()).resolve()
    chosen = list(paths) or [name for name in ("sql", "macros") if (folder / name).is_dir()]
    if not chosen:
        raise UsageError("holds no sql/", str(folder), "Run it in a project's folder, or name one with --project.")
    command = [sys.executable, "-m", "sqlfluff", "lint", "--disable-progress-bar", "--processes", "0", *chosen]
    with tempfile.TemporaryDirectory(prefix="daedalus-lint-") as temp:
        if not _configures(folder):
            config = Path(temp) / "sqlfluff.cfg"
            config.write_text(_ours_for(folder), encoding="utf-8")
            command += ["--config", str(config)]
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode not in (0, 1):
        raise UsageError(f"sqlfluff ended with {done.returncode}", str(folder), "Its message is above.")
    return done.returncode


def _configures(folder: Path) -> bool:
    """Does a project bring rules of its own?"""
    toml = folder / "pyproject.toml"
    return (folder / ".sqlfluff").is_file() or (toml.is_file() and "sqlfluff" in _tool(toml))


def _tool(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})  # type: ignore[no-any-return]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", str(path)) from None


def _ours_for(folder: Path) -> str:
    """Our rules as an ini file for another project: its macros and ours, by absolute paths."""
    shipped = profiles.shipped()
    rules = _tool(shipped / "pyproject.toml").get("sqlfluff")
    if not rules:
        raise UsageError("there are no rules for sqlfluff", str(folder), "Write a .sqlfluff there.")
    jinja = rules["templater"]["jinja"]
    macros = [path / "macros" for path in (shipped, folder) if (path / "macros").is_dir()]
    jinja["load_macros_from_path"] = ",".join(map(str, macros))
    jinja["library_path"] = str(PACKAGE / "lint_context")
    return "\n".join(_ini(rules, "sqlfluff"))


def _ini(values: Mapping[str, Any], section: str) -> Iterator[str]:
    yield f"[{section}]"
    plain = {**values, **values.get("core", {})} if section == "sqlfluff" else values
    for key, value in plain.items():
        if not isinstance(value, dict):
            yield f"{key} = {value}"
    for key, value in values.items():
        if isinstance(value, dict) and key != "core":
            # a rule's own name holds a dot: [sqlfluff:rules:capitalisation.keywords]
            deeper = {k: v for k, v in value.items() if isinstance(v, dict)}
            if section == "sqlfluff:rules" and deeper:
                for rule, settings in deeper.items():
                    yield from _ini(settings, f"{section}:{key}.{rule}")
            else:
                yield from _ini(value, f"{section}:{key}")
