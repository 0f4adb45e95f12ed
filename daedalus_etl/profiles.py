"""duckdb_profiles.yaml -> one frozen Profile: engine settings, data root, and every variable of the models."""

from __future__ import annotations

import difflib
import fnmatch
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from daedalus_etl.errors import UsageError

FILE = "duckdb_profiles.yaml"
ENVIRONMENT = "DAEDALUS_PROFILE"


def shipped() -> Path:
    """The folder that holds our own sql/, macros/ and duckdb_profiles.yaml: in the wheel, or in the checkout."""
    package = Path(__file__).parent
    inside = package / "_project"
    return inside if inside.is_dir() else package.parent


def find_project(start: Path) -> Path | None:
    """The nearest folder from `start` upwards with a duckdb_profiles.yaml."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    return None


# -- variables: what each may be ------------------------------------------------------------------------------


def _number(low: float, high: float = float("inf"), whole: bool = False) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError("is not a number")
        if whole and value != int(value):
            raise ValueError("is not a whole number")
        if not low <= value <= high or value != value or value == float("inf"):
            raise ValueError(f"is not between {low:g} and {high:g}")
        return int(value) if whole else (int(value) if value == int(value) else float(value))

    return check


def _several(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def check_all(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            value = [value]
        items = sorted({check(item) for item in value})
        if not items:
            raise ValueError("is empty")
        return tuple(items)

    return check_all


def _one_of(*choices: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not true or false")
    return value


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise ValueError("is not a list of words")
    return tuple(v.strip().upper() for v in value)


def _bands(value: Any) -> tuple[tuple[Any, Any], ...]:
    edge = _number(0, 1e6)
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(b, (list, tuple)) for b in value):
        raise ValueError("is not a list of [lo, hi]")
    bands = []
    for band in value:
        if len(band) != 2 or not edge(band[0]) < edge(band[1]):
            raise ValueError("has a band that is not [lo, hi] with lo < hi")
        bands.append((edge(band[0]), edge(band[1])))
    if any(0 < x < 0.0001 for band in bands for x in band):  # a column is named after it, in plain decimals
        raise ValueError("has an edge between 0 and 0.0001 bps")
    if len(set(bands)) < len(bands):
        raise ValueError("has a band twice")
    return tuple(bands)


SECONDS = _number(1, 86400 * 366, whole=True)
VARIABLES: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "clock": _one_of("capture", "event"),
        "max_staleness": _number(0.001, 1e9),
        "trade_dedupe_window": _number(0, 86400),
        "rolling_windows": _several(_number(1, 86400, whole=True)),
        "levels": _number(1, 1000, whole=True),
        "ofi_levels": _number(1, 64, whole=True),
        "ofi_decay_alpha": _number(0, 100),
        "bands_bps": _bands,
        "spread_regime_window": _number(0.001, 86400),
        "kyle_lambda_window": _number(0.001, 86400),
        "vpin_bucket_volume": _number(1e-9, 4e9),
        "vpin_window_buckets": _number(1, 1e6, whole=True),
        "resample_frequency": _number(0, 3600, whole=True),
        "resample_max_staleness": _number(0, 1e9),
        "fill_gaps": _flag,
        "bar_durations": _several(SECONDS),
        "channel_patience": _number(0, 1e9),
        "partial_bars": _flag,
        "contract_size": _number(1e-18, 1e18),
        "contract_kind": _one_of("linear", "inverse"),
        "normalize_quotes": _flag,
        "usd_quotes": _words,
        "legacy_aliases": _flag,
    }
)
PARQUET = {
    "compression": _one_of("zstd", "snappy", "gzip", "lz4_raw", "brotli", "uncompressed"),
    "compression_level": _number(1, 22, whole=True),
    "row_group_size": _number(2048, 10_000_000, whole=True),
    "dictionary_size_limit": _number(1, 10_000_000, whole=True),
    "version": _one_of("v1", "v2"),
}
# what a lane cannot have for itself: it decides on names or on what belongs together
GLOBAL_ONLY = ("clock", "normalize_quotes", "usd_quotes", "bar_durations", "rolling_windows", "levels", "bands_bps",
               "legacy_aliases", "resample_frequency")  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How and where to run. Memory in bytes; `variables` holds what holds for all lanes."""

    name: str = "laptop"
    threads: int = 2
    workers: int = 1
    memory_limit: int = 4_000_000_000
    temp_directory: Path | None = None
    data: Path = Path("data")
    source: str = "ccxt"
    parquet: Mapping[str, Any] = field(default_factory=dict)
    batch_rows: int = 4096
    variables: Mapping[str, Any] = field(default_factory=dict)
    instruments: tuple[Mapping[str, Any], ...] = ()
    projects: tuple[Path, ...] = ()  # folders with sql/, macros/, kernels/: ours first

    def for_lane(self, exchange: str, symbol: str) -> dict[str, Any]:
        """The variables of one lane: of several matching instruments the later wins."""
        merged = dict(self.variables)
        for entry in self.instruments:
            if fnmatch.fnmatchcase(exchange, entry["exchange"]) and fnmatch.fnmatchcase(symbol, entry["symbol"]):
                merged.update({k: v for k, v in entry.items() if k not in ("exchange", "symbol")})
        return merged

    def with_data(self, data: str | None, source: str | None) -> Profile:
        return replace(self, data=Path(data) if data else self.data, source=source or self.source)


