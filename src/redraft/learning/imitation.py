"""Imitation: which responses of an episode are worth copying, and how much.

Reward-weighted regression as in RISE (arXiv 2407.18219): every response y_t in state s_t adds
w_t · (-log π(y_t | s_t)) to the loss, with w_t = exp(r_t / τ). A response of weight 0 is context
only. Filtered imitation (STaR, best-of-N and the like) is the case of weights 0 and 1.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
from pydantic import model_validator

from redraft.learning.rows import TrainingRow, sequences
from redraft.types import Episode, Record, Turn

Criterion = Literal["all", "better", "best", "success"]


class Example(Record):
    """An episode to learn from: `weights` says how much of each response, 0 for context only."""

    episode: Episode
    weights: list[float]

    @model_validator(mode="after")
    def _one_weight_per_response(self) -> "Example":
        count = len(self.episode.responses)
        if len(self.weights) != count:
            raise ValueError(f"{len(self.weights)} weights for {count} responses")
        return self


@dataclass
class Chosen:
    """What an iteration learns from, and what it does not: `counts` says how much and why."""

    examples: list[Example]
    counts: dict[str, float] = field(default_factory=dict)


def rewards(episode: Episode, unparsable: float = 0.0) -> list[float]:
    """Reward of each answer: its score, or `unparsable` where the grader found none to compare.
    A grader that gives a bare score has found one.

    RISE's code gives -1 to unparsable answers on GSM8K and 0 on MATH.
    """
    return [
        unparsable if grade.answer is None and grade.status != "graded" else grade.score
        for grade in episode.grades
    ]


def weigh(
    rewards: Sequence[Sequence[float]], temperature: float, *, centred: bool = False
) -> list[list[float]]:
    """exp(r/τ) of every answer of one problem, arXiv 2407.18219, Eq. 3.6.

    Args:
        rewards: by episode and answer, all episodes of one problem.
        temperature: τ.
        centred: subtract the mean over all the problem's answers, as section 3.2 of the paper does
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
    """Which answers of an episode are learned from, by RISE's rules.

    `all`; `better`: a higher reward than the answer before; `best`: no lower one than any answer
    before; `success`: reward 1. The first answer is always taken, except under `success`.
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
    """Why a response is unfit to be imitated; None if it is fit.

    `empty`, `truncated`, `repetitive` (a word more than 150 times) or `unbroken` (more than 300
    characters without white space): the sampling rules of RISE's code, and the length limit.
    """
    text = turn.text
    words = text.split()
    if not words:
        return "empty"
    if turn.truncated:
        return "truncated"
    if len(words) > 150 and max(np.unique(words, return_counts=True)[1]) > 150:
        return "repetitive"
    return "unbroken" if re.search(r"\S{301}", text) else None


def without_duplicates(episode: Episode) -> list[bool]:
    """Which responses say something that no earlier one of the episode said, to the letter."""
    texts = [turn.text for turn in episode.responses]
    return [text not in texts[:place] for place, text in enumerate(texts)]


def to_rows(examples: Iterable[Example]) -> list[TrainingRow]:
    """Training rows: cross-entropy on every response with a weight, on nothing else.

    An episode that is one sequence is one row, whatever number of its responses is learned from;
    one whose responses were written in several sequences has a row for each of those with a weight
    in it. Whether tokens or responses count alike is the learner's `loss_mean`.

    Args:
        examples: with token ids in every turn.
    """
    return [row for example in examples for row in _rows(example)]


def _rows(example: Example) -> Iterator[TrainingRow]:
    episode = example.episode
    places = [index for index, turn in enumerate(episode.turns) if turn.author != "environment"]
    weights = dict(zip(places, example.weights, strict=True))
    number = {place: n for n, place in enumerate(places, start=1)}
    for prompt, turns in sequences(episode):
        if not any(weights[index] for index, written in turns if written):
            continue
        tokens, turn, weight = list(prompt), [0] * len(prompt), [0.0] * len(prompt)
        for index, written in turns:
            made = episode.turns[index]
            tokens += made.tokens
            sampled = [0] * made.given + [int(written)] * (len(made.tokens) - made.given)
            turn += [on * number.get(index, 0) for on in sampled]
            weight += [on * weights.get(index, 0.0) for on in sampled]
        yield TrainingRow(tokens, turn=turn, loss_weight=weight)
