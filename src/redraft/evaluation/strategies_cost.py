"""What a vote gets for what a strategy costs.

The vote is over the first samples of each problem, as many as cost the same on average over the
problems: one number of samples for all, so that no problem's samples are chosen by their length.
Where that number is no whole one, the vote is one of the two next to it, by lot; what is given is
what to expect of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redraft.evaluation.metrics import Array
from redraft.evaluation.strategies import total, vote_of
from redraft.evaluation.strategies_play import Attempt


@dataclass(frozen=True)
class Peer:
    """A vote at a given cost.

    `right` is by problem how likely the vote is right, [P]; the others are means over problems.
    """

    right: Array
    samples: float
    tokens: float
    executions: float


def vote_at_cost(
    pools: Sequence[Sequence[Attempt]], tokens: float, executions: float = np.inf
) -> Peer | None:
    """A vote over samples that cost `tokens` and `executions` a problem, or all that there are.

    Args:
        pools: the samples of each problem, in the order they were drawn.
        tokens: generated tokens a problem, on average; NaN where they are not counted.
        executions: runs of programs a problem, on average.

    Returns:
        None where tokens are not counted, or where the cost does not pay for one sample of each
        problem: a vote without votes means nothing.
    """
    size = max(map(len, pools), default=0)
    known = not np.isnan([tokens, *(total([a.tokens for a in pool]) for pool in pools)]).any()
    if not (size and known):
        return None
    spent = _mean_cost([[attempt.tokens for attempt in pool] for pool in pools], size)
    runs = _mean_cost([[attempt.executions for attempt in pool] for pool in pools], size)
    numbers = np.arange(size + 1.0)
    samples = float(np.interp(tokens, spent, numbers))
    if runs[-1] > executions:
        samples = min(samples, float(np.interp(executions, runs, numbers)))
    if samples < 1:
        return None
    low = int(samples)
    right = _right(pools, low)
    if samples > low:
        right += (samples - low) * (_right(pools, low + 1) - right)
    cost = [float(np.interp(samples, numbers, column)) for column in (spent, runs)]
    return Peer(right, samples, *cost)


def _mean_cost(costs: Sequence[Sequence[int]], size: int) -> Array:
    """Of the first 0, 1, ... `size` samples of a problem, on average; [size + 1]."""
    padded = np.array([[0, *own, *[0] * (size - len(own))] for own in costs], dtype=np.float64)
    return np.asarray(padded.cumsum(axis=1).mean(axis=0))


def _right(pools: Sequence[Sequence[Attempt]], count: int) -> Array:
    votes = [vote_of(pool[:count]) for pool in pools]
    return np.array([float(vote is not None and vote.correct) for vote in votes])
