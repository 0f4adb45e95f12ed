"""Which part of a data root a path lies in."""

from __future__ import annotations

import os

AREAS = ("processed", "staging", "state")  # and "root": the folder that holds them


class Areas:
    """`of(path)` is "processed", "staging", "state" (all of it but staging), "root" (that folder itself), or None: not
    ours, leave it alone."""

    def __init__(self, root: str):
        self.root = os.path.realpath(root)

    def of(self, path: str) -> str | None:
        if path == self.root:
            return "root"
        if not path.startswith(self.root + "/"):
            return None
        parts = path[len(self.root) + 1 :].split("/")
        if parts[:2] == ["state", "staging"]:
            return "staging"
        return parts[0] if parts[0] in AREAS else None
