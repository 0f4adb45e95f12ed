"""open() for writing, put together as Python itself does it, with each write to the disk an operation of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

Operation = Callable[..., Any]  # Gate.operation


class Disk(io.FileIO):
    """The raw file below the buffer: what arrives here is written, not only said."""

    def __init__(self, operation: Operation, path: str, name: Any, mode: str, closefd: bool, opener: Any):
        self._operation, self._path = operation, path
        super().__init__(name, mode, closefd, opener)

    def write(self, data: Any) -> int:
        whole = super().write
        return self._operation(  # type: ignore[no-any-return]
            "write", (self._path,), lambda: whole(data), lambda: whole(memoryview(data)[: len(data) // 2])
        )

    def truncate(self, size: int | None = None) -> int:
        whole = super().truncate
        return self._operation("truncate", (self._path,), lambda: whole(size))  # type: ignore[no-any-return]


def opened(
    operation: Operation,
    path: str,
    name: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """As open(name, mode, ...), for the modes that write."""
    binary = "b" in mode
    raw = operation(
        "create" if not isinstance(name, int) else "fdopen",
        (path,),
        lambda: Disk(operation, path, name, mode.replace("b", "").replace("t", ""), closefd, opener),
    )
    if buffering == 0:
        return raw
    buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    if binary:
        return buffer
    text = io.TextIOWrapper(buffer, io.text_encoding(encoding), errors, newline, buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text
