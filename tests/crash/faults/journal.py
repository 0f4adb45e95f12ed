"""What passed the gate: one JSON line an operation, and the bytes of the files, each content once.

With `contents`, a line says what the disk's model (`disk.py`) needs: which inode was made, synced, named or unnamed in
which folder's inode, and what it held at that moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One operation. `paths` are absolute; `inodes` says what each name led to after it."""

    n: int
    op: str
    area: str
    paths: tuple[str, ...]
    process: int
    inodes: tuple[dict[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        return f"{self.op} {self.area}"


class Journal:
    def __init__(self, folder: str, *, contents: bool):
        self.folder, self.contents = folder, contents
        os.makedirs(os.path.join(folder, "bytes"), exist_ok=True)

    def write(self, n: int, op: str, area: str, paths: tuple[str, ...]) -> None:
        line: dict[str, Any] = {"n": n, "op": op, "area": area, "paths": paths, "process": os.getpid()}
        if self.contents:
            line["inodes"] = [self._look(path) for path in paths]
        text = os.fsencode(json.dumps(line) + "\n")
        handle = os.open(os.path.join(self.folder, "trace"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(handle, text)
        finally:
            os.close(handle)

    def _look(self, path: str) -> dict[str, Any]:
        try:
            status = os.lstat(path)
        except OSError:
            return {"parent": self._inode_of(os.path.dirname(path))}
        seen: dict[str, Any] = {"parent": self._inode_of(os.path.dirname(path)), "inode": status.st_ino}
        seen["folder"] = stat.S_ISDIR(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            seen["bytes"] = self._keep(path)
        return seen

    @staticmethod
    def _inode_of(folder: str) -> int:
        try:
            return os.stat(folder).st_ino
        except OSError:
            return 0

    def _keep(self, path: str) -> str:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b"".join(iter(lambda: os.read(handle, 1 << 20), b""))
        finally:
            os.close(handle)
        name = hashlib.sha256(content).hexdigest()
        kept = os.path.join(self.folder, "bytes", name)
        if not os.path.exists(kept):
            handle = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
            try:
                os.write(handle, content)
            finally:
                os.close(handle)
        return name


def read(work: Path) -> list[Entry]:
    """The operations of a run, in their order."""
    return list(_entries(work))


def content(work: Path, name: str) -> bytes:
    return (work / "bytes" / name).read_bytes()


def _entries(work: Path) -> Iterator[Entry]:
    path = work / "trace"
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        value = json.loads(line)
        yield Entry(**{**value, "paths": tuple(value["paths"]), "inodes": tuple(value.get("inodes", ()))})
