"""Orders in text, as `(1) "a" < (2) ["b" ? "c"]`, read token by token."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

QUOTED = r'"(?P<quoted>[^"\n]{0,60})"'
"""A quoted word or letter."""

_TOKEN = re.compile(
    rf"{QUOTED}|\((?P<number>-?\d{{1,30}})\)|(?P<bare>\w[\w'&-]*+)|(?P<mark>[<>≤≥?=\[\],])"
    r"|(?P<space>\s++)|(?P<other>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Piece:
    """Words that an order does not tell apart, with the number that stands before them."""

    words: tuple[str, ...]
    number: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Order:
    """Pieces in ascending order; `partial` when it only compares some words in passing."""

    pieces: tuple[Piece, ...]
    start: int
    end: int
    partial: bool = False

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words, as written."""
        return tuple(word for piece in self.pieces for word in piece.words)


@dataclass(frozen=True)
class Token:
    """A word, a number in brackets, a mark of an order, or a break: what no order holds."""

    kind: Literal["word", "number", "mark", "break"]
    text: str
    quoted: bool
    start: int
    end: int


def tokens_of(text: str, offset: int = 0) -> Iterator[Token]:
    """The tokens of a text that begins `offset` characters into its step; no spaces."""
    for match in _TOKEN.finditer(text):
        start, end = match.start() + offset, match.end() + offset
        if match["quoted"] is not None:
            yield Token("word", match["quoted"].strip().casefold(), True, start, end)
        elif match["bare"] is not None:
            word = match["bare"].rstrip("'&-_").casefold()
            yield Token("word", word, False, start, end)
        elif match["number"] is not None:
            yield Token("number", match["number"], False, start, end)
        elif match["mark"] is not None:
            yield Token("mark", match["mark"], False, start, end)
        elif match["other"] is not None:
            yield Token("break", match["other"], False, start, end)


def chains(tokens: Sequence[Token]) -> Iterator[Order]:
    """Every order among the tokens."""
    index = 0
    while index < len(tokens):
        chain = _Chain()
        stop = index
        while stop < len(tokens) and chain.takes(tokens[stop], tokens[stop + 1 : stop + 3]):
            stop += 1
        if (order := chain.order(tokens[index:stop])) is not None:
            yield order
        index = max(stop, index + 1)


class _Chain:
    """An order as it is read token by token; brackets only delimit."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.pieces: list[list[Token]] = []
        self.places: list[Token | None] = []  # the number before each piece
        self.depth = 0
        self.place: Token | None = None  # the number read last
        self.joined = False  # whether the next word belongs to the last piece
        self.wants_word = True
        self.signs: set[str] = set()
        self.last: Token | None = None

    def takes(self, token: Token, following: Sequence[Token]) -> bool:
        """Read a token if it can go on the order; whether it did."""
        if token.kind == "word":
            taken = self.wants_word or (self.depth > 0 and token.quoted)
            if taken:
                self._word(token)
        elif token.kind == "number":
            taken = self.wants_word
            self.place = token if taken else self.place
        else:
            taken = token.kind == "mark" and self._mark(token.text, following)
        if taken:
            self.last = token
        return taken

    def _word(self, token: Token) -> None:
        if self.pieces and (self.joined or not self.wants_word):
            self.pieces[-1].append(token)
        else:
            self.pieces.append([token])
            self.places.append(self.place)
        self.wants_word, self.joined, self.place = False, False, None

    def _mark(self, mark: str, following: Sequence[Token]) -> bool:
        if mark == "[":
            if not (self.wants_word or self.depth):
                return False
            self.depth += 1
        elif mark == "]":
            self.depth -= 1
            return self.depth >= 0
        elif self.wants_word:
            return False
        elif mark in "<≤>≥":
            self.signs.add("<" if mark in "<≤" else ">")
            self.wants_word = True
        else:  # "?" and "=" join in brackets or between quoted words, a comma in brackets only
            between = mark in "?=" and self.last is not None and self.last.quoted
            if following and following[0].kind == "number":  # (15) "a" ? (15) "b"
                following = following[1:]
            if not self.depth and not (between and following and following[0].quoted):
                return False
            self.wants_word = self.joined = True
        return True

    def order(self, tokens: Sequence[Token]) -> Order | None:
        """What was read, from these tokens, if it is an order: of two words at least, or of one
        with its number, which may be what is left where the other was lost."""
        several = len(self.pieces) > 1 or any(len(piece) > 1 for piece in self.pieces)
        numbered = self.places[:1] != [None] and any(p[0].quoted for p in self.pieces)
        if not (several or numbered) or len(self.signs) > 1:
            return None
        end = tokens[-1].end if tokens[-1].text == "]" else self.pieces[-1][-1].end
        pieces = [
            _piece(words, place) for words, place in zip(self.pieces, self.places, strict=True)
        ]
        if self.signs == {">"}:
            pieces.reverse()
        return Order(tuple(pieces), tokens[0].start, end)


def _piece(words: Sequence[Token], place: Token | None) -> Piece:
    number = None if place is None else int(place.text)
    start = (place or words[0]).start
    return Piece(tuple(word.text for word in words), number, start, words[-1].end)
