"""The page of `cost.py`: tables, plots, and how much each quantity grows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from page_parts import facts_part
from redraft.report.plots import Axis, Line, lines
from redraft.storage import write_text

PARTS = ("rollout", "grading", "reference", "update", "other")
HEADER = """# What a step costs

How a whole SCoRe step grows with turns, samples, model size and processes. One thing is varied, \
the rest is held: a Llama of 5 million random weights, Stage II with two turns, 4 problems of \
`lab/arithmetic` with 4 samples each, responses of 32 tokens (random weights seldom end one \
earlier), float32, KL to a frozen copy, everything else at its default. Each point is a run of \
Redraft's own training in fresh processes. Its first step warms up and is left out; figures are \
those of the fastest of the three steps after it (lab: eight; 135 million weights: two), because \
other work on the machine only makes a step slower. Each step has other problems, so the lengths \
of the `lab` model's responses differ between points. Turns, samples and sizes were measured three \
times beside other work on the same core, and the fastest run counts; the first one took up to 55% \
longer. Small differences between points are therefore no finding.

`python benchmarks/cost.py` measures what `benchmarks/results/cost.json` does not have yet, and \
writes this page; `python benchmarks/cost.py AXIS --again` measures once more and keeps the \
faster. Seconds are processor time of one thread. *Row tokens* are those of the \
sequences that are learned from, with prompts and what is said between responses. Peak memory is \
the process's, of which Python and its libraries hold about 0.45 GB before a model is loaded."""


def write_page(known: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], place: Path) -> None:
    """Write the page and its plots, of the points that are known.

    Args:
        known: what `cost.py` keeps: by point what its processes found, and the machine.
        axes: points by what is varied.
        place: of the page; the plots go into the folder `images` beside the page's folder.
    """
    text = [HEADER]
    for axis, points in axes.items():
        there = [(p, known[p.name]) for p in points if p.name in known]
        if there:
            image = f"images/cost-{axis}.svg"
            title, said, plots, table = SECTIONS[axis](there)
            svg = lines(plots).replace("<svg ", '<svg font-family="sans-serif" ', 1)
            write_text(place.parent.parent / image, svg)
            text += [f"## {title}", said, f"![{title}](../{image})", table]
    text += ["## Machine", facts_part(known["machine"])]
    write_text(place, "\n\n".join(text) + "\n")


Measured = Sequence[tuple[Any, Mapping[str, Any]]]
"""Points with what is kept of each."""
Section = tuple[str, str, list[Axis], str]
"""Title, what the figures say, plots, table."""


def turns(measured: Measured) -> Section:
    """Attempts of an episode."""
    said = []
    for model in dict.fromkeys(point.model for point, _ in measured):
        own = [(point.attempts, only(kept)) for point, kept in measured if point.model == model]
        (_, one), (many, last) = own[0], own[-1]
        update, later = (each["seconds"]["update"] / each["row_tokens"] for each in (one, last))
        drawn, after = (each["seconds"]["rollout"] / each["sampled"] for each in (one, last))
        said.append(
            f"- {model}: from 1 turn to {many} the sampled tokens grow "
            f"{last['sampled'] / one['sampled']:.1f} times, the row tokens "
            f"{last['row_tokens'] / one['row_tokens']:.1f} times and the step's seconds "
            f"{last['step'] / one['step']:.1f} times. Rollout takes {1e6 * drawn:,.0f} µs per "
            f"sampled token with 1 turn and {1e6 * after:,.0f} with {many}, the update "
            f"{1e6 * update:,.0f} and {1e6 * later:,.0f} µs per row token "
            f"({later / update - 1:+.1%}). The part of attention, which is quadratic in the length "
            f"of a row, is {one['attention']:.1%} and {last['attention']:.1%} of the update's "
            f"operations. Peak memory grows by {(last['peak'] - one['peak']) / 1e6:,.0f} MB."
        )
    return parts("Turns", "turns", measured, lambda point, _: point.attempts, said)


