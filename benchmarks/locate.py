"""First wrong steps: agreement with human labels, and what becomes of another model's solutions.

    python benchmarks/locate.py [--data ../shared/data]

prints the figures and writes docs/results/locate.md. Labels are BIG-Bench-Mistake's (PaLM 2,
labelled by people); the other solutions are code-davinci-002's, of which only the final answer is
known to be right or wrong.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from redraft.tasks.bbh.formats import ARITHMETIC, SORTING
from redraft.tasks.steps import StepVerdict

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "results" / "locate.md"

FORMATS = {"multistep_arithmetic": ARITHMETIC, "word_sorting": SORTING}
TRANSCRIPTS = {"multistep_arithmetic": "multistep_arithmetic_two", "word_sorting": "word_sorting"}

NOT_THE_PROBLEM = (
    "The expression in letters is not the problem: C and D are pieces of what A and B hold. "
    "Every later line is sound, the answer is wrong, and the label says that there is no mistake."
)
REASONS = {
    ("multistep_arithmetic", 3): NOT_THE_PROBLEM,
    ("multistep_arithmetic", 29): NOT_THE_PROBLEM,
    ("multistep_arithmetic", 6): (
        "-4 - -36 is 32; the line puts -32 and ends with 48 instead of -16. The label says that "
        "there is no mistake."
    ),
    ("word_sorting", 41): (
        'The step writes "improvise" for "improvisate", a word that is not in the list. The '
        "label overlooks it."
    ),
}


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def stated_answer(text: str) -> str:
    """What a transcript gives as its answer."""
    return text.rpartition("answer is ")[2].strip().rstrip(".").replace(",", "")


def labelled(task: str, data: Path) -> tuple[list[dict[str, Any]], list[StepVerdict]]:
    """The labelled rows of a task and our verdicts."""
    rows = rows_of(data / "bigbench_mistake" / f"{task}.jsonl")
    return rows, FORMATS[task].check([(row["input"], row["steps"]) for row in rows])


def agrees(row: dict[str, Any], verdict: StepVerdict) -> bool:
    """Whether a verdict is the label."""
    return verdict.readable and verdict.step == row["mistake_index"]


def transcripts(task: str, data: Path) -> Counter[tuple[bool, str]]:
    """How many of another model's solutions came out how, by whether their answer is right."""
    folder = data / "transcripts" / "bbh_code-davinci-002_cot"
    rows = rows_of(folder / f"{TRANSCRIPTS[task]}.jsonl")
    solutions = [(row["input"], row["prediction"].split("\n")) for row in rows]
    verdicts = FORMATS[task].check(solutions)
    counted: Counter[tuple[bool, str]] = Counter()
    for row, verdict in zip(rows, verdicts, strict=True):
        right = stated_answer(row["prediction"]).split() == row["target"].replace(",", "").split()
        found = "unreadable" if not verdict.readable else "confirmed"
        counted[right, "located" if verdict.step is not None else found] += 1
    return counted


def quoted(text: str, length: int = 90) -> str:
    """Text for a table's cell."""
    short = text if len(text) <= length else f"{text[: length - 3]}..."
    return f"`{short}`" if short else ""


def misses(
    task: str, rows: Sequence[dict[str, Any]], verdicts: Sequence[StepVerdict]
) -> Iterator[str]:
    """A table of the rows on which we and the label differ."""
    yield "| row | label | found | check | span | our reason | why we differ |"
    yield "|---|---|---|---|---|---|---|"
    for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        if agrees(row, verdict):
            continue
        label = "none" if row["mistake_index"] is None else row["mistake_index"]
        found: object = "none" if verdict.step is None else verdict.step
        found = found if verdict.readable else "unreadable"
        yield (
            f"| {i} | {label} | {found} | {verdict.check} | {quoted(verdict.span)} | "
            f"{verdict.reason} | {REASONS.get((task, i), '')} |"
        )


def report(data: Path) -> str:
    """The whole page."""
    sections: list[str] = []
    agreement = ["| task | rows | agree | share |", "|---|---|---|---|"]
    others = [
        "| task | answer | solutions | confirmed | a step located | unreadable |",
        "|---|---|---|---|---|---|",
    ]
    for task in FORMATS:
        rows, verdicts = labelled(task, data)
        agreeing = sum(map(agrees, rows, verdicts))
        share = f"{100 * agreeing / len(rows):.1f} %"
        agreement.append(f"| `bbh/{task}` | {len(rows)} | {agreeing} | {share} |")
        sections += [f"### `bbh/{task}`", "\n".join(misses(task, rows, verdicts))]
        counted = transcripts(task, data)
        for right in (True, False):
            found = [counted[right, kind] for kind in ("confirmed", "located", "unreadable")]
            cells = " | ".join(map(str, found))
            answer = "right" if right else "wrong"
            others.append(f"| `bbh/{task}` | {answer} | {sum(found)} | {cells} |")
    return "\n\n".join(
        [
            INTRODUCTION,
            "\n".join(agreement),
            "## Another model's solutions",
            OTHERS,
            "\n".join(others),
            "## Where we differ from the labels",
            "Rows are numbered from 0, as steps are.",
            *sections,
            "",
        ]
    )


INTRODUCTION = """\
# First wrong steps: agreement with human labels

`python benchmarks/locate.py` writes this page; for one file,
`redraft locate --task NAME FILE` prints the same verdicts and the agreement.

Solutions are PaLM 2's, labelled by people in BIG-Bench-Mistake with the first mistake of each
(0-based, or none). A verdict agrees where it is exactly the label; an unreadable solution agrees
with nothing. The answer is worked out from the question: the checkers see no gold answer.

The convention, as the labels show it: a step is wrong for what it does itself, and one that goes on
from an earlier wrong value is not the first mistake. Where the rows are silent we follow the same
rule: a line that copies an expression with a sign or a term changed is wrong even if it is then
worked out correctly, and so is a chain of `=` with unequal neighbours that ends on the right
value. A solution that ends with a wrong answer always has a mistake."""

OTHERS = """\
Chains of thought by code-davinci-002 on BIG-Bench Hard (250 a task) have no labels, only an answer
that is right or wrong. A solution with a wrong answer has a mistake somewhere, so none of them may
be confirmed. One with a right answer should mostly be confirmed, but a mistake can cancel out: the
right arithmetic solutions in which a step is located each set `a - b - c` equal to `a - (b - c)`
and then go back to the right value.

The word-sorting solutions that end right with a step located hold real slips: nearly all give a
letter a wrong number (`l` as 11, `z` as 25) that does no harm to the order in the end, some leave a
word out of one step and bring it back in the next.
"""


def main() -> None:
    """Print the figures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    page = report(parser.parse_args().data)
    REPORT.write_text(page.rstrip() + "\n")
    print(page)


if __name__ == "__main__":
    main()
