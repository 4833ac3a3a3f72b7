r"""Finding the final answer in a response.

The places are tried in this order, and within one place the last occurrence counts:

1. the last balanced ``\boxed{...}``;
2. ``<answer>...</answer>``;
3. ``Final Answer: The final answer is $...$. I hope it is correct.`` (the Minerva prompt, also
   SCoRe's), ``####`` (GSM8K) and a line that starts with ``A:`` (the GSM8K transcripts);
4. ``the answer is ...``, ``Answer: ...`` and the like;
5. with ``fallback``: the whole text if it is an answer, else the last formula or number.

Of what a marker announces, as much is taken as can be read as one answer (`math.reader`), without
Markdown, HTML, quotes and the signs that end a sentence. A response that reasons inside
``<think>...</think>`` is searched after the last ``</think>`` only, and nothing after a chat
template's end-of-turn token counts. Every search is linear in the length of the text, so that a
megabyte of rubbish costs milliseconds.
"""

import re
from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from markdown_it import MarkdownIt

from redraft.grading.math.reader import is_readable, read

BARE_ANSWER_LIMIT = 200
"""Characters up to which a text without any marker may itself be the answer."""

STATEMENT_LIMIT = 400
"""Characters after a marker in which its answer is looked for."""

MARKERS_LIMIT = 64
"""Markers of one kind, from the last back, that are looked at."""

TURN_END = (
    r"(?:<[|｜](?!\w*th(?:ink|ought))(?:im_start|[\w▁]*(?:end|eo[tsm]|EO[TSM]|pad|return)[\w▁]*)[|｜]>"
    r"|<end_of_turn>|</s>|<eo[st]>|<EO[ST]>)"
)
"""Pattern of the tokens with which chat templates end a turn."""

_TURN_END = re.compile(TURN_END)
_BOX_OR_BRACE = re.compile(r"(?<!\\)\\+(?:(?:begin)?(?:boxed|fbox)\s*\{|[{}])|[{}]")
_BOX_WITHOUT_BRACES = re.compile(r"\\(?:boxed|fbox)\s*(-?[\d.,/]*\d)")
_ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_ANSWER_IS = (
    r"answer(?: is)?\s*(?::|\bis\b:?|=)|\banswer is\b|answer,? (?:we get|we have)"
    r"|réponse est|respuesta es|Antwort ist|答案(?:是|为|：|:)|答えは|답은"
)
_FINAL_ANSWER = r"final answer(?: is)?\s*:?"
_MARKERS = [
    re.compile(_FINAL_ANSWER, re.IGNORECASE),
    re.compile("####"),
    re.compile("^A:", re.MULTILINE),
    re.compile(_ANSWER_IS, re.IGNORECASE),
]
_MARKER_AGAIN = re.compile(rf"(?:the\s+)?(?:{_FINAL_ANSWER}|{_ANSWER_IS})", re.IGNORECASE)
_HOPE = re.compile(r"I hope (?:it|this) is correct", re.IGNORECASE)
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
    r"(?<![A-Za-z\d_.,√])(?<!\d:)[$€£¥]?"
    r"[-−–]?(?:\d*\s?√\s?)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+)?"
    r"(?:(?::\d+)+(?:\s?[AaPp]\.?[Mm]\b\.?)?)?"
    rf"(?:\s?\\?%|(?:\s?{_SCALE})+)?"
)
_BELONGS_TO_FORMULA = re.compile(
    rf"\s*(?:(?:\\?%|percent|pct|{_SCALE})|(?:,?\s*(?:and|or)\s+|\s*,\s*)\$[^$]+\$)+"
)
_DENIED = re.compile(r"not\b", re.IGNORECASE)
_CODE = re.compile(r"""\w\(["']|__[A-Za-z]\w*__""")
_QUALIFIED = re.compile(
    r"(?:\b(?:(?:can)?not|never|than|at least|at most|between \S{1,12} and)|n['’]t|[<>≠≤≥])"
    r"(?:\s+(?:be|equal))?\s*$",
    re.IGNORECASE,
)
# A sentence that goes on with these after its value, or has these before it, states another value.
_GOES_ON = re.compile(
    r"(?<=\d)\s+\d"
    r"|\s*(?:(?:(?:less|more|fewer) )?than \W?\d|(?:divided|multiplied) by\b"
    r"|squared|cubed|factorial"
    r"|to the power|below zero"
    r"|(?:thir|four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?\b"
    r"|thirds?\b|halves\b)",
    re.IGNORECASE,
)
_DERIVED = re.compile(
    r"\b(?:(?:root|half|third|quarter|one|some|multiple) of|twice|double|triple)"
    r"\s+\S+(?:,? (?:and |or )?[$-]?\d\S*)*$"
)
_CALL = re.compile(r"[A-Za-z][\w.]*\([^()]*$")
_COMPOUND = re.compile(r"[$€£]?\d[\d.,]*\s*[A-Za-z]+,?\s+(?:and\s+)?\d[\d.,]*\s*[A-Za-z]+")
_SENTENCE_END = re.compile(r"(?<!\b[RDM]s)(?<!\bMr)\.(?=\s|$)|。")
_VALUE_STARTS = re.compile(r"[-+−–]?\s*(?:[\d.$€£¥₹(\[{\\√]|(?:minus|negative|R\$|Rs\.?)\s)")
_PRODUCT_SIGNS = re.compile(r"(?<=[\w)\]}])\*+(?=[\w(\[{\\.])")
_PREFIX_ENDS = re.compile(r"\s|[,;:(]|(?<=\d)(?=[^\W\d_A-Za-z])")
_COMPUTATION = re.compile(r"[-(]?\d[^=A-Za-z\\]*=")
_ENDS_IN_CONNECTIVE = re.compile(r"(?:,|;|\band|\bor)$", re.IGNORECASE)
_LAYOUT = re.compile(r"\\(?:quad|qquad|text|textbf|mathrm|,|;|!| )|[{}$~\s]+|\\[\[\]()]")


