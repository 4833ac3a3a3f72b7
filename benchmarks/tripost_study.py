"""Studies of TriPosT and its baselines over seeds, and their pages: `tripost_lab.py` on the lab,
`tripost_real.py` on a real model.

All systems go on from the same model of their seed, fine-tuned on the script's rationales (but for
a fine-tuning that begins anew), and train on the same problems with the same learning rate and
batch. All are evaluated on the same held-out problems, half of those of the lab from cells that
training has not seen, without an oracle. What lies in the folder already is not run again and what
was interrupted goes on, so parts may run side by side. The page holds what is finished.
"""

import argparse
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import bootstrap, machine_part, percentile_levels, settings_part
from redraft.cli.progress import terminal_progress
from redraft.demo import place_of
from redraft.evaluation.metrics import Ratio, improvement_ratios
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.progress import Progress
from redraft.storage import write_text
from redraft.training.method import METHODS
from redraft.training.settings import TrainConfig
from redraft.types import Episode
from resumable import evaluated, hours, trained

UPDATES = 3
RATIONALES = "rationale SFT"
TRIPOST = "TriPosT, p = 0.43"


@dataclass(frozen=True)
class System:
    """A system: the method that trains it, its settings beside the common ones, and how many
    updates it may make when it is evaluated."""

    method: str
    told: dict[str, Any] = field(default_factory=dict)
    updates: int = UPDATES
    like: str | None = None
    """The system whose trained model this one evaluates in another way."""
    begins: bool = False
    """Whether it begins with the base model, not with that fine-tuned on rationales."""


@dataclass(frozen=True)
class Study:
    """What is compared, and on what. `settings` and `evaluation` are what training runs and
    evaluations have in common."""

    name: str
    title: str
    tasks: Mapping[str, dict[str, Any]]
    """By name of a task the settings that name its problems."""
    systems: Mapping[str, System]
    settings: Callable[[str], dict[str, Any]]
    """The settings of a method, beside task, seed and folder."""
    evaluation: dict[str, Any]
    problems: int
    about: str
    """What the page says first, after the command."""
    meaning: str = ""
    """What the tables mean; written by hand."""
    cells: tuple[str, ...] = ("seen", "unseen")
    temperatures: Mapping[str, float] = field(
        default_factory=lambda: {"evaluation": 0.0, "sampled": 1.0}
    )
    """Folders of the evaluations."""
    lists: str | None = None
    """The task whose answers are lists of the question's words."""
    alone: Mapping[str, str] = field(default_factory=dict)
    """Systems that are run on one of the tasks only, and on which."""

    def systems_of(self, task: str) -> list[str]:
        """What is compared on a task."""
        return [name for name in self.systems if self.alone.get(name, task) == task]


