"""This machine: what it is, what is installed, the cores that it has, and jobs that share them.

`environment` is written into every run directory and shown by `redraft doctor`.
"""

import multiprocessing
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from redraft.errors import UserError
from redraft.interruption import heed_signals
from redraft.progress import Longer, Phase, Progress, Silent

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_share: int | None = None
"""The cores of a process of `side_by_side`."""

PACKAGES = (
    "redraft",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "safetensors",
    "tokenizers",
    "math-verify",
    "vllm",
)


def environment() -> dict[str, Any]:
    """Versions, machine and commit, as JSON values."""
    import torch

    packages = {name: installed_version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed for name, installed in packages.items() if installed},
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, Any]]:
    """Name, memory in GiB and bfloat16 support of each CUDA device."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        memory = round(device.total_memory / 2**30, 1)
        found.append({"name": device.name, "memory_gib": memory, "bf16": device.major >= 8})
    return found


def has_bf16(device: "torch.device") -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, faster than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def free_memory(device: "torch.device") -> int:
    """Bytes that this process may still allocate on a device.

    On a CPU the least of what the system calls available and of what the process's control group
    and its limit of address space (`ulimit -v`) leave.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    free = psutil.virtual_memory().available
    if (group := _group_memory()) is not None:
        free = min(free, group)
    if hasattr(psutil, "RLIMIT_AS"):  # Linux
        process = psutil.Process()
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            free = min(free, limit - process.memory_info().vms)
    return max(0, free)


def used_memory() -> int:
    """Bytes that this process holds: on GPUs where it uses them, else in main memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.memory_reserved())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _group_memory() -> int | None:
    """Bytes that the control group leaves, which in a container is the container's limit; files
    that it caches count as free. None without a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
        cached = dict(line.split() for line in lines)["inactive_file"]
    except (OSError, ValueError, KeyError):
        return None
    return None if limit == "max" else int(limit) - used + int(cached)


def installed_version(package: str) -> str | None:
    """The installed version of a package, found without importing it; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The git commit this package runs from, with `+` when files differ from it; else None.

    A package installed into site-packages has none, even where a repository surrounds it: the
    commit counts only if git tracks this file.
    """
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    head = _git(here.parent, "rev-parse", "HEAD")
    return head and head + ("+" if _git(here.parent, "status", "--porcelain", "-uno") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """Git's output, or None where there is no git, no repository, or no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def usable_cores() -> int:
    """The cores this process may use: in a container fewer than the machine has, in a process of
    `side_by_side` its share."""
    if _share is not None:
        return _share
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
    except BaseException:
        for child in children:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
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
    """Show what a process reports, until it ends."""
    phase: Phase = Silent()
    with ExitStack() as under_way:
        while True:
            match pipe.recv():
                case "phase", title, *numbers:
                    shown = progress.phase(f"{name}: {title}", *numbers)
                    phase = under_way.enter_context(shown)
                case "skip", n:
                    phase.skip(n)
                case "advance", n, metrics:
                    phase.advance(n, **metrics)
                case "watch", tokens, responses:
                    phase.watch(tokens, responses)
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

    global _share
    _share = threads
    heed_signals()
    torch.set_num_threads(threads)
    try:
        result = job(_ProgressPipe(pipe))
    except KeyboardInterrupt:
        pass  # the parent hears it too, and says so
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())  # a traceback does not travel
        pipe.send(("raised", error))
    else:
        pipe.send(("returned", result))


class _ProgressPipe:
    """Progress as messages to the parent; of nested phases the outermost."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._outermost = True

    @contextmanager
    def phase(
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
    ) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        if not self._outermost:
            yield Silent()
            return
        self._pipe.send(("phase", name, total, max_tokens, longer))
        self._outermost = False
        try:
            yield self
        finally:
            self._outermost = True
            self._pipe.send(("end",))

    def skip(self, n: int) -> None:
        """See `redraft.progress.Phase`."""
        self._pipe.send(("skip", n))

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """See `redraft.progress.Phase`."""
        self._pipe.send(("advance", n, metrics))

    def watch(self, tokens: int, responses: int) -> None:
        """See `redraft.progress.Phase`."""
        self._pipe.send(("watch", tokens, responses))

    def note(self, text: str) -> None:
        """See `redraft.progress.Progress`."""
        self._pipe.send(("note", text))
