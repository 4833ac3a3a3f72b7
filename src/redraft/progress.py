"""Progress reporting, independent of what shows it, and the estimate of the time that is left."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


class Phase(Protocol):
    """One stretch of work with a known number of steps."""

    def skip(self, n: int) -> None:
        """`n` steps were done before this run was resumed, and took none of its time."""
        ...

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """`n` more steps are done; `metrics` are the key numbers to show beside them."""
        ...

    def watch(self, tokens: int, responses: int) -> None:
        """So many more tokens were generated and responses finished; each response is a step.

        Fits `redraft.engines.base.Watch`.
        """
        ...


class Progress(Protocol):
    """Shows progress: on a terminal, in a log, nowhere."""

    def phase(
        self, name: str, total: int | None = None, max_tokens: int | None = None
    ) -> AbstractContextManager[Phase]:
        """Begin a stretch of `total` steps (None: unknown); it ends with the `with` block.

        `max_tokens` is the length limit of a response where the steps are responses.
        """
        ...

    def note(self, text: str) -> None:
        """One line that the user should see, such as a step whose rewards are all 0."""
        ...


class Silent:
    """Shows nothing."""

    def skip(self, n: int) -> None:
        """Does nothing."""

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """Does nothing."""

    def watch(self, tokens: int, responses: int) -> None:
        """Does nothing."""

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, max_tokens: int | None = None
    ) -> Iterator[Phase]:
        """Shows nothing."""
        yield self

    def note(self, text: str) -> None:
        """Shows nothing."""


@dataclass
class Seen:
    """Passes on what an engine reports, and counts the responses."""

    tell: Callable[[int, int], None]
    responses: int = 0

    def watch(self, tokens: int, responses: int) -> None:
        """See `Phase.watch`."""
        self.responses += responses
        self.tell(tokens, responses)


class Forecast:
    """How much of a phase is done, and when it will end.

    Where steps are counted in responses under way, with T tokens generated and R of N responses
    finished, the expected length of a response is the mean of a censored sample of exponential
    lengths, T / R, and at most `max_tokens`; it is `max_tokens` before the first one has finished.
    Each response that is left is expected to take that many tokens more, begun or not, and all
    together at most N `max_tokens` - T. Where no tokens are counted, a step takes one. The rate is
    that of the latest half of the time.

    Args:
        total: steps, N; None: unknown.
        max_tokens: the length limit of a response.
        clock: seconds that have passed since some point in time.
    """

    def __init__(
        self,
        total: int | None,
        max_tokens: int | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.total, self._longest = total, max_tokens
        self._clock = clock or time.monotonic
        self.done = self.tokens = 0
        self._began = self._clock()
        self._seen: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])
        """When there were how many tokens and steps; the earliest opens the window of the rate."""

    def skip(self, steps: int) -> None:
        """Count what was done before the first call of `add`."""
        self.done += steps
        self._seen[0] = (self._began, self.tokens, self.done)

    def add(self, tokens: int, steps: int) -> None:
        """Count what was done since the last call."""
        self.tokens, self.done = self.tokens + tokens, self.done + steps
        now = self._clock()
        self._seen.append((now, self.tokens, self.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - (now - self._began) / 2:
            self._seen.popleft()

    @property
    def left(self) -> float | None:
        """Work that is left, in tokens where they are counted, else in steps; None: unknown."""
        if self.total is None:
            return None
        steps = max(0, self.total - self.done)
        if not self.tokens:
            return steps
        mean = self.tokens / self.done if self.done else float(self._longest or self.tokens)
        if self._longest is None:
            return steps * mean
        most = self.total * self._longest - self.tokens
        return max(0.0, min(steps * min(mean, self._longest), most))

    @property
    def share(self) -> float:
        """The share of the work that is done, in 0..1."""
        done, left = self.tokens or self.done, self.left
        return done / (done + left) if left is not None and done + left > 0 else 0.0

    @property
    def rate(self) -> float:
        """Tokens (or steps) a second, lately."""
        since, tokens, steps = self._seen[0]
        made = self.tokens - tokens if self.tokens else self.done - steps
        passed = self._clock() - since
        return made / passed if passed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end; None while nothing is known."""
        left, rate = self.left, self.rate
        return left / rate if left is not None and rate > 0 else None
