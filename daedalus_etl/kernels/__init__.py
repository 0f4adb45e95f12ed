"""Kernels by name, and where numba keeps what it has compiled.

numba's cache does not see an edit in another file than the function's own, so the cache folder is keyed by a digest of
this folder's sources.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from daedalus_etl.errors import DaedalusError

HERE = Path(__file__).parent


def digest(*folders: Path) -> str:
    """Of all kernel sources: part of what a published file was made by."""
    h = hashlib.sha256()
    for folder in (HERE, *folders):
        for path in sorted(folder.glob("*.py")):
            h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return h.hexdigest()[:16]


def _use_cache() -> None:
    if "NUMBA_CACHE_DIR" not in os.environ:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ["NUMBA_CACHE_DIR"] = str(root / "daedalus-etl" / "numba" / digest())


_use_cache()


def is_warm(names: tuple[str, ...]) -> bool:
    """Was `mark_warm` called for these kernels, as they are now?"""
    return _stamp(names).is_file()


def mark_warm(names: tuple[str, ...]) -> None:
    """Note that these kernels are compiled, and on disk."""
    _stamp(names).parent.mkdir(parents=True, exist_ok=True)
    _stamp(names).touch()


def _stamp(names: tuple[str, ...]) -> Path:
    return Path(os.environ["NUMBA_CACHE_DIR"]) / f"warm-{digest()}-{'-'.join(sorted(names))}"


def load(name: str, folders: tuple[Path, ...] = ()) -> type:
    """The kernel class called `name`: `<name>.py` in one of `folders`, else ours.

    Raises DaedalusError if there is none.
    """
    for folder in folders:
        path = folder / f"{name}.py"
        if path.is_file():
            return _load_file(name, path)
    if (HERE / f"{name}.py").is_file():
        kernel: type = importlib.import_module(f"daedalus_etl.kernels.{name}").KERNEL
        return kernel
    ours = sorted(p.stem for folder in (HERE, *folders) for p in folder.glob("*.py") if "KERNEL = " in p.read_text())
    raise DaedalusError(f"no kernel is called {name}", hint=f"There are: {', '.join(ours)}.")


def _load_file(name: str, path: Path) -> type:
    """The class KERNEL of a user's file. Raises DaedalusError with the error of the file's own, if it has one."""
    spec = importlib.util.spec_from_file_location(f"daedalus_project_kernels.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba looks here for what it takes from its cache
    try:
        spec.loader.exec_module(module)
        kernel: type = module.KERNEL
        return kernel
    except Exception as error:
        raise DaedalusError(
            f"cannot be loaded: {type(error).__name__}: {error}", str(path), "Its last line is KERNEL = <your class>."
        ) from error
