"""`redraft lab build`: make the lab's model anew."""

from pathlib import Path

from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import console, hush_libraries


def build(*, out: Path | None = None, seed: int = 0) -> None:
    """Generate the corpus and pretrain the model on it.

    Parameters
    ----------
    out
        Folder for the model; by default the package's own, whose model it replaces.
    seed
        Seed of the corpus and of the training.
    """
    from redraft.lab import build as lab_build
    from redraft.lab import model_path

    hush_libraries()
    folder = model_path() if out is None else out
    lab_build.build(folder, seed=seed, progress=terminal_progress())
    console().print(f"The lab's model is in {folder}", soft_wrap=True)
