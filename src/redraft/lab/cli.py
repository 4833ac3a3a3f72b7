"""`redraft lab build`: train the lab's model anew."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console, hush_libraries
from redraft.lab import COMMAND, model_path

app = App(name=COMMAND.name, help=COMMAND.help)


@app.command
def build(
    *,
    out: Annotated[
        Path | None,
        Parameter(help="Folder; by default the package's own, whose model it replaces."),
    ] = None,
    seed: Annotated[int, Parameter(help="Seed of the corpus and of the training.")] = 0,
) -> None:
    """Train the lab's model anew from its seed.

    Generates the corpus and pretrains the model on it: about 20 minutes on one CPU core.
    """
    from redraft.lab import build as lab_build

    hush_libraries()
    folder = model_path() if out is None else out
    lab_build.build(folder, seed=seed, progress=terminal_progress())
    console().print(f"The lab's model is in {folder}", soft_wrap=True)
