r"""Finding the final answer in an attempt.

The places are tried in this order, and within one place the last occurrence counts:

1. the last balanced ``\boxed{...}``;
2. ``<answer>...</answer>``;
3. ``Final Answer: The final answer is $...$. I hope it is correct.`` (the Minerva prompt, also
   SCoRe's), ``####`` (GSM8K) and a line that starts with ``A:`` (the GSM8K transcripts);
4. ``the answer is ...``, ``Answer: ...`` and the like;
5. with ``fallback``: the whole text if it is a bare answer, else the last formula or number.

An attempt that reasons inside ``<think>...</think>`` is searched after the last ``</think>`` only,
and nothing after a chat template's end-of-turn token counts. Every search is linear in the length
of the text, so that a megabyte of rubbish costs milliseconds.
"""

import re
from collections import deque
from typing import NamedTuple

BARE_ANSWER_LIMIT = 200
"""Characters up to which a text without any marker may itself be the answer."""

_TURN_END = re.compile(r"<\|(?:im_start|im_end|eot_id|endoftext|end)\|>|<end_of_turn>|</s>")
_BOX_OR_BRACE = re.compile(r"(?<!\\)\\+(?:(?:begin)?(?:boxed|fbox)\s*\{|[{}])|[{}]")
_BOX_WITHOUT_BRACES = re.compile(r"\\(?:boxed|fbox)\s+(-?[\d.,/]+)")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_FINAL_ANSWER = re.compile(r"final answer(?: is)?\s*:?", re.IGNORECASE)
_HOPE = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)
_HASHES = re.compile(r"####")
_A_LINE = re.compile(r"^A:", re.MULTILINE)
_ANSWER_IS = re.compile(
    r"answer(?: is)?\s*(?::|\bis\b:?|=)|\banswer is\b|answer,? (?:we get|we have)"
    r"|réponse est|respuesta es|Antwort ist|答案(?:是|为|：|:)",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<display>(?:[^$]|\\\$)+)\$\$"
    r"|(?<!\\)\$(?P<inline>(?:\\\$|[^$\n])+)(?<!\\)\$(?!\d)"
    r"|\\\[(?P<bracket>(?:[^\\]|\\(?![\[\]]))+)\\\]"
    r"|\\\((?P<paren>(?:[^\\]|\\(?![()]))+)\\\)"
)
# Words that belong to the number before them. Not "dozen": questions count in it ("3 dozen" is 3).
_SCALE = r"(?i:hundred|thousand|million|billion|trillion)(?![\w-])"
# A number may stand against CJK characters or a unit, but "AZYUK2A" holds no number.
_NUMBER = re.compile(
    r"(?<![A-Za-z\d_.,])[$€£¥]?"
    r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+)?"
    rf"(?:\s?\\?%|(?:\s?{_SCALE})+)?"
)
_BELONGS_TO_FORMULA = re.compile(
    rf"\s*(?:(?:\\?%|percent|pct|{_SCALE})|(?:,?\s*(?:and|or)\s+|\s*,\s*)\$[^$]+\$)+"
)
_PUNCTUATION = re.compile(r"[\s.,;:!?*\"'()-]*")
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_CODE = re.compile(r"""\w\(["']|__\w+__""")
_COMMAND_WITH_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textnormal|textrm|mathrm|mathbf|mbox|operatorname|begin|end)"
    r"\s*\{[^{}]*\}|\\[A-Za-z]+"
)
# A and I are words too, unless they stand in brackets or alone, or are said to be something.
_CHOICE = r"(?:[B-HJ](?![A-Za-z'\d])|[AI](?=\s*(?:[).:,;\]}*]|is\b|$)))"
_CHOICE_START = re.compile(rf"\W{{0,9}}(?:\\text\w*\{{\W{{0,3}})?({_CHOICE})", re.MULTILINE)
_CHOICE_LETTER = re.compile(rf"(?<![A-Za-z'\d])({_CHOICE})", re.MULTILINE)
_CHOICE_IN_BRACKETS = re.compile(r"\(([A-J])\)")
_NOT = re.compile(r"not\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*$")
_COMPUTATION = re.compile(r"[-(]?\d[^=A-Za-z\\]*=")
_ENDS_IN_CONNECTIVE = re.compile(r"(?:,|;|\band|\bor)$", re.IGNORECASE)
_LAYOUT = re.compile(r"\\(?:quad|qquad|text|textbf|mathrm|,|;|!| )|[{}$~\s]+|\\[\[\]()]")
_MATH_WORDS = frozenset(
    ("sqrt", "pi", "sin", "cos", "tan", "log", "ln", "exp", "and", "or", "percent", "pct", "inf")
)


