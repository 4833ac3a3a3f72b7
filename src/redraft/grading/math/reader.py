r"""Reading an answer: tokens to a `Node`, to the end of the text or not at all.

A recursive-descent parser for what people write as answers in LaTeX, plain text and Python. Nothing
is evaluated. What it cannot read to its end is a `text`, which equals only the same words.
"""

import re
from fractions import Fraction
from functools import lru_cache

from redraft.grading.math.building import UnreadableError
from redraft.grading.math.lexer import Token, tokens_of
from redraft.grading.math.nodes import Node, number
from redraft.grading.math.parser import Parser
from redraft.grading.math.vocabulary import (
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    HEDGES,
    SEPARATORS,
    SETS_IN_WORDS,
)

LENGTH_LIMIT = 4000
"""Characters above which an answer is compared as text only."""

HEIGHT_LIMIT = 120
"""Levels of a reading above which an answer is compared as text only."""

_PLAIN = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")


@lru_cache(maxsize=4096)
def read(text: str) -> Node:
    """What an answer says; of kind `text` where it cannot be read to its end."""
    if len(text) > LENGTH_LIMIT:
        return Node("text", (), (text.strip(),))
    if _PLAIN.fullmatch(text):  # most answers
        whole, _, decimals = text.partition(".")
        scale = 10 ** len(decimals)
        return number(Fraction(int(whole + decimals), scale), len(decimals) or None)
    try:
        tokens = _without_delimiters(tokens_of(text))
        if not tokens:
            return Node("text", (), ())
        for form in (_date, _time, _choice, _label):
            if (node := form(tokens)) is not None:
                return node
        if not _is_words(tokens):
            node = Parser(tokens).answer()
            if _height(node) <= HEIGHT_LIMIT:
                return node
    except (UnreadableError, ValueError, IndexError, RecursionError):  # also: it ends too early
        tokens = tokens_of(text)
    folded = tuple(_folded(token) for token in tokens if token.text not in '.,$"')
    meant = SETS_IN_WORDS.get(" ".join(folded))
    return Node("name", (), meant) if meant else Node("text", (), folded)


def _height(node: Node) -> int:
    """Levels of a tree, counted without recursion."""
    height, level = 0, [node]
    while level:
        height, level = height + 1, [arg for parent in level for arg in parent.args]
    return height


def is_readable(text: str) -> bool:
    """Whether a text is an answer other than mere words."""
    return read(text).kind != "text"


def _folded(token: Token) -> str:
    return token.text.casefold() if len(token.text) > 1 and token.text[0] != "\\" else token.text


def _is_words(tokens: list[Token]) -> bool:
    """Whether an answer is words alone: no product of letters, no name."""
    words = [token for token in tokens if token.kind == "word"]
    if not words or len(words) < len([token for token in tokens if token.text not in "-.,'"]):
        return False
    first = words[0].text
    if len(words) == 1:
        known = first in CONSTANTS or first in GREEK or len(first) < 3
        return not known or (len(first) == 2 and first.lower() in ("no", "up"))
    return any(len(token.text) > 2 and token.text not in GREEK | FUNCTIONS for token in words)


def _without_delimiters(tokens: list[Token]) -> list[Token]:
    """Without the signs around mathematics, and without what ends a sentence."""
    dollars = [index for index, token in enumerate(tokens) if token.text == "$"]
    currency = [i for i in dollars if tokens[i].kind == "command"]  # it was written \$
    plain = [i for i in dollars if i not in currency]
    if len(plain) % 2:  # one of them is a currency: the first before a number, else the last
        before = [i for i in plain if i + 1 < len(tokens) and tokens[i + 1].kind == "number"]
        plain.remove(before[0] if before else plain[-1])
    dropped = {*plain, *(i for i, t in enumerate(tokens) if t.text in _DELIMITERS)}
    kept = [token for index, token in enumerate(tokens) if index not in dropped]
    while kept and kept[-1].text in _ENDS:
        kept.pop()
    while kept and kept[0].text in (".", ":", ",", *HEDGES):
        kept.pop(0)
    if len(kept) > 2 and kept[0].text == kept[-1].text and kept[0].text in "'\"^*":
        return kept[1:-1]
    return kept


