"""`redraft report`, `redraft show`, `redraft compare`, `redraft import` and `redraft export`."""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from redraft.cli.flags import command
from redraft.cli.terminal import Json, console, error_console, print_json, report_hint
from redraft.errors import UserError
from redraft.report.imports import ImportSettings

if TYPE_CHECKING:
    from redraft.report.runs import Run
    from redraft.types import Episode

Folder = Annotated[Path, Parameter(help="A run directory: the --out of a command.")]


def report(
    *folders: Annotated[
        Path, Parameter(help="Run directories, or folders that hold some; several are compared.")
    ],
    out: Annotated[
        Path | None, Parameter(help="The file; by default report.html in the folder.")
    ] = None,
    markdown: Annotated[
        bool, Parameter(help="Print it as Markdown, for a model card or pull request.", negative=())
    ] = False,
    csv: Annotated[
        bool, Parameter(help="Print every number as comma-separated values.", negative=())
    ] = False,
    watch: Annotated[
        bool,
        Parameter(help="Write it again as the runs go on, until they end or Ctrl-C.", negative=()),
    ] = False,
    episodes: Annotated[int, Parameter(help="Most episodes in the page.")] = 20_000,
) -> None:
    """Write one HTML file; or print the report as Markdown or CSV."""
    from redraft.report.page import as_csv, watched, write_report
    from redraft.report.page import markdown as as_markdown

    if episodes < 0:
        raise UserError(f"--episodes {episodes}: expected 0 or more")
    if markdown + csv + watch > 1:
        raise UserError("--markdown, --csv and --watch: give one of them")
    if markdown or csv:
        sys.stdout.write((as_csv if csv else as_markdown)(folders))
        return
    place = out or Path(os.path.commonpath([str(f) for f in folders or ["."]])) / "report.html"
    if not watch:
        print_report(write_report(folders, place, episodes))
        return
    for number, written in enumerate(watched(folders, place, episodes)):
        if number == 0:
            print_report(written)
            error_console().print("kept current until the runs end, or Ctrl-C")


def print_report(file: Path) -> None:
    """Where a report is, as an address that a browser takes."""
    console().print(f"Report: {file.resolve().as_uri()}", soft_wrap=True)


def show(
    folder: Folder,
    /,
    *,
    repaired: Annotated[bool, Parameter(help="Wrong first, right last.", negative=())] = False,
    spoiled: Annotated[bool, Parameter(help="Right first, wrong last.", negative=())] = False,
    copied: Annotated[
        bool, Parameter(help="An attempt that is the one before it.", negative=())
    ] = False,
    truncated: Annotated[bool, Parameter(help="An attempt that was cut off.", negative=())] = False,
    problem: Annotated[str | None, Parameter(help="Episodes of this problem, by its id.")] = None,
    step: Annotated[
        int | None, Parameter(help="Step of a training run; by default the last one.")
    ] = None,
    limit: Annotated[int, Parameter(help="Episodes that are shown.")] = 10,
) -> None:
    """Print episodes with the difference between attempts."""
    from redraft.evaluation.examples import example_panel

    wanted = {"repaired": repaired, "spoiled": spoiled, "copied": copied, "truncated": truncated}
    tests = [_SHOWN[name] for name, given in wanted.items() if given]
    shown = matching = everything = 0
    for episode in _episodes(folder, step):
        everything += 1
        if not episode.answers or (problem is not None and episode.problem.id != problem):
            continue
        if all(test(episode) for test in tests):
            matching += 1
            if shown < limit:
                console().print(example_panel(episode))
                shown += 1
    if not everything:
        raise UserError(f"{folder}: no episodes" + (f" of step {step}" if step is not None else ""))
    console().print(f"{shown} of {matching} episodes shown, {everything} in all")


