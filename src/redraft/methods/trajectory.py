"""Trajectories on disk, and what post-processing makes of them (arXiv 2310.13522, stage (b)).

A trajectory is an episode whose turns alternate: attempt, feedback, attempt, feedback, ... Its
`protocol` says what became of it (`tripost/edited`, `tripost/dropped/too_long`). For training it is
cut into segments, each a dialogue of its own:

    x_SI   problem, attempt, feedback, next attempt
    x_T    problem, right attempt, confirming feedback (or, of a trajectory that went backwards, its
           attempt with the first feedback)

which are balanced with each other and with gold solutions, confirmed likewise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from redraft.episode import Episode, Message, Problem, Turn
from redraft.methods.editing import OUT_OF_FORM, Fate

Kind = Literal["improve", "confirm", "gold"]
"""x_SI, x_T, or a gold solution with confirming feedback."""

_PREFIX = "tripost/"


def trajectory(
    problem: Problem,
    opening: Sequence[Message],
    turns: Sequence[Turn],
    fate: Fate,
    reason: str = "",
    policy: str = "",
    sample: int = 0,
) -> Episode:
    """A trajectory as it is written down."""
    label = f"{_PREFIX}{fate}/{reason}" if reason else f"{_PREFIX}{fate}"
    return Episode(
        problem=problem,
        messages=list(opening),
        turns=list(turns),
        protocol=label,
        policy=policy,
        sample=sample,
        window=3,
    )


def fate_of(episode: Episode) -> tuple[str, str]:
    """What became of a trajectory, and why."""
    fate, _, reason = episode.protocol.removeprefix(_PREFIX).partition("/")
    return fate, reason


@dataclass(frozen=True)
class Segment:
    """A piece that is learned from: attempt, feedback and, for x_SI, the next attempt.

    `edited`: the teacher had a part in its trajectory.
    """

    problem: Problem
    turns: tuple[Turn, ...]
    kind: Kind
    edited: bool = False

    @property
    def text(self) -> tuple[str, ...]:
        """What it says, but for white space around it; equal texts are one segment."""
        return (self.problem.question, *(turn.attempt.strip() for turn in self.turns))

    def weights(self, feedback_weight: float, train_attempt: bool) -> list[float]:
        """Loss weight of each turn: 1 for the attempt, `feedback_weight` from the feedback on.

        Gold solutions, and trajectories that the teacher had no part in, count 1 throughout.
        Without `train_attempt` a wrong attempt that feedback is about is context only.
        """
        later = feedback_weight if self.edited else 1.0
        first = 1.0 if train_attempt or self.turns[0].grade.correct else 0.0
        return [first, *[later] * (len(self.turns) - 1)]


def segments(episode: Episode) -> list[Segment]:
    """The segments of a trajectory that is learned from; none updates an attempt that was right."""
    (fate, reason), turns = fate_of(episode), episode.turns
    edited = fate != "kept"
    pieces = [tuple(turns[begin : begin + 3]) for begin in range(0, len(turns), 2)]
    if reason == OUT_OF_FORM:
        pieces = pieces[-1:]
    pieces = [piece for piece in pieces if len(piece) < 3 or not piece[0].grade.correct]
    return [
        Segment(episode.problem, piece, "improve" if len(piece) == 3 else "confirm", edited)
        for piece in pieces
    ]


def without_duplicates(found: Sequence[Segment]) -> list[Segment]:
    """The first of all segments that say the same."""
    first: dict[tuple[str, ...], Segment] = {}
    for segment in found:
        first.setdefault(segment.text, segment)
    return list(first.values())


def ratio_of(p: float) -> float:
    """r of x_SI : x_T : gold = r : 1 : 1 for a share p of x_SI: p = r / (r + 2), so 1.5 for 3/7."""
    return 2 * p / (1 - p) if p < 1 else math.inf


def balanced(
    found: Sequence[Segment],
    gold: Sequence[Segment],
    p: float,
    rng: np.random.Generator,
    most: int | None = None,
) -> list[Segment]:
    """Segments in the proportions x_SI : x_T : gold = r : 1 : 1.

    x_T is sampled down to ceil(n_SI / r), never up; gold that says something else is added up to
    the number of x_T. With `most` x_SI is first sampled down to so many that the whole has `most`
    segments. p = 0 takes no x_SI and leaves x_T as it is, p = 1 takes x_SI alone. Where there is no
    x_SI, because the policy was always right, x_T stays as it is too.

    Returns:
        Segments in the order of `found`, then gold.
    """
    improving = [segment for segment in found if segment.kind == "improve"]
    confirming = [segment for segment in found if segment.kind == "confirm"]
    if most is not None:
        improving = _sampled(improving, max(1, round(p * most)), rng)
        confirming = confirming if p and improving else _sampled(confirming, most // 2, rng)
    if p == 0:
        improving = []
    elif p == 1:
        confirming = []
    elif improving:
        confirming = _sampled(confirming, math.ceil(len(improving) / ratio_of(p)), rng)
    said = {segment.text for segment in confirming}
    other = [segment for segment in gold if segment.text not in said]
    return [*improving, *confirming, *_sampled(other, len(confirming), rng)]


def confirmed(problem: Problem, solution: Turn, confirmation: Turn) -> Segment:
    """A gold solution with confirming feedback."""
    return Segment(problem, (solution, confirmation), "gold")


def _sampled(found: Sequence[Segment], count: int, rng: np.random.Generator) -> list[Segment]:
    if count >= len(found):
        return list(found)
    chosen = rng.choice(len(found), size=count, replace=False)
    return [found[index] for index in sorted(chosen.tolist())]
