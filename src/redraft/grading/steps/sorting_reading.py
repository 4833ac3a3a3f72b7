"""Reading a step of a word-sorting solution: what it claims, in the order it claims it.

Four kinds of claim are read: letters of words (`"vote": "v" (22)`), the subpart to sort next
(`sort this subpart ["a" ? "b"]`), an order (`(1) "a" < (2) ["b" ? "c"]`), and the answer. Every
pattern is linear in the length of the text; brackets are delimiters without meaning of their own,
so that no nesting of them matters.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redraft.grading.steps.sorting_chains import QUOTED, Order, Piece, Token, chains, tokens_of
from redraft.grading.steps.sorting_order import ORDINALS

_LEAD = 160
"""Characters before a claim in which its introduction is looked for."""


@dataclass(frozen=True)
class Letter:
    """The claim that a word has a letter; empty: that it has ended. `number` is its place."""

    word: str
    letter: str
    number: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Letters:
    """A run of letters, all at `position` (from 1; None: not said)."""

    letters: tuple[Letter, ...]
    position: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Subpart:
    """The announcement of the words to sort next, and by which letter (None: not said)."""

    words: tuple[str, ...]
    position: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Answer:
    """The final answer; `settled` is False where it leaves words in question marks."""

    words: tuple[str, ...]
    settled: bool
    start: int
    end: int


Claim = Letters | Subpart | Order | Answer

_ORDINAL = re.compile(
    rf"\b(?:(?P<name>{'|'.join(ORDINALS)})|(?P<digits>\d{{1,3}})(?:st|nd|rd|th))"
    r"(?=[\s-]{1,3}(?:letter|character))",
    re.IGNORECASE,
)
_LETTER = re.compile(
    rf"(?:{QUOTED}|(?<![\w'&-])(?P<bare>\w[\w'&-]{{0,59}}+))"
    r"\s{0,3}+(?:(?P<sign>:|=>?|->|→)|(?P<loose>-|–|\bis\b|(?:starts|begins)\swith\b))\s{0,3}+"
    r"(?:\"(?P<letter>[^\"\n]?|none|n/a|no\sletter|blank|empty|end)\"(?!\s?[=:])|(?P<plain>[a-z])(?![\w'&-])"
    r"|(?P<blank>\(?(?:none|n/a|no\s(?:\w{1,12}\s)?letter|blank|empty|_)\b\)?"
    r"|(?(quoted)(?=\(0\))|(?!))))"
    r"(?:\s{0,3}+\((?P<number>-?\d{1,30})(?:st|nd|rd|th)?(?:\sletter)?\))?",
    re.IGNORECASE,
)
_COMPARISON = re.compile(
    r"\"?(?<![\w'&-])(?P<left>\w[\w'&-]{0,59}+)\"?\s"
    r"(?:(?:should\s|must\s|will\s)?(?:comes?|goes|go|is|appears?)\s)?"
    r"(?P<relation>before|after|precedes?|follows?)\s\"?(?P<right>\w[\w'&-]{0,59}+)",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"\banswer\s*(?:is|would\sbe|:|=)\s*:?|\(?\bfinal\s(?:response|answer|list|order)\)?\s*(?:is)?\s*:?",
    re.IGNORECASE,
)
_SORTED = re.compile(
    r"\b(?:sorted|alphabetical(?:ly)?|ordered)\b[^.:<?\n]{0,60}?(?:\bis\b|\bare\b|:)\s*:?",
    re.IGNORECASE,
)
_CLAIMS_ORDER = re.compile(
    r"\b(?:have|hence|thus|therefore|so|get|gives?|becomes?|result|order|sorted)\b", re.IGNORECASE
)
_STATES = re.compile(r"\b(?:have|hence|get|gives?|becomes?|result)\b", re.IGNORECASE)
_ANNOUNCES = re.compile(r"\b(?:sort|look|compare|consider|arrange)\b", re.IGNORECASE)
_SUBPART = re.compile(r"\b(?:subpart|sub-part|group)\b", re.IGNORECASE)
_FOR_SUBPART = re.compile(r"\W{0,3}for\sthe\ssub-?part\b", re.IGNORECASE)
_PLACEHOLDERS = frozenset(("", "-", "_", "none", "n/a", "no letter", "blank", "empty", "end"))
_SINGLE_QUOTES = re.compile(r"(?<!\w)'([^\"\n]{0,60}?)'(?!\w)")
_MEMBER = r"\s{0,3}+(?:\"[^\"\n]{0,60}+\"|[\w'&-]{1,60}+)\s{0,3}+"
_ROUND_GROUP = re.compile(rf"\(({_MEMBER}(?:\?{_MEMBER})++)\)")
_CURLY = str.maketrans("“”„«»`‘’*", '""""""\'\' ')
_END = re.compile(r"\[END\]|<\|?\w{1,12}\|?>")
_LIST_MARK = re.compile(r"^[ \t]{0,20}(?:[-•]|\d{1,4}[.)])\s", re.MULTILINE)
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z(]|\s*$)")


def read_step(step: str, known: frozenset[str], last: bool = False) -> list[Claim]:
    """The claims of a step, in its order.

    `known` are the words of the question: they tell words from prose. `last`: the solution's last
    step, in which any answer counts.
    """
    text = plain_text(step, known)
    answer = _answer(text, known, last)
    body = text if answer is None else text[: answer.start]
    letters = list(_letters(body, known))
    orders = list(_orders(body, known, letters))
    claims: list[Claim] = sorted([*letters, *orders], key=lambda claim: claim.start)
    claims = _announcements(body, claims)
    return claims if answer is None else [*claims, answer]


def final_words(text: str, known: frozenset[str]) -> tuple[str, ...]:
    """The words of the final answer that a whole solution gives; empty where it gives none."""
    answer = _answer(plain_text(text, known), known, last=True)
    return () if answer is None else answer.words


def plain_text(text: str, known: frozenset[str]) -> str:
    """The text with one kind of quotation marks, square brackets around groups and no emphasis,
    every character in its place."""

    def square(match: re.Match[str]) -> str:
        is_group = '"' in match[1] or any(
            word.strip().casefold() in known for word in match[1].split("?")
        )
        return f"[{match[1]}]" if is_group else match[0]

    return _ROUND_GROUP.sub(square, _SINGLE_QUOTES.sub(r'"\1"', text.translate(_CURLY)))


def position_named(text: str, last: bool = False) -> int | None:
    """The letter's position that a text names: the first such, or the last."""
    found = list(_ORDINAL.finditer(text))
    if not found:
        return None
    match = found[-1 if last else 0]
    if match["name"]:
        return ORDINALS.index(match["name"].lower()) + 1
    return int(match["digits"])


