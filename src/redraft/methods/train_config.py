"""What every training run can be told, whatever its method."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from redraft.models import LAB
from redraft.settings import AttemptSettings


class TrainConfig(AttemptSettings):
    """A training run: its folder, its policy and problems, and how weights change."""

    model_config = ConfigDict(allow_inf_nan=False)

    out: Path
    """Folder of the run; new or empty."""
    task: str = "lab/sorting"
    """Task to train on (`redraft tasks` lists them)."""
    seed: int = Field(default=0, ge=0)
    """Seed of data order, sampling and initialisation."""

    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature in training."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest attempt, in tokens; a longer one is cut off and counts as wrong."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate, at its peak."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Tokens that go through the model at once: the memory knob of training."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of LoRA adapters; 0 trains all weights. With LoRA the reference costs no memory."""
    lora_alpha: int | None = Field(default=None, ge=1)
    """LoRA adapters are scaled by this over the rank; default: twice the rank."""
    lora_targets: str = "all-linear"
    """Layers that get LoRA adapters: all-linear, or names separated by commas (q_proj,v_proj)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of training and rollout; auto is bfloat16 where the device has it in hardware. The
    weights themselves and the optimiser are always float32."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Newest checkpoints that are kept; two at least, because the newest may hold weights that the
    next step fails of."""

    @property
    def lora_target_modules(self) -> str | list[str]:
        """`lora_targets` as PEFT takes it: a list of names, or "all-linear"."""
        names = [name.strip() for name in self.lora_targets.split(",")]
        return "all-linear" if names == ["all-linear"] else names

    @field_validator("model")
    @classmethod
    def _absolute_folder(cls, model: str) -> str:
        """A run may be resumed from another folder than the one it was started in."""
        folder = Path(model).expanduser()
        return str(folder.absolute()) if model != LAB and folder.is_dir() else model

    @field_validator("data")
    @classmethod
    def _absolute_data(cls, data: Path | None) -> Path | None:
        return data.absolute() if data is not None and data.exists() else data

    @field_validator("out")
    @classmethod
    def _absolute_out(cls, out: Path) -> Path:
        return out.absolute()
