"""The content of a report: sections of tables, figures and sentences, whatever shows them.

Shares are in percent and differences in percentage points, as in the tables of evaluations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

import numpy as np
from rich.table import Table as RichTable

from redraft.errors import UserError
from redraft.evaluation.examples import printable
from redraft.evaluation.metrics import answers, grade_of
from redraft.evaluation.statistics import Estimate
from redraft.evaluation.table_parts import (
    few_note,
    interval,
    left_out_note,
    percent,
    rounded,
    span,
)
from redraft.evaluation.tables import ONE_POINT, difference_text, summary_table, tables
from redraft.report import plots
from redraft.report.numbers import (
    by_level,
    compared,
    complete_delta,
    crossing,
    edit_distances,
    episodes_of,
    equal_compute,
    flip_test,
    flips,
    level_field,
    summary_of,
)
from redraft.report.plots import Axis, Bars, Line
from redraft.report.runs import Run
from redraft.types import Episode

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the address of the episodes behind it, and what is small."""

    text: str
    link: str = ""
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows."""

    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    title: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A plot and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Figures:
    """Plots side by side."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Text:
    """A sentence or two; `warns` where a number would mislead without it."""

    text: str
    warns: bool = False
    link: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Details:
    """Preformatted text that is folded away."""

    title: str
    text: str
    kind: ClassVar[str] = "details"


Part = Table | Figures | Text | Details


