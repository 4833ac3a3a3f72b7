"""The program that an attempt means, whatever form a model gave it.

    read       line ends and byte order mark; what follows the thoughts; the part between markers
    choose     the block of code that is meant, if the answer has blocks (`fences`)
    join       it comes after those blocks whose names it uses
    complete   what does not define the function is the rest of the prompt, if there is one

A program that is right by itself is right as it stands, in a fence, before its own output, and with
a fence too many. Without any fence nothing is taken from it but its margin.
"""

import builtins
import re
import textwrap
from collections.abc import Sequence

from redraft.grading.extract import LONGEST, TURN_END
from redraft.grading.fences import (
    STRINGS_AND_COMMENTS,
    Block,
    Nesting,
    blocks_of,
    depth_of,
    is_prose,
)


def extract_program(attempt: str, entry_point: str = "", prompt: str = "") -> str:
    """The program that an attempt means, from the margin on.

    Of several blocks it is the last that defines `entry_point`, else the last that is marked as
    Python, else the last that is not marked and is code, else the first; blocks that define what it
    uses come before it. A `prompt` is completed by what does not define `entry_point`, and run
    before what does, so that its imports and auxiliary functions are there.
    """
    text = _answer_of(attempt)
    blocks = blocks_of(text)
    code = _joined(blocks, entry_point, bool(prompt)) if blocks else text
    return _completed(prompt, code, entry_point) if prompt else _at_margin(code)


def is_whole(attempt: str, entry_point: str = "") -> bool:
    """Whether the block that an attempt means was closed, so that nothing of it was cut off."""
    blocks = blocks_of(_answer_of(attempt))
    return bool(blocks) and _meant(blocks, entry_point).closed


def _answer_of(attempt: str) -> str:
    """What an attempt says after its thoughts, and between the markers of MBPP's prompt."""
    text = attempt[-LONGEST:].replace("\r\n", "\n").replace("\r", "\n")
    thoughts, _, said = text.rpartition("</think>")
    if any(line.strip() and not is_prose(line) for line in said.split("\n")):
        text = said
    elif thoughts:  # nothing but prose comes after it: the code does before
        text = thoughts
    text = re.sub(r"(?m)^\ufeff", "", text)
    text = _END.split(text, maxsplit=1)[0] or text
    return _LANGUAGE.sub("", _BEGIN.split(text)[-1])


_BEGIN = re.compile(r"(?m)^[ \t]*\[(?:BEGIN|PYTHON)\]")
_END = re.compile(
    rf"(?m)^[ \t]*(?:\[(?:DONE|/PYTHON)\]|(?:\[/INST\]|<pad>|<unk>)[ \t]*$)|{TURN_END}[ \t]*$"
)
_LANGUAGE = re.compile(r"\A\s*(?:python3?|py)[ \t]*\n", re.IGNORECASE)
"""What is left of an opening fence that a prompt has taken."""


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
        if given & missing or ("*" in given and _unknown_functions(main.code, missing)):
            needed.insert(0, block)
            missing = (missing - given) | _missing(block.code)
    return needed


