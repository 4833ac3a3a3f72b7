"""SCoRe: two-stage multi-turn reinforcement learning of self-correction (arXiv 2409.12917).

    for each phase of the plan:                       Stage I, then Stage II (`plan`)
        for each step:
            sample G episodes of every problem        attempts 1..T at temperature 1, on policy
            reward each attempt, r in {0, 1}
            shape: r_t + alpha (r_t - r_{t-1})         Stage II only, never the first attempt
            advantage = reward - leave-one-out mean    per turn, over the G episodes of a problem
            loss = - sum_t A_t log pi(y_t|x_t) + beta_t KL(pi(.|x_t) || reference)
            one optimiser step

Stage I holds attempt 1 at the reference (beta1 + beta2, no reward) and rewards attempt 2; Stage II
rewards both. `docs/methods/score.md` maps every equation of the paper to a function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from redraft.credit.turns import (
    Rewards,
    last_reward,
    leave_one_out,
    return_to_go,
    rewards_by_turn,
    to_streams,
    with_progress_bonus,
)
from redraft.episode import same_problem_groups
from redraft.methods.on_policy import OnPolicySession
from redraft.methods.score_config import ScoreConfig
from redraft.progress import Progress, Silent

__all__ = ["Phase", "ScoreConfig", "advantages", "plan", "resume", "train"]


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
    def turns(self) -> int:
        """Attempts per episode."""
        return len(self.rewarded)

    @property
    def counted(self) -> list[int]:
        """Attempts (0-based) whose own reward plays a part."""
        if self.credit == "last":
            return [self.turns - 1]
        return [turn for turn, rewarded in enumerate(self.rewarded) if rewarded]


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


def advantages(phase: Phase, rewards: Rewards, groups: Sequence[Sequence[int]]) -> Rewards:
    """Leave-one-out advantage of every attempt under a phase, shape [episodes, turns]."""
    match phase.credit:
        case "last":
            shaped = last_reward(rewards)
        case "sum":
            shaped = return_to_go(rewards)
        case _:
            shaped = with_progress_bonus(rewards, phase.alpha)
    return leave_one_out(shaped, groups) * np.array(phase.rewarded)


def train(config: ScoreConfig, progress: Progress | None = None) -> Path:
    """Train from the beginning; returns the run's folder.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot work.
    """
    return _train(OnPolicySession.create(config, "train score", progress or Silent()))


def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Go on with a run from its newest complete checkpoint; it ends at the same weights.

    Raises:
        UserError: the folder is not such a run's.
    """
    return _train(OnPolicySession.reopen(folder, ScoreConfig, progress or Silent()))


def _train(session: OnPolicySession) -> Path:
    config, end = session.config, 0
    learner = session.learner_config(
        warmup_steps=config.warmup_steps,
        normalize=config.normalize,
        temperature=config.temperature,
    )
    for number, phase in enumerate(plan(config)):
        begin, end = end, end + phase.steps
        if session.step >= end:
            continue  # a resumed run has this phase behind it
        anchored = any(phase.kl_weights) or phase.offline_share > 0
        session.begin_phase(
            number,
            begin,
            learner,
            anchored=anchored,
            new_reference=phase.new_reference,
            fresh_optimizer=config.fresh_optimizer,
        )
        with session.progress.phase(phase.name, phase.steps) as bar:
            bar.advance(session.step - begin)
            while session.step < end:
                metrics = _step(session, phase)
                bar.advance(1, **headline(metrics, phase.turns))
    return session.finish()


def _step(session: OnPolicySession, phase: Phase) -> dict[str, float]:
    episodes = session.play(phase.turns, phase.offline_share)
    rewards = rewards_by_turn(episodes)
    session.note_if_flat(rewards[:, phase.counted])
    worth = advantages(phase, rewards, same_problem_groups(episodes))
    return session.learn(to_streams(episodes, worth, phase.kl_weights), episodes, phase.name)


def headline(metrics: dict[str, float], turns: int) -> dict[str, float]:
    """The few numbers worth watching while a run goes on."""
    shown = {f"t{turn}": metrics[f"accuracy/turn{turn}"] for turn in range(1, turns + 1)}
    return shown | {name: metrics[name] for name in ("delta_t1_t2", "changed") if name in metrics}
