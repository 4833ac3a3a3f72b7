"""Settings of training runs; light to import, so that `--help` loads no model library."""

import os
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from redraft.engines.endpoints import EndpointSettings, model_name
from redraft.engines.vllm_api import VLLMSettings
from redraft.models import MODELS
from redraft.settings import AttemptSettings

EXPERT = "expert"
"""The teacher that is the task's own script."""


TRACKERS = ("tensorboard", "wandb", "trackio")
"""What metrics can be sent to."""


class TrainConfig(AttemptSettings):
    """A training run: its folder, its policy and problems, and how weights change."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str = Field(default_factory=lambda: next(iter(MODELS)))
    """A folder in Hugging Face format, a model id of the Hugging Face hub, or the name of a model
    that a package brings (by default the small one that ships)."""
    out: Path
    """Folder of the run; new or empty."""
    seed: int = Field(default=0, ge=0)
    """Seed of data order, sampling and initialisation."""

    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature in training."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest response, in tokens; a longer one is cut off and counts as wrong."""
    engine: str = "local"
    """What generates the responses: `local`, the model in this process, `vllm`, or another that an
    installed package brings."""
    vllm: VLLMSettings = VLLMSettings()
    """Where vLLM is, for `--engine vllm`."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate, at its peak."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the mean of gradients."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the mean of squared gradients."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices and embeddings."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    tokens_per_microbatch: int | None = Field(default=None, ge=1)
    """Tokens that go through the model at once in training; by default as many as fit into free
    memory and are of use."""
    logit_chunk: int | None = Field(default=None, ge=1)
    """Tokens whose logits exist at once in training; by default as many as fit 256 MiB."""
    gradient_checkpointing: bool | None = None
    """Recompute activations instead of keeping them; by default where memory is short."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA adapters; 0 trains all weights. With LoRA the reference costs no memory."""
    lora_alpha: int | None = Field(default=None, ge=1)
    """LoRA adapters are scaled by this over the rank; default: twice the rank."""
    lora_targets: str = "all-linear"
    """Layers that get LoRA adapters: all-linear, or names separated by commas (q_proj,v_proj)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training and rollout; auto is bfloat16 where the device has it in hardware. The
    weights themselves and the optimiser are always float32."""

    sharding: Literal["none", "fsdp2", "zero2", "zero3"] = "none"
    """What several processes have of the weights, gradients and optimiser: `none`, all of them on
    each (DDP); `fsdp2`, each its part; by DeepSpeed `zero2`, all weights and a part of the rest, or
    `zero3`, each its part. On one process there is nothing to share out."""

    evaluate_every: int = Field(default=0, ge=0)
    """Optimiser steps between evaluations on held-out problems, which are answered as the method
    trains it (several responses, programs, ...); 0: never."""
    evaluate_problems: int = Field(default=128, ge=1)
    """Held-out problems in each of those evaluations: so many of the task's test split, the same
    ones in every run, decoded greedily."""
    select: Literal["last", "best"] = "last"
    """Weights that become the run's `model`: the last ones, or those of the checkpoint with the
    highest accuracy of the last answer, held-out with `evaluate_every`, else in training (the rule
    of SCoRe's paper)."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Newest checkpoints that are kept, at least two: the newest may already hold the weights that
    make the next step diverge. With `select` best the best one is kept too."""
    track: str | None = None
    """Also send the metrics to `tensorboard` (written to the run's folder), `wandb` or `trackio`,
    or several, separated by commas; each needs its package."""

    @property
    def lora_target_modules(self) -> str | list[str]:
        """`lora_targets` as PEFT takes it: a list of names, or "all-linear"."""
        names = [name.strip() for name in self.lora_targets.split(",")]
        return "all-linear" if names == ["all-linear"] else names

    @property
    def responses(self) -> int:
        """How many responses an episode has at most, where the settings say: `attempts`, or 2."""
        attempts = getattr(self, "attempts", None)
        return attempts if isinstance(attempts, int) else 2

    @property
    def trackers(self) -> list[str]:
        """`track` as a list."""
        return [name.strip() for name in self.track.split(",")] if self.track else []

    @field_validator("track")
    @classmethod
    def _are_known(cls, track: str | None) -> str | None:
        for name in (track or TRACKERS[0]).split(","):
            if name.strip() not in TRACKERS:
                known = ", ".join(TRACKERS)
                raise ValueError(f"unknown tracker {name.strip()!r}; expected some of {known}")
        return track

    @field_validator("model")
    @classmethod
    def _absolute_folder(cls, model: str) -> str:
        """A run may be resumed from another folder than the one it was started in."""
        folder = os.path.expanduser(model)
        is_named = model in MODELS or not os.path.isdir(folder)
        return model if is_named else str(Path(folder).absolute())

    @field_validator("data")
    @classmethod
    def _absolute_data(cls, data: Path | None) -> Path | None:
        return data.absolute() if data is not None and os.path.exists(data) else data

    @field_validator("out")
    @classmethod
    def _absolute_out(cls, out: Path) -> Path:
        return out.absolute()