@dataclass(frozen=True)
class Section:
    """A section of the report; `id` is its address."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass
class Measured:
    """A run with its place in the report, its summary and the episodes that count."""

    run: Run
    number: int
    plotted: bool = True
    summary: Summary = field(init=False)
    episodes: list[Episode] = field(init=False)

    def __post_init__(self) -> None:
        self.summary = summary_of(self.run)
        self.episodes = episodes_of(self.run)

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.run.name

    def rows(self, **filters: object) -> str:
        """The address of its episodes that fit some filters of the viewer."""
        return "#rows?" + urlencode({"run": self.number, "part": "turns", **filters})


def sections(runs: Sequence[Run], plotted: bool = True) -> list[Section]:
    """Everything there is to say of some runs; without what they have no data for.

    `plotted` False leaves the figures out, for readers that show none.
    """
    every = [Measured(run, number, plotted) for number, run in enumerate(runs)]
    corrected = [one for one in every if "accuracy" in one.summary and one.episodes]
    trained = [one.run for one in every if one.run.is_training and one.run.metrics]
    made = [
        Section("headline", "Result", list(_headline(every, corrected))),
        Section("attempts", "Attempts and flips", list(_attempts(corrected))),
        Section("compute", "Equal compute", list(_compute(corrected))),
        Section("edits", "Edit distance", list(_edits(corrected))),
        Section("levels", "By level", list(_levels(corrected))),
        Section("training", "Training", list(_training(trained, every))),
        Section("strategies", "Other evaluations", list(_others(every))),
        Section("costs", "Costs", [_costs(every)]),
        Section("settings", "Configuration", list(_settings(every))),
    ]
    if not plotted:
        made = [
            Section(s.id, s.title, [p for p in s.parts if p.kind in ("table", "text")])
            for s in made
        ]
    return [section for section in made if section.parts]


def _cells(texts: Iterable[object]) -> list[Cell]:
    return [Cell(printable(str(text))) for text in texts]


# The result


def _headline(every: Sequence[Measured], corrected: Sequence[Measured]) -> Iterator[Part]:
    if corrected:
        yield _systems(corrected)
        for one in corrected:
            yield from _cut_note(one)
        yield from _pairs(corrected)
    for note in dict.fromkeys(note for one in every for note in one.run.notes):
        yield Text(printable(note), warns=True)


def _systems(corrected: Sequence[Measured]) -> Table:
    """A row for each evaluation of self-correction."""
    last = max(len(one.summary["accuracy"]) for one in corrected)
    turns = [0, 1, last - 1] if last > 2 else list(range(last))
    heads = ["system", *(f"attempt {turn + 1}" for turn in turns)]
    if last > 1:
        heads += ["Δ(t1,t2)", "wrong → right", "right → wrong", "changed", "copied"]
    heads += ["cut", "prompts"]

    def row(one: Measured) -> list[Cell]:
        summary, spans = one.summary, one.summary["ci95"]
        accuracy = summary["accuracy"]
        cells = [Cell(printable(one.name), one.rows())]
        for turn in turns:
            known = turn < len(accuracy)
            link = one.rows(**{f"t{turn + 1}": "right"})
            at = spans["accuracy"][turn] if known else None
            cells.append(Cell(percent(accuracy[turn]) if known else "–", link, interval(at)))
        if last > 1:
            cells.append(
                Cell(
                    percent(summary["delta_t1_t2"], signed=True),
                    "",
                    interval(spans["delta_t1_t2"], signed=True),
                )
            )
            for name, before, after in (("i_to_c", "wrong", "right"), ("c_to_i", "right", "wrong")):
                cells.append(
                    Cell(
                        percent(summary[name]), one.rows(t1=before, t2=after), interval(spans[name])
                    )
                )
            cells.append(Cell(percent(summary["changed"])))
            cells.append(Cell(percent(summary["verbatim_copy"]), one.rows(badge="copied")))
        cut = max(share or 0 for share in summary["truncated"])
        cells.append(Cell(percent(cut), one.rows(badge="truncated")))
        return [*cells, Cell(printable(str(one.run.config.get("prompts") or "the task's")))]

    summaries = [one.summary for one in corrected]
    problems = [summary["n_problems"] for summary in summaries]
    caption = (
        f"Percent, with 95 % bootstrap intervals over {span(problems)} problems "
        f"({span([summary['n_samples'] for summary in summaries])} episodes); cut: responses that hit "
        f"the length limit, at the worst attempt.{few_note(problems)}{left_out_note(summaries)} "
        f"{ONE_POINT} A number that is a link leads to its episodes."
    )
    return Table(_cells(heads), [row(one) for one in corrected], caption)


def _cut_note(one: Measured) -> Iterator[Text]:
    """Δ without the problems whose first response was cut: a second response to one of those may
    only have finished it."""
    share = (one.summary["truncated"] or [0])[0]
    if not share:
        return
    limit = one.run.config.get("max_tokens")
    limit_text = (
        "the length limit" if limit is None else f"the limit of {limit} tokens (--max-tokens)"
    )
    whole = complete_delta(one.episodes)
    known = (
        "No first response is complete."
        if whole is None
        else f"Over the {whole.n_problems:,} problems with complete first responses Δ(t1,t2) is {difference_text(whole)}."
    )
    yield Text(
        f"{printable(one.name)}: {percent(share)} % of the first responses were cut at {limit_text}. A "
        f"second response may only have finished them, which counts as a repair. {known} A "
        "higher limit makes the comparison fair.",
        warns=True,
        link=one.rows(badge="truncated", t1="wrong", t2="right"),
    )


def _pairs(corrected: Sequence[Measured]) -> Iterator[Part]:
    """Each evaluation minus the first, over the problems that both have."""
    if len(corrected) < 2:
        return
    base, *others = corrected
    rows: list[list[Cell]] = []
    names: dict[str, None] = {}
    found = {}
    for one in others:
        if one.run.tasks != base.run.tasks:
            tasks = " and ".join(", ".join(sorted(x.run.tasks)) for x in (one, base))
            yield Text(
                printable(
                    f"{one.name} and {base.name} are of different tasks ({tasks}): not compared."
                ),
                warns=True,
            )
            continue
        try:
            found[one.name] = compared(one.episodes, base.episodes)
        except UserError as error:
            yield Text(printable(f"{one.name} against {base.name}: {error}."), warns=True)
            continue
        names |= dict.fromkeys(found[one.name].differences)
    for name, pair in found.items():
        cells = [Cell(printable(name)), Cell(f"{pair.problems:,}")]
        cells += [_difference(pair.differences.get(metric), metric) for metric in names]
        p = "–" if pair.p is None else _p(pair.p)
        rows.append([*cells, Cell(p, "", f"{pair.gained} gained, {pair.lost} lost")])
    if rows:
        heads = ["system", "problems", *(label(name) for name in names), "McNemar p"]
        yield Table(
            _cells(heads),
            rows,
            "Percentage points, with 95 % intervals from the same resampled problems for both. "
            "McNemar: whether the last answers of one are right where the other's are not as often "
            "as the reverse (exact, two-sided; – where problems have several samples).",
            printable(f"Difference from {base.name}, in pairs"),
        )


def _difference(estimate: Estimate | None, metric: str) -> Cell:
    if estimate is None:
        return Cell("–")
    value, _, bounds = difference_text(estimate, metric).partition(" ")
    return Cell(value + (" *" if estimate.excludes_zero else ""), "", bounds)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def label(metric: str) -> str:
    """A metric's flat name as a heading."""
    fixed = {"i_to_c": "wrong → right", "c_to_i": "right → wrong", "changed": "changed"}
    if metric.startswith("accuracy/turn"):
        return f"attempt {metric.removeprefix('accuracy/turn')}"
    if metric.startswith("delta_"):
        return f"Δ({metric.removeprefix('delta_').replace('_', ',')})"
    return fixed.get(metric, metric)


