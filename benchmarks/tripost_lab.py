"""TriPosT and its baselines on the lab, over seeds: the page docs/results/tripost-lab.md.

    python benchmarks/tripost_lab.py                                       # everything
    python benchmarks/tripost_lab.py --seeds 1 --tasks lab/sorting-cells   # a part
    python benchmarks/tripost_lab.py --page-only                           # the page again

Every system begins with the same stage 0, fine-tuning on the script's rationales, and trains with
the same learning rate and batch. All are evaluated greedily on the same held-out problems, half of
them from cells that training has not seen, with at most three updates and no oracle. What lies in
the folder already is not run again, so parts may run side by side.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from redraft.cli.progress import terminal_progress
from redraft.config import resolve, to_yaml
from redraft.demo import place_of
from redraft.environment import environment
from redraft.episode import Episode, read_jsonl
from redraft.evaluation import evaluate
from redraft.evaluation.metrics import Ratio
from redraft.evaluation.self_improvement import improvement_ratios
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import bootstrap, percentile_levels
from redraft.methods import tripost
from redraft.methods.tripost_config import TripostConfig
from redraft.progress import Progress, Silent
from redraft.runs import write_json

TASKS = ("lab/arithmetic-cells", "lab/sorting-cells")
UPDATES = 3
SHARES = (0.0, 0.2, 0.43, 0.6, 0.8)
"""The sweep over p; 0.43 is the paper's."""


@dataclass(frozen=True)
class System:
    """A system: the method that trains it, its settings beside the common ones, and how many
    updates it may make when it is evaluated."""

    method: str
    told: dict[str, Any] = field(default_factory=dict)
    updates: int = UPDATES
    like: str | None = None
    """The system whose trained model this one evaluates in another way."""


LAB = TripostConfig.presets["lab"]
LONGER = LAB["rationale_epochs"] + 3 * LAB["epochs"]
RATIONALES = "rationale SFT"
TRIPOST = "TriPosT, p = 0.43"

SYSTEMS: dict[str, System] = {
    RATIONALES: System("rationale-sft", updates=0),
    "rationale SFT + self-improve prompt": System("rationale-sft", like=RATIONALES),
    "rationale SFT, as many epochs": System("rationale-sft", {"epochs": LONGER}, updates=0),
    "SFT on demonstrations": System("si-demo-sft"),
    **{
        f"TriPosT, p = {share:g}": System("tripost", {} if share == 0.43 else {"p": share})
        for share in SHARES
    },
    "TriPosT, no weights": System("tripost", {"feedback_weight": 1.0}),
    "TriPosT, own mistakes masked": System("tripost", {"train_attempt": False}),
}
"""What is compared."""


def main() -> None:
    """Run what is missing, then write the page if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tripost-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/tripost-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--problems", type=int, default=600, help="held-out problems")
    parser.add_argument("--train-problems", type=int, default=LAB["problems_per_iteration"])
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        for task in options.tasks:
            for seed in options.seeds:
                for name in options.systems:
                    run(name, options, task, seed, terminal_progress())
    wanted = [place(options.out, t, s, n) for t in TASKS for s in options.seeds for n in SYSTEMS]
    if all((folder / "evaluation" / "summary.json").exists() for folder in wanted):
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(options), encoding="utf-8")


def place(out: Path, task: str, seed: int, name: str) -> Path:
    """A system's folder."""
    return out / task.replace("/", "-") / f"seed-{seed}" / place_of(name)


def run(name: str, options: Any, task: str, seed: int, progress: Progress) -> None:
    """Train and evaluate one system, unless that was done already."""
    system, folder = SYSTEMS[name], place(options.out, task, seed, name)
    trained = place(options.out, task, seed, system.like or name) / "training"
    if not (trained / "summary.json").exists():
        progress.note(f"{task}, seed {seed}, {system.like or name}: training")
        method = tripost.METHODS[system.method]
        told = {"task": task, "seed": seed, "out": trained, **system.told}
        told["problems_per_iteration"] = options.train_problems
        began = time.monotonic()
        config = resolve(method.settings, preset="lab", overrides=told)
        tripost.train(system.method, config, progress)
        write_json(trained.parent / "seconds.json", {"training": time.monotonic() - began})
    if not (folder / "evaluation" / "summary.json").exists():
        progress.note(f"{task}, seed {seed}, {name}: evaluating")
        settings = EvaluationSettings(
            model=str(trained / "model"),
            task=task,
            limit=options.problems,
            protocol="self-improve",
            updates=system.updates,
            max_tokens=LAB["max_tokens"],
            seed=seed,
            out=folder / "evaluation",
        )
        evaluate(settings, Silent())


