"""The page of `cost.py`: tables, plots, and how much each quantity grows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from page_parts import facts_part
from redraft.report.plots import Axis, Line, lines
from redraft.storage import write_text

PARTS = ("rollout", "grading", "reference", "update", "other")
IMAGES = "images/cost-{}.svg"
"""Beside the page's folder."""


def write_page(known: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], place: Path) -> None:
    """Write the page and its plots, of the points that are known.

    Args:
        known: what `cost.py` keeps: by point what its processes found, and the machine.
        axes: points by what is varied.
        place: of the page.
    """
    there = {axis: [p for p in points if p.name in known] for axis, points in axes.items()}
    sections = [
        SECTIONS[axis](points, {p: known[p.name]["found"] for p in points}, known, place)
        for axis, points in there.items()
        if points
    ]
    text = [HEADER, *sections, "## Machine", facts_part(known["machine"])]
    write_text(place, "\n\n".join(text) + "\n")


HEADER = """# What a step costs

How a whole SCoRe step grows with turns, samples, model size and processes. One thing is varied, \
the rest is held: a Llama of 5 million random weights, Stage II with two turns, 4 problems of \
`lab/arithmetic` with 4 samples each, responses of 32 tokens (random weights seldom end one \
earlier), float32, KL to a frozen copy, every setting that is not named at its default. Each point \
is a run of `redraft`'s own training in fresh processes; the first step warms up and is left out, \
figures are medians of the two after it (of one for 135 million weights).

`benchmarks/cost.py` measures what is missing in `benchmarks/results/cost.json` and writes this \
page; `--again AXIS` measures anew. Seconds are processor time of one thread, which other work on \
the machine disturbs little. *Row tokens* are those of the sequences that are learned from, with \
prompts and what is said between responses. Peak memory is a process's, with Python and its \
libraries, which hold 0.4 GB."""


def turns(points: Sequence[Any], found: Mapping[Any, Any], _: Any, place: Path) -> str:
    """Attempts of an episode."""
    said = []
    for model in dict.fromkeys(point.model for point in points):
        few, many = (found[p][0] for p in ends([p for p in points if p.model == model]))
        each, later = (one["seconds"]["update"] / one["row_tokens"] for one in (few, many))
        drawn, drawn_later = (one["seconds"]["rollout"] / one["sampled"] for one in (few, many))
        said.append(
            f"- {model}: from 1 turn to 8 the sampled tokens grow "
            f"{many['sampled'] / few['sampled']:.1f} times, the row tokens "
            f"{many['row_tokens'] / few['row_tokens']:.1f} times and the step's seconds "
            f"{many['step'] / few['step']:.1f} times. An update takes {1e6 * each:,.0f} µs per row "
            f"token with 1 turn and {1e6 * later:,.0f} with 8 ({later / each - 1:+.0%}); the share "
            "of attention in its operations, the part that is quadratic in a row's length, is "
            f"{few['attention']:.1%} and {many['attention']:.1%} by formula. Rollout takes "
            f"{1e6 * drawn:,.0f} and {1e6 * drawn_later:,.0f} µs per sampled token. Peak memory "
            f"grows by {(many['peak'] - few['peak']) / 1e6:,.0f} MB."
        )
    plots(points, found, "turns", lambda point: point.attempts, place)
    return section("Turns", "turns", table("turns", points, found, lambda p: p.attempts), said)


def samples(points: Sequence[Any], found: Mapping[Any, Any], _: Any, place: Path) -> str:
    """Samples of a problem, whose prompt they share."""
    few, many = ends(points)
    one, other = found[few][0], found[many][0]

    def each(part: str) -> str:
        per = [
            1e3 * (f["step"] if part == "step" else f["seconds"][part]) / f["rows"]
            for f in (one, other)
        ]
        return f"{per[0]:,.0f} to {per[1]:,.0f} ms ({per[1] / per[0] - 1:+.0%})"

    said = [
        f"- Per episode, from {few.samples} samples to {many.samples}: rollout "
        f"{each('rollout')}, reference {each('reference')}, update {each('update')}, the whole "
        f"step {each('step')}.",
        "- Rollout reads a prompt once for all of its samples, and decodes more rows at a time. "
        "Reference and update read every row whole, prompt included.",
        f"- Peak memory grows from {one['peak'] / 1e9:.2f} to {other['peak'] / 1e9:.2f} GB while "
        f"there are {other['rows'] / one['rows']:.0f} times as many rows: the learner's "
        "micro-batches stay as large as they are, the keys and values of rollout do not.",
    ]
    note = "With the prompts of SCoRe's paper for MATH, which have about 260 tokens before the "
    note += "first response and 250 before the second."
    plots(points, found, "samples", lambda point: point.samples, place)
    body = table("samples", points, found, lambda p: p.samples)
    return section("Samples", "samples", f"{note}\n\n{body}", said)


