"""What all commands print through: results to stdout, progress and remarks to stderr."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console


def console() -> Console:
    """For results. Made anew each time, because stdout may have been redirected since."""
    return Console(highlight=False)


def error_console() -> Console:
    """For progress and remarks, so that stdout holds results alone."""
    return Console(stderr=True, highlight=False)


def print_json(content: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    json.dump(content, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def hush_libraries() -> None:
    """Switch off the libraries' own progress bars, which would tear up the command's."""
    from transformers.utils import logging

    logging.disable_progress_bar()
