"""Blocks of code in an answer: Markdown as models write it, which is not always whole.

markdown-it-py finds the fences. What CommonMark reads otherwise than a model means it is put right
around it: a fence that shares its line with code or words, one in a string of a bare program, one
that is opened before the last was closed, one that closes what was never opened. Nothing is parsed
as Python or run in this process, so nothing that may be a line of Python is taken away.
"""

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt

Kind = Literal["python", "plain", "other"]
"""Marked as Python; not marked; marked as something else, or what a program is said to put out."""


@dataclass(frozen=True)
class Block:
    """A piece of an answer that was set apart from its prose."""

    code: str
    kind: Kind
    closed: bool = True


def blocks_of(text: str) -> list[Block]:
    """The blocks of an answer, in order; none where it has no fences.

    A fence that was never opened closes what precedes it, and one that was never closed goes on to
    the next or to the end. What an answer begins with is a block too if it is code.
    """
    sections = _with_stray_fence_read(_sections(text))
    blocks = []
    for before, section in zip([_Section(), *sections], sections, strict=False):
        code = section.text
        if section.tag is not None:
            kind = _kind(section.tag, code, before.text)
            blocks.append(Block(code, kind, section.closed))
        elif section is sections[0] and len(sections) > 1 and _is_code(code):
            blocks.append(Block(without_prose(code), "plain"))
    return [block for block in blocks if block.code.strip()] or blocks


def without_prose(text: str) -> str:
    """Code without the lines before and after it that cannot be Python; all, if none can."""
    lines = text.split("\n")
    kept = [index for index, line in enumerate(lines) if line.strip() and not is_prose(line)]
    return "\n".join(lines[kept[0] : kept[-1] + 1]) if kept else text


def is_prose(line: str) -> bool:
    """Whether a line is surely not Python: a label, or two names side by side outside strings."""
    if '"""' in line or "'''" in line or _STATEMENT.match(line):
        return False
    code = STRINGS_AND_COMMENTS.sub("''", line).strip()
    if _PART_OF_STRING.search(code.replace("''", "")):
        return False
    if _LABEL.fullmatch(code) and re.split(r"\W", code, maxsplit=1)[0] not in _KEYWORDS:
        return True
    return any(not {*pair.split()} & _KEYWORDS for pair in _NEIGHBOURS.findall(code))


# ---- lines of code and of prose ----

