"""Staging, Parquet, record: the one commit point (RELIABILITY).

A file is written where no reader globs, read back, synced and renamed onto a name that the same inputs always make;
then one record says that it is in: inputs, outputs, counts and the lane's state at the end of the partition.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daedalus_etl.errors import DaedalusError

STATES_KEPT = 24  # newest partitions of a lane whose state is kept


@dataclass(frozen=True)
class Record:
    """What is in: one a partition. `key` digests everything that its rows depend on."""

    key: str
    outputs: tuple[str, ...] = ()  # paths below processed/
    written: bool = False  # False: walked only, to have the state
    counts: Mapping[str, int] = field(default_factory=dict)
    inputs: tuple[Mapping[str, Any], ...] = ()
    state: str = ""  # name of the state file beside the record
    max_clock: int | None = None  # us, of any row
    obsolete: tuple[str, ...] = ()  # outputs of the record before, to be removed


class Ledger:
    """The records of one model and lane, in `<data>/state/<model>/exchange=E/symbol=S[/<N>s]`."""

    def __init__(self, data: Path, model: str, exchange: str, symbol: str, part: str = ""):
        self.processed = data / "processed"
        self.folder = data / "state" / model / f"exchange={exchange}" / f"symbol={symbol}" / part
        self.staging = data / "state" / "staging"
        self._records: dict[str, Record] = {}
        if self.folder.is_dir():
            for path in sorted(self.folder.glob("*.json")):
                try:
                    value = json.loads(path.read_text())
                    self._records[path.stem] = Record(**{**value, "outputs": tuple(value["outputs"]),
                                                         "inputs": tuple(value["inputs"]),
                                                         "obsolete": tuple(value["obsolete"])})  # fmt: skip
                except (ValueError, TypeError, KeyError):
                    raise DaedalusError(
                        "is no record of this version", str(path), "Remove it: its partition is then made again."
                    ) from None

    def get(self, partition: str) -> Record | None:
        return self._records.get(partition)

    def partitions(self) -> list[str]:
        return sorted(self._records)

    def is_there(self, record: Record) -> bool:
        """Are the published files of a record still where it says?"""
        return all((self.processed / output).is_file() for output in record.outputs)

    def load_state(self, record: Record) -> dict[str, bytes] | None:
        """The state at the end of a record's partition; None if it was not kept or is not what was written."""
        if not record.state:
            return None
        try:
            blob = (self.folder / record.state).read_bytes()
        except FileNotFoundError:
            return None
        if record.state.split(".")[1] != _digest(blob):
            return None
        return unpack(blob)

    def commit(
        self,
        partition: str,
        record: Record,
        staged: Mapping[Path, str],
        state: Mapping[str, bytes] | None,
    ) -> Record:
        """Publish staged files (path -> path below processed/), then the record with its state; all of it or none."""
        for path, target in staged.items():
            place(path, self.processed / target)
        self.folder.mkdir(parents=True, exist_ok=True)
        values = dict(vars(record))
        if state is not None:
            blob = pack(state)
            name = f"{partition}.{_digest(blob)}.state"
            write_synced(self.folder / name, blob)
            values["state"] = name
        before = self._records.get(partition)
        gone = set(before.outputs if before else ()) - set(record.outputs)
        values["obsolete"] = tuple(sorted(gone))
        done = Record(**values)
        write_synced(
            self.folder / f"{partition}.json", json.dumps(dict(vars(done)), sort_keys=True, default=dict).encode()
        )
        self._records[partition] = done
        for output in gone:
            (self.processed / output).unlink(missing_ok=True)
        if before and before.state and before.state != done.state:
            (self.folder / before.state).unlink(missing_ok=True)
        self._forget_old_states()
        return done

    def remove_obsolete(self) -> None:
        """Finish what a crash between a record and the removal of its predecessor's outputs left."""
        for record in self._records.values():
            for path in set(record.obsolete) - set(record.outputs):
                (self.processed / path).unlink(missing_ok=True)

    def remove(self, partition: str) -> None:
        """Take back a partition whose inputs no longer make any row."""
        record = self._records.pop(partition, None)
        if record is None:
            return
        (self.folder / f"{partition}.json").unlink(missing_ok=True)
        for output in record.outputs:
            (self.processed / output).unlink(missing_ok=True)
        if record.state:
            (self.folder / record.state).unlink(missing_ok=True)

    def _forget_old_states(self) -> None:
        kept = [p for p in self.partitions() if self._records[p].state]
        for partition in kept[:-STATES_KEPT]:
            record = self._records[partition]
            (self.folder / record.state).unlink(missing_ok=True)
            self._records[partition] = Record(**{**vars(record), "state": ""})


def place(staged: Path, target: Path) -> None:
    """Sync a finished file and move it into place; the folder's entry is synced too."""
    with open(staged, "rb") as file:
        os.fsync(file.fileno())
    made = not target.parent.is_dir()
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, target)
    sync_folder(target.parent)
    if made:
        sync_folder(target.parent.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Replace a small file whole: written beside, synced, renamed."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clear_staging(data: Path) -> Path:
    """An empty staging folder on the data's own filesystem."""
    staging = data / "state" / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True, exist_ok=True)
    return staging


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()[:16]


def pack(parts: Mapping[str, bytes]) -> bytes:
    """Named byte strings as one, in the order of their names: a line of JSON, then the bytes."""
    names = sorted(parts)
    head = json.dumps([[name, len(parts[name])] for name in names]).encode()
    return head + b"\n" + b"".join(parts[name] for name in names)


def unpack(blob: bytes) -> dict[str, bytes]:
    head, _, body = blob.partition(b"\n")
    out, at = {}, 0
    for name, size in json.loads(head):
        out[name] = body[at : at + size]
        at += size
    return out


def arrays_to_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Named NumPy arrays as bytes, the same for the same arrays."""
    import numpy as np

    out = io.BytesIO()
    for name in sorted(arrays):
        np.lib.format.write_array(out, np.frombuffer(name.encode(), np.uint8), allow_pickle=False)
        np.lib.format.write_array(out, np.ascontiguousarray(arrays[name]), allow_pickle=False)
    return out.getvalue()


def arrays_from_bytes(blob: bytes) -> dict[str, Any]:
    import numpy as np

    source, out = io.BytesIO(blob), {}
    while source.tell() < len(blob):
        name = np.lib.format.read_array(source, allow_pickle=False).tobytes().decode()
        out[name] = np.lib.format.read_array(source, allow_pickle=False)
    return out
