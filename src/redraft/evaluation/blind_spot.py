"""The blind spot: a model's own error against the same error in the user's message (arXiv
2507.02778).

A wrong solution stands once at the beginning of the model's response, which it continues, and once
behind the question, in the user's message. With c the share of problems that are answered rightly,

    blind spot = (c_user - c_own) / c_user

and the same with c_wait, where the model's response goes on after the word "Wait".
"""

from collections.abc import Sequence

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import Ratio, answers, grade_of
from redraft.evaluation.result import Result
from redraft.evaluation.statistics import estimate
from redraft.types import Episode, Problem, Turn

BLIND_SPOT = ("blind_spot",)
"""The group of these numbers."""


def wrong_solution(problem: Problem) -> str:
    """The wrong solution in a problem's metadata.

    Raises:
        UserError: it has none.
    """
    wrong = problem.metadata.get("wrong")
    if isinstance(wrong, str) and wrong.strip():
        return wrong
    raise UserError(
        f"problem {problem.id} has no wrong solution to be corrected; --protocol blind-spot takes "
        "--task blind-spot, or rows with a text in the field `wrong`"
    )


def own_error(problem: Problem) -> list[Turn]:
    """The wrong solution as the beginning of the model's response."""
    return [Turn(author="teacher", text=wrong_solution(problem))]


def user_error(problem: Problem) -> Problem:
    """The problem with the wrong solution behind its question."""
    return problem.model_copy(update={"question": f"{problem.question} {wrong_solution(problem)}"})


def summarise_blind_spot(
    own: Sequence[Episode], user: Sequence[Episode], wait: Sequence[Episode], seed: int = 0
) -> Result:
    """Shares answered rightly and blind spots, with intervals over problems.

    The three lists have the same problems and samples, in the same order.
    """
    parts = {"own": own, "user": user, "wait": wait}
    right = {
        name: np.array([grade_of(answers(one)[-1]).correct for one in part], float)
        for name, part in parts.items()
    }
    every = np.ones(len(own))
    metrics = {name: Ratio(values, every) for name, values in right.items()}
    metrics["blind_spot"] = Ratio(right["user"] - right["own"], right["user"])
    metrics["blind_spot_wait"] = Ratio(right["user"] - right["wait"], right["user"])
    return estimate(own, metrics, seed, BLIND_SPOT)
