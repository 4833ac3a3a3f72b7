"""Settings of tiny TriPosT runs."""

from pathlib import Path
from typing import Any

from redraft.methods.tripost.config import TripostConfig

FEW: dict[str, Any] = {
    "model": "lab",
    "task": "lab/arithmetic-cells",
    "limit": 8,
    "max_tokens": 48,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "epochs": 1.0,
    "device": "cpu",
    "precision": "float32",
}
SHORT: dict[str, Any] = {"rationale_epochs": 1.0, "iterations": 2, "own_updates": 1, "samples": 2}


def settings(out: Path, **fields: Any) -> TripostConfig:
    """A run of stage 0 and two repeats on 8 problems x 2 trajectories, other fields as given."""
    return TripostConfig(out=out, **(FEW | SHORT | fields))
