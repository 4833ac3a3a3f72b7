"""Tiny CaP runs: their settings, and what they leave in their folders; programs by hand.

The guessing model's programs are `1`, `2` and little else: Python whose last value is the answer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episodes import Answer, episode
from redraft.methods.cap.settings import CapConfig
from redraft.storage import read_jsonl
from redraft.types import Episode

CHAINS, PROGRAMS = 8, 8
"""Enough that some chains and some programs are right."""


def settings(world: Path, out: Path, **others: Any) -> CapConfig:
    """A run on the world's 6 problems, 3 at a time."""
    texts = world / "program.yaml"
    texts.write_text("alone: '{question} Write a program.'\nrefine: Write a program.\n")
    few = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "program_prompts": str(texts),
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


@dataclass(frozen=True)
class Chain:
    """A chain of thought on a problem whose gold answer is 7; without a text there is none."""

    problem: str
    text: str = ""
    answer: str | None = None

    @property
    def response(self) -> list[Answer]:
        """The chain as the first answer of an episode."""
        tokens = list(self.text.encode())
        made = Answer(self.answer == "7", self.text, [1, 2], tokens, self.answer)
        return [made] if self.text else []


def program(chain: Chain, code: str, label: str | None) -> Episode:
    """A program after a chain, with its label; None: without one."""
    made = Answer(label == "right", code, shown=[3, 4, 5], made=list(code.encode()))
    tags = {} if label is None else {"label": label}
    return episode(*chain.response, made, problem=chain.problem, protocol="cap", tags=tags)
