"""Tiny SCoRe runs: their settings, and what they leave in their folders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from guessing_model import save_guesser, save_problems
from redraft.methods.score import ScoreConfig
from redraft.progress import Phase, Silent
from redraft.storage import read_jsonl
from redraft.types import Episode


class Notes(Silent):
    """Keeps the notes and the names of the phases, without those within others."""

    def __init__(self) -> None:
        self._depth = 0
        self.notes: list[str] = []
        self.phases: list[tuple[str, int | None]] = []

    @contextmanager
    def phase(self, name: str, total: int | None = None, *more: object) -> Iterator[Phase]:
        self.phases += [(name, total)] * (not self._depth)
        self._depth += 1
        yield self
        self._depth -= 1

    def note(self, text: str) -> None:
        self.notes.append(text)


TIMES = {
    "time",
    *(
        f"{kind}/{what}"
        for kind in ("seconds", "tokens_per_second")
        for what in ("rollout", "reference", "update", "evaluation")
    ),
}


def make_world(folder: Path) -> Path:
    """Write the model and the problems that `settings` names; returns the folder."""
    save_guesser(folder / "model")
    save_problems(folder / "problems.jsonl")
    (folder / "split").mkdir()
    save_problems(folder / "split" / "train.jsonl")
    save_problems(folder / "split" / "test.jsonl", "1211", first=20)
    return folder


def settings(world: Path, out: Path, **fields: Any) -> ScoreConfig:
    """A run of one step of each stage on 3 problems x 4 episodes, other fields as given.

    With `evaluate_every` the problems are the same and others are held out.
    """
    few = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / ("split" if "evaluate_every" in fields else "problems.jsonl"),
        "grader": "exact",
        "prompts": "lab",
        "stage_one_steps": 1,
        "stage_two_steps": 1,
        "problems_per_step": 3,
        "samples": 4,
        "max_tokens": 4,
        "learning_rate": 1e-2,
        "device": "cpu",
        "precision": "float32",
        "seed": 5,  # some attempts are right at every step; where none is, nothing is learned
    }
    return ScoreConfig(out=out, **(few | fields))


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` without how long things took."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics(run)]


def played(run: Path, step: int, process: int = 0) -> list[Episode]:
    """The episodes of a step that a process has sampled."""
    name = f"train-process{process}" if process else "train"
    return read_jsonl(run / "episodes" / f"{name}-{step:06d}.jsonl", Episode)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model's folder."""
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def same_weights(first: Path, second: Path) -> bool:
    """Whether two folders hold the same weights to the bit."""
    ours, theirs = weights(first), weights(second)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in ours.items()
    )
