"""What all commands print through: results to stdout, progress and remarks to stderr."""

import sys
from collections.abc import Mapping
from json import dump, loads
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console


def console() -> Console:
    """For results. Made anew each time, because stdout may have been redirected since."""
    return Console(highlight=False)


def error_console() -> Console:
    """For progress and remarks, so that stdout holds results alone."""
    return Console(stderr=True, highlight=False)


def print_json(content: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    dump(content, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


Json = Annotated[bool, Parameter(help="Print the outcome as one JSON document.", negative=())]
"""The flag `--json` of every command that has an outcome."""


def print_outcome(folder: Path, json: bool) -> None:
    """Where everything is; with `json`, also what the folder's `summary.json` says."""
    if not json:
        console().print(f"Everything is in {folder}", soft_wrap=True)
        return
    summary = folder / "summary.json"
    said = loads(summary.read_text("utf-8")) if summary.exists() else {}
    print_json({"folder": str(folder), **said})


def hush_libraries() -> None:
    """Switch off the libraries' own progress bars, which would tear up the command's."""
    from transformers.utils import logging

    logging.disable_progress_bar()
