"""Whole steps of a training run, timed by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psutil

import redraft.chat.rollout
from redraft.learning.rows import TrainingRow
from redraft.methods.score import ScoreConfig
from redraft.progress import Silent
from redraft.training.launch import RUNS
from redraft.training.method import METHODS
from redraft.types import Episode


@dataclass
class Step:
    """What this process did in a step.

    Attributes:
        seconds: of the whole step.
        parts: seconds of `rollout` with grading, of `grading`, of `reference` and of `update`.
        sampled: response tokens.
        lengths: tokens of each row that was learned from.
        written: bytes, to files and to other processes.
        loss: of all processes.
    """

    seconds: float
    parts: dict[str, float]
    sampled: int
    lengths: list[int]
    written: int
    loss: float


def timed_steps(config: ScoreConfig, clock: Callable[[], float]) -> tuple[list[Step], Any]:
    """The steps of a SCoRe run, which is trained to its last step, and the run. `clock` reads
    seconds. The first step also counts what comes before it."""
    method, steps, parts = METHODS["score"], list[Step](), dict[str, float]()
    begun, written = clock(), _written()
    run: Any = RUNS[method.run].create(config, "train score", Silent())
    run_timed, run_learn, grade_all = run.timed, run.learn, redraft.chat.rollout.grade_all

    def took(part: str, work: Callable[[], Any]) -> Any:
        started = clock()
        result = work()
        parts[part] = parts.get(part, 0.0) + clock() - started
        return result

    def learn(rows: Sequence[TrainingRow], episodes: Sequence[Episode], *more: Any) -> Any:
        nonlocal begun, written
        metrics = run_learn(rows, episodes, *more)
        now, bytes_now = clock(), _written()
        sampled = sum(turn.generated for episode in episodes for turn in episode.responses)
        lengths = [len(row) for row in rows]
        done = bytes_now - written
        steps.append(Step(now - begun, dict(parts), sampled, lengths, done, metrics["loss"]))
        parts.clear()
        begun, written = now, bytes_now
        return metrics

    run.timed = lambda part, work: took(part, lambda: run_timed(part, work))
    run.learn = learn
    with patch.object(
        redraft.chat.rollout, "grade_all", lambda *a: took("grading", lambda: grade_all(*a))
    ):
        method.train(run)
    return steps, run


def _written() -> int:
    return int(psutil.Process().io_counters().write_chars)
