"""What the supervised methods have in common: iterations of collecting and fine-tuning."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from redraft.engines.http_settings import HttpSettings, model_name
from redraft.methods.train_config import TrainConfig


class SupervisedConfig(TrainConfig):
    """Iterations of collecting the policy's attempts and fine-tuning on some of them."""

    iterations: int = Field(default=1, ge=1)
    """Rounds of collecting and fine-tuning."""
    start: Literal["previous", "base"] = "previous"
    """Weights that each iteration fine-tunes: those of the iteration before, or the base model's.
    Attempts are always collected from the newest policy."""
    window: int | None = Field(default=None, ge=1)
    """Interactions the policy sees at most, the one in progress included: the problem and the
    latest `window - 1` attempts with what was said about them. By default all."""
    problems_per_iteration: int | None = Field(default=None, ge=1)
    """Problems attempted in each iteration, the next ones in a seeded order; by default all."""
    collect_at_once: int = Field(default=256, ge=1)
    """Problems attempted, and then written to disk, together."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over an iteration's examples."""
    batch_size: int = Field(default=64, ge=1)
    """Rows in an optimiser step: episodes, or with a window attempts, which are rows of their own
    then."""
    loss_mean: Literal["attempt", "token"] = "attempt"
    """Whether every attempt counts the same, whatever its length, or every token does."""
    warmup_share: float = Field(default=0.04, ge=0, lt=1)
    """Share of an iteration's steps over which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 in an iteration, or that it stays."""
    failures_allowed: float = Field(default=0.05, ge=0, le=1)
    """Share of an iteration's problems that training goes on without if a teacher or a source
    failed to answer, or the sandbox to run a program; with more the run stops before it, and
    `redraft resume` tries them again."""

    @property
    def first_iteration(self) -> int:
        """Number of the first iteration."""
        return 1

    def epochs_of(self, iteration: int) -> float:
        """Passes over the examples of an iteration."""
        return self.epochs

    def does_without(self, failed: int, problems: int) -> bool:
        """Whether no more than `failures_allowed` of the problems are missing."""
        return failed <= self.failures_allowed * problems


EXPERT = "expert"
"""The teacher that is the lab's script."""


def expert_knows(task: str, flag: str) -> None:
    """Refuse the lab's script where it has no answer; `flag` is what it was named with.

    Raises:
        ValueError: the task is not one of the lab's.
    """
    if not task.startswith("lab/"):
        raise ValueError(f"{flag} {EXPERT}: knows the lab's tasks only, not {task}")


class TeacherConfig(SupervisedConfig):
    """Supervised methods that may ask a teacher."""

    teacher: str | None = None
    """Who writes better attempts: `expert` (a script that knows the lab's tasks),
    `http://HOST:PORT/v1#MODEL` (any OpenAI-compatible server), a model folder or a hub id."""
    teacher_temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of the teacher."""
    teacher_max_tokens: int = Field(default=512, ge=1)
    """Longest attempt of the teacher."""
    teacher_http: HttpSettings = HttpSettings()
    """How a teacher behind HTTP is asked."""

    @field_validator("teacher")
    @classmethod
    def _teacher_holds_no_secret(cls, teacher: str | None) -> str | None:
        return None if teacher is None else model_name(teacher)

    needs_teacher: ClassVar[bool] = False
    """Whether the method can do nothing without one."""

    @model_validator(mode="after")
    def _teacher_fits(self) -> Self:
        if self.teacher is None and self.needs_teacher:
            raise ValueError(
                "--teacher is required; name `expert` (the lab's tasks), "
                "http://HOST:PORT/v1#MODEL, or a model"
            )
        if self.teacher == EXPERT:
            expert_knows(self.task, "--teacher")
        return self
