"""What calls make of their arguments: functions, roots, and Python's constructors."""

from collections.abc import Callable

from redraft.grading.math.nodes import Node, negative, number
from redraft.grading.math.vocabulary import FUNCTIONS


class UnreadableError(Exception):
    """The text is no answer of a known form."""


def times(left: Node, right: Node) -> Node:
    return Node("*", (*left.args, right) if left.kind == "*" else (left, right))


def over(top: Node, bottom: Node) -> Node:
    """A quotient; of two numbers, the number."""
    if top.kind == bottom.kind == "number" and bottom.value:
        return number(top.value / bottom.value)
    return Node("/", (top, bottom))


def product_of(letters: str) -> Node:
    names = [Node("name", (), letter) for letter in letters]
    return names[0] if len(names) == 1 else Node("*", tuple(names))


def together(first: Node, second: Node) -> Node:
    """One quantity of two: 5 ft 6 in in feet."""
    scale = second.value.factor / first.value.factor
    (value,), (rest,) = first.args, second.args
    if value.kind == rest.kind == "number":
        part = rest.value * scale * (-1 if value.value < 0 else 1)
        return Node("quantity", (number(value.value + part),), first.value)
    return Node("quantity", (Node("+", (value, times(number(scale), rest))),), first.value)


def transposed(node: Node) -> Node:
    """A matrix with its rows as columns; a tuple as it is."""
    if node.kind == "group":
        return node
    columns = zip(*(row.args for row in node.args), strict=True)
    return Node("matrix", tuple(Node("row", column) for column in columns), node.value)


def is_left_side(node: Node) -> bool:
    """Whether a node can be what an equation gives a value to: a name, f(x), AB, (x, y)."""
    if node.kind == "name":
        return True
    if node.kind == "call" and node.value not in FUNCTIONS - {"abs"}:
        return all(is_left_side(arg) or arg.kind in ("text", "number") for arg in node.args)
    if node.kind in ("group", "ratio", "matrix", "row"):
        return all(map(is_left_side, node.args))
    if node.kind == "/":  # dy/dx
        return all(n.kind == "*" and n.args[0].value in ("d", "partial") for n in node.args)
    if node.kind == "*":  # AB is a length, xy is a product
        return all(
            arg.value.isupper() if arg.kind == "name" else arg.kind != "group" and is_left_side(arg)
            for arg in node.args
        )
    return False


def _interval(opening: str, closing: str) -> Callable[..., Node]:
    def build(low: Node, high: Node) -> Node:
        infinite = Node("name", (), "infty")  # which Python prints in closed intervals too
        left = "(" if low == negative(infinite) else opening
        right = ")" if high == infinite else closing
        return Node("group", (low, high), (left, right))

    return build


def _rows(*args: Node) -> Node:
    rows = args[0].args if len(args) == 1 and args[0].kind == "group" else args
    cells = [row.args if row.kind == "group" else (row,) for row in rows]
    return Node("matrix", tuple(Node("row", row) for row in cells), "pmatrix")


_ONE = number(1)

CONSTRUCTORS: dict[str, Callable[..., Node]] = {
    **dict.fromkeys(("Fraction", "Rational"), lambda top, bottom=_ONE: over(top, bottom)),
    **dict.fromkeys(
        ("Integer", "Float", "Decimal", "int", "float", "int64", "float64", "mpf"),
        lambda value: value,
    ),
    "Interval": _interval("[", "]"),
    "Interval.open": _interval("(", ")"),
    "Interval.Lopen": _interval("(", "]"),
    "Interval.Ropen": _interval("[", ")"),
    **dict.fromkeys(("FiniteSet", "set"), lambda *args: Node("group", args, ("{", "}"))),
    "Union": lambda *args: Node("union", args),
    "Eq": lambda left, right: Node("relation", (left, right), ("=",)),
    **dict.fromkeys(("Tuple", "Point", "Point2D"), lambda *args: Node("group", args, ("(", ")"))),
    "complex": lambda real, imaginary: Node("+", (real, times(imaginary, Node("name", (), "i")))),
    **dict.fromkeys(("Matrix", "array"), _rows),
    "Pow": lambda base, exponent: Node("^", (base, exponent)),
    **{
        name: (lambda *args, name=name: Node("call", args, name.lower()))
        for name in ("Abs", "Max", "Min", "Mod")
    },
}
ROOTS = {"sqrt": 2, "cbrt": 3}


def called(name: str, args: tuple[Node, ...]) -> Node:
    """A function's value as a node: roots are powers, constructors what they make."""
    if not args:
        raise UnreadableError(f"{name} of nothing")
    if name in CONSTRUCTORS:
        try:
            return CONSTRUCTORS[name](*args)
        except TypeError:
            raise UnreadableError(f"{name} with {len(args)} arguments") from None
    if name in ROOTS and len(args) == 1:
        return Node("^", (args[0], over(number(1), number(ROOTS[name]))))
    if name == "factorial":
        return Node("!", args[:1])
    short = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "binomial": "binom"}
    return Node("call", args, short.get(name, name))
