"""Sets of numbers as intervals and single elements: unions, inequalities, exclusions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from redraft.grading.math import algebra
from redraft.grading.math.building import is_left_side
from redraft.grading.math.nodes import EXPRESSIONS, Node, negative, number, show
from redraft.grading.math.simplify import has

INFINITY = Node("name", (), "infty")
_EVERYTHING = Node("group", (negative(INFINITY), INFINITY), ("(", ")"))


def solutions(node: Node) -> tuple[str, list[Node]] | None:
    """A set as intervals and single elements, with the name of its variable ("" for none).

    None where it is no such set.
    """
    match node.kind:
        case "group" if len(node.args) == 2 and node.value[0] in "([" and node.value[1] in ")]":
            return "", [node]
        case "group" if node.value == ("{", "}"):
            return "", [Node("group", (arg,), ("{", "}")) for arg in node.args]
        case "name" if node.value == r"\mathbb{R}":
            return "", [_EVERYTHING]
        case "union":
            return _joined([solutions(arg) for arg in node.args])
        case "difference":
            whole, without = node.args
            if whole.value == r"\mathbb{R}" and without.value == ("{", "}"):
                return "", _gaps(list(without.args))
        case "list" if node.value == "or":
            return _joined([solutions(arg) for arg in node.args])
        case "list" if all(arg.kind == "relation" and arg.value == ("≠",) for arg in node.args):
            parts = [solutions(arg) for arg in node.args]
            if all(parts) and len({part[0] for part in parts if part}) == 1:
                return parts[0][0], _gaps([arg.args[1] for arg in node.args])  # type: ignore[index]
        case "relation":
            return _of_relation(node)
    return None


def _joined(parts: Sequence[tuple[str, list[Node]] | None]) -> tuple[str, list[Node]] | None:
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({name for name, _ in found}) > 1:
        return None
    return found[0][0], _merged([piece for _, pieces in found for piece in pieces])


class _Span(NamedTuple):
    """An interval with its ends as floats too; a single element has the same end twice."""

    start: float
    reach: float
    low: Node
    high: Node
    opens: str
    closes: str


def _merged(pieces: list[Node]) -> list[Node]:
    """The same set with pieces that touch or overlap as one: [1, 3] for [1, 2) ∪ [2, 3]."""
    spans = []
    for piece in pieces:
        low, high, (opens, closes) = piece.args[0], piece.args[-1], piece.value
        start, reach = algebra.float_value(low), algebra.float_value(high)
        if start is None or reach is None or start > reach:
            return pieces
        ends = "[]" if opens == "{" else opens + closes
        spans.append(_Span(start, reach, low, high, ends[0], ends[1]))
    found: list[_Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        last = found[-1] if found else None
        if last and algebra.equal(last.high, span.low):
            joins = "]" in last.closes or "[" in span.opens
        else:
            joins = last is not None and span.start < last.reach
        if not (last and joins):
            found.append(span)
            continue
        if algebra.equal(last.low, span.low) and span.opens == "[":
            last = last._replace(opens="[")
        if not algebra.equal(last.high, span.high):
            far = max(last, span, key=lambda span: span.reach)
            last = last._replace(reach=far.reach, high=far.high, closes=far.closes)
        elif span.closes == "]":
            last = last._replace(closes="]")
        found[-1] = last
    return [
        Node("group", (span.low,), ("{", "}"))
        if algebra.equal(span.low, span.high)
        else Node("group", (span.low, span.high), (span.opens, span.closes))
        for span in found
    ]


def _gaps(points: Sequence[Node]) -> list[Node]:
    """The line without some points, as intervals."""
    places = sorted((p for p in points), key=lambda p: algebra.float_value(p) or 0.0)
    ends = [negative(INFINITY), *places, INFINITY]
    return [Node("group", (low, high), ("(", ")")) for low, high in pairwise(ends)]


_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠"}


def _of_relation(node: Node) -> tuple[str, list[Node]] | None:
    """Solutions of x ∈ S, a < x ≤ b, 2x + 1 > 0, |x| < a, x ≠ a."""
    if node.value == ("∈",) and is_left_side(node.args[0]):
        inner = solutions(node.args[1])
        return None if inner is None else (show(node.args[0]), inner[1])
    if not set(node.value) <= set("<>≤≥≠"):
        return None
    if len(node.value) == 2:
        low, middle, high = node.args
        signs = node.value
        if signs[0] in ">≥" and signs[1] in ">≥":
            low, high = high, low
            signs = (_FLIPPED[signs[1]], _FLIPPED[signs[0]])
        if not set(signs) <= set("<≤") or algebra.variables(low) or algebra.variables(high):
            return None
        piece = Node("group", (low, high), _brackets(signs[0], signs[1]))
        if middle.kind == "call" and middle.value == "abs" and is_left_side(middle.args[0]):
            mirrored = (negative(high), negative(low))
            other = Node("group", mirrored, _brackets(signs[1], signs[0]))
            return show(middle.args[0]), [other, piece]
        return (show(middle), [piece]) if is_left_side(middle) else None
    if len(node.value) == 1:
        left, right = node.args
        return _of_inequality(left, right, node.value[0])
    return None


def _brackets(low: str, high: str) -> tuple[str, str]:
    return "[" if low == "≤" else "(", "]" if high == "≤" else ")"


def _of_inequality(left: Node, right: Node, sign: str) -> tuple[str, list[Node]] | None:
    if is_left_side(right) and not is_left_side(left):
        left, right, sign = right, left, _FLIPPED[sign]
    if left.kind == "call" and left.value == "abs" and not algebra.variables(right):
        inner = left.args[0]
        if not is_left_side(inner) or sign == "≠":
            return None
        low, ends = negative(right), "[]" if sign in "≤≥" else "()"
        if sign in "<≤":
            return show(inner), [Node("group", (low, right), (ends[0], ends[1]))]
        return show(inner), [
            Node("group", (negative(INFINITY), low), ("(", "]" if sign == "≥" else ")")),
            Node("group", (right, INFINITY), ("[" if sign == "≥" else "(", ")")),
        ]
    if is_left_side(left) and right.kind in EXPRESSIONS and not algebra.variables(right):
        name, bound = show(left), right
    else:
        solved = _linear(left, right)
        if solved is None:
            return None
        name, bound, rising = solved
        sign = sign if rising else _FLIPPED[sign]
    if sign == "≠":
        return name, _gaps([bound])
    if sign in "<≤":
        piece = Node("group", (negative(INFINITY), bound), _brackets("<", sign))
    else:
        piece = Node("group", (bound, INFINITY), _brackets(_FLIPPED[sign], "<"))
    return name, [piece]


def _linear(left: Node, right: Node) -> tuple[str, Node, bool] | None:
    """The variable, the bound and the direction of a linear inequality with numbers."""
    if not (left.kind in EXPRESSIONS and right.kind in EXPRESSIONS):
        return None
    names = algebra.variables(left) | algebra.variables(right)
    if len(names) != 1 or has(left, "call") or has(right, "call"):
        return None
    (name,) = names
    gap = Node("+", (left, negative(right)))
    values = [algebra.exact_value(_put(gap, name, number(place))) for place in (0, 1, 2, 3)]
    zero, one, two, three = values
    if zero is None or one is None or two is None or three is None:
        return None
    slope = one - zero
    if not slope or two - one != slope or three - two != slope:
        return None
    return name, number(-zero / slope), slope > 0


def _put(node: Node, name: str, value: Node) -> Node:
    if node.kind == "name" and node.value == name:
        return value
    return Node(node.kind, tuple(_put(arg, name, value) for arg in node.args), node.value)
