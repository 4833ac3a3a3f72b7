"""Runs of a benchmark that may be interrupted: what is finished is left as it is, what has begun is
resumed."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redraft.config import Settings
from redraft.errors import UserError
from redraft.evaluation import evaluate
from redraft.evaluation import resume as resume_evaluation
from redraft.evaluation.settings import EvaluationSettings
from redraft.progress import Progress
from redraft.run_directory import RunDirectory, is_run
from redraft.storage import write_json
from redraft.training.launch import resume as resume_training
from redraft.training.launch import train
from redraft.training.settings import TrainConfig


def trained(
    method: str, config: TrainConfig, progress: Progress, *, keep_checkpoints: bool = False
) -> Path:
    """The model folder of a training run that has ended. The models of its iterations are deleted,
    and its checkpoints unless other runs go on from them: those of a real model hold gigabytes."""
    folder = config.out
    if not (folder / "summary.json").exists():
        progress.note(f"training {folder}")
        with _timed(folder):
            if is_run(folder):
                resume_training(folder, progress)
            else:
                train(method, config, progress)
    needless = [] if keep_checkpoints else [folder / "checkpoints"]
    for weights in (*needless, *folder.glob("iterations/*/model")):
        shutil.rmtree(weights, ignore_errors=True)
    return folder / "model"


def evaluated(config: EvaluationSettings, progress: Progress) -> Path:
    """The folder of an evaluation that has ended."""
    folder = config.out
    assert folder is not None
    if not (folder / "summary.json").exists():
        progress.note(f"evaluating into {folder}")
        with _timed(folder):
            if is_run(folder):
                resume_evaluation(folder, progress)
            else:
                evaluate(config, progress)
    return folder


def made_with(folder: Path, config: Settings) -> bool:
    """Whether a run was begun in the folder, with these settings.

    Raises:
        UserError: it was begun with others.
    """
    if not is_run(folder):
        return False
    begun, _ = RunDirectory.open(folder).config(type(config))
    for name, value in config.model_dump().items():
        if name != "out" and (was := begun.model_dump()[name]) != value:
            raise UserError(
                f"{folder}: was made with {name} {was!r}, wanted is {value!r}; "
                "give another --out or delete the folder"
            )
    return True


def hours(runs: Iterable[Path]) -> float:
    """How long runs took, without the pauses of those that were interrupted; what was killed
    outright is not counted."""
    files = {_seconds_file(run) for run in runs}
    return sum(json.loads(file.read_text("utf-8")) for file in files if file.exists()) / 3600


@contextmanager
def _timed(folder: Path) -> Iterator[None]:
    file, began = _seconds_file(folder), time.monotonic()
    try:
        yield
    finally:
        before = json.loads(file.read_text("utf-8")) if file.exists() else 0.0
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, round(before + time.monotonic() - began, 1))


def _seconds_file(run: Path) -> Path:
    return run.with_name(f"{run.name}-seconds.json")
