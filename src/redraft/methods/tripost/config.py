"""Configuration of TriPosT runs and of its baselines, with published settings as presets."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from redraft.training.settings import EXPERT, TeacherConfig

Module = Literal["script", "teacher"]

PAPER: dict[str, Any] = {
    "rationale_epochs": 5.0,
    "epochs": 4.0,
    "batch_size": 4,
    "learning_rate": 1e-6,
    "warmup_share": 0.2,
    "schedule": "cosine",
    "max_tokens": 1024,
    "updates": 5,
}
"""The released code's numbers (arXiv 2310.13522); they are for a 7B model, all weights trained."""


class RationaleConfig(TeacherConfig):
    """Fine-tuning on gold rationales: stage 0 of TriPosT, and a baseline."""

    rationales: Module = "script"
    """Who writes them: the task's script, or a teacher, whose right ones are taken."""
    epochs: float = Field(default=5.0, gt=0)
    """Passes over the rationales (paper: 5)."""
    batch_size: int = Field(default=4, ge=1)
    """Rationales in an optimiser step (paper: 4)."""
    loss_mean: Literal["attempt", "token"] = "token"
    """Whether every response counts the same, whatever its length, or every token does."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            name: PAPER[name]
            for name in ("batch_size", "learning_rate", "warmup_share", "schedule", "max_tokens")
        },
    }

    @property
    def parts(self) -> tuple[Module, ...]:
        """Who does each part."""
        return (self.rationales,)

    @property
    def asks_a_teacher(self) -> bool:
        """Whether any part is a teacher's."""
        return "teacher" in self.parts

    @model_validator(mode="after")
    def _has_a_teacher_where_one_is_needed(self) -> Self:
        if self.teacher is None and self.asks_a_teacher:
            raise ValueError(
                "a part that is 'teacher' needs one: --teacher http://HOST:PORT/v1#MODEL or a "
                "model (or `expert`, where the task has one, for rationales and first answers)"
            )
        if self.teacher is not None and not self.asks_a_teacher:
            raise ValueError(
                f"teacher {self.teacher!r} would not be asked; give --feedback teacher, --improve "
                "teacher or --rationales teacher, or leave the teacher out"
            )
        return self

    @model_validator(mode="after")
    def _has_a_script_where_one_is_needed(self) -> Self:
        steps = self.open_task().steps
        if "script" in self.parts and (steps is None or steps.script is None):
            raise ValueError(
                f"--task {self.task}: there is no script for its solutions; give --teacher, and "
                "'teacher' for --rationales, --feedback and --improve"
            )
        return self

    @model_validator(mode="after")
    def _has_no_window(self) -> Self:
        if self.window is not None:
            raise ValueError(
                f"window {self.window}: here the policy sees the problem and its latest answer; "
                "leave it out"
            )
        return self


class TripostConfig(RationaleConfig):
    """A TriPosT run, or an ablation from its paper."""

    iterations: int = Field(default=3, ge=1)
    """Repeats of collecting, editing and fine-tuning (paper: 3)."""
    rationale_epochs: float = Field(default=5.0, ge=0)
    """Epochs of stage 0, fine-tuning on gold rationales (paper: 5); iteration folder 00. 0 leaves
    it out, for a model that has been through it."""
    epochs: float = Field(default=4.0, gt=0)
    """Passes over the examples of a repeat (paper: 4)."""
    feedback: Module = "script"
    """Who finds the first wrong step: the task's script, or the teacher."""
    improve: Module = "script"
    """Who rewrites from it on: the task's script, or the teacher."""
    updates: int = Field(default=5, ge=1)
    """Most updates by the teacher before a trajectory is dropped (paper: 5)."""
    own_updates: int = Field(default=2, ge=1)
    """Most updates by the policy itself, from the second repeat on. In the first repeat it only
    answers, and counts as having confirmed every answer."""
    samples: int = Field(default=1, ge=1)
    """Trajectories of each problem in a repeat (paper: up to 5 passes over the problems)."""
    p: float = Field(default=3 / 7, ge=0, le=1)
    """Share of x_SI among the examples: x_SI : x_T : gold = r : 1 : 1 with p = r / (r + 2) (paper:
    r = 1.5)."""
    balance: bool = True
    """Keep to `p`; without it all examples are learned from as they came, and no gold."""
    most_examples: int | None = Field(default=None, ge=2)
    """Most examples of a repeat (paper: 80 to 150, by task); by default all."""
    feedback_weight: float = Field(default=1.5, gt=0)
    """Loss weight from the critique on, in trajectories that the teacher has edited (paper: 1.5).
    Everything else has 1."""
    train_attempt: bool = True
    """Also learn, with weight 1, from the wrong answers that critiques are about (as the paper's
    code does); without it they are context only."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "multistep_arithmetic": {
            **PAPER,
            "task": "bbh/multistep_arithmetic-cells",
            "samples": 5,
            "most_examples": 150,
        },
        "word_sorting": {
            **PAPER,
            "task": "bbh/word_sorting-cells",
            "limit": 433,
            "samples": 5,
            "most_examples": 120,
        },
    }

    @property
    def parts(self) -> tuple[Module, ...]:
        """Who does each part."""
        return (self.rationales, self.feedback, self.improve)

    @model_validator(mode="after")
    def _the_expert_is_not_asked_to_judge(self) -> Self:
        if self.teacher == EXPERT and "teacher" in (self.feedback, self.improve):
            raise ValueError(
                f"--teacher {EXPERT} solves problems but cannot give feedback or rewrite an "
                "answer; --feedback script and --improve script can"
            )
        return self

    @property
    def first_iteration(self) -> int:
        """0 with stage 0, else 1."""
        return 0 if self.rationale_epochs else 1

    def epochs_of(self, iteration: int) -> float:
        """Passes over the examples of an iteration."""
        return self.rationale_epochs if iteration == 0 else self.epochs


class DemonstrationConfig(TripostConfig):
    """Fine-tuning on demonstrated self-improvement: the paper's "ft SI demo".

    The first answers are not the policy's either, and everything has weight 1.
    """

    iterations: int = Field(default=1, ge=1)
    """Repeats of collecting and training (paper: 1)."""
    feedback_weight: float = Field(default=1.0, gt=0)
    """Loss weight from the feedback on (paper: 1)."""
    attempts: Module = "script"
    """Who writes the first answers: the task's expert, a script that errs, or the teacher."""

    @property
    def asks_a_teacher(self) -> bool:
        """Whether any part is a teacher's."""
        return "teacher" in (self.attempts, *self.parts)

    @model_validator(mode="after")
    def _has_an_expert_where_one_is_needed(self) -> Self:
        if self.attempts == "script" and self.open_task().expert is None:
            raise ValueError(
                f"--task {self.task}: no script writes answers with mistakes to it; give "
                "--attempts teacher"
            )
        return self