def size(points: Sequence[Any], found: Mapping[Any, Any], _: Any, place: Path) -> str:
    """Weights of the model."""
    shapes = [point for point in points if point.model != "lab"]
    few, many = (found[p][0] for p in ends(shapes, lambda p: found[p][0]["parameters"]))
    times = many["parameters"] / few["parameters"]
    rates = [one["operations"] / one["seconds"]["update"] / 1e9 for one in (few, many)]
    beyond = [(one["peak"] - one["held"]) / one["parameters"] for one in (few, many)]
    said = [
        f"- From {few['parameters'] / 1e6:.0f} to {many['parameters'] / 1e6:.0f} million weights, "
        f"{times:.0f} times as many, the step's seconds grow {many['step'] / few['step']:.0f} "
        f"times: rollout {many['seconds']['rollout'] / few['seconds']['rollout']:.0f}, reference "
        f"{many['seconds']['reference'] / few['seconds']['reference']:.0f}, update "
        f"{many['seconds']['update'] / few['seconds']['update']:.0f}. The update makes "
        f"{rates[0]:.0f} and {rates[1]:.0f} GFLOP/s.",
        f"- Peak memory beyond that of the libraries is {beyond[0]:.0f} bytes a weight for the "
        f"smallest of them and {beyond[1]:.0f} for the largest; policy, reference, gradients and "
        "AdamW's moments are 20.",
    ]
    lab = [found[point][0] for point in points if point.model == "lab"]
    said += [
        "- `lab` is the lab's trained model, the only one here whose responses end by themselves "
        "and are graded: grading is "
        f"{one['seconds']['grading'] / one['step']:.1%} of its step. A response that is cut off "
        "counts as wrong without a look at it. [Grading](../grading.md) of mathematics and of "
        "programs costs more."
        for one in lab
    ]
    plots(
        points, found, "size", lambda p: found[p][0]["parameters"] / 1e6, place,
        x="million weights", log=True,
    )  # fmt: skip
    body = table("M weights", points, found, lambda p: f"{found[p][0]['parameters'] / 1e6:,.1f}")
    return section("Model size", "size", body, said)


def processes(
    points: Sequence[Any], found: Mapping[Any, Any], known: Mapping[str, Any], place: Path
) -> str:
    """Processes, with whole and with sharded weights."""
    rows = []
    for point in points:
        everyones, count = found[point], point.processes
        quiet = known[point.name]["cores"] >= count and known[point.name]["clock"] == "wall"
        weights = everyones[0]["parameters"]
        sent = sum(one["written"] for one in everyones) / count
        times = f"{sent / weight_bytes(weights, count):.1f}" if count > 1 else "–"
        tokens = [one["row_tokens"] for one in everyones]
        took = f"{max(one['step'] for one in everyones):.1f}" if quiet else "–"
        peak = max(one["peak"] - one["held"] for one in everyones)
        rows.append(
            f"| {count} | {point.sharding} | {min(tokens):,} to {max(tokens):,} "
            f"| {sent / 1e6:,.1f} | {times} | {peak / 1e9:.2f} | {took} |"
        )
    body = "\n".join([PROCESSES, *rows])
    of = found[points[0]][0]["parameters"]
    axes = [
        Axis(title, "processes", drawn, whole=True)
        for title, drawn in (
            ("row tokens of a process", by_sharding(points, found, most("row_tokens"))),
            ("MB sent by a process in a step", by_sharding(points, found, mean_written)),
            ("peak memory of a process, GB", by_sharding(points, found, peak_beyond)),
        )
    ]
    draw(axes, "processes", place)
    return section("Processes", "processes", f"A Llama of {of / 1e6:.0f} million.\n\n{body}", [])


PROCESSES = """| processes | sharding | row tokens of a process | sent by a process, MB \
| all weights, times | peak memory beyond libraries, GB | step, s |
|---|---|---|---|---|---|---|"""


