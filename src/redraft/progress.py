"""How long work tells how far it is, without knowing who watches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Phase(Protocol):
    """One stretch of work with a known number of steps."""

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """`n` more steps are done; `metrics` are the key numbers to show beside them."""
        ...


class Progress(Protocol):
    """Whoever watches: a terminal, a log, nobody."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Phase]:
        """Begin a stretch of `total` steps (None: unknown); it ends with the `with` block."""
        ...

    def note(self, text: str) -> None:
        """One line that the user should see, such as a step whose rewards are all 0."""
        ...


class Silent:
    """Nobody watches."""

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """Say nothing."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """Say nothing."""
        yield self

    def note(self, text: str) -> None:
        """Say nothing."""
