"""Reading a line of worked arithmetic: its chains of `=` terms and the answer it states."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from redraft.tasks.bbh.steps import Token
from redraft.tasks.bbh.steps.expression import Expression, UnreadableError, parse, plain, tokenize

_LABEL = re.compile(
    r"""\s* (?:[-*•]\s+)? (?:
        \((?P<number>\d{1,3})\) (?! \s* (?: [-+*=] \s | [-+*=]? $ ) )
      | \(\s*(?P<final>final\ response)\s*\) :?
      | \d{1,3}[.)](?!\d)
      | (?:step|thought)\s*\(?\d{1,3}\)? \s*[:.)-]?
    ) \s*""",
    re.VERBOSE | re.IGNORECASE,
)
_ASKED = frozenset(("answer", "boxed", "#"))
"""What an answer follows."""
_FILLERS = frozenset(
    (
        *("to", "of", "for", "the", "this", "problem", "question", "equation", "expression", "be"),
        *("will", "would", "therefore", "thus", "now", "then", "simply", "final"),
        *(":", "*", "**", "_", "\\", "'", "#"),
    )
)
"""What may stand between "answer" and the number."""


class Term(NamedTuple):
    """One side of an equation: its step's number and text, its place there, its expression."""

    step: int
    text: str
    start: int
    end: int
    expression: Expression = Expression()

    @property
    def is_number(self) -> bool:
        """Whether it is one number."""
        return self.expression.value is not None

    def quote(self, last: "Term | None" = None) -> str:
        """The step's own words, from this term to another or to its own end."""
        return self.text[self.start : (last or self).end]


Chain = tuple[Term, ...]
"""Terms joined by `=`; one term alone is only mentioned. The first is empty where a step opens with
a `=`."""


@dataclass
class Step:
    """A step as read: its text, the chains in it and the answer it states.

    `is_numbered` and `is_final` say whether it begins with `(k)` or `(Final response)`, `is_wordy`
    whether there is more in it than equations.
    """

    text: str
    is_numbered: bool = False
    is_final: bool = False
    is_wordy: bool = False
    chains: list[Chain] = field(default_factory=list)
    answer: Term | None = None


def defined(chain: Chain) -> str:
    """The letter whose value a chain gives, or nothing."""
    return chain[0].expression.letter if len(chain) > 1 else ""


def read_step(text: str, index: int) -> Step:
    """Read step number `index` (from 0, which tells a label `(k)` from a number in brackets)."""
    label = _LABEL.match(plain(text))
    if label and int(label["number"] or 0) > index + 2:
        label = None
    start = label.end() if label else 0
    tokens = [*tokenize(text, start), Token("gap", "", len(text), len(text))]
    is_numbered, is_final = (bool(label and label[name]) for name in ("number", "final"))
    step = Step(text, is_numbered, is_final)
    step.is_wordy = any(t.kind == "gap" and t.text not in (",", ";", ".") for t in tokens[:-1])
    asked = False
    run: list[Token] = []
    for token in tokens:
        if token.kind != "gap":
            run.append(token)
            continue
        if run and (sides := _sides(run, opens=not text[start : run[0].start].strip())):
            step.chains.append(tuple(_term(side, index, text) for side in sides))
            step.answer = step.chains[-1][-1] if asked else step.answer
            asked = False
        word = token.text.lower()
        asked = word in _ASKED or (asked and word in _FILLERS)
        run = []
    return step


def _sides(run: Sequence[Token], opens: bool) -> list[list[Token]]:
    """The sides of the equation that a run of mathematics is; an empty one before a `=` that opens
    a step."""
    sides: list[list[Token]] = [[]]
    equals = [token for token in run if token.kind == "equals"]
    for token in run:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    kinds = [token.kind for token in sides[0] if token.kind not in ("open", "close")]
    if kinds == ["number"] and equals and equals[0].text.isalpha():
        del sides[0]  # the tail of "adding 3 gives 8"
    found = [side for side in sides if side]
    if found and opens and run[0].text in ("=", "→"):
        return [[run[0]._replace(end=run[0].start)], *found]
    return found


def _term(tokens: Sequence[Token], index: int, text: str) -> Term:
    """A side of an equation; a bracket at its end without a partner in it is the sentence's."""
    surplus = sum((token.kind == "open") - (token.kind == "close") for token in tokens)
    while surplus > 0 and len(tokens) > 1 and tokens[0].kind == "open":
        tokens, surplus = tokens[1:], surplus - 1
    while surplus < 0 and len(tokens) > 1 and tokens[-1].kind == "close":
        tokens, surplus = tokens[:-1], surplus + 1
    try:
        return Term(index, text, tokens[0].start, tokens[-1].end, parse(tokens))
    except UnreadableError:
        return Term(index, text, tokens[0].start, tokens[-1].end)
