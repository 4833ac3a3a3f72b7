"""The one exception a user ever sees, and what no line of text may hold."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_KEY = re.compile(
    r"\b(?:sk|pk|rk)-(?:[a-z0-9]{1,6}-){0,2}"
    r"(?:[A-Za-z0-9]{16}|(?=[\w-]{0,60}\d)(?=[\w-]{0,60}[A-Z])[\w-]{16})[\w-]*"
    r"|\b(?:(?:xai|glpat|nvapi|xox[a-z])-[\w-]{16}|(?:hf|gsk|gh[a-z])_[A-Za-z0-9]{16}"
    r"|github_pat_\w{16}|AIza[\w-]{16}|AKIA[A-Z0-9]{12}|eyJ[\w-]{16}\.|ya29\.[\w-]{16})[\w.-]*"
    r"|(?<=:/)/?[^/\s@]+(?=@)"
    r"|(?<=[?&;])[\w-]{0,30}(?i:key|token|secret|passw|auth|signature|credential)[\w-]{0,30}=[^&\s]+"
)
"""Keys of well-known services, the user name and password of an address, and keys in its query."""

_LONGEST = 2000  # characters; a value of a megabyte is no line


class UserError(Exception):
    """A mistake the user can repair: one line that names the value, the place and the remedy.

    The command line prints it without a traceback and exits with status 2; library callers catch
    it like any other exception.
    """

    def __init__(self, line: str) -> None:
        super().__init__(printable(line))


def printable(text: str) -> str:
    """The text on one line, at a readable length, with no character that steers a terminal: files,
    models and servers may have written parts of it. What is a key is not shown."""
    text = _KEY.sub("[not shown]", text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 3 // 4]} [...] {text[-_LONGEST // 4 :]}"
    shown = (c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def holds_key(value: Any) -> bool:
    """Whether a value, or one within it, has a key in it that must not be written down."""
    if isinstance(value, Mapping):
        return any(holds_key(inner) for one in value.items() for inner in one)
    if isinstance(value, list | tuple):
        return any(map(holds_key, value))
    return isinstance(value, str | PurePath) and bool(_KEY.search(str(value)))