# Attempts and flips


def _attempts(corrected: Sequence[Measured]) -> Iterator[Part]:
    several = [one for one in corrected if len(one.summary["accuracy"]) > 1]
    if not several:
        return
    if several[0].plotted:
        drawn = [
            Axis(
                "accuracy",
                "attempt",
                [_accuracy(one, k) for k, one in enumerate(several)],
                True,
                True,
            )
        ]
        yield Figures([Figure(plots.lines(drawn), "Accuracy by attempt, with 95 % intervals.")])
    for one in several:
        turns = len(one.summary["accuracy"])
        yield _matrix(one, 1, 2)
        if turns > 2:
            yield _matrix(one, 1, turns)
        if one.plotted:
            steps = [(turn, turn + 1) for turn in range(1, turns)]
            flow = plots.flow(
                [flips(one.episodes, *step) for step in steps],
                [{pair: _flip_rows(one, pair, *step) for pair in PAIRS} for step in steps],
            )
            yield Figures(
                [
                    Figure(
                        flow,
                        f"{printable(one.name)}: what became of right and wrong answers. Bands are links.",
                    )
                ]
            )


PAIRS = ((True, True), (True, False), (False, True), (False, False))


def _accuracy(one: Measured, colour: int) -> Line:
    values = one.summary["accuracy"]
    spans = [bounds or (None, None) for bounds in one.summary["ci95"]["accuracy"]]
    return Line(
        printable(one.name),
        range(1, len(values) + 1),
        values,
        [low for low, _ in spans],
        [high for _, high in spans],
        [one.rows(**{f"t{k + 1}": "right"}) for k in range(len(values))],
        colour,
        colour,
    )


def _flip_rows(one: Measured, pair: tuple[bool, bool], before: int, after: int) -> str:
    words = ["right" if right else "wrong" for right in pair]
    return one.rows(**{f"t{before}": words[0], f"t{after}": words[1]})


def _matrix(one: Measured, before: int, after: int) -> Table:
    """Episodes by verdict at two attempts."""
    counted = flips(one.episodes, before, after)
    everyone = sum(counted.values())

    def cell(pair: tuple[bool, bool]) -> Cell:
        share = f"{percent(counted[pair] / everyone)} %"
        return Cell(f"{counted[pair]:,}", _flip_rows(one, pair, before, after), share)

    rows = [
        [
            Cell(f"attempt {before} {'right' if first else 'wrong'}"),
            cell((first, True)),
            cell((first, False)),
        ]
        for first in (True, False)
    ]
    p = flip_test(one.episodes) if after == 2 else None
    caption = (
        "Episodes."
        if p is None
        else f"Episodes. As many repaired as spoiled? McNemar's exact p: {_p(p)}."
    )
    heads = ["", f"attempt {after} right", f"attempt {after} wrong"]
    return Table(_cells(heads), rows, caption, printable(one.name))


