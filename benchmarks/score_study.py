"""Studies of SCoRe, its paper's ablations and plain multi-turn RL over seeds, and their pages:
`score_lab.py` on the lab, `score_real.py` on a real model.

All systems of a seed are trained for the same number of steps on the same number of episodes and
evaluated on the same held-out problems. What lies in the folder already is not run again and what
was interrupted goes on, so parts may run side by side. The page holds what is finished.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import machine_part, settings_part
from redraft.cli.progress import terminal_progress
from redraft.demo import place_of
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.tables import comparison_markdown, difference_text
from redraft.methods.score import METHOD, ScoreConfig, Variant
from redraft.progress import Progress
from redraft.storage import write_text
from redraft.types import Episode
from resumable import evaluated, hours, trained

SYSTEMS: dict[str, Variant | None] = {
    "base": None,
    "single-turn RL": "single-turn",
    "multi-turn RL (last)": "multi-turn-last",
    "multi-turn RL (sum)": "multi-turn-sum",
    "SCoRe without stage I": "no-stage-one",
    "SCoRe without bonus": "no-bonus",
    "SCoRe": "score",
}


@dataclass(frozen=True)
class Study:
    """What is compared, and on what."""

    name: str
    title: str
    about: str
    """What the page says first."""
    base: Callable[[Path, Progress], str]
    """The base model, made in a folder if need be."""
    source: Mapping[str, Any]
    """The settings that name the problems and what is said, the same for all."""
    settings: Mapping[str, Any]
    """The settings of training."""
    evaluations: Mapping[str, tuple[str, dict[str, Any]]]
    """By folder what an evaluation is called and how it samples."""
    looked_at: int
    """Held-out problems with which settings were compared, the first ones: left out."""
    systems: tuple[str, ...] = tuple(SYSTEMS)


def main(study: Study) -> None:
    """Run what is missing; the page is written after each system."""
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--out", type=Path, default=Path(f"runs/{study.name}"))
    parser.add_argument("--page", type=Path, default=Path(f"docs/results/{study.name}.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=study.systems, default=list(study.systems))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    progress = terminal_progress()
    if not options.page_only:
        base = study.base(options.out, progress)
        for seed in options.seeds:
            for name in options.systems:
                run(study, name, seed, options.out, base, progress)
                write_text(options.page, page(study, options.out))
    write_text(options.page, page(study, options.out))


def place(out: Path, name: str, seed: int) -> Path:
    """A system's folder."""
    return out / f"seed-{seed}" / place_of(name)


def training(study: Study, name: str, seed: int, out: Path, base: str) -> ScoreConfig:
    """What a system is trained with."""
    told = {"model": base, "variant": SYSTEMS[name], "seed": seed}
    folder = place(out, name, seed) / "training"
    settings = {**study.settings, **study.source, **told, "out": folder}
    config: ScoreConfig = METHOD.configure(overrides=settings)
    return config


def run(study: Study, name: str, seed: int, out: Path, base: str, progress: Progress) -> None:
    """Train and evaluate one system, as far as that was not done already."""
    model = base
    if SYSTEMS[name] is not None:
        config = training(study, name, seed, out, base)
        model = str(trained(METHOD.name, config, progress))
    for folder, (_, told) in study.evaluations.items():
        place_ = place(out, name, seed) / folder
        settings = {**study.source, **told, "model": model, "seed": seed, "out": place_}
        evaluated(EvaluationSettings(**settings), progress)


Runs = dict[tuple[int, str], Path]


def finished(study: Study, out: Path, folder: str) -> Runs:
    """The evaluations into `folder` that have ended, by seed and system."""
    seeds = sorted(int(one.name.removeprefix("seed-")) for one in out.glob("seed-*"))
    runs = {
        (seed, name): place(out, name, seed) / folder for seed in seeds for name in study.systems
    }
    return {of: run for of, run in runs.items() if (run / "summary.json").exists()}


def page(study: Study, out: Path) -> str:
    """The results as Markdown."""
    parts, runs = [f"# {study.title}", study.about], []
    tables = {}
    for folder, (title, _) in study.evaluations.items():
        done = finished(study, out, folder)
        runs += list(done.values())
        tables[title] = {of: unseen(run, study.looked_at) for of, run in done.items()}
    for title, episodes in tables.items():
        parts += [f"## {title}, over the seeds", seeds_table(episodes)]
    for title, episodes in tables.items():
        parts.append(f"## {title}, seed by seed")
        parts += [
            seed_section(seed, episodes) for seed in dict.fromkeys(seed for seed, _ in episodes)
        ]
    config = training(study, "SCoRe", 1, out, "base")
    parts += ["## Configuration", f"SCoRe's:\n\n{settings_part(config)}"]
    trainings = [run.parent / "training" for run in runs]
    parts += ["## Machine", f"{hours([*trainings, *runs]):.1f} hours in all.", machine_part(runs)]
    return "\n\n".join(parts) + "\n"


def unseen(evaluation: Path, looked_at: int) -> list[Episode]:
    """An evaluation's episodes on problems that nobody has looked at."""
    episodes = read_episodes(evaluation)
    problems = list(dict.fromkeys(episode.problem.id for episode in episodes))
    left_out = set(problems[:looked_at])
    return [episode for episode in episodes if episode.problem.id not in left_out]


Played = dict[tuple[int, str], list[Episode]]


def seeds_table(episodes: Played) -> str:
    """Mean over seeds of t1, t2 and Δ, and the Δ of each seed."""
    seeds = list(dict.fromkeys(seed for seed, _ in episodes))
    head = "".join(f" Δ seed {seed} |" for seed in seeds)
    lines = [f"| system | t1 | t2 | Δ |{head}", "|---|" + "---|" * (3 + len(seeds))]
    for name in dict.fromkeys(name for _, name in episodes):
        summaries = {
            seed: summarise(episodes[seed, name]).to_summary()
            for seed in seeds
            if (seed, name) in episodes
        }
        t1, t2 = np.mean([s["accuracy"] for s in summaries.values()], axis=0) * 100
        deltas = {seed: 100 * float(s["delta_t1_t2"]) for seed, s in summaries.items()}
        each = "".join(f" {deltas[seed]:+.1f} |" if seed in deltas else "  |" for seed in seeds)
        mean = np.mean(list(deltas.values()))
        lines.append(f"| {name} | {t1:.1f} | {t2:.1f} | {mean:+.1f} |{each}")
    return "\n".join(lines)


def seed_section(seed: int, episodes: Played) -> str:
    """One seed's table, and SCoRe against every other system on the same problems."""
    names = [name for of, name in episodes if of == seed]
    summaries = {name: summarise(episodes[seed, name]).to_summary() for name in names}
    lines = [f"### Seed {seed}", "", comparison_markdown(summaries), ""]
    for name in names if "SCoRe" in names else []:
        estimate = paired_difference(episodes[seed, "SCoRe"], episodes[seed, name])
        if name != "SCoRe" and estimate is not None:
            lines.append(f"- Δ of SCoRe minus Δ of {name}: {difference_text(estimate)}")
    return "\n".join(lines)
