"""Several processes against one, with whole weights on each (DDP) and with sharded ones (FSDP2, or
DeepSpeed's ZeRO where it is installed).

    .venv/bin/python benchmarks/sharding.py losses
    .venv/bin/python benchmarks/sharding.py losses --groups 2:zero2 2:zero3
    .venv/bin/python benchmarks/sharding.py memory --model FOLDER

`losses` trains SCoRe and RISE on the lab for 20 steps and compares losses, responses and weights
with those of one process; then it kills a process of SCoRe half-way and resumes. `memory` takes
optimizer steps on a model and measures what a process holds. Each prints its part of
`results/sharding.md`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

COMMON = {
    "--preset": "lab",
    "--task": "lab/sorting",
    "--checkpoint-every": 5,
    "--precision": "float32",
    "--device": "cpu",
}
SETTINGS: dict[str, dict[str, object]] = {
    "score": {
        "--stage-one-steps": 10,
        "--stage-two-steps": 10,
        "--problems-per-step": 8,
        "--samples": 4,
    },
    "rise": {
        "--iterations": 1,
        "--problems-per-iteration": 128,
        "--best-of": 4,
        "--batch-size": 32,
        "--epochs": 5,
    },
}
"""20 steps of each: SCoRe samples anew for every step, RISE learns from the same rows."""
KILLED_AFTER = 12


def launched(processes: int, *command: str) -> list[str]:
    """A command line that runs on so many processes of this machine."""
    if processes == 1:
        return [sys.executable, *command]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--nproc-per-node={processes}", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", *flags, *command]


def training(out: Path, method: str, sharding: str) -> list[str]:
    """The command that trains a method on the lab."""
    flags = [str(part) for pair in (COMMON | SETTINGS[method]).items() for part in pair]
    how = ["--sharding", sharding, "--out", str(out)]
    return ["-m", "redraft", "train", method, *flags, *how]


def trained(out: Path, method: str, processes: int, sharding: str) -> Path:
    """A run of a method on the lab."""
    with (out.with_suffix(".log")).open("w") as log:
        command = launched(processes, *training(out, method, sharding))
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return out


def killed_and_resumed(out: Path, processes: int, sharding: str) -> Path:
    """SCoRe with sharded weights, with the last process killed half-way, and resumed."""
    with (out.with_suffix(".log")).open("w") as log:
        command = launched(processes, *training(out, "score", sharding))
        launcher = subprocess.Popen(command, stdout=log, stderr=log)
        while len(lines(out)) < KILLED_AFTER:
            time.sleep(0.1)
        os.kill(process_of(launcher.pid, processes - 1), signal.SIGKILL)
        launcher.wait()
        command = launched(processes, "-m", "redraft", "resume", str(out))
        subprocess.run(command, check=True, stdout=log, stderr=log)
    said = out.with_suffix(".log").read_text().splitlines()
    print(*[line for line in said if line.startswith("redraft: error")], file=sys.stderr)
    return out


def process_of(launcher: int, rank: int) -> int:
    """The process id of a rank."""
    import psutil

    for child in psutil.Process(launcher).children():
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise LookupError(rank)


def lines(run: Path) -> list[dict[str, float]]:
    """The metrics of a run's steps."""
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def sampled(run: Path, step: int) -> list[object]:
    """The responses of a step, by all processes."""
    from redraft.storage import read_jsonl
    from redraft.types import Episode

    files = (run / "episodes").glob(f"train*-{step:06d}.jsonl")
    episodes = [episode for file in files for episode in read_jsonl(file, Episode)]
    return sorted((e.problem.id, e.sample, [t.tokens for t in e.responses]) for e in episodes)


def compared(run: Path, other: Path) -> str:
    """Columns: steps before a response is sampled differently, the largest difference of their
    losses, and that of a weight in the end."""
    from safetensors.torch import load_file

    ours, theirs = lines(run), lines(other)
    assert len(ours) == len(theirs) > 10
    same = [sampled(run, step + 1) == sampled(other, step + 1) for step in range(len(ours))]
    alike = same.index(False) if False in same else len(same)
    apart = max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in range(alike))
    mine, wanted = (load_file(each / "model" / "model.safetensors") for each in (run, other))
    weights = max((mine[name] - wanted[name]).abs().max().item() for name in wanted)
    return f"{alike} of {len(ours)} | {apart:.1e} | {weights:.1e}"


