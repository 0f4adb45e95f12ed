"""Files that survive: written beside, synced, renamed, the folder synced (RELIABILITY).

Everything of ours below <data>/processed and <data>/state is written and removed here, and nowhere else; DuckDB writes
into staging only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

BLOCK = 1 << 20
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
TREES = ("processed", "state")  # of a data root
_synced: set[Path] = set()  # folders whose entries this process has synced lately, at most SYNCED
SYNCED = 1000
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


def place_instead(staged: Mapping[str, Path], folder: Path, gone: Collection[str] = ()) -> None:
    """Sync finished files, move them onto their names in a folder, and take the files `gone` out of it, in one step:
    who lists the folder sees all of the one or all of the other.

    Where the filesystem cannot exchange folders, the new files come first, so that for a moment rows are there twice.
    """
    here = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    leaving = here.intersection(gone) - staged.keys()
    if not leaving:
        for name, path in staged.items():
            place(path, folder / name)
        return
    for path in staged.values():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    beside = min(staged.values()).with_suffix(".folder")
    shutil.rmtree(beside, ignore_errors=True)  # of a try that failed
    beside.mkdir()
    for name in here - leaving - staged.keys():
        os.link(folder / name, beside / name)
    for name, path in staged.items():
        os.replace(path, beside / name)
    sync_folder(beside)
    if exchange(beside, folder):
        sync_folder(folder.parent)
    else:
        for name in staged:
            os.replace(beside / name, folder / name)
        for name in leaving:
            remove(folder / name)
        sync_folder(folder)
    shutil.rmtree(beside)


def exchange(one: Path, other: Path) -> bool:
    """Let two names of one filesystem change places in one step (renameat2); False where that is not possible.

    Raises OSError for everything else.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def can_exchange(staging: Path) -> bool:
    """Can folders of this filesystem change places in one step?"""
    one, other = staging / f"{os.getpid()}-one", staging / f"{os.getpid()}-other"
    for path in (one, other):
        path.mkdir(parents=True, exist_ok=True)
    try:
        return exchange(one, other)
    finally:
        one.rmdir()
        other.rmdir()


def holds(path: Path, content: bytes) -> bool:
    """Is that what a file holds? What was written once may have changed: cards wear out."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def append_synced(path: Path, line: bytes) -> None:
    """Add a line to a file that `write_synced` made."""
    with open(path, "ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


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
    if len(_synced) >= SYNCED:
        _synced.clear()
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
