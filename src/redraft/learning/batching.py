"""From rows of any length to padded micro-batches of bounded size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from redraft.learning.rows import BoolArray, FloatArray, TrainingRow

BLANK = TrainingRow(tokens=[0, 0], turn=[0, 0])
"""A row that teaches nothing: what a process computes on when its own rows have run out, so that
all processes run as many forward and backward passes as collective operations demand."""


@dataclass(frozen=True)
class MicroBatch:
    """Padded tokens [batch, time], and one entry per chosen token in all other tensors, [chosen].

    `positions` points at the hidden state, in the flattened [batch · time], that predicts the
    token. `sampled` says where `old_logprob` is given, `anchored` where `ref_logprob` is.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    turn: Tensor
    loss_weight: Tensor
    advantage: Tensor
    kl_weight: Tensor
    old_logprob: Tensor
    ref_logprob: Tensor
    reinforced: Tensor
    sampled: Tensor
    anchored: Tensor

    def to(self, device: torch.device) -> Self:
        """The same micro-batch on another device."""
        if device.type == "cpu":
            return self
        return type(self)(
            **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        )


def split(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows, grouped so that rows × longest row stays within `budget` padded tokens.

    Rows of like length share a group (longest first), which keeps padding low; a row longer than
    the budget gets a group of its own.
    """
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def collate(rows: Sequence[TrainingRow], chosen: Sequence[BoolArray]) -> MicroBatch:
    """Pad rows on the right and gather the streams of their chosen tokens.

    Args:
        rows: the rows of one micro-batch.
        chosen: for each row which of its tokens to score, shape [time]; never the first.
            Where no token is chosen at all, one is scored with no weight, so that every
            parameter takes part in the backward pass.
    """
    width = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row.tokens
    picks = [np.flatnonzero(mask) for mask in chosen]
    idle = not any(len(pick) for pick in picks)
    if idle:
        picks[0] = np.array([1])

    def gather(name: str) -> Tensor:
        return torch.from_numpy(
            np.concatenate(
                [_stream(row, name)[pick] for row, pick in zip(rows, picks, strict=True)]
            )
        )

    def given(name: str) -> Tensor:
        return torch.from_numpy(
            np.concatenate(
                [
                    np.full(len(pick), getattr(row, name) is not None)
                    for row, pick in zip(rows, picks, strict=True)
                ]
            )
        )

    positions = np.concatenate([pick - 1 + i * width for i, pick in enumerate(picks)])
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        targets=gather("tokens"),
        turn=gather("turn"),
        loss_weight=gather("loss_weight"),
        advantage=gather("advantage"),
        kl_weight=gather("kl_weight"),
        old_logprob=gather("old_logprob"),
        ref_logprob=gather("ref_logprob"),
        reinforced=gather("reinforced"),
        sampled=given("old_logprob"),
        anchored=given("ref_logprob"),
    )


def microbatch(
    rows: Sequence[TrainingRow],
    select: Callable[[TrainingRow], BoolArray],
    device: torch.device,
) -> MicroBatch:
    """`collate` the tokens that `select` picks of each row; of a blank row where there are none."""
    members = rows or [BLANK]
    return collate(members, [select(row) for row in members]).to(device)


def _stream(row: TrainingRow, name: str) -> FloatArray:
    values = getattr(row, name)
    return np.zeros(len(row), dtype=np.float32) if values is None else values