# Equal compute


def _compute(corrected: Sequence[Measured]) -> Iterator[Part]:
    for one in corrected:
        try:
            curves = equal_compute(one.run)
        except UserError as error:
            yield Text(printable(f"{one.name}: turns and votes are not compared: {error}"))
            continue
        if not curves:
            continue
        rows = [
            [Cell(name), Cell(str(point.k)), Cell("–" if point.tokens is None else f"{point.tokens:,.1f}"),
             Cell(percent(point.row.value), "", interval(_bounds(point.row)))]
            for name, points in curves.items() for point in points
        ]  # fmt: skip
        if one.plotted:
            axes = [Axis("accuracy", "responses K", _curves(curves, "k"), True, True)]
            if all(point.tokens for points in curves.values() for point in points):
                axes.append(
                    Axis("accuracy", "generated tokens a problem", _curves(curves, "tokens"), True)
                )
            shown = plots.lines(axes)
            yield Figures(
                [
                    Figure(
                        shown,
                        f"{printable(one.name)}: K responses one after another, or side by side.",
                    )
                ]
            )
        for name in ("last turn", "vote over turns"):
            said = crossing(curves[name], curves["parallel vote"])
            yield Text(printable(f"{one.name}, {name} against the parallel vote: {said}."))
        yield Table(
            _cells(["way", "K", "tokens a problem", "accuracy"]),
            rows,
            "Percent; means over problems.",
            printable(one.name),
        )


def _bounds(row: Any) -> list[float] | None:
    return None if row.low is None else [row.low, row.high]


def _curves(curves: Mapping[str, Sequence[Any]], x: str) -> list[Line]:
    return [
        Line(
            name,
            [getattr(point, x) for point in points],
            [point.row.value for point in points],
            [point.row.low for point in points],
            [point.row.high for point in points],
            colour=k,
            dashes=k,
        )
        for k, (name, points) in enumerate(curves.items())
    ]


# Edit distance


def _edits(corrected: Sequence[Measured]) -> Iterator[Part]:
    figures = []
    for one in corrected:
        pairs, distances = edit_distances(one.episodes)
        if not pairs or not one.plotted:
            continue
        edges = np.linspace(0, 1, 21)
        layers, links = {}, {}
        kinds: dict[str, Callable[[bool, bool], bool]] = {
            "wrong → right": lambda a, b: not a and b,
            "right → wrong": lambda a, b: a and not b,
            "verdict unchanged": lambda a, b: a == b,
        }
        verdicts = [episode.correct[:2] for episode in pairs]
        for name, fits in kinds.items():
            chosen = [d for d, (a, b) in zip(distances, verdicts, strict=True) if fits(a, b)]
            layers[name] = np.histogram(chosen, edges)[0].tolist()
            flip = dict(zip(("t1", "t2"), name.split(" → "), strict=False)) if "→" in name else {}
            links[name] = [
                one.rows(edit=f"{low:.2f}..{high if high < 1 else 1.01:.2f}", **flip)
                for low, high in zip(edges, edges[1:], strict=False)
            ]
        drawn = plots.histogram(
            Bars(edges, layers, links), printable(one.name), "edit-distance ratio, attempt 1 to 2"
        )
        figures.append(
            Figure(
                drawn,
                f"Mean {rounded(float(distances.mean()), 3)}; 0 is a copy, 1 has nothing in common. Bars are links.",
            )
        )
    if figures:
        yield Figures(figures)


# Levels


