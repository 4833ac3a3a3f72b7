"""Sections of curves: equal compute, edit distances, training."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from urllib.parse import urlencode

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.table_parts import interval, percent, rounded
from redraft.report import plots
from redraft.report.content import Cell, Figure, Figures, Measured, Part, Table, Text, cells_of
from redraft.report.numbers import Spent, crossing, edit_distances, equal_compute
from redraft.report.plots import Axis, Bars, Line
from redraft.report.results import WORDS, label
from redraft.report.runs import Run


def compute(every: Sequence[Measured]) -> Iterator[Part]:
    """K responses one after another against K side by side, in responses and in tokens."""
    for one in (one for one in every if one.corrects):
        try:
            curves = equal_compute(one.run)
        except UserError as error:
            yield Text(printable(f"{one.name}: turns and votes are not compared: {error}"))
            continue
        if not curves:
            continue
        if one.plotted:
            axes = [Axis("accuracy", "responses K", _curves(curves, "k"), True, whole=True)]
            if all(point.tokens for points in curves.values() for point in points):
                lines = _curves(curves, "tokens")
                axes.append(Axis("accuracy", "generated tokens a problem", lines, True))
            said = f"{printable(one.name)}: K responses one after another, or side by side."
            yield Figures.of(plots.lines(axes), said)
        for name in ("last turn", "vote over turns"):
            said = crossing(curves[name], curves["parallel vote"])
            yield Text(
                printable(
                    f"{one.name}, {name} against the parallel vote, by the estimates: {said}."
                )
            )
        yield _compute_table(one, curves)


def _compute_table(one: Measured, curves: Mapping[str, Sequence[Spent]]) -> Table:
    rows = []
    for place, votes in enumerate(curves["parallel vote"]):
        cells = [Cell(str(votes.k))]
        for points in curves.values():
            row, tokens = points[place].row, points[place].tokens
            bounds = None if row.low is None or row.high is None else [row.low, row.high]
            spent = "" if tokens is None else f", {tokens:,.1f} tokens"
            cells.append(Cell(percent(row.value), "", interval(bounds) + spent))
        rows.append(cells)
    caption = "Percent, with 95 % intervals; generated tokens a problem; means over problems."
    return Table(cells_of(["K", *curves]), rows, caption, printable(one.name))


def _curves(curves: Mapping[str, Sequence[Spent]], x: str) -> list[Line]:
    return [
        Line(
            name,
            [getattr(point, x) for point in points],
            [point.row.value for point in points],
            [point.row.low for point in points],
            [point.row.high for point in points],
            colour=place,
            dashes=place,
        )
        for place, (name, points) in enumerate(curves.items())
    ]


# Edit distance

FLIPS = {"wrong → right": (False, True), "right → wrong": (True, False)}


def edits(every: Sequence[Measured]) -> Iterator[Part]:
    """How far second answers are from first ones, by what became of the verdict."""
    figures = [_edits(one) for one in every if one.corrects and one.plotted]
    if shown := [figure for figure in figures if figure is not None]:
        yield Figures(shown)


def _edits(one: Measured) -> Figure | None:
    pairs, distances = edit_distances(one.episodes)
    if not pairs or one.summary.get("edit_distance_ratio") is None:
        return None
    edges = np.linspace(0, 1, 21).round(2)
    verdicts = [tuple(episode.correct[:2]) for episode in pairs]
    layers, links = {}, {}
    for name in (*FLIPS, "verdict unchanged"):
        flip = FLIPS.get(name)
        chosen = [
            distance
            for distance, verdict in zip(distances, verdicts, strict=True)
            if verdict == flip or (flip is None and verdict not in FLIPS.values())
        ]
        layers[name] = np.histogram(chosen, edges)[0].tolist()
        words = {f"t{k}": WORDS[right] for k, right in enumerate(flip or (), start=1)}
        ranges = [f"{low:g}..{1.01 if high == 1 else high:g}" for low, high in pairwise(edges)]
        links[name] = [one.rows(edit=bounds, **words) for bounds in ranges]
    said = f"Mean {rounded(float(distances.mean()), 3)}; 0 is a copy, 1 has nothing in common."
    title, x = printable(one.name), "edit-distance ratio, attempt 1 to 2"
    bars = plots.histogram(Bars(edges.tolist(), layers, links), title, x)
    return Figure(bars, f"{said} Bars lead to their episodes.")


# Training

FAMILIES: Sequence[tuple[str, Sequence[str], bool]] = (
    ("accuracy", ("accuracy/turn",), True),
    ("accuracy, held out", ("held_out/accuracy/turn",), True),
    ("Δ(t1,t2)", ("delta_t1_t2", "held_out/delta_t1_t2"), True),
    ("wrong → right", ("i_to_c",), True),
    ("right → wrong", ("c_to_i",), True),
    ("changed and copied", ("changed", "verbatim_copy"), True),
    ("edit-distance ratio", ("edit_distance_ratio",), False),
    ("KL by turn", ("kl/turn",), False),
    ("entropy by turn", ("entropy/turn",), False),
    ("log-prob gap, mean", ("logprob_gap/mean_abs",), False),
    ("problems without a signal", ("no_signal/turn",), True),
    ("truncated", ("truncated/turn",), True),
    ("reward", ("reward/turn", "rewards/chosen", "rewards/rejected"), False),
    ("loss", ("loss",), False),
)
"""Small plots of training: title, metrics by name or beginning, whether they are shares."""
LINKED = {"i_to_c": {"t1": "wrong", "t2": "right"}, "c_to_i": {"t1": "right", "t2": "wrong"}}
LINES = {"delta_t1_t2": "training", "held_out/delta_t1_t2": "held out", "verbatim_copy": "copied"}


def training(every: Sequence[Measured]) -> Iterator[Part]:
    """What training logged by step, and where each run is."""
    trained = [one for one in every if one.run.metrics]
    if not trained:
        return
    axes = []
    for title, names, share in FAMILIES:
        drawn = [
            _curve(one, name, place, number, len(trained) > 1)
            for place, one in enumerate(trained)
            for number, name in enumerate(_chosen(one.run, names))
        ]
        if drawn:
            axes.append(Axis(title, "step", drawn, share, whole=True))
    if axes and trained[0].plotted:
        said = "Metrics by step, as logged. Points of flips lead to the first episode they count."
        yield Figures.of(plots.lines(axes), said)
    yield _last_steps([one.run for one in trained])


def _chosen(run: Run, names: Sequence[str]) -> list[str]:
    """The metrics of a run that have one of the names, or begin with one of "/turn"."""
    logged = sorted({name for line in run.metrics for name in line})
    turns = tuple(name for name in names if name.endswith("/turn"))
    return [name for name in logged if name in names or (turns and name.startswith(turns))]


def _curve(one: Measured, name: str, place: int, number: int, several: bool) -> Line:
    lines = [line for line in one.run.metrics if isinstance(line.get(name), int | float)]
    turn = name.rpartition("/turn")[2] if "/turn" in name else ""
    what = f"turn {turn}" if turn else LINES.get(name, name.rpartition("/")[2])
    filters = LINKED.get(name)
    links = [
        "#first?" + urlencode({"run": one.number, "step": line["step"], **filters})
        for line in lines
        if filters
    ]
    return Line(
        printable(f"{one.name}, {what}" if several else what),
        [line["step"] for line in lines],
        [line[name] for line in lines],
        links=links,
        colour=place if several else number,
        dashes=number,
    )


def _last_steps(trained: Sequence[Run]) -> Table:
    names = ["accuracy/turn1", "accuracy/turn2", "delta_t1_t2", "i_to_c", "c_to_i"]
    rows = []
    for run in trained:
        recent = run.metrics[-max(1, len(run.metrics) // 10) :]
        cells = cells_of([run.name, run.metrics[-1].get("step", "?")])
        for name in names:
            values = [line[name] for line in recent if isinstance(line.get(name), int | float)]
            mean = float(np.mean(values)) if values else None
            cells.append(Cell(percent(mean, signed=name.startswith("delta"))))
        rows.append([*cells, Cell(str(run.summary.get("selected_step", "–")))])
    heads = cells_of(["run", "steps", *map(label, names), "selected step"])
    caption = "Percent, of training's own episodes; means over the last tenth of the steps."
    return Table(heads, rows, caption)
