"""Reading a line of worked arithmetic: its chains of `=` terms and the answer it states."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from redraft.grading.steps.expression import (
    Node,
    Token,
    UnreadableError,
    names_of,
    parse,
    tokenize,
    usual_width,
)

MAX_CHARACTERS = 50_000
"""Length of one solution, all steps together; a longer one is not read."""

_LABEL = re.compile(
    r"""\s* (?:[-*•]\s+)? (?:
        \((?P<number>\d{1,3})\)
      | \(\s*final\ response\s*\) :?
      | \d{1,3}[.)](?!\d)
      | (?:step|thought)\s*\(?\d{1,3}\)? \s*[:.)-]?
    )? \s*""",
    re.VERBOSE | re.IGNORECASE,
)
_LOOKS_LIKE_OPERAND = re.compile(r"=|[-+*×−]\s|[-+*×−]$|$")
_ANSWER = re.compile(
    r"\banswer\b(?:\s+(?:to|of|for)\s+(?:the|this)\s+\w+)?\s*(?:is|:|=|equals|will be|would be)"
    r"|####|\\boxed\b",
    re.IGNORECASE,
)
_IN_WORDS = re.compile(
    r"\b(?:sum|product|difference|total|result|add|subtract|multipl|plus|minus|times)",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"""[\s:=*_"“$`'({\[\\]*(?:therefore|thus|now|then|simply)?[\s*_"$`({\[]*""")


@dataclass(frozen=True)
class Term:
    """One side of an equation: where it stands in its step, and its expression if it is one."""

    start: int
    end: int
    node: Node | None

    @cached_property
    def names(self) -> frozenset[str]:
        """The letters in it."""
        return frozenset() if self.node is None else frozenset(names_of(self.node))

    @property
    def letter(self) -> str:
        """The letter that the term is, or nothing."""
        return self.node.name if self.node is not None and self.node.kind == "name" else ""

    @property
    def is_number(self) -> bool:
        """Whether it is one number, with or without brackets."""
        return self.node is not None and self.node.kind == "number"


@dataclass(frozen=True)
class Chain:
    """Terms joined by `=`; one term alone is an expression that is only mentioned.

    `continues` says that the chain opens its step with a `=`; `unfinished` that it ends with one,
    or in the middle of a term that ends the step.
    """

    terms: tuple[Term, ...]
    continues: bool = False
    unfinished: bool = False

    @property
    def letter(self) -> str:
        """The letter whose value the chain gives, or nothing."""
        return self.terms[0].letter if len(self.terms) > 1 else ""


@dataclass(frozen=True)
class Step:
    """A step as read: its text without a label, the chains in it and the answer it states.

    `answer` is the term after words like "the answer is". `label` is where the text begins, `wordy`
    whether there is more in it than equations.
    """

    text: str
    label: int
    chains: tuple[Chain, ...]
    answer: Term | None
    wordy: bool

    def quote(self, first: Term, last: Term | None = None) -> str:
        """The step's own words, from one term to another."""
        return self.text[first.start : (last or first).end]


def read_step(text: str, index: int) -> Step:
    """Read step number `index` (0-based, which tells a label `(k)` from a number in brackets)."""
    plain = usual_width(text)
    label = _label_end(plain, index)
    tokens = tokenize(plain, label)
    chains = tuple(_chains(tokens, plain, label))
    words = any(token.kind == "gap" and token.symbol not in ",;." for token in tokens)
    return Step(text, label, chains, _answer(plain, chains), words)


def is_operations(steps: Sequence[Step]) -> bool:
    """Whether a solution is nothing but operations on two numbers, and perhaps an answer."""
    lines = [step for step in steps if step.answer is None]
    operations = [chain for step in lines for chain in step.chains if len(chain.terms) > 1]
    return (
        bool(operations)
        and not any(step.wordy for step in lines)
        and all(
            len(chain.terms) == 2 and not chain.continues and _is_operation(chain.terms[0].node)
            for chain in operations
        )
    )


def _is_operation(node: Node | None) -> bool:
    return (
        node is not None
        and len(node.arguments) == 2
        and all(argument.kind == "number" for argument in node.arguments)
    )


def _label_end(text: str, index: int) -> int:
    match = _LABEL.match(text)
    if match is None:
        return 0
    number = match["number"]
    rest = text[match.end() : match.end() + 2]
    if number is not None and (_LOOKS_LIKE_OPERAND.match(rest) or int(number) > index + 2):
        return 0
    return match.end()


def _chains(tokens: Sequence[Token], text: str, label: int) -> Iterator[Chain]:
    run: list[Token] = []
    in_words = _IN_WORDS.search(text) is not None
    for token in tokens:
        if token.kind != "gap":
            run.append(token)
            continue
        yield from _chain(run, text, label, in_words)
        run = []
    yield from _chain(run, text, label, in_words)


def _chain(run: Sequence[Token], text: str, label: int, in_words: bool) -> Iterator[Chain]:
    sides: list[list[Token]] = [[]]
    for token in run:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    if len(sides) > 1 and _is_only_half(sides[0], run[len(sides[0])], in_words):
        sides = sides[1:]
        run = run[len(run) - sum(map(len, sides)) - len(sides) + 1 :]
    terms = tuple(_term(side) for side in sides if side)
    if not terms:
        return
    at_end = not text[run[-1].end :].strip()
    yield Chain(
        terms,
        continues=not sides[0]
        and run[0].symbol[0] in "=→"
        and not text[label : run[0].start].strip(),
        unfinished=at_end and (not sides[-1] or terms[-1].node is None),
    )


def _is_only_half(side: Sequence[Token], equals: Token, in_words: bool) -> bool:
    """Whether a number or letter before an equals sign is the tail of an operation told in words,
    as in "adding 3 gives 8" and "the sum of A and B is 8"."""
    operands = [token for token in side if token.kind in ("number", "name", "unknown")]
    if len(operands) != 1 or operands[0].kind == "unknown":
        return False
    return in_words or (equals.symbol[0].isalpha() and operands[0].kind == "number")


def _term(tokens: list[Token]) -> Term:
    tokens = _without_stray_brackets(tokens)
    node: Node | None = None
    if tokens:
        try:
            node = parse(tokens)
        except UnreadableError:
            node = None
        return Term(tokens[0].start, tokens[-1].end, node)
    return Term(0, 0, None)


def _without_stray_brackets(tokens: list[Token]) -> list[Token]:
    """Brackets at either end whose partner stands outside of the term are a sentence's own."""
    opened: list[int] = []
    stray: set[int] = set()
    for i, token in enumerate(tokens):
        if token.kind == "open":
            opened.append(i)
        elif token.kind == "close":
            if opened:
                opened.pop()
            else:
                stray.add(i)
    stray.update(opened)
    first, last = 0, len(tokens)
    while first in stray and tokens[first].kind == "open":
        first += 1
    while last - 1 in stray and last > first and tokens[last - 1].kind == "close":
        last -= 1
    return tokens[first:last]


def _answer(text: str, chains: Sequence[Chain]) -> Term | None:
    """What stands after the last "the answer is" of a step that is followed by an expression."""
    starts = [chain.terms[0].start for chain in chains]
    for match in reversed(list(_ANSWER.finditer(text))):
        place = bisect_left(starts, match.end())
        if place < len(starts) and _BETWEEN.fullmatch(text, match.end(), starts[place]):
            return chains[place].terms[-1]
    return None