def extract_answer(text: str, *, fallback: bool = False) -> str | None:
    """The final answer in `text` as its author wrote it, or None when there is none.

    `fallback` says what happens when the text marks no answer: False finds none, True takes the
    whole text when it is a bare answer, else its last formula or number.
    """
    text = visible_part(text)
    boxes = boxed_answers(text)
    if boxes:
        return boxes[-1]
    marked = _marked(text)
    if marked is not None:
        return marked
    return unmarked_answer(text) if fallback else None


def visible_part(text: str) -> str:
    """What the attempt says to its reader: after its reasoning, before the end of its turn."""
    _, _, after = text.rpartition("</think>")
    text = after if after.strip() else text
    end = _TURN_END.search(text)
    if end and text[: end.start()].strip():
        text = text[: end.start()]
    return text


def boxed_answers(text: str) -> list[str]:
    r"""The content of every outermost balanced ``\boxed{...}``, in order.

    ``\boxed 7`` without braces counts for a number only, and only where no box has braces.
    """
    return [text[box.content : box.content_end].strip() for box in _boxes(text)]


def joined_boxes(text: str) -> list[str]:
    r"""The contents of the last run of boxes that a comma, "and" or "or" joins into one answer.

    ``\boxed{2} and \boxed{3}`` is a list of two; ``\boxed{2}, no wait, \boxed{3}`` is not.
    """
    text = visible_part(text)
    run: list[str] = []
    previous_end = 0
    for box in _boxes(text):
        gap = text[previous_end : min(box.start, previous_end + 100)]
        joined = _joins(_LAYOUT.sub(" ", gap).strip()) and box.start - previous_end <= 100
        run = [*(run if joined else []), text[box.content : box.content_end].strip()]
        previous_end = box.end
    return run


def _joins(gap: str) -> bool:
    return len(gap.split()) <= 5 and _ENDS_IN_CONNECTIVE.search(gap) is not None


class _Box(NamedTuple):
    """Where a box stands in its text, and where what it holds begins and ends."""

    start: int
    content: int
    content_end: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """Every outermost balanced box, in order, found in one pass over the braces."""
    boxes: list[_Box] = []
    open_at: list[tuple[int, int] | None] = []  # a box's (start, start of content); None: a brace
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token == "{":
            open_at.append(None)
        elif token == "}":
            opened = open_at.pop() if open_at else None
            if opened is not None:
                while boxes and boxes[-1].start > opened[0]:  # those nested in this one
                    boxes.pop()
                boxes.append(_Box(*opened, match.start(), match.end()))
        elif "box" in token:
            open_at.append((match.start(), match.end()))
    return boxes or [
        _Box(match.start(), match.start(1), match.end(1), match.end())
        for match in _BOX_WITHOUT_BRACES.finditer(text)
    ]


def _marked(text: str) -> str | None:
    """The answer after the last marker of the strongest kind that has something after it.

    Where nothing follows the last one ("But is this the final answer?"), an earlier marker of its
    kind counts if a value follows it.
    """
    tags = _ANSWER_TAG.findall(text)
    if tags and tags[-1].strip():
        return str(tags[-1].strip())
    for marker in (_FINAL_ANSWER, _HASHES, _A_LINE, _ANSWER_IS):
        end = len(text)
        for match in reversed(list(marker.finditer(text))):
            statement = _first_statement(text[match.end() : end])
            if statement and (end == len(text) or _states_a_value(statement)):
                return statement
            end = match.start()
    return None