STRINGS_AND_COMMENTS = re.compile(
    r"""#.*|(?<!\w)[rbfuRBFU]{0,2}(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
)
_TOKEN = re.compile(  # what is in `` is prose: outside strings, Python has no use for it
    rf"[rbfuRBFU]{{0,2}}(?:\"\"\"|''')|[()\[\]{{}}]|`[^`\n]+`|{STRINGS_AND_COMMENTS.pattern}"
)
_CLOSING = {quotes: re.compile(rf"\\.|{quotes}") for quotes in ('"""', "'''")}
_KEYWORDS = frozenset({*keyword.kwlist, *keyword.softkwlist})
_STATEMENT = re.compile(r"[ \t]*(?:return\b|print\(|[\w.\[\]]+[ \t]*[-+*/%]{0,2}=(?!=))")
_PART_OF_STRING = re.compile(r"\"|(?<!\w)'|'(?!\w)|\\$")
_LABEL = re.compile(r"[A-Za-z](?:[\w ,;’-]*[A-Za-z])?[.!?]|[A-Za-z][\w ,;’-]*:")
_NEIGHBOURS = re.compile(r"(?=(?<![\w.])([A-Za-z_]\w*[ \t]{1,8}[A-Za-z_]\w*)\b)")


def depth_of(line: str) -> int:
    """Characters that a line is indented by."""
    return len(line) - len(line.lstrip(" \t"))


class Nesting:
    """What the lines read so far leave open: a string over lines (its `quotes`), and brackets."""

    def __init__(self) -> None:
        self.quotes, self.brackets, self.continued = "", 0, False

    def __bool__(self) -> bool:
        """Whether the next line goes on with the same statement."""
        return bool(self.quotes) or self.brackets > 0 or self.continued

    def read(self, line: str) -> None:
        """Go on over a line."""
        place = 0
        while place < len(line):
            pattern = _CLOSING[self.quotes] if self.quotes else _TOKEN
            found = pattern.search(line, place)
            if found is None:
                break
            place = found.end()
            token = found[0]
            if token[-3:] in _CLOSING:
                self.quotes = "" if self.quotes else token[-3:]
            elif token in "()[]{}":
                self.brackets += 1 if token in "([{" else -1
        self.continued = line.endswith("\\")


# ---- sections ----

_FENCE = re.compile(r" {0,3}(?:`{3,}|~{3,})[ \t]*([^`\n]*)")
_ON_ONE_LINE = re.compile(r"[ \t]*```(?:(?:python3?|py)\b)?([^`\n]+)```[ \t]*")
_AFTER_WORDS = re.compile(r"([^`\n]*(?:`[^`\n]+`[^`\n]*)*)(```[ \t]*\w+)[ \t]*")


class _Section(NamedTuple):
    """Text outside fences (`tag` is None), or inside with what the opening fence was marked."""

    text: str = ""
    tag: str | None = None
    closed: bool = True


@cache
def _parser(*rules: str) -> MarkdownIt:
    return MarkdownIt("zero").enable(rules).disable("inline")


def _sections(text: str) -> list[_Section]:
    """Text outside fences and inside, in order, the first outside."""
    pairs = list(_lines(text))
    lines = [line for line, _ in pairs]
    shown = "\n".join("" if in_string else line for line, in_string in pairs) + "\n"
    sections, end = list[_Section](), 0
    fences = [token for token in _parser("fence", "code").parse(shown) if token.type == "fence"]
    if not fences and not _begins_as_code(text):  # all of them are in a list that is indented
        fences = [token for token in _parser("fence").parse(shown) if token.type == "fence"]
    for token in fences:
        begin, after = token.map or (0, 0)
        sections.append(_Section("\n".join(lines[end:begin])))
        closed = token.content.count("\n") == after - begin - 2
        margin = depth_of(lines[begin])
        inside = [line[min(margin, depth_of(line)) :] for line in lines[begin + 1 : after - closed]]
        opening = rf"(?m)^ {{0,3}}{token.markup}{token.markup[0]}*[ \t]*([^`\s][^`\n]*)\n?"
        code, *others = re.split(opening, "\n".join(inside))
        sections.append(_Section(code, token.info.strip(), closed and not others))
        sections += [
            _Section(code, tag) for tag, code in zip(others[::2], others[1::2], strict=True)
        ]
        end = after
    return [*sections, _Section("\n".join(lines[end:]))]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of an answer, each fence on a line of its own, and whether a line is in a string,
    as far as lines outside fences show it."""
    inside, nesting = False, Nesting()
    for whole in text.split("\n"):
        in_string = bool(nesting.quotes)
        for line in [whole] if in_string else _pieces(whole, inside):
            if not in_string and (fence := _FENCE.fullmatch(line)):
                inside, nesting = bool(fence[1]) or not inside, Nesting()
            elif not inside:
                nesting.read(line)
            yield line, in_string


def _pieces(line: str, inside: bool) -> list[str]:
    """A line; a fence that shares it with code or words is a line of its own."""
    if "```" not in line:
        return [line]
    words = _AFTER_WORDS.fullmatch(line)
    code = line.rstrip().removesuffix("```")
    if not inside and (found := _ON_ONE_LINE.fullmatch(line)):
        return ["```python", found[1], "```"]
    if not inside and words and words[1].strip() and _introduces(words[1]):
        return [words[1], words[2]]
    if len(code) < len(line.rstrip()) and code.strip("`~ \t") and _left_open(line):
        return [code, "```"]
    return [line]


def _introduces(words: str) -> bool:
    """Whether what stands before a marked fence is prose."""
    return is_prose(words) or (words.rstrip().endswith(":") and not re.search("[\"'=]", words))


def _left_open(line: str) -> bool:
    """Whether the fence at the end of a line is its only one, outside strings and comments."""
    nesting = Nesting()
    nesting.read(line)
    return not nesting.quotes and STRINGS_AND_COMMENTS.sub("", line).count("```") == 1


def _with_stray_fence_read(sections: list[_Section]) -> list[_Section]:
    """An answer that begins with code and whose first fence is unmarked and never closed: that
    fence was the closing one."""
    if len(sections) < 2 or sections[1].tag != "" or sections[1].closed:
        return sections
    before, after = without_prose(sections[0].text), sections[1].text
    if not _begins_as_code(before) or (_is_code(after) and not _is_code(before)):
        return sections
    return [_Section(before, "python"), _Section(after), *sections[2:]]


# ---- what a block is ----

_PYTHON = re.compile(r"\W*(?:i?python[\d.]*|py3?)\b", re.IGNORECASE)
_OUTPUT = re.compile(
    r"\W*(?:(?:the|this|it|its|which|and|expected|sample|example|program|program's|console|actual)"
    r"\W+)*(?:output|stdout|result|prints|print|outputs|returns|displays|gives)"
    r"(?:\W+(?:is|will be|would be|should be|looks like this))?\W*",
    re.IGNORECASE,
)
_ACTS = re.compile(
    r"=|\w[ \t]*\(|^[ \t]*(?:import|from|def|class|return|for|while|if|with|try|raise|pass)\b",
    re.MULTILINE,
)


def _kind(tag: str, code: str, before: str) -> Kind:
    python = bool(_PYTHON.match(tag))
    acts = bool(_ACTS.search(code))
    if (tag and not python) or code.lstrip().startswith((">>>", "$ ")):
        return "other"
    said = before.rstrip().rpartition("\n")[2]
    if _OUTPUT.fullmatch(said) and not (python and acts):
        return "other"
    return "python" if python else "plain" if _is_code(code) else "other"


def _is_code(text: str) -> bool:
    """Whether text begins with code that does something."""
    return _begins_as_code(text) and bool(_ACTS.search(text))


def _begins_as_code(text: str) -> bool:
    first = next((line for line in text.split("\n") if line.strip()), None)
    return first is not None and not is_prose(first)
