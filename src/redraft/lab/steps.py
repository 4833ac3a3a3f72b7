"""How the lab's solutions are read step by step: equations between `;`, or single words.

Critiques repeat the steps up to the first wrong one and say why it is wrong:
`2 + 1 = 3 ; 4 * 6 = 25 wrong because 4 * 6 = 24`, `bell cork wrong because card before cork`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from redraft.lab.corpus import solution
from redraft.lab.expert import read_question
from redraft.lab.problems import Sorting
from redraft.lab.prompts import IMPROVEMENT_PROMPTS
from redraft.tasks.bbh.steps import arithmetic, arithmetic_rationale
from redraft.tasks.steps import Critique, Script, StepFormat, StepVerdict

_IN_FORM = re.compile(r"\b(?:wrong|missing|twice)\b")


def _solve_sum(question: str) -> list[str]:
    return solution(read_question(question))[0].split(" ; ")


def _check_sum(question: str, steps: Sequence[str]) -> StepVerdict:
    """The checker's verdict; its reason is what should stand in the place of the wrong step."""
    verdict, gold = arithmetic.check(question, steps), _solve_sum(question)
    if not verdict.readable:
        return verdict
    if len(steps) < len(gold) and list(steps) == gold[: len(steps)]:
        verdict = StepVerdict(len(steps), check="final")  # what is there is right
    if verdict.step is None:
        return verdict
    mended = _correct_sum(question, steps, verdict)
    if verdict.step < len(mended):
        return replace(verdict, reason=mended[verdict.step])
    return replace(verdict, reason=f"answer is {mended[-1].rpartition('=')[2].strip()}")


def _correct_sum(question: str, steps: Sequence[str], verdict: StepVerdict) -> list[str]:
    gold = _solve_sum(question)
    if verdict.step is None:
        return list(steps)
    if list(steps[: verdict.step]) == gold[: verdict.step]:
        return gold
    return arithmetic_rationale.improve(question, steps, verdict)


def _solve_list(question: str) -> list[str]:
    problem = read_question(question)
    if not isinstance(problem, Sorting):
        raise ValueError(f"not a list to sort: {question[:80]!r}")
    return problem.gold.split()


def _check_list(question: str, steps: Sequence[str]) -> StepVerdict:
    gold = _solve_list(question)
    pairs = enumerate(zip(steps, gold, strict=False))
    step = next((index for index, (word, right) in pairs if word != right), None)
    if step is None and len(steps) == len(gold):
        return StepVerdict()
    if step is None and len(steps) < len(gold):
        return StepVerdict(len(steps), reason=gold[len(steps)], check="missing")
    step = len(gold) if step is None else step
    word = steps[step]
    if word in steps[:step]:
        return StepVerdict(step, word, check="twice")
    if step >= len(gold):
        return StepVerdict(step, word, check="extra")
    if gold[step] not in steps[step:]:
        return StepVerdict(step, word, f"{gold[step]} missing", "missing")
    return StepVerdict(step, word, f"{gold[step]} before {word}", "order")


def _correct_list(question: str, steps: Sequence[str], verdict: StepVerdict) -> list[str]:
    return _solve_list(question)  # what comes before the first wrong word is as it should be


ARITHMETIC_SCRIPT = Script(_solve_sum, _check_sum, _correct_sum)
SORTING_SCRIPT = Script(_solve_list, _check_list, _correct_list)


def _format(
    name: str, between: str, ends: Callable[[Sequence[str]], bool], script: str
) -> StepFormat:
    """The lab's format with `between` between steps."""

    def split(text: str) -> list[str]:
        return [step.strip() for step in text.split(between.strip() or None)]

    def wording(steps: Sequence[str], verdict: StepVerdict) -> str:
        assert verdict.step is not None
        shown = between.join(steps[: verdict.step + 1])
        if verdict.step >= len(steps):
            return f"{shown} missing {verdict.reason}".strip()
        if verdict.check == "twice":
            return f"{shown} twice"
        return f"{shown} wrong" + (f" because {verdict.reason}" if verdict.reason else "")

    return StepFormat(
        name,
        prompts=IMPROVEMENT_PROMPTS,
        split=split,
        join=between.join,
        ends=ends,
        in_form=_is_in_form,
        same_place=_same_words,
        consistent=lambda problem, steps: True,
        wording=wording,
        script=f"{__name__}:{script}",
    )


def _is_in_form(critique: str) -> bool:
    return bool(_IN_FORM.search(critique))


def _same_words(own: str, other: Critique) -> bool:
    return own.split() == other.text.split()


ARITHMETIC = _format(
    "lab/arithmetic",
    " ; ",
    lambda steps: bool(steps) and "=" in steps[-1],
    "ARITHMETIC_SCRIPT",
)
SORTING = _format("lab/sorting", " ", bool, "SORTING_SCRIPT")