class OnPolicyConfig(TrainConfig):
    """Reinforcement learning: every step samples new episodes and learns from them."""

    problems_per_step: int = Field(default=64, ge=1)
    """Problems in an optimiser batch."""
    samples: int = Field(default=8, ge=2)
    """Episodes sampled for each problem; each is compared with the others."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which each phase's learning rate rises."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 over each phase, or that it stays."""
    normalize: Literal["sequence", "token"] = "sequence"
    """Divide the loss by the number of episodes (the expectation over episodes) or of response
    tokens."""
    clip_low: float | None = Field(default=None, gt=0, lt=1)
    """PPO's clip of the probability ratio below 1; by default open."""
    clip_high: float | None = Field(default=None, gt=0)
    """PPO's clip of the probability ratio above 1; by default open."""
    importance_cap: float = Field(default=2.0, ge=1)
    """Truncate importance weights here: the probability of a token over that with which it was
    sampled. The two differ by rounding, and with `overlap` by a step of training."""
    kl_estimator: Literal["k2", "k3"] = "k2"
    """KL as a loss: `k2` has the gradient of KL(policy‖reference), the papers' direction; `k3` is
    GRPO's."""
    entropy_weight: float = 0.0
    """Weight of an entropy bonus on response tokens."""
    reward: str | None = None
    """A function of your own, `module:function`, that rewards the responses of an episode in place
    of their grades, which still say what is right; by default the grade's score is the reward."""
    overlap: bool = False
    """Sample the episodes of the next step while this one is learned from: they come from weights
    that are one step old. It needs an engine with weights of its own, a vLLM server; the local
    engine gets a copy."""
    keep_going: bool = False
    """Train on although every reward of the first steps was the same, so that nothing is
    learned."""

    @model_validator(mode="after")
    def _clips_below_the_cap(self) -> Self:
        if self.clip_high is not None and 1 + self.clip_high > self.importance_cap:
            raise ValueError(
                f"clip_high: ratios are truncated at importance_cap {self.importance_cap:g}, so "
                f"clipping at 1 + {self.clip_high:g} does nothing; raise --importance-cap"
            )
        return self

    @model_validator(mode="after")
    def _overlaps_with_another_device(self) -> Self:
        if self.overlap and self.engine == "vllm" and self.vllm.url is None:
            raise ValueError(
                "overlap: a vLLM beside the learner has the same device, which it leaves to the "
                "learner between rollouts; name a server with --vllm.url, or leave overlap out"
            )
        return self


class SupervisedConfig(TrainConfig):
    """Iterations of collecting the policy's responses and fine-tuning on some of them."""

    iterations: int = Field(default=1, ge=1)
    """Rounds of collecting and fine-tuning."""
    start: Literal["previous", "base"] = "previous"
    """Weights that each iteration fine-tunes: those of the iteration before, or the base model's.
    Responses are always collected from the newest policy."""
    window: int | None = Field(default=None, ge=1)
    """Interactions the policy sees at most, the one in progress included: the problem and the
    latest `window - 1` responses with what was said about them. By default all."""
    problems_per_iteration: int | None = Field(default=None, ge=1)
    """Problems attempted in each iteration, the next ones in a seeded order; by default all."""
    collect_at_once: int = Field(default=256, ge=1)
    """Problems attempted, and then written to disk, together."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over an iteration's examples."""
    batch_size: int = Field(default=64, ge=1)
    """Rows in an optimiser step: episodes, or with a window the sequences that their responses were
    written in."""
    loss_mean: Literal["attempt", "token"] = "attempt"
    """Whether every response counts the same, whatever its length, or every token does."""
    warmup_share: float = Field(default=0.04, ge=0, lt=1)
    """Share of an iteration's steps over which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 in an iteration, or that it stays."""
    failures_allowed: float = Field(default=0.05, ge=0, le=1)
    """Share of an iteration's problems that may fail (a teacher or a source gave no answer, or the
    sandbox could not run a program). Training then proceeds without them; with more the run stops
    before training, and `redraft resume` tries them again."""

    @model_validator(mode="after")
    def _best_is_known(self) -> Self:
        if self.select == "best" and not self.evaluate_every:
            raise ValueError("select 'best' needs held-out evaluations; give --evaluate-every")
        return self

    @property
    def first_iteration(self) -> int:
        """Number of the first iteration."""
        return 1

    def epochs_of(self, iteration: int) -> float:
        """Passes over the examples of an iteration."""
        return self.epochs

    def allows(self, failed: int, problems: int) -> bool:
        """Whether no more than `failures_allowed` of the problems are missing."""
        return failed <= self.failures_allowed * problems

    def check_expert(self, flag: str) -> None:
        """Refuse the task's expert where the task has none; `flag` is what it was named with.

        Raises:
            ValueError: the task has no expert.
        """
        if self.open_task().expert is None:
            raise ValueError(f"{flag} {EXPERT}: task {self.task!r} has no expert of its own")


class TeacherConfig(SupervisedConfig):
    """Supervised methods that may ask a teacher."""

    teacher: str | None = None
    """The teacher: `expert` (the task's own script, where it has one), `http://HOST:PORT/v1#MODEL`
    (any OpenAI-compatible server), a model folder or a hub id."""
    teacher_temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of the teacher."""
    teacher_max_tokens: int = Field(default=512, ge=1)
    """Longest response of the teacher."""
    teacher_http: EndpointSettings = EndpointSettings()
    """How a teacher behind HTTP is asked."""

    needs_teacher: ClassVar[bool] = False
    """Whether the method can do nothing without one."""

    @field_validator("teacher")
    @classmethod
    def _teacher_holds_no_secret(cls, teacher: str | None) -> str | None:
        return None if teacher is None else model_name(teacher)

    @model_validator(mode="after")
    def _teacher_fits(self) -> Self:
        if self.teacher is None and self.needs_teacher:
            raise ValueError(
                "--teacher is required; name `expert` (the task's own script), "
                "http://HOST:PORT/v1#MODEL, or a model"
            )
        if self.teacher == EXPERT:
            self.check_expert("--teacher")
        return self
