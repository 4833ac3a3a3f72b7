"""How well this machine can confine a program: found by trying, not by guessing."""

import contextlib
import functools
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from redraft.errors import UserError
from redraft.sandbox.pool import ALL_LAYERS, Pool, Wanted
from redraft.sandbox.result import Limits

_ATTEMPTS = """
import os, socket
def blocked(attempt):
    try:
        attempt()
    except OSError:
        return 1
    return 0
def connect():
    with socket.socket() as s:
        s.settimeout(2)
        s.connect(("127.0.0.1", {port}))
def send():
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", {port}))
def ask_services():
    socket.socket(socket.AF_UNIX).close()
def write():
    with open({outside!r}, "w") as f:
        f.write("x")
def fork():
    if os.fork() == 0:
        os._exit(0)
def read():
    open({secret!r}).read()
def look():
    os.listdir("/etc")
blocked(write)
print(
    blocked(connect) and blocked(send),
    blocked(ask_services),
    blocked(read) and blocked(look),
    blocked(fork),
)
"""


@dataclass(frozen=True)
class Level:
    """What confines a program on this machine, and what that was seen to keep it from.

    The first five are mechanisms (`landlock`: the ABI, 0 for none; `unprivileged`: programs do not
    run as root); the last five are what a program that tried was refused: to reach a server on this
    machine by TCP and UDP, to have a Unix socket (with which it could reach whoever listens on one,
    such as a container service), to write and to read a file outside its folder, to start a
    process.
    """

    namespaces: bool
    read_only: bool
    landlock: int
    seccomp: bool
    unprivileged: bool
    no_network: bool
    no_services: bool
    no_write_outside: bool
    no_read_outside: bool
    no_processes: bool

    @property
    def strict(self) -> bool:
        """Whether `sandbox: strict` is satisfied: nothing outside is reached or written."""
        return self.no_network and self.no_services and self.no_write_outside

    @property
    def mechanisms(self) -> str:
        """The layers in words, strongest first."""
        names = {
            "namespaces": self.namespaces,
            f"landlock (ABI {self.landlock})": self.landlock,
            "seccomp": self.seccomp,
            "limits": True,
        }
        return ", ".join(name for name, there in names.items() if there)

    @property
    def gaps(self) -> list[str]:
        """What a program is not kept from."""
        said = {
            "reach the network": not self.no_network,
            "connect to services of this machine": not self.no_services,
            "write outside its folder": not self.no_write_outside,
            "read your files": not self.no_read_outside,
            "start processes": not self.no_processes,
        }
        return [gap for gap, there in said.items() if there]


@functools.cache
def level(wanted: Wanted = ALL_LAYERS) -> Level:
    """The level of this machine, or of fewer layers than it offers; tried once per process.

    Raises:
        UserError: no sandbox can be started here.
    """
    with Pool(workers=1, wanted=wanted) as pool:
        layers = pool.layers()
        with (
            tempfile.TemporaryDirectory(prefix="redraft-level-", dir=_visible_place()) as outside,
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket(type=socket.SOCK_DGRAM) as receiver,
        ):
            port = server.getsockname()[1]
            with contextlib.suppress(OSError):  # to send needs no receiver
                receiver.bind(("127.0.0.1", port))
            os.chmod(outside, 0o777)  # what is refused is refused by the sandbox, not by file modes
            secret, written = Path(outside, "secret"), Path(outside, "written")
            secret.write_text("secret")
            written.touch()
            for file in (secret, written):
                file.chmod(0o666)
            program = _ATTEMPTS.format(port=port, outside=str(written), secret=str(secret))
            result = pool.run_all([program], limits=Limits(wall_s=30))[0]
            untouched = written.read_text() == ""
    if not result.finished:
        raise UserError(f"the sandbox does not work on this machine: {result.error}")
    network, services, read, processes = (answer == "1" for answer in result.stdout.split())
    return Level(
        **layers,
        no_network=network,
        no_services=services,
        no_write_outside=untouched,
        no_read_outside=read,
        no_processes=processes,
    )


def _visible_place() -> str | None:
    """A folder of this machine that a working directory in memory is least likely to hide."""
    return next((place for place in ("/var/tmp", "/dev/shm") if os.access(place, os.W_OK)), None)


def require_strict(found: Level | None = None) -> Level:
    """The level of this machine (or the one given), if it is good enough for `strict`.

    Raises:
        UserError: programs could reach the network or services of this machine, or write outside
            their folder.
    """
    found = found or level()
    if not found.strict:
        raise UserError(
            f"sandbox strict: on this machine a program could {' and '.join(found.gaps)} "
            f"(layers: {found.mechanisms}); use a Linux kernel with seccomp and with Landlock "
            "or user namespaces, or do without strict"
        )
    return found
