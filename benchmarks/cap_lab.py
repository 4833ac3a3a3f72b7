"""CaP on the lab, over seeds and preference losses: the page docs/results/cap-lab.md.

    python benchmarks/cap_lab.py                                   # everything
    python benchmarks/cap_lab.py --seeds 1 --tasks lab/arithmetic  # a part
    python benchmarks/cap_lab.py --other runs/score/model          # with another model's chains
    python benchmarks/cap_lab.py --page-only                       # the page again

Each seed samples chains and programs once and fine-tunes on them once; every preference loss goes
on from there, on the same pairs. All systems are evaluated on the same held-out problems: programs
at the bare question, and programs after the chains of the base model (the same wrong chains for
all), after their own chains, and after those of `--other`; greedily, and at temperature 1 with four
programs after each chain. What lies in the folder already is not run again, so parts may run side
by side. The page's other model is what SCoRe makes of the lab's with seed 1 (`score_lab.py`).
"""

import argparse
import functools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from page_parts import bootstrap, machine_part, percentile_levels, settings_part
from redraft.cli.progress import terminal_progress
from redraft.config import resolve, to_yaml
from redraft.demo import place_of
from redraft.evaluation import evaluate
from redraft.evaluation.metrics import refinement_ratios
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.summaries import summarise_refinement
from redraft.methods.cap import METHOD, CapConfig
from redraft.progress import Progress
from redraft.storage import read_jsonl, write_json, write_text
from redraft.training.launch import resume
from redraft.training.launch import train as train_method
from redraft.types import Episode

PROMPTED, PLAIN, SFT = "prompted", "plain Q → P SFT", "CaP SFT"
CONTROL = "CaP SFT + nll"
OTHERS = "CaP SFT + sigmoid+nll, other's chains too"
LOSSES = (
    "sigmoid", "sigmoid+nll", "sigmoid_norm", "robust", "ipo", "hinge", "dpop", "simpo", "orpo",
    "kto", "apo_zero", "apo_down", "nll",
)  # fmt: skip
"""The last is no preference: it learns the right programs of the pairs for as many steps more."""
SMOOTHED = {"robust": 0.1}
"""Losses that make no sense without label smoothing."""


SHOWN = """\
The supervised stage copies: after it, at temperature 1, a fifth of the programs that follow a \
wrong chain give that chain's answer, and on arithmetic that is more than before it. With greedy \
decoding it ends the copies on sorting, and on arithmetic doubles them (4.8 to 10.1 %). The second \
stage takes about half of the copies away or more, with every loss but `dpop` as it is set here, \
and ends the greedy ones. The losses that hold on to the right programs (`orpo`, `sigmoid+nll`, \
`simpo`) gain accuracy on both tasks. The bare ones gain it on arithmetic; on sorting most of them \
make the right programs less likely, and spoil programs after right chains. `apo_down`, which does \
so on purpose, destroys the policy there.

It is not the contrast with rejected programs that does most of it. The control `nll` learns the \
same right programs for as many steps, with no rejected ones: it is within a point of the most \
accurate loss on both tasks, loses as many copies as the others on arithmetic, and two thirds as \
many on sorting. What the pairs bring is above all their choice of right programs, most of them \
after wrong chains; the contrast takes away some further copies on sorting. So the claim of the \
paper holds for its two stages as we built them, and not as a claim about preferences, at least in \
a world as small as this one."""
"""What the tables mean; written by hand."""


@dataclass(frozen=True)
class Setup:
    """What a call of this benchmark runs."""

    out: Path
    problems: int
    other: str | None
    other_name: str
    losses: tuple[str, ...] = LOSSES
    told: dict[str, Any] = field(default_factory=dict)

    def systems(self, task: str) -> list[str]:
        """Names of all systems, in the order of the tables; one of them on a single task."""
        trained = [PLAIN, SFT, *(f"CaP SFT + {loss}" for loss in self.losses)]
        return [PROMPTED, *trained, *([OTHERS] if self.other and task == "lab/arithmetic" else [])]

    def place(self, task: str, seed: int, system: str) -> Path:
        """Where a system is trained and evaluated."""
        return self.out / place_of(task) / f"seed-{seed}" / place_of(system)


