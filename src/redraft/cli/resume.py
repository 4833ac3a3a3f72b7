"""`redraft resume`: resume a training run, an evaluation or a demo that stopped."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import Json, hush_libraries, print_outcome, resumable
from redraft.errors import UserError
from redraft.run_directory import RunDirectory


def resume(
    folder: Annotated[Path, Parameter(help="The run's folder: its --out when it began.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Resume the run in `folder` by the command that began it."""
    begun_by = RunDirectory.open(folder).command
    hush_libraries()
    with resumable(folder):
        if begun_by.startswith("train "):
            from redraft.training.launch import resume as resume_training

            resume_training(folder, progress=terminal_progress())
        elif begun_by in ("eval", "collect"):
            from redraft.evaluation import resume as resume_evaluation

            resume_evaluation(folder, progress=terminal_progress())
        elif begun_by == "demo":
            from redraft.cli.demo import show
            from redraft.demo import resume as resume_demo

            show(folder, *resume_demo(folder, terminal_progress()), json)
            return
        else:
            raise UserError(
                f"{folder}: made by `redraft {begun_by}`, which cannot be resumed; run it again"
            )
    print_outcome(folder, json)