def nearest(name: str, known: Iterable[str]) -> str:
    """'Did you mean ...' for an unknown key."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, 0.4)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."


def parse_size(value: Any, where: str) -> int:
    """'1GB', '512MB', '150MiB' or a number of bytes -> bytes."""
    units = {
        "": 1,
        "b": 1,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
        "kib": 2**10,
        "mib": 2**20,
        "gib": 2**30,
    }
    text = str(value).strip().lower().replace(" ", "")
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        size = int(float(digits) * units[text[len(digits) :]])
    except (KeyError, ValueError):
        raise UsageError(f"{value!r} is no size", where, "Write it like 1GB or 512MB.") from None
    if size < 32_000_000:
        raise UsageError(f"{value!r} is too little memory", where, "DuckDB needs at least 128MB for real data.")
    return size


def check_variable(name: str, value: Any, where: str) -> Any:
    """A variable's value in its one form. Raises UsageError with the nearest known name or what it may be."""
    if name not in VARIABLES:
        raise UsageError(f"no variable is called {name}", where, nearest(name, VARIABLES))
    try:
        return VARIABLES[name](value)
    except ValueError as error:
        raise UsageError(f"{name} = {value!r} {error}", where) from None


SETTINGS = (
    "threads",
    "workers",
    "memory_limit",
    "temp_directory",
    "data",
    "source",
    "parquet",
    "batch_rows",
    "variables",
)


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot be read: {error}", str(path)) from None
    if not isinstance(loaded, dict):
        raise UsageError("is not a mapping", str(path), "Begin with `profiles:`; see the one that is shipped.")
    for key in loaded:
        if key not in ("default", "profiles", "variables", "instruments"):
            raise UsageError(
                f"unknown key {key}", str(path), nearest(str(key), ("default", "profiles", "variables", "instruments"))
            )
    return loaded


def _instruments(entries: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    out = []
    for entry in entries or []:
        if not isinstance(entry, dict):
            raise UsageError("an instrument is not a mapping", where)
        clean: dict[str, Any] = {"exchange": str(entry.get("exchange", "*")), "symbol": str(entry.get("symbol", "*"))}
        for key, value in entry.items():
            if key in clean:
                continue
            if key in GLOBAL_ONLY:
                raise UsageError(f"{key} cannot be set for some lanes only", f"{where}: instruments")
            clean[key] = check_variable(key, value, f"{where}: instruments")
        out.append(clean)
    return tuple(out)


def load(
    name: str | None = None,
    project: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Profile:
    """The profile called `name` (else DAEDALUS_PROFILE, else the file's default).

    Ours is read first, then the project's own, key by key. `overrides` are variables, as --var gives them. Raises
    UsageError for anything unknown or out of range.
    """
    ours = shipped()
    folders = [ours]
    if project is not None and project.resolve() != ours.resolve():
        folders.append(project.resolve())
    files = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    contents = [(path, _read(path)) for path in files]
    default = next((c["default"] for _, c in reversed(contents) if c.get("default")), "laptop")
    wanted = name or os.environ.get(ENVIRONMENT) or default
    settings: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    instruments: tuple[Mapping[str, Any], ...] = ()
    known: set[str] = set()
    for path, content in contents:
        profiles = content.get("profiles") or {}
        known |= set(profiles)
        for key, value in (content.get("variables") or {}).items():
            variables[key] = check_variable(key, value, f"{path}: variables")
        own = profiles.get(wanted) or {}
        where = f"{path}: profiles: {wanted}"
        for key, value in own.items():
            if key not in SETTINGS:
                raise UsageError(f"unknown key {key}", where, nearest(str(key), SETTINGS))
            if key == "variables":
                for k, v in (value or {}).items():
                    variables[k] = check_variable(k, v, where)
            elif key == "parquet":
                for k, v in (value or {}).items():
                    if k not in PARQUET:
                        raise UsageError(f"unknown Parquet option {k}", where, nearest(str(k), PARQUET))
                    try:
                        settings.setdefault("parquet", {})[k] = PARQUET[k](v)
                    except ValueError as error:
                        raise UsageError(f"parquet: {k} = {v!r} {error}", where) from None
            elif key == "memory_limit":
                settings[key] = parse_size(value, where)
            elif key in ("temp_directory", "data"):
                settings[key] = Path(str(value)) if Path(str(value)).is_absolute() else path.parent / str(value)
            elif key == "source":
                settings[key] = str(value)
            else:
                try:
                    settings[key] = _number(1, 1_000_000, whole=True)(value)
                except ValueError as error:
                    raise UsageError(f"{key} = {value!r} {error}", where) from None
        instruments += _instruments(content.get("instruments"), str(path))
    if wanted not in known:
        raise UsageError(f"no profile is called {wanted}", str(files[-1]), nearest(str(wanted), known))
    for key, value in (overrides or {}).items():
        variables[key] = check_variable(key, value, f"--var {key}")
    if variables["fill_gaps"] and not variables["resample_frequency"]:
        print("warning: fill_gaps has no effect without resample_frequency", file=sys.stderr)
    return Profile(name=wanted, variables=variables, instruments=instruments, projects=tuple(folders), **settings)


def parse_override(text: str) -> tuple[str, Any]:
    """'name=value' -> (name, value); the value is read as YAML, '60,300' as a list."""
    name, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"{text!r} is not name=value", "--var", "For example --var max_staleness=60.")
    if "," in value and not value.lstrip().startswith("["):
        value = f"[{value}]"
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"the value of {name} cannot be read", "--var") from None
