"""Random training rows, and the gradient a learner's step is about to apply."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from redraft.learning.learner import Learner
from redraft.learning.pairs import Completion, PreferencePair
from redraft.learning.rows import TrainingRow

VOCABULARY = 24


def two_turn_rows(count: int, *, seed: int = 0, shortest: int = 6) -> list[TrainingRow]:
    """Rows of 6 to 20 tokens with two attempts, every stream in use; one in four is imitated."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(random.integers(shortest, 21))
        turn = np.zeros(length, dtype=np.int64)
        turn[2 : length // 2] = 1
        turn[length // 2 + 1 :] = 2
        tokens = random.integers(VOCABULARY, size=length)
        if index % 4 == 3:
            rows.append(TrainingRow(tokens, turn, loss_weight=random.random(length) * (turn > 0)))
            continue
        rows.append(
            TrainingRow(
                tokens,
                turn,
                advantage=random.normal(size=length) * (turn > 0),
                kl_weight=np.where(turn == 1, 0.3, 0.1) * (turn > 0),
                old_logprob=np.log(random.uniform(0.02, 0.08, length)) * (turn > 0),
            )
        )
    return rows


def completion(tokens: Sequence[int], **fields: Any) -> Completion:
    """A completion of these tokens."""
    return Completion(tokens=list(tokens), **fields)


def pair(prompt: Sequence[int], chosen: Any, rejected: Any) -> PreferencePair:
    """A preference pair of completions, or of their tokens."""
    sides = [one if isinstance(one, Completion) else completion(one) for one in (chosen, rejected)]
    return PreferencePair(prompt=list(prompt), chosen=sides[0], rejected=sides[1])


def preference_pairs(count: int, *, seed: int = 0) -> list[PreferencePair]:
    """Pairs of completions of 1 to 8 tokens, two pairs to a prompt; some tokens are masked out."""
    random = np.random.default_rng(seed)
    pairs: list[PreferencePair] = []
    for index in range(count):
        prompt = random.integers(VOCABULARY, size=random.integers(1, 7)).tolist()
        if index % 2:
            prompt = pairs[-1].prompt
        sides = []
        for _ in range(2):
            tokens = random.integers(VOCABULARY, size=random.integers(1, 9))
            mask = random.random(len(tokens)) < 0.8
            mask[-1] = True
            sides.append(completion(tokens.tolist(), mask=mask.tolist()))
        if sides[0].tokens == sides[1].tokens:
            sides[1] = completion([*sides[1].tokens, 1])
        pairs.append(pair(prompt, *sides))
    return pairs


def step_and_gradient(
    learner: Learner, rows: list[TrainingRow]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Take a step; return its metrics and the gradient of every trained parameter."""
    return with_gradient(learner, lambda: learner.step(rows))


def with_gradient(
    learner: Learner, step: Callable[[], dict[str, float]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics of any step of the learner, and the gradient of every trained parameter."""
    gradient: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        for name, parameter in learner.model.named_parameters():
            if parameter.grad is not None:
                gradient[name] = parameter.grad.clone()

    handle = register_optimizer_step_pre_hook(keep)
    try:
        metrics = step()
    finally:
        handle.remove()
    return metrics, gradient
