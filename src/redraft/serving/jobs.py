"""Requests on their way from the server's thread to the model's, and what they are told back."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from redraft.engines.base import Sampling
from redraft.evaluation.strategies import Trial
from redraft.serving.fields import RefusedError
from redraft.types import Problem


@dataclass(frozen=True)
class Wrote:
    """More text of a sample."""

    sample: int
    text: str


Event = Wrote | Trial | RefusedError
"""What a request is told: text as it is written, then what it came to."""


@dataclass(eq=False)
class Job:
    """One request. Made in the server's thread, within its loop."""

    problem: Problem
    task: str
    sampling: Sampling
    deadline: float
    """When it is given up, by the loop's clock."""
    streams: bool
    """Whether it wants to be told text as it is written."""
    wanted: bool = True
    """Whether anybody waits for it; the server says so, and the model's thread heeds it."""
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    _written: dict[int, str] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def tell(self, event: Event) -> None:
        """Say something, from any thread."""
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def follow(self, sample: int, read: Callable[[], str]) -> bool:
        """Tell what is new of a sample; returns whether it is still wanted."""
        if self.wanted and self.streams:
            before, text = self._written.get(sample, ""), read()
            if len(text) > len(before) and text.startswith(before):
                self._written[sample] = text
                self.tell(Wrote(sample, text[len(before) :]))
        return self.wanted


class Jobs:
    """The requests that wait."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()

    def add(self, job: Job) -> None:
        """Let a request wait."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def take(self, most: int, seconds: float) -> list[Job]:
        """The request that waits longest, and of the others those that can be answered with it: of
        the same task, sampled alike, and not the same question under the same seed.

        Waits `seconds` for one; returns none then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, seconds)
            live = [job for job in self._waiting if job.wanted]
            taken: dict[str, Job] = {}
            for job in live:
                first = next(iter(taken.values()), job)
                alike = (job.task, job.sampling) == (first.task, first.sampling)
                if alike and len(taken) < most:
                    taken.setdefault(job.problem.id, job)
            chosen = set(taken.values())
            self._waiting = deque(job for job in live if job not in chosen)
            return list(taken.values())

    def refuse(self, refusal: RefusedError, others: Sequence[Job] = ()) -> None:
        """Refuse all that wait, and `others`."""
        with self._changed:
            for job in (*self._waiting, *others):
                job.tell(refusal)
            self._waiting.clear()
