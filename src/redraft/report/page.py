"""A report as one HTML file, as Markdown, and as CSV.

The page loads nothing: its Content-Security-Policy allows the one script and the one style sheet in
it, by their hashes, and no network at all. Jinja escapes every text; what the viewer shows is data.
"""

import base64
import csv
import hashlib
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from redraft import __version__
from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.table_parts import markdown_lines, plain_markdown
from redraft.report.content import Section, Table, Text
from redraft.report.numbers import summary_of
from redraft.report.runs import EpisodeFile, Run, read_runs
from redraft.report.sections import sections
from redraft.report.traces import Traces
from redraft.run_directory import is_run
from redraft.storage import write_text

EPISODES = 20_000
"""Episodes that a page holds unless told otherwise."""


@dataclass(frozen=True)
class Report:
    """What a page is made of."""

    title: str
    sections: Sequence[Section]


def write_report(
    folders: Sequence[Path], out: Path, episodes: int = EPISODES, refresh: int | None = None
) -> Path:
    """Write the report of some run directories to one HTML file; returns it.

    Args:
        folders: run directories, or folders that hold some.
        out: the file; its folder is made if need be.
        episodes: most episodes in the trace viewer: evaluations' come first, and of each step of
            training those of problems with a flip.
        refresh: seconds after which a browser loads the page again; None: it does not.

    Raises:
        UserError: no such folder, or no run in it.
    """
    runs = read_runs(folders)
    traces, note = traced(runs, episodes)
    shown = sections(runs)
    if note:
        first = shown[0]
        shown[0] = Section(first.id, first.title, [*first.parts, Text(note)])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render(Report(_title(runs), shown), traces, refresh))
    return out


def watched(
    folders: Sequence[Path], out: Path, episodes: int = EPISODES, seconds: float = 10.0
) -> Iterator[Path]:
    """Write the report, and again whenever a file of the runs has changed, until all of them have
    ended; yields each time. A browser loads the page again every `seconds`, at least.

    Raises:
        UserError: as `write_report`.
    """
    begun, before = {folder for folder in folders if is_run(folder)}, None
    while True:
        try:
            runs = read_runs(folders)
        except UserError:
            if all((place / "summary.json").exists() for place in begun):
                raise
            runs = []  # they have not got to their first episodes
        places = begun | {run.folder for run in runs}
        ended = all((place / "summary.json").exists() for place in places)
        now = {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for run in runs
            for path in run.folder.rglob("*.json*")
        }
        if runs and now != before:
            refresh = None if ended else max(10, round(seconds))
            yield write_report(folders, out, episodes, refresh)
            before = now
        if ended:
            return
        time.sleep(seconds)


def _title(runs: Sequence[Run]) -> str:
    names = [printable(run.name) for run in runs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def render(report: Report, traces: Traces, refresh: int | None = None) -> str:
    """The page as text."""
    here = files("redraft.report")
    script, style, template = (
        (here / name).read_text("utf-8") for name in ("viewer.js", "page.css", "page.html.j2")
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = Environment(autoescape=True).from_string(template)
    return page.render(
        report=report,
        policy=policy,
        refresh=refresh,
        script=script,
        style=style,
        index=traces.index(),
        pieces=traces.pieces(),
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def traced(runs: Sequence[Run], most: int) -> tuple[Traces, str]:
    """The episodes of the page, at most about `most`, and what is said where some are left out."""
    traces, room, left_out = Traces(), most, 0
    numbers = [traces.add_run(run) for run in runs]
    for run, number in zip(runs, numbers, strict=True):
        for part, episodes in run.parts.items():
            kept = episodes[: max(0, room)]
            traces.add(run, number, EpisodeFile(run.folder, part), kept)
            room, left_out = room - len(kept), left_out + len(episodes) - len(kept)
    steps = [(run, n, file) for run, n in zip(runs, numbers, strict=True) for file in run.files]
    steps = [(run, number, file) for run, number, file in steps if file.step is not None]
    for done, (run, number, file) in enumerate(steps):
        kept = run.read(file, max(0, room) // (len(steps) - done))
        traces.add(run, number, file, kept)
        room -= len(kept)
    note = "The page has not all episodes (--episodes): "
    if left_out:
        return traces, f"{note}{left_out:,} of the evaluations' and training's are left out."
    if steps and room < most // 100 + 1:
        return traces, f"{note}of each step of training it has some problems, first with a flip."
    return traces, ""


# Text


def markdown(folders: Sequence[Path]) -> str:
    """The report without figures and episodes, for a model card or a pull request.

    Raises:
        UserError: as `write_report`.
    """
    runs = read_runs(folders)
    return f"# {_title(runs)}\n\n" + "\n".join(
        f"## {section.title}\n\n" + "\n".join(_markdown(part) for part in section.parts)
        for section in sections(runs, plotted=False)
    )


def _markdown(part: Any) -> str:
    if not isinstance(part, Table):
        return f"{plain_markdown(part.text)}\n"
    title = f"**{plain_markdown(part.title)}**\n\n" if part.title else ""
    rows = [[plain_markdown(f"{c.text} {c.small}".strip()) for c in row] for row in part.rows]
    heads = [plain_markdown(cell.text) or " " for cell in part.heads]
    caption = f"\n{plain_markdown(part.caption)}\n" if part.caption else ""
    return f"{title}{markdown_lines(heads, rows)}\n{caption}"


def as_csv(folders: Sequence[Path]) -> str:
    """Every number of every evaluation, a line each: run, group, metric, value, low, high; and of
    every training run each metric by step.

    Raises:
        UserError: as `write_report`.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["run", "group", "metric", "step", "value", "low", "high"])
    for run in read_runs(folders):
        for group, metric, value, bounds in _numbers(summary_of(run)):
            lines.writerow(
                [_cell(run.name), group, _cell(metric), "", value, *(bounds or ("", ""))]
            )
        for line in run.metrics:
            for name, value in line.items():
                if name not in ("step", "time", "phase") and value is not None:
                    lines.writerow(
                        [_cell(run.name), "training", _cell(name), line.get("step"), value, "", ""]
                    )
    return out.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _numbers(part: Any, group: str = "") -> Iterator[tuple[str, str, float, Any]]:
    """Group, metric, value and interval of everything in a summary; lists are by turn."""
    spans = part.get("ci95", {})
    for name, value in part.items():
        if name == "ci95":
            continue
        if isinstance(value, dict):
            yield from _numbers(value, f"{group}/{name}".strip("/"))
        elif isinstance(value, list):
            for turn, one in enumerate(value, start=1):
                if isinstance(one, int | float):
                    yield (
                        group,
                        f"{name}/turn{turn}",
                        one,
                        (spans.get(name) or {turn - 1: None})[turn - 1],
                    )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield group, name, value, spans.get(name)
