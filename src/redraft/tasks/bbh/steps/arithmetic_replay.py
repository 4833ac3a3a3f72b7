"""Following a solution that works on the problem itself, operation by operation.

Where no letters are introduced, a true equation may still be wrong: `7 + 3 = 10` says nothing about
`(7 + 2) * 4`. The replay keeps what is left of the problem and takes each operation out of it. The
numbers of one sum, or of one product, may be taken in any order.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice

from redraft.tasks.bbh.steps.expression import Expression, evaluate

MAX_STATES = 64
"""Ways to read the steps so far that are kept, where one operation stands in several places."""


class Replay:
    """What is left of a problem of whole numbers while its solution is read.

    `states` has several readings where an operation could be taken in several places.
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
