"""Grading: finding the answer in an attempt and deciding whether it is the gold answer.

`extract` finds the answer, `equality` compares in layers (normalised string, exact number,
math-verify), `pool` bounds what is slow in worker processes, and the graders join the three.
`docs/grading.md` has the rules with examples. Importing this package is cheap: sympy and
math-verify are loaded in worker processes alone.
"""

from redraft.errors import UserError
from redraft.grading.answers import ChoiceGrader, ExactGrader, MathGrader, NumberGrader
from redraft.grading.extract import extract_answer
from redraft.grading.function import FunctionGrader
from redraft.grading.grader import (
    Grader,
    StagedGrader,
    grade_all,
    grade_attempt,
    runs_programs,
    why_undecided,
)

__all__ = [
    "ChoiceGrader",
    "ExactGrader",
    "FunctionGrader",
    "Grader",
    "MathGrader",
    "NumberGrader",
    "StagedGrader",
    "extract_answer",
    "grade_all",
    "grade_attempt",
    "named_grader",
    "runs_programs",
    "why_undecided",
]

GRADERS = ("exact", "number", "math", "choice")
"""Names that `named_grader` knows."""


def named_grader(name: str, limit_s: float | None = None) -> StagedGrader:
    """The grader called `exact`, `number`, `math` or `choice`, or the user's `module:function`.

    `limit_s` bounds each verdict that needs a worker process (seconds; None: the grader's own).

    Raises:
        UserError: no such grader, or a function that cannot be imported.
    """
    if name == "exact":
        return ExactGrader()
    if name == "number":
        return NumberGrader()
    if name == "math":
        return MathGrader() if limit_s is None else MathGrader(limit_s)
    if name == "choice":
        return ChoiceGrader()
    if ":" in name:
        function = FunctionGrader(name) if limit_s is None else FunctionGrader(name, limit_s)
        function.check()
        return function
    raise UserError(
        f"unknown grader {name!r}; expected {', '.join(GRADERS)} or module:function of your own"
    )
