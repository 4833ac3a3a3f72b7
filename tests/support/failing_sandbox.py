"""A pool whose sandbox fails on some programs."""

from typing import Any

from redraft.sandbox import Pool, Result


class FailingOn(Pool):
    """Fails on programs with a text in them, each time or so many times."""

    def __init__(self, text: str, times: float = float("inf")) -> None:
        super().__init__(workers=1)
        self.text, self.left = text, times

    def _try(self, request: dict[str, Any]) -> Result:
        if self.text in request["program"] and self.left > 0:
            self.left -= 1
            raise OSError("no worker")
        return super()._try(request)
