"""Expressions with + - * / and brackets: read, evaluated and written, never executed.

Nothing here recurses, so depth is no danger, and every size is bounded: what is longer, or has a
larger value, is `UnreadableError`. Values are exact; a whole one is an `int`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

MAX_TOKENS = 20_000
"""Tokens of one expression."""

MAX_DIGITS = 300
"""Digits of one number as written."""

MAX_BITS = 4096
"""Size of any value on the way."""

Value = int | Fraction
"""Exact: a `Fraction` is no whole number."""

Operator = Literal["+", "-", "*", "/"]

Kind = Literal["number", "name", "operator", "open", "close", "equals", "unknown", "gap"]
"""`unknown` is mathematics that is not read (powers, roots, percentages); `gap` is all else."""


class UnreadableError(ValueError):
    """The text is no expression, or one beyond the bounds."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text: `text[start:end]`, with `symbol` its plain form (operators as + - * /)."""

    kind: Kind
    symbol: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """An expression: a number, a name, a negation, or an operator on two expressions.

    `brackets` says that it was written in brackets; it changes how the node is written again, not
    its value.
    """

    kind: Literal["number", "name", "negate"] | Operator
    number: Value = 0
    name: str = ""
    arguments: tuple["Node", ...] = ()
    brackets: bool = False


