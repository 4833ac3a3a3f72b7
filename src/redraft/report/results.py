"""Sections on self-correction: the result, attempts and flips, levels.

Shares are in percent and differences in percentage points, as in the tables of evaluations.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.metrics import answers, grade_of
from redraft.evaluation.statistics import Estimate, flip_test, flips
from redraft.evaluation.table_parts import (
    first_cut_note,
    interval,
    left_out_note,
    p_text,
    percent,
    span,
)
from redraft.evaluation.tables import delta_label, difference_text
from redraft.report import plots
from redraft.report.content import Cell, Figures, Measured, Part, Table, Text, cells_of
from redraft.report.numbers import (
    Comparison,
    by_level,
    compared,
    level_field,
)
from redraft.report.plots import Axis, Line

CAPTION = (
    "cut: responses that hit the length limit, at the worst attempt. A number that is "
    "a link leads to its episodes."
)
PAIRED = (
    "Percentage points, with 95 % intervals of the differences problem by problem; * excludes "
    "0. McNemar: are the last answers right in one and wrong in the other as often as the reverse? "
    "(exact, two-sided; – where problems have several samples)"
)
WORDS = {True: "right", False: "wrong"}
PAIRS = ((True, True), (True, False), (False, True), (False, False))


def headline(every: Sequence[Measured]) -> Iterator[Part]:
    """The table of all evaluations, their paired differences, and what misleads in them."""
    corrected = [one for one in every if one.corrects]
    if corrected:
        yield _systems(corrected)
        for one in corrected:
            yield from _cut_note(one)
            yield from _recorded_note(one)
        yield from _pairs([one for one in corrected if one.episodes])
    for note in dict.fromkeys(note for one in every for note in one.run.notes):
        yield Text(printable(note), warns=True)


def _systems(corrected: Sequence[Measured]) -> Table:
    last = max(len(one.summary["accuracy"]) for one in corrected)
    turns = [0, 1, last - 1] if last > 2 else list(range(last))
    heads = ["system", *(f"attempt {turn + 1}" for turn in turns)]
    if last > 1:
        heads += ["Δ(t1,t2)", "wrong → right", "right → wrong", "changed", "copied"]
    problems = [one.summary["n_problems"] for one in corrected]
    episodes = span([one.summary["n_samples"] for one in corrected])
    left_out = left_out_note([one.summary for one in corrected])
    caption = (
        f"Percent, with 95 % intervals over {span(problems)} problems ({episodes} "
        f"episodes);{left_out} {CAPTION}"
    )
    rows = [_system(one, turns, last > 1) for one in corrected]
    return Table(cells_of([*heads, "cut", "prompts"]), rows, caption)


def _system(one: Measured, turns: Sequence[int], corrects: bool) -> list[Cell]:
    """The row of one evaluation."""
    summary, spans = one.summary, one.summary["ci95"]
    cells = [Cell(printable(one.name), one.rows())]
    for turn in turns:
        if turn < len(summary["accuracy"]):
            link = one.rows(**{f"t{turn + 1}": "right"})
            value, bounds = summary["accuracy"][turn], spans["accuracy"][turn]
            cells.append(Cell(percent(value), link, interval(bounds)))
        else:
            cells.append(Cell("–"))
    if corrects:
        delta, bounds = summary["delta_t1_t2"], spans["delta_t1_t2"]
        cells.append(Cell(percent(delta, signed=True), "", interval(bounds, signed=True)))
        for name, before, after in (("i_to_c", "wrong", "right"), ("c_to_i", "right", "wrong")):
            link = one.rows(t1=before, t2=after)
            cells.append(Cell(percent(summary[name]), link, interval(spans[name])))
        cells.append(Cell(percent(summary["changed"])))
        cells.append(Cell(percent(summary["verbatim_copy"]), one.rows(badge="copied")))
    cut = max(share or 0 for share in summary["truncated"])
    cells.append(Cell(percent(cut), one.rows(badge="truncated")))
    asked = one.run.config.get("prompts") or summary.get("prompts") or "the task's"
    return [*cells, Cell(printable(str(asked)))]


def _cut_note(one: Measured) -> Iterator[Text]:
    """Δ without the problems whose first response was cut."""
    if note := first_cut_note(one.summary, one.run.config.get("max_tokens")):
        link = one.rows(badge="truncated", t1="wrong", t2="right")
        yield Text(printable(f"{one.name}: {note}"), warns=True, link=link)


def _recorded_note(one: Measured) -> Iterator[Text]:
    """What an imported file says itself of its first and last attempts."""
    recorded = one.summary.get("recorded") or {}
    for name, counted in recorded.items():
        yield Text(
            printable(
                f"{one.name}, {name} attempts: the file itself calls {counted['correct']} of "
                f"{counted['episodes']} right; the verdicts here agree with it on "
                f"{counted['agreeing']}."
            )
        )


def _pairs(corrected: Sequence[Measured]) -> Iterator[Part]:
    """Each evaluation minus the first, over the problems that both have."""
    if len(corrected) < 2:
        return
    base, *others = corrected
    found: dict[str, Comparison] = {}
    for one in others:
        if one.run.tasks != base.run.tasks:
            tasks = " and ".join(", ".join(sorted(x.run.tasks)) for x in (one, base))
            said = f"{one.name} and {base.name} are of different tasks ({tasks}): not compared."
            yield Text(printable(said), warns=True)
            continue
        try:
            found[one.name] = compared(one.episodes, base.episodes)
        except UserError as error:
            yield Text(printable(f"{one.name} against {base.name}: {error}."), warns=True)
    last = max(len(one.summary["accuracy"]) for one in corrected)
    shown = [f"accuracy/turn{turn}" for turn in (1, 2, last)] + ["delta_t1_t2", f"delta_t1_t{last}"]
    shown += ["i_to_c", "c_to_i", "changed"]
    known = {name for pair in found.values() for name in pair.differences}
    names = [name for name in dict.fromkeys(shown) if name in known]
    rows = []
    for name, pair in found.items():
        cells = [_difference(pair.differences.get(metric), metric) for metric in names]
        mcnemar = Cell("–")
        if pair.p is not None:
            mcnemar = Cell(p_text(pair.p), "", f"{pair.gained} gained, {pair.lost} lost")
        rows.append([*cells_of([name, f"{pair.problems:,}"]), *cells, mcnemar])
    if rows:
        heads = cells_of(["system", "problems", *map(label, names), "McNemar p"])
        yield Table(heads, rows, PAIRED, printable(f"Difference from {base.name}, in pairs"))


def _difference(estimate: Estimate | None, metric: str) -> Cell:
    if estimate is None:
        return Cell("–")
    value, _, bounds = difference_text(estimate, metric).partition(" ")
    return Cell(value + (" *" if estimate.excludes_zero else ""), "", bounds)


def label(metric: str) -> str:
    """A metric's flat name as a heading."""
    if metric.startswith("accuracy/turn"):
        return f"attempt {metric.removeprefix('accuracy/turn')}"
    if metric.startswith("delta_"):
        return delta_label(metric)
    return {"i_to_c": "wrong → right", "c_to_i": "right → wrong"}.get(metric, metric)


