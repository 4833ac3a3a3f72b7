"""The program that an attempt means, whatever form a model gave it.

    read       line ends and byte order mark; what follows the thoughts; the part between markers
    choose     the block of code that is meant, if the answer has blocks (`fences`)
    join       it comes after those blocks whose names it uses
    complete   what does not define the function is the rest of the prompt, if there is one

A program that is right by itself is right in a fence, between prose, before its own output, and
with a fence too many.
"""

import re
import textwrap
from collections.abc import Sequence

from redraft.grading.fences import Block, blocks_of, without_prose


def extract_program(attempt: str, entry_point: str = "", prompt: str = "") -> str:
    """The program that an attempt means, from the margin on.

    Of several blocks it is the last that defines `entry_point`, else the last that is marked as
    Python, else the last that is not marked and is code, else the first; blocks that define what it
    uses come before it. A `prompt` is completed by what does not define `entry_point`, and run
    before what does, so that its imports and auxiliary functions are there.
    """
    text = _answer_of(attempt)
    blocks = blocks_of(text)
    code = _joined(blocks, entry_point, bool(prompt)) if blocks else without_prose(text)
    return _completed(prompt, code, entry_point) if prompt else _at_margin(code)


def _answer_of(attempt: str) -> str:
    """What an attempt says after its thoughts, and between the markers of MBPP's prompt."""
    text = attempt.replace("\r\n", "\n").replace("\r", "\n").rpartition("</think>")[2]
    text = re.split(r"(?m)^[ \t]*\[DONE\]", text.lstrip("\ufeff"), maxsplit=1)[0]
    return re.split(r"(?m)^[ \t]*\[BEGIN\]", text)[-1]


# ---- which block is meant ----


def _joined(blocks: Sequence[Block], entry_point: str, completes: bool) -> str:
    main = _meant(blocks, entry_point)
    if completes and not _defines(main.code, entry_point):
        return main.code
    needed = _needed(main, [block for block in blocks if block.kind != "other"])
    return "\n\n".join([*(_at_margin(block.code) for block in needed), _at_margin(main.code)])


def _meant(blocks: Sequence[Block], entry_point: str) -> Block:
    if defining := [block for block in blocks if _defines(block.code, entry_point)]:
        return defining[-1]
    for kind in ("python", "plain"):
        of_kind = [block for block in blocks if block.kind == kind]
        if of_kind:
            uses = [block for block in of_kind if not _is_use(block.code, entry_point)]
            return (uses or of_kind)[-1]
    return blocks[0]


def _defines(code: str, name: str) -> bool:
    if not name:
        return False
    code, name = textwrap.dedent(code), re.escape(name)
    return bool(
        re.search(rf"(?:\A\s*|^)(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*=(?!=)", code, re.M)
    )


def _is_use(code: str, entry_point: str) -> bool:
    """Whether code only shows how the function is called."""
    name = re.escape(entry_point)
    return bool(name and re.search(rf"(?m)^(?!return\b)\S.*(?<!\w){name}\s*\(|^{name}\s*\(", code))


# ---- which blocks come before it ----


def _needed(main: Block, blocks: Sequence[Block]) -> list[Block]:
    """Blocks that give `main` the names it lacks, in order; of several the latest before it."""
    place = next((index for index, block in enumerate(blocks) if block is main), len(blocks))
    missing = _missing(main.code)
    needed: list[Block] = []
    for block in [*reversed(blocks[:place]), *blocks[place + 1 :]]:
        given = _given(_at_margin(block.code))
        if given & missing:
            needed.insert(0, block)
            missing = (missing - given) | _missing(block.code)
    return needed


