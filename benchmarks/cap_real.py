"""CaP on a real model: the page docs/results/cap-real.md.

    python benchmarks/cap_real.py --data DATA                 # hours on a CPU; goes on where it was
    python benchmarks/cap_real.py --data DATA --systems prompted "CaP SFT"
    python benchmarks/cap_real.py --page-only

Qwen2.5-Coder-0.5B-Instruct with LoRA on GSM8K, with programs that are run. DATA is a folder with
gsm8k/ as JSON Lines; without it the data come from the hub. The model is `public_models.py`'s, in
`models/`.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from cap_study import (
    BASE_CHAINS,
    CONTROL,
    PROMPTED,
    SFT,
    Figures,
    Found,
    Study,
    System,
    against,
    configured,
    figures_of,
    means,
    pairs,
    place_in,
    run,
    table,
    with_interval,
    with_losses,
)
from page_parts import settings_part
from real_study import (
    add_sizes,
    ending_in_one_line,
    folder_of,
    in_order,
    keep,
    machine_of,
    machine_part,
    missing,
    parser_of,
    read,
    settings_parts,
    shown,
    sizes_of,
    told_of,
)
from redraft.cli.progress import terminal_progress
from redraft.storage import write_text
from resumable import hours

MODEL, TASK = "Qwen2.5-Coder-0.5B-Instruct", "gsm8k"
SYSTEMS = {PROMPTED: System(), **with_losses(["nll", "sigmoid+nll"])}

SIZES: dict[str, tuple[float, str]] = {
    "problems": (100, "held-out problems"),
    "sampled": (4, "programs after each chain of an evaluation, at temperature 1"),
    "questions": (64, "training questions"),
    "chains": (2, "chains of each of them"),
    "programs": (4, "programs after each chain"),
    "epochs": (2.0, "passes over the right programs"),
    "batch-size": (8, "programs in an optimiser step"),
    "learning-rate": (1e-4, "AdamW's in the supervised stage, at its peak"),
    "pairs-per-question": (1, "most pairs of a kind for a question"),
    "preference-batch-size": (8, "pairs in an optimiser step"),
    "preference-learning-rate": (2e-5, "AdamW's in the preference stage, at its peak"),
    "lora-rank": (16, "rank of the adapters"),
    "max-tokens": (256, "longest chain, and longest program"),
}
"""Such that no training and no evaluation takes more than 2.5 hours of one slow core, which decodes
40 tokens a second and learns from 15."""

SETTINGS: dict[str, Any] = {"collect_at_once": 16, "checkpoint_every": 1}
OF_TRAINING = (
    "chains", "programs", "epochs", "batch-size", "learning-rate", "pairs-per-question",
    "preference-batch-size", "preference-learning-rate", "lora-rank",
)  # fmt: skip


def main() -> None:
    """Run what is missing; the page is written after each system."""
    parser = parser_of("CaP on a real model", "cap-real", MODEL, list(SYSTEMS))
    add_sizes(parser, SIZES)
    options = parser.parse_args()
    ending_in_one_line("cap_real", partial(work, options))


def work(options: argparse.Namespace) -> None:
    """What the options ask for.

    Raises:
        UserError: the model is missing, known figures are those of other options, or whatever
            training raises.
    """
    made_with = {"model": Path(options.model).name, **sizes_of(options, SIZES)}
    for seed, name in missing(options, made_with):
        study, place = study_of(options), place_in(options.out, TASK, seed, name)
        run(study, name, place, seed, terminal_progress())
        config = configured(study, name, place, seed)
        runs = [place / "evaluation"] if config is None else [config.out, place / "evaluation"]
        figures = {
            "system": name,
            "seed": seed,
            **figures_of(study, place),
            "hours": hours(runs),
            "settings": None if config is None else shown(settings_part(config)),
            "environment": machine_of(place / "evaluation"),
        }
        keep(options.known, made_with, figures)
        write_text(options.page, page(read(options.known)))
    write_text(options.page, page(read(options.known)))


def study_of(options: argparse.Namespace) -> Study:
    """What is compared, and on what."""
    sizes = sizes_of(options, SIZES)
    told = {name.replace("-", "_"): sizes[name] for name in OF_TRAINING}
    return Study(
        base=str(folder_of(options.model, options.models)),
        systems=SYSTEMS,
        source={
            "task": TASK,
            "data": options.data and options.data / "gsm8k",
            "prompts": "boxed",
            "max_tokens": sizes["max-tokens"],
        },
        training={**SETTINGS, **told, "problems_per_iteration": sizes["questions"]},
        problems=sizes["problems"],
        programs=sizes["sampled"],
    )


def page(known: dict[str, Any]) -> str:
    """What is finished, as Markdown."""
    finished = in_order(known, list(SYSTEMS))
    if not finished:
        return "# CaP on a real model\n\nNothing has been run yet.\n"
    seeds = sorted({one["seed"] for one in finished})
    found: Found = {(one["system"], one["seed"]): one for one in finished}
    parts = ["# CaP on a real model", about(known["made_with"], seeds)]
    for seed in seeds:
        of = {name: one for (name, of_seed), one in found.items() if of_seed == seed}
        parts += [f"## Seed {seed}, greedy", GREEDY, after_chains(of, "greedy")]
        parts += [f"## Seed {seed}, temperature 1", SAMPLED, after_chains(of, "sampled")]
    if len(seeds) > 1:
        parts += ["## Means over seeds", means(found)]
    for reference in (PROMPTED, SFT, CONTROL):
        if compared := against(found, reference):
            parts += [f"## Against `{reference}`, temperature 1", compared]
    if counts := pairs(found):
        parts += ["## Examples and pairs", counts]
    parts += [*settings_parts(finished), "## Machine", machine_part(finished)]
    return "\n\n".join(part for part in parts if part) + "\n"


GREEDY = """\
A program for the bare question, a chain of the base model, and a program that refines it, all \
greedy."""
SAMPLED = "Chains of the base model and programs that refine them, both sampled."


def about(sizes: dict[str, Any], seeds: list[int]) -> str:
    """What the page says first."""
    return f"""\
