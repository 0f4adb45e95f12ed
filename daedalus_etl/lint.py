"""sqlfluff over a project's sql/ and macros/, with the project's own rules or ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from daedalus_etl import profiles
from daedalus_etl.errors import UsageError

CONFIGS = (".sqlfluff", "pyproject.toml")


def config_of(folder: Path) -> Path | None:
    """The file in a folder that configures sqlfluff."""
    for name in CONFIGS:
        path = folder / name
        if path.is_file() and (name == ".sqlfluff" or "[tool.sqlfluff" in path.read_text(encoding="utf-8")):
            return path
    return None


def lint(project: Path | None, paths: tuple[str, ...], *, fix: bool = False) -> int:
    """Run sqlfluff; its findings go to stdout. Returns 0 for none, 1 for some. Raises UsageError if it cannot run."""
    ours = profiles.shipped()
    folder = (project or ours).resolve()
    config = config_of(folder) or config_of(ours)
    if config is None:
        raise UsageError("there is no configuration for sqlfluff", str(folder), "Write a .sqlfluff there; see sqlfluff's documentation.")
    chosen = list(paths) or [name for name in ("sql", "macros") if (folder / name).is_dir()]
    if not chosen:
        raise UsageError("holds no sql/", str(folder), "Run it in a project's folder, or name one with --project.")
    command = [sys.executable, "-m", "sqlfluff", "fix" if fix else "lint", "--disable-progress-bar", *chosen]
    if config.parent != folder:
        command[4:4] = ["--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode not in (0, 1):
        raise UsageError(f"sqlfluff ended with {done.returncode}", str(folder), "Its message is above.")
    return done.returncode
