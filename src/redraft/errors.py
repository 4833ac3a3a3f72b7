"""The one exception a user ever sees."""

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
    models and servers may have written parts of it."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 3 // 4]} [...] {text[-_LONGEST // 4 :]}"
    shown = (c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    return "".join(shown)
