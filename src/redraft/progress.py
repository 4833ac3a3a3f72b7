"""Progress reporting, independent of what shows it, and the estimate of the time that is left."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Longer:
    """Every `every`-th step takes longer, as one with an evaluation does; by `share` of the time of
    another until the first has been seen."""

    every: int
    share: float


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
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
    ) -> AbstractContextManager[Phase]:
        """Begin a stretch of `total` steps (None: unknown); it ends with the `with` block.

        `max_tokens` is the length limit of a response where the steps are responses; `longer` says
        which steps take longer than others.
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
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
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
    together at most N `max_tokens` - T. Where no tokens are counted, a step is one unit of work and
    a longer one more, as its time was to that of the steps before it. The rate is that of the
    latest half of the time.

    Args:
        total: steps, N; None: unknown.
        max_tokens: the length limit of a response.
        longer: which steps take longer, counted with those skipped.
        clock: seconds that have passed since some point in time.
    """

    def __init__(
        self,
        total: int | None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.total, self._longest, self._longer = total, max_tokens, longer
        self._clock = clock or time.monotonic
        self.done = self.tokens = self._skipped = 0
        self._began = self._clock()
        self._seen: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])
        """When there were how many tokens and steps; the earliest opens the window of the rate."""
        self._plain: list[float] = []
        """Seconds of each step since the latest longer one."""
        self._shares: list[float] = []
        """By how much each longer step took longer than those before it."""

    def skip(self, steps: int) -> None:
        """Count steps that took no time: they were done before, or are not needed."""
        self.done, self._skipped = self.done + steps, self._skipped + steps
        self._seen = deque((when, tokens, done + steps) for when, tokens, done in self._seen)

    def add(self, tokens: int, steps: int) -> None:
        """Count what was done since the last call."""
        self.tokens, self.done = self.tokens + tokens, self.done + steps
        now = self._clock()
        if self._longer is not None and steps == 1:
            self._compare(self._longer, now - self._seen[-1][0])
        self._seen.append((now, self.tokens, self.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - (now - self._began) / 2:
            self._seen.popleft()

    def _compare(self, longer: Longer, seconds: float) -> None:
        """Count the seconds of the step that is done."""
        if self.done % longer.every:
            self._plain.append(seconds)
        elif mean := sum(self._plain) / max(1, len(self._plain)):
            self._shares.append(max(0.0, seconds / mean - 1))
            self._plain = []

    def _units(self, steps: int) -> float:
        """The work of the first so many steps."""
        if self._longer is None:
            return steps
        known = self._shares
        share = sum(known) / len(known) if known else self._longer.share
        return steps + share * (steps // self._longer.every)

    @property
    def left(self) -> float | None:
        """Work that is left: tokens where they are counted, else units; None: unknown."""
        if self.total is None:
            return None
        steps = max(0, self.total - self.done)
        if not self.tokens:
            return self._units(max(self.total, self.done)) - self._units(self.done)
        ended = self.done - self._skipped
        mean = self.tokens / ended if ended else float(self._longest or self.tokens)
        if self._longest is None:
            return steps * mean
        most = (self.total - self._skipped) * self._longest - self.tokens
        return max(0.0, min(steps * min(mean, self._longest), most))

    @property
    def share(self) -> float:
        """The share of the work that is done, in 0..1."""
        done, left = self.tokens or self._units(self.done), self.left
        return done / (done + left) if left is not None and done + left > 0 else 0.0

    @property
    def rate(self) -> float:
        """Tokens (or units) a second, lately."""
        since, tokens, steps = self._seen[0]
        made = self.tokens - tokens if self.tokens else self._units(self.done) - self._units(steps)
        passed = self._seen[-1][0] - since
        return made / passed if passed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end; None while nothing is known."""
        left, rate = self.left, self.rate
        if left is None or rate <= 0:
            return None
        step = self.tokens / max(1, self.done - self._skipped) if self.tokens else 1.0
        begun = (self._clock() - self._seen[-1][0]) * rate  # of the step that is under way
        return (left - min(begun, step, left)) / rate
