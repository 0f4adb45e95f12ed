"""os.* and open() lead to the gate. Nothing else of the program is touched."""

from __future__ import annotations

import builtins
import ctypes
import functools
import io
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

from tests.crash.faults import files
from tests.crash.faults.gate import Gate
from tests.crash.faults.plan import Plan

ONE_PATH = ("unlink", "remove", "rmdir", "mkdir", "truncate", "listdir", "scandir")
TWO_PATHS = ("replace", "rename", "link", "symlink")
WRITES = os.O_WRONLY | os.O_RDWR


def install(plan: Plan) -> None:
    """From here on, this process's file operations below the plan's root pass the gate."""
    if plan.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.file_limit, resource.RLIM_INFINITY))
    operation = Gate(plan).operation
    for name in ONE_PATH:
        _put(name, _one_path(name, getattr(os, name), operation))
    for name in TWO_PATHS:
        _put(name, _two_paths(name, getattr(os, name), operation))
    _put("open", _os_open(os.open, operation))
    _put("fsync", _on_handle("fsync", os.fsync, operation))
    _put("fdatasync", _on_handle("fsync", os.fdatasync, operation))
    _put("ftruncate", _on_handle("truncate", os.ftruncate, operation))
    _put("write", _os_write(os.write, operation))
    builtins.open = io.open = _open(io.open, operation)  # type: ignore[assignment]
    if plan.vanish:
        _vanish(plan)
    if plan.no_exchange:
        ctypes.CDLL = _Library  # type: ignore[misc]


class _Library(ctypes.CDLL):
    """Of the C library of a system that knows no renameat2."""

    def __getattr__(self, name: str) -> Any:
        if name == "renameat2":
            raise AttributeError(name)
        return super().__getattr__(name)


def _put(name: str, hook: Callable[..., Any]) -> None:
    """In place of os.<name>, with the abilities that shutil asks for."""
    real = getattr(os, name)
    for abilities in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if real in abilities:
            abilities.add(hook)
    setattr(os, name, hook)


def path_of(path: Any, folder: int | None = None) -> str:
    """The absolute path that an argument of os.* means: text, bytes, a Path, or an open file's number."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    base = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else os.getcwd()
    head, tail = os.path.split(os.path.normpath(os.path.join(base, text)))
    return os.path.join(os.path.realpath(head), tail)


def _one_path(name: str, real: Callable[..., Any], operation: files.Operation) -> Callable[..., Any]:
    @functools.wraps(real)
    def hook(path: Any = ".", *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
        given = more if dir_fd is None else {**more, "dir_fd": dir_fd}
        op = {"remove": "unlink", "scandir": "list", "listdir": "list"}.get(name, name)
        return operation(op, (path_of(path, dir_fd),), lambda: real(path, *args, **given))

    return hook


def _two_paths(name: str, real: Callable[..., Any], operation: files.Operation) -> Callable[..., Any]:
    @functools.wraps(real)
    def hook(source: Any, target: Any, *args: Any, **more: Any) -> Any:
        if name == "symlink":
            paths = (path_of(target, more.get("dir_fd")),)
        else:
            paths = (path_of(source, more.get("src_dir_fd")), path_of(target, more.get("dst_dir_fd")))
        return operation(name, paths, lambda: real(source, target, *args, **more))

    return hook


def _on_handle(name: str, real: Callable[..., Any], operation: files.Operation) -> Callable[..., Any]:
    @functools.wraps(real)
    def hook(handle: Any, *args: Any) -> Any:
        number = handle if isinstance(handle, int) else handle.fileno()
        return operation(name, (path_of(number),), lambda: real(handle, *args))

    return hook


def _os_open(real: Callable[..., int], operation: files.Operation) -> Callable[..., int]:
    @functools.wraps(real)
    def hook(path: Any, flags: int, *args: Any, dir_fd: int | None = None, **more: Any) -> int:
        given = more if dir_fd is None else {**more, "dir_fd": dir_fd}
        op = "create" if flags & WRITES else "open"
        return operation(op, (path_of(path, dir_fd),), lambda: real(path, flags, *args, **given))  # type: ignore[no-any-return]

    return hook


def _os_write(real: Callable[..., int], operation: files.Operation) -> Callable[..., int]:
    @functools.wraps(real)
    def hook(handle: int, data: Any) -> int:
        if handle <= 2:
            return real(handle, data)
        half = memoryview(data)[: len(data) // 2]
        return operation("write", (path_of(handle),), lambda: real(handle, data), lambda: real(handle, half))  # type: ignore[no-any-return]

    return hook


def _open(real: Callable[..., Any], operation: files.Operation) -> Callable[..., Any]:
    @functools.wraps(real)
    def hook(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        try:
            path = path_of(file)
        except (OSError, ValueError, TypeError):
            return real(file, mode, *args, **more)  # and it says what is wrong
        if not set(mode) & set("wax+"):
            return operation("open", (path,), lambda: real(file, mode, *args, **more))
        if operation.__self__.areas.of(path) is None:  # type: ignore[attr-defined]
            return real(file, mode, *args, **more)
        return files.opened(operation, path, file, mode, *args, **more)

    return hook


def _vanish(plan: Plan) -> None:
    """The file goes as soon as its size is known: between the list and the read."""
    real_stat, real_scandir, unlink = os.stat, os.scandir, os.unlink

    def gone(path: str) -> None:
        if path == plan.vanish:
            try:
                unlink(path)
            except FileNotFoundError:
                return

    class Entry:
        def __init__(self, entry: Any):
            self._entry = entry

        def __getattr__(self, name: str) -> Any:
            return getattr(self._entry, name)

        def __fspath__(self) -> str:
            return str(self._entry.path)

        def stat(self, **more: Any) -> os.stat_result:
            found = self._entry.stat(**more)
            gone(self._entry.path)
            return found  # type: ignore[no-any-return]

    class Entries:
        def __init__(self, entries: Any):
            self._entries = entries

        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def close(self) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[Any]:
            return map(Entry, self._entries)

        def __next__(self) -> Any:
            return Entry(next(self._entries))

    def stat(path: Any, **more: Any) -> os.stat_result:
        found = real_stat(path, **more)
        if not isinstance(path, int):
            gone(os.fsdecode(path))
        return found

    def scandir(path: Any = ".") -> Any:
        found = real_scandir(path)
        return Entries(found) if isinstance(path, (str, os.PathLike)) else found

    _put("stat", stat)
    _put("lstat", functools.partial(stat, follow_symlinks=False))
    _put("scandir", scandir)