_IMPORTED = re.compile(r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+([^\n#]+)", re.MULTILINE)
_NAMED = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_ASSIGNED = re.compile(
    r"^[ \t]*(\w+(?:[ \t]*,[ \t]*\w+)*)[ \t]*(?::[^=\n]+)?=(?!=)(.*)", re.MULTILINE
)
_CHANGED = re.compile(r"^(\w+)(?:\.\w+\(|\[[^=\n]*=|[ \t]*[-+*/%@&|^<>]{1,2}=)", re.MULTILINE)
_LOCAL = re.compile(
    r"\bfor\s+([\w\s,()*]{1,80}?)\s+in\b|\bas\s+(\w+)|\blambda\b([^:\n]{0,200}):"
    r"|\bdef\s+\w+\s*\(([^)]{0,1000})\)|\b(\w+)[ \t]{0,8}:="
)
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_COMMENT = re.compile(r"^[ \t]*#.*", re.MULTILINE)


def _given(code: str) -> set[str]:
    """Names that code gives to code after it: what it defines, imports or changes at the margin."""
    top = "\n".join(line for line in code.split("\n") if line[:1].strip())
    assigned = {name for names, _ in _ASSIGNED.findall(top) for name in _NAME.findall(names)}
    return _imported(top) | {*_NAMED.findall(top), *_CHANGED.findall(top)} | assigned


def _missing(code: str) -> set[str]:
    """Names that code uses and does not itself bind."""
    code = _COMMENT.sub("", code)
    local = {name for groups in _LOCAL.findall(code) for name in _NAME.findall(" ".join(groups))}
    assigned = {
        name
        for names, value in _ASSIGNED.findall(code)
        for name in _NAME.findall(names)
        if name not in _NAME.findall(value)  # x = x + 1 has a use for an earlier x
    }
    return {*_NAME.findall(code)} - _imported(code) - {*_NAMED.findall(code)} - assigned - local


def _imported(code: str) -> set[str]:
    pieces = [piece for names in _IMPORTED.findall(code) for piece in names.strip("() ").split(",")]
    words = [_NAME.findall(piece) for piece in pieces]
    return {(found[-1] if "as" in found else found[0]) for found in words if found}


# ---- completing the prompt ----

_FUTURE = re.compile(r"^from __future__ import [^\n(]+\n?", re.MULTILINE)
_OPEN = re.compile(r"[:(\[{,\\][ \t]*(?:#.*)?$")


def _at_margin(code: str) -> str:
    """Code without common indent; models like to begin with a space or an empty line."""
    return textwrap.dedent(code).lstrip()


def _completed(prompt: str, code: str, entry_point: str) -> str:
    prompt, code = prompt.rstrip(), textwrap.dedent(code).strip("\n")
    indent = _indent_of_body(prompt)
    if not _defines(code, entry_point) or _depth(code) in (indent, indent + 1):
        return f"{prompt}\n{_as_body(code, indent)}\n"
    stub = f"{prompt}\n    pass" if prompt.endswith(":") else prompt
    program = f"{stub}\n\n\n{_at_margin(code)}"
    return "".join(_FUTURE.findall(program)) + _FUTURE.sub("", program)


def _indent_of_body(prompt: str) -> int:
    """Columns that the body of the prompt's last function is indented by."""
    body = re.split(r"(?m)^[ \t]*(?:async )?def .*", prompt)[-1].split("\n")
    return min((depth for line in body if line.strip() and (depth := _depth(line))), default=4)


def _as_body(code: str, indent: int) -> str:
    """A completion as the body of a function, where its first line or all of it lost the indent,
    or the first line has one blank more, as some decoders begin."""
    lines = code.split("\n")
    if code.startswith("\t"):
        lines = [_tabs_expanded(line) for line in lines]
    first, rest = lines[0], lines[1:]
    start = " " * indent + first.lstrip()
    if _depth(first) in (indent, indent + 1):
        return "\n".join([start, *rest])
    level = _level(first, rest, indent)
    return "\n".join([start, *(_moved(line, level, indent - level) for line in rest)])


def _level(first: str, rest: Sequence[str], indent: int) -> int:
    """Columns by which the lines of `rest` that belong beside `first` are indented."""
    code = [line for line in rest if line.strip() and not line.lstrip().startswith("#")]
    depths = [_depth(line) for line in code]
    if not depths:
        return indent
    if not _OPEN.search(first):
        return depths[0]
    beside = next((depth for depth in depths if depth < depths[0]), None)
    if beside is not None:
        return beside
    return min(depths) - 4 if first.rstrip().endswith(":") else min(depths)


def _moved(line: str, level: int, shift: int) -> str:
    """A line moved with its level; what stands further out is not the function's."""
    depth = _depth(line)
    return " " * (depth + shift) + line[depth:] if line.strip() and depth >= level else line


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _tabs_expanded(line: str) -> str:
    depth = _depth(line)
    return line[:depth].expandtabs(4) + line[depth:]