_TOKEN = re.compile(
    r"""
    (?P<skip> \s+ | \\(?:left|right)(?![a-z]) | \\[!,;] | [“”"`$] )
  | (?P<gap> [<>!:]= )
  | (?P<unknown> \*\* | \d+(?:\.\d+){2,} | [\^%±√] )
  | (?P<number> (?: \d{1,3}(?:,\d{3})+(?![\d,]) | \d+ )(?:\.\d+)? )
  | (?P<equals> =+>? | → | (?:is\ equal\ to|equals|is|gives|becomes)\b )
  | (?P<times> [×·⋅∗∙*] | \\(?:times|cdot)(?![a-z]) | (?<=[\d)\]])[xX](?=[-−–\d(\[]) )
  | (?P<divide> [/÷] )
  | (?P<minus> [-−–‐‑‒] )
  | (?P<plus> \+ )
  | (?P<open> [(\[{] )
  | (?P<close> [)\]}] )
  | (?P<name> (?<![\w'’])[A-Za-z](?:_?\d{1,4}|_\{\d{1,4}\})?(?![\w'’]) )
  | (?P<other> \w+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_OPERATORS = {"times": "*", "divide": "/", "minus": "-", "plus": "+"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def usual_width(text: str) -> str:
    """The text with full-width characters, as （１＋２）, as the usual ones; as long as it was."""
    return text.translate(_FULL_WIDTH)


def tokenize(text: str, start: int = 0) -> list[Token]:
    """The tokens of any text from `start` on; words and punctuation become one `gap` each."""
    tokens: list[Token] = []
    for match in _TOKEN.finditer(usual_width(text), start):
        group = match.lastgroup
        if group in (None, "skip"):
            continue
        symbol, kind = match[0], group
        if group in _OPERATORS:
            kind, symbol = "operator", _OPERATORS[group]
        elif group == "name":
            symbol = symbol.replace("{", "").replace("}", "")
        elif group == "other":
            kind = "gap"
        tokens.append(Token(kind, symbol, *match.span()))  # type: ignore[arg-type]
    return _told_apart(tokens)


def _told_apart(tokens: list[Token]) -> list[Token]:
    """An x between two operands is a multiplication sign; ** elsewhere is emphasis."""
    ends, starts = ("number", "name", "close"), ("number", "name", "open")
    for i, token in enumerate(tokens):
        if token.symbol not in ("x", "X", "**"):
            continue
        after = tokens[i + 1] if i + 1 < len(tokens) else None
        is_between = (
            i > 0
            and tokens[i - 1].kind in ends
            and after is not None
            and (after.kind in starts or after.symbol == "-")
        )
        if token.symbol == "**" and not is_between:
            tokens[i] = replace(token, kind="gap")
        elif token.symbol != "**" and is_between:
            tokens[i] = replace(token, kind="operator", symbol="*")
    return tokens


def parse(source: str | Sequence[Token]) -> Node:
    """The expression that a text or its tokens are, all of them.

    Raises:
        UnreadableError: they are not one expression, or one beyond the bounds.
    """
    tokens = tokenize(source) if isinstance(source, str) else source
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError(f"more than {MAX_TOKENS} tokens")
    operands: list[Node] = []
    pending: list[str] = []  # operators and open brackets that wait for their right-hand side
    previous: Token | None = None
    for token in tokens:
        wants_operand = previous is None or previous.kind in ("operator", "open")
        if token.kind == "operator":
            if not wants_operand:
                _reduce(operands, pending, _PRECEDENCE[token.symbol])
                pending.append(token.symbol)
            elif token.symbol == "-":
                pending.append("negate")
            elif token.symbol != "+":
                raise UnreadableError(f"a {token.symbol} without a left-hand side")
        elif token.kind == "close":
            if wants_operand:
                raise UnreadableError("a bracket closes after nothing")
            _close(operands, pending)
        else:
            if not wants_operand:  # only (a)(b) and 2(a) leave their sign out
                if token.kind != "open" or previous is None or previous.kind == "name":
                    raise UnreadableError("two expressions side by side")
                _reduce(operands, pending, _PRECEDENCE["*"])
                pending.append("*")
            _begin(token, operands, pending)
        previous = token
    if previous is None or previous.kind in ("operator", "open"):
        raise UnreadableError("the expression stops short")
    _reduce(operands, pending, 0)
    if pending or len(operands) != 1:
        raise UnreadableError("a bracket stays open")
    return operands[0]


def _begin(token: Token, operands: list[Node], pending: list[str]) -> None:
    if token.kind == "open":
        pending.append("(")
    elif token.kind == "number":
        digits = token.symbol.replace(",", "")
        if len(digits) > MAX_DIGITS:
            raise UnreadableError(f"a number of more than {MAX_DIGITS} digits")
        operands.append(Node("number", _simplest(Fraction(digits))))
    elif token.kind == "name":
        operands.append(Node("name", name=token.symbol))
    else:
        raise UnreadableError(f"{token.symbol[:20]!r} in an expression")


def _close(operands: list[Node], pending: list[str]) -> None:
    _reduce(operands, pending, 0)
    if not pending:
        raise UnreadableError("a bracket closes that was never opened")
    pending.pop()
    operands[-1] = replace(operands[-1], brackets=True)


def _reduce(operands: list[Node], pending: list[str], precedence: int) -> None:
    """Apply the operators that bind at least as strongly as `precedence`."""
    while pending and pending[-1] != "(" and _PRECEDENCE[pending[-1]] >= precedence:
        operator = pending.pop()
        right = operands.pop()
        if operator == "negate":
            is_literal = right.kind == "number" and right.number >= 0 and not right.brackets
            negated = (
                Node("number", -right.number) if is_literal else Node("negate", 0, "", (right,))
            )
            operands.append(negated)
        else:
            operands.append(Node(operator, 0, "", (operands.pop(), right)))  # type: ignore[arg-type]


def nodes(root: Node) -> Iterator[Node]:
    """Every node of an expression, children before their parents, left to right."""
    stack = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded or not node.arguments:
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.arguments))


def values(root: Node, names: Mapping[str, Value] | None = None) -> Iterator[tuple[Node, Value]]:
    """Every node with its value, children before their parents.

    Raises:
        UnreadableError: a name without a value, a division by nought, or a value of more than
            `MAX_BITS` bits.
    """
    stack: list[Value] = []
    for node in nodes(root):
        if node.kind == "number":
            value = node.number
        elif node.kind == "name":
            if names is None or node.name not in names:
                raise UnreadableError(f"{node.name} has no value")
            value = names[node.name]
        elif node.kind == "negate":
            value = -stack.pop()
        else:
            right, left = stack.pop(), stack.pop()
            value = apply(node.kind, left, right)
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise UnreadableError("a value beyond the bounds")
        stack.append(value)
        yield node, value


def apply(operator: Operator, left: Value, right: Value) -> Value:
    """`left operator right`.

    Raises:
        UnreadableError: a division by nought.
    """
    if operator == "+":
        return _simplest(left + right)
    if operator == "-":
        return _simplest(left - right)
    if operator == "*":
        return _simplest(left * right)
    if right == 0:
        raise UnreadableError("a division by nought")
    return _simplest(Fraction(left) / right)


def _simplest(value: Value) -> Value:
    return value.numerator if value.denominator == 1 else value


def evaluate(root: Node, names: Mapping[str, Value] | None = None) -> Value:
    """The value of an expression, given those of its names.

    Raises:
        UnreadableError: as `values` does.
    """
    value: Value = 0
    for _, value in values(root, names):  # noqa: B007 (the last one is the root's)
        pass
    return value


def is_whole(root: Node) -> bool:
    """Whether an expression has neither fractions nor divisions in it."""
    return all(node.kind != "/" and isinstance(node.number, int) for node in nodes(root))


def names_of(root: Node) -> set[str]:
    """The names in an expression."""
    return {node.name for node in nodes(root) if node.kind == "name"}


def write(root: Node) -> str:
    """An expression as text, in BIG-bench's manner: `((-3 + 5 * 8) - (A * -2))`."""
    parts: list[str] = []
    stack: list[Node | str] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        if item.kind in ("number", "name"):
            text = item.name or write_value(item.number)
            parts.append(f"({text})" if item.brackets and item.name else text)
            continue
        inner: list[Node | str] = ["-", *item.arguments]
        if item.kind != "negate":
            inner = [item.arguments[0], f" {item.kind} ", item.arguments[1]]
        stack.extend(reversed(["(", *inner, ")"] if item.brackets else inner))
    return "".join(parts)


def write_value(value: Value) -> str:
    """A value as text: a decimal where it has an end, else as `8/7`."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or not places:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def question_expression(question: str) -> Node:
    """The expression that a question asks about: its longest stretch without words or names.

    Raises:
        UnreadableError: there is none, or it is not one of whole numbers.
    """
    stretches: list[list[Token]] = [[]]
    for token in tokenize(question):
        if token.kind in ("gap", "equals", "name"):
            stretches.append([])
        else:
            stretches[-1].append(token)
    root = parse(max(stretches, key=len))
    if not is_whole(root):
        raise UnreadableError("a problem with fractions")
    return root
