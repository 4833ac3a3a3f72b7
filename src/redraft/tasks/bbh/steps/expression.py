"""Expressions with + - * / and brackets: read, evaluated and written, never executed.

An expression is a tree of sums and products with any number of operands. Depth and the size of
numbers are bounded; what goes beyond is an `UnreadableError`. Values are exact.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from redraft.tasks.bbh.steps import Token

MAX_DEPTH = 100
"""Brackets inside each other."""
MAX_DIGITS = 300
"""Digits of one number as written."""
MAX_BITS = 4096
"""Size of any value on the way."""


class UnreadableError(ValueError):
    """The text is no expression, or one beyond the bounds."""


_TOKEN = re.compile(
    r"""
    (?P<unknown> (?<=[\d)])\s*\*\*(?=\s*[-\d(]) | \d+(?:\.\d+){2,} | [\^%±√] )
  | (?P<skip> \s+ | \\(?:left|right)(?![a-z]) | \\[!,;] | [“”"`$] )
  | (?P<gap> [<>!:]= | \*\* )
  | (?P<number> (?: \d{1,3}(?:,\d{3})+(?![\d,]) | \d+ )(?:\.\d+)? )
  | (?P<equals> =+>? | → | (?:is\ equal\ to|equals|is|gives|becomes)\b )
  | (?P<times> \\(?:times|cdot)(?![a-z]) | (?<=[\d)\s])[xX](?=\s*[-\d(]) )
  | (?P<operator> [-+*/] )
  | (?P<open> \( )
  | (?P<close> \) )
  | (?P<letter> (?<![\w'’])[A-Za-z](?:_?\d{1,4}|_\(\d{1,4}\))?(?![\w'’]) )
  | (?P<other> \w+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN = _FULL_WIDTH | str.maketrans("×·⋅∗∙÷−–‐‑‒[{}]\u3000", "*****/-----(()) ")


def plain(text: str) -> str:
    """The text with one sign for each operator and bracket; as long as it was."""
    return text.translate(_PLAIN)


def tokenize(text: str, start: int = 0) -> list[Token]:
    """The tokens of any text from `start` on.

    They are "number", "letter", "operator", "open", "close", "equals", "unknown" (mathematics that
    is not read: powers, roots, percentages) or "gap" (any other word or mark).
    """
    tokens = []
    for match in _TOKEN.finditer(plain(text), start):
        kind, shown = match.lastgroup or "", match[0]
        if kind == "times":
            kind, shown = "operator", "*"
        elif kind == "letter":
            shown = shown.replace("(", "").replace(")", "")
        if kind != "skip":
            tokens.append(Token("gap" if kind == "other" else kind, shown, *match.span()))
    return tokens


@dataclass(frozen=True)
class Expression:
    """A number, a letter, or a sum or product of operands; with none of these, unreadable text.

    `operators` has a character for each operand: + or - in a sum, * or / in a product. The first is
    + or *, but for a negation, which is a sum of one operand with a -. `brackets` says that it was
    written in brackets; it changes how it is written again, not its value.
    """

    value: Fraction | None = None
    letter: str = ""
    operators: str = ""
    operands: tuple["Expression", ...] = ()
    brackets: bool = False

    @property
    def is_product(self) -> bool:
        """Whether its operands are multiplied (or divided)."""
        return self.operators[:1] in ("*", "/")

    def parts(self) -> Iterator["Expression"]:
        """It and all expressions in it."""
        yield self
        for operand in self.operands:
            yield from operand.parts()

    @property
    def letters(self) -> set[str]:
        """The letters in it."""
        return {part.letter for part in self.parts() if part.letter}

    @property
    def is_whole(self) -> bool:
        """Whether there are neither fractions nor divisions in it."""
        return not any(
            "/" in part.operators or (part.value is not None and part.value.denominator > 1)
            for part in self.parts()
        )


def parse(source: str | Sequence[Token]) -> Expression:
    """The expression that a text or its tokens are, all of them.

    Raises:
        UnreadableError: they are not one expression, or one beyond the bounds.
    """
    tokens = tokenize(source) if isinstance(source, str) else source
    rest = list(reversed(tokens))
    found = _operation(rest, "+-", 0)
    if rest:
        raise UnreadableError(f"{rest[-1].text[:20]!r} after the expression")
    return found


def _operation(rest: list[Token], signs: str, depth: int) -> Expression:
    """A sum (signs "+-") or product ("*/"), or the only operand of one; `rest` holds the tokens
    that are still to be read, the next one last."""
    operators, operands = "", list[Expression]()
    operator = signs[0]
    while operator:
        operators += operator
        operands.append(_operation(rest, "*/", depth) if "+" in signs else _factor(rest, depth))
        operator = ""
        if rest and rest[-1].text in tuple(signs):
            operator = rest.pop().text
        elif rest and rest[-1].text == "(" and "*" in signs and not operands[-1].letter:
            operator = "*"  # only (a)(b) and 2(a) leave their sign out
    single = len(operands) == 1
    return operands[0] if single else Expression(None, "", operators, tuple(operands))


def _factor(rest: list[Token], depth: int) -> Expression:
    """A number, letter or bracket with any signs before it."""
    is_negative = False
    while rest and rest[-1].text in ("+", "-"):
        is_negative ^= rest.pop().text == "-"
    if not rest or depth > MAX_DEPTH:
        raise UnreadableError("an operand is missing, or there are too many brackets")
    token = rest.pop()
    if token.kind == "number" and len(token.text) <= MAX_DIGITS:
        value = Fraction(token.text.replace(",", ""))
        return Expression(-value if is_negative else value)
    if token.kind == "letter":
        found = Expression(letter=token.text)
    elif token.kind == "open":
        found = replace(_operation(rest, "+-", depth + 1), brackets=True)
        if not rest or rest.pop().kind != "close":
            raise UnreadableError("a bracket stays open")
    else:
        raise UnreadableError(f"{token.text[:20]!r} in place of an operand")
    return Expression(None, "", "-", (found,)) if is_negative else found


def evaluate(
    root: Expression,
    letters: Mapping[str, Fraction] | None = None,
    results: list[Fraction] | None = None,
) -> Fraction:
    """The value of an expression, given those of its letters; adds the result of each operation to
    `results`.

    Raises:
        UnreadableError: a letter without a value, a division by zero, or a value of more than
            `MAX_BITS` bits.
    """
    if root.letter and letters and root.letter in letters:
        return letters[root.letter]
    if root.value is not None:
        return root.value
    if not root.operands:
        raise UnreadableError(f"{root.letter or 'the text'} has no value")
    total = Fraction(int(root.is_product))
    for place, (operator, operand) in enumerate(zip(root.operators, root.operands, strict=True)):
        value = evaluate(operand, letters, results)
        if operator == "/" and value == 0:
            raise UnreadableError("a division by zero")
        if root.is_product:
            total *= value if operator == "*" else 1 / value
        else:
            total += value if operator == "+" else -value
        if max(total.numerator.bit_length(), total.denominator.bit_length()) > MAX_BITS:
            raise UnreadableError("a value beyond the bounds")
        if results is not None and (place or operator == "-"):
            results.append(total)
    return total


def write(root: Expression) -> str:
    """An expression as text, in BIG-bench's manner: `((-3 + 5 * 8) - (A * -2))`."""
    if root.value is not None:
        return write_value(root.value)
    text = root.letter or "-" * root.operators.startswith("-")
    for place, (operator, operand) in enumerate(zip(root.operators, root.operands, strict=True)):
        text += f" {operator} {write(operand)}" if place else write(operand)
    return f"({text})" if root.brackets else text


def write_value(value: Fraction) -> str:
    """A value as text: a decimal where it is a short one, else as `8/7`."""
    decimal = Decimal(value.numerator) / value.denominator
    return f"{decimal:f}" if value.denominator > 1 and Fraction(decimal) == value else str(value)


def reductions(root: Expression) -> Iterator[Expression]:
    """An expression of numbers and what becomes of it: products first, then sums from the left."""
    yield root
    while root.operands:
        multiplied = _reduced(root, True)
        root = multiplied if multiplied != root else _reduced(root, False)
        yield root


def _reduced(root: Expression, multiply: bool) -> Expression:
    """The expression after the first operation of each product (or else sum) of numbers."""
    operands = tuple(_reduced(part, multiply) for part in root.operands)
    is_turn = (root.is_product or len(operands) == 1) == multiply
    if not operands or not is_turn or any(part.value is None for part in root.operands[:2]):
        return replace(root, operands=operands)
    value = evaluate(Expression(None, "", root.operators[:2], root.operands[:2]))
    operators = root.operators[:1] + root.operators[2:]
    joined = replace(root, operators=operators, operands=(Expression(value), *operands[2:]))
    return joined if len(operands) > 2 else Expression(value)


def question_expression(question: str) -> Expression:
    """The expression that a question asks about: its longest stretch without words or letters.

    Raises:
        UnreadableError: there is none, or it is not one of whole numbers.
    """
    stretches: list[list[Token]] = [[]]
    for token in tokenize(question):
        if token.kind in ("gap", "equals", "letter"):
            stretches.append([])
        else:
            stretches[-1].append(token)
    root = parse(max(stretches, key=len))
    if not root.is_whole:
        raise UnreadableError("a problem with fractions")
    return root
