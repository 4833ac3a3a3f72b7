"""The processes that share a run, and what they must do together."""

import atexit
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

from redraft.errors import UserError

PATIENCE = timedelta(hours=12)
"""How long a process waits for another one, whose share may take longer."""

_FILE_PATIENCE = 20.0  # seconds; a shared file system may show a file late

_ENDING = 2.0  # seconds until a process whose connections are closed is known to have ended

_members: list[tuple[str, int]] = []
"""Host and process id of every process of the group, by rank."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a run: one, or those that `torchrun` or `accelerate launch` started.

    All of them must call a method that exchanges something.
    """

    rank: int = 0
    """Number of this process."""
    count: int = 1
    """How many there are."""

    @classmethod
    def launched(cls) -> "Processes":
        """Those that the environment tells of, ready to exchange things."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        enter_group()
        return cls(state.process_index, count)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes, on each of them: for small
        things only, since everything is pickled to everybody."""
        if self.count == 1:
            return list(items)
        import torch.distributed

        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def gather_to_main(self, items: Sequence[Any]) -> list[Any]:
        """The items of all processes on the main process, in the order of the processes; none on
        the others."""
        if self.count == 1:
            return list(items)
        import torch.distributed

        parts: list[Any] | None = [None] * self.count if self.main else None
        torch.distributed.gather_object(list(items), parts, dst=0)
        return [item for part in parts or [] for item in part]

    @contextmanager
    def together(self) -> Iterator[None]:
        """All processes leave the block together, once it has succeeded on each of them.

        An error on one process would leave the others waiting in their next exchange. So failures
        are exchanged first: the process that failed raises its own error, and every other one names
        that process and its reason.

        Raises:
            UserError: another process failed.
            Exception: whatever the block raises here.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        reason = None if failure is None else f"process {self.rank}: {_reason(failure)}"
        failures = [reason for reason in self.gather([reason]) if reason is not None]
        if failure is not None:
            raise failure
        if failures:
            raise UserError(failures[0])

    def on_main(self, work: Callable[[], object]) -> None:
        """Do `work` on the main process; the others wait until it is done, and fail with it as in
        `together`."""
        with self.together():
            if self.main:
                work()

    def check_shared(self, file: Path) -> None:
        """Refuse a run's folder that other processes do not see as the main process does.

        Raises:
            UserError: a process has no such file, or another one by its name.
        """
        [wanted] = self.gather([sha256(file.read_bytes()).digest()] if self.main else [])
        with self.together():
            end = time.monotonic() + _FILE_PATIENCE
            while not (file.exists() and sha256(file.read_bytes()).digest() == wanted):
                if time.monotonic() > end:
                    raise UserError(
                        f"{file.parent}: on {socket.gethostname()} this is not the folder that the "
                        "main process writes to; give an --out that is on a file system which all "
                        "hosts share"
                    )
                time.sleep(0.1)

    def check_same(self, what: str, value: str) -> None:
        """Refuse a `value` that is not the same on all processes; `what` says of which setting.

        Raises:
            UserError: it differs.
        """
        everyones = self.gather([(socket.gethostname(), value)])
        for rank, (host, theirs) in enumerate(everyones):
            if theirs != everyones[0][1]:
                raise UserError(
                    f"{what}: process {rank}, on {host}, has another one than process 0, on "
                    f"{everyones[0][0]}; put the same files on every host"
                )


def enter_group() -> None:
    """Get to know the other processes of the group, and leave it in order when this one ends; all
    of them must call this, once there is a group.

    What trains holds the group too. If it is the last to let go, Python waits for one of the
    group's threads, which may wait for Python (PyTorch 2.13, gloo): the process never ends.
    """
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    if not _members:
        import torch.distributed

        count = torch.distributed.get_world_size()
        _members.extend(Processes(torch.distributed.get_rank(), count).gather([_myself()]))


@contextmanager
def naming_the_ended(remedy: str) -> Iterator[None]:
    """Says which process has ended where another one's exchange with it fails.

    Raises:
        UserError: an exchange failed; names the process if it is of this host, and the `remedy`.
    """
    try:
        yield
    except RuntimeError as error:
        lost = "gloo/transport" in str(error) or type(error).__name__.startswith("Dist")
        if not (lost and _members):
            raise
        raise UserError(f"{_ended()}; what it said last is in its own output; {remedy}") from None


def _ended() -> str:
    """Which processes of the group have ended, as far as this host knows."""
    here, _ = _myself()
    end = time.monotonic() + _ENDING
    while time.monotonic() < end:
        gone = [
            f"process {rank} (of {len(_members)}, on {host}, process id {number}) has ended"
            for rank, (host, number) in enumerate(_members)
            if host == here and not _is_alive(number)
        ]
        if gone:
            return " and ".join(gone)
        time.sleep(0.05)
    hosts = sorted({host for host, _ in _members} - {here})
    return f"a process on {' or '.join(hosts) or here} has ended or cannot be reached"


def _myself() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _is_alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _leave_group() -> None:
    distributed = sys.modules["torch.distributed"]
    if distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
