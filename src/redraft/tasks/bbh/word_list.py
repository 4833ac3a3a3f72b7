"""Grading lists of words: the right words in the right order, however they are set out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from redraft.grading.extract import boxed_answers, extract_answer, visible_part
from redraft.tasks.bbh.steps.sorting_reading import final_words
from redraft.types import Grade, Problem

_BETWEEN = re.compile(r"[\s,;<>\[\]{}()|→]+|\\text(?:bf|rm|it)?\b|\\(?:quad|,|\s)")
_AROUND = "\"'`.*:“”"
_LIMIT = 20_000
"""Characters of an answer beyond which it is not read."""


@dataclass(frozen=True)
class WordListGrader:
    """Right when the attempt's answer is the gold list of words, in its order.

    Case, quotes and what stands between the words (spaces, commas, "<", line breaks, list marks)
    do not matter. The answer is what the attempt marks as such, else the whole attempt.
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        gold = split_words(problem.gold)
        answer = _answer_words(attempt, frozenset(gold))
        if not answer:
            return Grade(score=0, status="no_answer", decided_by="none", reason="no answer found")
        shown = " ".join(answer)[:_LIMIT]
        return Grade(score=answer == gold, answer=shown, decided_by="string")

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold without words is at fault."""
        return [None if split_words(gold) else "the gold answer has no words" for gold in golds]


def split_words(text: str) -> list[str]:
    """The words of a list in lower case, without what stands between and around them."""
    parts = (part.strip(_AROUND).casefold() for part in _BETWEEN.split(text[:_LIMIT]))
    return [part for part in parts if any(map(str.isalnum, part))]


def _answer_words(attempt: str, known: frozenset[str]) -> list[str]:
    text = visible_part(attempt)
    boxes = boxed_answers(text)
    if boxes:
        return _without_joiners(split_words(boxes[-1]), known)
    said = final_words(text, known)
    if said:
        return list(said)
    marked = extract_answer(text)
    if marked is None and (listed := _listed_on_lines(text, known)):
        return listed
    return _without_joiners(split_words(text if marked is None else marked), known)


def _listed_on_lines(text: str, known: frozenset[str]) -> list[str]:
    """The last list that stands on lines of its own, whatever is said before and after it; empty
    where there is none."""
    found: list[str] = []
    going_on = False
    for line in text[:_LIMIT].splitlines():
        words = _without_joiners(split_words(line), known)
        if len(words) > 1 and len(words[0]) < 3 and words[0] not in known:
            words = words[1:]  # a list's mark: a)
        listed = bool(words) and known.issuperset(words)
        if listed:
            found = [*found, *words] if going_on and len(words) < len(known) else words
        going_on = listed or (going_on and not line.strip())
    return found if len(found) > 1 else []


def _without_joiners(words: Sequence[str], known: frozenset[str]) -> list[str]:
    return [word for word in words if word in known or not (word == "and" or word.isdigit())]
