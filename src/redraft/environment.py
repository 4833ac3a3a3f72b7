"""What this machine is and what is installed: written into every run, shown by `redraft doctor`."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from redraft.processes import usable_cores

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


def installed_version(package: str) -> str | None:
    """The installed version of a package, found without importing it; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
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