def main(study: Study) -> None:
    """Run what is missing; the page is written after each system."""
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--out", type=Path, default=Path(f"runs/{study.name}"))
    parser.add_argument("--page", type=Path, default=Path(f"docs/results/{study.name}.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", choices=study.tasks, default=list(study.tasks))
    parser.add_argument("--systems", nargs="+", choices=study.systems, default=list(study.systems))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    results = Results(study, options.out)
    jobs = [
        (task, seed, name)
        for task in options.tasks
        for seed in options.seeds
        for name in study.systems_of(task)
        if name in options.systems
    ]
    for task, seed, name in [] if options.page_only else jobs:
        run(study, options.out, task, seed, name, terminal_progress())
        write_text(options.page, page(results))
    write_text(options.page, page(results))


def place(out: Path, task: str, seed: int, name: str) -> Path:
    """A system's folder."""
    return out / task.replace("/", "-") / f"seed-{seed}" / place_of(name)


def run(study: Study, out: Path, task: str, seed: int, name: str, progress: Progress) -> None:
    """Train and evaluate one system, as far as that was not done already."""
    system = study.systems[name]
    model = trained(*training(study, out, task, seed, system.like or name), progress)
    for part, temperature in study.temperatures.items():
        told = {
            "model": str(model),
            "protocol": "self-improve",
            "updates": system.updates,
            "temperature": temperature,
            "limit": study.problems,
            "seed": seed,
            "out": place(out, task, seed, name) / part,
        }
        evaluated(EvaluationSettings(**study.tasks[task] | study.evaluation | told), progress)


def training(study: Study, out: Path, task: str, seed: int, name: str) -> tuple[str, TrainConfig]:
    """The method of a system, and its settings."""
    system, folder = study.systems[name], place(out, task, seed, name) / "training"
    told = {**study.settings(system.method), **study.tasks[task], "seed": seed, "out": folder}
    told |= system.told
    if not system.begins:
        told["model"] = str(place(out, task, seed, RATIONALES) / "training" / "model")
        if system.method != "rationale-sft":
            told["rationale_epochs"] = 0.0
    return system.method, METHODS[system.method].configure(overrides=told)


@dataclass(frozen=True)
class Results:
    """What is finished of a study."""

    study: Study
    out: Path

    def seeds(self, task: str, name: str, folder: str) -> list[int]:
        """Seeds with which a system was trained and evaluated."""
        places = (self.out / task.replace("/", "-")).glob("seed-*")
        found = (int(one.name.removeprefix("seed-")) for one in places)
        return sorted(seed for seed in found if (self.at(task, seed, name, folder)).exists())

    def at(self, task: str, seed: int, name: str, folder: str) -> Path:
        """The summary of an evaluation."""
        return place(self.out, task, seed, name) / folder / "summary.json"

    def evaluations(self) -> list[Path]:
        """The folders of the evaluations that are finished."""
        return [
            self.at(task, seed, name, folder).parent
            for task in self.study.tasks
            for name in self.study.systems_of(task)
            for folder in self.study.temperatures
            for seed in self.seeds(task, name, folder)
        ]

    def common_seeds(self, task: str, name: str, base: str, folder: str) -> list[int]:
        """Seeds of which two systems are finished."""
        both = self.seeds(task, base, folder)
        return [seed for seed in self.seeds(task, name, folder) if seed in both]

    def systems(self, task: str, folder: str) -> list[str]:
        """What is finished of a task with at least one seed."""
        return [name for name in self.study.systems_of(task) if self.seeds(task, name, folder)]

    def played(
        self, task: str, part: str, name: str, folder: str, seeds: list[int]
    ) -> list[Episode]:
        """A system's episodes of some seeds on the seen or the unseen cells."""
        return [
            episode
            for seed in seeds
            for episode in episodes_of(self.at(task, seed, name, folder).parent)
            if episode.problem.metadata["seen"] == (part == "seen")
        ]


def page(results: Results) -> str:
    """The results page."""
    study = results.study
    parts = [f"# {study.title}\n\n{study.about}\n"]
    parts.append(f"## Does it gain?\n\n{verdict(results)}\n\n{study.meaning}\n")
    if study.lists:
        parts.append(
            f"### Words that the list does not have\n\n{foreign_words(results, study.lists)}\n"
        )
    for task in study.tasks:
        for part in study.cells:
            for folder, temperature in study.temperatures.items():
                if results.seeds(task, RATIONALES, folder):
                    heading = f"## {task}, {part} cells, {decoding(temperature)}"
                    parts.append(f"{heading}\n\n{table(results, task, part, folder)}\n")
        if results.systems(task, "evaluation"):
            heading = f"## {task}, seed by seed, greedy"
            parts.append(f"{heading}\n\n{seeds_table(results, task)}\n")
    trainings = [folder.parent / "training" for folder in results.evaluations()]
    took = hours([*trainings, *results.evaluations()])
    _, config = training(study, results.out, next(iter(study.tasks)), 1, TRIPOST)
    parts.append(f"## Configuration\n\n{settings_part(config)}\n")
    facts = machine_part(results.evaluations())
    parts.append(f"## Machine\n\n{took:.1f} hours in all.\n\n{facts}\n")
    return "\n".join(parts)


@functools.cache
def episodes_of(folder: Path) -> list[Episode]:
    """An evaluation's episodes."""
    return read_episodes(folder)


def table(results: Results, task: str, part: str, folder: str) -> str:
    """All systems on the seen or unseen cells of a task."""
    names = ["accuracy", "first_accuracy", "solved_directly", "gained", "lost", "updated"]
    shown = [name.replace("_", " ") for name in names]
    heads = ["system", *shown, "SI", f"− {RATIONALES}"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    all_seeds = results.seeds(task, RATIONALES, folder)
    for name in results.systems(task, folder):
        seeds = results.seeds(task, name, folder)
        made = results.played(task, part, name, folder, seeds)
        metrics = improvement_ratios(made)
        cells = [f"{100 * (metrics[metric].value or 0):.1f}" for metric in names]
        own = [(episode, by_updates(episode)) for episode in made]
        si = said(interval(own, len(seeds))) if results.study.systems[name].updates else ""
        gain = "" if name == RATIONALES else said(difference(results, task, part, name, folder))
        label = name if seeds == all_seeds else f"{name} (seeds {', '.join(map(str, seeds))})"
        lines.append("| " + " | ".join([label, *cells, si, gain]) + " |")
    return "\n".join(lines)


def seeds_table(results: Results, task: str) -> str:
    """Accuracy by cells and seed, the spread that no interval shows."""
    folder, parts = "evaluation", results.study.cells
    seeds = results.seeds(task, RATIONALES, folder)
    heads = ["system", *(f"seed {seed}" for seed in seeds)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in results.systems(task, folder):
        cells = []
        for seed in seeds:
            summary = results.at(task, seed, name, folder)
            if summary.exists():
                of = json.loads(summary.read_text("utf-8"))["self_improvement"]
                cells.append(" / ".join(f"{100 * of[part]['accuracy']:.1f}" for part in parts))
            else:
                cells.append("")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def difference(
    results: Results, task: str, part: str, name: str, folder: str, base: str = RATIONALES
) -> tuple[float, float, float]:
    """Accuracy of a system less that of another, over the seeds that both have."""
    seeds = results.common_seeds(task, name, base, folder)
    made = results.played(task, part, name, folder, seeds)
    others = results.played(task, part, base, folder, seeds)
    both = [(episode, ends_right(episode)) for episode in made]
    both += [(episode, -ends_right(episode)) for episode in others]
    return interval(both, len(seeds))


def verdict(results: Results) -> str:
    """TriPosT less rationale fine-tuning, and its two parts: first attempts, and what comes after
    them. Rationale fine-tuning has no updates, so the parts add up."""
    heads = ["task", "cells", "decoding", "difference", "of first attempts", "by SI", ""]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for task in results.study.tasks:
        for part in results.study.cells:
            for folder, temperature in results.study.temperatures.items():
                if not (seeds := results.common_seeds(task, TRIPOST, RATIONALES, folder)):
                    continue
                of = difference(results, task, part, TRIPOST, folder)
                made = results.played(task, part, TRIPOST, folder, seeds)
                si = interval([(one, by_updates(one)) for one in made], len(seeds))
                told = "a gain" if of[1] > 0 else "a loss" if of[2] < 0 else "not told apart"
                cells = [f"`{task}`", part, decoding(temperature), said(of)]
                cells += [f"{100 * (of[0] - si[0]):+.1f}", said(si), told]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def foreign_words(results: Results, task: str) -> str:
    """How many first attempts at seen lists, in percent, have a word that the list has not."""
    temperatures = results.study.temperatures
    heads = ["system", *(decoding(temperature) for temperature in temperatures.values())]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * len(temperatures) + "|"]
    for name in results.systems(task, next(iter(temperatures))):
        cells = []
        for folder in temperatures:
            made = results.played(task, "seen", name, folder, results.seeds(task, name, folder))
            count = sum(
                not set(one.responses[0].text.split()) <= set(one.problem.question.split())
                for one in made
            )
            cells.append(f"{100 * count / len(made):.1f}" if made else "")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def decoding(temperature: float) -> str:
    """How it is called."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def ends_right(episode: Episode) -> float:
    """Whether the last attempt is right."""
    return float(episode.correct[-1])


def by_updates(episode: Episode) -> float:
    """1 if the updates made it right, -1 if they made it wrong."""
    return ends_right(episode) - float(episode.correct[0])


def interval(values: list[tuple[Episode, float]], seeds: int) -> tuple[float, float, float]:
    """The sum of a problem's values over the seeds, as a mean over seeds and problems, with its
    interval over problems."""
    sums: dict[str, float] = {}
    for episode, value in values:
        sums[episode.problem.id] = sums.get(episode.problem.id, 0.0) + value / seeds
    means = np.array(list(sums.values()))  # [P]
    ones = np.ones_like(means)
    draws = bootstrap(means[:, None], ones[:, None])[:, 0]
    low, high = np.quantile(draws, percentile_levels(len(means)))
    return Ratio(means, ones).value or 0.0, float(low), float(high)


def said(of: tuple[float, float, float]) -> str:
    """Percentage points with their interval."""
    value, low, high = (100 * one for one in of)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
