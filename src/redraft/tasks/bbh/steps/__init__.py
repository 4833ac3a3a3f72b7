"""Scripts that solve arithmetic and word-sorting problems step by step and find wrong steps."""

from typing import NamedTuple

from redraft.tasks.steps import StepVerdict


class Token(NamedTuple):
    """A piece of a step: `text` is its plain form."""

    kind: str
    text: str
    start: int
    end: int


class WrongStepError(Exception):
    """A check failed: `verdict` says where and why."""

    def __init__(self, check: str, step: int, span: str, reason: str) -> None:
        self.verdict = StepVerdict(step, span.strip(), reason, check)
