"""Files that survive: written beside, synced, renamed, the folder synced (RELIABILITY).

Everything of ours below <data>/processed and <data>/state is written and removed here, and nowhere else; DuckDB writes
into staging only.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from pathlib import Path

BLOCK = 1 << 20
TREES = ("processed", "state")  # of a data root
_synced: set[Path] = set()  # folders whose entries this process has synced
_PARTS = itertools.count()


def write_synced(path: Path, content: bytes, staging: Path) -> None:
    """Replace a small file whole. Its folder is made if it is not there."""
    make_folder(path.parent)
    part = _part(path, staging)
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def write_cache(path: Path, content: bytes, staging: Path) -> None:
    """Replace a small file whole, unsynced: for what can be found out again. Its reader must not trust its content.

    Leaves nothing in staging if it fails: a watcher tries it again at every beat for as long as the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path, staging)
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(part)
        raise


def _part(path: Path, staging: Path) -> Path:
    """Where a file is written first: what a kill leaves there goes when the next run empties it."""
    return staging / f"{os.getpid()}-{next(_PARTS)}-{path.name[-80:]}"


def place(staged: Path, target: Path) -> None:
    """Sync a finished file and move it onto its name."""
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    make_folder(target.parent)
    os.replace(staged, target)
    sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder below processed/ or state/ and those above it, each entry synced into the one that holds it.

    Once a process for folders that were there too: whoever made them may have been killed before the sync.
    """
    if path in _synced and path.is_dir():
        return
    if path.name not in TREES:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
    _synced.add(path)


def remove(path: Path) -> None:
    """Remove a file, or find it gone. Folders that this leaves empty stay: readers may be listing them."""
    path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def empty_folder(path: Path) -> None:
    """The folder, with nothing in it."""
    if path.is_dir():
        shutil.rmtree(path)
    path.mkdir(parents=True)


def digest(content: bytes) -> str:
    """Of bytes, 32 hexadecimal digits. blake2b: a Pi 4 has no instructions for SHA, and takes twice as long for it."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of(path: str | Path) -> str:
    """Of a file's bytes."""
    h = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            h.update(block)
    return h.hexdigest()
