"""RISE on a real model: the page docs/results/rise-real.md.

    python benchmarks/rise_real.py --data DATA                # hours on a CPU; goes on where it was
    python benchmarks/rise_real.py --data DATA --systems base "RISE, self"
    python benchmarks/rise_real.py --page-only

Qwen2.5-Coder-0.5B-Instruct with LoRA on GSM8K, improved by the best of its own responses or by a
teacher: another model of `public_models.py` behind `redraft serve` on this machine, or any
OpenAI-compatible server (`--teacher http://HOST:PORT/v1#MODEL`). DATA is a folder with gsm8k/ as
JSON Lines; without it the data come from the hub. The models are in `models/`.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from redraft.engines.endpoints import is_endpoint, split_address
from redraft.errors import UserError
from redraft.evaluation.sequential import ProblemValues
from redraft.evaluation.tables import sequential_markdown
from redraft.progress import Progress
from redraft.storage import write_text
from resumable import hours
from rise_study import (
    COMPARED,
    TURNS,
    Learned,
    Study,
    System,
    all_learned,
    gains,
    learned_table,
    over_base,
    over_seeds,
    place_in,
    run,
    summary_of,
    trained_system,
    training,
    values_in,
)

MODEL, TEACHER = "Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-1.5B-Instruct"
PORT = 8731
BASE, SELF, TAUGHT = "base", "RISE, self", "RISE, teacher"
SYSTEMS = [BASE, SELF, TAUGHT]

SIZES: dict[str, tuple[float, str]] = {
    "problems": (80, "held-out problems"),
    "iterations": (2, "rounds of collecting and fine-tuning"),
    "problems-per-iteration": (32, "training problems in a round"),
    "best-of": (4, "own responses to choose from; the paper has 16"),
    "epochs": (1.0, "passes over a round's examples; the paper has 2"),
    "batch-size": (8, "episodes in an optimiser step"),
    "learning-rate": (2e-4, "AdamW's, at its peak"),
    "lora-rank": (16, "rank of the adapters"),
    "max-tokens": (256, "longest response, the teacher's too"),
}
"""Such that no training and no evaluation takes more than 2.5 hours of one slow core, which decodes
40 tokens a second and learns from 15."""

SETTINGS: dict[str, Any] = {
    "unparsable_reward": -1.0,
    "warmup_share": 0.04,
    "collect_at_once": 16,
    "checkpoint_every": 1,
}
OF_TRAINING = (
    "iterations", "problems-per-iteration", "best-of", "epochs", "batch-size", "learning-rate",
    "lora-rank",
)  # fmt: skip
WAIT_S = 7200.0
"""A slow teacher may take as long for an answer, waiting included."""


def main() -> None:
    """Run what is missing; the page is written after each system."""
    parser = parser_of("RISE on a real model", "rise-real", MODEL, SYSTEMS)
    parser.add_argument("--teacher", default=TEACHER, help="as --model, or an endpoint's address")
    parser.add_argument("--port", type=int, default=PORT, help="where the teacher is served")
    add_sizes(parser, SIZES)
    options = parser.parse_args()
    ending_in_one_line("rise_real", partial(work, options))


def work(options: argparse.Namespace) -> None:
    """What the options ask for.

    Raises:
        UserError: a model is missing, known figures are those of other options, or whatever
            training raises.
    """
    progress = terminal_progress()
    server = "another server" if is_endpoint(options.teacher) else "`redraft serve`"
    made_with = {
        "model": Path(options.model).name,
        "teacher": f"{told_of(name_of(options.teacher))} behind {server}",
        **sizes_of(options, SIZES),
    }
    for seed, name in missing(options, made_with):
        study, place = study_of(options), place_in(options.out, seed, name)
        if name == TAUGHT and not (place / "training" / "summary.json").exists():
            with served(options, progress):
                trained_system(study, name, place, seed, progress)
        run(study, name, place, seed, progress)
        figures = {"system": name, "seed": seed, **figures_of(study, name, place, seed)}
        keep(options.known, made_with, figures)
        write_text(options.page, page(read(options.known)))
    write_text(options.page, page(read(options.known)))


def study_of(options: argparse.Namespace) -> Study:
    """What is compared, and on what."""
    sizes = sizes_of(options, SIZES)
    address = options.teacher
    if not is_endpoint(address):
        address = f"http://127.0.0.1:{options.port}/v1#{name_of(address)}"
    told = {
        "improve": "teacher",
        "teacher": address,
        "teacher_temperature": 0.0,
        "teacher_max_tokens": sizes["max-tokens"],
        "teacher_http": {"timeout": WAIT_S, "concurrency": 8},
    }
    return Study(
        base=str(folder_of(options.model, options.models)),
        systems={BASE: System(), SELF: System("rise"), TAUGHT: System("rise", told)},
        source={
            "task": "gsm8k",
            "data": options.data and options.data / "gsm8k",
            "prompts": "rise",
            "max_tokens": sizes["max-tokens"],
        },
        training=SETTINGS | {name.replace("-", "_"): sizes[name] for name in OF_TRAINING},
        problems=sizes["problems"],
    )


def name_of(model: str) -> str:
    """What a model is called: of an endpoint, a folder or a name."""
    return split_address(model)[1] if is_endpoint(model) else Path(model).name


@contextmanager
def served(options: argparse.Namespace, progress: Progress) -> Iterator[None]:
    """The teacher behind an endpoint: that of its address, or `redraft serve` on this machine.

    Raises:
        UserError: the teacher is not there or cannot be served.
    """
    if is_endpoint(options.teacher):
        yield
        return
    folder, port = folder_of(options.teacher, options.models), options.port
    if (serves := served_at(port)) is not None:
        if serves != folder.name:
            raise UserError(
                f"port {port} is in use, by {serves or 'no model'}; give another --port"
            )
        progress.note(f"port {port}: {serves} is being served already, by a run that was killed?")
        yield
        return
    options.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "redraft", "serve", "--model", str(folder)]
    command += ["--strategy", "chain", "--prompts", "plain", "--port", str(port)]
    command += ["--max-tokens", str(options.max_tokens), "--seconds", str(WAIT_S)]
    with (options.out / "teacher.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while served_at(port) is None:
            if process.poll() is not None:
                raise UserError(f"the teacher cannot be served; {options.out / 'teacher.log'}")
            time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def served_at(port: int) -> str | None:
    """The model that answers at a port of this machine, "" for something else; None for nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
            return str(json.load(answer)["data"][0]["id"])
    except (ValueError, KeyError, IndexError):
        return ""
    except OSError as error:
        return "" if hasattr(error, "code") else None


