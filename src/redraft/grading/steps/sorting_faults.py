"""What can be wrong with a claim about words and their order: pure functions, one a check."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from redraft.grading.steps.sorting_chains import Order, Piece
from redraft.grading.steps.sorting_order import Group, letter, number, ordinal
from redraft.grading.steps.sorting_reading import Letter, plain_text, word_lists


@dataclass(frozen=True)
class Fault:
    """A check that failed, the stretch of the step that is at fault, and why."""

    check: str
    start: int
    end: int
    reason: str


def letter_fault(found: Letter, position: int) -> Fault | None:
    """What is wrong with the claim that a word has a letter at `position`, if anything is."""
    true = letter(found.word, position)
    where = f'the {ordinal(position)} letter of "{found.word}"'
    if found.letter != true:
        reason = f'{where} is "{true}", not "{found.letter}"'
        if not true:
            reason = f'"{found.word}" has no {ordinal(position)} letter'
        elif not found.letter:
            reason = f'{where} is "{true}"'
        return Fault("to_num", found.start, found.end, reason)
    if found.number is not None and number(true) not in (0, found.number):
        reason = f'"{true}" is letter {number(true)} of the alphabet, not {found.number}'
        return Fault("to_num", found.start, found.end, reason)
    return None


def consistency_fault(
    said: Sequence[str], wanted: Sequence[str], start: int, end: int
) -> Fault | None:
    """A word that is not one of `wanted`, is there too often, or is missing."""
    have, need = Counter(said), Counter(wanted)
    if have == need:
        return None
    extra, missing = have - need, need - have
    foreign = next((word for word in extra if word not in need), None)
    if foreign is not None:
        reason = f'"{foreign}" is not one of the words to sort here'
    elif extra:
        reason = f'"{next(iter(extra))}" is there more often than it should be'
    else:
        reason = f'"{next(iter(missing))}" is missing'
    return Fault("self_consistent", start, end, reason)


def numbers_fault(claim: Order, positions: Sequence[int]) -> Fault | None:
    """A number that is not the place of a letter, at one of `positions`, of the words it heads."""
    for piece in claim.pieces:
        if piece.number is None:
            continue
        for word in piece.words:
            places = {number(letter(word, position)) for position in positions}
            if piece.number not in places and 0 not in places:
                at = f"{ordinal(positions[0])} letter" if len(positions) == 1 else "letters"
                reason = f'the {at} of "{word}" does not have the number {piece.number}'
                return Fault("to_num", piece.start, piece.end, reason)
    return None


def groups_fault(check: str, claim: Order, groups: Sequence[Group]) -> Fault | None:
    """The first piece of an order that is not the group it should be (same words assumed)."""
    pieces = [single for piece in claim.pieces for single in _singles(piece)]
    for piece, group in zip(pieces, groups, strict=False):
        if Counter(piece.words) == Counter(group.words):
            continue
        start, end = piece.start, piece.end
        if set(piece.words) < set(group.words):
            reason = f"nothing so far tells the words {show_group(group.words)} apart"
        elif set(group.words) < set(piece.words):
            reason = f"the order of the words {show_group(piece.words)} is known already"
        else:
            first, second = show_group(group.words), show_group(piece.words)
            reason = f"{first} comes before {second}"
        return Fault(check, start, end, reason)
    return None


def _singles(piece: Piece) -> list[Piece]:
    if len(set(piece.words)) > 1:
        return [piece]
    return [Piece((word,), piece.number, piece.start, piece.end) for word in piece.words]


def comparison_fault(claim: Order, words: Collection[str]) -> Fault | None:
    """A word of an order that is foreign, or that the alphabet does not put where it is."""
    foreign = next((word for word in claim.words if word not in words), None)
    if foreign is not None:
        reason = f'"{foreign}" is not one of the words to sort'
        return Fault("self_consistent", claim.start, claim.end, reason)
    for piece, after in pairwise(claim.pieces):
        if max(piece.words) > min(after.words):
            reason = f'"{min(after.words)}" comes before "{max(piece.words)}" in the alphabet'
            return Fault("sort", piece.start, after.end, reason)
    return None


def misplaced_list(step: str, words: Sequence[str], answer: Sequence[str]) -> Fault | None:
    """A plain list of some words in an order of its own, neither the question's (`words`) nor the
    alphabet's, that `answer` has taken over."""
    known = frozenset(words)
    for tokens in word_lists(plain_text(step, known), known):
        said = [token.text for token in tokens]
        of_answer, of_question = (
            [word for word in whole if word in set(said)] for whole in (answer, words)
        )
        wrong = next((pair for pair in pairwise(said) if pair[0] > pair[1]), None)
        if wrong and said == of_answer and said != of_question:
            reason = f'"{wrong[1]}" comes before "{wrong[0]}" in the alphabet'
            return Fault("sort", tokens[0].start, tokens[-1].end, reason)
    return None


def show_group(words: Sequence[str], limit: int | None = 20) -> str:
    """Words in the notation for a group: `["a" ? "b"]`, or `"a"` alone; the first `limit`."""
    shown = " ? ".join(f'"{word}"' for word in words[:limit])
    if limit is not None and len(words) > limit:
        shown += " ..."
    return f"[{shown}]" if len(words) > 1 else shown


def show_words(words: Sequence[str]) -> str:
    """Words in quotes, with commas; the first twenty."""
    return ", ".join(f'"{word}"' for word in words[:20]) + (" ..." if len(words) > 20 else "")
