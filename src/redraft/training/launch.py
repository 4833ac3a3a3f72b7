"""Starting and resuming training runs, by the name of their method."""

from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.interruption import Terminated
from redraft.progress import Progress, Silent
from redraft.run_directory import RunDirectory, run_locks
from redraft.training.method import METHODS, Method
from redraft.training.on_policy import OnPolicyRun
from redraft.training.run import TrainingRun
from redraft.training.settings import TrainConfig
from redraft.training.supervised import SupervisedRun

RUNS: dict[str, type[TrainingRun[Any]]] = {"on_policy": OnPolicyRun, "supervised": SupervisedRun}

TRAIN = "train "
"""How the command of a training run begins, in its `environment.json`."""


@run_locks()
def train(method: str | Method, config: TrainConfig, progress: Progress | None = None) -> Path:
    """Train a method from the beginning; returns the run's folder.

    Raises:
        UserError: no such method, or anything in the configuration, the model or the data that
            cannot work.
    """
    chosen = METHODS[method] if isinstance(method, str) else method
    run = RUNS[chosen.run].create(config, TRAIN + chosen.name, progress or Silent())
    return _to_the_end(chosen, run)


@run_locks()
def resume(folder: Path, progress: Progress | None = None) -> Path:
    """Resume a run from its newest complete checkpoint; it ends at the same weights.

    Raises:
        UserError: the folder is not a training run's, is damaged or in use, or its method is not
            installed.
    """
    command = RunDirectory.open(folder).command
    if not command.startswith(TRAIN):
        raise UserError(f"{folder}: made by `redraft {command}`, which trains nothing")
    method = METHODS[command.removeprefix(TRAIN)]
    run = RUNS[method.run].reopen(folder, method.settings, progress or Silent())
    return _to_the_end(method, run)


def _to_the_end(method: Method, run: TrainingRun[Any]) -> Path:
    try:
        method.train(run)
        return run.finish()
    except Terminated:
        run.write_stopgap()
        raise
    finally:
        run.stop()