def main() -> None:
    """Run what is missing, then write the page if everything is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cap-lab"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/cap-lab.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tasks", nargs="+", default=["lab/arithmetic", "lab/sorting"])
    parser.add_argument("--problems", type=int, default=500, help="held-out problems")
    parser.add_argument("--questions", type=int, default=512, help="training questions")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--other", help="another model whose chains are refined")
    parser.add_argument("--other-name", default="another model", help="what the page calls it")
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    setup = Setup(
        options.out,
        options.problems,
        options.other,
        options.other_name,
        tuple(options.losses),
        {"problems_per_iteration": options.questions},
    )
    cells = [(task, seed) for task in options.tasks for seed in options.seeds]
    if not options.page_only:
        for task, seed in cells:
            run(setup, task, seed, terminal_progress())
    done = [
        sampled_of(setup.place(*cell, name)) for cell in cells for name in setup.systems(cell[0])
    ]
    if all(path.exists() for path in done):
        options.page.parent.mkdir(parents=True, exist_ok=True)
        text = page(setup, options.tasks, options.seeds)
        options.page.write_text(text, encoding="utf-8")


def run(setup: Setup, task: str, seed: int, progress: Progress) -> None:
    """Train and evaluate every system on a task with a seed, where that was not done already."""
    for name in setup.systems(task):
        place = setup.place(task, seed, name)
        if sampled_of(place).exists():
            continue
        began = time.perf_counter()
        progress.note(f"{task}, seed {seed}: {name}")
        model = "lab" if name == PROMPTED else str(trained(setup, task, seed, name, progress))
        evaluated(setup, task, seed, model, place, progress)
        progress.note(f"{time.perf_counter() - began:.0f} s")


def trained(setup: Setup, task: str, seed: int, name: str, progress: Progress) -> Path:
    """The model of a system, trained if it is not there."""
    folder = setup.place(task, seed, name) / "training"
    if (folder / "summary.json").exists():
        return folder / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was interrupted
    told = {"task": task, "seed": seed, "out": folder, **setup.told}
    loss = name.partition(" + ")[2]
    if name == PLAIN:
        told |= {"variant": "pot", "loss": "none"}
    elif name == SFT:
        told |= {"loss": "none"}
    elif loss in LOSSES:
        return branch(setup.place(task, seed, SFT) / "training", folder, loss, progress)
    else:
        told |= {"sources": f"policy,{setup.other}", "loss": "sigmoid+nll"}
    train_method(METHOD, METHOD.configure(preset="lab", overrides=told), progress)
    return folder / "model"


def branch(sft: Path, folder: Path, loss: str, progress: Progress) -> Path:
    """Go on from a supervised run with a preference stage, as if it had been asked for at once."""
    shutil.copytree(sft, folder)
    (folder / "summary.json").unlink()
    config = resolve(CapConfig, file=sft / "config.yaml").model_copy(
        update={"out": folder, "loss": loss, "label_smoothing": SMOOTHED.get(loss, 0.0)}
    )
    write_text(folder / "config.yaml", to_yaml(config, "redraft train cap"))
    resume(folder, progress)
    return folder / "model"


def summary_of(place: Path) -> Path:
    """Where a system's evaluation is summarised."""
    return place / "evaluation" / "summary.json"


def sampled_of(place: Path) -> Path:
    """Where the programs sampled at temperature 1 are summarised."""
    return place / "sampled.json"


def evaluated(
    setup: Setup, task: str, seed: int, model: str, place: Path, progress: Progress
) -> None:
    """Programs alone and after the chains of every source: greedy ones, and sampled ones."""
    shutil.rmtree(place / "evaluation", ignore_errors=True)
    others = [setup.other] if setup.other else []
    settings = EvaluationSettings(
        model=model,
        task=task,
        limit=setup.problems,
        strategy="program,cap,best-cap",
        budget=5,
        select="vote",
        sources=",".join(["lab", "self", *others]),
        temperature=1.0,
        max_tokens=METHOD.presets["lab"]["max_tokens"],
        seed=seed,
        out=place / "evaluation",
    )
    evaluate(settings, progress)
    files = sorted((place / "evaluation" / "episodes").glob("best-cap*.jsonl"))
    sampled = [episode for file in files for episode in read_jsonl(file, Episode)]
    summary = summarise_refinement(sampled).to_summary()
    write_json(sampled_of(place), summary["refinement"])