def figures_of(study: Study, name: str, place: Path, seed: int) -> dict[str, Any]:
    """What the page says of a finished system."""
    values, evaluation = values_in(place), place / "evaluation"
    config = training(study, name, place, seed)
    runs = [evaluation] if config is None else [place / "training", evaluation]
    return {
        "sequential": read(summary_of(place))["sequential"],
        "problems": values.problems,
        "columns": {metric: values.columns[metric].tolist() for metric in COMPARED},
        "iterations": [asdict(one) for one in all_learned(place, study.systems[name])],
        "teacher": [
            {key: of[key] for key in ("teacher_right", "teacher_attempts") if key in of}
            for of in map(read, sorted(place.glob("training/iterations/*/summary.json")))
        ],
        "hours": hours(runs),
        "settings": None if config is None else shown(settings_part(config)),
        "environment": machine_of(evaluation),
    }


def page(known: dict[str, Any]) -> str:
    """What is finished, as Markdown."""
    finished = in_order(known, SYSTEMS)
    if not finished:
        return "# RISE on a real model\n\nNothing has been run yet.\n"
    by_seed = {
        seed: {one["system"]: one for one in finished if one["seed"] == seed}
        for seed in sorted({one["seed"] for one in finished})
    }
    parts = ["# RISE on a real model", about(known["made_with"], by_seed)]
    summaries = {
        seed: {name: one["sequential"] for name, one in of.items()} for seed, of in by_seed.items()
    }
    if len(by_seed) > 1:
        parts += ["## Over the seeds", over_seeds(summaries)]
    for seed, of in by_seed.items():
        parts += [f"## Seed {seed}", sequential_markdown(summaries[seed]), gains(summaries[seed])]
        if BASE in of and len(of) > 1:
            parts.append(over_base({name: values_of(one) for name, one in of.items()}))
    learned = {
        name: [
            [Learned(**each) for each in one["iterations"]]
            for one in finished
            if one["system"] == name
        ]
        for name in (SELF, TAUGHT)
    }
    if any(learned.values()):
        parts += ["## What was learned from", LEARNED, learned_table(learned), taught(by_seed)]
    parts += [*settings_parts(finished), "## Machine", machine_part(finished)]
    return "\n\n".join(part for part in parts if part) + "\n"