LONGEST = 200_000
"""Characters of a response that are read, so that none takes long."""


def extract_answer(text: str, *, fallback: bool = False) -> str | None:
    """The final answer in `text` as its author wrote it, or None when there is none.

    `fallback` says what happens when the text marks no answer: False finds none, True takes the
    whole text when it is an answer, else its last formula or number.
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
    """What the response says to its reader: after its reasoning, before the end of its turn; of
    more than `LONGEST` characters the last ones."""
    text = text[-LONGEST:]
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
        gap = _LAYOUT.sub(" ", text[previous_end : min(box.start, previous_end + 100)]).strip()
        near = box.start - previous_end <= 100 and len(gap.split()) <= 5
        joined = near and _ENDS_IN_CONNECTIVE.search(gap) is not None
        run = [*(run if joined else []), text[box.content : box.content_end].strip()]
        previous_end = box.end
    return run


class _Box(NamedTuple):
    """Where a box stands in its text, and where what it holds begins and ends."""

    start: int
    content: int
    content_end: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """Every outermost balanced box, in order, found in one pass over the braces."""
    if "box" not in text:
        return []
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


# ---- what a marker announces ----


def _marked(text: str) -> str | None:
    """The answer after the last marker of the strongest kind that has something after it.

    Where nothing follows the last one ("But is this the final answer?"), an earlier marker of its
    kind counts if a value follows it.
    """
    tags = _ANSWER_TAG.findall(text)
    if tags and tags[-1].strip():
        tagged = _without_markup(str(tags[-1]).strip())
        return tagged if is_readable(tagged) else _marked(tagged) or tagged
    for marker in _MARKERS:
        end = len(text)
        for match in reversed(deque(marker.finditer(text), MARKERS_LIMIT)):
            statement = _statement(text[match.end() : end])
            if statement and (end == len(text) or _states_a_value(statement)):
                return statement
            end = match.start()
    return None


def _states_a_value(statement: str) -> bool:
    return is_readable(statement) or _FORMULA.match(statement) is not None


def _statement(rest: str) -> str | None:
    """The answer that a marker announces: a formula, a value, or the end of a sentence."""
    hope = _HOPE.search(rest)
    if hope:
        rest = rest[: hope.start()].rstrip(" .")
    rest = _without_lead(rest)
    while (again := _MARKER_AGAIN.match(rest)) and again.end():
        rest = _without_lead(rest[again.end() :])
    if rest.startswith(("?", "？")) or _DENIED.match(rest):
        return None
    if formula := _FORMULA.match(rest):
        return _whole_formula(rest, formula.end())
    line = _without_markup(rest.split("\n", 1)[0][:STATEMENT_LIMIT])
    if formula := _FORMULA.match(line):
        return _whole_formula(line, formula.end())
    if _is_value(line):
        return _trimmed(line)
    sentence = _trimmed(_SENTENCE_END.split(line, maxsplit=1)[0])
    if not any(map(str.isalnum, sentence)):
        return sentence if is_readable(sentence) else None
    return _stated(sentence)


def _without_lead(rest: str) -> str:
    """Without what stands between a marker and its answer; an emphasis that begins here stays."""
    rest = rest.strip().lstrip(":#>= \n")
    opens = rest.startswith("*") and "*" in rest.split("\n", 1)[0].lstrip("*")
    return rest if opens else rest.lstrip("*:_#>= \n")


def _whole_formula(rest: str, end: int) -> str:
    """The formula that `rest` starts with and what belongs to it, as in "$28$ percent"."""
    line_end = rest.find("\n", end)
    tail = rest[end : line_end if line_end >= 0 else len(rest)]
    belongs = _BELONGS_TO_FORMULA.match(tail)
    return rest[: end + belongs.end()] if belongs else rest[:end]


def _stated(sentence: str) -> str:
    """What a sentence states: itself if it is a value, the value that it begins with, what follows
    its last "is", its last value."""
    if is_readable(sentence):
        return sentence
    if _VALUE_STARTS.match(sentence):
        for prefix in _prefixes(sentence):
            if is_readable(prefix):
                goes_on = _GOES_ON.match(sentence, sentence.index(prefix) + len(prefix))
                return sentence if goes_on else prefix
    _, verb, after = sentence.rpartition(" is ")
    if verb and is_readable(_trimmed(after)):
        return _trimmed(after)
    return (None if _DERIVED.search(sentence) else _last_value(sentence)) or sentence


def _prefixes(sentence: str) -> Iterator[str]:
    """Beginnings of a sentence that end with a word, the longest first."""
    ends = [match.start() for match in _PREFIX_ENDS.finditer(sentence)][:16]
    return (_trimmed(sentence[:end]) for end in reversed(ends) if sentence[:end].strip())


def _is_value(line: str) -> bool:
    return len(line) <= BARE_ANSWER_LIMIT and is_readable(_trimmed(line))


def _trimmed(text: str) -> str:
    """Without quotes around it and the signs of punctuation and approval behind it."""
    text = text.strip().strip('`"“”„«»').rstrip("!?✓✔✅☑️。，,;: ").strip()
    if len(text) > 2 and text[0] == text[-1] == "'":
        text = text[1:-1]
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark")


def _without_markup(text: str) -> str:
    """A line as it reads: Markdown's and HTML's marks taken away, LaTeX left alone."""
    if not any(mark in text for mark in "*_`<&~["):
        return text
    escaped = text.replace("\\", "\\\\")
    escaped = _PRODUCT_SIGNS.sub(lambda stars: stars.group().replace("*", r"\*"), escaped)
    (inline,) = _markdown().parseInline(escaped)
    tokens = inline.children or []
    return "".join("\n" if t.type in _BREAKS else t.content for t in tokens if t.type in _SHOWN)


_BREAKS = frozenset(("softbreak", "hardbreak"))
_SHOWN = _BREAKS | {"text", "text_special", "code_inline"}


# ---- texts without a marker ----


def unmarked_answer(text: str) -> str | None:
    """The answer of a text that marks none: itself if it is one, else its last formula or
    number."""
    stripped = text.strip()
    if not stripped or _CODE.search(text):
        return None
    if len(stripped) <= BARE_ANSWER_LIMIT:
        whole = _without_markup(stripped)
        if is_readable(whole):
            return whole.rpartition("=")[2].strip() if _COMPUTATION.match(whole) else whole
    _, verb, after = stripped.rpartition("\n")[2].rpartition(" is ")
    after = _trimmed(_without_markup(after[:STATEMENT_LIMIT]))
    if verb and _VALUE_STARTS.match(after) and is_readable(after):
        return after
    value = _last_value(text)
    if value is None and len(stripped) <= BARE_ANSWER_LIMIT and len(stripped.split()) <= 5:
        return stripped
    return value


def _last_value(text: str) -> str | None:
    """The formula, call or number that ends last and is not said to be something else ("not 5",
    "less than 5"); a number inside of a formula or a call does not count."""
    formula = next(iter(deque(_FORMULA.finditer(text), maxlen=1)), None)
    numbers = deque(_NUMBER.finditer(text, formula.end() if formula else 0), maxlen=8)
    for number in reversed(numbers):
        if _QUALIFIED.search(text, max(0, number.start() - 40), number.start()):
            continue
        call = _CALL.search(text, max(0, number.start() - 40), number.start())
        if call:
            end = text.find(")", number.end()) + 1
            return text[call.start() : end] if end else None
        near = slice(max(0, number.start() - 40), number.end() + 20)
        short = near.stop - near.start <= BARE_ANSWER_LIMIT
        parts = _COMPOUND.search(text, near.start, near.stop) if short else None
        if parts and number.start() < parts.end() and read(parts.group()).kind == "quantity":
            return parts.group()  # 5 hours 30 minutes
        return number.group().strip()
    return formula.group() if formula else None
