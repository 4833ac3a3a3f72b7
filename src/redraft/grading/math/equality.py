r"""Whether two answers are the same: a table of rules for pairs of types.

`same` finds the first rule in `RULES` whose types are those of the two answers, in either order,
and the rule decides. Unlike types without a rule are unequal. All arithmetic is exact or has
hundreds of digits (`algebra`).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from redraft.grading.math import algebra
from redraft.grading.math.building import is_left_side
from redraft.grading.math.nodes import EXPRESSIONS, Node, negative, number, show, type_of
from redraft.grading.math.reader import LENGTH_LIMIT, read
from redraft.grading.math.sets import solutions
from redraft.grading.math.simplify import simplified
from redraft.grading.math.units import Unit

UNORDERED_LIMIT = 40
"""Elements up to which unordered collections are matched (the cost is quadratic)."""

SIGNIFICANT = Fraction(1, 10**6)
"""How far, of its size, a written-out decimal may be off the exact value that it stands for."""

FLOAT_NOISE = Fraction(1, 10**9)
"""How far, of its size, it may be off where it has more digits than floating point gives."""

FLOAT_DECIMALS, FLOAT_ERROR = 12, Fraction(1, 10**12)
"""From how many decimals on, and by how much of its size, it may be off a value that can be written
out: 0.30000000000000004 is 0.3, and 5.000001 is not 5."""


@dataclass(frozen=True)
class Decision:
    """A verdict, the rule that gave it, and the two readings."""

    correct: bool
    rule: str
    reason: str


def decide(gold: str, answer: str) -> Decision:
    """The verdict on two answers given as text."""
    if max(len(gold), len(answer)) > LENGTH_LIMIT:
        why = f"an answer of {len(answer)} characters is compared as text only"
        return Decision(gold.strip() == answer.strip(), "text", why)
    first, second = read(gold), read(answer)
    try:
        equal, rule = compare(first, second)
        note = ""
    except (
        algebra.TooLargeError,
        ArithmeticError,
        ValueError,
        MemoryError,
        RecursionError,
    ) as error:
        equal, rule, note = False, "too large", f" ({error})"
    sign = "=" if equal else "is not"
    return Decision(equal, rule, f"{_reading(first)} {sign} {_reading(second)}{note}")


def _reading(node: Node) -> str:
    text = show(node)
    return f"{type_of(node)} {text if len(text) <= 80 else text[:77] + '...'}"


def is_number(text: str) -> bool:
    """Whether an answer is one number, with or without a unit or a name."""
    return _number_in(_value_of(read(text))) is not None


def key(text: str) -> tuple[Hashable, str]:
    """What answers that are the same for a vote have in common, and the unit named with it.

    That is the exact value of a number, and the reading of anything else: an equivalence, coarser
    than text and finer than the rules.
    """
    node = read(text)
    if node.kind in ("quantity", "percent", "number", "/", "^", "*", "+", "-"):
        value = _number_in(node)
        if value is not None:
            if node.kind == "quantity" and node.value.dimensions:
                return value, f"{node.value.factor} {node.value.dimensions}"
            return value, "%" if node.kind == "percent" else ""
    return show(node) or text.strip(), ""


def _number_in(node: Node) -> Fraction | None:
    if node.kind in ("quantity", "percent"):
        node = node.args[0]
    if node.kind == "number":
        return Fraction(node.value)
    return algebra.exact_value(node) if node.kind in EXPRESSIONS else None


def same(first: Node, second: Node) -> bool:
    """Whether two readings are the same answer."""
    return compare(first, second)[0]


def compare(first: Node, second: Node) -> tuple[bool, str]:
    """The verdict on two readings, and the name of the rule that gave it.

    Raises:
        TooLargeError: numbers are out of bounds, so that nothing is known.
    """
    if first == second:
        return True, type_of(first)
    first, second = simplified(first), simplified(second)
    if first == second:
        return True, type_of(first)
    types = (type_of(first), type_of(second))
    for rule in RULES:
        for pair, one, other in ((types, first, second), (types[::-1], second, first)):
            if pair[0] in rule.first and pair[1] in rule.second:
                verdict = rule.decide(one, other)
                if verdict is not None:
                    return verdict, rule.name
                break
    return False, "unlike types"


# ---- the rules ----


def _expressions(a: Node, b: Node) -> bool | None:
    if algebra.is_letters(a) and algebra.is_letters(b):
        return a == b  # HT is no product, nor is IV
    if _rounded(a, b) or _rounded(b, a):
        return True
    if a.kind == b.kind == "number":
        return bool(a.value == b.value)
    try:
        return algebra.equal(a, b)
    except algebra.TooLargeError:
        if a.kind == b.kind and len(a.args) == len(b.args) and a.value == b.value:
            pairs = [_equal_or_none(x, y) for x, y in zip(a.args, b.args, strict=True)]
            if all(pairs):
                return True
        raise


def _equal_or_none(a: Node, b: Node) -> bool | None:
    try:
        return a == b or algebra.equal(a, b)
    except algebra.TooLargeError:
        return None


def _rounded(a: Node, b: Node) -> bool:
    """Whether `a` is a decimal that stands for the exact `b`: off by noise or by rounding alone."""
    if a.kind != "number" or not a.decimals or a.decimals < 4:
        return False
    exact = b.value if b.kind == "number" else algebra.exact_value(b)
    if exact is None:
        near = algebra.float_value(b)
        if near is None or near in (float("inf"), float("-inf")):
            return False
        exact = Fraction(near)
    elif b.decimals is not None and b.decimals >= a.decimals:
        return False
    else:
        if b.decimals is None and exact.denominator != 1 and round(exact, a.decimals) == a.value:
            return True
        if pow(10, exact.denominator.bit_length(), exact.denominator) == 0:  # it can be written out
            is_noise = a.decimals >= FLOAT_DECIMALS
            return is_noise and bool(abs(exact - a.value) <= abs(exact) * FLOAT_ERROR)
    size = max(abs(exact), abs(a.value))
    last_digit = max(Fraction(1, 10**a.decimals), size * FLOAT_NOISE)
    return bool(abs(exact - a.value) <= min(size * SIGNIFICANT, last_digit))


def _percent(a: Node, b: Node) -> bool | None:
    """A percentage is its number, from 1 % up, and its hundredths."""
    (counted,) = a.args
    if b.kind == "percent":
        return same(counted, b.args[0])
    value = algebra.exact_value(counted)
    if (value is None or abs(value) >= 1) and same(counted, b):
        return True
    decimals = None if counted.decimals is None else counted.decimals + 2
    hundredth = (
        number(counted.value / 100, decimals)
        if counted.kind == "number"
        else Node("/", (counted, number(100)))
    )
    return same(hundredth, b)


def _quantities(a: Node, b: Node) -> bool:
    """Of one dimension: equal in the same unit; else the numbers, unless each counts something
    else."""
    if _counts_another(a.value, b.value) or _counts_another(b.value, a.value):
        return False
    if a.value.dimensions and b.value.dimensions and not (a.value.nouns or b.value.nouns):
        if a.value.dimensions != b.value.dimensions:
            return False
        if a.value.factor != b.value.factor:
            return same(_in_base(a), _in_base(b))
    return same(a.args[0], b.args[0])


def _counts_another(a: Unit, b: Unit) -> bool:
    """Whether nouns say that `a` is of another kind than `b`: pints beside gallons or apples."""
    if not a.nouns or set(a.nouns) & set(b.nouns):
        return False
    of_units = a.nouns[0].startswith("unit")
    return bool(b.nouns or (b.dimensions and not a.dimensions and not of_units))


def _in_base(node: Node) -> Node:
    value, factor = node.args[0], node.value.factor
    if value.kind == "number":
        return number(value.value * factor)
    return Node("*", (number(factor), value))


def _quantity(a: Node, b: Node) -> bool:
    """A unit on one side only: the numbers; 5m may be 5 m."""
    if b.kind == "*" and len(b.args) == 2 and b.args[1] == Node("name", (), a.value.words):
        return same(a.args[0], b.args[0])
    return same(a.args[0], b)


def _choice(a: Node, b: Node) -> bool | None:
    """A choice is its letter, and the text that stands with it."""
    if b.kind == "name":
        return bool(a.value == b.value)
    return same(a.args[0], b)


def _ratios(a: Node, b: Node) -> bool:
    """Equal when proportional."""
    if len(a.args) != len(b.args):
        return False
    zeros, others = ([algebra.exact_value(part) == 0 for part in n.args] for n in (a, b))
    if zeros != others or all(zeros):
        return False
    one, other = (n.args[zeros.index(False)] for n in (a, b))
    return all(
        same(Node("*", (x, other)), Node("*", (y, one)))
        for x, y in zip(a.args, b.args, strict=True)
    )


def _ratio(a: Node, b: Node) -> bool | None:
    """A ratio of two is its quotient; a time may have been meant as the ratio of its digits."""
    if b.kind == "time":
        clock = Node("ratio", tuple(map(number, divmod(b.value[0], 60))))
        return not b.value[1] and a == clock
    return same(Node("/", a.args), b) if len(a.args) == 2 else None


def _times(a: Node, b: Node) -> bool:
    """The same minute of the day, or of half a day where one does not say which."""
    if bool(a.value[1]) == bool(b.value[1]):
        return bool(a.value == b.value)
    half, clock = (a, b) if a.value[1] else (b, a)
    minute = half.value[0] + 720 * (half.value[1] == "pm")
    return clock.value[0] in (minute, half.value[0] or 720, half.value[0])


def _alike(a: Node, b: Node) -> bool:
    """Texts and choices: the same words, the same letter."""
    return bool(a.value == b.value and a.value)


def _collections(a: Node, b: Node) -> bool | None:
    """Element by element: in their order within ( ) and [ ], in any order else; lists that give
    values to several names compare name by name."""
    a, b = _unnamed(a, b)
    first, second = list(a.args), list(b.args)
    if not (_is_list(a) or _is_list(b)) and a.value != b.value:
        rows = len(first) > 2 and {a.value, b.value} == {("(", ")"), ("[", "]")}
        if not rows:  # [1, 2, 3], which no interval is, is (1, 2, 3)
            return False
    bracketed = next((n for n in (a, b) if not _is_list(n) and n.value != ("{", "}")), None)
    if bracketed is not None and (_is_list(a) or _is_list(b)):
        named = all(map(_is_assignment, (b if bracketed is a else a).args))
        if len(first) == 2 and not named and first[0].kind in EXPRESSIONS:
            return False  # (1, 2) may be a point or an interval, "1, 2" is neither
        if named:
            first, second = ([_value_of(n) for n in side] for side in (first, second))
    if len(first) != len(second):
        return False
    ordered = bracketed is not None or any(n.kind == "dots" for n in (*first, *second))
    names = [_names(n) for n in (a, b)]
    if not ordered and all(names) and sorted(names[0]) == sorted(names[1]):
        first.sort(key=lambda n: show(n.args[0]))
        second.sort(key=lambda n: show(n.args[0]))
        ordered = len(set(names[0])) == len(names[0])
    elif not ordered and bool(names[0]) != bool(names[1]):
        known = names[0] or names[1]
        first, second = ([_value_of(n) for n in side] for side in (first, second))
        ordered = len(set(known)) > 1
    if ordered:
        return all(_same_element(x, y) for x, y in zip(first, second, strict=True))
    return _same_in_any_order(first, second)


def _unnamed(a: Node, b: Node) -> tuple[Node, Node]:
    """Both without a name that stands before the first element for all: n = 2, 3, 4."""
    stripped = [_without_common_name(n) for n in (a, b)]
    if stripped[0][1] and stripped[1][1] and stripped[0][1] != stripped[1][1]:
        return a, b
    return stripped[0][0], stripped[1][0]


def _without_common_name(node: Node) -> tuple[Node, str]:
    if _is_list(node) and _is_assignment(node.args[0]):
        rest = node.args[1:]
        if not any(arg.kind == "relation" for arg in rest):
            value = Node("list", (_value_of(node.args[0]), *rest), node.value)
            return value, show(node.args[0].args[0])
    return node, ""


def _is_list(node: Node) -> bool:
    return node.kind == "list"


def _names(node: Node) -> list[str]:
    """The names that a list gives values to; none where an element gives none."""
    if not _is_list(node) or not all(map(_is_assignment, node.args)):
        return []
    return [show(arg.args[0]) for arg in node.args]


def _same_in_any_order(first: Sequence[Node], second: Sequence[Node]) -> bool:
    if len(first) > UNORDERED_LIMIT:
        raise algebra.TooLargeError(f"{len(first)} elements in any order")
    left = list(second)
    for one in first:
        match = next((index for index, other in enumerate(left) if one == other), None)
        if match is None:
            match = next((i for i, other in enumerate(left) if _same_element(one, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_element(a: Node, b: Node) -> bool:
    """Within a collection what is counted matters: 6 apples and 4 pears."""
    if a.kind == b.kind == "quantity" and a.value.nouns and b.value.nouns:
        return bool(a.value.nouns == b.value.nouns) and same(a.args[0], b.args[0])
    return same(a, b)


def _single(a: Node, b: Node) -> bool | None:
    """A set of one is its element."""
    if len(a.args) == 1 and a.kind == "group" and a.args[0].value != "emptyset":
        return same(a.args[0], b)
    return None


def _decimal_comma(a: Node, b: Node) -> bool | None:
    """1000,99 beside 1000.99: the comma was a decimal point."""
    if a.kind != "list" or len(a.args) != 2 or b.decimals is None:
        return None
    whole, part = (str(n.value) if n.kind == "number" and not n.decimals else "" for n in a.args)
    if not whole.lstrip("-").isdigit() or not part.isdigit():
        return None
    digits = len(part)  # as many as the other has: 3,05 has lost its 0
    return (b.decimals == digits > 1 and Fraction(f"{whole}.{part}") == b.value) or None


def _matrices(a: Node, b: Node) -> bool:
    """Cell by cell."""
    if a.value != b.value or len(a.args) != len(b.args):
        return False
    for one, other in zip(a.args, b.args, strict=True):
        if len(one.args) != len(other.args):
            return False
        if not all(same(x, y) for x, y in zip(one.args, other.args, strict=True)):
            return False
    return True


def _vector(a: Node, b: Node) -> bool | None:
    """A matrix of one column or one row is the tuple of its cells."""
    if b.kind != "group" or b.value == ("{", "}"):
        return None
    if b.args[0].kind == "group":
        rows = tuple(Node("row", row.args) for row in b.args)
        return _matrices(a, Node("matrix", rows, "pmatrix")) if a.value == "pmatrix" else None
    cells = [row.args[0] for row in a.args] if len(a.args[0].args) == 1 else list(a.args[0].args)
    if len(a.args) > 1 and len(a.args[0].args) > 1:
        return False
    matches = len(cells) == len(b.args) > 1 and a.value == "pmatrix"
    return matches and all(same(x, y) for x, y in zip(cells, b.args, strict=True))


# ---- equations, inequalities, sets ----


def _is_assignment(node: Node) -> bool:
    return node.kind == "relation" and node.value[0] in "=∈" and is_left_side(node.args[0])


def _value_of(node: Node) -> Node:
    """5 of x = 5 and of 5 = x, of x = 2 + 3 = 5, of 2 + 3 = 5; other nodes as they are."""
    if node.kind == "list" and node.value == "," and _names(node):
        return Node("group", tuple(map(_value_of, node.args)), ("(", ")"))
    if node.kind != "relation" or set(node.value) - {"=", "∈"}:
        return node
    first, last = node.args[0], node.args[-1]
    if len({n.value for n in node.args if n.kind == "number" and n.decimals is None}) > 1:
        return node  # x = 5 = 6
    if is_left_side(first) or _is_computation(first) or first == last:
        return last
    return first if is_left_side(last) and len(node.args) == 2 else node


def _is_computation(node: Node) -> bool:
    """Whether a node has a value but is no plain number: 12 + 12, the limit of something."""
    if node.kind == "call" and node.value in ("lim", "sum", "prod", "int"):
        return True
    return node.kind in EXPRESSIONS - {"number", "name"} and not algebra.variables(node)


def _relations(a: Node, b: Node) -> bool | None:
    """Equations and inequalities: the same solutions where those are plain, else both sides
    proportional."""
    first, second = solutions(a), solutions(b)
    if first is not None and second is not None:
        return first[0] == second[0] and _same_sets(first[1], second[1])
    signs = {*a.value, *b.value}
    if "≡" in signs and not _same_modulus(a.args[-1], b.args[-1]):
        return False
    alike = a.value == b.value and all(same(x, y) for x, y in zip(a.args, b.args, strict=True))
    if len(a.value) > 1 or len(b.value) > 1:
        ends = [(a.args[place], b.args[place]) for place in (0, -1)]
        return alike or (signs == {"="} and all(same(x, y) for x, y in ends))
    if alike or not all(side.kind in EXPRESSIONS for side in (*a.args, *b.args)):
        return alike
    ratio = algebra.constant_ratio(*(Node("+", (n.args[0], negative(n.args[1]))) for n in (a, b)))
    if signs <= {"<", ">"} or signs <= {"≤", "≥"}:
        return ratio == (1 if len(signs) == 1 else -1)
    return len(signs) == 1 and signs <= {"=", "≠"} and ratio != 0


def _same_modulus(a: Node, b: Node) -> bool:
    moduli = [n.args[1] if n.kind == "call" and n.value == "mod" else number(0) for n in (a, b)]
    return same(*moduli)


def _assigned(a: Node, b: Node) -> bool | None:
    """A value beside an equation that gives it a name, or computes it."""
    value = _value_of(a)
    names = _names(b)
    if names and a.args[0].kind == "group" and value is a.args[-1]:  # (x, y) = (2, 3)
        asked = list(map(show, a.args[0].args))
        if sorted(asked) == sorted(names):
            values = dict(zip(names, map(_value_of, b.args), strict=True))
            b = Node("group", tuple(map(values.__getitem__, asked)), value.value)
    return None if value is a else same(value, b)


def _sets(a: Node, b: Node) -> bool | None:
    """Intervals, their unions, and inequalities with a single variable."""
    first, second = solutions(a), solutions(b)
    if first is None or second is None:
        return None
    if first[0] and second[0] and first[0] != second[0]:
        return False
    return _same_sets(first[1], second[1])


def _same_sets(first: Sequence[Node], second: Sequence[Node]) -> bool:
    return len(first) == len(second) and _same_in_any_order(first, second)


@dataclass(frozen=True)
class Rule:
    """How two types are compared; `decide` says None where the rule does not apply after all."""

    name: str
    first: frozenset[str]
    second: frozenset[str]
    decide: Callable[[Node, Node], bool | None]


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


_VALUES = "number expression"
_ANY = f"{_VALUES} percent quantity collection set matrix ratio numeral time text"
RULES = [
    Rule("number", _types("number"), _types("number"), _expressions),
    Rule("expression", _types(_VALUES), _types(_VALUES), _expressions),
    Rule("percentage", _types("percent"), _types(f"percent {_VALUES}"), _percent),
    Rule("quantity", _types("quantity"), _types("quantity"), _quantities),
    Rule("unit on one side", _types("quantity"), _types(_VALUES), _quantity),
    Rule("choice", _types("choice"), _types("choice"), _alike),
    Rule("choice", _types("choice"), _types(f"{_ANY} relation"), _choice),
    Rule("ratio", _types("ratio"), _types("ratio"), _ratios),
    Rule("ratio", _types("ratio"), _types(f"time {_VALUES}"), _ratio),
    Rule("time", _types("time"), _types("time"), _times),
    Rule("text", _types("text"), _types("text"), _alike),
    Rule("matrix", _types("matrix"), _types("matrix"), _matrices),
    Rule("vector", _types("matrix"), _types("collection"), _vector),
    Rule("relation", _types("relation"), _types("relation"), _relations),
    Rule("set", _types("collection set relation"), _types("set relation"), _sets),
    Rule("set", _types("expression"), _types("collection set relation"), _sets),
    Rule("collection", _types("collection"), _types("collection"), _collections),
    Rule("value of an equation", _types("relation"), _types(f"{_ANY} choice"), _assigned),
    Rule("decimal comma", _types("collection"), _types("number"), _decimal_comma),
    Rule("set of one", _types("collection"), _types(_ANY), _single),
]
"""The rules, in the order in which they are tried."""
