"""The step checker of word sorting (the checks of arXiv 2310.13522, in their order).

A solution is replayed on a partial order of the words (`Group`): each claim that a step
makes (`sorting_reading`) is compared with what is true and with what the steps before it have
established. The checks are

- `to_num`: the word has that letter there, and the letter that place in the alphabet;
- `self_consistent`: no word is missing, there twice, or not of the question;
- `to_subpart`: what is sorted next is the first subpart that the order so far leaves open;
- `letter_to_sort`: it is sorted by the next letter;
- `sort`: its groups are ascending, and exactly the words with one letter are grouped;
- `combine`: an order that is stated again is the one established, no more and no less sorted;
- `final`: the answer is there, and is the established order.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from redraft.tasks.bbh.steps import WrongStepError
from redraft.tasks.bbh.steps.sorting_reading import Claim, Piece, ordinal, read_step
from redraft.tasks.steps import StepVerdict

TEXT_LIMIT = 200_000
"""Characters of question and steps beyond which nothing is read."""
WORD_LIMIT = 500
"""Words of a question beyond which nothing is read."""

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


def check(question: str, steps: Sequence[str]) -> StepVerdict:
    """The first mistake in a solution; not readable where no step says anything of the order.

    Reads chain-of-thought text in BIG-bench's wording and looser ones, and the paper's numbered
    lines.
    """
    if len(question) + sum(map(len, steps)) > TEXT_LIMIT:
        return StepVerdict(readable=False, reason="the solution is too long to be read")
    words = question_words(question)
    if not words or len(words) > WORD_LIMIT:
        return StepVerdict(readable=False, reason="the question has no list of words to sort")
    solution = Solution(words, steps)
    verdict = solution.read()
    if verdict is None and not solution.claims:
        verdict = StepVerdict(readable=False, reason="no step says anything of the order")
    elif verdict is None and not solution.answered:
        reason = "the solution ends without a final answer"
        verdict = StepVerdict(len(steps) - 1, steps[-1].strip(), reason, "final")
    return (verdict or StepVerdict()).shortened()


class Solution:
    """A solution while it is read: what its steps so far have established.

    `groups` are the words as far as they are sorted, in alphabetical order, and `history` the
    groups that have been split. `open` is the subpart announced or looked at, `spelled` says
    whether its letters were given. `step` is the step that is being read, `claims` how many claims
    were, `answered` whether the right answer was.
    """

    def __init__(self, words: Sequence[str], steps: Sequence[str]) -> None:
        """Nothing is read yet."""
        self.words, self.known, self.steps = tuple(words), frozenset(words), steps
        self.groups = [Group(self.words, 0)]
        self.history: list[Group] = []
        self.open: Group | None = None
        self.spelled = self.answered = False
        self.step = self.claims = 0

    def read(self) -> StepVerdict | None:
        """Read the steps up to the first mistake."""
        try:
            for index, text in enumerate(self.steps):
                self.step = index
                for claim in read_step(text, self.known, last=self.step == len(self.steps) - 1):
                    self.claims += 1
                    getattr(self, f"_{claim.kind}")(claim)
        except WrongStepError as error:
            return error.verdict
        return None

    def unsettled(self) -> list[Group]:
        """The subparts that are still to be sorted, in order."""
        return [group for group in self.groups if not group.settled]

    def refine(self, group: Group) -> None:
        """Sort a group by its next letter."""
        index = self.groups.index(group)
        self.groups[index : index + 1] = group.split()
        self.history.append(group)
        self.open = None

    def _wrong(self, check: str, where: Claim | Piece, reason: str) -> WrongStepError:
        span = self.steps[self.step][where.start : where.end]
        return WrongStepError(check, self.step, span, reason)

    def _letters(self, claim: Claim) -> None:
        self._go_on_to(claim)
        group = self.open or self._closest(claim.words)
        position = claim.position or (group.depth + 1 if group else 1)
        for piece in claim.pieces:
            self._known_words(piece)
            self._letter(piece, position)
        if group is not None:
            self._same_words(claim, group.words)
            self._begin(group, position, claim)
            self.spelled = True

    def _letter(self, piece: Piece, position: int) -> None:
        """A word has the letter that it is said to have, and the letter its number."""
        [word] = piece.words
        true = letter(word, position)
        where = f'the {ordinal(position)} letter of "{word}"'
        if piece.letter != true:
            reason = f'{where} is "{true}"' + (f', not "{piece.letter}"' if piece.letter else "")
            reason = reason if true else f'"{word}" has no {ordinal(position)} letter'
            raise self._wrong("to_num", piece, reason)
        if piece.number is not None and number(true) not in (0, piece.number):
            reason = f'"{true}" is letter {number(true)} of the alphabet, not {piece.number}'
            raise self._wrong("to_num", piece, reason)

    def _known_words(self, said: Claim | Piece) -> None:
        for word in said.words:
            if word not in self.known:
                reason = f'"{word}" is not one of the words to sort'
                raise self._wrong("self_consistent", said, reason)

    def _same_words(
        self, claim: Claim, wanted: Sequence[str], check: str = "self_consistent"
    ) -> None:
        """A claim has these words, each as often."""
        have, need = Counter(claim.words), Counter(wanted)
        extra = sorted(have - need, key=lambda word: word in need)  # foreign words first
        for word in extra:
            often = "is there more often than it should be"
            reason = often if word in need else "does not belong here"
            raise self._wrong(check, claim, f'"{word}" {reason}')
        for word in need - have:
            raise self._wrong(check, claim, f'"{word}" is missing')

    def _go_on_to(self, claim: Claim) -> None:
        """Sort the open subpart by the letters that were given, although no step says the outcome,
        where the claim is about a subpart of that outcome: about all of it, where the letters were
        the same, if it is said to be about the letters after them."""
        if self.open and self.spelled:
            is_next = claim.position == self.open.depth + 2
            subparts = [part for part in self.open.split() if not part.settled]
            is_tied = any(part.has(self.open.words) for part in subparts)
            if any(part.has(claim.words) for part in subparts) and (is_next or not is_tied):
                self.refine(self.open)

    def _closest(self, words: Sequence[str]) -> Group | None:
        """The open group that a run of letters without an announcement must be of."""

        def shared(group: Group) -> int:
            return (Counter(words) & Counter(group.words)).total()

        best = max(self.unsettled(), key=shared, default=None)
        is_close = best and len(words) > 1 and 2 * shared(best) >= len(best.words)
        return best if is_close else None

    def _subpart(self, claim: Claim) -> None:
        self._go_on_to(claim)
        group = next((each for each in self.unsettled() if each.has(claim.words)), None)
        if group is not None:
            self._begin(group, claim.position or group.depth + 1, claim)
            return
        self._known_words(claim)
        if closest := self._closest(claim.words):
            self._same_words(claim, closest.words)
        reason = f"the order so far leaves no subpart {show_group(claim.words)} to sort"
        raise self._wrong("to_subpart", claim, reason)

    def _begin(self, group: Group, position: int, claim: Claim) -> None:
        """Take up a subpart, by its next letter. It must be the first that is open: annotators of
        BIG-Bench-Mistake count it as a mistake to go on from one that is not sorted yet, even where
        the solution comes back to it.
        """
        first, after = self.unsettled()[0], group.depth + 1
        if first != group:
            reason = f"the subpart {show_group(first.words)} before it is not sorted yet"
            raise self._wrong("to_subpart", claim, reason)
        if position != after:
            same = f"their {ordinal(position)} letters are the same; " if position < after else ""
            reason = f"{same}the words are to be sorted by their {ordinal(after)} letters next"
            raise self._wrong("letter_to_sort", claim, reason)
        self.open, self.spelled = group, False

    def _order(self, claim: Claim) -> None:
        sorted_now = self.open
        if sorted_now:
            self.refine(sorted_now)
        scope = self._scope(claim.words, sorted_now)
        if scope is None:
            self._compare(claim)
            return
        groups = [group for group in self.groups if group.words[0] in scope.words]
        self._numbers(claim, groups)
        self._same_words(claim, scope.words)
        check = "sort" if scope == sorted_now else "combine"
        pieces = [single for piece in claim.pieces for single in _singles(piece)]
        for piece, group in zip(pieces, groups, strict=True):
            if not group.has(piece.words):
                raise self._wrong(check, piece, _difference(piece.words, group.words))

    def _scope(self, words: Sequence[str], sorted_now: Group | None) -> Group | None:
        """The group that an order is about, of those sorted so far; None: only some words."""
        if sorted_now and len(words) == 1 and words[0] in sorted_now.words:
            return sorted_now

        def differing(group: Group) -> tuple[int, int]:
            extra = (Counter(words) - Counter(group.words)).total()
            return extra + (Counter(group.words) - Counter(words)).total(), extra

        close = [g for g in reversed(self.history) if 2 * differing(g)[1] <= len(words)]
        best = min(close, key=differing, default=None)
        return best if best and differing(best)[0] < len(words) else None

    def _compare(self, claim: Claim) -> None:
        """An order of some words: only what it says of the alphabet can be wrong."""
        known = [word for word in claim.words if word in self.known]
        if not self.history and 5 * len(known) >= 4 * len(self.words):
            self._same_words(claim, self.words)
        self._known_words(claim)
        for piece, after in pairwise(claim.pieces):
            if max(piece.words) > min(after.words):
                reason = f'"{min(after.words)}" comes before "{max(piece.words)}" in the alphabet'
                both = piece._replace(end=after.end)
                raise self._wrong("sort", both, reason)

    def _numbers(self, claim: Claim, groups: Sequence[Group]) -> None:
        """The number of a piece is that of one of the letters used for its words."""
        deepest = max(group.depth for group in groups)
        for piece in claim.pieces:
            for word in piece.words if piece.number is not None else ():
                places = {number(letter(word, place)) for place in range(1, deepest + 1)}
                if piece.number not in places and 0 not in places:
                    at = "first letter" if deepest == 1 else "letters"
                    reason = f'the {at} of "{word}" does not have the number {piece.number}'
                    raise self._wrong("to_num", piece, reason)

    def _answer(self, claim: Claim) -> None:
        if self.history and (unsettled := self.unsettled()):
            reason = f"the subpart {show_group(unsettled[0].words)} is not sorted yet"
            raise self._wrong("final", claim, reason)
        if not claim.settled:
            raise self._wrong("final", claim, "the answer leaves words unsorted")
        self._same_words(claim, self.words, "final")
        for said, wanted in zip(claim.words, sorted(self.words), strict=True):
            if said != wanted:
                reason = f'"{wanted}" comes before "{said}" in the alphabet'
                raise self._wrong("final", claim, reason)
        self.answered = True


def _singles(piece: Piece) -> list[Piece]:
    """A piece, or a piece for each word where it has one word several times."""
    is_one = len(set(piece.words)) == 1
    return [piece._replace(words=(word,)) for word in piece.words] if is_one else [piece]


def _difference(said: Sequence[str], wanted: Sequence[str]) -> str:
    """What is wrong with a piece that should be the group `wanted`."""
    if set(said) < set(wanted):
        return f"nothing so far tells the words {show_group(wanted)} apart"
    if set(wanted) < set(said):
        return f"the order of the words {show_group(said)} is known already"
    return f"{show_group(wanted)} comes before {show_group(said)}"
