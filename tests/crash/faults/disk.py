"""The disks that may be there after a power loss, from a journal with contents.

What POSIX promises, and no more: a file's bytes are on the disk once it was synced, a name (made, moved or removed)
once the folder that holds it was. Of all else each thing may be there or not, in any order; a rename is one thing.
Bytes that nobody synced may also be there in part. A file that DuckDB made shows up where we first touch it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.faults.journal import Entry, content

POLICIES = ("nothing unsynced", "names without bytes", "half of the bytes", "any of it")


@dataclass
class File:
    """Bytes on the disk, and as a process sees them."""

    durable: bytes = b""
    now: bytes = b""


@dataclass
class Folder:
    """Names on the disk, as a process sees them, and what was not synced yet: (number of the change, name, node)."""

    durable: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[int, str, Node | None]] = field(default_factory=list)


Node = File | Folder
Tree = dict[str, Any]  # name -> bytes of a file, or Tree of a folder


class Disk:
    """What is on the disk and what is not, operation by operation."""

    def __init__(self, root: Path, work: Path):
        """Begins with what is below the root now (raw/ apart): all of it on the disk."""
        self.root, self.work = root, work
        self._nodes: dict[int, Node] = {}
        self.top = self._load(root)

    def _load(self, path: Path) -> Folder:
        folder = Folder()
        self._nodes[path.stat().st_ino] = folder
        for child in path.iterdir():
            if path == self.root and child.name == "raw":
                continue
            node: Node = self._load(child) if child.is_dir() else File(child.read_bytes(), child.read_bytes())
            self._nodes[child.stat().st_ino] = node
            folder.now[child.name] = folder.durable[child.name] = node
        return folder

    # -- what happens -----------------------------------------------------------------------------------------

    def take(self, entry: Entry) -> None:
        act = getattr(self, f"_{entry.op}", None)
        if act is not None:
            act(entry)

    def _create(self, entry: Entry) -> None:
        (seen,) = entry.inodes
        name = Path(entry.paths[0]).name
        folder = self._folder(seen["parent"])
        if name not in folder.now:
            self._nodes[seen["inode"]] = File()
            self._change(entry.n, folder, name, self._nodes[seen["inode"]])
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        self._file(entry).now = self._bytes(entry.inodes[-1])

    _truncate = _write

    def _fsync(self, entry: Entry) -> None:
        (seen,) = entry.inodes
        if seen["folder"]:
            folder = self._folder(seen["inode"])
            folder.durable, folder.pending = dict(folder.now), []
        else:
            file = self._file(entry)
            file.durable = file.now = self._bytes(seen)

    def _replace(self, entry: Entry) -> None:
        source, target = entry.inodes
        node = self._at(entry, source["parent"])
        if isinstance(node, File):
            node.now = self._bytes(target)
        self._change(entry.n, self._folder(target["parent"]), Path(entry.paths[1]).name, node)
        self._change(entry.n, self._folder(source["parent"]), Path(entry.paths[0]).name, None)

    _rename = _replace

    def _link(self, entry: Entry) -> None:
        source, target = entry.inodes
        node = self._at(entry, source["parent"])
        self._change(entry.n, self._folder(target["parent"]), Path(entry.paths[1]).name, node)

    def _unlink(self, entry: Entry) -> None:
        self._change(entry.n, self._folder(entry.inodes[0]["parent"]), Path(entry.paths[0]).name, None)

    _rmdir = _unlink

    def _mkdir(self, entry: Entry) -> None:
        (seen,) = entry.inodes
        self._nodes[seen["inode"]] = Folder()
        self._change(entry.n, self._folder(seen["parent"]), Path(entry.paths[0]).name, self._nodes[seen["inode"]])

    @staticmethod
    def _change(n: int, folder: Folder, name: str, node: Node | None) -> None:
        folder.pending.append((n, name, node))
        if node is None:
            folder.now.pop(name, None)
        else:
            folder.now[name] = node

    def _folder(self, inode: int) -> Folder:
        node = self._nodes[inode]
        assert isinstance(node, Folder)
        return node

    def _at(self, entry: Entry, parent: int) -> Node:
        """The node of an operation's first name; one that is not known is DuckDB's: made since, and never synced."""
        folder, name = self._folder(parent), Path(entry.paths[0]).name
        if name not in folder.now:
            self._change(entry.n, folder, name, File())
        return folder.now[name]

    def _file(self, entry: Entry) -> File:
        node = self._at(entry, entry.inodes[0]["parent"])
        assert isinstance(node, File), entry
        return node

    def _bytes(self, seen: dict[str, Any]) -> bytes:
        return content(self.work, seen["bytes"]) if "bytes" in seen else b""

    # -- what is left of it -----------------------------------------------------------------------------------

    def after_power_loss(self, policy: str, seed: int = 0) -> Tree:
        """One of the disks that may be there now."""
        pick = random.Random(f"{policy} {seed}")
        kept: dict[int, bool] = {}

        def keeps(change: int) -> bool:
            if policy == "nothing unsynced":
                return False
            return policy != "any of it" or kept.setdefault(change, pick.random() < 0.5)

        def bytes_of(file: File) -> bytes:
            if file.now == file.durable or policy in ("nothing unsynced", "names without bytes"):
                return file.durable
            half = file.now[: len(file.now) // 2]
            if policy == "half of the bytes":
                return half
            return pick.choice([file.durable, b"", half, b"\0" * len(file.now), file.now])

        def tree(folder: Folder) -> Tree:
            names = dict(folder.durable)
            for change, name, node in folder.pending:
                if not keeps(change):
                    continue
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
            return {n: tree(v) if isinstance(v, Folder) else bytes_of(v) for n, v in sorted(names.items())}

        return tree(self.top)


def write_tree(tree: Tree, folder: Path) -> None:
    """A disk's tree as files and folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in tree.items():
        if isinstance(value, dict):
            write_tree(value, folder / name)
        else:
            (folder / name).write_bytes(value)


def files_of(tree: Tree, below: str = "") -> dict[str, bytes]:
    """path -> bytes of a disk's tree."""
    found: dict[str, bytes] = {}
    for name, value in tree.items():
        path = f"{below}/{name}".lstrip("/")
        found |= files_of(value, path) if isinstance(value, dict) else {path: value}
    return found


def replay(root: Disk, entries: Sequence[Entry], until: int) -> Disk:
    for entry in entries[:until]:
        root.take(entry)
    return root
