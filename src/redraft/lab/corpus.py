"""What the lab's base model was pretrained on: dialogues with mistakes in them.

Like text from the web, the corpus has first attempts that are right and first attempts that are
not, and second attempts of three kinds: verbatim copies, fruitless rewrites that are no better, and
real corrections. Its proportions are the constants below; `docs/lab.md` explains each.
"""

import random
from collections.abc import Callable, Iterator

from redraft.lab.problems import Arithmetic, Sorting, apply, arithmetic, sorting, worked

RETRY = "Please correct any error."
"""What the user says before a second attempt, in the corpus and in the lab's tasks."""

FIRST_WRONG = 0.4
"""Share of first attempts that contain a mistake."""

SECOND_AFTER_WRONG = {"copy": 0.45, "rewrite": 0.25, "correct": 0.3}
SECOND_AFTER_RIGHT = {"copy": 0.7, "rewrite": 0.3}
"""What the second attempt does with the first one."""

WITH_SECOND = 0.85
"""Share of dialogues that have a second attempt."""

FAMILIES = {"sorting": 0.7, "arithmetic": 0.2, "program": 0.1}
"""What a dialogue is about."""

Dialogue = list[dict[str, str]]


def dialogues(seed: int) -> Iterator[Dialogue]:
    """An endless stream of corpus dialogues, the same for the same seed."""
    rng = random.Random(f"corpus/{seed}")
    while True:
        index = rng.getrandbits(48)
        match _pick(rng, FAMILIES):
            case "sorting":
                problem = sorting("corpus", index)
                yield _attempts(problem.question, problem.gold, _sorting_mistake(problem), rng)
            case "arithmetic":
                sums = arithmetic("corpus", index)
                yield _attempts(sums.question, worked(sums.steps), _arithmetic_mistake(sums), rng)
            case _:
                make = rng.choice((sorting, arithmetic))
                either = make("corpus", index)
                yield _messages("Write a program. " + either.question, either.program)


def _attempts(
    question: str, right: str, mistake: Callable[[str, random.Random], str], rng: random.Random
) -> Dialogue:
    first = mistake(right, rng) if rng.random() < FIRST_WRONG else right
    if rng.random() >= WITH_SECOND:
        return _messages(question, first)
    match _pick(rng, SECOND_AFTER_RIGHT if first == right else SECOND_AFTER_WRONG):
        case "copy":
            second = first
        case "rewrite":
            second = mistake(first, rng)
        case _:
            second = right
    return _messages(question, first, RETRY, second)


def _messages(*texts: str) -> Dialogue:
    """Alternating user and assistant messages."""
    return [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]


def _sorting_mistake(problem: Sorting) -> Callable[[str, random.Random], str]:
    def mistake(attempt: str, rng: random.Random) -> str:
        words = attempt.split()
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(words))
            match rng.choice(("swap", "swap", "swap", "move", "omit", "foreign")):
                case "swap":
                    other = at - 1 if at else min(1, len(words) - 1)
                    words[at], words[other] = words[other], words[at]
                case "move":
                    words.insert(rng.randrange(len(words)), words.pop(at))
                case "omit" if len(words) > 2:
                    words.pop(at)
                case _:
                    words[at] = rng.choice(problem.words)
        return " ".join(words)

    return mistake


def _arithmetic_mistake(problem: Arithmetic) -> Callable[[str, random.Random], str]:
    """A slip in one step, carried through: the later steps follow from the wrong value."""

    def mistake(attempt: str, rng: random.Random) -> str:
        count = len(problem.groups)
        bad = rng.randrange(2 * count - 1)
        slip = rng.choice((-10, -2, -1, 1, 2, 10))
        values = [apply(*group) for group in problem.groups]
        lines = []
        for index, (a, operator, b) in enumerate(problem.groups):
            values[index] += slip if index == bad else 0
            lines.append(f"{a} {operator} {b} = {values[index]}")
        total = values[0]
        for index, operator in enumerate(problem.operators, start=1):
            left = total
            total = apply(left, operator, values[index])
            total += slip if count + index - 1 == bad else 0
            lines.append(f"{left} {operator} {values[index]} = {total}")
        return " ; ".join(lines)

    return mistake


def _pick(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), weights=list(shares.values()))[0]
