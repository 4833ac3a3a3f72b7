"""The systems that `rise_lab.py` compares, and how one of them is trained and evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redraft.config import Settings, resolve
from redraft.demo import place_of
from redraft.errors import UserError
from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.methods import baselines, rise
from redraft.methods.baselines_config import BASELINES
from redraft.methods.rise_config import RiseConfig
from redraft.methods.supervised_config import SupervisedConfig
from redraft.progress import Progress
from redraft.runs import Run

TURNS = 5


@dataclass(frozen=True)
class Training:
    """How a system is trained: its settings beside the common ones, and by which functions."""

    settings: type[SupervisedConfig]
    told: dict[str, Any]
    train: Callable[[Any, Progress], Path]
    resume: Callable[[Path, Progress], Path]


@dataclass(frozen=True)
class System:
    """What is compared: a trained model, or the base, and how its evaluation is told apart."""

    training: Training | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)


def _rise(**told: Any) -> System:
    return System(Training(RiseConfig, told, rise.train, rise.resume))


def _baseline(name: str, **told: Any) -> System:
    def train(config: SupervisedConfig, progress: Progress) -> Path:
        return baselines.train(name, config, progress)

    return System(Training(BASELINES[name], told, train, baselines.resume))


EXPERT = {"teacher": "expert", "teacher_temperature": 0.0}

STAR = {"iterations": 3, "start": "base"}
PAIR = {"iterations": 1, "epochs": 1.0}
"""SCoRe's numbers for its baselines."""

SYSTEMS: dict[str, System] = {
    "base": System(),
    "Self-Refine": System(evaluation={"protocol": "self-refine", "prompts": "self-refine"}),
    "RISE, self-distillation": _rise(),
    "RISE, expert": _rise(improve="teacher", **EXPERT),
    "BoN-SFT": _baseline("bon-sft"),
    "STaR D": _baseline("star", **STAR),
    "STaR D+": _baseline("star", plus=True, **STAR),
    "Pair-SFT D": _baseline("pair-sft", **PAIR),
    "Pair-SFT D+": _baseline("pair-sft", plus=True, **PAIR),
    "off-policy SFT": _baseline("off-policy-sft", **EXPERT),
    "LMSI": _baseline("lmsi"),
}
"""What is compared."""

COMMON = {
    name: RiseConfig.presets["lab"][name]
    for name in (
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
    training, window = SYSTEMS[name].training, None
    if training is not None:
        told = {**COMMON, **training.told, "seed": seed, "out": (place / "training").absolute()}
        config = resolve(training.settings, overrides=told)
        window = config.window
        begun = made_with(place / "training", config)
        if not (place / "training" / "summary.json").exists():
            progress.note(f"{name}, seed {seed}: training")
            if begun:
                training.resume(place / "training", progress)
            else:
                training.train(config, progress)
    told = {
        "model": "lab" if training is None else str((place / "training" / "model").absolute()),
        "task": COMMON["task"],
        "limit": problems,
        "turns": TURNS,
        "window": window,
        "temperature": 1.0,
        "max_tokens": COMMON["max_tokens"],
        "seed": seed,
        "parallel": True,
        "out": place / "evaluation",
        **SYSTEMS[name].evaluation,
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
    begun = Run.open(folder).config(type(config))
    for name, value in config.model_dump().items():
        if name != "out" and (was := begun.model_dump()[name]) != value:
            raise UserError(
                f"{folder}: was made with {name} {was!r}, wanted is {value!r}; "
                "give another --out or delete the folder"
            )
    return True
