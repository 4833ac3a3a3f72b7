"""The cores at hand, and jobs that share them, each in a process of its own."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from redraft.errors import UserError
from redraft.progress import Phase, Progress, Silent

T = TypeVar("T")


def usable_cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(jobs: Mapping[str, Callable[[Progress], T]], progress: Progress) -> dict[str, T]:
    """Do every job in a fresh process, as many at once as there are cores to share.

    One small model cannot keep two cores busy; two models can. A job and its result must be
    picklable. Its progress is shown by `progress`, under the job's name.

    Returns:
        What the jobs return, by name, in their order.

    Raises:
        UserError: a process ended without a result, as one that the system kills does.
        Exception: whatever a job raises; the others are stopped then.
    """
    at_once = min(usable_cores(), len(jobs))
    threads = max(1, usable_cores() // at_once)
    children: list[BaseProcess] = []
    pool = ThreadPoolExecutor(at_once)
    futures = {
        name: pool.submit(_watch, name, job, threads, children, progress)
        for name, job in jobs.items()
    }
    try:
        ended, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in ended:
            future.result()  # raises what went wrong, before anything waits for the others
        return {name: future.result() for name, future in futures.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
            child.join()


def _watch(
    name: str,
    job: Callable[[Progress], T],
    threads: int,
    children: list[BaseProcess],
    progress: Progress,
) -> T:
    """Begin a process, show its progress, and return or raise what it ends with."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pools
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(job, threads, theirs), daemon=True)
    child.start()
    children.append(child)
    theirs.close()
    with ours:
        try:
            result: T = _result(name, ours, progress)
            return result
        except EOFError:
            child.join()
            raise UserError(
                f"{name}: its process ended with code {child.exitcode} and without a result; "
                "-9 is what a system short of memory does"
            ) from None


def _result(name: str, pipe: Connection, progress: Progress) -> Any:
    """Show what a process tells, until it ends."""
    phase: Phase = Silent()
    with ExitStack() as under_way:
        while True:
            match pipe.recv():
                case "phase", title, total:
                    shown = progress.phase(f"{name}: {title}", total)
                    phase = under_way.enter_context(shown)
                case "advance", n, metrics:
                    phase.advance(n, **metrics)
                case ("end",):
                    under_way.close()
                case "note", text:
                    progress.note(f"{name}: {text}")
                case "raised", error:
                    raise error
                case "returned", value:
                    return value


def _work(job: Callable[[Progress], Any], threads: int, pipe: Connection) -> None:
    """What a process does: the job, on its share of the cores."""
    import torch

    torch.set_num_threads(threads)
    try:
        result = job(_Told(pipe))
    except KeyboardInterrupt:
        pass  # the parent hears it too, and says so
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())  # a traceback does not travel
        pipe.send(("raised", error))
    else:
        pipe.send(("returned", result))


class _Told:
    """Progress as messages to the parent; of nested phases the outermost."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._outermost = True

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        if not self._outermost:
            yield Silent()
            return
        self._pipe.send(("phase", name, total))
        self._outermost = False
        try:
            yield self
        finally:
            self._outermost = True
            self._pipe.send(("end",))

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """See `redraft.progress.Phase`."""
        self._pipe.send(("advance", n, metrics))

    def note(self, text: str) -> None:
        """See `redraft.progress.Progress`."""
        self._pipe.send(("note", text))
