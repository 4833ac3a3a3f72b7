"""Signs that a step has little to teach, or teaches something wrong, in words for the user."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

WIDE_GAP = 0.05
"""Mean |training - rollout| log-probability, in nats a token, that is more than rounding."""


def no_signal(rewards: npt.NDArray[np.float64], samples: int) -> float:
    """Share of problems whose samples all have the same reward, and so no advantage.

    `rewards` [episodes] are those of one attempt, the `samples` of a problem side by side.
    """
    return float((np.ptp(rewards.reshape(-1, samples), axis=1) == 0).mean())


def flat_note(rewards: npt.NDArray[np.float64], first: int) -> str | None:
    """What to say when all rewards of an attempt are the same; None when no attempt's are.

    `rewards` is [episodes, turns], the first of them those of attempt `first`.
    """
    flat = np.ptp(rewards, axis=0) == 0  # [turns]
    if not flat.any():
        return None
    values = rewards[0, flat]
    low = (values == 0).any()
    remedy = "easier problems or a higher --max-tokens" if low else "harder problems"
    if flat.all() and np.ptp(values) == 0:
        said = f"every reward is {values[0]:g}"
    else:
        pairs = zip(first + np.flatnonzero(flat), values, strict=True)
        said = " and ".join(f"every reward of attempt {turn} is {v:g}" for turn, v in pairs)
    return f"{said}, there is nothing to tell attempts apart by; use {remedy}"


def gap_note(metrics: Mapping[str, float]) -> str | None:
    """What to say when training and rollout disagree on the sampled tokens; else None."""
    gap = metrics.get("logprob_gap/mean_abs", 0.0)
    if gap <= WIDE_GAP:
        return None
    return (
        f"logprob_gap/mean_abs is {gap:.3g} nats a token: training gives the sampled tokens other "
        "probabilities than rollout did, so its gradients are not on policy; try "
        "--precision float32"
    )