def _states_a_value(statement: str) -> bool:
    return _is_bare(statement) or _FORMULA.match(statement) is not None


def _first_statement(rest: str) -> str | None:
    """The answer that a marker announces: a formula, a bare value, or the end of a sentence."""
    hope = _HOPE.search(rest)
    if hope:
        rest = rest[: hope.start()].rstrip(" .")
    rest = rest.strip().lstrip("*: ").strip()
    if rest.startswith(("?", "？")) or _NOT.match(rest):
        return None
    formula = _FORMULA.match(rest)
    if formula:
        return _whole_statement(rest, formula.end())
    line = rest.split("\n", 1)[0]
    line = re.split(r"(?<=[^\s\d])\.(?:\s|$)|(?<=\d)\.(?:\s|$)|。", line, maxsplit=1)[0]
    line = line.strip().strip("*").strip()
    if _PUNCTUATION.fullmatch(line):
        return None
    return _end_of_sentence(line)


def _last(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    last = deque(pattern.finditer(text, start), maxlen=1)
    return last[0] if last else None


def _whole_statement(rest: str, end: int) -> str:
    """The formula that `rest` starts with and what belongs to it, as in "$28$ percent"."""
    line_end = rest.find("\n", end)
    tail = rest[end : line_end if line_end >= 0 else len(rest)]
    belongs = _BELONGS_TO_FORMULA.match(tail)
    return rest[: end + belongs.end()] if belongs else rest[:end]


def _end_of_sentence(sentence: str) -> str | None:
    """What a sentence states: itself when bare, what follows its last "is", or its last value."""
    if _is_bare(sentence):
        return sentence
    _, verb, after = sentence.rpartition(" is ")
    if verb and _is_bare(after):
        return after.strip()
    return _last_value(sentence) or sentence


def unmarked_answer(text: str) -> str | None:
    """The answer of a text that marks none: itself when bare, else its last formula or number."""
    stripped = text.strip()
    if not stripped or _CODE.search(text):
        return None
    if len(stripped) <= BARE_ANSWER_LIMIT and _is_bare(stripped):
        stripped = _BOLD.sub(r"\1", stripped)
        return stripped.rpartition("=")[2].strip() if _COMPUTATION.match(stripped) else stripped
    value = _last_value(text)
    if value is None and len(stripped) <= BARE_ANSWER_LIMIT and len(stripped.split()) <= 5:
        return stripped
    return value


def _is_bare(text: str) -> bool:
    """Whether a text is all formula: no words beside commands, function names and connectives."""
    without_commands = _COMMAND_WITH_WORDS.sub(" ", text)
    return all(word.lower() in _MATH_WORDS for word in _WORD.findall(without_commands))


def _last_value(text: str) -> str | None:
    """The formula or number that ends last (a number inside a formula does not count by itself)."""
    formula = _last(_FORMULA, text)
    number = _last(_NUMBER, text, formula.end() if formula else 0)
    if number is not None:
        return number.group().strip()
    return formula.group() if formula else None


def extract_choice(text: str) -> str | None:
    """The letter chosen in a multiple-choice attempt, or None.

    A marked answer counts first; then a letter that the text starts with; then the last letter in
    brackets; then the last that stands alone.
    """
    marked = extract_answer(text)
    for candidate in (marked or "", visible_part(text)):
        start = _CHOICE_START.match(candidate)
        if start:
            return start.group(1)
    rest = visible_part(text) if marked is None else marked
    letters = _CHOICE_IN_BRACKETS.findall(rest) or _CHOICE_LETTER.findall(rest)
    return letters[-1] if letters else None