def losses(folder: Path, groups: Sequence[tuple[int, str]]) -> None:
    """Print how far runs on several processes are from those on one; runs that are there are not
    made again."""

    def run(name: str, make: Callable[[Path], Path]) -> Path:
        out = folder / name
        return out if (out / "summary.json").exists() else make(out)

    folder.mkdir(parents=True, exist_ok=True)
    print("| method | processes | sharding | compared with | same responses, steps |", end="")
    print(" loss | weights |\n|---|---|---|---|---|---|---|", flush=True)
    for method in SETTINGS:
        alone = run(f"{method}-alone", lambda out, m=method: trained(out, m, 1, "none"))
        for count, how in groups:
            made = run(
                f"{method}-{how}-{count}",
                lambda out, m=method, n=count, h=how: trained(out, m, n, h),
            )
            row = f"{method} | {count} | {how} | 1 process"
            print(f"| {row} | {compared(made, alone)} |", flush=True)
    for count, how in groups:
        if how == "none":
            continue
        killed = run(
            f"killed-{how}-{count}", lambda out, n=count, h=how: killed_and_resumed(out, n, h)
        )
        row = f"score | {count} | {how}, killed and resumed | {how}"
        print(f"| {row} | {compared(killed, folder / f'score-{how}-{count}')} |", flush=True)


def measure(model: str, sharding: str) -> None:
    """What this process of a group holds while it takes three optimizer steps on 4 rows of 64
    tokens in all, with a frozen reference."""
    import psutil
    import torch

    from redraft.learning.config import LearnerConfig
    from redraft.learning.learner import Learner
    from redraft.learning.parallel import accelerator_on, gather_numbers
    from redraft.learning.rows import TrainingRow
    from redraft.learning.sharding import shard
    from redraft.learning.zero import partition
    from redraft.models import load_model

    device = torch.device("cpu")
    accelerator = accelerator_on(device, bf16=False)
    process = psutil.Process()
    before = process.memory_info().rss
    policy, _ = load_model(model, training=True, device="cpu")
    reference, _ = load_model(model, training=True, device="cpu")
    reference.requires_grad_(False)
    if sharding == "fsdp2":
        shard(policy, device, None)
        shard(reference, device, None)
    elif sharding == "zero3":
        partition(policy, device)
        partition(reference, device)
    held = process.memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew
    config = LearnerConfig(tokens_per_microbatch=64, logit_chunk=64)
    stage = {"zero2": 2, "zero3": 3}.get(sharding)
    learner = Learner(policy, config, accelerator=accelerator, reference=reference, zero=stage)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(100, 40_000, (4, 64), generator=generator).tolist()
    rows = [
        TrainingRow(row, [0] + [1] * 63, advantage=[0.0] + [1.0] * 63, kl_weight=[0.0] + [0.1] * 63)
        for row in tokens
    ]
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    for _ in range(3):
        metrics = learner.step(learner.with_reference(mine))
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    found = gather_numbers(
        accelerator, [held - before, process.memory_info().rss - before, peak - before]
    )
    if accelerator.is_main_process:
        most = (found.amax(0) / 2**30).tolist()
        numbers = " | ".join(f"{value:.2f}" for value in most)
        count = accelerator.num_processes
        print(f"| {count} | {sharding} | {numbers} | {metrics['loss']:.5f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["losses", "memory", "measure"])
    parser.add_argument("--model", default="lab")
    parser.add_argument("--out", type=Path, default=Path("runs/sharding"))
    parser.add_argument("--groups", nargs="+", default=["2:none", "2:fsdp2", "4:none", "4:fsdp2"])
    given = parser.parse_args()
    groups = [(int(count), how) for count, how in (one.split(":") for one in given.groups)]
    if given.what == "measure":
        measure(given.model, groups[0][1])
    elif given.what == "losses":
        losses(given.out, groups)
    else:
        print("| processes | sharding | weights, GiB | after a step | peak | loss of step 3 |")
        print("|---|---|---|---|---|---|", flush=True)
        for count, how in groups:
            flags = ["--model", given.model, "--groups", f"{count}:{how}"]
            command = launched(count, __file__, "measure", *flags)
            # As sharded training has it: freed blocks go back to the system and are not counted.
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
