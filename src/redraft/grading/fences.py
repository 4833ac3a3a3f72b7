"""Blocks of code in an answer: Markdown as models write it, which is not always whole.

Everything here reads text line by line with regular expressions; what a model wrote is never
parsed, let alone run, in this process. So nothing that may be a line of Python is taken away: a
fence inside a string is text, and prose is what has words side by side as no code has.
"""

import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

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

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*?)[ \t]*")
_ON_ONE_LINE = re.compile(r"[ \t]*```(?:(?:python3?|py)\b)?([^`\n]+)```[ \t]*")
_AFTER_WORDS = re.compile(r"([^`\n]*(?:`[^`\n]+`[^`\n]*)*)(```[ \t]*\w+)[ \t]*")
_NESTED = 4
"""A fence indented by so much more than the text around it is part of that text (CommonMark)."""


@dataclass
class _Section:
    """Lines outside fences (`tag` is None), or inside with what the opening fence was marked."""

    tag: str | None = None
    lines: list[str] = field(default_factory=list)
    closed: bool = True
    indent: int = 0
    mark: str = ""
    has_code: bool = False
    nesting: Nesting = field(default_factory=Nesting)

    def add(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        self.has_code = self.has_code or (bool(_ACTS.search(line)) and not is_prose(line))
        self.nesting.read(line)

    def has_within(self, line: str) -> bool:
        """Whether a fence on the next line is part of the text: of a docstring, say."""
        deeper = depth_of(line) - self.indent >= _NESTED
        return self.in_string or (deeper and (self.tag is not None or self.has_code))

    @property
    def in_string(self) -> bool:
        """Whether the next line is in a string, as far as lines outside fences show it."""
        return self.tag is None and bool(self.nesting.quotes)

    @property
    def text(self) -> str:
        """The lines, without the indent of the opening fence."""
        margin = " " * self.indent
        return "\n".join(
            line.removeprefix(margin) if line.startswith(margin) else line.lstrip()
            for line in self.lines
        )


def _sections(text: str) -> list[_Section]:
    """Text outside fences and inside, by turns, the first outside."""
    sections = [_Section()]
    for whole in text.split("\n"):
        for line in _pieces(whole, sections[-1]):
            now = sections[-1]
            fence = _FENCE.fullmatch(line)
            other = now.tag is not None and fence and not fence[2].startswith(now.mark)
            if fence is None or other or now.has_within(line):
                now.add(line)
            elif now.tag is not None and not fence[3]:
                now.closed = True
                sections.append(_Section())
            else:
                if now.tag is not None:  # not closed before the next is opened
                    sections.append(_Section())
                sections.append(_Section(fence[3], [], False, len(fence[1]), fence[2]))
    return sections


def _pieces(line: str, section: _Section) -> Iterator[str]:
    """A line; a fence that shares it with code or words is a line of its own."""
    starts = line.lstrip().startswith("```")
    if "```" not in line or section.in_string or (starts and section.has_within(line)):
        yield line
        return
    words = _AFTER_WORDS.fullmatch(line)
    code = line.rstrip().removesuffix("```")
    if section.tag is None and (found := _ON_ONE_LINE.fullmatch(line)):
        yield from ("```python", found[1], "```")
    elif section.tag is None and words and words[1].strip() and _introduces(words[1]):
        yield from (words[1], words[2])
    elif len(code) < len(line.rstrip()) and code.strip("`~ \t") and _left_open(line):
        yield from (code, "```")
    else:
        yield line


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
    before, after = without_prose(sections[0].text), sections[1]
    if not _begins_as_code(before) or (_is_code(after.text) and not _is_code(before)):
        return sections
    return [_Section("python", before.split("\n")), _Section(None, after.lines), *sections[2:]]


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