def _letters(text: str, known: frozenset[str]) -> Iterator[Letters]:
    """Runs of letters; a new position, or much text between two, begins a new run."""
    run: list[Letter] = []
    position: int | None = None
    end = 0
    for found in _single_letters(text, known):
        gap = text[max(end, found.start - _LEAD) : found.start]
        named = position_named(gap, last=True)
        if "starts with" in text[found.start : found.end].lower():
            named = 1
        apart = len(gap) > 80 or any(mark in gap for mark in "<?[")
        if run and (apart or named not in (None, position)):
            yield Letters(tuple(run), position, run[0].start, run[-1].end)
            run = []
        if not run:
            position = named
        run.append(found)
        end = found.end
    if run:
        yield Letters(tuple(run), position, run[0].start, run[-1].end)


def _single_letters(text: str, known: frozenset[str]) -> Iterator[Letter]:
    for match in _LETTER.finditer(text):
        word = (match["quoted"] if match["quoted"] is not None else match["bare"]).casefold()
        shown = next((match[part] for part in ("letter", "plain", "blank") if match[part]), "")
        shown = shown.strip(" ()").casefold()
        marked = match["letter"] is not None or match["number"] is not None
        begins = (match["loose"] or "").lower().endswith("with")
        if not marked and ((match["loose"] and not begins) or word not in known):
            continue  # "the cake is a lie" says nothing of letters
        if match["quoted"] is None and word not in known and not match["number"]:
            continue
        blank = bool(match["blank"]) or shown in _PLACEHOLDERS
        if len(shown) > 1 and not blank:
            continue
        place = None if match["number"] is None else int(match["number"])
        letter = "" if blank else shown
        yield Letter(word.strip(), letter, place, match.start(), match.end())


def _orders(text: str, known: frozenset[str], letters: Sequence[Letters]) -> Iterator[Order]:
    """Orders in the stretches of text between runs of letters."""
    start = 0
    for end, resume in [*((run.start, run.end) for run in letters), (len(text), len(text))]:
        stretch = text[start:end]
        tokens = list(tokens_of(stretch, start))
        found = [
            order
            for order in chains(tokens)
            if len(order.words) > 1 or _FOR_SUBPART.match(text, order.end)
        ]
        yield from found
        inside = [(order.start, order.end) for order in found]
        yield from _lists(text, tokens, known, inside)
        yield from _comparisons(stretch, start, known)
        start = resume


def word_lists(text: str, known: frozenset[str]) -> Iterator[list[Token]]:
    """Every list of two words of the question at least, with commas or "and" between them."""
    run: list[Token] = []
    joined = False
    for token in tokens_of(text):
        is_word = token.kind == "word" and token.text in known
        if is_word and (joined or not run):
            run.append(token)
            joined = False
        elif run and not is_word and token.text in (",", "and", "then"):
            joined = True
        else:
            if len(run) > 1:
                yield run
            run, joined = [token] if is_word else [], False
    if len(run) > 1:
        yield run


