"""Credit by imitation: which attempts of an episode are worth copying, and how much.

Reward-weighted regression as in RISE (arXiv 2407.18219): every attempt y_t made in state s_t adds
w_t · (-log π(y_t | s_t)) to the loss, with w_t = exp(r_t / τ). An attempt of weight 0 is context
only. Filtered imitation (STaR, best-of-N and the like) is the case of weights 0 and 1.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal

import numpy as np
from pydantic import model_validator

from redraft.episode import Episode, Record, Turn
from redraft.learning.streams import TokenStreams

Criterion = Literal["all", "better", "best", "success"]


class Example(Record):
    """An episode to learn from: `weights` says how much of each attempt, 0 for context only."""

    episode: Episode
    weights: list[float]

    @model_validator(mode="after")
    def _one_weight_per_attempt(self) -> "Example":
        if len(self.weights) != len(self.episode.turns):
            raise ValueError(f"{len(self.weights)} weights for {len(self.episode.turns)} attempts")
        return self


def rewards(episode: Episode, unparsable: float = 0.0) -> list[float]:
    """Reward of each attempt: 1 right, 0 wrong, `unparsable` where no answer was found.

    RISE's code gives -1 to unparsable answers on GSM8K and 0 on MATH.
    """
    return [
        1.0 if turn.grade.correct else unparsable if turn.grade.answer is None else 0.0
        for turn in episode.turns
    ]


def weigh(
    rewards: Sequence[Sequence[float]], temperature: float, *, centred: bool = False
) -> list[list[float]]:
    """exp(r/τ) of every attempt of one problem, arXiv 2407.18219, Eq. 3.6.

    Args:
        rewards: by episode and attempt, all episodes of one problem.
        temperature: τ.
        centred: subtract the mean over all the problem's attempts, as section 3.2 of the paper does
            and its code does not. What falls below 0 becomes 0: imitation has no way to unlearn.

    Returns:
        Weights in the shape of `rewards`.
    """
    weights = [[math.exp(r / temperature) for r in episode] for episode in rewards]
    if not centred:
        return weights
    mean = float(np.mean(list(chain.from_iterable(weights))))
    return [
        # A mean of equal numbers may be an ulp below them; that is nothing to learn from.
        [0.0 if weight <= mean * (1 + 1e-12) else weight - mean for weight in episode]
        for episode in weights
    ]


def accepted(rewards: Sequence[float], criterion: Criterion) -> list[bool]:
    """Which attempts of an episode are learned from, by RISE's rules.

    `all`; `better`: a higher reward than the attempt before; `best`: no lower one than any attempt
    before; `success`: reward 1. The first attempt is always taken, except under `success`.
    """
    if criterion == "success":
        return [reward >= 1 for reward in rewards]
    kept = [True]
    for index in range(1, len(rewards)):
        bar = rewards[index - 1] if criterion == "better" else max(rewards[:index])
        better = rewards[index] > bar if criterion == "better" else rewards[index] >= bar
        kept.append(criterion == "all" or better)
    return kept


def defect(turn: Turn) -> str | None:
    """Why an attempt is unfit to be imitated; None if it is fit.

    `empty`, `truncated`, `repetitive` (a word more than 150 times) or `unbroken` (more than 300
    characters without white space): the sampling rules of RISE's code, and the length limit.
    """
    text = turn.attempt
    words = text.split()
    if not words:
        return "empty"
    if turn.truncated:
        return "truncated"
    if len(words) > 150 and max(np.unique(words, return_counts=True)[1]) > 150:
        return "repetitive"
    return "unbroken" if re.search(r"\S{301}", text) else None


def without_duplicates(episode: Episode) -> list[bool]:
    """Which attempts say something that no earlier attempt of the episode said, to the letter."""
    seen: set[str] = set()
    fresh = []
    for turn in episode.turns:
        fresh.append(turn.attempt not in seen)
        seen.add(turn.attempt)
    return fresh


def to_rows(examples: Iterable[Example]) -> list[TokenStreams]:
    """Training rows: cross-entropy on every attempt with a weight, on nothing else.

    An episode that is one sequence is one row, whatever number of its attempts is learned from. An
    episode with a window is a row for each of those attempts, because each was made in a sequence
    of its own. Whether tokens or attempts count alike is the learner's `loss_mean`.

    Args:
        examples: with token ids in every turn.
    """
    return [row for example in examples for row in _rows(example)]


def _rows(example: Example) -> list[TokenStreams]:
    pairs = list(zip(example.episode.turns, example.weights, strict=True))
    if example.episode.window is None:
        return [_row(pairs)] if any(example.weights) else []
    return [_row([pair]) for pair in pairs if pair[1]]


def _row(pairs: Sequence[tuple[Turn, float]]) -> TokenStreams:
    tokens: list[int] = []
    number: list[int] = []
    weights: list[float] = []
    for index, (turn, weight) in enumerate(pairs, start=1):
        shown, made = len(turn.prompt_tokens), len(turn.attempt_tokens)
        tokens += [*turn.prompt_tokens, *turn.attempt_tokens]
        number += [0] * shown + [index] * made
        weights += [0.0] * shown + [weight] * made
    return TokenStreams(tokens, turn=number, loss_weight=weights)
