"""RISE and the supervised baselines on the lab, over seeds: the page docs/results/rise-lab.md.

    python benchmarks/rise_lab.py                                  # everything, about an hour
    python benchmarks/rise_lab.py --seeds 1 --systems base RISE    # a part
    python benchmarks/rise_lab.py --page-only                      # the page again

Every system collects on the same problems in each iteration and is fine-tuned with the same
learning rate, batch and number of epochs. All are evaluated on the same held-out problems: five
attempts in a row at temperature 1 without an oracle, and five first attempts side by side. What
lies in the folder already is not run again, so parts may run side by side.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redraft.cli.progress import terminal_progress
from redraft.config import resolve, to_yaml
from redraft.demo import place_of
from redraft.environment import environment
from redraft.episode import Episode, read_jsonl
from redraft.evaluation import evaluate
from redraft.evaluation.sequential import Unaided, system_difference, values_by_problem
from redraft.evaluation.sequential_table import sequential_markdown
from redraft.evaluation.settings import EvaluationSettings
from redraft.methods import baselines, rise
from redraft.methods.rise_config import RiseConfig
from redraft.methods.supervised_config import SupervisedConfig
from redraft.progress import Progress

TURNS = 5


@dataclass(frozen=True)
class System:
    """How a system is trained: its settings beside the common ones, and by which function."""

    settings: type[SupervisedConfig]
    told: dict[str, Any]
    train: Callable[[Any, Progress], Path]


def _rise(**told: Any) -> System:
    return System(RiseConfig, told, rise.train)


def _baseline(name: str, **told: Any) -> System:
    def train(config: SupervisedConfig, progress: Progress) -> Path:
        return baselines.train(name, config, progress)

    return System(baselines.BASELINES[name].settings, told, train)


EXPERT = {"teacher": "expert", "teacher_temperature": 0.0}

SYSTEMS: dict[str, System | None] = {
    "base (Self-Refine)": None,
    "RISE, self-distillation": _rise(),
    "RISE, expert": _rise(improve="teacher", **EXPERT),
    "BoN-SFT": _baseline("bon-sft"),
    "STaR D": _baseline("star"),
    "STaR D+": _baseline("star", plus=True),
    "Pair-SFT D": _baseline("pair-sft"),
    "Pair-SFT D+": _baseline("pair-sft", plus=True),
    "off-policy SFT": _baseline("off-policy-sft", **EXPERT),
    "LMSI": _baseline("lmsi"),
}
"""What is compared; None is the base model, prompted to correct itself and not trained."""

COMMON = {
    name: RiseConfig.presets["lab"][name]
    for name in (
        "task",
        "iterations",
        "problems_per_iteration",
        "learning_rate",
        "epochs",
        "batch_size",
        "max_tokens",
        "tokens_per_microbatch",
    )
}
"""What all systems are told."""


def main() -> None:
    """Run what is missing, then write the page if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/rise-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/rise-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        for seed in options.seeds:
            for name in options.systems:
                place = place_in(options.out, seed, name)
                run(name, place, seed, options.problems, terminal_progress())
    places = {
        seed: {name: place_in(options.out, seed, name) for name in SYSTEMS}
        for seed in options.seeds
    }
    if all(summary_of(place).exists() for of in places.values() for place in of.values()):
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(page(places, options.problems), encoding="utf-8")


def place_in(out: Path, seed: int, name: str) -> Path:
    """Where everything of a system is."""
    return out / f"seed-{seed}" / place_of(name.replace("+", " plus"))


def summary_of(place: Path) -> Path:
    """Where a system's evaluation is summarised."""
    return place / "evaluation" / "summary.json"


def run(name: str, place: Path, seed: int, problems: int, progress: Progress) -> None:
    """Train and evaluate one system, unless that was done already."""
    system = SYSTEMS[name]
    if system is not None and not (place / "training" / "summary.json").exists():
        progress.note(f"{name}, seed {seed}: training")
        told = {**COMMON, **system.told, "seed": seed, "out": place / "training"}
        system.train(resolve(system.settings, overrides=told), progress)
    if not summary_of(place).exists():
        progress.note(f"{name}, seed {seed}: evaluating")
        settings = EvaluationSettings(
            model="lab" if system is None else str(place / "training" / "model"),
            task=COMMON["task"],
            limit=problems,
            turns=TURNS,
            temperature=1.0,
            max_tokens=COMMON["max_tokens"],
            seed=seed,
            parallel=True,
            out=place / "evaluation",
        )
        evaluate(settings, progress)


