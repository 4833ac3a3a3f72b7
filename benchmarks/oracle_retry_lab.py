"""Oracle retry beside SCoRe on the lab, over seeds: the page docs/results/oracle-retry-lab.md.

    python benchmarks/oracle_retry_lab.py                                # everything
    python benchmarks/oracle_retry_lab.py --seeds 1 --systems SCoRe      # a part
    python benchmarks/oracle_retry_lab.py --page-only                    # the page again

Both methods take the same number of steps on the same number of episodes (an episode of oracle
retry has one to three attempts, one of SCoRe two). All systems are evaluated on the same held-out
problems: greedily with a neutral instruction and no oracle, which is what a user has, and at
temperature 1 with an oracle that says "wrong" up to two times, which is what oracle retry was
trained in. What lies in the folder already is not run again, so parts may run side by side.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import machine_part, settings_part
from redraft.cli.progress import terminal_progress
from redraft.evaluation.evaluate import evaluate
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.tables import difference_text
from redraft.training.launch import train
from redraft.training.method import METHODS
from redraft.training.settings import TrainConfig
from redraft.types import Episode

SYSTEMS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "base": None,
    "SCoRe": ("score", {}),
    "oracle retry": ("oracle-retry", {"attempts": 3}),
}
"""The method of each system and its settings beside the preset `lab`; None: the base model."""

TASK = "lab/sorting"
PROBLEMS = 1000
LOOKED_AT = 300
"""Held-out problems with which the lab's settings were compared: the first ones, left out."""

EVALUATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"protocol": "intrinsic", "turns": 2, "temperature": 0.0},
    "oracle": {"protocol": "oracle", "turns": 3, "temperature": 1.0},
}


def main() -> None:
    """Run what is missing, then write the page if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/oracle-retry-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/oracle-retry-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    for seed in [] if options.page_only else options.seeds:
        for name in options.systems:
            run(name, seed, place(options.out, name, seed))
    places = {
        (name, seed): place(options.out, name, seed) for name in SYSTEMS for seed in options.seeds
    }
    if all(
        (one / part / "summary.json").exists() for one in places.values() for part in EVALUATIONS
    ):
        options.page.write_text(page(places, options.seeds), encoding="utf-8")


def place(out: Path, name: str, seed: int) -> Path:
    """The folder of a system; the base model has no seed but that of sampling."""
    return out / f"seed-{seed}" / name.replace(" ", "-").lower()


def configuration(name: str, seed: int, folder: Path) -> TrainConfig:
    """What a system is trained with."""
    chosen = SYSTEMS[name]
    assert chosen is not None
    method, settings = chosen
    told = {"out": folder / "training", "seed": seed, **settings}
    config: TrainConfig = METHODS[method].configure(preset="lab", overrides=told)
    return config


def run(name: str, seed: int, folder: Path) -> None:
    """Train and evaluate one system, as far as that was not done already."""
    progress, model = terminal_progress(), "lab"
    if (chosen := SYSTEMS[name]) is not None:
        model = str(folder / "training" / "model")
        if not (folder / "training" / "summary.json").exists():
            progress.note(f"seed {seed}, {name}")
            train(chosen[0], configuration(name, seed, folder), progress)
    for part, how in EVALUATIONS.items():
        if not (folder / part / "summary.json").exists():
            settings = EvaluationSettings(
                model=model,
                task=TASK,
                limit=PROBLEMS,
                max_tokens=96,
                seed=seed,
                out=folder / part,
                **how,
            )
            evaluate(settings, progress)


def unseen(folder: Path) -> list[Episode]:
    """An evaluation's episodes on problems that nobody has looked at."""
    episodes = read_episodes(folder)
    problems = list(dict.fromkeys(episode.problem.id for episode in episodes))
    return [episode for episode in episodes if episode.problem.id not in problems[:LOOKED_AT]]


