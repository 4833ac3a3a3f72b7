"""Studies of RISE and its baselines over seeds, and their tables: `rise_lab.py` on the lab,
`rise_real.py` on a real model.

Every system collects on as many problems in each iteration and is fine-tuned with the same learning
rate and batch. All are evaluated on the same held-out problems: several attempts in a row at
temperature 1 without an oracle, and as many first attempts side by side. What lies in the folder
already is not run again and what was interrupted goes on, so parts may run side by side; what was
made with other settings is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from redraft.demo import place_of
from redraft.evaluation.result import read_episodes
from redraft.evaluation.sequential import (
    OracleFree,
    ProblemValues,
    system_difference,
    values_by_problem,
)
from redraft.evaluation.settings import EvaluationSettings
from redraft.learning.imitation import Example
from redraft.methods.rise import RiseConfig
from redraft.progress import Progress
from redraft.run_directory import RunDirectory
from redraft.storage import read_jsonl
from redraft.training.method import METHODS
from redraft.training.settings import SupervisedConfig
from redraft.types import Episode
from resumable import evaluated, made_with, trained

TURNS = 5
COMPARED = ["m1_t1", f"m1_t{TURNS}", f"p1_t{TURNS}"]
"""What is compared with the base model."""


@dataclass(frozen=True)
class System:
    """What is compared: a model trained with a method and some settings, or the base (no method),
    and how its evaluation is told apart."""

    method: str | None = None
    told: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """What is compared, and on what."""

    base: str
    """The model that all begin with."""
    systems: Mapping[str, System]
    source: Mapping[str, Any]
    """The settings that name the problems and what is said, the same for all."""
    training: Mapping[str, Any]
    """The settings of training, unless a system has others."""
    problems: int
    """Held-out problems."""


def place_in(out: Path, seed: int, name: str) -> Path:
    """Where everything of a system is."""
    return out / f"seed-{seed}" / place_of(name.replace("+", " plus"))


def summary_of(place: Path) -> Path:
    """Where a system's evaluation is summarised."""
    return place / "evaluation" / "summary.json"


def training(study: Study, name: str, place: Path, seed: int) -> SupervisedConfig | None:
    """What a system is trained with; None for the base."""
    system = study.systems[name]
    if system.method is None:
        return None
    told = {**study.training, "model": study.base, **study.source, **system.told}
    told |= {"seed": seed, "out": (place / "training").absolute()}
    config: SupervisedConfig = METHODS[system.method].configure(overrides=told)
    return config


def trained_system(
    study: Study, name: str, place: Path, seed: int, progress: Progress
) -> tuple[str, int | None]:
    """The model of a system, trained as far as it is not there, and the window of its training.

    Raises:
        UserError: what lies there was made with other settings; and whatever training raises.
    """
    method, config = study.systems[name].method, training(study, name, place, seed)
    if method is None or config is None:
        return study.base, None
    made_with(config.out, config)
    return str(trained(method, config, progress)), config.window


def run(study: Study, name: str, place: Path, seed: int, progress: Progress) -> None:
    """Train and evaluate one system, as far as that was not done already.

    Raises:
        UserError: as `trained_system`.
    """
    model, window = trained_system(study, name, place, seed, progress)
    told = {
        **study.source,
        "model": model,
        "limit": study.problems,
        "turns": TURNS,
        "window": window,
        "temperature": 1.0,
        "seed": seed,
        "parallel": True,
        "out": place / "evaluation",
        **study.systems[name].evaluation,
    }
    settings = EvaluationSettings(**told)
    made_with(place / "evaluation", settings)
    evaluated(settings, progress)


@dataclass(frozen=True)
class Learned:
    """What one iteration drew and learned from."""

    drawn: int
    taught: int
    examples: int
    right: float
    copies: float


