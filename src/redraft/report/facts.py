"""Sections of facts: other evaluations, graders compared, costs, configuration."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.tables import blind_spot_table, summary_table, tables
from redraft.grading import MathGrader, NumberGrader, compare_with_math_verify
from redraft.report.content import Cell, Details, Measured, Part, Table, Text, cells_of
from redraft.report.runs import Run
from redraft.tasks import get_task

MOST_COMPARED = 500
"""Episodes whose verdicts are compared with math-verify's."""


def others(every: Sequence[Measured]) -> Iterator[Part]:
    """Strategies, self-improvement and blind spots, and all metrics of each evaluation."""
    for one in every:
        if "strategies" in one.summary or "self_improvement" in one.summary:
            yield from map(_from_rich, tables(one.summary, one.name))
        if spot := one.summary.get("blind_spot"):
            yield _from_rich(blind_spot_table(spot, f"{one.name}: the blind spot"))
        if one.corrects:
            rows = _from_rich(summary_table(one.summary)).rows
            text = "\n".join(f"{a.text:<28}{b.text:>10}  {c.text}" for a, b, c in rows)
            yield Details(printable(f"all metrics of {one.name}"), text)


def _from_rich(table: RichTable) -> Table:
    """A terminal's table as one of the report's."""
    columns = [list(map(str, column.cells)) for column in table.columns]
    rows = [cells_of(row) for row in zip(*columns, strict=True)]
    heads = cells_of(column.header for column in table.columns)
    return Table(heads, rows, str(table.caption or ""), str(table.title or ""))


# Grading


def grading(every: Sequence[Measured]) -> Iterator[Part]:
    """Where math-verify alone would have decided otherwise, for tasks with such answers."""
    for one in every:
        if not one.corrects or not _is_mathematical(one.run):
            continue
        episodes = one.episodes[:MOST_COMPARED]
        found = compare_with_math_verify(episodes)
        said = f"of the answers in {len(episodes):,} of {len(one.episodes):,} episodes"
        yield Text(printable(f"{one.name}: math-verify alone differs on {len(found)} {said}."))
        verdicts = {True: "right", False: "wrong", None: "no verdict"}
        rows = [
            cells_of([
                difference.problem,
                difference.gold,
                difference.ours.answer or "none",
                f"{verdicts[difference.ours.correct]} ({difference.ours.decided_by})",
                verdicts[difference.theirs],
            ])
            for difference in found[:50]
        ]  # fmt: skip
        if rows:
            heads = cells_of(["problem", "gold", "answer", "verdict here", "math-verify"])
            yield Table(heads, rows, f"The first {len(rows)}." if len(found) > 50 else "")


def _is_mathematical(run: Run) -> bool:
    name = str(run.config.get("task") or next(iter(run.tasks), ""))
    grader = run.config.get("grader")
    try:
        data = Path("-") if name == "jsonl" else None
        task = get_task(name, data, grader=grader)  # a task is opened, its data is not
    except UserError:
        return False
    return isinstance(task.grader, MathGrader | NumberGrader)


# Costs


def costs(every: Sequence[Measured]) -> Iterator[Part]:
    """Tokens, seconds, programs and money of each run."""
    rows = [_cost(one.run) for one in every]
    heads = ["run", "command", "episodes", "generated tokens", "tokens an episode"]
    heads += ["seconds", "programs run", "requests", "price"]
    yield Table(
        cells_of(heads),
        rows,
        "Of evaluations' episodes. Seconds: of sampling and grading, in training of its steps. "
        "Price: of an endpoint's tokens, at the prices that were given. – where nothing was "
        "recorded.",
    )


def _cost(run: Run) -> list[Cell]:
    episodes = [episode for part in run.parts.values() for episode in part]
    responses = [turn for episode in episodes for turn in episode.responses]
    tokens = sum(turn.generated for turn in responses)
    grades = [turn.grade for turn in responses if turn.grade is not None]
    programs = sum(g.decided_by in ("tests", "program") or g.output is not None for g in grades)
    lines = [*run.metrics, {f"seconds/{part}": value for part, value in run.timing.items()}]
    took = [v for line in lines for name, v in line.items() if name.startswith("seconds/")]
    took = [value for value in took if isinstance(value, int | float)]
    numbers = (
        (len(episodes) or None, ",d"),
        (tokens or None, ",d"),
        (tokens / len(episodes) if tokens else None, ",.1f"),
        (sum(took) if took else None, ",.0f"),
        (programs if episodes else None, ",d"),
        (run.usage.get("requests"), ",d"),
        (run.usage.get("cost"), ",.4f"),
    )
    shown = ["–" if number is None else format(number, form) for number, form in numbers]
    return cells_of([run.name, run.command, *shown])


# Configuration


def settings(every: Sequence[Measured]) -> Iterator[Part]:
    """Settings in which runs of one kind differ, and all settings and the environment of each."""
    flat = {one.run.name: _flat(one.run.config) for one in every}
    shared = [name for name in next(iter(flat.values())) if all(name in c for c in flat.values())]
    rows = [
        cells_of([name, *(config[name] for config in flat.values())])
        for name in shared
        if len({str(config[name]) for config in flat.values()}) > 1
    ]
    if rows:
        heads = cells_of(["setting", *flat])
        yield Table(heads, rows, "", "Settings that differ, of those that all runs have")
    for one in every:
        everything = flat[one.name] | _flat(one.run.environment)
        text = "\n".join(f"{name}: {value}" for name, value in everything.items())
        title = f"{one.name}: settings and environment ({one.run.folder})"
        yield Details(printable(title), printable(text))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by name with dots."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
