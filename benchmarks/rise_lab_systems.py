"""The systems that `rise_lab.py` compares, and how one of them is trained and evaluated."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redraft.config import Settings
from redraft.demo import place_of
from redraft.errors import UserError
from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.progress import Progress
from redraft.run_directory import RunDirectory
from redraft.training.launch import resume, train
from redraft.training.method import METHODS

TURNS = 5


@dataclass(frozen=True)
class System:
    """What is compared: a model trained with a method and some settings, or the base (no method),
    and how its evaluation is told apart."""

    method: str | None = None
    told: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


EXPERT = {"teacher": "expert", "teacher_temperature": 0.0}

STAR = {"iterations": 3, "start": "base"}
PAIR = {"iterations": 1, "epochs": 1.0}
"""SCoRe's numbers for its baselines."""

SYSTEMS: dict[str, System] = {
    "base": System(),
    "Self-Refine": System(evaluation={"protocol": "self-refine", "prompts": "self-refine"}),
    "RISE, self-distillation": System("rise"),
    "RISE, expert": System("rise", {"improve": "teacher", **EXPERT}),
    "BoN-SFT": System("bon-sft"),
    "STaR D": System("star", STAR),
    "STaR D+": System("star", {"plus": True, **STAR}),
    "Pair-SFT D": System("pair-sft", PAIR),
    "Pair-SFT D+": System("pair-sft", {"plus": True, **PAIR}),
    "off-policy SFT": System("off-policy-sft", EXPERT),
    "LMSI": System("lmsi"),
}
"""What is compared."""

COMMON = {
    name: METHODS["rise"].presets["lab"][name]
    for name in (
        "model",
        "task",
        "iterations",
        "problems_per_iteration",
        "learning_rate",
        "epochs",
        "batch_size",
        "max_tokens",
        "tokens_per_microbatch",
    )
}
"""What all systems are told, unless told otherwise."""


def place_in(out: Path, seed: int, name: str) -> Path:
    """Where everything of a system is."""
    return out / f"seed-{seed}" / place_of(name.replace("+", " plus"))


def summary_of(place: Path) -> Path:
    """Where a system's evaluation is summarised."""
    return place / "evaluation" / "summary.json"


def run(name: str, place: Path, seed: int, problems: int, progress: Progress) -> None:
    """Train and evaluate one system, unless that was done already.

    Raises:
        UserError: what lies there was made with other settings; and whatever training raises.
    """
    system, window = SYSTEMS[name], None
    if system.method is not None:
        told = {**COMMON, **system.told, "seed": seed, "out": (place / "training").absolute()}
        config = METHODS[system.method].configure(overrides=told)
        window = config.window
        begun = made_with(place / "training", config)
        if not (place / "training" / "summary.json").exists():
            progress.note(f"{name}, seed {seed}: training")
            if begun:
                resume(place / "training", progress)
            else:
                train(system.method, config, progress)
    told = {
        "model": "lab" if system.method is None else str((place / "training" / "model").absolute()),
        "task": COMMON["task"],
        "limit": problems,
        "turns": TURNS,
        "window": window,
        "temperature": 1.0,
        "max_tokens": COMMON["max_tokens"],
        "seed": seed,
        "parallel": True,
        "out": place / "evaluation",
        **system.evaluation,
    }
    settings = EvaluationSettings(**told)
    made_with(place / "evaluation", settings)
    if not summary_of(place).exists():
        progress.note(f"{name}, seed {seed}: evaluating")
        evaluate(settings, progress)


def made_with(folder: Path, config: Settings) -> bool:
    """Whether a run was begun in the folder, with these settings.

    Raises:
        UserError: it was begun with others.
    """
    if not (folder / "config.yaml").exists():
        return False
    begun, _ = RunDirectory.open(folder).config(type(config))
    for name, value in config.model_dump().items():
        if name != "out" and (was := begun.model_dump()[name]) != value:
            raise UserError(
                f"{folder}: was made with {name} {was!r}, wanted is {value!r}; "
                "give another --out or delete the folder"
            )
    return True
