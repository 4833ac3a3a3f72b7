"""How much of a chat model's HumanEval accuracy is the prompt: docs/results/humaneval-prompts.md.

    python benchmarks/real_humaneval_prompts.py --data humaneval/test.jsonl --limit 60

One greedy response to each problem in every form of `FORMS`, on the same problems, with weights
from `public_models.py`. What was written already is not written again, so a run that was stopped
goes on; `--page-only` makes the page again.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from page_parts import facts_part
from public_models import FOLDER, fetch
from redraft.chat.prompts import CODE, SCORE_CODE, Prompts
from redraft.cli.progress import terminal_progress
from redraft.engines import Request, Response, Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.evaluation.statistics import paired_difference, summarise
from redraft.evaluation.tables import difference_text
from redraft.grading import grade_all
from redraft.models import load_model
from redraft.progress import Progress
from redraft.storage import append_jsonl, read_jsonl
from redraft.system import environment
from redraft.tasks import Task, get_task
from redraft.types import Episode, Problem, Turn

MAX_TOKENS = 384
AT_ONCE = 20


@dataclass(frozen=True)
class Form:
    """A way to ask for a function: the prompts, None for bare text without a chat; what the
    response begins with, of the problem's code; and a line for the page."""

    about: str
    prompts: Prompts | None
    prefill: Callable[[str], str] = lambda code: ""
    stop: Sequence[str] = ()


_FENCE = "```python\n"
_MAKERS = replace(
    CODE,
    first=(
        "Please provide a self-contained Python script that solves the following problem in a "
        "markdown code block:\n```\n{question}\n```\n"
    ),
)
_NEXT = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n```")

FORMS = {
    "score-code": Form("the task's default prompts (SCoRe's)", SCORE_CODE, stop=SCORE_CODE.stop),
    "code, no prefill": Form("the set `code` without its prefill; no stop string", CODE),
    "code": Form("the set `code`: prefill with the fence", CODE, lambda _: _FENCE, CODE.stop),
    "makers'": Form(
        "EvalPlus' request, which the makers use, and its prefill: a sentence and the fence",
        _MAKERS,
        lambda _: (
            "Below is a Python script with a self-contained function that solves the problem and "
            f"passes corresponding tests:\n{_FENCE}"
        ),
        CODE.stop,
    ),
    "function opened": Form(
        "the set `code`, with the fence and the problem's own code as prefill",
        CODE,
        lambda code: f"{_FENCE}{code.strip()}\n",
        CODE.stop,
    ),
    "completion": Form("no chat: the problem's code alone, to be continued", None, stop=_NEXT),
}
BASELINE = "code"


def main() -> None:
    """Write what is missing, then the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of public_models.py")
    parser.add_argument("--data", type=Path, help="HumanEval as JSON Lines; default: the hub")
    parser.add_argument("--limit", type=int, default=164)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/humaneval-prompts"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/humaneval-prompts.md"))
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    task = get_task("humaneval", options.data)
    problems = task.load("test", options.limit).problems
    if not options.page_only:
        progress = terminal_progress()
        folder = fetch(options.model, options.models, progress)
        model, tokenizer = load_model(folder, dtype=options.dtype, device="cpu")
        engine = LocalEngine(model, ChatTemplate(tokenizer))
        for name in options.forms:
            write(name, problems, task, engine, tokenizer, options.out, progress)
    written = {name: episodes(options.out, name, problems) for name in FORMS}
    found = {name: each for name, each in written.items() if len(each) == len(problems)}
    if BASELINE in found:
        options.page.write_text(page(options.model, found), encoding="utf-8")


def path_of(out: Path, name: str) -> Path:
    """The file of a form's responses."""
    return out / f"{''.join(c if c.isalnum() else '-' for c in name)}.jsonl"


def episodes(out: Path, name: str, problems: Sequence[Problem]) -> list[Episode]:
    """What was written in a form on these problems."""
    path, wanted = path_of(out, name), {problem.id for problem in problems}
    every = read_jsonl(path, Episode) if path.exists() else []
    return [episode for episode in every if episode.problem.id in wanted]


def write(
    name: str,
    problems: Sequence[Problem],
    task: Task,
    engine: LocalEngine,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    progress: Progress,
) -> None:
    """The responses in one form that are missing, graded; those that were cut off count where
    their code was whole before."""
    form, template = FORMS[name], engine.template
    done = {episode.problem.id for episode in episodes(out, name, problems)}
    missing = [problem for problem in problems if problem.id not in done]
    sampling = Sampling(0.0, max_tokens=MAX_TOKENS, stop=tuple(form.stop))
    with progress.phase(name, len(missing), MAX_TOKENS) as phase:
        for begin in range(0, len(missing), AT_ONCE):
            chunk = missing[begin : begin + AT_ONCE]
            made, texts = [], []
            for problem in chunk:
                prefill = form.prefill(problem.question)
                if form.prompts is None:
                    tokens = tokenizer(problem.question.rstrip())["input_ids"]
                else:
                    opening = [one.model_dump() for one in form.prompts.opening(problem)]
                    tokens = [*template.start(opening), *template.prefill(prefill)]
                made.append(Request([], tokens, problem.id))
                texts.append(prefill)
            responses = [rows[0] for rows in engine.generate(made, sampling, watch=phase.watch)]
            assert all(isinstance(one, Response) for one in responses)
            texts = [text + one.text for text, one in zip(texts, responses, strict=True)]
            grades = grade_all(task.grader, list(zip(chunk, texts, strict=True)))
            append_jsonl(
                path_of(out, name),
                [
                    Episode(
                        problem=problem,
                        messages=[],
                        turns=[
                            Turn(
                                author="policy",
                                text=text,
                                finish=response.finish,
                                grade=grade,
                                completion_tokens=len(response.tokens),
                            )
                        ],
                        protocol=name,
                    )
                    for problem, text, response, grade in zip(
                        chunk, texts, responses, grades, strict=True
                    )
                ],
            )


def page(model: str, found: Mapping[str, list[Episode]]) -> str:
    """The forms that are there, as Markdown."""
    lines = []
    for name in found:
        form, summary = FORMS[name], summarise(found[name]).to_summary()
        low, high = summary["ci95"]["accuracy"][0]
        turns = [episode.turns[0] for episode in found[name]]
        against = paired_difference(found[name], found[BASELINE], "accuracy/turn1")
        lines.append(
            f"| {name} | {form.about} | {100 * summary['accuracy'][0]:.1f} "
            f"[{100 * low:.1f}, {100 * high:.1f}] "
            f"| {'–' if name == BASELINE else difference_text(against, 'accuracy')} "
            f"| {100 * sum(turn.truncated for turn in turns) / len(turns):.0f} "
            f"| {sum(turn.generated for turn in turns) / len(turns):.0f} |"
        )
    table = "\n".join(lines)
    return f"""# HumanEval by the form of the question

Made by `python benchmarks/real_humaneval_prompts.py`: {model} (4-bit weights of third parties,
dequantised), {len(found[BASELINE])} problems, one greedy response of at most {MAX_TOKENS} tokens to
each. A response that was cut off is graded by what was written. 95 % intervals over
problems; the difference is to `{BASELINE}` on the same problems.

| form | what it is | right, % | difference, points | cut off, % | tokens |
|---|---|---|---|---|---|
{table}

{facts_part(environment())}
"""


if __name__ == "__main__":
    main()