Made by `python benchmarks/cap_real.py` with {told_of(sizes["model"])} on GSM8K: \
{sizes["problems"]} problems of the test split, at most {sizes["max-tokens"]} tokens for a chain \
and for a program, programs run in the sandbox. At temperature 1 each chain is refined \
{sizes["sampled"]} times. Training seeds: {", ".join(map(str, seeds))}. The figures compare with \
those of the model's own base here (`{PROMPTED}`), and with no other figures of that model.

All systems refine the same chains, those of the base model, so the same wrong ones. A copy is a \
wrong program with the wrong answer of its chain; copied and repaired are shares of the wrong \
chains, spoiled of the right ones. `{SFT}` learned from {sizes["questions"]} questions of the \
training split, {sizes["chains"]} chains of each and {sizes["programs"]} programs after each \
chain: {sizes["epochs"]:g} epochs over the right programs, as many after right as after wrong \
chains, with LoRA of rank {sizes["lora-rank"]}. Both preference stages go on from it, on the same \
pairs; `{CONTROL}` is the control: the right programs of the pairs alone, no preference. Nothing \
of the paper's sizes or settings is known to us. 95 % intervals over problems; the spread over \
training seeds is not in them. What the tables do not have has not been run yet."""


def after_chains(of: dict[str, Figures], kind: str) -> str:
    """Programs after the base model's chains, with intervals; greedily also programs alone."""
    alone = ["program alone"] if kind == "greedy" else []
    heads = ["system", *alone, "chain", "program after it", "copied", "repaired", "spoiled"]
    rows = []
    for name, one in of.items():
        cells = [name]
        if alone:
            program = one["program"]
            cells.append(with_interval(program["accuracy"], program["ci95"]["accuracy"]))
        base = one[kind][BASE_CHAINS]
        accuracy, intervals = base["accuracy"], base["ci95"]["accuracy"]
        cells += [with_interval(accuracy[turn], intervals[turn]) for turn in (0, 1)]
        shares = ("copy_rate", "repaired", "spoiled")
        cells += [with_interval(base[share], base["ci95"][share]) for share in shares]
        rows.append(cells)
    return table(heads, rows)


if __name__ == "__main__":
    main()