def page(setup: Setup, tasks: list[str], seeds: list[int]) -> str:
    """The results page."""
    questions = setup.told["problems_per_iteration"]
    told_of_other = f" `--other` is {setup.other_name}." if setup.other else ""
    parts = [
        f"""# CaP on the lab

Made by `python benchmarks/cap_lab.py` on {setup.problems} held-out problems of each task, \
seeds {", ".join(map(str, seeds))}. Every trained system sampled programs on {questions} \
questions. All preference losses go on from the same supervised model of their seed, on the same \
pairs; their β and learning rate are the defaults of the losses and of the preset, not tuned for \
each. `nll` is the control: the right programs of the pairs alone, no preference. The chains of \
the first tables are the base model's: the same, and the same wrong ones, for all systems; greedy \
chains and programs, then sampled ones (T = 1, four programs after each chain). A copy is a wrong \
program with the wrong answer of its chain; copied and repaired are shares of the wrong chains, \
spoiled of the right ones.{told_of_other} Intervals are 95 % bootstrap intervals over problems, \
within a seed but for the first two tables of a task, which are paired and pool the seeds.
"""
    ]
    parts.append(f"## Does preference optimisation correct what fine-tuning copies?\n\n{SHOWN}\n")
    for task in tasks:
        found = {
            (name, seed): {
                **_json(summary_of(setup.place(task, seed, name))),
                "sampled": _json(sampled_of(setup.place(task, seed, name))),
            }
            for name in setup.systems(task)
            for seed in seeds
        }
        parts.append(f"## {task}\n")
        for reference in (SFT, CONTROL):
            compared = against(setup, task, seeds, reference)
            parts.append(f"### Against `{reference}`\n\n{compared}\n")
        parts.append(f"### Means over seeds\n\n{means(found, seeds)}\n")
        parts.append(f"### Seed by seed, after base chains, T = 1\n\n{intervals(found, seeds)}\n")
        parts.append(
            f"### By the model that wrote the chains, T = 1\n\n{cross_model(setup, found, seeds)}\n"
        )
        parts.append(f"### Pairs\n\n{pairs(setup, task, seeds)}\n")
    configuration = METHOD.configure(preset="lab", overrides={"out": Path("runs"), **setup.told})
    parts.append(f"## Configuration\n\n{settings_part(configuration)}\n")
    evaluations = [
        setup.place(task, seed, name) / "evaluation"
        for task in tasks
        for seed in seeds
        for name in setup.systems(task)
    ]
    parts.append(f"## Machine\n\n{machine_part(evaluations)}\n")
    return "\n".join(parts)


Found = dict[tuple[str, int], dict[str, Any]]


