"""Configuration of SCoRe runs, with the published settings as presets."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from redraft.methods.train_config import TrainConfig

Variant = Literal[
    "score", "no-stage-one", "no-bonus", "single-turn", "multi-turn-last", "multi-turn-sum"
]


class ScoreConfig(TrainConfig):
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
    problems_per_step: int = Field(default=64, ge=1)
    """Problems in an optimiser batch."""
    samples: int = Field(default=8, ge=2)
    """Episodes sampled for each problem, RLOO's k; the paper does not disclose its own."""
    alpha: float = Field(default=10.0, ge=0)
    """Stage II's bonus for progress between attempts (paper: 10)."""
    beta1: float = Field(default=0.01, ge=0)
    """Weight of KL(policy‖reference) on every attempt, in both stages (paper: 0.01)."""
    beta2: float = Field(default=0.1, ge=0)
    """Stage I's additional weight on the first attempt (paper: 0.1 for MATH, 0.25 for MBPP)."""
    offline_share: float = Field(default=0.0, ge=0, le=1)
    """Share of Stage II's problems whose first attempts come from the reference; those attempts are
    context for the correction and get no reward."""
    fresh_optimizer: bool = True
    """Start Stage II with a new optimiser and schedule."""
    select: Literal["last", "best"] = "last"
    """Weights that become the run's `model`: the last ones, or those after the checkpoint with the
    highest training reward on the last attempt (the paper's rule)."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which each phase's learning rate rises."""
    normalize: Literal["sequence", "token"] = "sequence"
    """Divide the loss by the number of episodes (the paper's expectation) or of attempt tokens."""
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
        # Found by hand; docs/lab.md says how, docs/negative-results.md what else was tried.
        "lab": {
            "model": "lab",
            "task": "lab/sorting",
            "learning_rate": 3e-4,
            "stage_one_steps": 60,
            "stage_two_steps": 120,
            "problems_per_step": 64,
            "samples": 8,
            "beta1": 0.01,
            "beta2": 0.25,
            "max_tokens": 96,
            "tokens_per_microbatch": 2048,
        },
    }

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if self.stage_one_steps + self.stage_two_steps == 0:
            raise ValueError("stage_one_steps and stage_two_steps are both 0: nothing to train")
        if self.attempts == 3 and self.variant == "single-turn":
            raise ValueError("variant 'single-turn' makes one attempt; attempts 3 has no meaning")
        return self
