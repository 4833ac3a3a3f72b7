"""What the lab's base model was pretrained on: conversations with mistakes in them.

Like text from the web, the corpus has first attempts that are right and first attempts that are
not, and further attempts of three kinds: verbatim copies, rewrites that are no better,
and real corrections. Some conversations ask for a program instead, alone or after a worked attempt;
such a program solves the problem or only repeats what the attempt says. The proportions are the
constants below; `docs/lab.md` explains each.
"""

import random
from collections.abc import Callable, Iterator
from itertools import chain

from redraft.lab.problems import Arithmetic, Sorting, apply, arithmetic, sorting, worked

RETRY = "Please correct any error."
"""What the user says before another attempt, in the corpus and in the lab's tasks."""

PROGRAM = "Write a program."
"""What the user says to get a Python program that prints the answer."""

SLIPS = {"sorting": 0.15, "arithmetic": 0.4}
"""Share of first attempts that contain a slip, somewhere."""

LONG = 11
"""Lists of at least so many words are often sorted by first letters only."""

HASTY = {"short": 0.1, "long": 0.65}
"""Share of first attempts at lists that go by the first letters only."""

AGAIN_AFTER_WRONG = {"copy": 0.5, "rewrite": 0.3, "correct": 0.2}
AGAIN_AFTER_RIGHT = {"copy": 0.7, "rewrite": 0.3}
"""What an attempt does with the one before it."""

WITH_ANOTHER = (0.85, 0.25, 0.25, 0.25)
"""Share of conversations that continue after the first, second, third and fourth attempt."""

PROGRAM_SOLVES = 0.5
"""Share of programs after an attempt that solve the problem; the others repeat the attempt."""

FAMILIES = {"sorting": 0.6, "arithmetic": 0.2, "program": 0.2}
"""What a conversation is about."""

PROGRAM_AFTER_ATTEMPT = 0.6
"""Share of program conversations in which an attempt has been made before."""

Conversation = list[dict[str, str]]
Mistake = Callable[[str, random.Random], str]


def conversations(seed: int) -> Iterator[Conversation]:
    """An endless stream of corpus conversations, the same for the same seed."""
    rng = random.Random(f"corpus/{seed}")
    while True:
        index = rng.getrandbits(48)
        family = _pick(rng, FAMILIES)
        about = family if family != "program" else rng.choice(("sorting", "arithmetic"))
        problem = (sorting if about == "sorting" else arithmetic)("corpus", index)
        right, mistake = solution(problem)
        first = _first_attempt(problem, right, mistake, rng)
        if family != "program":
            yield _attempts(problem.question, first, right, mistake, rng)
        elif rng.random() >= PROGRAM_AFTER_ATTEMPT:
            yield _messages(f"{problem.question} {PROGRAM}", problem.program)
        else:
            solves = rng.random() < PROGRAM_SOLVES
            program = problem.program if solves else repeating_program(first)
            yield _messages(problem.question, first, PROGRAM, program)


def repeating_program(attempt: str) -> str:
    """A program that prints what an attempt says: its last step, or its words."""
    if "=" in attempt:
        last_step = attempt.split(";")[-1].split("=")[0]
        return f"print({last_step.replace(' ', '')})"
    return f'print(" {attempt}")'


def _attempts(
    question: str, first: str, right: str, mistake: Mistake, rng: random.Random
) -> Conversation:
    said = [first]
    for share in WITH_ANOTHER:
        if rng.random() >= share:
            break
        match _pick(rng, AGAIN_AFTER_RIGHT if said[-1] == right else AGAIN_AFTER_WRONG):
            case "copy":
                said.append(said[-1])
            case "rewrite":
                said.append(mistake(said[-1], rng))
            case _:
                said.append(right)
    return _messages(question, *list(chain.from_iterable((text, RETRY) for text in said))[:-1])


def solution(problem: Sorting | Arithmetic) -> tuple[str, Mistake]:
    """The right attempt at a problem, and what a mistake makes of an attempt."""
    if isinstance(problem, Sorting):
        return problem.gold, _sorting_mistake(problem)
    return worked(problem.steps), _arithmetic_mistake(problem)


def _messages(*texts: str) -> Conversation:
    """Alternating user and assistant messages."""
    return [
        {"role": ("user", "assistant")[index % 2], "content": text}
        for index, text in enumerate(texts)
    ]


def _first_attempt(
    problem: Sorting | Arithmetic, right: str, mistake: Mistake, rng: random.Random
) -> str:
    if isinstance(problem, Arithmetic):
        return mistake(right, rng) if rng.random() < SLIPS["arithmetic"] else right
    hasty = rng.random() < HASTY["long" if problem.size >= LONG else "short"]
    attempt = problem.hasty if hasty else right
    return mistake(attempt, rng) if rng.random() < SLIPS["sorting"] else attempt


def _sorting_mistake(problem: Sorting) -> Mistake:
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


def _arithmetic_mistake(problem: Arithmetic) -> Mistake:
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
