"""Settings of the learner and its learning-rate schedule."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from redraft.types import Record


class LearnerConfig(Record):
    """How weights change. Which tokens are learned from, and how, is in the rows."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay; matrices and embeddings only, not norms and biases."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up: stay at the peak, or fall to 0 at `total_steps`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly to its peak."""
    total_steps: int | None = Field(default=None, gt=0)
    """Length of the schedule; needed by `linear` and `cosine`."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; None: never."""
    tokens_per_microbatch: int | None = Field(default=None, gt=0)
    """Padded tokens that go through the model at once on each process; None: as many as fit into
    free memory and are of use. It does not change what is learned."""
    normalize: Literal["sequence", "token"] = "sequence"
    """What the reinforcement components (policy gradient, KL, entropy) are divided by, over the
    whole optimiser batch: the number of rows (SCoRe's expectation over episodes, RLOO) or the
    number of response tokens (GRPO's `bnpo`/`dapo`)."""
    loss_mean: Literal["token", "attempt"] = "token"
    """What cross-entropy is the mean over, in the whole optimiser batch: the tokens with a
    `loss_weight` (TRL's SFTTrainer), or the responses with such tokens, each with the mean over
    its own (RISE)."""
    clip_low: float | None = Field(default=None, gt=0, lt=1)
    """PPO's clip of the probability ratio below 1; None: open."""
    clip_high: float | None = Field(default=None, gt=0)
    """PPO's clip of the probability ratio above 1; None: open."""
    importance_cap: float | None = Field(default=None, ge=1)
    """Truncate importance weights here: the probability of a token over that with which it was
    sampled, which weighs its policy gradient and its KL `k2`; None: never."""
    kl_estimator: Literal["k2", "k3"] = "k2"
    """KL as a loss: `k2` has the gradient of KL(policy‖reference); `k3`, GRPO's, has on on-policy
    samples that of the other direction."""
    entropy_weight: float = 0.0
    """Weight of an entropy bonus on response tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature that log-probabilities and KL are taken at: for reinforcement the one that the
    responses were sampled at, 1 for imitation and preferences."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, about a third more compute. None:
    where memory is too short to keep those of a few hundred tokens."""
    logit_chunk: int | None = Field(default=None, gt=0)
    """Tokens whose logits exist at once; None: as many as fit 256 MiB in float32."""

    @model_validator(mode="after")
    def _schedule_has_a_length(self) -> Self:
        if self.schedule != "constant":
            if self.total_steps is None:
                raise ValueError(f"schedule {self.schedule!r} needs total_steps")
            if self.warmup_steps >= self.total_steps:
                raise ValueError(
                    f"warmup_steps {self.warmup_steps} leaves nothing of total_steps "
                    f"{self.total_steps}"
                )
        return self

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the optimiser step with this 0-based number."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.total_steps is None or self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        left = 1 - min(done, 1.0)
        if self.schedule == "cosine":
            left = 0.5 * (1 - math.cos(math.pi * left))
        return self.learning_rate * left
