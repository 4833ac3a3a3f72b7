"""Finding the first wrong step of a worked arithmetic problem.

Steps are read in order, and in each the checks of TriPosT's verifier (arXiv 2310.13522) are made in
theirs: *partition* (letters put back give the problem), *calculate* (neighbours in a chain of `=`
are equal), *combine* (the last expression in letters is the problem, its values are those
calculated), *final* (the answer is the problem's value). A step counts as wrong for what it does
itself. Since reading stops at the first wrong step, nothing is ever held against a step that only
carries on with an earlier mistake.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice

from redraft.tasks.bbh.steps import WrongStepError
from redraft.tasks.bbh.steps.arithmetic_reading import Chain, Step, Term, defined, read_step
from redraft.tasks.bbh.steps.expression import (
    Expression,
    UnreadableError,
    evaluate,
    question_expression,
    write,
    write_value,
)
from redraft.tasks.steps import StepVerdict

MAX_CHARACTERS = 50_000
"""Length of one solution, all steps together; a longer one is not read."""
MAX_REPLAYED = 1000
"""Characters of a problem, as written without spaces, whose operations are followed."""

MAX_STATES = 64
"""Ways to read the steps so far that are kept, where one operation stands in several places."""

_PASSES = 30
"""Times that definitions by other letters are followed."""


def check(question: str, steps: Sequence[str]) -> StepVerdict:
    """The first mistake in a solution of a problem of whole numbers with + - * and brackets.

    Reads chains of thought in free text, TriPosT's line format, and bare operations
    (`7 + 2 = 9`), one or several (`;`) to a step. The answer is worked out from the question. A
    solution in which nothing can be checked, or to a question without an expression, is unreadable.
    """
    if sum(map(len, steps)) > MAX_CHARACTERS or len(question) > MAX_CHARACTERS:
        return StepVerdict(readable=False, reason="the text is too long to check")
    try:
        problem = question_expression(question)
        solution = Solution(problem, [read_step(text, i) for i, text in enumerate(steps)])
    except UnreadableError:
        return StepVerdict(readable=False, reason="the question has no expression to evaluate")
    return (solution.read() or solution.final()).shortened()


class Solution:
    """A solution while it is read, step by step.

    `target` is the problem's value, `results` those of the operations in it. `letters` are the
    values of letters, `definitions` the chains that introduced them, `calculated` those that some
    chain has brought to a number. `formula` is the first expression in letters, and `holds` says
    that it is the problem. `replay` is what is left of the problem where nothing but operations on
    two numbers are written.
    `last` is the last chain that was worked out and its value, `checked` whether anything was.
    """

    def __init__(self, problem: Expression, steps: Sequence[Step]) -> None:
        """Nothing is read yet.

        Raises:
            UnreadableError: the problem has no value within the bounds.
        """
        self.problem, self.steps, self.text = problem, steps, _compact(problem)
        self.results: list[Fraction] = []
        self.target = evaluate(problem, results=self.results)
        self.letters: dict[str, Fraction] = {}
        self.definitions: dict[str, Chain] = {}
        self.calculated: set[str] = set()
        self.formula: Term | None = None
        self.holds = self.checked = False
        self.last: tuple[Chain, Fraction] | None = None
        self.tail: Fraction | None = None  # the value that a line opening with `=` goes on from
        lines = [step for step in steps if step.answer is None]
        chains = [chain for step in lines for chain in step.chains if len(chain) > 1]
        is_bare = bool(chains) and not any(step.is_wordy for step in lines)
        follows = is_bare and all(map(_is_operation, chains)) and len(self.text) <= MAX_REPLAYED
        self.replay = Replay(problem) if follows else None

    def read(self) -> StepVerdict | None:
        """Read the steps up to the first that is wrong in itself."""
        try:
            for step in self.steps:
                self._partition(step)
                for chain in step.chains:
                    self._calculate(chain)
                    if len(chain) > 1 and (value := self.value(chain[0])) is not None:
                        self._combine(chain, value)
        except WrongStepError as error:
            return error.verdict
        return None

    def value(self, term: Term) -> Fraction | None:
        """A term's value where all of its letters have one."""
        try:
            return evaluate(term.expression, self.letters)
        except UnreadableError:
            return None

    def _partition(self, step: Step) -> None:
        """Letters put back into the first expression in letters give the problem."""
        for chain in step.chains:
            if defined(chain):
                self.definitions.setdefault(defined(chain), chain)
        self._resolve()
        if self.formula is None and not self.calculated:
            mentions = [chain[0] for chain in step.chains if len(chain) == 1]
            self.formula = next((term for term in mentions if _is_formula(term.expression)), None)
        if self.formula is None or self.holds or (value := self.value(self.formula)) is None:
            return
        self.checked = True
        for letter in sorted(self.formula.expression.letters):  # a part counts even times zero
            term, quoted = self.definitions[letter][:2]
            if self._is_foreign(quoted.expression, self.letters.get(letter)):
                reason = f"{_shown(quoted.quote())} does not stand in the problem"
                raise _wrong("partition", term, quoted, reason)
        if value != self.target:
            reason = f"with its letters put back it is {_shown(value)}, {self._problem_is()}"
            raise _wrong("partition", self.formula, self.formula, reason)
        self.holds = True

    def _resolve(self) -> None:
        """Give each letter the value of what it stands for, where that can be read."""
        for _ in range(_PASSES):
            known = len(self.letters)
            for letter, chain in self.definitions.items():
                for term in chain[1:] if letter not in self.letters else ():
                    if (value := self.value(term)) is not None:
                        self.letters.setdefault(letter, value)
            if len(self.letters) == known:
                return

    def _is_foreign(self, part: Expression, value: Fraction | None) -> bool:
        """Whether an operation on numbers is no part of the problem, as written or as it comes
        out."""
        is_operation = part.operands and not part.letters and value not in self.results
        return bool(is_operation) and _compact(part) not in self.text

    def _calculate(self, chain: Chain) -> None:
        """Neighbours in a chain are equal; where there are only operations, each is part of what is
        left to do."""
        left, there = chain[0], self.value(chain[0])
        operation = left.expression if self.replay and len(chain) > 1 else None
        if self.replay and operation and not self.replay.take(operation) and there != self.target:
            reason = f"{_shown(left.quote())} is not part of what is left to work out"
            given = {part.value for part in self.problem.parts()}
            are_given = {part.value for part in operation.parts()} <= given
            raise _wrong("partition" if are_given else "combine", left, chain[-1], reason)
        if left.start == left.end:
            there = self.tail
        for right in chain[1:]:
            here = self.value(right)
            self.checked = self.checked or (there is not None and here is not None)
            if there is not None and here is not None and there != here:
                is_combination = not defined(chain) and chain[0].expression.letters
                reason = f"{_shown(left.quote()) or 'what stands before it'} is {_shown(there)}"
                quoted = f", but {_shown(right.quote())} is {_shown(here)}"
                reason += f" and not {_shown(here)}" if right.is_number else quoted
                raise _wrong("combine" if is_combination else "calculate", left, right, reason)
            left, there = (left, there) if here is None else (right, here)
        self.tail = there
        if len(chain) > 1 and there is not None:
            self.last = (chain, there)
            if chain[-1].is_number:
                self.calculated.add(defined(chain))

    def _combine(self, chain: Chain, value: Fraction) -> None:
        """The final expression in letters is the problem, of letters that were calculated."""
        term, letters = chain[0], chain[0].expression.letters
        if not letters or defined(chain):
            return
        if value != self.target and value not in self.results:
            reason = f"{_shown(term.quote())} is {_shown(value)}, {self._problem_is()}"
            raise _wrong("combine", term, term, reason)
        given = {name for name, known in self.definitions.items() if known[1].is_number}
        missing = sorted(letters - self.calculated - given)
        if missing and any(each.is_final for each in self.steps):
            raise _wrong("combine", term, term, f"{missing[0]} has not been calculated")

    def final(self) -> StepVerdict:
        """The answer is the problem's value; else the last calculation or the answer is wrong."""
        stated = [(step.answer, self.value(step.answer)) for step in self.steps if step.answer]
        answers = [(term, value) for term, value in stated if value is not None]
        end = self.steps[-1] if self.steps else Step("=")
        ending = end.chains[-1][-1] if end.chains and end.text.rstrip()[-1] != "=" else None
        ends_right = ending is not None and ending.is_number and self.value(ending) == self.target
        is_bare = ends_right and not end.is_wordy and len(end.chains[-1]) == 1
        if not (answers or self.checked or is_bare):
            return StepVerdict(readable=False, reason="no step has anything that can be checked")
        wrong = next((answer for answer in answers if answer[1] != self.target), None)
        if wrong is None and (answers or ends_right):
            return StepVerdict()
        if wrong is None:
            index = max(i for i, step in enumerate(self.steps) if step.text.strip())
            end = self.steps[index]
            start = end.chains[-1][0].start if end.chains else 0
            reason = "the solution ends before the problem is solved"
            return StepVerdict(index, end.text[start:].strip()[-80:], reason, "final")
        term, value = wrong
        reason = f"the problem is {_shown(self.target)} and not {_shown(value)}"
        if self.last and self.last[0][0].step <= term.step:
            chain, result = self.last
            if result == value and chain[0].step < term.step:
                return _wrong("combine", chain[0], chain[-1], reason).verdict
            if result != value:
                reason += f"; the last calculation gives {_shown(result)}"
        return _wrong("final", term, term, reason).verdict

    def _problem_is(self) -> str:
        return f"and the problem is {_shown(self.target)}"


