"""A tiny disk of its own, where the system lets us mount one (root); tests have another way beside it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


class TinyDisk:
    """A tmpfs on a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def resize(self, size: int) -> None:
        assert _mount("-o", f"remount,rw,size={size}", str(self.folder))

    def read_only(self) -> None:
        assert _mount("-o", "remount,ro", str(self.folder))


@contextmanager
def tiny_disk(folder: Path, size: int) -> Iterator[TinyDisk]:
    """So many bytes, rounded up to pages, and what was in the folder before is hidden by it."""
    assert _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield TinyDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@cache
def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        if not _mount("-t", "tmpfs", "-o", "size=4096", "tmpfs", folder):
            return False
        subprocess.run(["umount", "--lazy", folder], check=True)
        return True
