"""How solutions to the BIG-Bench Hard tasks are read step by step (arXiv 2310.13522)."""

import re
from collections.abc import Sequence

from redraft.tasks.bbh.steps import (
    arithmetic,
    arithmetic_rationale,
    sorting,
    sorting_rationale,
)
from redraft.tasks.steps import Script, StepFormat
from redraft.types import Problem

ARITHMETIC_SCRIPT = Script(
    arithmetic_rationale.rationale, arithmetic.check, arithmetic_rationale.improve
)
SORTING_SCRIPT = Script(sorting_rationale.rationale, sorting.check, sorting_rationale.improve)

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _number_was_computed(problem: Problem, steps: Sequence[str]) -> bool:
    """The final number is the result of the last calculation before it."""
    calculated = [line for line in steps[:-1] if "=" in line]
    answer = _NUMBER.findall(steps[-1].replace("−", "-"))
    if not answer or not calculated:
        return True
    results = _NUMBER.findall(calculated[-1].rpartition("=")[2].replace("−", "-"))
    return any(float(answer[-1]) == float(result) for result in results)


def _order_is_known(problem: Problem, steps: Sequence[str]) -> bool:
    """What the steps end with has no "?" in it."""
    return not any("?" in line for line in steps[-2:])


ARITHMETIC = StepFormat(
    "multistep_arithmetic",
    consistent=_number_was_computed,
    script=f"{__name__}:ARITHMETIC_SCRIPT",
)
SORTING = StepFormat(
    "word_sorting",
    consistent=_order_is_known,
    span_may_move=True,
    script=f"{__name__}:SORTING_SCRIPT",
)
DATES = StepFormat("date_understanding", longest=200)
DEDUCTION = StepFormat("logical_deduction", longest=900)
