"""`redraft tasks`: the tasks that a model can be trained and evaluated on."""

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from redraft.cli.terminal import console, print_json
from redraft.tasks.base import TASKS


def tasks(
    *,
    json: Annotated[
        bool, Parameter(help="Print one JSON document: description by name.", negative=())
    ] = False,
) -> None:
    """List the tasks. Datasets come from the hub or from --data; other problems are generated."""
    descriptions = {entry.name: entry.description for entry in TASKS.values()}
    if json:
        print_json(descriptions)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, description in descriptions.items():
        table.add_row(Text(name, "bold"), Text(description))
    console().print(table)
