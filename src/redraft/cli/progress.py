"""Progress on a terminal as bars with the key numbers below, and in a log as plain lines."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from redraft.cli.terminal import error_console
from redraft.errors import printable
from redraft.progress import Forecast, Longer, Phase, Progress, Silent

LINES_PER_PHASE = 20
"""In a log, where every step would be too many lines, a phase takes about this many."""
SECONDS_WITHOUT_LINE = 60
"""In a log, while responses are under way, a line comes at least this often."""


SECONDS_UNTIL_BAR = 2
"""A phase within another gets a bar once it has lasted so long: short ones would only flicker."""


def terminal_progress() -> Progress:
    """Bars where stderr is a terminal, plain lines where it is a file or a pipe."""
    console = error_console()
    return BarProgress(console) if console.is_terminal else LineProgress(sys.stderr)


class _Depth(threading.local):
    """How many phases a thread is in: jobs side by side are watched by a thread each."""

    value = 0


class _View(Bars):
    """The bars, and under them the numbers of each phase that has any, as wide as need be."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `rich.progress.Progress`."""
        yield self.make_tasks_table(self.tasks)
        told = [task for task in self.tasks if task.visible and task.fields["metrics"]]
        for task in told:
            whose = f"{task.description.strip()}: " if len(told) > 1 else ""
            yield Text(f"  {whose}{task.fields['metrics']}", "cyan")


class BarProgress:
    """A bar for each phase under way; a finished outermost phase leaves one line behind."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _View(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]eta"),
            _Eta(),
            console=console,
            transient=True,
        )
        self._depth = _Depth()
        self._lock = threading.Lock()
        self._under_way = 0

    @contextmanager
    def phase(
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
    ) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        with self._lock:
            if self._under_way == 0:
                self._bars.start()
            self._under_way += 1
        forecast = Forecast(total, max_tokens, longer)
        task = self._bars.add_task(
            "  " * self._depth.value + name,
            total=None if total is None else 1.0,
            visible=self._depth.value == 0,
            metrics="",
            count=_count(forecast),
            forecast=forecast,
        )
        self._depth.value += 1
        phase = _BarPhase(self._bars, task, forecast)
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
        self._console.print(Text(printable(text)), soft_wrap=True)


class _Eta(ProgressColumn):
    """The time that is left by the task's forecast."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.fields["forecast"].seconds_left
        return Text("-:--" if left is None else _clock(left), style="progress.remaining")


class _BarPhase:
    def __init__(self, bars: Bars, task: TaskID, forecast: Forecast) -> None:
        self._bars, self._task, self._forecast = bars, task, forecast
        self._began = time.monotonic()
        self._told = ""

    @property
    def metrics(self) -> str:
        tokens = _tokens(self._forecast) if self._forecast.tokens else ""
        return "  ".join(filter(None, (self._told, tokens)))

    def skip(self, n: int) -> None:
        self._forecast.skip(n)
        self._update()

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self._told = _shown(metrics) or self._told
        self._forecast.add(0, n)
        self._update()

    def watch(self, tokens: int, responses: int) -> None:
        self._forecast.add(tokens, responses)
        self._update()

    def _update(self) -> None:
        forecast = self._forecast
        shown: dict[str, Any] = {"metrics": self.metrics, "count": _count(forecast)}
        if time.monotonic() - self._began >= SECONDS_UNTIL_BAR:
            shown["visible"] = True
        self._bars.update(self._task, completed=forecast.share, **shown)


class LineProgress:
    """A line at the beginning of an outermost phase, some on the way, one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._depth = _Depth()

    @contextmanager
    def phase(
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
    ) -> Iterator[Phase]:
        """See `redraft.progress.Progress`."""
        if self._depth.value:
            yield Silent()
            return
        began = time.monotonic()
        unit = "responses" if max_tokens else "steps"
        self.note(f"{name}: begins" + (f", {total} {unit}" if total else ""))
        self._depth.value = 1
        try:
            yield _LinePhase(self, name, Forecast(total, max_tokens, longer))
        finally:
            self._depth.value = 0
        self.note(f"{name}: done in {_duration(began)}")

    def note(self, text: str) -> None:
        """See `redraft.progress.Progress`."""
        print(printable(text), file=self._stream, flush=True)


class _LinePhase:
    """A line for every twentieth of the work, and at least one a minute while tokens come."""

    def __init__(self, lines: LineProgress, name: str, forecast: Forecast) -> None:
        self._lines, self._name, self._forecast = lines, name, forecast
        self._every = max(1, (forecast.total or 0) // LINES_PER_PHASE)
        self._last = (time.monotonic(), 0, 0.0)  # time, steps and share of the latest line

    def skip(self, n: int) -> None:
        self._forecast.skip(n)

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        due = (self._forecast.done + n) // self._every > self._forecast.done // self._every
        self._forecast.add(0, n)
        if due:
            self._say(_shown(metrics))

    def watch(self, tokens: int, responses: int) -> None:
        self._forecast.add(tokens, responses)
        when, done, share = self._last
        crossed = self._forecast.share >= share + 1 / LINES_PER_PHASE
        late = time.monotonic() - when >= SECONDS_WITHOUT_LINE
        if late or (crossed and self._forecast.done > done):
            self._say(_tokens(self._forecast) if self._forecast.tokens else "")

    def _say(self, shown: str) -> None:
        self._last = (time.monotonic(), self._forecast.done, self._forecast.share)
        left = self._forecast.seconds_left
        eta = "" if left is None else f", eta {_clock(left)}"
        self._lines.note(f"{self._name} {_count(self._forecast)}{eta}{shown and '  ' + shown}")


def _count(forecast: Forecast) -> str:
    return f"{forecast.done}" + (f"/{forecast.total}" if forecast.total else "")


def _tokens(forecast: Forecast) -> str:
    return f"{forecast.tokens:,} tokens, {forecast.rate:,.0f} a second"


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
