"""A place in an answer's tokens, from which a grammar reads on."""

from collections.abc import Callable

from redraft.grading.math.building import UnreadableError
from redraft.grading.math.lexer import Token
from redraft.grading.math.nodes import Node

DEPTH_LIMIT = 40
"""Nesting above which an answer is compared as text only."""

STEP_LIMIT = 5000
"""Steps into something nested above which an answer is compared as text only."""

END = Token("end", "")


class Cursor:
    """The next token of a text, and how deep in brackets it stands."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.steps = 0
        self.bars = 0
        self.braces = 0
        self.python = not any(t.kind == "command" or t.worded for t in tokens)

    @property
    def text(self) -> str:
        """The next token's text; empty at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def take(self, *texts: str) -> bool:
        """Go past the next token if it is one of these."""
        if self.text and self.text in texts:
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        """Go past the next token, which must be one of these."""
        found = self.text
        if not self.take(*texts):
            raise UnreadableError(f"{found!r} instead of {texts[0]!r}")
        return found

    def attempt(self, parse: Callable[[], Node | None]) -> Node | None:
        """What `parse` reads; None, and nothing is read, where it cannot."""
        at, depth, bars = self.at, self.depth, self.bars
        try:
            if (node := parse()) is not None:
                return node
        except UnreadableError:
            if self.steps > STEP_LIMIT:
                raise
        self.at, self.depth, self.bars = at, depth, bars
        return None

    def nested(self, parse: Callable[[], Node]) -> Node:
        """What `parse` reads, one level deeper."""
        self.depth += 1
        self.steps += 1
        if self.depth > DEPTH_LIMIT or self.steps > STEP_LIMIT:
            raise UnreadableError("it is nested too deeply")
        node = parse()
        self.depth -= 1
        return node
