"""`redraft train METHOD`: a command for each registered method, made from its settings."""

from functools import partial
from typing import Any

from cyclopts import App, Group

from redraft.cli.flags import command
from redraft.cli.progress import terminal_progress
from redraft.cli.terminal import Json, print_outcome, resumable
from redraft.training.method import METHODS, Method


def _train(method: Method, config: Any, *, json: Json = False) -> None:
    from redraft.training.launch import train

    with resumable(config.out):
        folder = train(method, config, progress=terminal_progress())
    print_outcome(folder, json)


app = App(name="train", help="Train a model with one of the methods.")
_GROUPS = Group("Methods", sort_key=0), Group("Baselines", sort_key=1)
for _method in METHODS.values():
    app.command(
        command(_method.settings, partial(_train, _method), _method.presets),
        name=_method.name,
        help=_method.help,
        group=_GROUPS[_method.baseline],
    )
