"""Output of all commands: results to stdout, progress and notes to stderr."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dump, loads
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter
from rich.console import Console

from redraft.errors import UserError
from redraft.processes import naming_the_ended
from redraft.run_directory import is_run

OUTPUT = Group("Configuration and output", sort_key=1000)
"""The flags of a command that are no settings, last on its help page."""


def console() -> Console:
    """For results. Made anew each time, because stdout may have been redirected since. Nothing in a
    text is markup, for names of folders and models stand in many."""
    return Console(highlight=False, markup=False)


def error_console() -> Console:
    """For progress and notes, so that stdout holds results alone."""
    return Console(stderr=True, highlight=False, markup=False)


def print_json(content: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    dump(content, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


Json = Annotated[
    bool,
    Parameter(help="Print the outcome as one JSON document.", negative=(), group=OUTPUT),
]
"""The flag `--json` of every command that has an outcome."""


def main_process() -> bool:
    """Whether this is the process that prints, of those that `torchrun` may have started."""
    return os.environ.get("RANK", "0") == "0"


def print_outcome(folder: Path, json: bool) -> None:
    """Where everything is; with `json`, also what the folder's `summary.json` says. Of the
    processes of a run only the main one prints."""
    if not main_process():
        return
    if not json:
        console().print(f"Everything is in {folder}", soft_wrap=True)
        report_hint(folder)
        return
    summary = folder / "summary.json"
    said = loads(summary.read_text("utf-8")) if summary.exists() else {}
    print_json({"folder": str(folder), **said})


@contextmanager
def resumable(folder: Path | None) -> Iterator[None]:
    """Whatever ends the run in `folder` too early, a signal, a full disk or the end of one of its
    processes, comes with how to resume it."""
    try:
        with naming_the_ended(f"`redraft resume {folder}` resumes the run, on all processes"):
            yield
    except KeyboardInterrupt as interruption:
        if folder is None or not is_run(folder):
            raise
        raise type(interruption)(f"resume with `redraft resume {folder}`") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "make room"
        if folder is not None and is_run(folder):
            remedy += f", and `redraft resume {folder}` resumes"
        raise UserError(f"{error.filename or folder}: {error.strerror}; {remedy}") from None


def report_hint(folder: Path) -> None:
    """How to open the report of a run directory: the last line of every command that writes one."""
    console().print(f"See it with: redraft report {shlex.quote(str(folder))}", soft_wrap=True)


def hush_libraries() -> None:
    """Switch off the libraries' own progress bars, which would tear up the command's."""
    from transformers.utils import logging

    logging.disable_progress_bar()
