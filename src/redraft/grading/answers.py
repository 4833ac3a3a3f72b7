"""Graders of final answers: exact text, number, mathematics, choice letter.

All are immutable, picklable, and safe to use from any thread or process.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from redraft.grading.extract import extract_answer, joined_boxes
from redraft.grading.grader import no_answer_grade
from redraft.grading.math import LENGTH_LIMIT, Node, decide, is_number, is_readable, read
from redraft.grading.options import chosen_option
from redraft.types import Grade, Problem

CHOICES = "ABCDEFGHIJ"
"""Letters that a question without options of its own may be answered with."""


class _Direct(ABC):
    """A grader whose every verdict is given in the caller's thread, at bounded cost."""

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    @abstractmethod
    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """For each gold why no answer can be compared to it, or None."""
        return [self.fault(gold) for gold in golds]

    @abstractmethod
    def fault(self, gold: str) -> str | None:
        """What is wrong with a gold."""


@dataclass(frozen=True)
class ExactGrader(_Direct):
    """Right when the answer is the gold text, but for spaces around it.

    The answer is what the attempt marks as such (`extract`), else the whole attempt.
    """

    def begin(self, problem: Problem, attempt: str) -> Grade:
        answer = extract_answer(attempt)
        answer = attempt.strip() if answer is None else answer.strip()
        if not answer:
            return no_answer_grade()
        correct = answer == problem.gold.strip()
        return Grade(score=correct, answer=_record(answer), decided_by="string")

    def fault(self, gold: str) -> str | None:
        return None if gold.strip() else "the gold answer is empty"


@dataclass(frozen=True)
class NumberGrader(_Direct):
    """Right when the response's final answer is the gold number (`math.equality`).

    A gold may be a worked solution (`gold_answer`).
    """

    def begin(self, problem: Problem, attempt: str) -> Grade:
        answer = extract_answer(attempt, fallback=True)
        if not answer:
            return no_answer_grade()
        if not is_number(answer):
            reason = "the answer is not a number"
            return Grade(score=0, answer=_record(answer), decided_by="none", reason=reason)
        return _grade(gold_answer(problem.gold), answer)

    def fault(self, gold: str) -> str | None:
        readable = is_number(gold_answer(gold))
        return None if readable else f"the gold answer {_show(gold)} is not a number"


@dataclass(frozen=True)
class MathGrader(_Direct):
    r"""Right when the response's final answer equals the gold in mathematics (`math.equality`).

    The answer is the last box, else another marked answer, else, with `fallback`, the last formula
    or number. A gold list may be answered in several boxes joined by "and" or commas. Every verdict
    is given in the caller's thread, at bounded cost.
    """

    fallback: bool = True

    def begin(self, problem: Problem, attempt: str) -> Grade:
        gold = gold_answer(problem.gold)
        verbatim = attempt.strip() == gold.strip()
        answer = gold if verbatim else self._answer(gold, attempt)
        return _grade(gold, answer) if answer else no_answer_grade()

    def fault(self, gold: str) -> str | None:
        """Golds that are empty, not balanced, or neither plain words nor mathematics."""
        gold = gold_answer(gold)
        if not gold.strip():
            return "the gold answer is empty"
        if len(gold) > LENGTH_LIMIT:
            return f"the gold answer has {len(gold)} characters, more than {LENGTH_LIMIT}"
        braces = gold.replace(r"\{", "").replace(r"\}", "")
        if braces.count("{") != braces.count("}"):
            return f"the gold answer {_show(gold)} has unbalanced braces"
        reading = read(gold)
        if reading.kind == "text" and not any(len(w) > 1 and w.isalpha() for w in reading.value):
            return f"the gold answer {_show(gold)} cannot be parsed"
        return None

    def _answer(self, gold: str, attempt: str) -> str | None:
        answer = extract_answer(attempt, fallback=self.fallback)
        gold_node = read(gold)
        in_words = answer is None or (read(answer).kind == "text" and "boxed{" not in attempt)
        if _is_choice(gold_node) and in_words:
            return chosen_option(attempt, {}) or answer
        if gold_node.kind in ("list", "group"):
            joined = joined_boxes(attempt)
            return ", ".join(joined) if len(joined) > 1 else answer
        return answer


@dataclass(frozen=True)
class ChoiceGrader(_Direct):
    """Right when the attempt chooses the gold letter (A to J) of a multiple-choice question."""

    def begin(self, problem: Problem, attempt: str) -> Grade:
        answer = chosen_option(attempt, {})
        if answer is None or answer not in CHOICES:
            return no_answer_grade()
        correct = answer == chosen_option(problem.gold, {})
        return Grade(score=correct, answer=answer, decided_by="string")

    def fault(self, gold: str) -> str | None:
        return (
            None
            if (chosen_option(gold, {}) or "-") in CHOICES
            else f"the gold answer {_show(gold)} names no choice A to J"
        )


@lru_cache(maxsize=4096)
def gold_answer(gold: str) -> str:
    r"""The answer in a gold text: its boxes, else a marked answer (a worked solution), else all."""
    if boxes := joined_boxes(gold):
        return ", ".join(boxes)
    return gold if is_readable(gold) else extract_answer(gold) or gold


def _grade(gold: str, answer: str) -> Grade:
    decision = decide(gold, answer)
    return Grade(
        score=decision.correct,
        answer=_record(answer),
        decided_by=decision.rule,
        reason=decision.reason,
    )


def _is_choice(node: Node) -> bool:
    return node.kind == "choice" or (node.kind == "name" and node.value in set(CHOICES))


def _record(answer: str) -> str:
    """The answer as a grade keeps it: a monstrous one is cut (the attempt itself is on record)."""
    return answer if len(answer) <= LENGTH_LIMIT else answer[:LENGTH_LIMIT] + "..."


def _show(gold: str) -> str:
    return repr(gold if len(gold) <= 60 else gold[:57] + "...")
