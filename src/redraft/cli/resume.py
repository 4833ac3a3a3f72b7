"""`redraft resume`: go on with a run, whatever method it is of."""

import importlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import Json, hush_libraries, print_outcome
from redraft.errors import UserError
from redraft.methods.baselines_config import BASELINES
from redraft.runs import Run

_TRIPOST = ("tripost", "rationale-sft", "si-demo-sft")
RESUMABLE = {
    "train score": "redraft.methods.score",
    "train rise": "redraft.methods.rise",
    "train cap": "redraft.methods.cap",
    **{f"train {name}": "redraft.methods.baselines" for name in BASELINES},
    **{f"train {name}": "redraft.methods.tripost" for name in _TRIPOST},
}
"""By the command that began a run, the module whose `resume` goes on with it."""


def resume(
    folder: Annotated[Path, Parameter(help="The run's folder: its --out when it began.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Go on with the run in `folder`, by the method that began it."""
    begun_by = Run.open(folder).command
    if begun_by not in RESUMABLE:
        raise UserError(f"{folder}: made by `redraft {begun_by}`, which starts over; run it again")
    hush_libraries()
    method = importlib.import_module(RESUMABLE[begun_by])
    try:
        method.resume(folder, progress=terminal_progress())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with `redraft resume {folder}`") from None
    print_outcome(folder, json)
