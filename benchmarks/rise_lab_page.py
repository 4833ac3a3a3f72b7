"""The results page of `rise_lab.py`, from what its runs have left on disk."""

import json
from pathlib import Path

from redraft.config import to_yaml
from redraft.evaluation.tables import sequential_markdown
from redraft.methods.rise import RiseConfig
from redraft.run_directory import RunDirectory
from redraft.system import environment
from redraft.training.method import METHODS
from rise_lab_systems import COMMON, PAIR, STAR, SYSTEMS
from rise_study import (
    TURNS,
    Learned,
    all_learned,
    gains,
    learned_table,
    over_base,
    over_seeds,
    summary_of,
    values_in,
)


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

{learned_table(learned_from(places))}
"""
    ]
    for seed, of in summaries.items():
        against = over_base({name: values_in(place) for name, place in places[seed].items()})
        parts.append(f"## Seed {seed}\n\n{sequential_markdown(of)}\n{gains(of)}\n{against}")
    parts.append(f"## Configuration\n\n{configurations(places)}\n")
    machine = json.dumps(environment(), indent=1)
    parts.append(f"## Machine\n\n```json\n{machine}\n```\n")
    return "\n".join(parts)


def learned_from(places: dict[int, dict[str, Path]]) -> dict[str, list[list[Learned]]]:
    """What each system's iterations drew and learned from, by seed."""
    return {
        name: [all_learned(of[name], system) for of in places.values()]
        for name, system in SYSTEMS.items()
    }


def how_windowed(places: dict[int, dict[str, Path]]) -> str:
    """What the policies saw of their dialogue, in training and here."""
    of = next(iter(places.values()))
    windows = {
        name: RunDirectory.open(of[name] / "training")
        .config(METHODS[system.method].settings)[0]
        .window
        for name, system in SYSTEMS.items()
        if system.method is not None
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
