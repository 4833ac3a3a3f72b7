"""Blocks of code in an answer: Markdown as models write it, which is not always whole.

Everything here reads text line by line with regular expressions; what a model wrote is never
parsed, let alone run, in this process.
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


def blocks_of(text: str) -> list[Block]:
    """The blocks of an answer, in order; none where it has no fences.

    A fence that was never opened closes what precedes it, and one that was never closed goes on to
    the next or to the end. What an answer begins with is a block too if it is code.
    """
    sections = _with_stray_fences_read(_sections(text))
    blocks = []
    for before, section in zip([_Section(), *sections], sections, strict=False):
        code = section.text
        if section.tag is not None:
            blocks.append(Block(code, _kind(section.tag, code, before.text)))
        elif section is sections[0] and len(sections) > 1 and _is_code(code):
            blocks.append(Block(without_prose(code), "plain"))
    return blocks


def without_prose(text: str) -> str:
    """Code without the lines before and after it that cannot be Python; all, if none can."""
    lines = text.split("\n")
    kept = [index for index, line in enumerate(lines) if line.strip() and not is_prose(line)]
    return "\n".join(lines[kept[0] : kept[-1] + 1]) if kept else text


def is_prose(line: str) -> bool:
    """Whether a line of text cannot be a line of Python, as far as one can tell without parsing."""
    if '"""' in line or "'''" in line:
        return False
    line = _DOUBLE_QUOTED.sub("''", line)
    if _CONTRACTION.search(line):
        return True
    line = _QUOTED.sub("''", line).strip()
    if not line:
        return False
    if _LABEL.fullmatch(line) and line.split(maxsplit=1)[0].rstrip(":") not in _KEYWORDS:
        return True
    return bool(_SENTENCE.search(line)) or any(
        not {*pair.split()} & _KEYWORDS for pair in _NEIGHBOURS.findall(line)
    )


# ---- sections ----

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*?)[ \t]*")
_ON_ONE_LINE = re.compile(r"^[ \t]*```(?:(?:python3?|py)\b)?([^`\n]+)```[ \t]*$", re.MULTILINE)
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

    def add(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        self.has_code = self.has_code or (bool(_ACTS.search(line)) and not is_prose(line))

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
    for line in _lines(text):
        now = sections[-1]
        fence = _FENCE.fullmatch(line) if "```" in line or "~~~" in line else None
        if fence is None or _belongs_to(now, fence):
            now.add(line)
        elif now.tag is not None and not fence[3] and fence[2].startswith(now.mark):
            now.closed = True
            sections.append(_Section())
        else:
            if now.tag is not None:  # not closed before the next is opened
                sections.append(_Section())
            sections.append(_Section(fence[3], [], False, len(fence[1]), fence[2]))
    return sections


def _lines(text: str) -> Iterator[str]:
    """The lines of a text; a fence at the end of a line of code is a line of its own."""
    for line in _ON_ONE_LINE.sub(r"```python\n\1\n```", text).split("\n"):
        code = line.rstrip().removesuffix("```")
        if len(code) < len(line.rstrip()) and code.strip("`~ \t") and _left_open(line):
            yield from (code, "```")
        else:
            yield line


def _left_open(line: str) -> bool:
    """Whether the fence at the end of a line is its only one outside strings and comments."""
    return _QUOTED.sub("", line).count("```") == 1


def _belongs_to(section: _Section, fence: re.Match[str]) -> bool:
    """Whether a fence is part of the text that it stands in: of a docstring, say."""
    deeper = len(fence[1]) - section.indent >= _NESTED
    if section.tag is None:
        return deeper and section.has_code
    return deeper or not fence[2].startswith(section.mark)


def _with_stray_fences_read(sections: list[_Section]) -> list[_Section]:
    """A fence without a mark that nothing closes was itself a closing one, if code precedes it."""
    read = list(sections)
    for index in range(1, len(read)):
        before, section = read[index - 1], read[index]
        stray = section.tag == "" and not section.closed and before.tag is None
        begun = _begins_as_code(before.text) or not _begins_as_code(section.text)
        if stray and before.text.strip() and begun:
            read[index - 1] = _Section("python", without_prose(before.text).split("\n"))
            read[index] = _Section(None, section.lines)
    return read


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


# ---- lines of prose ----

_KEYWORDS = frozenset({*keyword.kwlist, *keyword.softkwlist})
_CONTRACTION = re.compile(r"\b(?:I|[A-Za-z]{2,})['’](?:s|t|m|re|ve|ll|d)\b(?!['\"])")
_DOUBLE_QUOTED = re.compile(r'"[^"\n]*"')
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|#.*")
_LABEL = re.compile(r"[A-Za-z][\w ,;’()-]*:")
_SENTENCE = re.compile(r"[A-Za-z][ \t]{0,8}[.!?]$|^\d+\.\s|^\*\*[^*]+\*\*")
_NEIGHBOURS = re.compile(r"(?=(?<![\w.])([A-Za-z_]\w*[ \t]{1,8}[A-Za-z_]\w*)\b)")
