"""Hostile programs: each gets its verdict, the host lives, and the machine is clean afterwards."""

import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile_programs import HOSTILE, Hostile
from redraft.sandbox import Limits, Pool, Result, Wanted, level

SETS_OWNERS = {"signals by F_SETOWN", "signals by F_SETSIG", "signals by F_SETOWN_EX"}

HARMLESS: dict[Wanted, set[str]] = {
    Wanted(namespaces=False): {
        "becomes root",  # root it may be, without a capability
        "another device",  # where Landlock is older than its rule for devices
    },
    Wanted(landlock=False): {
        *("reads home", "reads /etc/passwd", "reads /etc", "finds descriptors in /proc"),
        *("reads a file outside", "reads by a link", "reads by going up"),
    },
    Wanted(seccomp=False): {
        *("fork", "fork bomb", "exec", "limits its parent", "netlink", "Unix socket", "namespace"),
        *SETS_OWNERS,  # of a process that it does not see
        *("signals by FIOSETOWN", "signals by SIOCSPGRP"),
        *("priority of a user", "priority of a group", "disk priority of a user"),
        *("large socket buffer", "sockets in sockets", "buffers of every socket", "large pipe"),
        *("file events", "pages in pipes", "rules"),
    },
}
"""What docs/sandbox.md says may succeed with a layer less."""

FILLS_THE_DISK = {"files in memory", "million files"}
"""Without namespaces only the size of each file is bounded."""


@dataclass(frozen=True)
class Machine:
    """What hostile programs would like to get at."""

    pool: Pool
    outside: Path
    port: int
    services: list[socket.socket]

    def state(self) -> tuple[dict[str, str], list[str], list[str]]:
        """The files outside, what the sandbox leaves behind, and which services were reached."""
        files = {path.name: path.read_text() for path in self.outside.iterdir() if path.is_file()}
        return files, [name for name in os.listdir("/dev/shm") if "redraft" in name], self.reached()

    def reached(self) -> list[str]:
        """The services that something connected or sent to since the last time."""
        found = []
        for service in self.services:
            try:
                service.recv(1) if service.type == socket.SOCK_DGRAM else service.accept()[
                    0
                ].close()
                found.append(str(service.getsockname()))
            except BlockingIOError:
                continue
        return found


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with ExitStack() as stack:
        pool = stack.enter_context(Pool(workers=1))
        own = pool.submit("import os; print(os.getcwd())").result().stdout
        # Not beside the sandbox's folder: that hides its neighbours, and only layers may.
        place = next(path for path in ("/var/tmp", "/tmp") if not own.startswith(f"{path}/"))
        outside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        outside.chmod(0o777)
        (outside / "secret").write_text("secret")
        (outside / "secret").chmod(0o666)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = tcp.getsockname()[1]
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", port))
        named, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        named.bind(str(outside / "service"))
        (outside / "service").chmod(0o777)
        abstract.bind(f"\0redraft-test-{os.getpid()}")
        services = [tcp, udp, named, abstract]
        for service in services:
            service.setblocking(False)
            if service is not udp:
                service.listen()
        yield Machine(pool, outside, port, services)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_program(machine: Machine, hostile: Hostile) -> None:
    assert level().gaps == [], "these verdicts are those of a sandbox without gaps"
    before, workers = machine.state(), processes()
    check(hostile, machine.pool.submit(text(machine, hostile), limits=hostile.limits).result())
    assert machine.state() == before
    assert processes() == workers  # the worker itself lives, and nothing else does
    after = machine.pool.submit("print(1)").result()
    assert (after.status, after.stdout) == ("finished", "1\n")


@pytest.mark.parametrize(
    "wanted",
    [Wanted(namespaces=False), Wanted(landlock=False), Wanted(seccomp=False)],
    ids=["no namespaces", "no Landlock", "no seccomp"],
)
def test_one_layer_less(machine: Machine, wanted: Wanted) -> None:
    """With any two of the three layers a program does what docs/sandbox.md says, and no more."""
    before, folders = machine.state(), set(os.listdir(tempfile.gettempdir()))
    skipped = set() if wanted.namespaces else FILLS_THE_DISK
    with Pool(workers=4, wanted=wanted) as pool:
        runs = {
            hostile: pool.submit(text(machine, hostile), limits=hostile.limits)
            for hostile in HOSTILE
            if hostile.name not in skipped
        }
        for hostile, run in runs.items():
            check(hostile, run.result(), harmless=hostile.name in HARMLESS[wanted])
        after = [pool.submit("print(1)") for _ in range(8)]
        assert [run.result().stdout for run in after] == ["1\n"] * 8
    files, shared, reached = machine.state()
    assert (files, shared) == before[:2]
    assert not (level(wanted).strict and reached)
    left = {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("redraft-")}
    assert left <= folders


def test_a_level_that_is_not_strict_says_why(machine: Machine) -> None:
    """What `level` calls a gap is one: a service of this machine is reached through it."""
    wanted = Wanted(seccomp=False)
    assert not level(wanted).strict
    assert "connect to services of this machine" in level(wanted).gaps
    service = str(machine.outside / "service")
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({service!r})"
    machine.reached()
    with Pool(workers=1, wanted=wanted) as pool:
        run = pool.submit(connect, limits=Limits(wall_s=60.0)).result()
    assert (run.status, len(machine.reached())) == ("finished", 1), run


def check(hostile: Hostile, result: Result, *, harmless: bool = False) -> None:
    """Whether a hostile program got its verdict; what is harmless may also have succeeded."""
    assert result.status in hostile.verdicts or harmless, (hostile.name, result)
    assert result.status != "infrastructure", (hostile.name, result)
    assert hostile.error in result.error
    if hostile.prints is not None and not harmless:
        assert result.stdout == hostile.prints, (hostile.name, result)
    assert len(result.stdout) <= hostile.limits.output_kib * 1024
    for said in (result.stdout, result.value or "", result.error):
        said.encode()


def text(machine: Machine, hostile: Hostile) -> str:
    """The program, with what it is after filled in."""
    program = hostile.program.replace("{{", "{").replace("}}", "}")
    wishes = {
        "outside": machine.outside,
        "port": machine.port,
        "host": os.getpid(),
        "ioprio_set": 251 if platform.machine() == "x86_64" else 30,
    }
    for name, value in wishes.items():
        program = program.replace("{" + name + "}", str(value))
    return program


def processes() -> set[int]:
    """This process's children and theirs, at any depth."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
