"""Scripts in the teacher's place: they solve, find the first wrong step, and write it anew.

There is one for each task whose solutions can be checked step by step: the paper's two, in its line
format and words, and the lab's two in the lab model's own short forms. Whatever they read may be a
model's text, so they are called in worker processes with a time limit (`ask_all`). Nothing is ever
evaluated: the checkers parse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redraft.grading.pool import Reply, shared_pool
from redraft.grading.steps import arithmetic_rationale, sorting_rationale
from redraft.grading.steps.arithmetic import ArithmeticChecker
from redraft.grading.steps.base import StepVerdict, feedback
from redraft.grading.steps.sorting import SortingChecker
from redraft.lab.corpus import solution
from redraft.lab.expert import read_question
from redraft.lab.problems import Sorting

LIMIT_S = 10.0
"""Wall-clock seconds for one solution."""

_TARGET = "redraft.methods.tripost_scripts:answer"


@dataclass(frozen=True)
class Fault:
    """The first wrong step (0-based; one past the last: a step is missing), the wrong part of it,
    and the feedback that says so. No step: the solution is right."""

    text: str
    step: int | None = None
    span: str = ""


class UnreadableSolutionError(ValueError):
    """A solution that cannot be followed, so that nothing can be said about it."""


@dataclass(frozen=True)
class Script:
    """What a script can do; all functions take a question and the steps of a solution to it.

    `inspect` raises `UnreadableSolutionError`; `mend` keeps the steps before the first wrong one as
    they are.
    """

    work: Callable[[str], list[str]]
    inspect: Callable[[str, Sequence[str]], Fault]
    mend: Callable[[str, Sequence[str]], list[str]]


def ask_all(calls: Sequence[tuple[str, str, str, Sequence[str]]]) -> list[Reply]:
    """What scripts answer to many calls, each the name of a script, `work`, `inspect` or `mend`,
    a question and steps. A call that fails or takes too long says so and harms no other."""
    return shared_pool(_TARGET, LIMIT_S).call_all([(*call[:3], list(call[3])) for call in calls])


def answer(script: str, action: str, question: str, steps: list[str]) -> Any:
    """One call, as JSON; what a worker process runs."""
    asked = SCRIPTS[script]
    if action == "work":
        return asked.work(question)
    if action == "mend":
        return asked.mend(question, steps)
    found = asked.inspect(question, steps)
    return {"text": found.text, "step": found.step, "span": found.span}


def _readable(verdict: StepVerdict) -> StepVerdict:
    if not verdict.readable:
        raise UnreadableSolutionError(verdict.reason)
    return verdict


# The paper's lines


def _fault(verdict: StepVerdict) -> Fault:
    return Fault(feedback(_readable(verdict)), verdict.step, verdict.span)


def _inspect_sum(question: str, steps: Sequence[str]) -> Fault:
    return _fault(ArithmeticChecker().check(question, steps))


def _mend_sum(question: str, steps: Sequence[str]) -> list[str]:
    verdict = _readable(ArithmeticChecker().check(question, steps))
    return arithmetic_rationale.improve(question, steps, verdict)


def _inspect_list(question: str, steps: Sequence[str]) -> Fault:
    return _fault(SortingChecker().check(question, steps))


def _mend_list(question: str, steps: Sequence[str]) -> list[str]:
    verdict = _readable(SortingChecker().check(question, steps))
    return sorting_rationale.improve(question, steps, verdict)


# The lab's short forms


def _work_lab_sum(question: str) -> list[str]:
    return solution(read_question(question))[0].split(" ; ")


def _lab_sum_verdict(question: str, steps: Sequence[str]) -> StepVerdict:
    verdict = _readable(ArithmeticChecker().check(question, steps))
    gold = _work_lab_sum(question)
    if list(steps) == gold[: len(steps)] and len(steps) < len(gold):
        return StepVerdict(len(steps), "", "", "final")  # what is there is right
    return verdict


def _mend_lab_sum(question: str, steps: Sequence[str]) -> list[str]:
    verdict = _lab_sum_verdict(question, steps)
    gold = _work_lab_sum(question)
    if verdict.step is None or list(steps[: verdict.step]) == gold[: verdict.step]:
        return list(steps) if verdict.step is None else gold
    return arithmetic_rationale.improve(question, steps, verdict)


def _inspect_lab_sum(question: str, steps: Sequence[str]) -> Fault:
    """Feedback such as `2 + 1 = 3 ; 4 * 6 = 25 wrong because 4 * 6 = 24`."""
    verdict = _lab_sum_verdict(question, steps)
    step = verdict.step
    if step is None:
        return Fault(f"{' ; '.join(steps)} right")
    mended, shown = _mend_lab_sum(question, steps), " ; ".join(steps[: step + 1])
    if step >= len(mended):
        value = mended[-1].rpartition("=")[2].strip()
        return Fault(f"{shown} wrong because answer is {value}", step, verdict.span)
    kind = "missing" if step >= len(steps) else "wrong because"
    return Fault(f"{shown} {kind} {mended[step]}".strip(), step, verdict.span)


def _work_lab_list(question: str) -> list[str]:
    problem = read_question(question)
    if not isinstance(problem, Sorting):
        raise ValueError(f"not a list to sort: {question[:80]!r}")
    return problem.gold.split()


def _mend_lab_list(question: str, steps: Sequence[str]) -> list[str]:
    return _work_lab_list(question)  # what comes before the first wrong word is as it should be


def _inspect_lab_list(question: str, steps: Sequence[str]) -> Fault:
    """Feedback such as `bell cork wrong because card before cork`."""
    gold = _work_lab_list(question)
    pairs = enumerate(zip(steps, gold, strict=False))
    step = next((index for index, (word, right) in pairs if word != right), None)
    if step is None and len(steps) == len(gold):
        return Fault(" ".join([*steps, "right"]))
    if step is None and len(steps) < len(gold):
        return Fault(" ".join([*steps, "missing", gold[len(steps)]]), len(steps))
    step = len(gold) if step is None else step
    word, shown = steps[step], " ".join(steps[: step + 1])
    if word in steps[:step]:
        return Fault(f"{shown} twice", step, word)
    if step >= len(gold) or gold[step] not in steps[step:]:
        because = f" because {gold[step]} missing" if step < len(gold) else ""
        return Fault(f"{shown} wrong{because}", step, word)
    return Fault(f"{shown} wrong because {gold[step]} before {word}", step, word)


SCRIPTS = {
    "multistep_arithmetic": Script(arithmetic_rationale.rationale, _inspect_sum, _mend_sum),
    "word_sorting": Script(sorting_rationale.rationale, _inspect_list, _mend_list),
    "lab/arithmetic": Script(_work_lab_sum, _inspect_lab_sum, _mend_lab_sum),
    "lab/sorting": Script(_work_lab_list, _inspect_lab_list, _mend_lab_list),
}
"""By name."""
