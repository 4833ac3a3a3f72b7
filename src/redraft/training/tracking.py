"""Trackers: services that a run's metrics are also sent to, through accelerate."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

PROJECT = "redraft"
"""The project that runs belong to where a service has projects."""


class Trackers:
    """The trackers of one run.

    None of them may stop it: one that fails, at the start or later, is left out from then on, with
    one line that says so.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        step: int,
        note: Callable[[str], None],
    ) -> None:
        """Start them for the run in `folder`, which has taken `step` steps, of no step later."""
        self._note = note
        self._started: dict[str, Any] = {}
        for name in names:
            self._try(name, partial(self._start, name, folder, settings, step))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Send a step's numbers."""
        numbers = {name: v for name, v in metrics.items() if isinstance(v, int | float)}
        for name, tracker in [*self._started.items()]:
            self._try(name, partial(tracker.log, numbers, step=step))

    def finish(self) -> None:
        """End them, once everything has been sent."""
        for name, tracker in [*self._started.items()]:
            self._try(name, tracker.finish)

    def _start(self, name: str, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        # The same one for a resumed run, another for a new one in a folder of that name.
        begun = (folder / "environment.json").stat().st_mtime_ns
        run = f"{folder.name}-{hashlib.sha256(f'{folder} {begun}'.encode()).hexdigest()[:8]}"
        tracker = {
            # Of steps that a resumed run takes anew, what was written before does not count.
            "tensorboard": lambda make: make(name, folder, purge_step=step + 1 if step else None),
            "wandb": lambda make: make(PROJECT, name=run, id=run, resume="allow", dir=str(folder)),
            "trackio": lambda make: make(PROJECT, name=run, resume="allow"),
        }[name](LOGGER_TYPE_TO_CLASS[name])
        tracker.start()
        if not step:
            plain = {k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()}
            tracker.store_init_configuration(plain)
        self._started[name] = tracker

    def _try(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self._started.pop(name, None)
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._note(
                f"warning: --track {name}: {why}; the run goes on without it, and its "
                "metrics.jsonl has everything"
            )
