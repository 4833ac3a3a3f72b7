"""The step checker of word sorting (the checks of arXiv 2310.13522, in their order).

A solution is replayed on a partial order of the words (`sorting_order`): each claim that a step
makes (`sorting_reading`) is compared with what is true and with what the steps before it have
established. The checks are

- `to_num`: the word has that letter there, and the letter that place in the alphabet;
- `self_consistent`: no word is missing, there twice, or not of the question;
- `to_subpart`: what is sorted next is the first subpart that the order so far leaves open;
- `letter_to_sort`: it is sorted by the next letter;
- `sort`: its groups are ascending, and exactly the words with one letter are grouped;
- `combine`: an order that is stated again is the one established, no more and no less sorted;
- `final`: the answer is there, and is the established order.
"""

from collections.abc import Sequence

from redraft.grading.steps.base import StepVerdict
from redraft.grading.steps.sorting_faults import Fault
from redraft.grading.steps.sorting_order import question_words
from redraft.grading.steps.sorting_rationale import bare_words, improve, rationale
from redraft.grading.steps.sorting_replay import replay

__all__ = ["NAME", "SortingChecker", "improve", "rationale"]

NAME = "word_sorting"
TEXT_LIMIT = 200_000
"""Characters of question and steps beyond which nothing is read."""
WORD_LIMIT = 500
"""Words of a question beyond which nothing is read."""


class SortingChecker:
    """Finds the first wrong step of a solution to a word-sorting problem.

    It reads chain-of-thought text in BIG-bench's wording and looser ones, the paper's numbered
    lines, and a bare list of words, one a step.
    """

    @property
    def name(self) -> str:
        """What `--task` calls it."""
        return NAME

    def check(self, question: str, steps: Sequence[str]) -> StepVerdict:
        """The first mistake in `steps`; not readable where no step says anything of the order."""
        return _checked(question, steps).shortened()


def _checked(question: str, steps: Sequence[str]) -> StepVerdict:
    if len(question) + sum(map(len, steps)) > TEXT_LIMIT:
        return StepVerdict(readable=False, reason="the solution is too long to be read")
    words = question_words(question)
    if not words or len(words) > WORD_LIMIT:
        return StepVerdict(readable=False, reason="the question has no list of words to sort")
    listed = bare_words(steps)
    if listed is not None:
        return _check_listed(words, listed, steps)
    replayed = replay(words, steps)
    if replayed.fault is not None:
        return _verdict(replayed.reached, steps[replayed.reached], replayed.fault)
    if not replayed.claims:
        return StepVerdict(readable=False, reason="no step says anything of the order")
    if not replayed.answered:
        last = len(steps) - 1
        fault = Fault("final", 0, len(steps[last]), "the solution ends without a final answer")
        return _verdict(last, steps[last], fault)
    return StepVerdict()


def _verdict(step: int, text: str, fault: Fault) -> StepVerdict:
    span = text[fault.start : fault.end].strip()
    return StepVerdict(step, span, fault.reason, fault.check)


def _check_listed(words: Sequence[str], listed: Sequence[str], steps: Sequence[str]) -> StepVerdict:
    right = sorted(words)
    for index, (word, wanted) in enumerate(zip(listed, right, strict=False)):
        if word != wanted:
            reason = f'position {index + 1} belongs to "{wanted}"'
            check = "sort"
            if word not in words:
                reason, check = f'"{word}" is not one of the words to sort', "self_consistent"
            elif listed[: index + 1].count(word) > right.count(word):
                reason, check = f'"{word}" is there already', "self_consistent"
            return StepVerdict(index, steps[index].strip(), reason, check)
    if len(listed) > len(right):
        extra = len(right)
        reason = "all words are there already"
        return StepVerdict(extra, steps[extra].strip(), reason, "self_consistent")
    if len(listed) < len(right):
        reason = f'the list ends here, without "{right[len(listed)]}"'
        return StepVerdict(len(listed) - 1, steps[-1].strip(), reason, "self_consistent")
    return StepVerdict()
