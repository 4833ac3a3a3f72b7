"""Work in a thread of its own: what the next step samples while the learner is at this one."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from redraft.engines.base import Watch

T = TypeVar("T")

_LOOK = 0.1  # seconds between looks at how far it is
_END = 10.0  # seconds that work which is not wanted any more has to end


class _UnwantedError(Exception):
    """Nobody waits for the result any more."""


class Ahead(Generic[T]):
    """Work that has begun, and whose result is taken later.

    Args:
        work: gets a `Watch` to tell how far it is; that also ends it where it is not wanted any
            more. It runs beside the main thread: nothing that processes exchange may be in it.
    """

    def __init__(self, work: Callable[[Watch], T]) -> None:
        self._result: Future[T] = Future()
        self._wanted = True
        self._seen: list[tuple[int, int]] = []
        self.seconds = 0.0
        """How long it took, once the result is there."""
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def result(self, watch: Watch) -> T:
        """The result, once it is there; `watch` is told what happened meanwhile.

        Raises:
            Exception: the work's.
        """
        while True:
            seen, self._seen = self._seen, []
            for tokens, responses in seen:
                watch(tokens, responses)
            if wait([self._result], _LOOK).done:
                return self._result.result()

    def stop(self) -> None:
        """End the work, whose result is not wanted."""
        self._wanted = False
        self._thread.join(_END)

    def _watch(self, tokens: int, responses: int) -> None:
        if not self._wanted:
            raise _UnwantedError
        self._seen.append((tokens, responses))

    def _run(self, work: Callable[[Watch], T]) -> None:
        started = time.perf_counter()
        try:
            result = work(self._watch)
            self.seconds = time.perf_counter() - started
            self._result.set_result(result)
        except BaseException as error:  # it is raised where the result is taken
            self._result.set_exception(error)