def _episodes(folder: Path, step: int | None) -> Iterator["Episode"]:
    """The episodes of the evaluations in a folder; of a training run those of one step."""
    from redraft.report.runs import read_runs

    for run in read_runs([folder]):
        steps = [file for file in run.files if file.step is not None]
        if not steps and step is None:
            yield from (one for part in run.parts.values() for one in part)
        last = step if step is not None or not steps else steps[-1].step
        for file in steps:
            if file.step == last:
                yield from run.read(file)
        for note in run.notes:
            error_console().print(note, soft_wrap=True)


_SHOWN: dict[str, Callable[["Episode"], bool]] = {
    "repaired": lambda one: not one.correct[0] and one.correct[-1],
    "spoiled": lambda one: one.correct[0] and not one.correct[-1],
    "copied": lambda one: any(
        a.text == b.text and a.has_text and b.has_text for a, b in pairwise(one.answers)
    ),
    "truncated": lambda one: any(turn.truncated for turn in one.answers),
}


def compare(first: Folder, second: Folder, /, *, json: Json = False) -> None:
    """Print the second evaluation minus the first, paired by problem."""
    from rich.table import Table

    from redraft.evaluation.tables import comparison_table, difference_text
    from redraft.report.numbers import compared, episodes_of, summary_of
    from redraft.report.results import label

    runs = [read_evaluation(folder) for folder in (first, second)]
    names = (
        [run.name for run in runs] if runs[0].name != runs[1].name else [str(first), str(second)]
    )
    tasks = [", ".join(sorted(run.tasks)) for run in runs]
    if tasks[0] != tasks[1]:
        raise UserError(
            f"{first} is of task {tasks[0]} and {second} of {tasks[1]}: nothing to pair"
        )
    a, b = (episodes_of(run) for run in runs)
    found = compared(b, a)
    if json:
        differences = {n: d and vars(d) for n, d in found.differences.items()}
        mcnemar = {"gained": found.gained, "lost": found.lost, "p": found.p}
        print_json({"n_problems": found.problems, "differences": differences, "mcnemar": mcnemar})
        return
    out = console()
    out.print(comparison_table(dict(zip(names, map(summary_of, runs), strict=True))))
    caption = f"Percentage points, {found.problems:,} problems in both; 95 % paired intervals."
    table = Table(title=f"{names[1]} minus {names[0]}", caption=caption)
    table.add_column("metric")
    table.add_column("difference", justify="right")
    for name, estimate in found.differences.items():
        table.add_row(label(name), difference_text(estimate, name))
    out.print(table)
    if found.p is not None:
        flips = f"{found.gained} gained, {found.lost} lost"
        out.print(f"last answers: {flips}; McNemar's exact p {found.p:.3g}")


def read_evaluation(folder: Path) -> "Run":
    """The one evaluation of self-correction in a folder."""
    from redraft.report.numbers import episodes_of
    from redraft.report.runs import read_runs

    runs = [run for run in read_runs([folder]) if not run.is_training and episodes_of(run)]
    if len(runs) != 1:
        inside = ", ".join(str(run.folder) for run in runs) or "none"
        raise UserError(
            f"{folder}: expected one evaluation with episodes of turns; it has {inside}"
        )
    return runs[0]


def _import(config: ImportSettings, file: Path, /) -> None:
    from redraft.report.imports import import_attempts

    folders = import_attempts(config, file)
    for folder in folders:
        console().print(f"Everything is in {folder}", soft_wrap=True)
    report_hint(config.out)


def export(
    folder: Folder,
    /,
    *,
    to: Annotated[
        Literal["sft", "preference", "parquet", "inspect"],
        Parameter(
            help="`sft`, `preference`: JSON Lines for TRL; `parquet`: a row an episode, which "
            "`datasets` reads; `inspect`: a log for `inspect view`."
        ),
    ],
    out: Annotated[Path, Parameter(help="The file that is written; for `inspect` a folder.")],
) -> None:
    """Write the episodes of an evaluation for another tool."""
    from redraft.report.exports import export as write

    rows, file = write(read_evaluation(folder), to, out)
    console().print(f"{rows} rows in {file}", soft_wrap=True)


import_command = command(ImportSettings, _import)
