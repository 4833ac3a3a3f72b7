"""Worked solutions to word sorting in the paper's lines, and a script that mends wrong ones.

The lines are those of arXiv 2310.13522: `(1)` first letters, `(2)` the groups they make, one
numbered part per group with nested steps such as `(3.2.1)`, the order of all words, and
`(Final response)`.
"""

import re
from collections.abc import Sequence

from redraft.tasks.bbh.steps.sorting import (
    Group,
    Solution,
    letter,
    number,
    question_words,
    show_group,
)
from redraft.tasks.bbh.steps.sorting_reading import ordinal
from redraft.tasks.steps import StepVerdict

_NUMBERED = re.compile(r"\s*\((\d{1,4})(?:\.\d{1,4}){0,20}\)")


def rationale(question: str) -> list[str]:
    """The worked solution of a question, one line a step; the checker confirms it.

    Raises:
        ValueError: the question has no words.
    """
    words = question_words(question)
    if not words:
        raise ValueError(f"no words to sort in the question {question[:80]!r}")
    parts = Group(words, 0).split()
    lines = [("1", _first_letters(words)), ("2", f"We now have: {_chain(parts)}.")]
    for count, part in enumerate((part for part in parts if not part.settled), start=3):
        lines += _subpart(part, str(count))
    lines.append((str(3 + sum(not part.settled for part in parts)), _hence(words)))
    return [*(f"({label}) {line}" for label, line in lines), _final(words)]


def improve(question: str, steps: Sequence[str], verdict: StepVerdict) -> list[str]:
    """A right solution that keeps the steps before the wrong one verbatim.

    From the wrong step on it is the worked solution; where the steps kept are in other words than
    that, it goes on from what they have established. A solution
    that the verdict confirms is returned as it is, one that is not readable is replaced.

    Raises:
        ValueError: the question has no words.
    """
    if verdict.confirms:
        return list(steps)
    gold = rationale(question)
    if verdict.step is None:
        return gold
    kept = list(steps[: verdict.step])
    if kept == gold[: verdict.step]:
        return gold
    words = question_words(question)
    lines = [*_continuation(Solution(words, kept)), _hence(words)]
    match = _NUMBERED.match(kept[-1])
    if match is None:
        return [*kept, *lines, _final(words).removeprefix("(Final response) ")]
    numbered = [f"({count}) {line}" for count, line in enumerate(lines, start=int(match[1]) + 1)]
    return [*kept, *numbered, _final(words)]


def _continuation(solution: Solution) -> list[str]:
    """The lines that sort what the steps of a solution have left open."""
    solution.read()
    lines = []
    if not solution.history and solution.open is None:
        solution.open = solution.groups[0]
        lines.append(_first_letters(solution.words))
    if solution.open:
        lines.append(f"We now have: {_chain(solution.open.split())}.")
        solution.refine(solution.open)
    return lines + [line for part in solution.unsettled() for _, line in _subpart(part, "")]


def _subpart(group: Group, label: str) -> list[tuple[str, str]]:
    """The lines that sort a group, each with its number under `label`."""
    lines = [(label, f"Now let's sort this subpart {_look_at(group)}.")]
    count, parts = 1, group.split()
    lines.append((f"{label}.1", f"We now have: {_chain(parts)}."))
    while len(parts) == 1:
        lines.append((f"{label}.{count + 1}", f"Sort {_look_at(parts[0], ' again')}."))
        count, parts = count + 2, parts[0].split()
        lines.append((f"{label}.{count}", f"We now have: {_chain(parts)}."))
    for part in parts:
        if not part.settled:
            count += 1
            lines += _subpart(part, f"{label}.{count}")
    return [*lines, (f"{label}.{count + 1}", _hence(group.words))]


def _first_letters(words: tuple[str, ...]) -> str:
    return f"The first letter: {_letters(Group(words, 0))}."


def _look_at(group: Group, again: str = "") -> str:
    letters = f"their {ordinal(group.depth + 1)} letters: {_letters(group)}"
    return f"{show_group(group.words, None)}{again} by looking at {letters}"


def _letters(group: Group) -> str:
    shown = [(word, letter(word, group.depth + 1)) for word in group.words]
    return ", ".join(f'"{word}"="{found}" ({number(found)})' for word, found in shown)


def _chain(parts: Sequence[Group]) -> str:
    shown = [(number(letter(part.words[0], part.depth)), part.words) for part in parts]
    return " < ".join(f"({place}) {show_group(words, None)}" for place, words in shown)


def _hence(words: Sequence[str]) -> str:
    return "Hence, we have " + " < ".join(f'"{word}"' for word in sorted(words)) + "."


def _final(words: Sequence[str]) -> str:
    return f"(Final response) So the answer is: {' '.join(sorted(words))}."