def weight_bytes(weights: int, processes: int) -> float:
    """What a process sends when all of them exchange one float32 number for each weight once, as
    in an all-gather or a reduce-scatter: 4·weights·(N-1)/N bytes."""
    return 4.0 * weights * (processes - 1) / processes


def by_sharding(points: Sequence[Any], found: Mapping[Any, Any], value: Any) -> list[Line]:
    """A line for each way to hold the weights; one process is the beginning of both."""
    names = {"none": "DDP", "fsdp2": "FSDP2"}
    drawn = []
    for number, how in enumerate(names):
        chosen = [p for p in points if p.sharding == how or p.processes == 1]
        y = [value(found[p]) for p in chosen]
        drawn.append(Line(names[how], [p.processes for p in chosen], y, colour=number))
    return drawn


def most(name: str) -> Any:
    """The largest value of a name over processes."""
    return lambda everyones: max(one[name] for one in everyones)


def mean_written(everyones: Sequence[Any]) -> float:
    """Megabytes that a process writes in a step."""
    return float(sum(one["written"] for one in everyones) / len(everyones) / 1e6)


def peak_beyond(everyones: Sequence[Any]) -> float:
    """Gigabytes beyond those of the libraries."""
    return float(max(one["peak"] - one["held"] for one in everyones) / 1e9)


def ends(points: Sequence[Any], key: Any = None) -> tuple[Any, Any]:
    """The first and the last point, or those of the least and the greatest key."""
    ordered = sorted(points, key=key) if key else points
    return ordered[0], ordered[-1]


def table(name: str, points: Sequence[Any], found: Mapping[Any, Any], value: Any) -> str:
    """Seconds by part, tokens and memory of points on one process."""
    head = (
        f"| model | {name} | sampled tokens | row tokens | {' | '.join(PARTS)} | step, s "
        "| sampled tokens/s | row tokens/s | peak, GB |"
    )
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for point in points:
        [one] = found[point]
        parts = " | ".join(f"{one['seconds'][part]:.3g}" for part in PARTS)
        rows.append(
            f"| {point.model} | {value(point)} | {one['sampled']:,} | {one['row_tokens']:,} "
            f"| {parts} | {one['step']:.3g} | {one['sampled'] / one['step']:,.0f} "
            f"| {one['row_tokens'] / one['step']:,.0f} | {one['peak'] / 1e9:.2f} |"
        )
    return "\n".join(rows)


def plots(
    points: Sequence[Any],
    found: Mapping[Any, Any],
    name: str,
    value: Any,
    place: Path,
    *,
    x: str | None = None,
    log: bool = False,
) -> None:
    """Seconds by part, tokens per second and memory over what is varied."""
    models = [point.model for point in points]
    several = len(set(models)) > 1 and not log
    groups = [[p for p in points if p.model == m] for m in dict.fromkeys(models)]
    groups = groups if several else [list(points)]

    def drawn(get: Any, label: str) -> list[Line]:
        return [
            Line(
                f"{label} {group[0].model}".strip() if several else label,
                [value(p) for p in group],
                [get(found[p][0]) for p in group],
                colour=number,
            )
            for number, group in enumerate(groups)
        ]

    parts = [
        Line(
            part,
            [value(p) for p in groups[-1]],
            [found[p][0]["seconds"][part] for p in groups[-1]],
            colour=number,
        )
        for number, part in enumerate(("rollout", "reference", "update"))
    ]
    of = f", {groups[-1][0].model}" if several else ""
    axes = [
        Axis(f"seconds of a step{of}", x or name, parts, log=log),
        Axis(
            "row tokens per second",
            x or name,
            drawn(lambda f: f["row_tokens"] / f["step"], ""),
            log=log,
        ),
        Axis("peak memory, GB", x or name, drawn(lambda f: f["peak"] / 1e9, ""), log=log),
    ]
    draw(axes, name, place)


def draw(axes: Sequence[Axis], name: str, place: Path) -> None:
    """Write plots as a file that stands by itself."""
    svg = lines(axes).replace("<svg ", '<svg font-family="sans-serif" ', 1)
    write_text(place.parent.parent / IMAGES.format(name), svg)


def section(title: str, name: str, body: str, said: Sequence[str]) -> str:
    """A heading with a plot, a table and what they say."""
    image = f"![{title}: seconds, tokens and memory](../{IMAGES.format(name)})"
    return "\n\n".join(filter(None, [f"## {title}", "\n".join(said), image, body]))


SECTIONS = {"turns": turns, "samples": samples, "size": size, "processes": processes}
