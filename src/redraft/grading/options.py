"""Grading multiple choice: which of a question's options an attempt chooses, however it says so."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from redraft.grading.extract import boxed_answers, visible_part
from redraft.types import Grade, Problem

_STATEMENT = 300
"""Characters after words like "the answer is" in which a choice is looked for."""
_STATEMENTS = 20
"""Such places that are looked at, from the last one back."""
_SHORT = 200
"""Characters up to which a text may as a whole be the wording of an option."""

_OPTION = re.compile(r"^[ \t]*\(([A-Z])\)(.*)$", re.MULTILINE)
_MARKUP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boxed|fbox)\b|[{}$*_`\"“”]")
_MARKER = re.compile(
    r"\b(?:answer|option|choice)(?:\s(?:to|for)\s[^.:\n]{0,60}?)?"
    r"\s{0,3}(?:\b(?:is|was|(?:must|should|would|will)\sbe)\b:?|[:=])|####|^A:"
    r"|\bI(?:\s(?:would|will)|['’](?:d|ll))?\s(?:choose|pick|select|go\swith)\b"
    r"(?=\s\W?(?:option\s\W?)?[A-Za-z](?![\w'’]))",
    re.IGNORECASE | re.MULTILINE,
)
_CONCLUSION = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|conclude|must\sbe)\b", re.IGNORECASE
)
_ALONE = re.compile(r"\W*(?:(?:option|choice|answer)\b\W*)?([A-Za-z])\W*", re.IGNORECASE)
# A and I are words, too, unless they stand in brackets or at an end, or are said to be something.
_MENTION = re.compile(
    r"[(\[]\s?(?P<bracketed>[A-Za-z])\s?[)\]]"
    r"|\b(?:[Oo]ption|[Cc]hoice)\s(?P<named>[A-Za-z])(?![\w'])"
    r"|(?<![\w'(\[])(?P<bare>[B-HJ-Z](?![\w'])|[AI](?=\s*(?:[).:,;/\]]|is\b|$|(?:n?or|and)\s\W?[A-Z]\b)))"
)
_START = re.compile(r"\W{0,9}(?:(?P<marked>[A-Za-z])[).:,](?=\s|$)|(?P<word>[b-hj-z])(?=\s))")
_ON_ITS_OWN = re.compile(r"\s*(?:[.,:;]|\n|$)")
_NEGATION = (
    r"(?:不是|\b(?:not|non|cannot|nor|neither|than|except|instead\sof|(?:rul|eliminat|exclud)\w*(?:\sout)?)"
    r"|n['’]t)(?:\s(?:be|can|is|either|option|choice|answer|the))*"
)
_DENIED_BEFORE = re.compile(rf"{_NEGATION}\W{{0,4}}$", re.IGNORECASE)
# "not A, B or C" denies all three, "not A, B is right" the first
_LIST_DENIED_BEFORE = re.compile(
    rf"{_NEGATION}\W{{1,4}}(?:[A-Za-z]\b\W{{0,3}}?(?P<by>,\s?(?:n?or\b)?|\sn?or\b)\W{{1,3}}){{1,9}}$",
    re.IGNORECASE,
)
_LIST_GOES_ON = re.compile(r"(?:\W{1,4}[A-Za-z](?![\w'])){0,9}\W{1,3}n?or\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[)\]\s.:-]{0,4}[✗✘❌]|\W{0,4}(?:(?:is|are|was|seems|(?:must|would)\sbe)\s(?:\w{1,20}\s)?"
    r"(?:wrong|incorrect|false|not|impossible|invalid|out|excluded|eliminated|ruled)\b"
    r"|(?:is|are|ca|does|wo)n['’]t\b|cannot\b|(?:can|does)\snot\b|(?:no|false|wrong|incorrect)\b)",
    re.IGNORECASE,
)
_BESIDE = re.compile(
    r"(?:[)\]\s.,;:]{0,4}(?P<by>\b[Oo]r\b|\band\b|[/&,])|\s{0,3}(?=\([A-Z]\)))\s{0,3}"
    r"(?:(?:maybe|perhaps|possibly|rather|even|also|option|choice)\s)*"
)
_OTHER = re.compile(rf"{_MENTION.pattern}|(?P<small>[a-z])(?=\W{{0,3}}(?:$|[.,;]|or\b))")
_ENDS_A_LIST = re.compile(r"\W{0,3}(?:$|[.,;:/&]|(?:or|and|are|both)\b)")
_TAKEN_BACK = re.compile(
    r"\b(?:that(?:['’]s|\sis|\swas)|I\swas)\s(?:wrong|incorrect|mistaken|not\s(?:right|correct))\b"
    r"|\bscratch\sthat\b|\bcorrection\b",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"\)?\s(?:is|must\sbe)\s(?:(?:right|correct|true)[\s.!]*$|the\s(?:\w{1,12}\s)?answer\b)"
)

HEDGED = ""
"""In place of a letter where two or more are offered: such an attempt chooses none."""


@dataclass(frozen=True)
class OptionGrader:
    """Right when the attempt chooses the gold option.

    It may name the letter in any case (`(b)`, `b`, "option B"), or give the wording of one option
    of the question. What a box holds, an `<answer>` tag, or words like "the answer is" announce
    counts first; then a letter that the attempt opens with; then what it concludes ("so ..."). A
    letter that is said to be wrong is not chosen, and none where two are ("either (A) or (C)").
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        chosen = chosen_option(attempt, options_of(problem.question))
        if chosen is None:
            return Grade(score=0, status="no_answer", decided_by="none", reason="no answer found")
        return Grade(score=chosen == _gold(problem.gold), answer=chosen, decided_by="string")

    def gold_faults(self, golds: Sequence[str]) -> list[str | None]:
        """A gold that names no letter is at fault."""
        return [
            None if _gold(gold) else f"the gold answer {gold[:60]!r} names no choice"
            for gold in golds
        ]