_IMPORTED = re.compile(
    r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]*(\([^)]*\)|[^\n#(]+)", re.MULTILINE
)
_NAMED = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_ASSIGNED = re.compile(
    r"^[ \t]*\(?(\w+(?:[ \t]*,[ \t]*\w+)*)\)?[ \t]*(?::[^=\n]+)?=(?!=)(.*)", re.MULTILINE
)
_CHANGED = re.compile(r"^[ \t]*(\w+)(?:\.\w+\(|\[[^=\n]*=|[ \t]*[-+*/%@&|^<>]{1,2}=)", re.MULTILINE)
_LOCAL = re.compile(
    r"\bfor\s+([\w\s,()*]{1,80}?)\s+in\b|\bas\s+(\w+)|\blambda\b([^:\n]{0,200}):"
    r"|\bdef\s+\w+\s*\(([^)]{0,1000})\)|\b(\w+)[ \t]{0,8}:="
)
_LOOPS = re.compile(r"^[ \t]*for\s+([\w\s,()*]{1,80}?)\s+in\b", re.MULTILINE)
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\(")
_COMMENT = re.compile(r"^[ \t]*#.*", re.MULTILINE)
_INNER = re.compile(r"^((?:async[ \t]+)?(?:def|class)\b.*)\n(?:(?:[ \t].*)?\n)*", re.MULTILINE)


def _given(code: str) -> set[str]:
    """Names that code gives to code after it: what it defines, imports, assigns or changes outside
    functions and classes; `*` for all of a module."""
    outside = _INNER.sub(r"\1\n", code + "\n")
    loops = {name for names in _LOOPS.findall(outside) for name in _NAME.findall(names)}
    assigned = {name for names, _ in _ASSIGNED.findall(outside) for name in _NAME.findall(names)}
    bound = {*_NAMED.findall(outside), *_CHANGED.findall(outside)}
    return _imported(outside) | bound | assigned | loops


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


def _unknown_functions(code: str, missing: set[str]) -> set[str]:
    return ({*_CALLED.findall(code)} & missing) - {*dir(builtins)}


def _imported(code: str) -> set[str]:
    pieces = [piece for names in _IMPORTED.findall(code) for piece in names.strip("() ").split(",")]
    words = [_NAME.findall(piece) or piece.split() for piece in pieces]
    return {(found[-1] if "as" in found else found[0]) for found in words if found}


# ---- completing the prompt ----

_FUTURE = re.compile(r"^from __future__ import [^\n(]+\n?", re.MULTILINE)


def _at_margin(code: str) -> str:
    """Code without common indent; models like to begin with a space or an empty line."""
    return textwrap.dedent(code).lstrip()


def _completed(prompt: str, code: str, entry_point: str) -> str:
    prompt, code = prompt.rstrip(), re.sub(r"\A(?:[ \t]*\n)+", "", code).rstrip("\n")
    margin = _margin_of_body(prompt)
    whole = _defines(code, entry_point) and not _returns(code)
    if not whole or depth_of(textwrap.dedent(code)) in (len(margin), len(margin) + 1):
        return f"{prompt}\n{_as_body(code, margin)}\n"
    stub = f"{prompt}\n    pass" if prompt.endswith(":") else prompt
    program = f"{stub}\n\n\n{_at_margin(code)}"
    return "".join(_FUTURE.findall(program)) + _FUTURE.sub("", program)


def _returns(code: str) -> bool:
    """Whether code returns at its margin, as only a body does."""
    return bool(re.search(r"(?m)^return\b", textwrap.dedent(code)))


def _margin_of_body(prompt: str) -> str:
    """What the body of the prompt's last function is indented by."""
    body = re.split(r"(?m)^[ \t]*(?:async )?def .*", prompt)[-1].split("\n")
    return min(
        (line[:depth] for line in body if (depth := depth_of(line)) < len(line) and depth),
        key=len,
        default="    ",
    )


def _as_body(code: str, margin: str) -> str:
    """A completion as the body of a function: as it stands where it begins as far in as a body
    does; else moved there, its first line and what stands beside that each by their own way,
    since models and decoders take away the indent of all or of the first line."""
    lines = code.split("\n")
    if lines[0][: depth_of(lines[0])] == margin:
        return code
    lines = [_tabs_expanded(line) for line in lines]
    level = _level(lines, len(margin))
    rest = [_moved(line, level, len(margin) - level) for line in lines[1:]]
    return "\n".join([margin + lines[0].lstrip(), *rest])


def _level(lines: Sequence[str], indent: int) -> int:
    """Columns by which the statements beside the first are indented, `indent` where none is."""
    opens, depths = _statements(lines)
    if not depths:
        return indent
    if not opens:
        return depths[0]
    beside = next((depth for depth in depths if depth < depths[0]), None)
    if beside is not None:
        return beside
    return indent if depths[0] > indent else 0


def _statements(lines: Sequence[str]) -> tuple[bool, list[int]]:
    """Whether the first statement opens a suite, and how far in each statement after it begins."""
    nesting, opens, depths = Nesting(), False, []
    for number, line in enumerate(lines):
        code = bool(line.strip()) and not line.lstrip().startswith("#")
        if number and code and not nesting:
            depths.append(depth_of(line))
        nesting.read(line)
        if code and not depths and not nesting:
            opens = STRINGS_AND_COMMENTS.sub("", line).rstrip().endswith(":")
    return opens, depths


def _moved(line: str, level: int, shift: int) -> str:
    """A line moved with its level; what stands further out is not the function's."""
    depth = depth_of(line)
    return " " * (depth + shift) + line[depth:] if line.strip() and depth >= level else line


def _tabs_expanded(line: str) -> str:
    depth = depth_of(line)
    return line[:depth].expandtabs(4) + line[depth:]
