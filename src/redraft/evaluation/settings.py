"""What `redraft eval` and `redraft collect` can be told."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from redraft.settings import AttemptSettings


class RolloutSettings(AttemptSettings):
    """Which model attempts which problems, and how."""

    split: Literal["train", "test"] = "test"
    """Part of the task to take problems from."""
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
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is float32 on a CPU and bfloat16 on a GPU."""

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
