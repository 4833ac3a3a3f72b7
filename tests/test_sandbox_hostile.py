"""Hostile programs: each gets its verdict, the host lives, and the machine is clean afterwards."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile_programs import HOSTILE, Hostile
from redraft.sandbox import Pool, level


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
    if not level().strict or level().gaps:
        pytest.fail(f"the verdicts here are those of a full sandbox; gaps: {level().gaps}")
    outside = tmp_path_factory.mktemp("outside")
    for folder in (outside, *outside.parents):
        if folder.owner() == Path("/").owner() and folder.is_relative_to(outside.parents[1]):
            folder.chmod(0o777)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server, Pool(workers=1) as pool:
        pool.run_all(["1"])
        yield Machine(pool, outside, server.getsockname()[1])


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_program(machine: Machine, hostile: Hostile) -> None:
    before, workers = machine.state(), processes()
    program = hostile.program.replace("{{", "{").replace("}}", "}")
    for name, value in (
        ("outside", machine.outside),
        ("port", machine.port),
        ("host", os.getpid()),
    ):
        program = program.replace("{" + name + "}", str(value))
    result = machine.pool.submit(program, limits=hostile.limits).result()
    assert result.status in hostile.verdicts, result
    assert hostile.error in result.error
    if hostile.prints is not None:
        assert result.stdout == hostile.prints, result
    assert len(result.stdout) <= hostile.limits.output_kib * 1024
    assert machine.state() == before
    assert processes() == workers  # the worker itself lives, and nothing else does
    after = machine.pool.submit("print(1)").result()
    assert (after.status, after.stdout) == ("finished", "1\n")


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
