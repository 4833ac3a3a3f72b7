"""What `redraft eval` and `redraft collect` can be told."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from redraft.config import Settings


class RolloutSettings(Settings):
    """Which model attempts which problems, and how."""

    model: str = "lab"
    """`lab`, a folder in Hugging Face format, or a model id of the Hugging Face hub."""
    task: str
    """Source of the problems; `redraft tasks` lists them."""
    data: Path | None = None
    """Read the task from this local file or folder instead of the hub."""
    split: Literal["train", "test"] = "test"
    """Part of the task to take problems from."""
    grader: str | None = None
    """Grader for `--task jsonl`: exact, number, math, choice, or `module:function`."""
    question_field: str | None = None
    """Field with the question, for `--task jsonl`."""
    gold_field: str | None = None
    """Field with the gold answer, for `--task jsonl`."""
    limit: int | None = Field(default=None, ge=1)
    """Take this many problems, chosen by the seed; by default all."""
    prompts: str | None = None
    """What is said to the model: score-math, score-code, boxed, plain, lab, or a YAML file with
    `first`, `retry` and, if wanted, `instructions`, `instructions_as` and `stop`; by default the
    task's own."""
    thinking: bool | None = None
    """Switch the model's thinking on or off, for chat templates that know `enable_thinking`."""
    protocol: Literal["intrinsic"] = "intrinsic"
    """What is said between attempts; `intrinsic` asks to look again and tells nothing."""
    turns: int = Field(default=2, ge=1)
    """Attempts in an episode."""
    samples: int = Field(default=1, ge=1)
    """Episodes for each problem."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest attempt; a longer one is cut off and counts as wrong."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of problems and of the sampling."""
    max_rows: int | None = Field(default=None, ge=1)
    """Dialogues played at once: the memory knob; default: by free memory."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is float32 on a CPU and bfloat16 on a GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    @property
    def template_values(self) -> dict[str, bool]:
        """Variables for the chat template."""
        return {} if self.thinking is None else {"enable_thinking": self.thinking}

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"--samples {self.samples} at --temperature 0 would be equal; give --temperature"
            )
        return self


class EvaluationSettings(RolloutSettings):
    """An evaluation; with `out`, also written to a folder."""

    out: Path | None = None
    """Folder for summary.json and episodes.jsonl; by default the result is only printed."""


class CollectSettings(RolloutSettings):
    """Episodes to a folder, without statistics."""

    out: Path
    """Folder for the episodes."""
