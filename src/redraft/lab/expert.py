"""The lab's expert: a script that solves the lab's problems, and makes mistakes when told to.

Asked about an attempt, it answers with the right solution. Asked to solve a problem afresh it is
fallible: one time in two its first attempt has a mistake of the kind that the corpus has, so that
its own traces have something to correct.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

from redraft.lab.corpus import solution
from redraft.lab.problems import Arithmetic, Sorting

FALLIBLE = 0.5
"""Share of first attempts with a mistake."""

_GROUP = re.compile(r"\((\d+)([-+*])(\d+)\)")


def expert(seed: int) -> Callable[[Sequence[Mapping[str, str]]], str]:
    """The expert as a function from a dialogue to its next message."""

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        asked = [m["content"] for m in messages if m["role"] == "user"]
        problem = read_question(next(filter(_is_question, asked)))
        right, mistake = solution(problem)
        if any(message["role"] == "assistant" for message in messages):
            return right
        rng = random.Random(f"expert/{seed}/{crc32(asked[0].encode())}")
        return mistake(right, rng) if rng.random() < FALLIBLE else right

    return answer


def read_question(question: str) -> Sorting | Arithmetic:
    """The problem that a question of the lab's tasks poses.

    Raises:
        ValueError: the text is no such question.
    """
    kind, _, rest = question.partition(" ")
    if kind == "Sort":
        return Sorting(tuple(rest.split()))
    if kind == "Compute":
        groups = tuple((int(a), op, int(b)) for a, op, b in _GROUP.findall(rest))
        return Arithmetic(groups, tuple(re.findall(r"\)([-+])\(", rest)))
    raise ValueError(f"not a question of the lab: {question!r}")


def _is_question(text: str) -> bool:
    return text.startswith(("Sort ", "Compute "))
