"""Following a word-sorting solution claim by claim, up to its first mistake."""

from collections import Counter
from collections.abc import Sequence

from redraft.grading.steps.sorting_chains import Order
from redraft.grading.steps.sorting_faults import (
    Fault,
    comparison_fault,
    consistency_fault,
    groups_fault,
    letter_fault,
    misplaced_list,
    numbers_fault,
    show_group,
    show_words,
)
from redraft.grading.steps.sorting_order import Group, PartialOrder, ordinal
from redraft.grading.steps.sorting_reading import (
    Answer,
    Claim,
    Letters,
    Subpart,
    read_step,
)


def replay(words: Sequence[str], steps: Sequence[str]) -> "Replay":
    """Follow the steps up to the first fault, or to the end."""
    followed = Replay(words)
    for index, step in enumerate(steps):
        followed.reached = index
        for claim in read_step(step, followed.known, last=index == len(steps) - 1):
            followed.fault = followed.follow(claim)
            if followed.fault is not None:
                if followed.misordered:
                    followed.trace_back(steps[:index])
                return followed
    return followed


class Replay:
    """What the steps so far have established, and the subpart that is being sorted.

    `open` is the subpart announced or looked at, and `spelled` whether its letters were given;
    `recent` is the one sorted last, `reached` the step that `fault`, if any, is in.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Nothing is established yet."""
        self.words = tuple(words)
        self.known = frozenset(words)
        self.order = PartialOrder(words)
        self.open: Group | None = None
        self.spelled = False
        self.recent: Group | None = None
        self.answered = False
        self.misordered: tuple[str, ...] = ()  # the answer, where it has all words in a wrong order
        self.claims = 0
        self.reached = 0
        self.fault: Fault | None = None

    def follow(self, claim: Claim) -> Fault | None:
        """Take in one claim; what is wrong with it, if anything."""
        self.claims += 1
        if isinstance(claim, Letters):
            return self._letters(claim)
        if isinstance(claim, Subpart):
            return self._subpart(claim)
        if isinstance(claim, Order):
            return self._order(claim)
        return self._answer(claim)

    def trace_back(self, steps: Sequence[str]) -> None:
        """Blame the first of `steps` that has put words into the wrong order of the answer."""
        for index, step in enumerate(steps):
            fault = misplaced_list(step, self.words, self.misordered)
            if fault is not None:
                self.reached, self.fault = index, fault
                return

    def _letters(self, claim: Letters) -> Fault | None:
        self._go_on_to(claim)
        group = self.open or self._closest(_words(claim))
        position = claim.position or (group.depth + 1 if group else 1)
        for found in claim.letters:
            if found.word not in self.known:
                reason = f'"{found.word}" is not one of the words to sort'
                return Fault("self_consistent", found.start, found.end, reason)
            fault = letter_fault(found, position)
            if fault is not None:
                return fault
        if group is None:
            return None
        fault = consistency_fault(_words(claim), group.words, claim.start, claim.end)
        if fault is not None:
            return fault
        begun = None if self.open else self._begin(group, position, claim)
        self.spelled = True
        return begun or self._wrong_letter(group, position, claim)

    def _go_on_to(self, claim: Letters | Subpart) -> None:
        """Sort the open subpart by the letters that were given, although no step says the outcome,
        where the claim is about a subpart of that outcome: about all of it, where the letters were
        the same, if it is said to be about the letters after them."""
        if self.open is None or not self.spelled:
            return
        subparts = [part.key for part in self.open.split() if not part.settled]
        if self.open.key in subparts and claim.position != self.open.depth + 2:
            return
        if tuple(sorted(_words(claim))) in subparts:
            self.recent, self.open = self.open, None
            self.order.refine(self.recent)

    def _closest(self, words: Sequence[str]) -> Group | None:
        """The open group that a run of letters without an announcement must be of."""
        if len(words) < 2:
            return None
        shared = Counter(words)
        best: Group | None = None
        most = 0
        for group in self.order.unsettled():
            common = (shared & Counter(group.words)).total()
            if 2 * common >= len(group.words) and common > most:
                best, most = group, common
        return best

    def _subpart(self, claim: Subpart) -> Fault | None:
        self._go_on_to(claim)
        group = self.order.find(claim.words)
        if group is None:
            return self._no_such_subpart(claim)
        return self._begin(group, claim.position or group.depth + 1, claim)

    def _no_such_subpart(self, claim: Subpart) -> Fault | None:
        for word in claim.words:
            if word not in self.known:
                reason = f'"{word}" is not one of the words to sort'
                return Fault("self_consistent", claim.start, claim.end, reason)
        group = self._closest(claim.words)
        if group is not None:
            return consistency_fault(claim.words, group.words, claim.start, claim.end)
        listed = show_words(claim.words)
        reason = f"the order so far leaves no subpart of the words {listed} to sort"
        return Fault("to_subpart", claim.start, claim.end, reason)

    def _begin(self, group: Group, position: int, claim: Letters | Subpart) -> Fault | None:
        """Take up a subpart, which must be the first that is open: annotators of
        BIG-Bench-Mistake count it as a mistake to go on from one that is not sorted yet, even where
        the solution comes back to it.
        """
        first = self.order.unsettled()[0]
        if first != group:
            reason = f"the subpart {show_group(first.words)} before it is not sorted yet"
            return Fault("to_subpart", claim.start, claim.end, reason)
        self.open, self.spelled = group, False
        return self._wrong_letter(group, position, claim)

    def _wrong_letter(self, group: Group, position: int, claim: Letters | Subpart) -> Fault | None:
        if position == group.depth + 1:
            return None
        reason = f"the words are to be sorted by their {ordinal(group.depth + 1)} letters next"
        if position <= group.depth:
            reason = f"their {ordinal(position)} letters are the same; {reason}"
        return Fault("letter_to_sort", claim.start, claim.end, reason)

    def _order(self, claim: Order) -> Fault | None:
        if claim.partial or not (self.order.started or self.open):
            return self._unprepared(claim)
        if self.open is not None:
            sorted_now, self.open = self.open, None
            self.recent = sorted_now
            self.order.refine(sorted_now)
            alone = len(claim.words) == 1 and claim.words[0] in sorted_now.words
            if alone or self._scope(claim, [sorted_now.words]) == sorted_now.words:
                return self._sorted(claim, sorted_now)
        recent = [self.recent, *self.order.enclosing(self.recent)] if self.recent else []
        scope = self._scope(claim, [group.words for group in recent])
        if scope is None:
            return comparison_fault(claim, self.known)
        return self._restated(claim, scope)

    def _unprepared(self, claim: Order) -> Fault | None:
        """An order before any letters: only what it says of the alphabet can be wrong."""
        known = [word for word in claim.words if word in self.known]
        if not claim.partial and 5 * len(known) >= 4 * len(self.words):
            fault = consistency_fault(claim.words, self.words, claim.start, claim.end)
            if fault is not None:
                return fault
        return comparison_fault(claim, self.known)

    def _scope(self, claim: Order, inner: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
        """The words that an order is about: those of one of `inner`, all words, or None (some)."""
        said = Counter(claim.words)
        best: tuple[str, ...] | None = None
        least = (len(claim.words), 0)
        for words in (*inner, self.words):
            if len(words) >= 2 * len(claim.words):
                continue  # it would differ in all that is said: no need to count
            there = Counter(words)
            extra = (said - there).total()
            differing = (extra + (there - said).total(), extra)
            if differing < least and (said & there).total() * 2 >= min(len(words), 3):
                best, least = words, differing
        return best

    def _sorted(self, claim: Order, group: Group) -> Fault | None:
        """Compare an order of the subpart just looked at with what its letters say."""
        position = group.depth + 1
        fault = numbers_fault(claim, range(1, position + 1))
        fault = fault or consistency_fault(claim.words, group.words, claim.start, claim.end)
        return fault or groups_fault("sort", claim, self.order.within(group.words))

    def _restated(self, claim: Order, scope: tuple[str, ...]) -> Fault | None:
        fault = consistency_fault(claim.words, scope, claim.start, claim.end)
        if fault is None:
            groups = self.order.within(scope)
            fault = groups_fault("combine", claim, groups)
            deepest = max(group.depth for group in groups)
            fault = fault or numbers_fault(claim, range(1, deepest + 1))
        return fault

    def _answer(self, claim: Answer) -> Fault | None:
        unsettled = self.order.unsettled() if self.order.started else []
        if unsettled:
            reason = f"the subpart {show_group(unsettled[0].words)} is not sorted yet"
            return Fault("final", claim.start, claim.end, reason)
        if not claim.settled:
            reason = "the answer leaves words unsorted"
            return Fault("final", claim.start, claim.end, reason)
        fault = consistency_fault(claim.words, self.words, claim.start, claim.end)
        if fault is not None:
            return Fault("final", fault.start, fault.end, fault.reason)
        for said, wanted in zip(claim.words, sorted(self.words), strict=True):
            if said != wanted:
                reason = f'"{wanted}" comes before "{said}" in the alphabet'
                self.misordered = claim.words
                return Fault("final", claim.start, claim.end, reason)
        self.answered = True
        return None


def _words(claim: Letters | Subpart) -> tuple[str, ...]:
    if isinstance(claim, Letters):
        return tuple(found.word for found in claim.letters)
    return claim.words
