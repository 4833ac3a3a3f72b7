"""The lab: generated problems and a tiny real model, to see the whole system work on a laptop.

It registers its tasks, prompts, model and command as any other package does (`pyproject.toml`), and
nothing elsewhere treats it specially. `docs/lab.md` says what the base model saw and why.
"""

from pathlib import Path

from redraft.models import NamedModel
from redraft.registry import Command


def model_path() -> Path:
    """The folder of the model that ships with the package."""
    return Path(__file__).parent / "model"


def task_for(question: str) -> str:
    """The task that a question of the lab belongs to."""
    return "lab/sorting" if question.startswith("Sort ") else "lab/arithmetic"


MODEL = NamedModel("lab", model_path, "make it with `redraft lab build`", task_for)

COMMAND = Command("lab", "The toy environment that ships with the package.", "redraft.lab.cli:app")
