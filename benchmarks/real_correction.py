"""Do small public models correct themselves? docs/results/real-correction.md.

    python benchmarks/real_correction.py --data DATA     # hours on a CPU; goes on where it stopped
    python benchmarks/real_correction.py --page-only

The attempts of `WAYS` at the problems of `TASKS`, by models of `public_models.py`. DATA is a folder
with gsm8k/, math/, humaneval/ and mbpp/ as JSON Lines; without it the data come from the hub. What
is finished is kept in results/real-correction.json, of which the page is made, so evaluations may
be made on several machines.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from page_parts import common_facts, facts_part
from public_models import FOLDER, MODELS, fetch
from real_study import machine_of, read
from redraft.cli.progress import terminal_progress
from redraft.evaluation import evaluate, resume
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.tables import comparison_markdown
from redraft.progress import Progress
from redraft.run_directory import is_run
from redraft.storage import write_json, write_text

CODE = {"prompts": "code", "max_tokens": 320, "count_whole": True}
TASKS: dict[str, dict[str, Any]] = {
    "humaneval": {"file": "humaneval/test.jsonl", "limit": 164, **CODE},
    "gsm8k": {"file": "gsm8k/test.jsonl", "limit": 400, "prompts": "boxed", "max_tokens": 400},
    "mbpp": {"file": "mbpp/test.jsonl", "limit": 200, **CODE},
    "math": {"file": "math/math500.jsonl", "limit": 200, "prompts": "boxed", "max_tokens": 640},
}
"""By task its file, how many problems, and what is said."""
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "wait": {"protocol": "wait"},
    "vote": {"turns": 3, "temperature": 0.7, "parallel": True},
}
"""Two greedy attempts; a greedy attempt reopened with "Wait"; three sampled attempts in turn beside
as many in parallel, for a vote at equal cost."""
KNOWN = "results/real-correction.json"
TITLES = {
    "greedy": "two greedy attempts",
    "wait": 'one greedy attempt, reopened with "Wait"',
    "vote": "three attempts at temperature 0.7, in turn and in parallel",
}


def main() -> None:
    """Evaluate what is not finished, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of public_models.py")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--again", action="store_true", help="evaluate what is known anew")
    parser.add_argument("--out", type=Path, default=Path("runs/real-correction"))
    parser.add_argument("--known", type=Path, default=Path(__file__).parent / KNOWN)
    parser.add_argument("--page", type=Path, default=Path("docs/results/real-correction.md"))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    progress = terminal_progress()
    for way, task, model in (
        () if options.page_only else product(options.ways, options.tasks, options.only)
    ):
        known, name = read(options.known), f"{model} {task} {way}"
        if name in known and not options.again:
            continue
        out = options.out / model / f"{task}-{way}"
        if not (out / "summary.json").exists():
            run(model, task, way, out, options, progress)
        summary = read(out / "summary.json")
        known[name] = {"summary": summary, "environment": machine_of(out)}
        write_json(options.known, known)
        write_text(options.page, page(known))
    write_text(options.page, page(read(options.known)))


def run(
    model: str,
    task: str,
    way: str,
    out: Path,
    options: argparse.Namespace,
    progress: Progress,
) -> None:
    """Evaluate, or go on with it."""
    if is_run(out):
        resume(out, progress)
        return
    told = {name: value for name, value in TASKS[task].items() if name != "file"} | WAYS[way]
    config = EvaluationSettings(
        model=str(fetch(model, options.models, progress)),
        task=task,
        data=options.data and options.data / TASKS[task]["file"],
        dtype=options.dtype,
        out=out,
        **told,
    )
    evaluate(config, progress)


def page(known: dict[str, Any]) -> str:
    """What is finished, as Markdown."""
    parts = []
    for task, told in TASKS.items():
        said = f"prompts `{told['prompts']}`, at most {told['max_tokens']} tokens an attempt"
        part = [f"## {task}", f"{told['limit']} problems, {said}."]
        for way, title in TITLES.items():
            names = {model: f"{model} {task} {way}" for model in MODELS}
            summaries = {
                model: known[name]["summary"] for model, name in names.items() if name in known
            }
            if summaries:
                part += [f"### {title}", comparison_markdown(summaries)]
        if len(part) > 2:
            parts.append("\n\n".join(part))
    tables = "\n\n".join(parts)
    return f"""# Do small public models correct themselves?

Made by `python benchmarks/real_correction.py`: what is said between attempts is
the same whatever the first was worth. The weights are 4-bit files of third parties, dequantised, so
these figures are not those of the models' makers. Seed 0 chooses the problems; 95 %
intervals over problems. What the tables do not have has not been run yet.

{tables}

## Made with

{facts_part(common_facts(one["environment"] for one in known.values()))}
"""


if __name__ == "__main__":
    main()