_NO_CHOICE = frozenset("(=+-*/^_,'!∪∩:&")
_DELIMITERS = frozenset((r"\(", r"\)", r"\[", r"\]"))
_ENDS = frozenset((".", ",", ";", ":", "?", "\\", r"\checkmark"))


# ---- forms that are read as a whole ----


def _date(tokens: list[Token]) -> Node | None:
    """A date in digits, which is no arithmetic: 12/25/1937, 2024-01-31."""
    texts = [token.text for token in tokens]
    if len(texts) != 5 or texts[1] != texts[3] or texts[1] not in "/-":
        return None
    parts = [int(text) if text.isdigit() else 0 for text in texts[::2]]
    year = max(parts)
    days = [part for part in parts if part != year]
    is_date = 1000 <= year < 3000 and len(days) == 2 and year != parts[1] and 0 < min(days) < 13
    if not is_date or max(days) > 31:
        return None
    return Node("text", (), ("date", *map(str, parts)))


def _time(tokens: list[Token]) -> Node | None:
    """A time of day: 12:00, 7:05 p.m., 8 a.m."""
    texts = [token.text.lower() for token in tokens]
    half = ""
    for ending in (["a", ".", "m"], ["p", ".", "m"], ["am"], ["pm"], ["a", "m"], ["p", "m"]):
        if texts[-len(ending) :] == ending and len(texts) > len(ending):
            half, texts = ending[0][0] + "m", texts[: -len(ending)]
    numbers, colons = texts[::2], texts[1::2]
    if not all(n.isdigit() for n in numbers) or set(colons) - {":"} or len(numbers) > 3:
        return None
    seconds = numbers.pop() if len(numbers) == 3 else "0"
    if len(seconds) > 2 or int(seconds) > 59 or (seconds != "0" and numbers[1][0] != "0"):
        return None  # a ratio of three
    minutes = numbers[1] if len(numbers) == 2 else "00" if half else ""
    if len(numbers[0]) > 2 or len(minutes) != 2 or int(numbers[0]) > 24 or int(minutes) > 59:
        return None
    hour = int(numbers[0])
    if half and hour <= 12:
        hour %= 12
    elif half:
        return None
    return Node("time", (), (hour * 60 + int(minutes) + Fraction(int(seconds), 60), half))


def _choice(tokens: list[Token]) -> Node | None:
    """A letter of a multiple-choice question with its text: (D) Alina, B) 12, C Cecile."""
    texts = [token.text for token in tokens]
    bracketed = texts[0] == "(" and texts[2:3] == [")"]
    letter, rest = (texts[1], tokens[3:]) if bracketed else (texts[0], tokens[1:])
    if not rest or len(letter) != 1 or letter not in "ABCDEFGHIJ":
        return None
    if not bracketed:
        marked = rest[0].text in (")", ".", ":")
        first = rest[0]
        word = first.kind == "word" and first.spaced and first.text[1:] and first.text[0].isupper()
        rest = rest[1:] if marked else rest
        if not rest or not (marked or word) or rest[0].text in SEPARATORS:
            return None
    if rest[0].text in _NO_CHOICE or rest[0].text in SEPARATORS:
        return None
    following = [token.text for token in rest[1:]] + [")"]
    if any(t.text in "ABCDEFGHIJ" and f in ").:," for t, f in zip(rest, following, strict=True)):
        return None  # several letters: (A) and (B)
    if rest[0].kind == "word" and not rest[0].spaced and not rest[0].worded:
        return None
    return Node("choice", (_inner(rest),), letter)


def _label(tokens: list[Token]) -> Node | None:
    """A value behind a label of words: Total: 5."""
    texts = [token.text for token in tokens]
    if ":" not in texts or not 0 < texts.index(":") < len(texts) - 1:
        return None
    at = texts.index(":")
    words = tokens[:at]
    if all(t.kind == "word" for t in words) and any(len(t.text) > 2 for t in words):
        inner = _inner(tokens[at + 1 :])
        return None if inner.kind == "text" else inner
    return None


def _inner(tokens: list[Token]) -> Node:
    if not _is_words(tokens):
        try:
            return Parser(tokens).answer()
        except UnreadableError:
            pass
    return Node("text", (), tuple(_folded(token) for token in tokens))