def options_of(question: str) -> dict[str, str]:
    """The options of a question, letter and wording: its lines like `(A) 01/02/2003`."""
    return {letter: wording.strip() for letter, wording in _OPTION.findall(question)}


def chosen_option(attempt: str, options: Mapping[str, str]) -> str | None:
    """The letter that an attempt chooses, or None where it chooses none of the options."""
    return _chosen(visible_part(attempt), options) or None


def _chosen(text: str, options: Mapping[str, str]) -> str | None:
    """The letter, `HEDGED`, or None."""
    boxes = boxed_answers(text)
    if boxes:
        return _stated(_plain(boxes[-1]), options)
    if "</answer>" in text:
        tagged = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
        return _stated(_plain(tagged), options)
    text = _plain(text)
    announced = list(_MARKER.finditer(text))
    for match in reversed(announced[-_STATEMENTS:]):
        statement = _statement(text, match.end())
        chosen = _stated(statement, options)
        if chosen is not None:
            instead = _TAKEN_BACK.search(statement)
            after = next(_mentions(statement[instead.end() :], options), None) if instead else None
            return chosen if after is None else after
    opening = _opening(text, options)
    if opening is not None or announced:
        return opening
    concluded = _concluded(text, options)
    return _last_mentioned(text, options) if concluded is None else concluded


def _gold(gold: str) -> str | None:
    alone = _ALONE.fullmatch(gold[:_SHORT])
    mentions = list(_mentions(gold[:_SHORT], {}))
    return alone[1].upper() if alone else mentions[0] if mentions else None


def _plain(text: str) -> str:
    """The text without emphasis and LaTeX's fonts, full-width characters as the usual ones."""
    return _MARKUP.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def _statement(text: str, start: int) -> str:
    """The rest of the line from `start`, or the line after where nothing is left of it."""
    return text[start : start + _STATEMENT].strip(" \t\n:").split("\n", 1)[0]


def _stated(statement: str, options: Mapping[str, str]) -> str | None:
    """The choice that a statement begins with or names first, else the option that it words."""
    alone = _ALONE.fullmatch(statement[:_STATEMENT])
    if alone:
        return alone[1].upper()
    start = _START.match(statement)
    if start and not _denied(statement, start, options):
        letter = (start["marked"] or start["word"]).upper()
        at = start.start("marked") if start["marked"] else start.start("word")
        return HEDGED if _beside_another(statement, at + 1, letter, options) else letter
    chosen = next(_mentions(statement, options), None)
    return _worded(statement, options) if chosen is None else chosen


