"""Grading multiple choice: which of a question's options an attempt chooses, however it says so."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from redraft.episode import Grade, Problem
from redraft.grading.extract import boxed_answers, visible_part

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
    r"\s{0,3}(?:\b(?:is|was|(?:must|should|would|will)\sbe)\b:?|[:=])|####|^A:",
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
    r"|(?<![\w'(\[])(?P<bare>[B-HJ-Z](?![\w'])|[AI](?=\s*(?:[).:,;\]]|is\b|$)))"
)
_START = re.compile(r"\W{0,9}(?:(?P<marked>[A-Za-z])[).:,](?=\s|$)|(?P<word>[b-hj-z])(?=\s))")
_ON_ITS_OWN = re.compile(r"\s*(?:[.,:;]|\n|$)")
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|nor|neither|than|except|instead\sof|(?:rul|eliminat|exclud)\w*(?:\sout)?)"
    r"|n['’]t)(?:\s(?:be|can|is|either|option|choice|answer|the))*\W{0,4}$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\W{0,4}(?:(?:is|are|was|seems|(?:must|would)\sbe)\s(?:\w{1,20}\s)?"
    r"(?:wrong|incorrect|false|not|impossible|invalid|out|excluded|eliminated|ruled)\b"
    r"|(?:is|are|ca|does|wo)n['’]t\b|cannot\b|(?:can|does)\snot\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OptionGrader:
    """Right when the attempt chooses the gold option.

    It may name the letter in any case (`(b)`, `b`, "option B"), or give the wording of one option
    of the question. What a box holds, an `<answer>` tag, or words like "the answer is" announce
    counts first; then a letter that the attempt opens with; then what it concludes ("so ..."). A
    letter that is said to be wrong is not chosen.
    """

    def __call__(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`."""
        return self.begin(problem, attempt)

    def begin(self, problem: Problem, attempt: str) -> Grade:
        """The verdict on `attempt`; it never needs a worker."""
        chosen = chosen_option(attempt, options_of(problem.question))
        if chosen is None:
            return Grade(correct=False, decided_by="none", reason="no answer found")
        return Grade(correct=chosen == _gold(problem.gold), answer=chosen, decided_by="string")

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
    text = visible_part(attempt)
    boxes = boxed_answers(text)
    if boxes:
        return _stated(_plain(boxes[-1]), options)
    if "</answer>" in text:
        tagged = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
        return _stated(_plain(tagged), options)
    text = _plain(text)
    announced = list(_MARKER.finditer(text))
    for match in reversed(announced[-_STATEMENTS:]):
        chosen = _stated(_statement(text, match.end()), options)
        if chosen is not None:
            return chosen
    opening = _opening(text, options)
    if opening is not None or announced:
        return opening
    return _concluded(text, options) or _last_mentioned(text, options)


def _gold(gold: str) -> str | None:
    alone = _ALONE.fullmatch(gold[:_SHORT])
    mentions = list(_mentions(gold[:_SHORT]))
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
    if start and not _DENIED_AFTER.match(statement, start.end()):
        return (start["marked"] or start["word"]).upper()
    return next(_mentions(statement), None) or _worded(statement, options)


def _mentions(text: str) -> Iterator[str]:
    """The letters that a text names and does not deny, in its order."""
    for match in _MENTION.finditer(text):
        if not _denied(text, match):
            yield str(match[match.lastgroup or 0]).upper()


def _denied(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 40) : match.start()]
    return bool(_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(text, match.end()))


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
    if start is None or _denied(text, start):
        return None
    letter = str(start[start.lastgroup or 0]).upper()
    rest = text[start.end() : start.end() + _STATEMENT].split("\n", 1)[0]
    follows = _words(options.get(letter, ""))
    worded = bool(follows) and _words(rest).startswith(follows)
    return letter if worded or _ON_ITS_OWN.match(text, start.end()) else None


def _concluded(text: str, options: Mapping[str, str]) -> str | None:
    """What follows the last "so" or "therefore" that has a choice after it."""
    for match in reversed(list(_CONCLUSION.finditer(text))[-_STATEMENTS:]):
        statement = _statement(text, match.end())
        chosen = next(_mentions(statement), None) or _worded(statement, options)
        if chosen is not None:
            return chosen
    return None


def _last_mentioned(text: str, options: Mapping[str, str]) -> str | None:
    """The last letter in brackets or called an option, else the last that stands alone, else the
    option that the whole text, if it is short, or its last line words."""
    strong = weak = None
    for match in _MENTION.finditer(text):
        if _denied(text, match):
            continue
        if match["bare"]:
            weak = match["bare"]
        else:
            strong = (match["bracketed"] or match["named"]).upper()
    if strong or weak:
        return strong or weak
    whole = _worded(text, options) if len(text) <= _SHORT else None
    return whole or _worded(text.rpartition("\n")[2][-_STATEMENT:], options)
