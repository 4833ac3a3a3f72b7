r"""Whether two answers are the same, decided by the cheapest layer that can tell.

1. *string*: the two read the same once normalised (`normalise`), element by element for lists.
   This layer only ever says yes.
2. *number*: both are exact numbers, or lists of them; this layer says yes or no.
3. *math-verify*: anything else, in a worker process (`symbolic`).

The first two are pure functions of bounded cost, so they run in the caller's thread.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from redraft.grading.normalise import clean, normalise
from redraft.grading.number import parse_number, same_number

Layer = Literal["string", "number"]

LENGTH_LIMIT = 4000
"""Characters above which an answer is compared as text only."""

NESTING_LIMIT = 3
"""Depth of lists within lists that is compared element by element."""

UNORDERED_LIMIT = 32
"""Elements up to which two unordered lists are matched here (the cost is quadratic)."""

_ASSIGNMENT = re.compile(
    r"^\(?[A-Za-z\\][A-Za-z\\]{0,9}(?:_\{?\w{1,9}\}?)?(?:\([A-Za-z, ]{1,9}\))?\)?"  # x, x_1, f(x)
    r"\s*(?:=|\\in(?![a-z]))\s*(?!.*=)"
)
_ASSIGNMENT_BEHIND = re.compile(r"(?<![<>=!])=\s*[A-Za-z](?:_\{?\w{1,9}\}?)?$")
_CHOICE = re.compile(r"\(?([A-J])(?:\)|\.|:|\s)\s*[A-Za-z]{2,}[A-Za-z .'-]*")
_CONNECTIVE = re.compile(r"\s*,?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])\s*")
_APPROXIMATELY = re.compile(r"\s*\\approx(?![A-Za-z]).*", re.DOTALL)


@dataclass(frozen=True)
class Decision:
    """A verdict, the layer that gave it, and why (for a person to read)."""

    correct: bool
    layer: Layer
    reason: str = ""


@dataclass(frozen=True)
class Elements:
    """A list, tuple, set or interval as written: its brackets ("" for none) and its elements."""

    opening: str
    closing: str
    items: list[str]

    @property
    def ordered(self) -> bool:
        """Whether order matters: it does within ( ) and [ ], not in a set or a bare list."""
        return self.opening in ("(", "[")


def decide(gold: str, answer: str) -> Decision | None:
    """The verdict of the string and number layers; None when neither can tell."""
    return _decide(gold, answer, depth=0)


def _decide(gold: str, answer: str, depth: int) -> Decision | None:
    if max(len(gold), len(answer)) > LENGTH_LIMIT:
        same = gold.strip() == answer.strip()
        why = f"an answer of {len(answer)} characters is compared as text only"
        return Decision(same, "string", why)
    if _same_text(gold, answer):
        return Decision(True, "string")
    gold_value, answer_value = _comparable(gold, answer)
    if _same_text(gold_value, answer_value):
        return Decision(True, "string")
    decision = _decide_value(gold_value, answer_value)
    if decision is None and depth < NESTING_LIMIT:
        decision = _decide_elements(gold_value, answer_value, depth + 1)
    return decision


def split_elements(text: str) -> Elements | None:
    r"""The elements of ``(1, 2)``, ``\{1, 2\}``, ``1 and 2`` and the like; None for one value."""
    text = _CONNECTIVE.sub(", ", clean(text).replace("$", ""))
    opening = closing = ""
    for left, right in ((r"\{", r"\}"), ("{", "}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        enclosed = text.startswith(left) and text.endswith(right)
        if enclosed and _encloses(text, len(left), len(right)):
            opening, closing = left.lstrip("\\"), right.lstrip("\\")
            text = text[len(left) : len(text) - len(right)]
            break
    items = [item.strip() for item in _split_top_level(text)]
    if len(items) < 2 or not all(items):
        return None
    return Elements(opening, closing, items)


def _same_text(gold: str, answer: str) -> bool:
    normal_gold, normal_answer = normalise(gold), normalise(answer)
    if normal_gold and normal_gold == normal_answer:
        return True
    # "(D) Alina" or "C Cecile" names a choice and its text; the letter alone is the same choice.
    for choice, letter in ((gold, normal_answer), (answer, normal_gold)):
        match = _CHOICE.fullmatch(clean(choice))
        if match and match.group(1) == letter:
            return True
    return False


def _comparable(gold: str, answer: str) -> tuple[str, str]:
    """Both without what only one of them has: a leading "x =", a trailing "\\approx 0.58"."""
    gold, answer = _APPROXIMATELY.sub("", clean(gold)), _APPROXIMATELY.sub("", clean(answer))
    gold_value, answer_value = _assigned_value(gold), _assigned_value(answer)
    if (gold_value is None) == (answer_value is None):
        return gold, answer
    return gold_value or gold, answer_value or answer


def _assigned_value(text: str) -> str | None:
    """5 of "x = 5", "f(x) = 5" or "5 = x"; None for text that assigns nothing."""
    match = _ASSIGNMENT.match(text) or _ASSIGNMENT_BEHIND.search(text)
    if not match:
        return None
    return (text[: match.start()] + text[match.end() :]).strip() or None


def _decide_value(gold: str, answer: str) -> Decision | None:
    gold_number, answer_number = parse_number(gold), parse_number(answer)
    if gold_number and answer_number:
        if same_number(gold_number, answer_number):
            return Decision(True, "number")
        return Decision(False, "number", f"{_show(answer)} is not {_show(gold)}")
    if _same_with_comma(gold, answer):
        return Decision(True, "number")
    return None


def _same_with_comma(gold: str, answer: str) -> bool:
    """Whether the two agree once one of them is read with a decimal comma, the other with a point.

    "1000,99" may be a list of two, so this reading can only ever say yes; in "1,600" the comma
    separates thousands and nothing else.
    """
    for point, comma in ((gold, answer), (answer, gold)):
        readable = "," in comma and "." in point and "," not in point
        if readable and parse_number(comma) is None:
            point_number = parse_number(point)
            comma_number = parse_number(comma, decimal_comma=True)
            if point_number and comma_number and same_number(point_number, comma_number):
                return True
    return False


def _decide_elements(gold: str, answer: str, depth: int) -> Decision | None:
    gold_list, answer_list = split_elements(gold), split_elements(answer)
    if gold_list is None or answer_list is None or len(gold_list.items) != len(answer_list.items):
        return None
    same_brackets = (gold_list.opening, gold_list.closing) == (
        answer_list.opening,
        answer_list.closing,
    )
    unordered = not gold_list.ordered and not answer_list.ordered
    if not same_brackets and not unordered:
        return None
    if not unordered:
        return _match_in_order(gold_list.items, answer_list.items, depth)
    if len(gold_list.items) > UNORDERED_LIMIT:
        return None
    return _match_unordered(gold_list.items, answer_list.items, depth)


def _match_in_order(gold: Sequence[str], answer: Sequence[str], depth: int) -> Decision | None:
    decisions = [_decide(g, a, depth) for g, a in zip(gold, answer, strict=True)]
    if any(decision is None for decision in decisions):
        return None
    decided = [decision for decision in decisions if decision is not None]
    return next((d for d in decided if not d.correct), _weakest(decided))


def _match_unordered(gold: Sequence[str], answer: Sequence[str], depth: int) -> Decision | None:
    """Pairs each gold element with an unused equal one; only numbers alone can say no."""
    left = list(answer)
    decisions: list[Decision] = []
    for g in gold:
        for index, a in enumerate(left):
            decision = _decide(g, a, depth)
            if decision is not None and decision.correct:
                decisions.append(decision)
                del left[index]
                break
        else:
            all_numbers = all(parse_number(item) for item in (*gold, *answer))
            return (
                Decision(False, "number", f"no element equals {_show(g)}") if all_numbers else None
            )
    return _weakest(decisions)


def _weakest(decisions: Sequence[Decision]) -> Decision:
    """A list is as surely right as its least sure element."""
    return next((d for d in decisions if d.layer == "number"), decisions[0])


def _show(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _encloses(text: str, left: int, right: int) -> bool:
    """Whether the opening bracket of `text` is closed by its last one, and not before."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and left <= index < len(text) - right:
            return False
    return True


def _split_top_level(text: str) -> list[str]:
    """Split at commas and semicolons outside every bracket."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ",;" and (index == 0 or text[index - 1] != "\\"):
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts
