"""SCoRe: two-stage multi-turn reinforcement learning of self-correction (arXiv 2409.12917).

    for each phase of the plan:                       Stage I, then Stage II (`plan`)
        for each step:
            sample G episodes of every problem        attempts 1..T at temperature 1, on policy
            reward each attempt, r in {0, 1}
            shape: r_t + alpha (r_t - r_{t-1})         Stage II only, never the first attempt
            advantage = reward - leave-one-out mean    per attempt, over the G episodes of a problem
            loss = - sum_t A_t log pi(y_t|x_t) + beta_t KL(pi(.|x_t) || reference)
            one optimiser step

Stage I holds attempt 1 at the reference (beta1 + beta2, no reward) and rewards attempt 2; Stage II
rewards both. `docs/methods/score.md` maps every equation of the paper to a function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from redraft.chat.protocols import Intrinsic
from redraft.learning.credit import (
    Rewards,
    advantage_rows,
    last_reward,
    leave_one_out,
    return_to_go,
    with_progress_bonus,
)
from redraft.training.method import Method
from redraft.training.settings import OnPolicyConfig
from redraft.types import same_problem_groups

if TYPE_CHECKING:
    from redraft.training.on_policy import OnPolicyRun

Variant = Literal[
    "score", "no-stage-one", "no-bonus", "single-turn", "multi-turn-last", "multi-turn-sum"
]


class ScoreConfig(OnPolicyConfig):
    """A SCoRe run, or one of the ablations of its paper."""

    variant: Variant = "score"
    """`score`, or an ablation of the paper: `no-stage-one`, `no-bonus` (alpha 0), `single-turn`
    (reward and train the first attempt only), `multi-turn-last` and `multi-turn-sum` (plain
    multi-turn RL: every attempt gets the last reward, or the sum of the rewards from it on)."""
    attempts: Literal[2, 3] = 2
    """Attempts per episode; with 3, Stage I has two phases, one for each correction."""
    stage_one_steps: int = Field(default=60, ge=0)
    """Optimiser steps of Stage I; with three attempts, of each of its two phases."""
    stage_two_steps: int = Field(default=60, ge=0)
    """Optimiser steps of Stage II. Variants without Stage I train for the sum of both."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight α of Stage II's bonus for progress between attempts (paper: 10)."""
    beta1: float = Field(default=0.01, ge=0)
    """Weight of KL(policy‖reference) on every attempt, in both stages (paper: 0.01)."""
    beta2: float = Field(default=0.1, ge=0)
    """Stage I's additional weight on the first attempt (paper: 0.1 for MATH, 0.25 for MBPP)."""
    offline_share: float = Field(default=0.0, ge=0, le=1)
    """Share of Stage II's problems whose first attempts come from the reference; those attempts are
    context for the correction and get no reward."""
    fresh_optimizer: bool = True
    """Start Stage II with a new optimiser and schedule."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # arXiv 2409.12917, Table 8. The split of the steps between the stages is not disclosed;
        # three tenths go to Stage I here. 512 and 128 episodes a batch are 64 and 16 problems x 8.
        "math": {
            "task": "math",
            "prompts": "score-math",
            "learning_rate": 5e-6,
            "stage_one_steps": 900,
            "stage_two_steps": 2100,
            "problems_per_step": 64,
            "samples": 8,
            "alpha": 10.0,
            "beta1": 0.01,
            "beta2": 0.1,
            "max_tokens": 1024,
        },
        "mbpp": {
            "task": "mbpp",
            "prompts": "score-mbpp",
            "learning_rate": 1e-5,
            "stage_one_steps": 450,
            "stage_two_steps": 1050,
            "problems_per_step": 16,
            "samples": 8,
            "alpha": 10.0,
            "beta1": 0.01,
            "beta2": 0.25,
            "max_tokens": 1024,
        },
    }

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if self.stage_one_steps + self.stage_two_steps == 0:
            raise ValueError("stage_one_steps and stage_two_steps are both 0: nothing to train")
        if self.attempts == 3 and self.variant == "single-turn":
            raise ValueError("variant 'single-turn' makes one attempt; attempts 3 has no meaning")
        shortest = min(length_of_schedule(self, phase) for phase in plan(self))
        if self.schedule != "constant" and self.warmup_steps >= shortest:
            raise ValueError(
                f"warmup_steps {self.warmup_steps}: a phase has {shortest} steps, which leaves "
                f"none for schedule {self.schedule!r}"
            )
        return self


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one objective; the tuples have one entry per attempt."""

    name: str
    steps: int
    rewarded: tuple[bool, ...]
    """Which attempts are reinforced."""
    kl_weights: tuple[float, ...]
    """β of each attempt's KL to the reference."""
    credit: Literal["own", "last", "sum"] = "own"
    """What an attempt is rewarded with: its own reward, the last one, or the sum from it on."""
    alpha: float = 0.0
    """Weight of the bonus for progress."""
    offline_share: float = 0.0
    """Share of problems with first attempts of the reference."""
    new_reference: bool = False
    """Whether the reference becomes the policy as it is when the phase begins."""

    @property
    def attempts(self) -> int:
        """Attempts per episode."""
        return len(self.rewarded)

    @property
    def counted(self) -> list[int]:
        """Attempts (0-based) whose own reward is used."""
        if self.credit == "last":
            return [self.attempts - 1]
        return [attempt for attempt, rewarded in enumerate(self.rewarded) if rewarded]


def plan(config: ScoreConfig) -> list[Phase]:
    """The phases of a run, those of no steps left out."""
    one, two, both = config.stage_one_steps, config.stage_two_steps, config.attempts
    low, high = config.beta1, config.beta1 + config.beta2
    steps = one * (both - 1) + two
    match config.variant:
        case "single-turn":
            phases = [Phase("single-turn RL", steps, (True,), (low,))]
        case "multi-turn-last" | "multi-turn-sum":
            credit: Literal["last", "sum"] = "last" if config.variant.endswith("last") else "sum"
            name = f"multi-turn RL ({credit})"
            phases = [Phase(name, steps, (True,) * both, (low,) * both, credit)]
        case variant:
            bonus = 0.0 if variant == "no-bonus" else config.alpha
            without = variant == "no-stage-one"
            phases = [
                Phase("stage I", 0 if without else one, (False, True), (high, low)),
                Phase(
                    "stage II",
                    steps if without else two,
                    (True,) * both,
                    (low,) * both,
                    alpha=bonus,
                    offline_share=config.offline_share,
                ),
            ]
            if both == 3:
                # Attempt 2 has been trained in I(a); I(b) holds attempts 1 and 2 at that model.
                third = Phase(
                    "stage I(b)",
                    0 if without else one,
                    (False, False, True),
                    (high, high, low),
                    new_reference=True,
                )
                phases.insert(1, third)
    return [phase for phase in phases if phase.steps]


def length_of_schedule(config: ScoreConfig, phase: Phase) -> int:
    """Steps of the learning-rate schedule that a phase has: its own, or the whole run's."""
    return phase.steps if config.fresh_optimizer else sum(one.steps for one in plan(config))


def advantages(phase: Phase, rewards: Rewards, groups: Sequence[Sequence[int]]) -> Rewards:
    """Leave-one-out advantage of every attempt under a phase, shape [episodes, attempts]."""
    match phase.credit:
        case "last":
            shaped = last_reward(rewards)
        case "sum":
            shaped = return_to_go(rewards)
        case "own":
            shaped = with_progress_bonus(rewards, phase.alpha)
    return leave_one_out(shaped, groups) * np.array(phase.rewarded)


def train(run: "OnPolicyRun[ScoreConfig]") -> None:
    """Go through the phases that are left."""
    from redraft.evaluation.headline import headline
    from redraft.training.run import Evaluation

    config, phases, end = run.config, plan(run.config), 0
    run.evaluation = Evaluation(Intrinsic(run.prompts, config.attempts), config.attempts)
    with run.steps(sum(phase.steps for phase in phases)) as bar:
        for number, phase in enumerate(phases):
            begin, end = end, end + phase.steps
            if run.step >= end:
                continue  # a resumed run has this phase behind it
            run.begin_phase(
                number,
                begin,
                run.learner_config(total_steps=length_of_schedule(config, phase)),
                anchored=any(phase.kl_weights) or phase.offline_share > 0,
                new_reference=phase.new_reference,
                fresh_optimizer=config.fresh_optimizer,
            )
            protocol = Intrinsic(run.prompts, phase.attempts)
            while run.step < end:
                episodes = run.play(protocol, phase.offline_share, end)
                rewards = run.rewards(episodes, phase.attempts, phase.counted)
                advantage = advantages(phase, rewards, same_problem_groups(episodes))
                rows = advantage_rows(episodes, advantage, phase.kl_weights)
                metrics = run.learn(rows, episodes, phase.name, phase.attempts)
                bar.advance(1, phase=phase.name, **headline(metrics))


METHOD = Method(
    name="score",
    help="""SCoRe (arXiv 2409.12917): multi-turn reinforcement learning in two stages.

Stage I holds the first attempt where the base model has it and trains the second. Stage II trains
both, with a bonus for second attempts that change the verdict for the better. The presets are the
published settings.""",
    settings=ScoreConfig,
    train=train,
    run="on_policy",
    paper="arXiv 2409.12917",
)
