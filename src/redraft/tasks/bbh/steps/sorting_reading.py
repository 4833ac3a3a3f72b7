"""Reading a step of a word-sorting solution: what it claims, in the order it claims it.

Four kinds of claim are read: letters of words (`"vote": "v" (22)`), the subpart to sort next
(`sort this subpart ["a" ? "b"]`), an order (`(1) "a" < (2) ["b" ? "c"]`), and the answer. A step is
cut into tokens, and a claim is found by the kinds of its tokens. Brackets are delimiters without
meaning of their own, so that no nesting of them matters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from redraft.tasks.bbh.steps import Token

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
    *("seventeenth", "eighteenth", "nineteenth", "twentieth"),
)


def ordinal(position: int) -> str:
    """The name of a letter's position, counted from 1: "first", "second", ... "21st"."""
    if position <= len(ORDINALS):
        return ORDINALS[position - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(position % 10 if position // 10 % 10 != 1 else 0, "th")
    return f"{position}{ending}"


_TOKEN = re.compile(
    r"""(?P<quote>"|(?<!\w)')(?P<quoted>[^"\n]{0,60}?)(?P=quote)(?!\w)"""
    r"|\((?P<number>\d{1,30})\)|(?P<bare>\w[\w'&-]*+)|\s++|[-=]>|.",
    re.DOTALL,
)
_ITEM = r"[NZ\[(]{0,6}[QqKU](?:(?:,[QqKU]){1,200}(?=\]))?"
_CLAIM = re.compile(
    r"(?P<letter>[QqK](?:[:=]|BW)(?:[ql]|0+)[NZ]?|[QqK][I-](?:q[NZ]?|l[NZ])|[Qq][:=]Z|[xl][:=-][ql]N)"
    rf"|{_ITEM}(?:(?:\]*(?:[<?]|(?<=[Qq])=){_ITEM})+|(?:\]*[>?]{_ITEM})+)?\]*"
)
"""A letter, or else an order, in the characters that `_kinds` gives."""
_ANSWER = re.compile(
    r"\banswer\s*(?:is|would\sbe|:|=)\s*:?|\bfinal\s(?:response|answer|list|order)\)?\s*(?:is)?\s*:?"
    r"|\b(?P<sorted>sorted|alphabetical(?:ly)?|ordered)\b[^.:<?\n]{0,60}?(?:\bis\b|\bare\b|:)\s*:?",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"\s{0,20}(?:[-•]|\d{1,4}[.)])\s")
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z(]|\s*$)")
_PLAIN = str.maketrans("“”„«»`‘’*≤≥→", '""""""\'\' <>-')
_POSITIONS = {ordinal(place): place for place in range(1, 61)} | {
    f"{place}{ending}": place for place in range(1, 21) for ending in ("st", "nd", "rd", "th")
}
_MARKS = {"->": "-", "=>": "-", ")": "]"} | dict.fromkeys(("starts", "begins"), "B")
_MARKS |= {"with": "W", "is": "I"} | dict.fromkeys(("none", "no", "letter", *_POSITIONS), "0")
_ANNOUNCED = frozenset(("sort", "look", "compare", "consider", "arrange"))
_LONGEST_LEAD = 12
"""Tokens before a claim in which its introduction is looked for, and within a run of letters."""


class Piece(NamedTuple):
    """Words that a claim does not tell apart, the number that goes with them, and the letter that
    they are said to have (empty: that they have ended)."""

    words: tuple[str, ...]
    number: int | None
    start: int
    end: int
    letter: str = ""


@dataclass(frozen=True)
class Claim:
    """What a step says. The kinds are "letters", each a piece, at `position` (from 1; None: not
    said); "subpart", to be sorted by the letters at `position`; "order", its pieces ascending; and
    "answer", not `settled` where it leaves words in question marks."""

    kind: str
    pieces: tuple[Piece, ...]
    start: int
    end: int
    position: int | None = None
    settled: bool = True

    @property
    def words(self) -> list[str]:
        """All words, as written."""
        return [word for piece in self.pieces for word in piece.words]


def read_step(step: str, known: frozenset[str], last: bool = False) -> list[Claim]:
    """The claims of a step, in its order.

    `known` are the words of the question: they tell words from prose. `last`: the solution's last
    step, in which any answer counts.
    """
    text = step.translate(_PLAIN)
    answer = _answer(text, known, last)
    tokens = _tokens(text if answer is None else text[: answer.start])
    claims: list[Claim] = []
    before = 0  # the end of the claim before
    for match in [*_CLAIM.finditer(_kinds(tokens, known)), None]:
        place = match.start() if match else len(tokens)
        lead = [token.text for token in tokens[max(before, place - _LONGEST_LEAD) : place]]
        positions = [
            _POSITIONS[word]
            for word, after in pairwise(lead)
            if word in _POSITIONS and after.startswith(("letter", "character"))
        ]
        if claims and claims[-1].kind == "subpart":
            claims[-1] = replace(claims[-1], position=next(iter(positions), None))
        if match is None:
            break
        found = tokens[match.start() : match.end()]
        if match["letter"]:
            _add_letter(claims, found, lead, next(reversed(positions), None))
        elif order := _order(found, tokens[match.end() : match.end() + 3]):
            is_announced = len(order.pieces) == 1 and not _ANNOUNCED.isdisjoint(lead)
            claims.append(replace(order, kind="subpart") if is_announced else order)
        else:
            continue
        before = match.end()
    return claims if answer is None else [*claims, answer]


def final_words(text: str, known: frozenset[str]) -> tuple[str, ...]:
    """The words of the final answer that a whole solution gives; empty where it gives none."""
    answer = _answer(text.translate(_PLAIN), known, last=True)
    return () if answer is None else tuple(answer.words)


def _tokens(text: str) -> list[Token]:
    """The "quoted" and "bare" words in lower case, the numbers in brackets and the marks."""
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        word = match[kind] if match.lastgroup else match[0]
        word = word.rstrip("'&-_") if kind == "bare" else word.strip()
        if not match[0].isspace():
            found.append(Token(kind, word.casefold(), match.start(), match.end()))
    return found


def _kinds(tokens: Sequence[Token], known: frozenset[str]) -> str:
    """A character for each token: Q and q a quoted word and letter, K a bare word of the question,
    U another beside a <, l a bare letter, x another word, N a number, Z zero (see `_MARKS`)."""
    kinds = ""
    for place, token in enumerate(tokens):
        beside = {other.text for other in tokens[max(0, place - 1) : place + 2]}
        if token.kind == "quoted":
            kinds += "q" if len(token.text) <= 1 else "Q"
        elif token.kind == "number":
            kinds += "N" if int(token.text) else "Z"
        elif token.kind == "mark":
            kinds += _MARKS.get(token.text, token.text)
        elif token.text in known:
            kinds += "K"
        elif "<" in beside:
            kinds += "U"
        else:
            kinds += _MARKS.get(token.text, "l" if len(token.text) == 1 else "x")
    return kinds


def _add_letter(
    claims: list[Claim], found: Sequence[Token], lead: Sequence[str], position: int | None
) -> None:
    """Add a letter to its run; a new position, or much text between two, begins a new run."""
    position = 1 if found[1].text in ("starts", "begins") else position
    number = int(found[-1].text) if found[-1].kind == "number" else None
    shown = found[3 if found[2].text == "with" else 2]
    text = shown.text if shown.kind in ("quoted", "bare") and len(shown.text) == 1 else ""
    piece = Piece((found[0].text,), number, found[0].start, found[-1].end, text)
    run = claims[-1] if claims and claims[-1].kind == "letters" else None
    if run and position in (None, run.position) and len(lead) < _LONGEST_LEAD:
        claims[-1] = replace(run, pieces=(*run.pieces, piece), end=piece.end)
    else:
        claims.append(Claim("letters", (piece,), piece.start, piece.end, position))


def _order(found: Sequence[Token], following: Sequence[Token]) -> Claim | None:
    """The order that these tokens are: of two words at least, or of one that is said to be a whole
    subpart, which is what is left where the others were lost."""
    pieces: list[Piece] = []
    number, start, joins = None, found[0].start, False
    for token in found:
        if token.kind == "number":
            number, start = int(token.text), token.start
        elif token.kind == "mark":
            joins = token.text in ("?", "=", ",") or (joins and token.text in ("[", "("))
        elif joins:
            words = (*pieces[-1].words, token.text)
            pieces[-1] = pieces[-1]._replace(words=words, end=token.end)
        else:
            pieces.append(Piece((token.text,), number, start if number else token.start, token.end))
            number = None
    if any(token.text == ">" for token in found):
        pieces.reverse()
    order = Claim("order", tuple(pieces), found[0].start, found[-1].end)
    is_left = [token.text for token in following] == ["for", "the", "subpart"]
    return order if is_left or len(order.words) > 1 else None


def _answer(text: str, known: frozenset[str], last: bool) -> Claim | None:
    """The answer that a step gives: the last with all the words, or else the last; before the last
    step it must have most of them."""
    found: list[Claim] = []
    for match in list(_ANSWER.finditer(text))[-5:]:  # each reads all that follows it
        given = _answer_after(text, match, known)
        right = sum(word in known for word in given.words)
        mostly = 10 * right >= 6 * max(len(given.words), len(known))
        if mostly or (last and not match["sorted"]):
            found.append(given)
    whole = [given for given in found if set(given.words) == known]
    return next(reversed(whole or found), None)


def _answer_after(text: str, match: re.Match[str], known: frozenset[str]) -> Claim:
    """What follows an announcement: a list, or the rest of the line up to the sentence's end."""
    rest = text[match.end() :]
    if rest.strip() and not _LIST_MARK.match(rest):
        rest = rest[: len(rest) - len(rest.lstrip())] + rest.lstrip().split("\n", 1)[0]
        sentence = _SENTENCE_END.search(rest)
        rest = rest[: sentence.start()] if sentence else rest
    tokens = _tokens(rest)
    words = [token.text for token in tokens if token.kind in ("quoted", "bare") and token.text]
    joiners = ("and", "then")
    words = [word for word in words if word in known or not (word in joiners or word.isdigit())]
    settled = all(token.text != "?" for token in tokens)
    end = match.end() + len(rest.rstrip())
    pieces = tuple(Piece((word,), None, 0, 0) for word in words)
    return Claim("answer", pieces, match.start(), end, settled=settled)