def samples(measured: Measured) -> Section:
    """Samples of a problem, whose prompt they share."""
    (few, one), (many, last) = ((p, only(kept)) for p, kept in (measured[0], measured[-1]))

    def each(part: str) -> str:
        before, after = (
            1e3 * (f["seconds"] | {"the whole step": f["step"]})[part] / f["rows"]
            for f in (one, last)
        )
        return f"{part} from {before:,.0f} to {after:,.0f} ms ({after / before - 1:+.0%})"

    told = ", ".join(map(each, ("rollout", "reference", "update", "the whole step")))
    said = [
        f"With {few.problems} problems, and the prompts of SCoRe's paper for MATH: about 260 "
        "tokens before the first response and 250 before the second.\n",
        f"- From {few.samples} samples to {many.samples}, per episode: {told}. Rollout reads a "
        "prompt once for all its samples and decodes more rows at a time; reference and update "
        "read every row whole.",
        f"- Peak memory is {one['peak'] / 1e9:.2f} and {last['peak'] / 1e9:.2f} GB, with "
        f"{last['rows'] / one['rows']:.0f} times as many rows: the size of the learner's "
        "micro-batches does not depend on them.",
    ]
    return parts("Samples", "samples", measured, lambda point, _: point.samples, said)


def size(measured: Measured) -> Section:
    """Weights of the model."""
    found = {point.model: only(kept) for point, kept in measured}
    lab = found.pop("lab", None)
    one, last = (
        min(found.values(), key=lambda f: f["parameters"]),
        max(found.values(), key=lambda f: f["parameters"]),
    )
    times = {part: last["seconds"][part] / one["seconds"][part] for part in PARTS if part[0] != "g"}
    rates = [f["operations"] / f["seconds"]["update"] / 1e9 for f in (one, last)]
    beyond = [(f["peak"] - f["held"]) / f["parameters"] for f in (one, last)]
    said = [
        f"- From {one['parameters'] / 1e6:.0f} to {last['parameters'] / 1e6:.0f} million weights, "
        f"{last['parameters'] / one['parameters']:.0f} times as many, the step's seconds grow "
        f"{last['step'] / one['step']:.0f} times: rollout {times['rollout']:.0f}, reference "
        f"{times['reference']:.0f}, update {times['update']:.0f}. The update makes {rates[0]:.0f} "
        f"and {rates[1]:.0f} GFLOP/s.",
        f"- Peak memory beyond that of the libraries is {beyond[0]:.0f} bytes a weight for the "
        f"smallest of them and {beyond[1]:.0f} for the largest; policy, reference, gradients and "
        "AdamW's moments are 20.",
    ]
    if lab is not None:
        said.append(
            "- `lab` is the lab's trained model, the only one here whose responses end by "
            f"themselves and are graded: grading is {lab['seconds']['grading'] / lab['step']:.1%} "
            "of its step. A response that is cut off counts as wrong without a look at it. "
            "[Grading](../grading.md) of mathematics and of programs costs more."
        )
    return parts("Model size", "million weights", measured, millions, said, log=True)


def processes(measured: Measured) -> Section:
    """Processes, with whole and with sharded weights."""
    rows, drawn = [], []
    quiet = all(kept["cores"] >= p.processes and kept["clock"] == "wall" for p, kept in measured)
    for point, kept in measured:
        everyones, count = kept["found"], point.processes
        tokens = [one["row_tokens"] for one in everyones]
        shares = " to ".join(f"{share:,}" for share in sorted({min(tokens), max(tokens)}))
        sent = sum(one["written"] for one in everyones) / count
        times = sent / weight_bytes(everyones[0]["parameters"], count) if count > 1 else 0.0
        peak = max(one["peak"] - one["held"] for one in everyones)
        took = f" {max(one['step'] for one in everyones):.1f} |" if quiet else ""
        rows.append(
            f"| {count} | {point.sharding} | {shares} | {sent / 1e6:,.1f} | {times:.1f} "
            f"| {peak / 1e9:.2f} |{took}"
        )
        drawn.append((point, (max(tokens), sent / 1e6, peak / 1e9)))
    titles = "row tokens of a process", "MB sent by a process", "peak memory beyond libraries, GB"
    plots = []
    for number, title in enumerate(titles):
        ways = []
        for colour, (name, how) in enumerate((("DDP", "none"), ("FSDP2", "fsdp2"))):
            chosen = [(p, v[number]) for p, v in drawn if how == p.sharding or p.processes == 1]
            x, y = [p.processes for p, _ in chosen], [value for _, value in chosen]
            ways.append(Line(name, x, y, colour=colour, dashes=colour))
        plots.append(Axis(title, "processes", ways, whole=True, zero=True))
    head = f"| processes | sharding | {titles[0]} | {titles[1]} | of all weights, times "
    head += f"| {titles[2]} |{' step, s |' if quiet else ''}"
    rule = "|---" * (head.count("|") - 1) + "|"
    said = [PROCESSES]
    if not quiet:
        cores = min(kept["cores"] for _, kept in measured)
        said.append(NO_SECONDS.format(max(p.processes for p, _ in measured), cores))
    return "Processes", " ".join(said), plots, "\n".join([head, rule, *rows])


