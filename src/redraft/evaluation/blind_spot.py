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
from redraft.evaluation.metrics import Array, Ratio, answers, grade_of
from redraft.evaluation.result import Result, Row
from redraft.evaluation.statistics import estimate, share_interval
from redraft.types import Episode, Problem, Turn, same_problem_groups

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
    own: Sequence[Episode], user: Sequence[Episode], wait: Sequence[Episode]
) -> Result:
    """Shares answered rightly and blind spots, with intervals over problems.

    The three lists have the same problems and samples, in the same order.
    """
    parts = {"own": own, "user": user, "wait": wait}
    right = {
        name: np.array([grade_of(answers(one)[-1]).correct for one in part], float)
        for name, part in parts.items()
    }
    metrics = {name: Ratio(values, np.ones(len(own))) for name, values in right.items()}
    result = estimate(own, metrics, BLIND_SPOT)
    groups = same_problem_groups(own)
    means = {name: np.array([x[group].mean() for group in groups]) for name, x in right.items()}
    for name, source in (("blind_spot", "own"), ("blind_spot_wait", "wait")):
        value = low = high = None
        if len(groups) > 1 and means["user"].any():
            value = 1 - float(means[source].mean() / means["user"].mean())
            low, high = (1 - bound for bound in ratio_interval(means[source], means["user"])[::-1])
        result.rows.append(Row(name, value, low, high, len(groups), BLIND_SPOT))
    return result


def ratio_interval(a: Array, b: Array) -> tuple[float, float]:
    """95 % interval of mean(a) / mean(b), two shares by problem [P] of the same problems, b not 0.

    Made of Wilson's limits of both shares and their correlation r (MOVER-R: Donner and Zou,
    Statistical Methods in Medical Research 21, 2012, 347-359). With limits l and u of p and q,

        high = (x + √(x² - u_p l_q (2p - u_p) (2q - l_q))) / (l_q (2q - l_q))
        x = p q - r (u_p - p) (q - l_q)

    and the low end with l and u exchanged and - for +, written so that nothing is divided by 0.
    """
    one = np.ones(len(a))
    (low_p, high_p), (low_q, high_q) = share_interval(a, one), share_interval(b, one)
    p, q, spread = float(a.mean()), float(b.mean()), float(a.std() * b.std())
    r = float(((a - p) * (b - q)).mean()) / spread if spread > 0 else 0.0

    def parts(near: float, far: float) -> tuple[float, float, float, float]:
        x = p * q - r * (p - near) * (far - q)
        above, below = near * (2 * p - near), far * (2 * q - far)
        return x, above, below, max(0.0, x**2 - above * below) ** 0.5

    x, above, below, root = parts(low_p, high_q)
    low = above / (x + root) if above > 0 else 0.0
    x, above, below, root = parts(high_p, low_q)
    return low, (x + root) / below
