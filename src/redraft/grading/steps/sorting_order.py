"""What is true of a word-sorting problem: its words, their letters, and a partial order of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
    *("seventeenth", "eighteenth", "nineteenth", "twentieth"),
)

_LIST = re.compile(r"\blist\s*:", re.IGNORECASE)
_REPLY = re.compile(r"^[ \t]*+(?:A|Answer)[ \t]*+:", re.IGNORECASE | re.MULTILINE)
_INSTRUCTION = re.compile(r"^(?:Q\s*:\s*)?Sort\b[^:\n]{0,120}:|^(?:Q\s*:\s*)?Sort\s|^Q\s*:", re.M)
_QUOTES = str.maketrans("“”„`", '""""', "[]")


def question_words(question: str) -> tuple[str, ...]:
    """The words that a question asks to sort, in lower case and in the question's order.

    It may be the bare list, "Sort" and the list, or BIG-bench's "Sort ...: List: ...", with what
    the model is to reply after it.
    """
    text = question
    heading = _LIST.search(text)
    if heading:
        text = text[heading.end() :]
    reply = _REPLY.search(text)
    if reply:
        text = text[: reply.start()]
    instruction = None if heading else _INSTRUCTION.match(text.lstrip())
    if instruction:
        text = text.lstrip()[instruction.end() :]
    tokens = re.split(r"[\s,;]+", text.translate(_QUOTES).replace('"', " "))
    bare = (token.strip("'").casefold() for token in tokens)
    return tuple(word for word in bare if any(map(str.isalnum, word)))


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

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two groups the same, whatever order their words are written in."""
        return tuple(sorted(self.words))

    def split(self) -> list["Group"]:
        """The subparts by the next letter, in alphabetical order; equal words stand alone."""
        depth = self.depth + 1
        by_letter: dict[str, list[str]] = {}
        for word in self.words:
            by_letter.setdefault(letter(word, depth), []).append(word)
        parts = [Group(tuple(by_letter[found]), depth) for found in sorted(by_letter)]
        return [single for part in parts for single in part.singles()]

    def singles(self) -> list["Group"]:
        """The group itself, or each of its equal words as a group."""
        if not self.settled:
            return [self]
        return [Group((word,), self.depth) for word in self.words]


class PartialOrder:
    """How far the words of a problem are sorted: groups in alphabetical order.

    It starts as one group of all words. `parents` leads from the words of a subpart to the group
    that it was split from.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Nothing is sorted yet."""
        self.groups: list[Group] = Group(tuple(words), 0).singles()
        self.parents: dict[tuple[str, ...], Group] = {}

    @property
    def started(self) -> bool:
        """Whether any letters have been used."""
        return any(group.depth for group in self.groups)

    def unsettled(self) -> list[Group]:
        """The subparts that are still to be sorted, in order."""
        return [group for group in self.groups if not group.settled]

    def find(self, words: Sequence[str]) -> Group | None:
        """The unsettled group of exactly these words."""
        key = tuple(sorted(words))
        return next((group for group in self.unsettled() if group.key == key), None)

    def refine(self, group: Group) -> None:
        """Sort a group by its next letter."""
        index = self.groups.index(group)
        parts = group.split()
        self.groups[index : index + 1] = parts
        for part in parts:
            if part.key != group.key:
                self.parents[part.key] = group

    def within(self, words: Sequence[str]) -> list[Group]:
        """The groups that make up `words`, in order."""
        wanted = set(words)
        return [group for group in self.groups if group.words[0] in wanted]

    def enclosing(self, group: Group) -> list[Group]:
        """The groups that a group was split from, the nearest first."""
        found: list[Group] = []
        while (parent := self.parents.get(group.key)) is not None:
            found.append(parent)
            group = parent
        return found
