"""Answers as trees: what a text was read as, how it prints, and which type of answer it is."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Node:
    """One node of an answer.

    `kind` is one of

        number     value: Fraction                 name      value: str
        + - * / ^ ! ±   operators over `args`      call      value: name of the function
        percent    args: (what is counted,)        quantity  args: (value,), value: `units.Unit`
        list       bare, value: "," ";" "and" "or" group     value: (opening, closing) brackets
        union intersection difference (of sets)    matrix    args: rows, each a `row`; value: kind
        relation   args: the sides, value: signs   ratio     args: the parts
        numeral    value: (digits, base)           time      value: minutes, "am" "pm" or ""
        choice     value: letter, args: (its text,) or ()    text      value: words
        dots       an ellipsis
    """

    kind: str
    args: tuple["Node", ...] = ()
    value: Any = None
    decimals: int | None = None
    """Digits after the point of a number that was written with one; no part of its identity."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return (self.kind, self.value, self.args) == (other.kind, other.value, other.args)

    def __hash__(self) -> int:
        return hash((self.kind, self.value, self.args))


EXPRESSIONS = frozenset(("number", "name", "call", "+", "-", "*", "/", "^", "!", "±"))
"""Kinds that algebra can decide."""

_TYPES = {
    "group": "collection",
    "list": "collection",
    "union": "set",
    "intersection": "set",
    "difference": "set",
}
_SET_WORDS = {"union": "∪", "intersection": "∩", "difference": r"\setminus"}


def number(value: int | Fraction, decimals: int | None = None) -> Node:
    """A number."""
    return Node("number", (), Fraction(value), decimals)


def negative(node: Node) -> Node:
    """Minus a node; of a number, the negative number."""
    if node.kind == "number":
        return number(-node.value, node.decimals)
    return Node("-", (node,))


def type_of(node: Node) -> str:
    """The type of an answer, as `docs/grading.md` lists them."""
    if node.kind in EXPRESSIONS:
        return "number" if node.kind == "number" else "expression"
    return _TYPES.get(node.kind, node.kind)


def show(node: Node) -> str:
    """The node as text that reads as the same node."""
    args = [show(arg) for arg in node.args]
    if node.kind in EXPRESSIONS:
        enclosed = ("quantity", "percent", "relation", "list", "ratio", "union")
        pairs = zip(node.args, args, strict=True)
        args = [f"({text})" if arg.kind in enclosed else text for arg, text in pairs]
        return _shown_expression(node, args)
    return _shown_other(node, args)


def _shown_expression(node: Node, args: list[str]) -> str:
    match node.kind:
        case "number":
            value = node.value
            text = _short(value.numerator)
            return text if value.denominator == 1 else f"({text}/{_short(value.denominator)})"
        case "name":
            # as Python prints them, these two are constants
            return rf"\mathrm{{{node.value}}}" if node.value in ("I", "E") else str(node.value)
        case "+" | "*" | "/" | "^":
            return "(" + node.kind.join(args) + ")"
        case "-" | "±":
            return f"({node.kind}{''.join(args)})" if len(args) == 1 else f"({'±'.join(args)})"
        case "!":
            return f"({args[0]})!"
    return f"{node.value}({','.join(args)})"


def _shown_other(node: Node, args: list[str]) -> str:
    match node.kind:
        case "percent":
            return f"{args[0]}%"
        case "quantity":
            return rf"{args[0]}\text{{ {node.value}}}"
        case "list":
            return (", " if node.value == "," else f" {node.value} ").join(args)
        case "group":
            opening, closing = (rf"\{c}" if c in "{}" else c for c in node.value)
            return f"{opening}{', '.join(args)}{closing}"
        case "union" | "intersection" | "difference":
            return f" {_SET_WORDS[node.kind]} ".join(args)
        case "row":
            return " & ".join(args)
        case "matrix":
            rows = r" \\ ".join(args)
            return rf"\begin{{{node.value}}} {rows} \end{{{node.value}}}"
        case "relation":
            signs = [*node.value, ""]
            return " ".join(f"{arg} {sign}" for arg, sign in zip(args, signs, strict=True)).strip()
        case "ratio":
            return ":".join(args)
        case "numeral":
            return f"{node.value[0]}_{{{node.value[1]}}}"
        case "time":
            minutes, seconds = divmod(int(node.value[0] * 60), 60)
            shown = f"{minutes // 60}:{minutes % 60:02}" + f":{seconds:02}" * bool(seconds)
            return f"{shown} {node.value[1]}".strip()
        case "choice":
            return f"({node.value}) {''.join(args)}".strip()
        case "dots":
            return r"\ldots"
    return " ".join(node.value)


def _short(value: int) -> str:
    """An integer; a monstrous one by its size (Python refuses to print it)."""
    bits = value.bit_length()
    return str(value) if bits < 10_000 else f"(an integer of {bits} bits)"
