"""Following a solution that works on the problem itself, operation by operation.

Where no letters are introduced, a true equation may still be wrong: `7 + 3 = 10` says nothing about
`(7 + 2) * 4`. The replay keeps what is left of the problem and takes each operation out of it. The
numbers of one sum, or of one product, may be taken in any order.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from redraft.grading.steps.expression import Node, is_whole, nodes

MAX_NODES = 200
"""Size of a problem that is replayed."""

MAX_STATES = 64
"""Ways to read the steps so far that are kept, where one operation stands in several places."""


@dataclass(frozen=True)
class Group:
    """A sum (of signed items) or a product of numbers and groups."""

    kind: Literal["sum", "product"]
    items: tuple["Item", ...]


Item = int | Group | tuple[Literal["minus"], Group]
"""A number, a group, or a group that is subtracted."""


def simplify(node: Node) -> Item:
    """An expression of whole numbers as nested sums and products, brackets kept apart."""
    done: list[Item] = []
    for part in nodes(node):
        if part.kind == "number":
            done.append(part.number.numerator)
        elif part.kind == "negate":
            done.append(_minus(done.pop()))
        elif part.kind != "name":
            right, left = done.pop(), done.pop()
            kind: Literal["sum", "product"] = "product" if part.kind == "*" else "sum"
            opens_left = isinstance(left, Group) and left.kind == kind
            first = part.arguments[0]
            items = left.items if opens_left and not first.brackets else (left,)  # type: ignore[union-attr]
            done.append(Group(kind, (*items, _minus(right) if part.kind == "-" else right)))
    return done[0]


def _minus(item: Item) -> Item:
    if isinstance(item, int):
        return -item
    return ("minus", item) if isinstance(item, Group) else item[1]


class Replay:
    """What is left of a problem while its solution is read.

    Several readings are kept where an operation could be taken in several places.
    """

    def __init__(self, problem: Node) -> None:
        self.states: list[Item] = [simplify(problem)]

    @staticmethod
    def can_follow(problem: Node) -> bool:
        """Whether the problem is small enough, and of whole numbers."""
        return sum(1 for _ in nodes(problem)) <= MAX_NODES and is_whole(problem)

    def take(self, operation: Node) -> bool:
        """Carry out an operation on whole numbers; False, and nothing changes, where it is not
        there."""
        wanted = simplify(operation)
        if not isinstance(wanted, Group) or not all(isinstance(i, int) for i in wanted.items):
            return False
        following: dict[Item, None] = {}
        for state in self.states:
            for after in _taken(state, wanted):
                following.setdefault(after)
                if len(following) >= MAX_STATES:
                    break
        self.states = list(following) or self.states
        return bool(following)

    def operations(self) -> Iterator[str]:
        """What is left to do, one operation on two numbers at a time, brackets first."""
        state = self.states[0]
        while not isinstance(state, int):
            group = _next_group(state)
            numbers = [item for item in group.items[:2] if isinstance(item, int)]
            operator, right = ("*", numbers[1]) if group.kind == "product" else ("+", numbers[1])
            if group.kind == "sum" and right < 0:
                operator, right = "-", -right
            yield f"{numbers[0]} {operator} {right} = {_value(group.kind, numbers)}"
            wanted = Group(group.kind, tuple(numbers))
            state = next(_taken(state, wanted))


def _next_group(item: Group | tuple[Literal["minus"], Group]) -> Group:
    """The first group from the left that holds only numbers."""
    group = item[1] if isinstance(item, tuple) else item
    while True:
        inner = next((part for part in group.items if not isinstance(part, int)), None)
        if inner is None:
            return group
        group = inner[1] if isinstance(inner, tuple) else inner


def _taken(item: Item, wanted: Group) -> Iterator[Item]:
    """The item after the operation, for every place in it that the operation stands in."""
    if isinstance(item, int):
        return
    if isinstance(item, tuple):
        yield from (_minus(after) for after in _taken(item[1], wanted))
        return
    if item.kind == wanted.kind:
        yield from _taken_here(item, wanted)
    for i, part in enumerate(item.items):
        for after in _taken(part, wanted):
            yield Group(item.kind, (*item.items[:i], after, *item.items[i + 1 :]))


def _taken_here(group: Group, wanted: Group) -> Iterator[Item]:
    numbers = [i for i in wanted.items if isinstance(i, int)]
    signs = (1, -1) if group.kind == "sum" else (1,)  # 5 - 3 + 2 may be worked out as 5 - (3 - 2)
    for sign in signs:
        missing = Counter(sign * number for number in numbers)
        rest: list[Item] = []
        place: int | None = None
        for part in group.items:
            if isinstance(part, int) and missing[part] > 0:
                missing[part] -= 1
                place = len(rest) if place is None else place
            else:
                rest.append(part)
        if place is None or any(missing.values()) or (sign < 0 and place == 0):
            continue  # 24 - 9 is not what 9 - 24 asks for
        value = sign * _value(group.kind, numbers)
        yield value if not rest else Group(group.kind, (*rest[:place], value, *rest[place:]))


def _value(kind: Literal["sum", "product"], numbers: list[int]) -> int:
    if kind == "sum":
        return sum(numbers)
    product = 1
    for number in numbers:
        product *= number
    return product
