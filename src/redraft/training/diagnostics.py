"""Training diagnostics: zero-variance rewards, train/rollout log-prob mismatch."""

from collections.abc import Mapping, Sequence

import numpy as np

from redraft.learning.credit import Rewards

WIDE_GAP = 0.05
"""Mean |training - rollout| log-probability, in nats a token, that is more than rounding."""


def no_signal(rewards: Rewards, samples: int) -> float | None:
    """Share of problems whose samples all have the same reward (before any bonus), and so no
    advantage from it.

    `rewards` [episodes] are those of one answer, the `samples` of a problem side by side; NaN
    where an episode has no such answer. None where no problem has two samples to compare.
    """
    by_problem = rewards.reshape(-1, samples)
    compared = by_problem[(~np.isnan(by_problem)).sum(axis=1) > 1]
    if not len(compared):
        return None
    return float((np.nanmax(compared, axis=1) == np.nanmin(compared, axis=1)).mean())


def flat_note(rewards: Rewards, turns: Sequence[int], function: str | None = None) -> str | None:
    """What to say when all rewards of an answer are the same; None when no answer's are.

    `rewards` is [episodes, answers]; `turns` are the numbers of the answers, from 1; `function` is
    the user's that made the rewards, if any did.
    """
    flat = {}
    for turn, column in zip(turns, rewards.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) and np.ptp(known) == 0:
            flat[turn] = float(known[0])
    if not flat:
        return None
    low = 0.0 in flat.values()
    remedy = "easier problems or a higher --max-tokens" if low else "harder problems"
    if function is not None:
        remedy = f"a --reward that does; these are {function}'s"
    if len(flat) == len(turns) and len(set(flat.values())) == 1:
        said = f"every reward is {next(iter(flat.values())):g}"
    else:
        said = " and ".join(f"every reward of attempt {t} is {v:g}" for t, v in flat.items())
    return f"{said}, there is nothing to tell attempts apart by; use {remedy}"


FIRST_STEPS = 3
"""After so many steps with one and the same reward a task is said to be unfit for the model."""
FIRST_REWARDS = 100
"""And after so many rewards, as fewer may be alike by chance."""


def unfit_note(
    reward: float, cut: float, max_tokens: int, prompts: str, function: str | None = None
) -> str:
    """What to say when every reward of a run's first steps was the same: what to change.

    `cut` is the share of responses that hit the limit of `max_tokens`; `function` is the user's
    that made the rewards, if any did.
    """
    said = f"every reward of the first steps is {reward:g}, so nothing is learned: "
    if function is not None:
        return f"{said}take a --reward that tells responses apart; {function} gives all the same"
    if reward:
        return f"{said}the model solves this task; take harder problems"
    remedies = ["easier problems", f"other texts than --prompts {prompts}"]
    remedies += ["a model that was fine-tuned on worked solutions first"]
    if cut:
        limit = f"more than --max-tokens {max_tokens}, at which {cut:.0%} of the responses were cut"
        remedies.insert(0, limit)
    return f"{said}take {', '.join(remedies[:-1])} or {remedies[-1]}"


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
