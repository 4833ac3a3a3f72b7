"""Several processes against one, with whole weights on each (DDP) and with sharded ones (FSDP2).

    .venv/bin/python benchmarks/sharding.py losses
    .venv/bin/python benchmarks/sharding.py memory --model FOLDER

`losses` trains SCoRe on the lab for 20 steps and compares the loss of each step and the weights at
the end with those of one process; then it kills a process half-way and resumes. `memory` takes
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
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STEPS = 20
SETTINGS = {
    "--preset": "lab",
    "--task": "lab/sorting",
    "--stage-one-steps": STEPS // 2,
    "--stage-two-steps": STEPS // 2,
    "--problems-per-step": 8,
    "--samples": 4,
    "--checkpoint-every": 5,
    "--precision": "float32",
    "--device": "cpu",
}


def launched(processes: int, *command: str) -> list[str]:
    """A command line that runs on so many processes of this machine."""
    if processes == 1:
        return [sys.executable, *command]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--nproc-per-node={processes}", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", *flags, *command]


def trained(out: Path, processes: int, sharding: str) -> Path:
    """A run of SCoRe on the lab."""
    flags = [str(part) for pair in SETTINGS.items() for part in pair]
    arguments = ["-m", "redraft", "train", "score", *flags, "--sharding", sharding]
    command = launched(processes, *arguments, "--out", str(out))
    with (out.with_suffix(".log")).open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return out


def killed_and_resumed(out: Path, processes: int) -> Path:
    """The same, with the last process killed after half of the steps, and resumed."""
    flags = [str(part) for pair in SETTINGS.items() for part in pair]
    arguments = ["-m", "redraft", "train", "score", *flags, "--sharding", "fsdp2"]
    with (out.with_suffix(".log")).open("w") as log:
        command = launched(processes, *arguments, "--out", str(out))
        launcher = subprocess.Popen(command, stdout=log, stderr=log)
        while len(lines(out)) < STEPS // 2 + 2:
            time.sleep(0.1)
        os.kill(process_of(launcher.pid, processes - 1), signal.SIGKILL)
        launcher.wait()
        command = launched(processes, "-m", "redraft", "resume", str(out))
        subprocess.run(command, check=True, stdout=log, stderr=log)
    said = [
        line for line in out.with_suffix(".log").read_text().splitlines() if "has ended" in line
    ]
    print("said:", said[0] if said else "nothing")
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


def difference(run: Path, other: Path) -> tuple[float, float]:
    """The largest difference of a step's loss, relative to the largest loss, and of a weight."""
    from safetensors.torch import load_file

    ours, theirs = ([line["loss"] for line in lines(each)] for each in (run, other))
    assert len(ours) == len(theirs) == STEPS
    largest = max(map(abs, theirs))
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / largest
    mine, wanted = (load_file(each / "model" / "model.safetensors") for each in (run, other))
    return apart, max((mine[name] - wanted[name]).abs().max().item() for name in wanted)


def losses(counts: Sequence[int]) -> None:
    """Print how far runs on several processes are from one on one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = trained(folder / "alone", 1, "none")
        print("| processes | sharding | loss, largest relative difference | weights |")
        print("|---|---|---|---|", flush=True)
        for count in counts:
            for sharding in ("none", "fsdp2"):
                run = trained(folder / f"{sharding}-{count}", count, sharding)
                loss, weight = difference(run, alone)
                print(f"| {count} | {sharding} | {loss:.1e} | {weight:.1e} |", flush=True)
            resumed = killed_and_resumed(folder / f"killed-{count}", count)
            loss, weight = difference(resumed, folder / f"fsdp2-{count}")
            against = "fsdp2, killed and resumed, against fsdp2"
            print(f"| {count} | {against} | {loss:.1e} | {weight:.1e} |", flush=True)


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
    held = process.memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew
    config = LearnerConfig(tokens_per_microbatch=64, logit_chunk=64)
    learner = Learner(policy, config, accelerator=accelerator, reference=reference)
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
    parser.add_argument("--groups", nargs="+", default=["2:none", "2:fsdp2", "4:none", "4:fsdp2"])
    given = parser.parse_args()
    groups = [(int(count), how) for count, how in (one.split(":") for one in given.groups)]
    if given.what == "measure":
        measure(given.model, groups[0][1])
    elif given.what == "losses":
        losses(sorted({count for count, _ in groups}))
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