# Attempts and flips


def attempts(every: Sequence[Measured]) -> Iterator[Part]:
    """Accuracy by attempt, and what became of right and wrong answers."""
    several = [one for one in every if one.corrects and len(one.summary["accuracy"]) > 1]
    if several and several[0].plotted:
        drawn = [_accuracy(one, place) for place, one in enumerate(several)]
        plot = plots.lines([Axis("accuracy", "attempt", drawn, percent=True, whole=True)])
        yield Figures.of(plot, "Accuracy by attempt, with 95 % intervals.")
    for one in (one for one in several if one.episodes):
        turns = len(one.summary["accuracy"])
        yield _matrix(one, 1, 2)
        if turns > 2:
            yield _matrix(one, 1, turns)
        if one.plotted:
            steps = [(turn, turn + 1) for turn in range(1, turns)]
            plot = plots.flow(
                [flips(one.episodes, *step) for step in steps],
                [{pair: _flip_rows(one, pair, *step) for pair in PAIRS} for step in steps],
            )
            said = f"{printable(one.name)}: what became of right and wrong answers."
            yield Figures.of(plot, f"{said} Bands lead to their episodes.")


def _accuracy(one: Measured, place: int) -> Line:
    values = one.summary["accuracy"]
    spans = [bounds or (None, None) for bounds in one.summary["ci95"]["accuracy"]]
    return Line(
        printable(one.name),
        range(1, len(values) + 1),
        values,
        [low for low, _ in spans],
        [high for _, high in spans],
        [one.rows(**{f"t{turn + 1}": "right"}) for turn in range(len(values))],
        colour=place,
        dashes=place,
    )


def _flip_rows(one: Measured, pair: tuple[bool, bool], before: int, after: int) -> str:
    return one.rows(**{f"t{before}": WORDS[pair[0]], f"t{after}": WORDS[pair[1]]})


def _matrix(one: Measured, before: int, after: int) -> Table:
    """Episodes by verdict at two attempts."""
    counted = flips(one.episodes, before, after)
    everyone = sum(counted.values())

    def cell(first: bool, second: bool) -> Cell:
        number = counted[first, second]
        link = _flip_rows(one, (first, second), before, after)
        return Cell(f"{number:,}", link, f"{percent(number / everyone)} %")

    rows = [
        [Cell(f"attempt {before} {WORDS[first]}"), cell(first, True), cell(first, False)]
        for first in (True, False)
    ]
    caption = "Episodes."
    if (p := flip_test(one.episodes, before, after)) is not None:
        caption += f" As many repaired as spoiled? McNemar's exact p: {p_text(p)}."
    heads = cells_of(["", f"attempt {after} right", f"attempt {after} wrong"])
    return Table(heads, rows, caption, printable(one.name))


# Levels


def levels(every: Sequence[Measured]) -> Iterator[Part]:
    """Accuracy and flips by difficulty, level or kind, where the problems' metadata has one."""
    for one in every:
        name = level_field(one.episodes) if one.corrects else None
        if name is None:
            continue
        rows = []
        for value, theirs in by_level(one.episodes, name).items():
            scores = [[grade_of(turn).score for turn in answers(episode)] for episode in theirs]
            first, last = (float(np.mean([score[at] for score in scores])) for at in (0, -1))
            counted = flips(theirs, 1, 2)
            level = {f"level.{name}": value}
            cells = [Cell(printable(value), one.rows(**level)), Cell(f"{len(theirs):,}")]
            cells += [Cell(percent(first), one.rows(t1="right", **level)), Cell(percent(last))]
            cells.append(Cell(percent(last - first, signed=True)))
            for before, after in ((False, True), (True, False)):
                link = one.rows(t1=WORDS[before], t2=WORDS[after], **level)
                cells.append(Cell(f"{counted[before, after]:,}", link))
            rows.append(cells)
        heads = [name, "episodes", "first attempt", "last attempt", "Δ"]
        heads += ["wrong → right", "right → wrong"]
        yield Table(cells_of(heads), rows, "Percent; flips are episodes.", printable(one.name))
