"""The step checkers by name, and verdicts with a time limit.

A checker reads hostile text, so each verdict is a call to a worker process: one that takes too long
or fails marks its solution unreadable and harms no other.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from typing import Any

from redraft.errors import UserError
from redraft.grading.pool import Reply, shared_pool
from redraft.grading.steps.base import StepChecker, StepVerdict

LIMIT_S = 10.0
"""Seconds for one solution."""

PREFIX = "bbh/"

_CHECKERS = {
    "multistep_arithmetic": ("redraft.grading.steps.arithmetic", "ArithmeticChecker"),
    "word_sorting": ("redraft.grading.steps.sorting", "SortingChecker"),
}
_TARGET = "redraft.grading.steps.located:check_plain"


def checked_tasks() -> list[str]:
    """The tasks whose solutions can be checked step by step."""
    return [PREFIX + name for name in _CHECKERS]


@cache
def step_checker(task: str) -> StepChecker:
    """The checker for a task, named with or without `bbh/`.

    Raises:
        UserError: there is none.
    """
    name = task.removeprefix(PREFIX)
    if name not in _CHECKERS:
        known = ", ".join(checked_tasks())
        raise UserError(f"no step checker for task {task!r}; expected one of: {known}")
    module, checker = _CHECKERS[name]
    made: StepChecker = getattr(import_module(module), checker)()
    return made


def check_plain(task: str, question: str, steps: Sequence[str]) -> dict[str, Any]:
    """A verdict as JSON; what a worker process runs."""
    return asdict(step_checker(task).check(question, steps))


def check_all(task: str, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[StepVerdict]:
    """Verdicts on many solutions, each a question and its steps, in worker processes.

    A solution whose checker raises or takes more than `LIMIT_S` seconds is unreadable.

    Raises:
        UserError: the task has no checker.
    """
    step_checker(task)
    calls = [(task, question, list(steps)) for question, steps in solutions]
    return [verdict_of(reply) for reply in shared_pool(_TARGET, LIMIT_S).call_all(calls)]


def verdict_of(reply: Reply) -> StepVerdict:
    """What a worker's reply says; no verdict but "unreadable" where the check did not end well."""
    if reply.status == "ok":
        return StepVerdict(**reply.value)
    if reply.status == "timeout":
        return StepVerdict(readable=False, reason=f"the check took more than {LIMIT_S:.0f} s")
    return StepVerdict(readable=False, reason=f"the check failed ({reply.error})")