def page(places: dict[int, dict[str, Path]], problems: int) -> str:
    """The results page."""
    summaries = {
        seed: {
            name: json.loads(summary_of(place).read_text("utf-8"))["sequential"]
            for name, place in of.items()
        }
        for seed, of in places.items()
    }
    parts = [
        f"""# RISE on the lab

Made by `python benchmarks/rise_lab.py` on `{COMMON["task"]}`: {problems} held-out problems, \
{TURNS} attempts in a row at temperature 1 and {TURNS} first attempts side by side. Every system \
collected on {COMMON["problems_per_iteration"]} problems in each of {COMMON["iterations"]} \
iterations (the same ones), and was fine-tuned with the same learning rate, batch and epochs. \
m1@t{TURNS} is the majority over the {TURNS} turns, no oracle; m{TURNS}@t1 the majority over \
{TURNS} parallel first attempts; p1@t{TURNS} and pass@{TURNS} have an oracle and compare with each \
other only (`docs/metrics.md`).

## Over the seeds

{over_seeds(summaries)}

## What was learned from

{learned_from(places)}
"""
    ]
    for seed, of in summaries.items():
        against = over_base(places[seed])
        parts.append(f"## Seed {seed}\n\n{sequential_markdown(of)}\n{gains(of)}\n{against}")
    configuration = resolve(RiseConfig, preset="lab", overrides={"out": Path("runs")})
    recipe = to_yaml(configuration, "RISE").splitlines()
    told = "\n".join(line for line in recipe if line and not line.startswith(("#", "out:")))
    parts.append(f"## Configuration\n\n```yaml\n{told}\n```\n")
    machine = json.dumps(environment(), indent=1)
    parts.append(f"## Machine\n\n```json\n{machine}\n```\n")
    return "\n".join(parts)


def over_seeds(summaries: dict[int, dict[str, Any]]) -> str:
    """Means over the training seeds, and the gain of the later turns seed by seed."""
    names = [
        "m1_t1",
        f"m1_t{TURNS}",
        f"last_t{TURNS}",
        f"m{TURNS}_t1",
        f"p1_t{TURNS}",
        f"pass_{TURNS}",
    ]
    gain = f"m1_t{TURNS}_minus_m1_t1"
    heads = ["system", *names, *(f"m1@t{TURNS} − m1@t1, seed {seed}" for seed in summaries)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for system in SYSTEMS:
        of = [summary[system] for summary in summaries.values()]
        means = [f"{100 * np.mean([one[name] for one in of]):.1f}" for name in names]
        gains_ = [
            f"{100 * one[gain]:+.1f} [{100 * one['ci95'][gain][0]:+.1f}, "
            f"{100 * one['ci95'][gain][1]:+.1f}]"
            for one in of
        ]
        lines.append("| " + " | ".join([system, *means, *gains_]) + " |")
    return "\n".join(lines)


def learned_from(places: dict[int, dict[str, Path]]) -> str:
    """How many examples each system had, by iteration, mean over seeds."""
    lines = [
        "| system | examples by iteration | right among the attempts learned from |",
        "|---|---|---|",
    ]
    for system, trained in SYSTEMS.items():
        if trained is None:
            continue
        rows = [
            [
                json.loads(path.read_text("utf-8"))
                for path in sorted(of[system].glob("training/iterations/*/summary.json"))
            ]
            for of in places.values()
        ]
        counts = [
            f"{np.mean([row['examples'] for row in by]):.0f}" for by in zip(*rows, strict=True)
        ]
        shares = [
            f"{100 * np.mean([row['attempts_right'] / row['attempts'] for row in by]):.0f} %"
            for by in zip(*rows, strict=True)
            if all("attempts" in row for row in by)
        ]
        lines.append(f"| {system} | {', '.join(counts)} | {', '.join(shares)} |")
    return "\n".join(lines)


def over_base(places: dict[str, Path]) -> str:
    """What each system gains on the base model, on the same problems."""
    values = {}
    for name, place in places.items():
        sequential, parallel = (
            read_jsonl(place / "evaluation" / f"{kind}.jsonl", Episode)
            for kind in ("episodes", "parallel")
        )
        values[name] = values_by_problem(Unaided(tuple(sequential), TURNS), parallel)
    base = values.pop("base (Self-Refine)")
    names = ["m1_t1", f"m1_t{TURNS}", f"p1_t{TURNS}"]
    heads = " | ".join(f"{name} over the base" for name in names)
    lines = [f"| system | {heads} |", "|---" * (len(names) + 1) + "|"]
    for system, of in values.items():
        found = [system_difference(of, base, name) for name in names]
        cells = [
            f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]" if e else ""
            for e in found
        ]
        lines.append("| " + " | ".join([system, *cells]) + " |")
    return "\n".join(lines) + "\n"


def gains(of: dict[str, Any]) -> str:
    """What the later turns bring, against one attempt and against the vote."""
    lines = ["| system | m1@t5 − m1@t1 | m1@t5 − m5@t1 | p1@t5 − pass@5 |", "|---|---|---|---|"]
    for system, summary in of.items():
        cells = []
        for name in (
            f"m1_t{TURNS}_minus_m1_t1",
            f"m1_t{TURNS}_minus_m{TURNS}_t1",
            f"p1_t{TURNS}_minus_pass_{TURNS}",
        ):
            low, high = summary["ci95"][name]
            cells.append(f"{100 * summary[name]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append("| " + " | ".join([system, *cells]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
