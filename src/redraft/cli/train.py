"""`redraft train METHOD`: a command for each registered method, made from its settings."""

import os
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import (
    OUTPUT,
    Json,
    console,
    main_process,
    print_json,
    print_outcome,
    resumable,
)
from redraft.errors import UserError
from redraft.training.method import METHODS, Method

PlanFlag = Annotated[
    bool,
    Parameter(
        help="Train nothing: say how much memory each device needs, and from a short measurement "
        "how long a step takes.",
        negative=(),
        group=OUTPUT,
    ),
]
Processes = Annotated[
    int | None,
    Parameter(help="With --plan: devices that the run will have.", group=OUTPUT),
]


def _train(
    method: Method,
    config: Any,
    *,
    plan: PlanFlag = False,
    processes: Processes = None,
    json: Json = False,
) -> int | None:
    from redraft.training.launch import train

    if plan:
        return _plan(method, config, processes, json)
    if processes is not None:
        raise UserError("--processes belongs to --plan; start a run on several with torchrun")
    with resumable(config.out):
        folder = train(method, config, progress=terminal_progress())
    print_outcome(folder, json)
    return None


def _plan(method: Method, config: Any, processes: int | None, json: bool) -> int:
    """Print what a run would take; 1 where it would not fit."""
    from redraft.training.plan import plan_training

    count = processes or int(os.environ.get("WORLD_SIZE", "1"))
    if not main_process():
        return 0
    planned = plan_training(method, config, count)
    if json:
        print_json(planned.as_json())
    else:
        for line in planned.lines():
            console().print(line, soft_wrap=True)
    return 0 if planned.memory.problem is None else 1


app = App(name="train", help="Train a model with one of the methods.")
_GROUPS = Group("Methods", sort_key=0), Group("Baselines", sort_key=1)
for _method in METHODS.values():
    app.command(
        command(_method.settings, partial(_train, _method), _method.presets),
        name=_method.name,
        help=_method.help,
        group=_GROUPS[_method.baseline],
    )
