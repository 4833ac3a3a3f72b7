"""The lab's expert: a script that solves the lab's problems, and makes mistakes on purpose.

Shown a response, it answers with the right solution. Asked to solve a problem afresh, one response
in two has a mistake of the kind that the corpus has, so that its traces have something to correct.
"""

import random
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from zlib import crc32

from redraft.engines import Failed
from redraft.lab.corpus import solution
from redraft.lab.problems import Arithmetic, Sorting
from redraft.lab.words import WORDS
from redraft.types import Message

FALLIBLE = 0.5
"""Share of first responses with a mistake."""

_GROUP = re.compile(r"\((\d+)([-+*])(\d+)\)")
_QUESTION = re.compile(r"\bSort(?: [a-z]+)+|\bCompute \(\d+[-+*]\d+\)(?:[-+]\(\d+[-+*]\d+\))*")
_WORDS = frozenset(WORDS)


def expert(seed: int) -> Callable[[Sequence[Message]], str | Failed]:
    """The expert as a function from a conversation to its next message.

    Whatever is said around it, the last question of the lab that a user message holds is what is
    asked; earlier ones are demonstrations. Without one it has no answer.
    """

    def answer(messages: Sequence[Message]) -> str | Failed:
        posed = [
            (place, question)
            for place, message in enumerate(messages)
            if message.role == "user" and (question := find_question(message.content))
        ]
        if not posed:
            return Failed("the lab's expert finds none of the lab's questions in what it is asked")
        asked = posed[-1][1]
        opening = next(place for place, question in posed if question == asked)
        right, mistake = solution(read_question(asked))
        if any(message.role == "assistant" for message in messages[opening:]):
            return right
        rng = random.Random(f"expert/{seed}/{crc32(asked.encode())}")
        return mistake(right, rng) if rng.random() < FALLIBLE else right

    return answer


def find_question(text: str) -> str | None:
    """The last question of the lab's tasks in a text, if there is one."""
    for found in reversed(_QUESTION.findall(text)):
        kind, *rest = found.split(" ")
        if kind == "Compute":
            return str(found)
        words = list(takewhile(_WORDS.__contains__, rest))
        if len(words) > 1:
            return " ".join([kind, *words])
    return None


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