PROCESSES = """A Llama of 20 million weights. *Sent* is what a process writes in a step by the \
count of the system: to the others over gloo, and less than 0.1 MB to files. "Of all weights, \
times" is that over 4·weights·(N-1)/N bytes, which a process sends when one float32 number for \
each weight is gathered from all.

- DDP adds up the gradients and gives everyone the sum, once in a step: two times.
- FSDP2 gathers the weights for the forward and the backward pass of every micro-batch and for \
that of the reference, and adds up the gradients after each. The sum takes two times with gloo, \
which gives everyone the whole of it; NCCL, which gives everyone a part, should take one. In every \
step the weights are gathered once more for the check after the update and once for the copy that \
decodes. That makes 5·M + 2 for M micro-batches. They have at most 512 tokens here, so two \
processes have two each and four have one.
- Larger micro-batches (`--tokens-per-microbatch`) send less and hold more.

Every process returns freed memory to the system here, as sharded training on a CPU does by \
itself. For 135 million weights memory is in [a table of its own]\
(../../benchmarks/results/sharding.md#memory)."""
NO_SECONDS = """Seconds are left out: they mean something only where every process has a core of \
its own, measured with `--clock wall`. Here up to {} processes shared {} core(s)."""


def weight_bytes(weights: int, processes: int) -> float:
    """What each process sends when all of them exchange one float32 number for each weight, as in
    an all-gather or a reduce-scatter: 4·weights·(N-1)/N bytes."""
    return 4.0 * weights * (processes - 1) / processes


def only(kept: Mapping[str, Any]) -> Any:
    """What the one process of a point found."""
    [found] = kept["found"]
    return found


def millions(_: Any, found: Mapping[str, Any]) -> float:
    """Weights of a model."""
    return round(found["parameters"] / 1e6, 1)


def parts(
    title: str,
    name: str,
    measured: Measured,
    value: Callable[[Any, Any], float],
    said: Sequence[str],
    *,
    log: bool = False,
) -> Section:
    """A section on points of one process: seconds by part, tokens per second and peak memory."""
    head = (
        f"| model | {name} | sampled tokens | row tokens | {' | '.join(PARTS)} | step, s "
        "| sampled tokens/s | row tokens/s | peak, GB |"
    )
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    by_model: dict[str, list[tuple[float, Any]]] = {}
    for point, kept in measured:
        found = only(kept)
        at = value(point, found)
        by_model.setdefault("" if log else point.model, []).append((at, found))
        took = " | ".join(f"{found['seconds'][part]:.3g}" for part in PARTS)
        rows.append(
            f"| {point.model} | {at:g} | {found['sampled']:,} | {found['row_tokens']:,} | {took} "
            f"| {found['step']:.3g} | {found['sampled'] / found['step']:,.0f} "
            f"| {found['row_tokens'] / found['step']:,.0f} | {found['peak'] / 1e9:.2f} |"
        )

    def line(label: str, colour: int, found: Any, get: Callable[[Any], float]) -> Line:
        return Line(label, [at for at, _ in found], [get(f) for _, f in found], colour=colour)

    [(model, last)] = [*by_model.items()][-1:]
    plots = [
        Axis(
            f"seconds of a step{f', {model}' if model else ''}",
            name,
            [
                line(part, i, last, lambda f, part=part: f["seconds"][part])
                for i, part in enumerate(("rollout", "reference", "update"))
            ],
            log=log,
            zero=not log,
        )
    ]
    for label, get in (
        ("row tokens per second", lambda f: f["row_tokens"] / f["step"]),
        ("peak memory, GB", lambda f: f["peak"] / 1e9),
    ):
        drawn = [line(m, i, found, get) for i, (m, found) in enumerate(by_model.items())]
        plots.append(Axis(label, name, drawn, log=log, zero=not log))
    return title, "\n".join(said), plots, "\n".join(rows)


SECTIONS: dict[str, Callable[[Measured], Section]] = {
    "turns": turns,
    "samples": samples,
    "size": size,
    "processes": processes,
}
