"""The one error type that reaches a user: what happened, where, and the cure."""

from __future__ import annotations


class DaedalusError(Exception):
    """An error of the user's or of the data's, told without a traceback.

    Args:
        what: what is wrong, one sentence.
        where: the file, lane, option or key that it is about.
        hint: what to do about it.
    """

    def __init__(self, what: str, where: str | None = None, hint: str | None = None):
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


class UsageError(DaedalusError):
    """Wrong usage or configuration: nothing was run (exit code 2)."""


class StoppedError(Exception):
    """The run was asked to end, and ends here: nothing is half made."""