def _wrong(check: str, first: Term, last: Term, reason: str) -> WrongStepError:
    return WrongStepError(check, first.step, first.quote(last), reason)


def _is_formula(expression: Expression) -> bool:
    """Whether it is an expression in letters; "A/B" may be no more than a choice of words."""
    return bool(expression.operands and expression.letters) and expression.is_whole


def _is_operation(chain: Chain) -> bool:
    """Whether a chain is the result of an operation on two numbers."""
    first = chain[0].expression.operands
    return len(chain) == 2 and len(first) == 2 and all(part.value is not None for part in first)


def _compact(expression: Expression) -> str:
    """An expression without spaces and outer brackets."""
    text = write(expression).replace(" ", "")
    return text[1:-1] if expression.brackets and text[0] == "(" else text


def _shown(value: Fraction | str) -> str:
    """A value or a quotation, shortened in the middle where it is long."""
    text = value if isinstance(value, str) else write_value(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"


# ---- bare operations ----


class Replay:
    """What is left of a problem of whole numbers while a solution works on it without letters.

    A true equation may still be wrong there: `7 + 3 = 10` says nothing about `(7 + 2) * 4`. So each
    operation is taken out of the problem; the numbers of one sum, or of one product, may be taken
    in any order. `states` has several readings where it could be taken in several places.
    """

    def __init__(self, problem: Expression) -> None:
        """All is left to do."""
        self.states = [_signed(problem)]

    def take(self, operation: Expression) -> bool:
        """Carry out an operation on two numbers; False, and nothing changes, where it is not
        there."""
        numbers = [evaluate(part) for part in _signed(operation).operands]
        states = self.states if operation.is_whole else []
        found = (
            after for state in states for after in _taken(state, operation.is_product, numbers)
        )
        states = list(dict.fromkeys(islice(found, MAX_STATES)))
        self.states = states or self.states
        return bool(states)

    def rest(self) -> Iterator[str]:
        """What is left to do, one operation on two numbers at a time, brackets first."""
        state = self.states[0]
        while state.operands:
            inner = _innermost(state)
            left, right = map(evaluate, inner.operands[:2])
            sign = "*" if inner.is_product else "-" if right < 0 else "+"
            shown = abs(right) if sign == "-" else right
            yield f"{left} {sign} {shown} = {_result(inner.is_product, [left, right])}"
            state = next(_taken(state, inner.is_product, [left, right]))


def _signed(root: Expression) -> Expression:
    """The expression with the signs of its numbers in the numbers: `5 - 3` as `5 + -3`."""
    operands = [_signed(part) for part in root.operands]
    return _joined(root.operators, operands) if operands else root


def _joined(operators: str, operands: Sequence[Expression]) -> Expression:
    """An operation on these operands; a number that is subtracted is added with its sign changed,
    and a single operand stands for itself."""
    pairs = [
        ("+", Expression(-part.value)) if sign == "-" and part.value is not None else (sign, part)
        for sign, part in zip(operators, operands, strict=True)
    ]
    if len(pairs) == 1 and pairs[0][0] != "-":
        return pairs[0][1]
    signs = "".join(sign for sign, _ in pairs)
    return Expression(None, "", signs, tuple(part for _, part in pairs))


def _innermost(root: Expression) -> Expression:
    """The first operation in an expression whose operands are all numbers."""
    return next((_innermost(part) for part in root.operands if part.operands), root)


def _taken(root: Expression, is_product: bool, numbers: Sequence[Fraction]) -> Iterator[Expression]:
    """The expression after the operation, for every place in it that the operation stands in."""
    if root.operands and root.is_product == is_product:
        for sign in (1,) if is_product else (1, -1):  # 5 - 3 + 2 may be done as 5 - (3 - 2)
            missing = Counter(sign * value for value in numbers)
            places: list[int] = []
            for place, part in enumerate(root.operands):
                if part.value is not None and missing[part.value] > 0:
                    missing[part.value] -= 1
                    places.append(place)
            if not any(missing.values()) and (sign > 0 or places[0] > 0):  # not 24 - 9 for 9 - 24
                result = Expression(sign * _result(is_product, numbers))
                kept = [place for place in range(len(root.operands)) if place not in places[1:]]
                signs = "".join(root.operators[place] for place in kept)
                left = [result if place == places[0] else root.operands[place] for place in kept]
                yield _joined(signs, left)
    for place, part in enumerate(root.operands):
        for after in _taken(part, is_product, numbers):
            operands = [*root.operands[:place], after, *root.operands[place + 1 :]]
            yield _joined(root.operators, operands)


def _result(is_product: bool, numbers: Sequence[Fraction]) -> Fraction:
    return math.prod(numbers, start=Fraction(1)) if is_product else sum(numbers, Fraction(0))
