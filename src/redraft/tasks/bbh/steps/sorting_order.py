"""What is true of a word-sorting problem: its words, their letters, and a partial order of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
    *("seventeenth", "eighteenth", "nineteenth", "twentieth"),
)

_QUESTION = re.compile(
    r"\s*(?:(?i:.*?\blist\s*:)|(?:Q\s*:)?\s*(?:Sort\b[^:\n]{0,120}:|Sort\s)?)"
    r"(?P<words>.*?)(?:^[ \t]*(?:A|(?i:answer))[ \t]*:.*)?\Z",
    re.DOTALL | re.MULTILINE,
)
_WORD = re.compile(r"[^\s,;\"“”„`]+")


def question_words(question: str) -> tuple[str, ...]:
    """The words that a question asks to sort, in lower case and in the question's order.

    It may be the bare list, "Sort" and the list, or BIG-bench's "Sort ...: List: ...", with what
    the model is to reply after it.
    """
    match = _QUESTION.match(question)
    found = _WORD.findall(match["words"] if match else "")
    words = (word.strip("'").casefold() for word in found)
    return tuple(word for word in words if any(map(str.isalnum, word)))


def ordinal(position: int) -> str:
    """The name of a letter's position, counted from 1: "first", "second", ... "21st"."""
    if position <= len(ORDINALS):
        return ORDINALS[position - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(position % 10 if position // 10 % 10 != 1 else 0, "th")
    return f"{position}{ending}"


def letter(word: str, position: int) -> str:
    """The letter of `word` at `position` (from 1); empty where the word has ended."""
    return word[position - 1 : position]


def number(character: str) -> int:
    """The place of a letter in the alphabet, 1 to 26; 0 for anything else and for no letter."""
    return ord(character) - 96 if len(character) == 1 and "a" <= character <= "z" else 0


@dataclass(frozen=True)
class Group:
    """Words whose first `depth` letters are the same: a subpart, not sorted any further yet."""

    words: tuple[str, ...]
    depth: int

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to sort: one word, or one word several times."""
        return len(set(self.words)) == 1

    def has(self, words: Sequence[str]) -> bool:
        """Whether these are its words, in any order."""
        return sorted(self.words) == sorted(words)

    def split(self) -> list["Group"]:
        """The subparts by the next letter, in alphabetical order; equal words stand alone."""
        depth = self.depth + 1
        parts: list[Group] = []
        ordered = sorted(self.words, key=lambda word: letter(word, depth))
        for _, same in groupby(ordered, key=lambda word: letter(word, depth)):
            part = Group(tuple(same), depth)
            parts += [Group((word,), depth) for word in part.words] if part.settled else [part]
        return parts


def show_group(words: Sequence[str], limit: int | None = 20) -> str:
    """Words in the notation for a group: `["a" ? "b"]`, or `"a"` alone; the first `limit`."""
    shown = " ? ".join(f'"{word}"' for word in words[:limit])
    if limit is not None and len(words) > limit:
        shown += " ..."
    return f"[{shown}]" if len(words) > 1 else shown