def _lists(
    text: str, tokens: Sequence[Token], known: frozenset[str], taken: Sequence[tuple[int, int]]
) -> Iterator[Order]:
    """Plain lists of most words that are claimed to be an order ("Hence, we have ant bee cat")."""
    used = iter([*taken, (len(text) + 1, len(text) + 1)])
    skip_from, skip_to = next(used)
    run: list[Token] = []
    for token in [*tokens, Token("break", "", False, len(text), len(text))]:
        while token.start >= skip_to and skip_to <= len(text):
            skip_from, skip_to = next(used)
        outside = token.start < skip_from
        if outside and token.kind == "word" and (token.text in known):
            run.append(token)
        elif not (outside and token.text in (",", "and")):
            if len(run) >= max(3, 0.6 * len(known)):
                lead = text[max(0, run[0].start - _LEAD) : run[0].start]
                if _CLAIMS_ORDER.search(lead):
                    pieces = tuple(Piece((w.text,), None, w.start, w.end) for w in run)
                    yield Order(pieces, run[0].start, run[-1].end)
            run = []


def _comparisons(text: str, offset: int, known: frozenset[str]) -> Iterator[Order]:
    for match in _COMPARISON.finditer(text):
        left, right = match["left"].casefold(), match["right"].casefold()
        if left not in known or right not in known:
            continue
        pieces = [
            Piece((left,), None, match.start("left") + offset, match.end("left") + offset),
            Piece((right,), None, match.start("right") + offset, match.end("right") + offset),
        ]
        if match["relation"].lower()[0] in "af":  # after, follows
            pieces.reverse()
        yield Order(tuple(pieces), match.start() + offset, match.end() + offset, partial=True)


def _announcements(text: str, claims: Sequence[Claim]) -> list[Claim]:
    """The claims, with groups that are named to be sorted told from those that are stated."""
    result: list[Claim] = []
    end = 0
    for index, claim in enumerate(claims):
        lead = text[max(end, claim.start - _LEAD) : claim.start]
        end = claim.end
        if isinstance(claim, Order) and _announces(claim, lead):
            following = claims[index + 1].start if index + 1 < len(claims) else len(text)
            position = position_named(text[end : min(following, end + _LEAD)])
            result.append(Subpart(claim.words, position, claim.start, claim.end))
        else:
            result.append(claim)
    return result


def _announces(claim: Order, lead: str) -> bool:
    """Whether one group is named to be sorted ("Hence, let's sort ..."), not stated as a result."""
    if len(claim.pieces) > 1:
        return False
    announced = [match.start() for match in _ANNOUNCES.finditer(lead)]
    stated = [match.start() for match in _STATES.finditer(lead)]
    if announced:
        return not stated or announced[-1] > stated[-1]
    return not stated and _SUBPART.search(lead) is not None


def _answer(text: str, known: frozenset[str], last: bool) -> Answer | None:
    """The last answer that a step gives; before the last step it must look like one."""
    cut = _END.search(text)
    text = text[: cut.start()] if cut else text
    announced = _announced(text, known)
    if announced:
        given = _answer_after(text, announced.start(), announced.end(), known)
        right = sum(word in known for word in given.words)
        if last or 2 * right >= max(1, len(given.words)):
            return given
    for match in reversed(list(_SORTED.finditer(text))[-3:]):  # each reads all that follows it
        given = _answer_after(text, match.start(), match.end(), known)
        if given.words and _mostly(given.words, known):
            return given
    return None


def _announced(text: str, known: frozenset[str]) -> re.Match[str] | None:
    """The last words like "the answer is" that are not themselves of the list that is announced."""
    found = list(_ANSWER.finditer(text))
    while len(found) > 1 and "answer" in known:
        between = list(tokens_of(text[found[-2].end() : found[-1].start()]))
        if not all(token.kind == "mark" or token.text in known for token in between):
            break
        found.pop()
    return found[-1] if found else None


def _mostly(words: Sequence[str], known: frozenset[str]) -> bool:
    right = sum(word in known for word in words)
    return 10 * right >= 6 * max(len(words), len(known))


def _answer_after(text: str, start: int, begin: int, known: frozenset[str]) -> Answer:
    rest = text[begin:]
    stripped = rest.lstrip(" \t:")
    if not stripped.startswith("\n") and not _LIST_MARK.match(stripped):
        rest = rest[: len(rest) - len(stripped)] + stripped.split("\n", 1)[0]
    sentence = _SENTENCE_END.search(rest)
    if sentence and not _LIST_MARK.search(rest):
        rest = rest[: sentence.start()]
    tokens = list(tokens_of(rest))
    words = _answer_words(tokens, known)
    settled = not any(token.kind == "mark" and token.text == "?" for token in tokens)
    return Answer(words, settled, start, begin + len(rest.rstrip()))


def _answer_words(tokens: Sequence[Token], known: frozenset[str]) -> tuple[str, ...]:
    """The words of an answer without what only joins or counts them."""
    words = [token.text for token in tokens if token.kind == "word" and token.text]
    return tuple(
        word for word in words if word in known or not (word in ("and", "then") or word.isdigit())
    )
