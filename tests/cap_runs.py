"""Tiny CaP runs: their settings, and what they leave in their folders.

The guessing model's programs are `1`, `2` and little else: Python whose last value is the answer.
"""

from pathlib import Path
from typing import Any

from redraft.episode import Episode, read_jsonl
from redraft.methods.cap_config import CapConfig

CHAINS, PROGRAMS = 8, 8
"""Enough that some chains and some programs are right."""


def settings(world: Path, out: Path, **others: Any) -> CapConfig:
    """A run on the world's 6 problems, 3 at a time."""
    few = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "program_prompts": "lab",
        "chains": CHAINS,
        "programs": PROGRAMS,
        "max_tokens": 4,
        "learning_rate": 1e-2,
        "preference_learning_rate": 1e-2,
        "batch_size": 4,
        "preference_batch_size": 8,
        "epochs": 1.0,
        "collect_at_once": 3,
        "device": "cpu",
        "precision": "float32",
    }
    return CapConfig(out=out, **(few | others))


def played(run: Path, iteration: int = 1) -> list[Episode]:
    """What was sampled in an iteration, in order."""
    files = sorted((run / "iterations" / f"{iteration:02d}").glob("episodes-*.jsonl"))
    return [episode for file in files for episode in read_jsonl(file, Episode)]
