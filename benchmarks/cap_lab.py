"""CaP on the lab, over seeds and preference losses: the page docs/results/cap-lab.md.

    python benchmarks/cap_lab.py                                   # everything
    python benchmarks/cap_lab.py --seeds 1 --tasks lab/arithmetic  # a part
    python benchmarks/cap_lab.py --other runs/score/model          # with another model's chains
    python benchmarks/cap_lab.py --page-only                       # the page again

Programs are written after the chains of the base model, after each system's own, and after those of
`--other`; the page's other model is what SCoRe makes of the lab's with seed 1 (`score_lab.py`).
"""

import argparse
from pathlib import Path

from cap_study import (
    CONTROL,
    PLAIN,
    PROMPTED,
    SFT,
    Study,
    System,
    against,
    cross_model,
    figures_of,
    intervals,
    means,
    pairs,
    place_in,
    run,
    summary_of,
    with_losses,
)
from page_parts import machine_part, settings_part
from redraft.cli.progress import terminal_progress
from redraft.methods.cap import METHOD
from redraft.storage import write_text

OTHERS = "CaP SFT + sigmoid+nll, other's chains too"
LOSSES = (
    "sigmoid", "sigmoid+nll", "sigmoid_norm", "robust", "ipo", "hinge", "dpop", "simpo", "orpo",
    "kto", "apo_zero", "apo_down", "nll",
)  # fmt: skip
"""The last is no preference: it learns the right programs of the pairs for as many steps more."""


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


def study_of(task: str, options: argparse.Namespace) -> Study:
    """What is compared on a task; what the other's chains teach on one of them only."""
    systems = {PROMPTED: System(), PLAIN: System({"variant": "pot", "loss": "none"})}
    systems |= with_losses(options.losses)
    others = {"self": "the system itself"}
    if options.other:
        others[options.other] = options.other_name
    if options.other and task == "lab/arithmetic":
        told = {"sources": f"policy,{options.other}", "loss": "sigmoid+nll"}
        systems[OTHERS] = System(told)
    preset = METHOD.presets["lab"]
    return Study(
        base="lab",
        systems=systems,
        source={"task": task, "max_tokens": preset["max_tokens"]},
        training={**preset, "problems_per_iteration": options.questions},
        problems=options.problems,
        others=others,
    )


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
    studies = {task: study_of(task, options) for task in options.tasks}
    places = {
        (task, name, seed): place_in(options.out, task, seed, name)
        for task, study in studies.items()
        for seed in options.seeds
        for name in study.systems
    }
    for (task, name, seed), place in () if options.page_only else places.items():
        run(studies[task], name, place, seed, terminal_progress())
    if all(summary_of(place).exists() for place in places.values()):
        write_text(options.page, page(studies, places, options))


def page(
    studies: dict[str, Study],
    places: dict[tuple[str, str, int], Path],
    options: argparse.Namespace,
) -> str:
    """The results page."""
    told_of_other = f" `--other` is {options.other_name}." if options.other else ""
    parts = [
        f"""# CaP on the lab

Made by `python benchmarks/cap_lab.py` on {options.problems} held-out problems of each task, seeds \
{", ".join(map(str, options.seeds))}. Every trained system sampled programs on {options.questions} \
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
    for task, study in studies.items():
        found = {
            (name, seed): figures_of(study, place)
            for (of, name, seed), place in places.items()
            if of == task
        }
        parts.append(f"## {task}\n")
        parts += [f"### Against `{of}`\n\n{against(found, of)}\n" for of in (SFT, CONTROL)]
        parts.append(f"### Means over seeds\n\n{means(found)}\n")
        parts.append(f"### Seed by seed, after base chains, T = 1\n\n{intervals(found)}\n")
        chains = cross_model(found, list(study.chains_of.values()))
        parts.append(f"### By the model that wrote the chains, T = 1\n\n{chains}\n")
        parts.append(f"### Pairs\n\n{pairs(found)}\n")
    told = {"out": Path("runs"), "problems_per_iteration": options.questions}
    configuration = METHOD.configure(preset="lab", overrides=told)
    parts.append(f"## Configuration\n\n{settings_part(configuration)}\n")
    machine = machine_part(place / "evaluation" for place in places.values())
    parts.append(f"## Machine\n\n{machine}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
