"""Sampling the next step while the learner works: what it brings, and what it costs.

    python benchmarks/overlap.py speed     # seconds a step, where vLLM is installed
    python benchmarks/overlap.py delta     # SCoRe on the lab with and without, over seeds
    python benchmarks/overlap.py page      # docs/results/overlap.md of what is finished

`speed` starts a vLLM server on one core and trains on another, with and without overlap in turn.
`delta` trains with the local engine, whose episodes are the same to the bit in every run of a seed,
and evaluates as docs/results/score-lab.md does. What is finished is not run again.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import machine_part, settings_part
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.tables import difference_text
from redraft.lab import model_path
from redraft.storage import write_text
from redraft.training.method import METHODS
from redraft.training.settings import TrainConfig
from vllm_lab import evaluated, trained, unseen

WAYS = {"in turn": False, "overlapped": True}
SEEDS = (1, 2, 3)
REPEATS = (1, 2)
STEPS = 12
"""Of a run whose speed is measured."""
CORES = (0, 1)
"""Of the learner and of the server."""


def main() -> None:
    """Do a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["speed", "delta", "page"])
    parser.add_argument("--out", type=Path, default=Path("runs/overlap"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/overlap.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    if options.part == "speed":
        measure(options.out)
    elif options.part == "delta":
        for seed in options.seeds:
            for name in WAYS:
                config = delta_config(options.out, name, seed)
                trained(config)
                evaluated(f"{name}, {seed}", str(config.out / "model"), config.out.parent, seed)
    write_text(options.page, page(options.out))


def delta_config(out: Path, name: str, seed: int) -> TrainConfig:
    """A run whose outcome is measured."""
    folder = out / "delta" / f"{name.replace(' ', '-')}-{seed}" / "training"
    fields = {"out": folder, "seed": seed, "overlap": WAYS[name], "problems_per_step": 32}
    return METHODS["score"].configure(preset="lab", overrides=fields)


def speed_config(out: Path, name: str, repeat: int, url: str) -> TrainConfig:
    """A run whose speed is measured: Stage II alone, without checkpoints between its steps."""
    fields = {
        "out": out / "speed" / f"{name.replace(' ', '-')}-{repeat}",
        "overlap": WAYS[name],
        "engine": "vllm",
        "vllm": {"url": url},
        "stage_one_steps": 0,
        "stage_two_steps": STEPS,
        "problems_per_step": 32,
        "checkpoint_every": STEPS,
    }
    return METHODS["score"].configure(preset="lab", overrides=fields)


def measure(out: Path) -> None:
    """Train through one server, in one way and the other, in turn."""
    os.sched_setaffinity(0, {CORES[0]})
    with serving() as url:
        for repeat in REPEATS:
            for name in WAYS:
                trained(speed_config(out, name, repeat, url))


@contextmanager
def serving() -> Iterator[str]:
    """A vLLM server of the lab's model on a core of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["taskset", "-c", str(CORES[1]), sys.executable]
    command += ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    command += ["--weight-transfer-config", '{"backend": "redraft"}']
    command += ["--kv-cache-memory-bytes", "500000000"]
    command += ["--no-enable-chunked-prefill"]  # on a CPU it fails at seeded requests read in parts
    flags = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": str(CORES[1])}
    process = subprocess.Popen(
        command, env=os.environ | flags, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if process.poll() is not None:
                sys.exit("vLLM could not be started; make test-vllm makes an environment with it")
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """What the steps logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def page(out: Path) -> str:
    """What is finished, as Markdown."""
    parts = [
        "# Sampling the next step meanwhile\n",
        "Made by `python benchmarks/overlap.py`: SCoRe on `lab/sorting`, with `--overlap` and "
        "without. What the tables do not have has not been run yet.\n",
    ]
    speeds = [
        speed_config(out, name, repeat, "http://127.0.0.1:8000")
        for name in WAYS
        for repeat in REPEATS
    ]
    finished = [config for config in speeds if (config.out / "summary.json").exists()]
    if len(finished) == len(speeds):
        parts.append(speed_part(out))
    seeds = [
        seed
        for seed in SEEDS
        if all(
            (delta_config(out, name, seed).out.parent / "greedy" / "summary.json").exists()
            for name in WAYS
        )
    ]
    if seeds:
        parts.append(delta_part(out, seeds))
        finished += [delta_config(out, name, seed) for name in WAYS for seed in seeds]
    if finished:
        parts += ["## Configuration\n", settings_part(finished[-1]), "\n## Machine\n"]
        parts.append(machine_part([config.out for config in finished]))
    return "\n".join(parts) + "\n"


def speed_part(out: Path) -> str:
    """Seconds a step in both ways: between the times at which steps were logged, without the first
    steps, which are sampled on policy in both."""
    told = {}
    for name in WAYS:
        runs = [
            lines_of(speed_config(out, name, repeat, "http://127.0.0.1:8000").out)
            for repeat in REPEATS
        ]
        took = [np.diff([line["time"] for line in run])[1:] for run in runs]
        parts = {
            part: np.mean([line[f"seconds/{part}"] for run in runs for line in run[2:]])
            for part in ("rollout", "reference", "update")
        }
        told[name] = (np.concatenate(took), parts)
    lines = [
        "## Seconds a step\n",
        f"Through a vLLM server on a core of its own, the learner on another; {len(REPEATS)} runs "
        f"of {STEPS} steps of 32 problems with 8 episodes each way, in turn.\n",
        "| | median of a step | mean | waits for its episodes | reference | update |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (took, parts) in told.items():
        means = " | ".join(f"{value:.2f}" for value in parts.values())
        lines.append(f"| {name} | {np.median(took):.2f} | {took.mean():.2f} | {means} |")
    first, second = (took for took, _ in told.values())
    ratio = f"{first.mean() / second.mean():.2f}"
    ideal = sum(told["in turn"][1].values()) / max(
        told["in turn"][1]["rollout"],
        told["in turn"][1]["reference"] + told["in turn"][1]["update"],
    )
    lines.append(
        f"\nOverlapped, {ratio} times as many steps in the same time. Were the shorter of the two "
        f"sides hidden whole, it would be {ideal:.2f} times.\n"
    )
    return "\n".join(lines)


def delta_part(out: Path, seeds: list[int]) -> str:
    """Accuracies and Δ of each seed in both ways, and the difference."""
    lines = [
        "## Δ\n",
        "Trained with the local engine, 180 steps of 32 problems with 8 episodes; held out: "
        "problems 301 to 1000, greedily.\n",
        "| seed | | t1 | t2 | Δ | truncated tokens, % | log-prob gap, mean |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    differences = []
    for seed in seeds:
        both = {}
        for name in WAYS:
            config = delta_config(out, name, seed)
            both[name] = unseen(config.out.parent / "greedy")
            found = summarise(both[name]).to_summary()
            first, last = (100 * value for value in found["accuracy"][:2])
            steps = lines_of(config.out)
            cut = 100 * np.mean([line.get("clip_fraction", 0.0) for line in steps])
            gap = np.mean([line["logprob_gap/mean_abs"] for line in steps])
            lines.append(
                f"| {seed} | {name} | {first:.1f} | {last:.1f} | {last - first:+.1f} | "
                f"{cut:.3f} | {gap:.1e} |"
            )
        difference = paired_difference(both["overlapped"], both["in turn"])
        if difference is not None:
            differences.append(
                f"- seed {seed}: Δ overlapped minus Δ in turn {difference_text(difference)}"
            )
    return "\n".join([*lines, "", *differences, ""])


if __name__ == "__main__":
    main()
