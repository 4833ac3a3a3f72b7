"""`redraft tasks`: what there is to train and evaluate on."""

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from redraft.cli.terminal import console, print_json
from redraft.tasks import task_descriptions


def tasks(
    *,
    json: Annotated[
        bool, Parameter(help="Print one JSON document: description by name.", negative=())
    ] = False,
) -> None:
    """What tasks there are. Each takes its problems from the hub, or from --data."""
    descriptions = task_descriptions()
    if json:
        print_json(descriptions)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, description in descriptions.items():
        table.add_row(Text(name, "bold"), Text(description))
    console().print(table)
