"""The demo: measure, train to self-correct, and measure again, on held-out problems of the lab.

It calls the functions that evaluate and train any model, in order, and keeps their results.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from redraft.config import Settings
from redraft.errors import UserError
from redraft.evaluation.evaluate import evaluate
from redraft.evaluation.evaluate import resume as resume_evaluation
from redraft.evaluation.result import Result, read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.methods.score import METHOD, ScoreConfig, Variant
from redraft.progress import Progress, Silent
from redraft.run_directory import RunDirectory, is_run, run_locks
from redraft.storage import write_json
from redraft.system import side_by_side
from redraft.training.launch import resume as resume_training
from redraft.training.launch import train
from redraft.types import Episode

SYSTEMS: dict[str, Variant | None] = {
    "base": None,
    "multi-turn RL (sum)": "multi-turn-sum",
    "SCoRe": "score",
}
"""What the demo compares: the variant each system is trained with, None for the base model."""


class DemoConfig(Settings):
    """The demo."""

    out: Path | None = None
    """Folder for everything; by default a new one under `runs`."""
    task: str = "lab/sorting"
    """Task of the lab."""
    problems: int = Field(default=500, ge=2)
    """Held-out problems of the evaluations."""
    samples: int = Field(default=1, ge=1)
    """Episodes for each of them; more than 1 needs a temperature."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the evaluations; 0 is greedy, as in SCoRe's paper."""
    seed: int = Field(default=1, ge=0)
    """Seed of training and of the evaluations' sampling."""
    stage_one_steps: int | None = Field(default=None, ge=0)
    """Steps of SCoRe's Stage I; by default those of the preset `lab`."""
    stage_two_steps: int | None = Field(default=None, ge=0)
    """Steps of Stage II; plain multi-turn RL trains for as many as both stages together."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class System:
    """One system of a comparison: how it does on the held-out problems, and how long that took."""

    result: Result
    episodes: list[Episode]
    training_s: float
    evaluation_s: float


@run_locks()
def run(
    config: DemoConfig,
    progress: Progress | None = None,
    systems: Mapping[str, Variant | None] = SYSTEMS,
) -> tuple[Path, dict[str, System]]:
    """Train every system and evaluate it on the same problems with the same seeds, side by side.

    Returns:
        The folder everything was written to, and the systems by name.

    Raises:
        UserError: the folder is taken, or the lab's model is missing.
    """
    folder = config.out or new_folder()
    return folder, _run(RunDirectory.create(folder, config, "demo"), config, progress, systems)


@run_locks()
def resume(folder: Path, progress: Progress | None = None) -> tuple[DemoConfig, dict[str, System]]:
    """Resume a demo that stopped: each system from where it was.

    Returns:
        The demo's settings, and the systems by name.

    Raises:
        UserError: the folder is not a demo's, is damaged or in use.
    """
    record = RunDirectory.open(folder)
    if record.command != "demo":
        raise UserError(f"{folder}: made by `redraft {record.command}`; expected demo")
    config, _ = record.config(DemoConfig)
    record.lock()
    return config, _run(record, config, progress, SYSTEMS)


def _run(
    record: RunDirectory,
    config: DemoConfig,
    progress: Progress | None,
    systems: Mapping[str, Variant | None],
) -> dict[str, System]:
    folder = record.folder
    jobs = {
        name: partial(run_system, variant, config, folder / place_of(name))
        for name, variant in systems.items()
    }
    done = side_by_side(jobs, progress or Silent())
    record.summary({name: system.result.to_summary() for name, system in done.items()})
    seconds = {
        name: {"training": system.training_s, "evaluation": system.evaluation_s}
        for name, system in done.items()
    }
    write_json(folder / "seconds.json", seconds)
    return done


def run_system(
    variant: Variant | None, config: DemoConfig, place: Path, progress: Progress
) -> System:
    """Train one system, unless it is the base model, and evaluate it; all goes into `place`, and
    what is there already is taken up."""
    started = time.monotonic()
    if variant is not None:
        out = place / "training"
        progress.note(f"training, {out}")
        if not is_run(out):
            train(METHOD, training_settings(variant, config, out), progress)
        elif not (out / "summary.json").exists():
            resume_training(out, progress)
    trained = time.monotonic()
    progress.note(f"evaluating on {config.problems} held-out problems")
    out = place / "evaluation"
    result = resume_evaluation(out, progress) if is_run(out) else None
    result = result or evaluate(evaluation_settings(variant, config, place), progress)
    return System(
        result,
        read_episodes(out),
        training_s=trained - started,
        evaluation_s=time.monotonic() - trained,
    )


def new_folder() -> Path:
    """Where a demo goes that was given no folder."""
    return Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")


def place_of(name: str) -> str:
    """Name of a system's folder."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def training_settings(variant: Variant, config: DemoConfig, out: Path) -> ScoreConfig:
    """The preset `lab` with the demo's settings."""
    steps = {
        name: value
        for name in ("stage_one_steps", "stage_two_steps")
        if (value := getattr(config, name)) is not None
    }
    given = {
        "out": out,
        "task": config.task,
        "variant": variant,
        "seed": config.seed,
        "device": config.device,
    }
    settings: ScoreConfig = METHOD.configure(preset="lab", overrides={**given, **steps})
    return settings


def evaluation_settings(
    variant: Variant | None, config: DemoConfig, place: Path
) -> EvaluationSettings:
    """The evaluation of the system trained in `place`, or of the base model."""
    return EvaluationSettings(
        model="lab" if variant is None else str(place / "training" / "model"),
        task=config.task,
        limit=config.problems,
        samples=config.samples,
        temperature=config.temperature,
        max_tokens=METHOD.presets["lab"]["max_tokens"],
        seed=config.seed,
        device=config.device,
        out=place / "evaluation",
    )
