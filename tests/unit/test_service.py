"""The example unit: systemd can read it, it fits what the project needs and says, and the how-to explains it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from daedalus_etl import cli, profiles

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "docs" / "how-to" / "daedalus-watch.service"
PAGE = (ROOT / "docs" / "how-to" / "run-as-a-service.md").read_text()


def read(text: str) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values, as systemd.syntax has them: comments are lines of their own, keys may come again."""
    found: dict[str, dict[str, list[str]]] = {}
    section = None
    for line in text.splitlines():
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1], {})
            continue
        key, sign, value = line.partition("=")
        assert section is not None, line
        assert sign, line
        assert key.isalnum(), line
        section.setdefault(key, []).append(value)
    return found


FOUND = read(UNIT.read_text())
SERVICE = FOUND["Service"]


def one(key: str) -> str:
    (value,) = SERVICE[key]
    return value


def seconds(text: str) -> int:
    units = {"s": 1, "min": 60, "h": 3600}
    number = text.rstrip("smihn")
    return int(number) * units[text[len(number) :] or "s"]


def size(text: str) -> int:
    return int(text[:-1]) * {"M": 1 << 20, "G": 1 << 30}[text[-1]]


def test_it_has_the_three_sections_and_no_comment_behind_a_value() -> None:
    assert set(FOUND) == {"Unit", "Service", "Install"}
    assert [v for section in FOUND.values() for values in section.values() for v in values if " #" in v] == []


def test_it_says_when_it_is_ready_alive_and_what_it_is_at() -> None:
    assert (one("Type"), one("NotifyAccess")) == ("notify", "main")
    assert seconds(one("WatchdogSec")) >= 60


def test_it_ends_as_the_watcher_does() -> None:
    assert seconds(one("TimeoutStopSec")) == 15  # the watcher needs 10 at most
    assert one("KillMode") == "mixed"
    assert one("ExecReload").endswith("kill -HUP $MAINPID")


def test_it_is_started_again_but_not_without_end_nor_for_wrong_usage() -> None:
    assert (one("Restart"), one("RestartPreventExitStatus")) == ("on-failure", "2")
    (span,), (burst,) = FOUND["Unit"]["StartLimitIntervalSec"], FOUND["Unit"]["StartLimitBurst"]
    assert seconds(one("RestartSec")) * int(burst) < seconds(span)  # else the limit would never be reached


def test_its_memory_is_that_of_the_pi4_profile() -> None:
    limit = profiles.load("pi4").memory_limit
    assert "DAEDALUS_PROFILE=pi4" in SERVICE["Environment"]
    assert limit < size(one("MemoryHigh")) < size(one("MemoryMax")) == 1 << 30


def test_it_may_write_the_data_root_as_one_mount_but_not_bronze() -> None:
    data = one("ExecStart").split("--data ")[1].split()[0]
    assert one("ProtectSystem") == "strict"
    assert one("ReadWritePaths") == data
    assert one("ReadOnlyPaths") == f"-{data}/raw"
    assert FOUND["Unit"]["RequiresMountsFor"] == [data]


def test_kernels_can_be_compiled_and_kept() -> None:
    assert "MemoryDenyWriteExecute" not in SERVICE
    assert f"XDG_CACHE_HOME=%C/{one('CacheDirectory')}" in SERVICE["Environment"]
    assert not any("NUMBA_CACHE_DIR" in value for value in SERVICE["Environment"])


def test_nothing_of_it_is_in_a_home_folder_which_it_does_not_see() -> None:
    assert one("ProtectHome") == "true"
    program = PurePosixPath(one("ExecStart").split()[0])
    assert program.parts[1] not in ("home", "root", "run", "tmp")


@pytest.mark.parametrize(
    "key",
    [
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelTunables",
        "ProtectControlGroups",
        "LockPersonality",
    ],
)
def test_it_is_hardened(key: str) -> None:
    assert one(key) == "true"


def test_its_sockets_are_systemds_and_this_machines() -> None:
    assert set(one("RestrictAddressFamilies").split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    assert (one("IPAddressDeny"), one("IPAddressAllow")) == ("any", "localhost")


def test_system_calls_are_those_of_services_with_a_lower_priority_among_them() -> None:
    assert SERVICE["SystemCallFilter"] == ["@system-service", "~@privileged"]  # @resources: nice and ionice


def test_systemd_itself_finds_no_fault_with_it(tmp_path: Path) -> None:
    """Where systemd is: what it would say of the unit if the program and the user were there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    text = UNIT.read_text()
    for line, other in (
        (f"ExecStart={one('ExecStart')}", f"ExecStart=/bin/true {one('ExecStart').partition(' ')[2]}"),
        ("User=daedalus\nGroup=daedalus\n", ""),
        (f"Documentation={FOUND['Unit']['Documentation'][0]}\n", ""),
    ):
        assert line in text
        text = text.replace(line, other)
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_it_starts_the_watcher_with_options_that_this_has() -> None:
    program, name, *arguments = shlex.split(one("ExecStart"))
    assert (PurePosixPath(program).name, name) == ("daedalus", "watch")
    context = cli.main.commands[name].make_context(name, arguments)  # raises for what is no option of it
    assert context.params["log_format"] == "json"
    assert context.params["metrics_port"] == 9108
    assert context.params["poll_interval"] == 30
    assert str(context.params["data"]) == one("ReadWritePaths")


# -- the how-to -----------------------------------------------------------------------------------------------


def test_the_how_to_explains_what_was_left_out_and_what_would_be_missed() -> None:
    for word in ("MemoryDenyWriteExecute", "NUMBA_CACHE_DIR", "ReadWritePaths", "KillMode=mixed", "OOMPolicy=continue"):
        assert word in PAGE, word


def test_the_how_to_names_each_metric_that_is_served() -> None:
    from daedalus_etl.metrics import Metrics

    served = Metrics(0)
    assert served._exporter is not None
    names = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in served._exporter.registry.collect()
    }
    served.close()
    assert len(names) >= 12
    assert [name for name in names if f"`{name}`" not in PAGE] == []
