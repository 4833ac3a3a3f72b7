"""Grading: finding the answer in an attempt and deciding whether it is the gold answer.

`extract` finds the answer, `math` reads it into a type and compares it with the gold by rules, and
the graders join the two; `pool` runs graders of your own in worker processes. `docs/grading.md` has
the rules with examples.
"""

from collections.abc import Callable
from dataclasses import dataclass

from redraft.errors import UserError
from redraft.grading.answers import ChoiceGrader, ExactGrader, MathGrader, NumberGrader
from redraft.grading.comparison import Difference, compare_with_math_verify
from redraft.grading.extract import extract_answer
from redraft.grading.function import FunctionGrader
from redraft.grading.grader import (
    Grader,
    StagedGrader,
    grade_all,
    grade_attempt,
    is_whole,
    runs_programs,
)
from redraft.registry import Registry

__all__ = [
    "GRADERS",
    "ChoiceGrader",
    "Difference",
    "ExactGrader",
    "FunctionGrader",
    "Grader",
    "GraderEntry",
    "MathGrader",
    "NumberGrader",
    "StagedGrader",
    "compare_with_math_verify",
    "extract_answer",
    "grade_all",
    "grade_attempt",
    "is_whole",
    "named_grader",
    "runs_programs",
]


@dataclass(frozen=True)
class GraderEntry:
    """A grader with a name for `--grader`."""

    name: str
    summary: str
    make: Callable[[], StagedGrader]


GRADERS: Registry[GraderEntry] = Registry("grader", "redraft.graders")

OURS = [
    GraderEntry("exact", "the answer's text, but for case and spacing", ExactGrader),
    GraderEntry("number", "the answer as a number", NumberGrader),
    GraderEntry("math", "the answer as mathematics", MathGrader),
    GraderEntry("choice", "the letter of a multiple choice", ChoiceGrader),
]
"""What this package registers under `redraft.graders`."""


def named_grader(name: str, limit_s: float | None = None) -> StagedGrader:
    """The registered grader called `name`, or the user's `module:function`.

    `limit_s` bounds each verdict of a function of the user's (seconds; None: its default).

    Raises:
        UserError: no such grader, or a function that cannot be imported.
    """
    if ":" in name:
        function = FunctionGrader(name) if limit_s is None else FunctionGrader(name, limit_s)
        function.check()
        return function
    if name not in GRADERS:
        raise UserError(
            f"unknown grader {name!r}; expected {', '.join(GRADERS)} or module:function of your own"
        )
    return GRADERS[name].make()