def against(setup: Setup, task: str, seeds: list[int], reference: str) -> str:
    """Programs sampled after the base model's chains: accuracy and copies less those of a
    reference, the same chains on both sides."""
    base = [sums_of(setup.place(task, seed, reference)) for seed in seeds]
    rows = []
    for name in setup.systems(task):
        if name == reference:
            continue
        mine = [sums_of(setup.place(task, seed, name)) for seed in seeds]
        problems = sorted(base[0])
        # By problem: right programs, copies, programs, programs after wrong chains.
        ours, theirs = (
            np.array([sum(of_seed[problem] for of_seed in one) for problem in problems])
            for one in (mine, base)
        )  # [P, 4]
        numerators, denominators = ours[:, :2] - theirs[:, :2], theirs[:, 2:]
        draws = bootstrap(numerators, denominators)  # [draws, 2]
        levels = percentile_levels(len(problems))
        cells = []
        for column, (fewer, more) in enumerate((("worse", "better"), ("fewer", "more"))):
            value = numerators[:, column].sum() / denominators[:, column].sum()
            low, high = np.quantile(draws[:, column], levels)
            told = more if low > 0 else fewer if high < 0 else "not told apart"
            cells += [f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", told]
        rows.append([name, *cells])
    return table(["system", "accuracy", "", "copied", ""], rows)


@functools.cache
def sums_of(place: Path) -> dict[str, Any]:
    """By problem, of the programs sampled after the base model's chains: how many are right and how
    many copies, how many there are, and how many after wrong chains; [4] each."""
    files = sorted((place / "evaluation" / "episodes").glob("best-cap*.jsonl"))
    episodes = [
        episode
        for file in files
        for episode in read_jsonl(file, Episode)
        if len(episode.grades) == 2 and episode.responses[0].source == "lab"
    ]
    metrics = refinement_ratios(episodes)
    right, copies = metrics["accuracy/turn2"], metrics["copy_rate"]
    rows = np.stack(
        [right.numerator, copies.numerator, right.denominator, copies.denominator], axis=1
    )
    sums: dict[str, Any] = {}
    for episode, row in zip(episodes, rows, strict=True):
        sums[episode.problem.id] = sums.get(episode.problem.id, 0) + row
    return sums


def means(found: Found, seeds: list[int]) -> str:
    """A row for each system: greedy programs alone and after base chains, then sampled ones."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        of = [found[name, seed] for seed in seeds]
        cells = [name, mean([one["strategies"]["program"]["accuracy"] for one in of])]
        for kind in ("refinement", "sampled"):
            base = [one[kind]["by_source"]["lab"] for one in of]
            cells += [mean([one["accuracy"][turn] for one in base]) for turn in (0, 1)]
            cells += [
                mean([one[key] for one in base]) for key in ("copy_rate", "repaired", "spoiled")
            ]
        rows.append(cells)
    columns = ["chain", "program after it", "copied", "repaired", "spoiled"]
    sampled = [f"{column}, T = 1" for column in columns]
    return table(["system", "program alone", *columns, *sampled], rows)


def intervals(found: Found, seeds: list[int]) -> str:
    """Accuracy and copy rate of each seed's sampled programs, with intervals."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        base = [found[name, seed]["sampled"]["by_source"]["lab"] for seed in seeds]
        rows.append(
            [name]
            + [with_interval(one["accuracy"][1], one["ci95"]["accuracy"][1]) for one in base]
            + [with_interval(one["copy_rate"], one["ci95"]["copy_rate"]) for one in base]
        )
    heads = [f"accuracy, seed {seed}" for seed in seeds] + [f"copied, seed {s}" for s in seeds]
    return table(["system", *heads], rows)


def cross_model(setup: Setup, found: Found, seeds: list[int]) -> str:
    """Accuracy before and after, by the model that wrote the chains."""
    names = {"lab": "the base model", "self": "the system itself"}
    names |= {setup.other: setup.other_name} if setup.other else {}
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        by = [found[name, seed]["sampled"]["by_source"] for seed in seeds]
        cells = [
            f"{mean([one[source]['accuracy'][0] for one in by])} → "
            f"{mean([one[source]['accuracy'][1] for one in by])} "
            f"(copied {mean([one[source]['copy_rate'] for one in by])})"
            for source in names
        ]
        rows.append([name, *cells])
    return table(["system", *(f"chains of {name}" for name in names.values())], rows)


def pairs(setup: Setup, task: str, seeds: list[int]) -> str:
    """How many supervised examples and pairs there were, by type, and how the stage went."""
    rows = []
    for name in setup.systems(task):
        if name == PROMPTED:
            continue
        folders = [setup.place(task, seed, name) / "training" for seed in seeds]
        first = [_json(folder / "iterations/01/summary.json") for folder in folders]
        cells = [name, f"{np.mean([one['examples'] for one in first]):.0f}"]
        if (folders[0] / "iterations/02/summary.json").exists():
            kept = [_json(folder / "iterations/02/summary.json")["kept"] for folder in folders]
            cells += [f"{np.mean([one[kind] for one in kept]):.0f}" for kind in kept[0]]
            last = [list(_preference_lines(folder))[-1] for folder in folders]
            cells.append(f"{np.mean([line['rewards/accuracies'] for line in last]):.2f}")
            fell = [line.get("logps/chosen_change") for line in last]
            cells.append(
                "" if None in fell else f"{np.mean([x for x in fell if x is not None]):+.2f}"
            )
        rows.append(cells + [""] * (8 - len(cells)))
    heads = ["system", "examples", "fix", "fix-hard", "preserve", "exec"]
    return table([*heads, "pairs told apart, last step", "chosen log-prob, change"], rows)


def _preference_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for text in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        line = json.loads(text)
        if line["phase"] == "preferences":
            yield line


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def mean(values: list[float | None]) -> str:
    """In percent; over the seeds that define it."""
    known = [value for value in values if value is not None]
    return f"{100 * np.mean(known):.1f}" if known else "–"


def with_interval(value: float | None, interval: list[float] | None) -> str:
    """In percent."""
    if value is None or interval is None:
        return "–"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    main()
