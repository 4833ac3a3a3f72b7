"""Worked solutions of arithmetic problems in TriPosT's line format, and the repair of wrong ones.

(1) This equation can be written as "A - B", where A = (4 * -2 + 3) and B = (5 - 1).
(2) Let's calculate A = (4 * -2 + 3) = (-8 + 3) = -5.
(3) Let's calculate B = (5 - 1) = 4.
(4) Then, the final equation is A - B = -5 - 4 = -9.
(Final response) So the answer is -9.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase

from redraft.tasks.bbh.steps.arithmetic import Solution
from redraft.tasks.bbh.steps.arithmetic_reading import read_step
from redraft.tasks.bbh.steps.expression import (
    Expression,
    UnreadableError,
    evaluate,
    question_expression,
    reductions,
    write,
)
from redraft.tasks.steps import StepVerdict

MAX_SIZE = 1000
"""Numbers and operations of a problem for which a solution is written."""


def rationale(question: str) -> list[str]:
    """The gold solution of a problem, line by line.

    Raises:
        UnreadableError: the question holds no expression, or one beyond the bounds.
    """
    return _numbered(_worked(_problem(question)), 0)


def improve(question: str, steps: Sequence[str], verdict: StepVerdict) -> list[str]:
    """A right solution that keeps the steps before the wrong one as they are.

    What comes after goes on in their manner: with the letters that they introduced, with bare
    operations, or else from the problem itself. A confirmed solution is returned as it is.

    Raises:
        ValueError: the verdict is that the solution cannot be read.
        UnreadableError: as `rationale` does.
    """
    if not verdict.readable:
        raise ValueError("a solution that could not be read cannot be improved")
    if verdict.step is None:
        return list(steps)
    problem, kept = _problem(question), list(steps[: verdict.step])
    read = [read_step(text, index) for index, text in enumerate(steps)]
    solution, whole = Solution(problem, read[: verdict.step]), Solution(problem, read)
    solution.read()
    if whole.replay:
        replay = solution.replay or whole.replay
        answer = [f"The answer is {whole.target}"] if any(step.answer for step in read) else []
        return [*kept, *replay.rest(), *answer]
    rest = _continuation(solution)
    if any(step.is_numbered for step in read):
        return kept + _numbered(rest, len(kept))
    return [*kept, *rest[:-2], " ".join(rest[-2:])]


def _problem(question: str) -> Expression:
    root = question_expression(question)
    if sum(1 for _ in root.parts()) > MAX_SIZE:
        raise UnreadableError(f"a problem of more than {MAX_SIZE} numbers and operations")
    return root


def _numbered(lines: Sequence[str], start: int) -> list[str]:
    labelled = [f"({start + i}) {line}" for i, line in enumerate(lines[:-1], start=1)]
    return [*labelled, f"(Final response) {lines[-1]}"]


def _worked(root: Expression) -> list[str]:
    """The whole solution without labels."""
    parts: dict[str, Expression] = {}
    formula = replace(_with_letters(root, parts), brackets=False)
    if not parts:
        formula, parts = Expression(letter="A"), {"A": root}
    *quoted, last = [f"{letter} = {write(part)}" for letter, part in parts.items()]
    listed = f"{', '.join(quoted)} and {last}" if quoted else last
    first = f'This equation can be written as "{write(formula)}", where {listed}.'
    return [first, *_calculated(formula, parts, parts)]


def _with_letters(root: Expression, parts: dict[str, Expression]) -> Expression:
    """The problem with a letter for each innermost bracket; `parts` are added to."""
    known = len(parts)
    operands = tuple(_with_letters(part, parts) for part in root.operands)
    if not (root.brackets and operands and len(parts) == known):
        return replace(root, operands=operands)
    rounds, place = divmod(known, len(ascii_uppercase))
    letter = ascii_uppercase[place] + (str(rounds) if rounds else "")
    parts[letter] = root
    return Expression(letter=letter)


def _calculated(
    formula: Expression, parts: Mapping[str, Expression], todo: Mapping[str, Expression]
) -> Iterator[str]:
    """The letters of `todo`, one line each, the combination and the final response."""
    for letter, part in todo.items():
        yield f"Let's calculate {letter} = {_chain(part)}."
    put_back = _put_back(formula, parts)
    yield f"Then, the final equation is {write(formula)} = {_chain(put_back)}."
    yield f"So the answer is {evaluate(put_back)}."


def _put_back(root: Expression, parts: Mapping[str, Expression]) -> Expression:
    if root.letter:
        return Expression(evaluate(parts[root.letter]))
    return replace(root, operands=tuple(_put_back(part, parts) for part in root.operands))


def _chain(expression: Expression) -> str:
    return " = ".join(map(write, reductions(expression)))


def _continuation(solution: Solution) -> list[str]:
    """What is still to be written after the steps that a solution has, without labels."""
    if not solution.letters and not solution.checked:
        return _worked(solution.problem)
    parts = {
        letter: chain[1].expression
        for letter, chain in solution.definitions.items()
        if not chain[1].expression.letters and solution.value(chain[1]) is not None
    }
    formula = solution.formula.expression if solution.formula else Expression(letter="?")
    if not (solution.holds and formula.letters <= parts.keys()):
        answer = f"So the answer is {solution.target}."
        return [f"Then, the final equation is {_chain(solution.problem)}.", answer]
    missing = formula.letters - solution.calculated
    todo = {letter: part for letter, part in parts.items() if letter in missing and part.operands}
    return list(_calculated(formula, parts, todo))
