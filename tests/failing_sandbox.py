"""A pool whose sandbox fails on some programs."""

from concurrent.futures import Future
from typing import Any

from redraft.sandbox import Pool, Result


class FailingOn(Pool):
    """Fails on programs with a text in them, each time or so many times."""

    def __init__(self, text: str, times: float = float("inf")) -> None:
        super().__init__(workers=1)
        self.text, self.left = text, times

    def submit(self, program: str, **options: Any) -> "Future[Result]":
        """A result at once where it fails, else that of the program."""
        if self.text in program and self.left > 0:
            self.left -= 1
            failed: Future[Result] = Future()
            failed.set_result(Result("infrastructure", error="no worker"))
            return failed
        return super().submit(program, **options)
