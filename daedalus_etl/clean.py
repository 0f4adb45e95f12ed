"""What can be made again, removed: compiled SQL, leftovers of killed runs and, if asked, all that was published."""

from __future__ import annotations

import shutil
from pathlib import Path

from daedalus_etl.compile import MARK
from daedalus_etl.errors import DaedalusError
from daedalus_etl.runner import exclusive


def compiled(target: Path) -> list[Path]:
    """Remove a folder of compiled SQL; one that holds no mark of ours (another tool's target/) is left alone."""
    if target.is_symlink() or not (target / MARK).is_file():
        return []
    return _removed(target)


def leftovers(data: Path) -> list[Path]:
    """Remove what killed runs left in staging. Raises DaedalusError while a run is at work."""
    if not (data / "state").is_dir():
        return []
    with exclusive(data):
        return _removed(data / "state" / "staging")


def published(data: Path) -> list[Path]:
    """Remove processed/ and state/ of a data root, never raw/. Raises DaedalusError while a run is at work."""
    gone: list[Path] = []
    if (data / "state").is_dir():
        with exclusive(data):
            gone = _removed(data / "processed")
            for path in sorted((data / "state").iterdir()):
                if path.name != "lock":
                    _removed(path)
            (data / "state" / "lock").unlink()
            (data / "state").rmdir()
        gone.append(data / "state")
    elif (data / "processed").is_dir():
        gone = _removed(data / "processed")
    return gone


def _removed(path: Path) -> list[Path]:
    if path.is_symlink():
        raise DaedalusError("is a link", str(path), "Remove what it points to, and the link, yourself.")
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    else:
        return []
    return [path]
