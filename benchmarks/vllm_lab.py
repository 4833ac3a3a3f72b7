"""SCoRe on the lab through vLLM: the page docs/results/vllm-lab.md.

    python benchmarks/vllm_lab.py --url http://127.0.0.1:8000    # with a server
    python benchmarks/vllm_lab.py                                # vLLM beside the learner
    python benchmarks/vllm_lab.py --page-only                    # the page again

Run it where vLLM is installed (`make test-vllm` makes such an environment: .venv-vllm). The lab's
model is trained through vLLM, and once more with the local engine and the same settings. Both, and
the model that they started from, are evaluated with the local engine, greedily on the held-out
problems that docs/results/score-lab.md is about. A run that was interrupted is resumed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import machine_part, settings_part
from redraft.cli.progress import terminal_progress
from redraft.evaluation.evaluate import evaluate
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.tables import comparison_markdown, difference_text
from redraft.training.launch import resume, train
from redraft.training.method import METHODS
from redraft.training.settings import TrainConfig
from redraft.types import Episode

TASK = "lab/sorting"
PROBLEMS = 1000
LOOKED_AT = 300
"""Held-out problems with which the lab's settings were compared: the first ones, left out."""


VLLM, LOCAL = "SCoRe through vLLM", "SCoRe with the local engine"


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/vllm-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/vllm-lab.md"))
    parser.add_argument("--url", help="of a server; by default vLLM beside the learner")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--problems-per-step", type=int, default=64)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    configs = {}
    for name, engine in ((VLLM, "vllm"), (LOCAL, "local")):
        fields = {
            "out": options.out / engine / "training",
            "seed": options.seed,
            "engine": engine,
            "problems_per_step": options.problems_per_step,
        }
        if engine == "vllm":
            fields["vllm"] = {"url": options.url, "memory": 0.05}
        configs[name] = METHODS["score"].configure(preset="lab", overrides=fields)
    if not options.page_only:
        evaluated("base", "lab", options.out / "base", options.seed)
        for name, config in configs.items():
            trained(config)
            evaluated(name, str(config.out / "model"), config.out.parent, options.seed)
    options.page.write_text(page(configs, options.out), encoding="utf-8")


def trained(config: TrainConfig) -> None:
    """Train, as far as that was not done already."""
    if not (config.out / "config.yaml").exists():
        train("score", config, terminal_progress())
    elif not (config.out / "summary.json").exists():
        resume(config.out, terminal_progress())


def evaluated(name: str, model: str, folder: Path, seed: int) -> None:
    """Evaluate a model greedily, unless that was done already."""
    if not (folder / "greedy" / "summary.json").exists():
        progress = terminal_progress()
        progress.note(name)
        settings = EvaluationSettings(
            model=model,
            task=TASK,
            limit=PROBLEMS,
            max_tokens=96,
            seed=seed,
            turns=2,
            out=folder / "greedy",
        )
        evaluate(settings, progress)


def unseen(folder: Path) -> list[Episode]:
    """An evaluation's episodes on problems that nobody has looked at."""
    episodes = read_episodes(folder)
    problems = list(dict.fromkeys(episode.problem.id for episode in episodes))
    return [episode for episode in episodes if episode.problem.id not in problems[:LOOKED_AT]]


def page(configs: dict[str, TrainConfig], out: Path) -> str:
    """The results as Markdown."""
    found = {"base": unseen(out / "base" / "greedy")}
    found |= {name: unseen(config.out.parent / "greedy") for name, config in configs.items()}
    config = configs[VLLM]
    steps = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    how = "a server over HTTP" if config.vllm.url else "a vLLM beside the learner"
    return "\n".join(
        [
            "# SCoRe on the lab through vLLM",
            "",
            "Made by `python benchmarks/vllm_lab.py --problems-per-step "
            f"{config.problems_per_step}` on `{TASK}`: trained through {how}, and "
            f"with the local engine; seed {config.seed}, "
            f"{len(steps)} steps of {config.problems_per_step} problems with {config.samples} "
            f"episodes each. Held-out problems {LOOKED_AT + 1} to {PROBLEMS}, greedily, with the "
            "local engine. [SCoRe's page](score-lab.md) has runs of 64 problems a step.",
            "",
            comparison_markdown(
                {name: summarise(episodes).to_summary() for name, episodes in found.items()}
            ),
            "",
            *(
                f"- Δ of {VLLM} minus Δ of {name}: {difference_text(difference)}"
                for name in ("base", LOCAL)
                if (difference := paired_difference(found[VLLM], found[name])) is not None
            ),
            "",
            "## Log-probabilities, vLLM against the learner",
            "",
            "Of the sampled tokens of each step, in nats: the mean and the largest difference. The "
            "weights were handed over anew before each step. Seconds are of a shared machine.",
            "",
            *gaps(steps),
            "",
            "## Configuration",
            "",
            settings_part(config),
            "",
            "## Machine",
            "",
            machine_part([config.out]),
            "",
        ]
    )


def gaps(steps: list[dict[str, Any]]) -> list[str]:
    """The difference of log-probabilities, in ten parts of the run."""
    lines = ["| steps | mean | largest | rollout, s | update, s |", "|---|---|---|---|---|"]
    for part in np.array_split(np.arange(len(steps)), min(10, len(steps))):
        some = [steps[index] for index in part]
        mean = np.mean([step["logprob_gap/mean_abs"] for step in some])
        largest = max(step["logprob_gap/max"] for step in some)
        seconds = [np.mean([step[f"seconds/{what}"] for step in some]) for what in PARTS]
        shown = " | ".join(f"{value:.1f}" for value in seconds)
        lines.append(f"| {part[0] + 1} to {part[-1] + 1} | {mean:.1e} | {largest:.1e} | {shown} |")
    return lines


PARTS = ("rollout", "update")

if __name__ == "__main__":
    main()
