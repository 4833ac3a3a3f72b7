"""The results page of `rise_lab.py`, from what its runs have left on disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redraft.config import to_yaml
from redraft.evaluation.result import read_episodes
from redraft.evaluation.sequential import OracleFree, system_difference, values_by_problem
from redraft.evaluation.tables import sequential_markdown
from redraft.learning.imitation import Example
from redraft.methods.rise import RiseConfig
from redraft.run_directory import RunDirectory
from redraft.storage import read_jsonl
from redraft.system import environment
from redraft.training.method import METHODS
from redraft.training.settings import SupervisedConfig
from redraft.types import Episode
from rise_lab_systems import COMMON, PAIR, STAR, SYSTEMS, TURNS, summary_of


def page(places: dict[int, dict[str, Path]], problems: int) -> str:
    """The results page."""
    summaries = {
        seed: {
            name: json.loads(summary_of(place).read_text("utf-8"))["sequential"]
            for name, place in of.items()
        }
        for seed, of in places.items()
    }
    several = RiseConfig.model_fields["best_of"].default
    parts = [
        f"""# RISE on the lab

Made by `python benchmarks/rise_lab.py` on `{COMMON["task"]}`: {problems} held-out problems, \
{TURNS} attempts in a row at temperature 1 and {TURNS} first attempts side by side. m1@t{TURNS} is \
the majority over the {TURNS} turns, no oracle; m{TURNS}@t1 the majority over {TURNS} parallel \
first attempts; p1@t{TURNS} and pass@{TURNS} have an oracle and compare with each other only \
(`docs/metrics.md`).

Every system collected on {COMMON["problems_per_iteration"]} problems in an iteration, the same \
ones where it has that iteration, and was fine-tuned with the same learning rate and batch. \
Iterations and epochs are SCoRe's for STaR ({STAR["iterations"]} iterations, each from the base) \
and Pair-SFT ({PAIR["iterations"]} iteration, {PAIR["epochs"]:g} epoch), and those of RISE's lab \
preset ({COMMON["iterations"]} iterations, {COMMON["epochs"]:g} epochs) for all others. Equal \
problems are not equal samples: how many attempts a system drew stands below. They are not made \
equal, because how many there are is part of a method: RISE draws {several} more where its roll-in \
was wrong, and fewer the better it gets.

{how_windowed(places)}

The row Self-Refine is the base model with the prompts and the protocol `self-refine`: it is asked \
for the error and a new solution until it says that its solution is correct. The lab's model was \
pretrained on the lab's own texts and does not understand such a prompt, nor the way in which it \
poses the problem; the row shows that the protocol runs, and says nothing about Self-Refine on a \
model that reads English.

## Over the seeds

{over_seeds(summaries)}

## What was learned from

Means over the seeds, by iteration. Attempts drawn are the policy's, with those of the teacher \
behind the plus sign. A copy repeats the attempt before it to the letter.

{learned_from(places)}
"""
    ]
    for seed, of in summaries.items():
        against = over_base(places[seed])
        parts.append(f"## Seed {seed}\n\n{sequential_markdown(of)}\n{gains(of)}\n{against}")
    parts.append(f"## Configuration\n\n{configurations(places)}\n")
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


def learned_from(places: dict[int, dict[str, Path]]) -> str:
    """What each system drew and learned from, by iteration, mean over seeds."""
    lines = [
        "| system | attempts drawn | examples | right attempts learned from | copies |",
        "|---|---|---|---|---|",
    ]
    for name, system in SYSTEMS.items():
        if system.method is None:
            continue
        settings = METHODS[system.method].settings
        by_seed = []
        for of in places.values():
            config, _ = RunDirectory.open(of[name] / "training").config(settings)
            folders = sorted(of[name].glob("training/iterations/*"))
            by_seed.append([learned_in(folder, config) for folder in folders])
        cells: list[list[str]] = [[], [], [], []]
        for found in zip(*by_seed, strict=True):
            drawn, taught, examples, right, copies = np.mean(
                [(f.drawn, f.taught, f.examples, f.right, f.copies) for f in found], axis=0
            )
            cells[0].append(f"{drawn:.0f}" + (f" + {taught:.0f}" if taught else ""))
            cells[1].append(f"{examples:.0f}")
            cells[2].append(f"{100 * right:.0f} %")
            cells[3].append(f"{100 * copies:.0f} %")
        lines.append("| " + " | ".join([name, *map(", ".join, cells)]) + " |")
    return "\n".join(lines)


def how_windowed(places: dict[int, dict[str, Path]]) -> str:
    """What the policies saw of their dialogue, in training and here."""
    windows = {
        name: RunDirectory.open(place / "training")
        .config(METHODS[system.method].settings)[0]
        .window
        for name, system in SYSTEMS.items()
        if system.method is not None
        for place in [next(iter(places.values()))[name] / "training"]
        for config, _ in [RunDirectory.open(place).config(METHODS[system.method].settings)]
    }
    with_one = {name: window for name, window in windows.items() if window is not None}
    if not with_one:
        return (
            "No policy was trained with a sliding window, so none is evaluated with one: all see "
            "their whole dialogue, also in the turns that are later than any in training."
        )
    told = ", ".join(f"{name} {window}" for name, window in with_one.items())
    return (
        f"Evaluated with the sliding window of their training: {told}; all others see everything."
    )


def configurations(places: dict[int, dict[str, Path]]) -> str:
    """The first seed's settings as its runs have them: RISE's whole, of others what differs."""
    of = next(iter(places.values()))
    told, whole = {}, ""
    for name, system in SYSTEMS.items():
        if system.method is None:
            continue
        config, _ = RunDirectory.open(of[name] / "training").config(METHODS[system.method].settings)
        told[name] = config.model_dump(mode="json", exclude={"out", "seed"})
        whole = whole or to_yaml(config, name)
    lines = [line for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    lines = [line for line in lines if not line.startswith(("out:", "seed:"))]
    first, *others = told
    parts = [f"{first}:\n\n```yaml", *lines, "```\n", "The others, where they differ:\n"]
    for name in others:
        differing = {k: v for k, v in told[name].items() if told[first].get(k, v) != v}
        own = {k: v for k, v in told[name].items() if k not in told[first]}
        shown = ", ".join(f"{k} {v}" for k, v in (differing | own).items())
        parts.append(f"- {name}: {shown or 'nothing'}")
    return "\n".join(parts)


def over_base(places: dict[str, Path]) -> str:
    """What each system gains on the base model, on the same problems."""
    values = {}
    for name, place in places.items():
        sequential, parallel = (
            read_episodes(place / "evaluation", part) for part in ("turns", "parallel")
        )
        values[name] = values_by_problem(OracleFree(tuple(sequential), TURNS), parallel)
    base = values.pop("base")
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
