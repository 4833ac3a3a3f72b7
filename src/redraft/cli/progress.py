"""Progress on a terminal as bars with the key numbers, and in a log as plain lines."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from redraft.cli.terminal import error_console
from redraft.progress import Phase, Progress, Silent

LINES_PER_PHASE = 20
"""In a log, where every step would be too many lines, a phase takes about this many."""


def terminal_progress() -> Progress:
    """Bars where stderr is a terminal, plain lines where it is a file or a pipe."""
    console = error_console()
    return BarProgress(console) if console.is_terminal else LineProgress(sys.stderr)


class _Depth(threading.local):
    """How many phases a thread is in: jobs side by side are watched by a thread each."""

    value = 0


class BarProgress:
    """A bar for each phase under way; a finished outermost phase leaves one line behind."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]eta"),
            TimeRemainingColumn(),
            TextColumn("[cyan]{task.fields[metrics]}"),
            console=console,
            transient=True,
        )
        self._depth = _Depth()
        self._lock = threading.Lock()
        self._under_way = 0

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        with self._lock:
            if self._under_way == 0:
                self._bars.start()
            self._under_way += 1
        task = self._bars.add_task("  " * self._depth.value + name, total=total, metrics="")
        self._depth.value += 1
        phase = _BarPhase(self._bars, task)
        began = time.monotonic()
        try:
            yield phase
            if self._depth.value == 1:
                line = Text.assemble(("✓ ", "green"), (name, "bold"), f"  {_duration(began)}")
                self._console.print(line.append(f"  {phase.metrics}", "cyan"), soft_wrap=True)
        finally:
            self._depth.value -= 1
            self._bars.remove_task(task)
            with self._lock:
                self._under_way -= 1
                if self._under_way == 0:
                    self._bars.stop()

    def note(self, text: str) -> None:
        """See `redraft.progress.Progress`."""
        self._console.print(Text(text), soft_wrap=True)


class _BarPhase:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self.metrics = ""

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self.metrics = _shown(metrics) or self.metrics
        self._bars.update(self._task, advance=n, metrics=self.metrics)


class LineProgress:
    """A line at the beginning of an outermost phase, some on the way, one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._depth = _Depth()

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        if self._depth.value:
            yield Silent()
            return
        began = time.monotonic()
        self.note(f"{name}: begins" + (f", {total} steps" if total else ""))
        self._depth.value = 1
        try:
            yield _LinePhase(self, name, total)
        finally:
            self._depth.value = 0
        self.note(f"{name}: done in {_duration(began)}")

    def note(self, text: str) -> None:
        """See `redraft.progress.Progress`."""
        print(text, file=self._stream, flush=True)


class _LinePhase:
    def __init__(self, lines: LineProgress, name: str, total: int | None) -> None:
        self._lines = lines
        self._name = name
        self._total = total
        self._every = max(1, (total or 0) // LINES_PER_PHASE)
        self._done = 0
        self._began = time.monotonic()

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        due = (self._done + n) // self._every > self._done // self._every
        self._done += n
        if due:
            of = f"/{self._total}" if self._total else ""
            left = f", eta {self._eta()}" if self._total else ""
            shown = _shown(metrics)
            self._lines.note(f"{self._name} {self._done}{of}{left}{shown and '  ' + shown}")

    def _eta(self) -> str:
        assert self._total is not None
        rate = (time.monotonic() - self._began) / max(1, self._done)
        return _clock(rate * max(0, self._total - self._done))


def _shown(metrics: dict[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value}" if isinstance(value, (str, int)) else f"{name} {value:.3g}"
        for name, value in metrics.items()
    )


def _duration(began: float) -> str:
    return _clock(time.monotonic() - began)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
