"""Configuration of RISE runs, with published settings as presets."""

import math
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from redraft.credit.imitation import Criterion
from redraft.methods.supervised_config import TeacherConfig


class RiseConfig(TeacherConfig):
    """A RISE run, or one of the ablations of its paper."""

    improve: Literal["self", "teacher"] = "self"
    """Who makes the improved attempt at the state that the roll-in has reached: the policy itself,
    the best of `best_of` samples (self-distillation), or the teacher (distillation)."""
    best_of: int = Field(default=16, ge=2)
    """Attempts of self-distillation to choose from (paper: 16)."""
    samples: int = Field(default=1, ge=1)
    """Roll-ins of each problem."""
    reward_temperature: float = Field(default=0.4, gt=0)
    """τ of the weights exp(r/τ) (paper: 0.4, so that a right attempt counts 12.2 times a wrong
    one)."""
    centred: bool = False
    """Subtract the mean over a problem's attempts from its weights, as the paper says and its code
    does not; what falls below 0 becomes 0."""
    normalize_weights: bool = False
    """Divide the weights by their mean, so that the learning rate means the same whatever the
    success rate; the paper's code does not."""
    criterion: Criterion = "all"
    """Attempts that are learned from: `all`; `better` than the one before; `best` so far;
    `success`, the right ones only."""
    only_solved: bool = False
    """Leave out problems that were never solved."""
    unparsable_reward: float = 0.0
    """Reward of an attempt without an answer (the paper's code: -1 on GSM8K, 0 on MATH)."""
    boost_epochs: float = Field(default=0.0, ge=0)
    """Epochs of fine-tuning on the teacher's right first attempts before iteration 1 (the paper's
    knowledge boosting, used for Llama-2 only); iteration folder 00."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released code; 2 epochs is the paper's number as remembered, not as seen.
        "gsm8k": {
            "task": "gsm8k",
            "prompts": "rise",
            "window": 2,
            "learning_rate": 1e-5,
            "epochs": 2.0,
            "batch_size": 64,
            "warmup_share": 0.04,
            "max_tokens": 1000,
            "teacher_temperature": 0.7,
            "teacher_max_tokens": 512,
            "best_of": 16,
            "unparsable_reward": -1.0,
        },
        "math": {
            "task": "math",
            "prompts": "rise",
            "window": 2,
            "learning_rate": 1e-5,
            "epochs": 2.0,
            "batch_size": 64,
            "warmup_share": 0.04,
            "max_tokens": 1000,
            "teacher_temperature": 0.7,
            "teacher_max_tokens": 512,
            "best_of": 16,
        },
        "lab": {
            "model": "lab",
            "task": "lab/sorting",
            "iterations": 2,
            "problems_per_iteration": 4096,
            "best_of": 16,
            "learning_rate": 5e-4,
            "epochs": 2.0,
            "batch_size": 64,
            "max_tokens": 96,
            "tokens_per_microbatch": 4096,
        },
    }

    @property
    def first_iteration(self) -> int:
        """0 with knowledge boosting, else 1."""
        return 0 if self.boost_epochs else 1

    def epochs_of(self, iteration: int) -> float:
        """Passes over the examples of an iteration."""
        return self.boost_epochs if iteration == 0 else self.epochs

    @model_validator(mode="after")
    def _weights_are_finite(self) -> Self:
        largest, best = math.log(np.finfo(np.float32).max), max(1.0, self.unparsable_reward)
        if best / self.reward_temperature > largest:
            raise ValueError(
                f"reward_temperature {self.reward_temperature:g}: the weight exp({best:g} / "
                f"{self.reward_temperature:g}) is too large for 32-bit numbers; give more than "
                f"{best / largest:.2g} (paper: 0.4)"
            )
        return self

    @model_validator(mode="after")
    def _has_a_teacher_where_one_is_needed(self) -> Self:
        needed = self.improve == "teacher" or self.boost_epochs > 0
        if self.teacher is not None and not needed:
            raise ValueError(
                f"teacher {self.teacher!r} would not be asked; give --improve teacher or "
                "--boost-epochs, or leave the teacher out"
            )
        if self.teacher is None and needed:
            wants = "improve 'teacher'" if self.improve == "teacher" else "boost_epochs"
            raise ValueError(
                f"{wants} needs a teacher: --teacher expert, http://HOST:PORT/v1#MODEL or a model"
            )
        return self
