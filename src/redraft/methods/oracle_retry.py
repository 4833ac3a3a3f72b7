"""Multi-attempt reinforcement learning with an oracle: try until right, at most K times.

    for each step:
        sample G episodes of every problem    attempt, "incorrect", attempt, ... until right or K
        reward each attempt, r in {0, 1}
        return    R_t = sum_{u >= t} gamma^{u-t} r_u
        advantage = R_t - mean of R_t over the problem's other episodes that have an attempt t
        loss = - sum_t A_t log pi(y_t|x_t) + beta KL(pi(.|x_t) || reference)
        one optimiser step

All that the environment says is that the last attempt was wrong, so episodes have different
lengths, and the policy decides by its answers when they end: the return comes first and the
baseline second (`learning.credit`). `docs/methods/oracle-retry.md` has the equations and what to
expect; `docs/extending.md` goes through this file line by line.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from redraft.chat.protocols import Oracle
from redraft.learning.credit import advantage_rows, leave_one_out, return_to_go
from redraft.training.method import Method
from redraft.training.settings import OnPolicyConfig
from redraft.types import same_problem_groups

if TYPE_CHECKING:
    from redraft.training.on_policy import OnPolicyRun


class OracleRetryConfig(OnPolicyConfig):
    """A run of multi-attempt reinforcement learning with oracle retries."""

    attempts: int = Field(default=3, ge=1)
    """Most attempts at a problem, K; the first right one ends the episode."""
    steps: int = Field(default=120, ge=1)
    """Optimiser steps."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """γ: what a right answer is worth to the attempt before it. Below 1 an early right answer is
    worth more than a late one."""
    beta: float = Field(default=0.01, ge=0)
    """Weight of KL(policy‖reference) on every attempt."""


def train(run: "OnPolicyRun[OracleRetryConfig]") -> None:
    """Take the steps that are left."""
    from redraft.evaluation.headline import headline
    from redraft.training.run import Evaluation

    config = run.config
    protocol = Oracle(run.prompts, config.attempts)
    run.evaluation = Evaluation(protocol, config.attempts)
    learner = run.learner_config(total_steps=config.steps)
    run.begin_phase(0, 0, learner, anchored=config.beta > 0)
    with run.steps(config.steps) as bar:
        while run.step < config.steps:
            episodes = run.play(protocol, until=config.steps)
            rewards = run.rewards(episodes, config.attempts)
            returns = return_to_go(rewards, config.discount)
            advantages = leave_one_out(returns, same_problem_groups(episodes))
            rows = advantage_rows(episodes, advantages, [config.beta] * config.attempts)
            metrics = run.learn(rows, episodes, "oracle retry", config.attempts)
            bar.advance(1, **headline(metrics))


METHOD = Method(
    name="oracle-retry",
    help="""Multi-attempt RL: try until an oracle says that the answer is right.

The environment says only that an answer is wrong, at most `attempts` times; every attempt is
rewarded with the return of the rest of its episode. Episodes have different lengths.""",
    settings=OracleRetryConfig,
    train=train,
    run="on_policy",
    baseline=True,
)
