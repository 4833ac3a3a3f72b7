"""Hostile programs: each gets its verdict, the host lives, and the machine is clean afterwards."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile_programs import HOSTILE, SMALL, Hostile
from redraft.sandbox import Pool, Wanted, level

HARMLESS: dict[Wanted, set[str]] = {
    Wanted(namespaces=False): {"becomes root"},  # root it may be, without a capability
    Wanted(landlock=False): {
        *("reads home", "reads /etc/passwd", "reads /etc", "finds descriptors in /proc"),
        # Namespaces alone hide these only where Python does not live beside them.
        *("reads a file outside", "reads by a link", "reads by going up"),
    },
    Wanted(seccomp=False): {"fork", "fork bomb", "exec", "limits its parent", "netlink"},
}
"""What docs/sandbox.md says may succeed with a layer less."""


@dataclass(frozen=True)
class Machine:
    """What hostile programs would like to get at."""

    pool: Pool
    outside: Path
    port: int

    def state(self) -> tuple[dict[str, str], list[str]]:
        """The files outside, by name, and what the sandbox leaves in the temporary folder."""
        files = {path.name: path.read_text() for path in self.outside.iterdir()}
        return files, [name for name in os.listdir("/dev/shm") if "redraft" in name]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    outside = tmp_path_factory.mktemp("outside")
    for folder in (outside, *outside.parents[:2]):  # only the sandbox may be in the way
        folder.chmod(0o777)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server, Pool(workers=1) as pool:
        pool.run_all(["1"])
        yield Machine(pool, outside, server.getsockname()[1])


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_program(machine: Machine, hostile: Hostile) -> None:
    assert level().gaps == [], "these verdicts are those of a sandbox without gaps"
    before, workers = machine.state(), processes()
    result = machine.pool.submit(text(machine, hostile), limits=hostile.limits).result()
    assert result.status in hostile.verdicts, result
    assert hostile.error in result.error
    if hostile.prints is not None:
        assert result.stdout == hostile.prints, result
    assert len(result.stdout) <= hostile.limits.output_kib * 1024
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
    """Any two of the three layers leave the machine and the next program as they were."""
    before = machine.state()
    attempts = [hostile for hostile in HOSTILE if hostile.prints == "refused\n"]
    with Pool(workers=1, wanted=wanted) as pool:
        for hostile in attempts:
            result = pool.submit(text(machine, hostile), limits=SMALL).result()
            if hostile.name not in HARMLESS[wanted]:
                assert result.stdout == "refused\n", (hostile.name, result)
        assert pool.submit("print(1)").result().stdout == "1\n"
    assert level(wanted).strict
    assert machine.state() == before


def text(machine: Machine, hostile: Hostile) -> str:
    """The program, with what it is after filled in."""
    program = hostile.program.replace("{{", "{").replace("}}", "}")
    wishes = {"outside": machine.outside, "port": machine.port, "host": os.getpid()}
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