def page(places: dict[tuple[str, int], Path], seeds: list[int]) -> str:
    """The results as Markdown."""
    found = {
        (name, seed, part): unseen(folder / part)
        for (name, seed), folder in places.items()
        for part in EVALUATIONS
    }
    example = places["oracle retry", seeds[0]]
    return "\n".join(
        [
            "# Oracle retry beside SCoRe on the lab",
            "",
            f"Made by `python benchmarks/oracle_retry_lab.py` on `{TASK}`: held-out problems",
            f"{LOOKED_AT + 1} to {PROBLEMS}; seeds {', '.join(map(str, seeds))}. Both methods had "
            "the same number of",
            "optimiser steps and of episodes. Percent and points; intervals are 95 %",
            "intervals over problems.",
            "",
            "## Greedy, without an oracle: a neutral instruction between two attempts",
            "",
            *greedy_table(found, seeds),
            "",
            "## Temperature 1, with an oracle: at most three attempts",
            "",
            'An oracle says "wrong" (in the lab\'s words) until an answer is right, so that the',
            "last column is an upper bound for a user who has none.",
            "",
            *oracle_table(found, seeds),
            "",
            "## Differences",
            "",
            *differences(found, seeds),
            "",
            "## Configuration of oracle retry",
            "",
            settings_part(configuration("oracle retry", seeds[0], example)),
            "",
            "## Machine",
            "",
            machine_part(
                places[name, seed] / "training"
                for name in SYSTEMS
                if SYSTEMS[name] is not None
                for seed in seeds
            ),
            "",
        ]
    )


def values(episodes: list[Episode], turns: int) -> dict[str, Any]:
    """An evaluation's numbers, as in its `summary.json`."""
    return summarise(episodes, turns=turns).to_summary()


def greedy_table(found: dict[tuple[str, int, str], list[Episode]], seeds: list[int]) -> list[str]:
    """Mean over seeds of both attempts and Δ, and Δ of each seed with its interval."""
    lines = [
        "| system | t1 | t2 | Δ |" + "".join(f" Δ seed {seed} |" for seed in seeds),
        "|---|" + "---|" * (3 + len(seeds)),
    ]
    for name in SYSTEMS:
        each = [values(found[name, seed, "greedy"], 2) for seed in seeds]
        t1, t2 = 100 * np.mean([one["accuracy"] for one in each], axis=0)
        cells = [
            f"{100 * one['delta_t1_t2']:+.1f} [{{:+.1f}}, {{:+.1f}}]".format(
                *(100 * b for b in one["ci95"]["delta_t1_t2"])
            )
            for one in each
        ]
        lines.append(f"| {name} | {t1:.1f} | {t2:.1f} | {t2 - t1:+.1f} | {' | '.join(cells)} |")
    return lines


def oracle_table(found: dict[tuple[str, int, str], list[Episode]], seeds: list[int]) -> list[str]:
    """Share solved within 1, 2 and 3 attempts, mean over seeds, and within 3 of each seed."""
    lines = [
        "| system | within 1 | within 2 | within 3 |"
        + "".join(f" within 3, seed {seed} |" for seed in seeds),
        "|---|" + "---|" * (3 + len(seeds)),
    ]
    for name in SYSTEMS:
        each = [values(found[name, seed, "oracle"], 3) for seed in seeds]
        shares = 100 * np.mean([one["accuracy"] for one in each], axis=0)
        cells = [
            f"{100 * one['accuracy'][2]:.1f} [{{:.1f}}, {{:.1f}}]".format(
                *(100 * b for b in one["ci95"]["accuracy"][2])
            )
            for one in each
        ]
        means = " | ".join(f"{share:.1f}" for share in shares)
        lines.append(f"| {name} | {means} | {' | '.join(cells)} |")
    return lines


def differences(found: dict[tuple[str, int, str], list[Episode]], seeds: list[int]) -> list[str]:
    """Oracle retry against SCoRe on the same problems, seed by seed."""
    compared = [("greedy", "delta_t1_t2", "Δ"), ("greedy", "accuracy/turn2", "second attempt")]
    compared += [("oracle", "accuracy/turn3", "solved within 3 attempts, with the oracle")]
    lines = []
    for part, metric, label in compared:
        each = [
            difference_text(
                paired_difference(
                    found["oracle retry", seed, part], found["SCoRe", seed, part], metric
                ),
                metric,
            )
            for seed in seeds
        ]
        lines.append(f"- {label}, oracle retry minus SCoRe, by seed: {'; '.join(each)}")
    return lines


if __name__ == "__main__":
    main()
