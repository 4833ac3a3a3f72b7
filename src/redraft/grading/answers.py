"""Graders of final answers: exact text, number, mathematics, choice letter.

All are immutable, picklable, and safe to use from any thread or process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from redraft.episode import Grade, Problem
from redraft.grading.equality import LENGTH_LIMIT, decide, split_elements
from redraft.grading.extract import (
    BARE_ANSWER_LIMIT,
    extract_answer,
    extract_choice,
    joined_boxes,
)
from redraft.grading.grader import Pending, finish, timed_out_grade
from redraft.grading.normalise import clean, normalise
from redraft.grading.number import parse_number
from redraft.grading.pool import Reply, shared_pool

MATH_VERIFY = "redraft.grading.symbolic:ask"
LIMIT_S = 10.0
"""Seconds that math-verify has for one verdict (its own limit is 5 to read and 5 to compare; a
verdict takes milliseconds as a rule)."""


@dataclass(frozen=True)
class ExactGrader:
    """Right when the answer is the gold text, but for spaces around it.

    The answer is what the attempt marks as such (`extract`), else the whole attempt.
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        answer = extract_answer(attempt)
        answer = attempt.strip() if answer is None else answer.strip()
        if not answer:
            return _no_answer()
        correct = answer == problem.gold.strip()
        return Grade(correct=correct, answer=_record(answer), decided_by="string")

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """An empty gold is the only one without an answer."""
        return [None if gold.strip() else "the gold answer is empty" for gold in golds]


@dataclass(frozen=True)
class NumberGrader:
    """Right when the attempt's final answer is the gold number, exactly (`number.same_number`).

    A gold may be a worked solution (`gold_answer`).
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        answer = extract_answer(attempt, fallback=True)
        if not answer:
            return _no_answer()
        decision = decide(gold_answer(problem.gold), answer)
        if decision is None:
            return Grade(
                correct=False,
                answer=_record(answer),
                decided_by="none",
                reason="the answer is not a number",
            )
        return Grade(
            correct=decision.correct,
            answer=_record(answer),
            decided_by=decision.layer,
            reason=decision.reason,
        )

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold that is not a number is at fault."""
        return [
            None
            if parse_number(gold_answer(gold))
            else f"the gold answer {_show(gold)} is not a number"
            for gold in golds
        ]


@dataclass(frozen=True)
class MathGrader:
    r"""Right when the attempt's final answer equals the gold in mathematics (`equality`).

    The answer is the last box, else another marked answer, else, with `fallback`, the last formula
    or number. A gold list may be answered in several boxes joined by "and" or commas. `limit_s`
    bounds each verdict of math-verify.
    """

    limit_s: float = LIMIT_S
    fallback: bool = True

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return finish(self.begin(problem, attempt))

    def begin(self, problem: Problem, attempt: str) -> Grade | Pending:
        """The verdict of the string and number layers, else the question to math-verify."""
        gold = gold_answer(problem.gold)
        verbatim = len(attempt) <= BARE_ANSWER_LIMIT and normalise(attempt) == normalise(gold)
        answer = attempt.strip() if verbatim else self._answer(gold, attempt)
        if not answer:
            return _no_answer()
        decision = decide(gold, answer)
        if decision is not None:
            return Grade(
                correct=decision.correct,
                answer=_record(answer),
                decided_by=decision.layer,
                reason=decision.reason,
            )

        def settle(reply: Reply) -> Grade:
            if reply.status == "timeout":
                return timed_out_grade(answer, self.limit_s)
            return Grade(
                correct=reply.value is True,
                answer=answer,
                decided_by="math-verify",
                reason=reply.error,
            )

        return Pending(MATH_VERIFY, ("same", gold, answer), self.limit_s, settle)

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """Golds that are empty, not balanced, or neither a number, plain words nor mathematics."""
        faults = {gold: _text_fault(gold_answer(gold)) for gold in golds}
        doubtful = [
            gold
            for gold, fault in faults.items()
            if fault is None and not _is_plain(gold_answer(gold))
        ]
        pool = shared_pool(MATH_VERIFY, self.limit_s)
        replies = pool.call_all([("readable", gold_answer(gold)) for gold in doubtful])
        for gold, reply in zip(doubtful, replies, strict=True):
            if reply.status == "timeout":  # a stalled machine should not cost a problem: ask again
                reply = pool.call("readable", gold_answer(gold))
            if reply.value is not True:
                slow = f" within {self.limit_s:g} s" if reply.status == "timeout" else ""
                why = f" ({reply.error})" if reply.error else ""
                faults[gold] = f"the gold answer {_show(gold)} cannot be parsed{slow}{why}"
        return [faults[gold] for gold in golds]

    def _answer(self, gold: str, attempt: str) -> str | None:
        answer = extract_answer(attempt, fallback=self.fallback)
        if normalise(gold) in _CHOICES and (answer is None or normalise(answer) not in _CHOICES):
            return extract_choice(attempt) or answer
        if split_elements(gold) is not None:
            joined = joined_boxes(attempt)
            return ", ".join(joined) if len(joined) > 1 else answer
        return answer


@dataclass(frozen=True)
class ChoiceGrader:
    """Right when the attempt chooses the gold letter (A to J) of a multiple-choice question."""

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        answer = extract_choice(attempt)
        if answer is None:
            return _no_answer()
        correct = answer == extract_choice(problem.gold)
        return Grade(correct=correct, answer=answer, decided_by="string")

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold that names no letter is at fault."""
        return [
            None
            if extract_choice(gold)
            else f"the gold answer {_show(gold)} names no choice A to J"
            for gold in golds
        ]


_CHOICES = frozenset("ABCDEFGHIJ")


def gold_answer(gold: str) -> str:
    r"""The answer in a gold text: its boxes, else a marked answer (a worked solution), else all."""
    boxes = joined_boxes(gold)
    if boxes:
        return ", ".join(boxes)
    return extract_answer(gold) or gold


def _text_fault(gold: str) -> str | None:
    if not clean(gold):
        return "the gold answer is empty"
    if len(gold) > LENGTH_LIMIT:
        return f"the gold answer has {len(gold)} characters, more than {LENGTH_LIMIT}"
    braces = gold.replace(r"\{", "").replace(r"\}", "")
    if braces.count("{") != braces.count("}"):
        return f"the gold answer {_show(gold)} has unbalanced braces"
    return None


def _is_plain(gold: str) -> bool:
    """Whether the string and number layers alone can do justice to a gold answer."""
    text = clean(gold)
    words = text.replace(" ", "").replace("-", "").replace("'", "")
    return parse_number(gold) is not None or words.isalpha()


def _no_answer() -> Grade:
    return Grade(correct=False, decided_by="none", reason="no answer found")


def _record(answer: str) -> str:
    """The answer as a grade keeps it: a monstrous one is cut (the attempt itself is on record)."""
    return answer if len(answer) <= LENGTH_LIMIT else answer[:LENGTH_LIMIT] + "..."


def _show(gold: str) -> str:
    return repr(gold if len(gold) <= 60 else gold[:57] + "...")