def learned_in(iteration: Path, config: SupervisedConfig) -> Learned:
    """Read back from an iteration's folder what it was made of."""
    number = int(iteration.name)
    played = [
        episode
        for file in sorted(iteration.glob("episodes-*.jsonl"))
        for episode in read_jsonl(file, Episode)
    ]
    own = [sum(turn.author == "policy" for turn in episode.turns) for episode in played]
    drawn = sum(own)
    if isinstance(config, RiseConfig) and config.improve == "self":
        improved = sum(len(episode.responses) > number for episode in played)
        drawn += improved * (config.best_of - 1)  # one of them is in the episode
    examples = read_jsonl(iteration / "examples.jsonl", Example)
    pairs = [
        (turn, before)
        for example in examples
        for turn, before, weight in zip(
            example.episode.responses,
            [None, *example.episode.responses],
            example.weights,
            strict=False,
        )
        if weight
    ]
    return Learned(
        drawn=drawn,
        taught=sum(len(episode.responses) for episode in played) - sum(own),
        examples=len(examples),
        right=float(np.mean([turn.grade is not None and turn.grade.correct for turn, _ in pairs])),
        copies=float(np.mean([b is not None and t.text == b.text for t, b in pairs])),
    )


def all_learned(place: Path, system: System) -> list[Learned]:
    """What a system's iterations drew and learned from; nothing for the base."""
    if system.method is None:
        return []
    config, _ = RunDirectory.open(place / "training").config(METHODS[system.method].settings)
    return [learned_in(folder, config) for folder in sorted(place.glob("training/iterations/*"))]


def learned_table(found: Mapping[str, list[list[Learned]]]) -> str:
    """What each system drew and learned from by iteration, mean over seeds, from what its
    iterations were by seed."""
    lines = [
        "| system | attempts drawn | examples | right attempts learned from | copies |",
        "|---|---|---|---|---|",
    ]
    for name, by_seed in found.items():
        cells: list[list[str]] = [[], [], [], []]
        for of in zip(*by_seed, strict=True):
            drawn, taught, examples, right, copies = np.mean(
                [(f.drawn, f.taught, f.examples, f.right, f.copies) for f in of], axis=0
            )
            cells[0].append(f"{drawn:.0f}" + (f" + {taught:.0f}" if taught else ""))
            cells[1].append(f"{examples:.0f}")
            cells[2].append(f"{100 * right:.0f} %")
            cells[3].append(f"{100 * copies:.0f} %")
        if by_seed and by_seed[0]:
            lines.append("| " + " | ".join([name, *map(", ".join, cells)]) + " |")
    return "\n".join(lines)


def values_in(place: Path) -> ProblemValues:
    """Every number of every problem of a system's evaluation."""
    sequential, parallel = (
        read_episodes(place / "evaluation", part) for part in ("turns", "parallel")
    )
    return values_by_problem(OracleFree(tuple(sequential), TURNS), parallel)


def over_base(values: Mapping[str, ProblemValues]) -> str:
    """What each system gains on the base model, on the same problems."""
    heads = " | ".join(f"{name} over the base" for name in COMPARED)
    lines = [f"| system | {heads} |", "|---" * (len(COMPARED) + 1) + "|"]
    for system, of in values.items():
        if system != "base":
            found = [system_difference(of, values["base"], name) for name in COMPARED]
            cells = [
                f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]" if e else ""
                for e in found
            ]
            lines.append("| " + " | ".join([system, *cells]) + " |")
    return "\n".join(lines) + "\n"


def over_seeds(summaries: Mapping[int, Mapping[str, Any]]) -> str:
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
    for system in dict.fromkeys(name for of in summaries.values() for name in of):
        of = {seed: summary[system] for seed, summary in summaries.items() if system in summary}
        means = [f"{100 * np.mean([one[name] for one in of.values()]):.1f}" for name in names]
        gains_ = [with_interval(of[seed], gain) if seed in of else "" for seed in summaries]
        lines.append("| " + " | ".join([system, *means, *gains_]) + " |")
    return "\n".join(lines)


def gains(of: Mapping[str, Any]) -> str:
    """What the later turns bring, against one attempt and against the vote."""
    lines = ["| system | m1@t5 − m1@t1 | m1@t5 − m5@t1 | p1@t5 − pass@5 |", "|---|---|---|---|"]
    for system, summary in of.items():
        cells = [
            with_interval(summary, name)
            for name in (
                f"m1_t{TURNS}_minus_m1_t1",
                f"m1_t{TURNS}_minus_m{TURNS}_t1",
                f"p1_t{TURNS}_minus_pass_{TURNS}",
            )
        ]
        lines.append("| " + " | ".join([system, *cells]) + " |")
    return "\n".join(lines) + "\n"


def with_interval(summary: Mapping[str, Any], name: str) -> str:
    """A difference in percentage points."""
    low, high = summary["ci95"][name]
    return f"{100 * summary[name]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