LEARNED = """\
Means over the seeds, by iteration. Attempts drawn are the policy's, with those of the teacher \
behind the plus sign. A copy repeats the attempt before it to the letter."""


def about(made_with: dict[str, Any], by_seed: dict[int, dict[str, Any]]) -> str:
    """What the page says first."""
    sizes, seeds = made_with, ", ".join(map(str, by_seed))
    rounds = "iteration" if sizes["iterations"] == 1 else "iterations"
    return f"""\
Made by `python benchmarks/rise_real.py` with {told_of(sizes["model"])} on GSM8K: \
{sizes["problems"]} problems of the test split, {TURNS} attempts in a row at temperature 1 with \
RISE's prompts, which call every attempt wrong, and {TURNS} first attempts side by side; at most \
{sizes["max-tokens"]} tokens each. m1@t1 is a first attempt, m1@t{TURNS} the majority over the \
{TURNS} turns, no oracle, m{TURNS}@t1 the majority over {TURNS} parallel first attempts; \
p1@t{TURNS} and pass@{TURNS} have an oracle and compare with each other only (`docs/metrics.md`). \
Training seeds: {seeds}. The figures compare with those of the model's own base here, and with no \
other figures of that model.

RISE has {sizes["iterations"]} {rounds} of {sizes["problems-per-iteration"]} problems of the \
training split and {sizes["epochs"]:g} epochs with LoRA of rank {sizes["lora-rank"]}. In \
iteration k it tries a problem up to k times; where all are wrong, `{SELF}` takes the best of \
{sizes["best-of"]} further responses of its own (the paper: of 16) and `{TAUGHT}` the response of \
a teacher to the same conversation, {sizes["teacher"]}, an OpenAI-compatible server, decoded \
greedily. The sizes are such that a slow core needs hours, and not such as the paper's. All turns \
are seen, also those later than any in training. 95 % intervals over problems; the spread over \
training seeds is not in them. What the tables do not have has not been run yet."""


def taught(by_seed: dict[int, dict[str, Any]]) -> str:
    """How often the teacher was right at the policy's states, by seed and iteration."""
    lines = []
    for seed, of in by_seed.items():
        counts = of.get(TAUGHT, {}).get("teacher", [])
        told = [f"{one['teacher_right']:g} of {one['teacher_attempts']:g}" for one in counts]
        if told:
            lines.append(f"- the teacher's responses, seed {seed}: {', '.join(told)} right")
    return "\n".join(lines)


def values_of(one: dict[str, Any]) -> ProblemValues:
    """A system's numbers by problem."""
    columns = {name: np.array(values, float) for name, values in one["columns"].items()}
    return ProblemValues(one["problems"], columns)


if __name__ == "__main__":
    main()
