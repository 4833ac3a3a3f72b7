"""Worked solutions of arithmetic problems in TriPosT's line format, and the repair of wrong ones.

(1) This equation can be written as "A - B", where A = (4 * -2 + 3) and B = (5 - 1).
(2) Let's calculate A = (4 * -2 + 3) = (-8 + 3) = -5.
(3) Let's calculate B = (5 - 1) = 4.
(4) Then, the final equation is A - B = -5 - 4 = -9.
(Final response) So the answer is -9.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase

from redraft.grading.steps.arithmetic import Solution
from redraft.grading.steps.arithmetic_problem import Problem
from redraft.grading.steps.arithmetic_reading import is_operations, read_step
from redraft.grading.steps.arithmetic_replay import Replay
from redraft.grading.steps.base import StepVerdict
from redraft.grading.steps.expression import (
    Node,
    UnreadableError,
    evaluate,
    names_of,
    nodes,
    question_expression,
    write,
)

MAX_NODES = 1000
"""Numbers and operators in a problem for which a solution is written."""

_NUMBERED = re.compile(r"\s*\(\d+\)\s")


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
        raise ValueError(
            "a solution that could not be read cannot be improved from a wrong step on"
        )
    if verdict.step is None:
        return list(steps)
    problem = Problem(_problem(question))
    kept = list(steps[: verdict.step])
    read = [read_step(text, index) for index, text in enumerate(steps)]
    solution = Solution(problem, read[: verdict.step])
    solution.read()
    if is_operations(read) and Replay.can_follow(problem.root):
        replay = solution.replay or Replay(problem.root)
        answer = [f"The answer is {problem.value}"] if any(step.answer for step in read) else []
        return [*kept, *replay.operations(), *answer]
    is_numbered = any(map(_NUMBERED.match, steps))
    rest = _continuation(problem, solution)
    return kept + (_numbered(rest, len(kept)) if is_numbered else _prose(rest))


def _problem(question: str) -> Node:
    root = question_expression(question)
    if sum(1 for _ in nodes(root)) > MAX_NODES:
        raise UnreadableError(f"a problem of more than {MAX_NODES} numbers and operators")
    return root


def _numbered(lines: Sequence[str], start: int) -> list[str]:
    *body, final = lines
    labelled = [f"({start + i}) {line}" for i, line in enumerate(body, start=1)]
    return [*labelled, f"(Final response) {final}"]


def _prose(lines: Sequence[str]) -> list[str]:
    *body, combination, final = lines
    return [*body, f"{combination} {final}"]


def _worked(root: Node) -> list[str]:
    """The whole solution without labels."""
    formula, definitions = _with_letters(root)
    quoted = [f"{letter} = {write(part)}" for letter, part in definitions.items()]
    listed = " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]
    first = f'This equation can be written as "{write(formula)}", where {listed}.'
    return [first, *_calculated(formula, definitions, definitions)]


def _with_letters(root: Node) -> tuple[Node, dict[str, Node]]:
    """The problem with a letter for each innermost bracket, and what the letters stand for."""
    holds_brackets: set[Node] = set()
    innermost: list[Node] = []
    for node in nodes(root):
        if any(child in holds_brackets or _is_bracket(child) for child in node.arguments):
            holds_brackets.add(node)
        elif _is_bracket(node):
            innermost.append(node)
    innermost = innermost or [root]
    letters = {node: _letter(i) for i, node in enumerate(innermost)}
    formula = _rebuilt(root, {node: Node("name", name=name) for node, name in letters.items()})
    if formula.kind != "name":
        formula = replace(formula, brackets=False)
    return formula, {name: node for node, name in letters.items()}


def _is_bracket(node: Node) -> bool:
    return node.brackets and bool(node.arguments)


def _letter(index: int) -> str:
    rounds, place = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[place] + (str(rounds) if rounds else "")


def _calculated(
    formula: Node, definitions: Mapping[str, Node], todo: Mapping[str, Node]
) -> Iterator[str]:
    """The letters of `todo`, one line each, the combination and the final response."""
    for letter, part in todo.items():
        yield f"Let's calculate {letter} = {' = '.join(_reductions(part))}."
    letters = {letter: Node("number", evaluate(part)) for letter, part in definitions.items()}
    put_back = {node: letters[node.name] for node in nodes(formula) if node.kind == "name"}
    terms = list(_reductions(_rebuilt(formula, put_back)))
    yield f"Then, the final equation is {' = '.join([write(formula), *terms])}."
    yield f"So the answer is {terms[-1]}."


def _reductions(node: Node) -> Iterator[str]:
    """An expression, and what becomes of it: products first, then sums from the left."""
    yield write(node)
    while node.arguments:
        ready = [n for n in nodes(node) if n.arguments and _all_numbers(n)]
        first = [n for n in ready if n.kind in ("*", "/", "negate")] or ready
        node = _rebuilt(node, {n: Node("number", evaluate(n)) for n in first})
        yield write(node)


def _all_numbers(node: Node) -> bool:
    return all(argument.kind == "number" for argument in node.arguments)


def _rebuilt(root: Node, replaced: Mapping[Node, Node]) -> Node:
    """The expression with some of its nodes replaced."""
    done: list[Node] = []
    for node in nodes(root):
        arguments = tuple(done[len(done) - len(node.arguments) :])
        del done[len(done) - len(node.arguments) :]
        done.append(replaced.get(node) or replace(node, arguments=arguments))
    return done[0]


def _continuation(problem: Problem, solution: Solution) -> list[str]:
    """What is still to be written after the steps that a solution has, without labels."""
    if not solution.letters and not solution.checked:
        return _worked(problem.root)
    parts = {
        letter: chain.terms[1].node
        for letter, (_, chain) in solution.definitions.items()
        if chain.terms[1].node is not None and not chain.terms[1].names
    }
    definitions = {letter: node for letter, node in parts.items() if node is not None}
    formula = solution.formula[1].node if solution.formula and solution.formula_holds else None
    used = set() if formula is None else names_of(formula)
    values = {letter: evaluate(part) for letter, part in definitions.items()}
    if formula is None or used - set(values) or evaluate(formula, values) != problem.value:
        whole = " = ".join(_reductions(problem.root))
        answer = f"So the answer is {problem.value}."
        return [f"Then, the final equation is {whole}.", answer]
    todo = {
        letter: part
        for letter, part in definitions.items()
        if letter in used and letter not in solution.calculated and part.arguments
    }
    return list(_calculated(formula, definitions, todo))
