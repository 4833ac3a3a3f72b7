"""The processes that share a run, and what they must do together."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redraft.errors import UserError


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

        wait = timedelta(hours=12)  # a share may take longer than another
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=wait)
        leave_group_at_exit()
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


def leave_group_at_exit() -> None:
    """Let this process leave the group of processes in order when it ends.

    What trains holds the group too. If it is the last to let go, Python waits for one of the
    group's threads, which may wait for Python (PyTorch 2.13, gloo): the process never ends.
    """
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)


def _leave_group() -> None:
    distributed = sys.modules["torch.distributed"]
    if distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