def _levels(corrected: Sequence[Measured]) -> Iterator[Table]:
    for one in corrected:
        name = level_field(one.episodes)
        if name is None:
            continue
        rows = []
        for value, theirs in by_level(one.episodes, name).items():
            scores = [[grade_of(turn).score for turn in answers(episode)] for episode in theirs]
            first, last = (float(np.mean([score[at] for score in scores])) for at in (0, -1))
            counted = flips(theirs, 1, 2)
            level = {f"level.{name}": value}
            rows.append(
                [Cell(printable(value), one.rows(**level)), Cell(f"{len(theirs):,}"),
                 Cell(percent(first), one.rows(t1="right", **level)), Cell(percent(last)),
                 Cell(percent(last - first, signed=True)),
                 *(Cell(f"{counted[pair]:,}", one.rows(t1=a, t2=b, **level)) for pair, a, b in
                   (((False, True), "wrong", "right"), ((True, False), "right", "wrong")))]
            )  # fmt: skip
        heads = [
            name,
            "episodes",
            "first attempt",
            "last attempt",
            "Δ",
            "wrong → right",
            "right → wrong",
        ]
        yield Table(_cells(heads), rows, "Percent; flips are episodes.", printable(one.name))


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
    ("no reward signal", ("no_signal/turn",), True),
    ("truncated", ("truncated/turn",), True),
    ("reward", ("reward", "rewards/chosen", "rewards/rejected"), False),
    ("loss", ("loss",), False),
)
"""Small plots of a training run: title, beginnings of metrics' names, whether they are shares."""
FLIPS = {"i_to_c": {"t1": "wrong", "t2": "right"}, "c_to_i": {"t1": "right", "t2": "wrong"}}


def _training(trained: Sequence[Run], every: Sequence[Measured]) -> Iterator[Part]:
    if not trained:
        return
    numbers = {one.run.name: one.number for one in every}
    axes = []
    for title, names, share in FAMILIES:
        drawn = []
        for colour, run in enumerate(trained):
            known = dict.fromkeys(name for line in run.metrics for name in line)
            chosen = [
                n
                for n in known
                if any(n == p or (p.endswith("turn") and n.startswith(p)) for p in names)
            ]
            alone = len(trained) == 1
            drawn += [
                _curve(
                    run,
                    name,
                    numbers[run.name],
                    k if alone else colour,
                    k,
                    "" if alone else f"{run.name}, ",
                )
                for k, name in enumerate(chosen)
            ]
        if drawn:
            axes.append(Axis(title, "step", drawn, share))
    if axes and every[0].plotted:
        yield Figures(
            [
                Figure(
                    plots.lines(axes),
                    "Metrics by step, as logged. Points of the flips are links to the episodes of their step.",
                )
            ]
        )
    yield _last_steps(trained)


def _curve(run: Run, name: str, number: int, colour: int, dashes: int, prefix: str) -> Line:
    points = [
        (line["step"], line[name])
        for line in run.metrics
        if isinstance(line.get(name), int | float)
    ]
    turn = name.rpartition("/turn")[2] if "/turn" in name else ""
    what = (
        f"turn {turn}"
        if turn
        else {"delta_t1_t2": "training", "held_out/delta_t1_t2": "held out"}.get(name, name)
    )
    if name in FLIPS:
        what = "flips"
    links = []
    if name in FLIPS:
        links = [
            "#rows?" + urlencode({"run": number, "step": step, **FLIPS[name]}) for step, _ in points
        ]
    return Line(
        printable(prefix + what),
        [s for s, _ in points],
        [v for _, v in points],
        links=links,
        colour=colour,
        dashes=dashes,
    )