def _mentions(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """The letters that a text names and does not deny, in its order; `HEDGED` for one that stands
    beside another."""
    for match in _MENTION.finditer(text):
        if not _denied(text, match, options):
            letter = _letter(match)
            yield HEDGED if _beside_another(text, match.end(), letter, options) else letter


def _letter(match: re.Match[str]) -> str:
    return str(match[match.lastgroup or 0]).upper()


def _after_wording(text: str, end: int, letter: str, options: Mapping[str, str]) -> int:
    """Where a choice that ends at `end` ends with its wording, if that follows."""
    wording = options.get(letter, "")
    said = text.find(wording, end, end + len(wording) + 4) if wording else -1
    return end if said < 0 else said + len(wording)


def _denied(text: str, match: re.Match[str], options: Mapping[str, str]) -> bool:
    """Whether a choice is said to be wrong, before it or after it and its wording."""
    before = text[max(0, match.start() - 40) : match.start()]
    after = _after_wording(text, match.end(), _letter(match), options)
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(text, after):
        return True
    listed = _LIST_DENIED_BEFORE.search(before)
    return bool(listed and ("or" in listed["by"].lower() or _LIST_GOES_ON.match(text, match.end())))


def _beside_another(text: str, end: int, letter: str, options: Mapping[str, str]) -> bool:
    """Whether another choice is offered with the one that ends at `end`, as in "(A) or (C)"."""
    beside = _BESIDE.match(text, _after_wording(text, end, letter, options))
    other = beside and _OTHER.match(text, beside.end())
    if not beside or not other or _denied(text, other, options) or _letter(other) == letter:
        return False
    return beside["by"] in ("or", "Or", None) or bool(_ENDS_A_LIST.match(text, other.end()))


def _worded(statement: str, options: Mapping[str, str]) -> str | None:
    """The only option whose wording stands in a statement."""
    said = f" {_words(statement)} "
    wordings = {letter: _words(wording) for letter, wording in options.items()}
    found = {letter: words for letter, words in wordings.items() if words and f" {words} " in said}
    # "Monday" is not chosen beside "Monday in May"
    longest = [
        letter
        for letter, words in found.items()
        if not any(words != other and f" {words} " in f" {other} " for other in found.values())
    ]
    return longest[0] if len(longest) == 1 else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w/'’-]+", _plain(text).casefold()))


def _opening(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that a text opens with, if it stands there on its own or with its wording."""
    if _ALONE.fullmatch(text[:_STATEMENT]) and len(text) <= _STATEMENT:
        return _stated(text, options)
    start = _START.match(text) or _MENTION.match(text)
    if start is None or _denied(text, start, options):
        return None
    letter = _letter(start)
    rest = text[start.end() : start.end() + _STATEMENT].split("\n", 1)[0]
    follows = _words(options.get(letter, ""))
    worded = bool(follows) and _words(rest).startswith(follows)
    if _beside_another(text, start.end(), letter, options):
        return None
    affirmed = _AFFIRMED.match(text, start.end())
    return letter if worded or affirmed or _ON_ITS_OWN.match(text, start.end()) else None


def _concluded(text: str, options: Mapping[str, str]) -> str | None:
    """What follows the last "so" or "therefore" that has a choice after it."""
    for match in reversed(list(_CONCLUSION.finditer(text))[-_STATEMENTS:]):
        statement = _statement(text, match.end())
        chosen = next(_mentions(statement, options), None)
        chosen = _worded(statement, options) if chosen is None else chosen
        if chosen is not None:
            return chosen
    return None


def _last_mentioned(text: str, options: Mapping[str, str]) -> str | None:
    """The last letter in brackets or called an option, else the last that stands alone, else the
    option that the whole text, if it is short, or its last line words."""
    strong = weak = None
    beside = False
    for match in _MENTION.finditer(text):
        if _denied(text, match, options):
            continue
        letter, before = _letter(match), beside
        beside = _beside_another(text, match.end(), letter, options)
        mentioned = HEDGED if before or beside else letter
        strong, weak = (strong, mentioned) if match["bare"] else (mentioned, weak)
    if strong is not None or weak is not None:
        return weak if strong is None else strong
    whole = _worded(text, options) if len(text) <= _SHORT else None
    return whole or _worded(text.rpartition("\n")[2][-_STATEMENT:], options)