def page(options: Any) -> str:
    """The results page."""
    parts = [
        f"""# TriPosT on the lab

Made by `python benchmarks/tripost_lab.py`: {options.problems} held-out problems a task, evaluated \
greedily with at most {UPDATES} updates and no oracle; seeds \
{", ".join(map(str, options.seeds))}. Training saw the seen cells only (sorting: lists of 5 to 10 \
words; arithmetic: 2 or 3 brackets), {options.train_problems} problems in stage 0 and in each \
repeat. Percent of problems. `gained` is wrong at first and right in the end, `lost` the reverse; \
accuracy = solved directly + gained. The last column is accuracy less that of `{RATIONALES}`, \
paired by problem, pooled over the seeds, with its 95 % bootstrap interval over problems.
"""
    ]
    for task in TASKS:
        parts.append(f"## {task}\n")
        parts += [
            f"### {part.capitalize()} cells\n\n{table(options, task, part)}\n"
            for part in ("seen", "unseen")
        ]
        parts.append(f"### Seed by seed\n\n{seeds_table(options, task)}\n")
    parts.append(f"## Does it gain?\n\n{verdict(options)}\n")
    configuration = resolve(TripostConfig, preset="lab", overrides={"out": Path("runs")})
    parts.append(f"## Configuration\n\n```yaml\n{to_yaml(configuration, 'TriPosT')}```\n")
    machine = json.dumps(environment(), indent=1)
    parts.append(f"## Machine\n\n```json\n{machine}\n```\n")
    return "\n".join(parts)


def played(options: Any, task: str, part: str, name: str) -> list[Episode]:
    """A system's episodes of all seeds on the seen or the unseen cells, or both ("all")."""
    found = [
        episode
        for seed in options.seeds
        for episode in read_jsonl(
            place(options.out, task, seed, name) / "evaluation" / "episodes.jsonl", Episode
        )
    ]
    seen = {"seen": (True,), "unseen": (False,), "all": (True, False)}[part]
    return [episode for episode in found if episode.problem.metadata["seen"] in seen]


def table(options: Any, task: str, part: str) -> str:
    """All systems on the seen or unseen cells of a task."""
    names = ["accuracy", "first_accuracy", "solved_directly", "gained", "lost", "updated"]
    heads = ["system", *(name.replace("_", " ") for name in names), f"− {RATIONALES}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name in SYSTEMS:
        metrics = improvement_ratios(played(options, task, part, name))
        cells = [f"{100 * (metrics[metric].value or 0):.1f}" for metric in names]
        lines.append("| " + " | ".join([name, *cells, gain(options, task, part, name)]) + " |")
    return "\n".join(lines)


def seeds_table(options: Any, task: str) -> str:
    """Accuracy on seen / unseen cells by seed, the spread that no interval shows."""
    heads = ["system", *(f"seed {seed}" for seed in options.seeds)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in SYSTEMS:
        cells = []
        for seed in options.seeds:
            folder = place(options.out, task, seed, name) / "evaluation"
            of = json.loads((folder / "summary.json").read_text("utf-8"))["self_improvement"]
            cells.append(
                f"{100 * of['seen']['accuracy']:.1f} / {100 * of['unseen']['accuracy']:.1f}"
            )
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def difference(options: Any, task: str, part: str, name: str) -> tuple[float, float, float]:
    """Accuracy of a system less that of rationale SFT, with its interval over problems."""
    sums: dict[str, list[float]] = {}
    for sign, one in ((1.0, name), (-1.0, RATIONALES)):
        for episode in played(options, task, part, one):
            right = float(episode.turns[-1].grade.correct)
            sums.setdefault(episode.problem.id, []).append(sign * right)
    # Per problem: the mean over seeds of the difference.
    values = np.array([sum(signed) / len(options.seeds) for signed in sums.values()])  # [P]
    ones = np.ones_like(values)
    draws = bootstrap(values[:, None], ones[:, None])[:, 0]
    low, high = np.quantile(draws, percentile_levels(len(values)))
    return Ratio(values, ones).value or 0.0, float(low), float(high)


def gain(options: Any, task: str, part: str, name: str) -> str:
    """The difference as text."""
    if name == RATIONALES:
        return ""
    value, low, high = (100 * bound for bound in difference(options, task, part, name))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def verdict(options: Any) -> str:
    """Whether TriPosT beats rationale fine-tuning, in a sentence for each task and part."""
    lines = []
    for task in TASKS:
        for part in ("seen", "unseen", "all"):
            value, low, high = (100 * one for one in difference(options, task, part, TRIPOST))
            told = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that shows"
            interval = f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"
            lines.append(f"- `{task}`, {part} cells: {interval}, {told}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