def _last_steps(trained: Sequence[Run]) -> Table:
    """Where each training run is, and its means over its last tenth."""
    names = ["accuracy/turn1", "accuracy/turn2", "delta_t1_t2", "i_to_c", "c_to_i"]
    rows = []
    for run in trained:
        recent = run.metrics[-max(1, len(run.metrics) // 10) :]
        cells = [Cell(printable(run.name)), Cell(str(run.metrics[-1].get("step", "?")))]
        for name in names:
            values = [line[name] for line in recent if isinstance(line.get(name), int | float)]
            cells.append(
                Cell(
                    percent(
                        float(np.mean(values)) if values else None, signed=name.startswith("delta")
                    )
                )
            )
        rows.append([*cells, Cell(str(run.summary.get("selected_step", "–")))])
    heads = ["run", "steps", *map(label, names), "selected step"]
    return Table(
        _cells(heads), rows, "Percent, training episodes, means over the last tenth of the steps."
    )


# Other evaluations


def _others(every: Sequence[Measured]) -> Iterator[Part]:
    """Strategies, self-improvement, turns against votes, and all metrics of each evaluation."""
    for one in every:
        if "strategies" in one.summary or "self_improvement" in one.summary:
            for table in tables(one.summary, one.name):
                yield _from_rich(table)
        if "accuracy" in one.summary:
            lines = _from_rich(summary_table(one.summary))
            text = "\n".join(f"{a.text:<28}{b.text:>10}  {c.text}" for a, b, c in lines.rows)
            yield Details(printable(f"all metrics of {one.name}"), text)


def _from_rich(table: RichTable) -> Table:
    """A terminal's table as one of the report's."""
    columns = [list(map(str, column.cells)) for column in table.columns]
    heads = [str(column.header) for column in table.columns]
    rows = [_cells(row) for row in zip(*columns, strict=True)]
    return Table(_cells(heads), rows, str(table.caption or ""), str(table.title or ""))


# Costs


def _costs(every: Sequence[Measured]) -> Table:
    """Tokens, seconds, programs and money of each run."""
    rows = []
    for one in every:
        run = one.run
        episodes = [episode for part in run.parts.values() for episode in part]
        responses = [turn for episode in episodes for turn in episode.responses]
        tokens = sum(turn.generated for turn in responses)
        grades = [turn.grade for turn in responses if turn.grade is not None]
        programs = sum(g.decided_by in ("tests", "program") or g.output is not None for g in grades)
        seconds = run.summary.get("seconds") if run.is_training else None
        if run.is_training and seconds is None:
            logged = [
                v for line in run.metrics for n, v in line.items() if n.startswith("seconds/")
            ]
            seconds = sum(logged)
        cost, asked = run.usage.get("cost"), run.usage.get("requests")
        rows.append(
            [Cell(printable(one.name)), Cell(printable(run.command)), Cell(f"{len(episodes):,}" if episodes else "–"),
             Cell(f"{tokens:,}" if tokens else "–"),
             Cell(f"{tokens / len(episodes):,.1f}" if tokens and episodes else "–"),
             Cell(f"{seconds:,.0f}" if isinstance(seconds, int | float) else "–"),
             Cell(f"{programs:,}"), Cell("–" if asked is None else f"{asked:,}"),
             Cell("–" if cost is None else f"{cost:,.4f}")]
        )  # fmt: skip
    heads = [
        "run",
        "command",
        "episodes",
        "generated tokens",
        "tokens an episode",
        "seconds",
        "programs run",
        "requests",
        "price",
    ]
    return Table(
        _cells(heads),
        rows,
        "Seconds are those of training's steps. Price: of an endpoint's tokens, at the prices of its settings. – where nothing was recorded.",
    )


# Configuration


def _settings(every: Sequence[Measured]) -> Iterator[Part]:
    runs = [one.run for one in every]
    flat = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    differing = [name for name in names if len({str(config.get(name)) for config in flat}) > 1]
    if len(runs) > 1 and differing:
        rows = [_cells([name, *(config.get(name, "–") for config in flat)]) for name in differing]
        yield Table(
            _cells(["setting", *(run.name for run in runs)]), rows, "", "Settings that differ"
        )
    for run, config in zip(runs, flat, strict=True):
        environment = _flat(run.environment)
        text = "\n".join(f"{name}: {value}" for name, value in (config | environment).items())
        yield Details(
            printable(f"{run.name}: settings and environment ({run.folder})"), printable(text)
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + str(name): value}
        )
    return found
