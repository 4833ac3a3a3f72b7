"""How often the intervals of evaluations hold the truth, by simulation.

    python benchmarks/coverage.py [--runs 2000]

writes `docs/results/coverage.md`, in two minutes on one core.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import betabinom, binom

from redraft.evaluation.blind_spot import ratio_interval
from redraft.evaluation.metrics import Array
from redraft.evaluation.statistics import amount_interval, difference_interval, share_interval
from redraft.evaluation.table_parts import markdown_lines

PAGE = Path(__file__).parents[1] / "docs" / "results" / "coverage.md"

World = tuple[float, float, float]

WORLDS: list[World] = [
    (0.5, 0.3, 0.05),
    (0.5, 0.02, 0.01),
    (0.1, 0.1, 0.02),
    (0.9, 0.3, 0.01),
    (0.03, 0.05, 0.01),
]
"""Share of right first answers, of wrong ones repaired, of right ones spoiled."""

SIZES = [(15, 1), (15, 4), (30, 1), (30, 4), (60, 1), (60, 4), (200, 1), (200, 4), (500, 1)]
"""Problems, and samples of each."""

OWN = 0.15
"""Errors corrected in the model's own response, of those in the user's message."""

INTRO = """# Coverage of the intervals

`python benchmarks/coverage.py` writes this page: the share of {runs:,} simulated evaluations whose
95 % interval holds the true value, in percent (standard error {error:.1f}). The intervals are those
of `redraft.evaluation.statistics`; [metrics](../metrics.md#intervals) has their definitions.

Problems differ in difficulty: the chance of a right first answer is Beta(2p, 2 - 2p) over problems,
so that a share p is right. Wrong answers are repaired and right ones spoiled at the rates of each
heading; a second system on the same problems repairs half as many again. *Vote* is a majority of
five first answers, *vote − first* its difference from one. *Blind spot* compares errors corrected
in the model's own response, at {own} times the rate, with those corrected in the user's message, at
the rate p. *Edit* is the distance of second answers from first ones, of which {copies:.0%} are
copies. *Tokens* are log-normal lengths. **Bold** is outside 93 to 97.
"""

COPIES = 0.7
"""Second answers that are the first."""


def simulated(
    world: World, problems: int, samples: int, random: np.random.Generator
) -> dict[str, bool]:
    """By number whether one evaluation's interval holds the truth."""
    p, repair, spoil = world
    ease = random.beta(2 * p, 2 - 2 * p, size=(problems, 1))
    shape, every = (problems, samples), np.ones(problems)

    def attempts(repaired: float) -> tuple[Array, Array]:
        first = random.random(shape) < ease
        second = random.random(shape) < np.where(first, 1 - spoil, repaired)
        return first.astype(float), second.astype(float)

    (first, second), (other, better) = attempts(repair), attempts(1.5 * repair)
    vote = np.mean((random.random((*shape, 5)) < ease[:, :, None]).sum(axis=2) > 2, axis=1)
    own, user = (np.mean(random.random(shape) < rate, axis=1) for rate in (OWN * p, p))
    lengths = np.exp(random.normal(5, 0.5, (problems, 1)) + random.normal(0, 0.5, shape))
    right, up, wrong = (one.mean(axis=1) for one in (first, (1 - first) * second, 1 - first))
    delta = (second - first).mean(axis=1)
    edits = np.where(random.random(shape) < COPIES, 0, random.beta(2, 3, shape)).mean(axis=1)

    gain, voted = (1 - p) * repair, float(betabinom.sf(2, 5, 2 * p, 2 - 2 * p))
    found = {
        "accuracy": (share_interval(right, every), p),
        "i→c": (share_interval(up, every), gain),
        "c→i": (share_interval(np.mean(first * (1 - second), axis=1), every), p * spoil),
        "vote": (share_interval(vote, every), voted),
        "Δ": (difference_interval(delta), gain - p * spoil),
        "two systems": (difference_interval((better - second).mean(axis=1)), gain / 2),
        "their Δ": (difference_interval((better - other).mean(axis=1) - delta), gain / 2),
        "vote − first": (difference_interval(vote - right), voted - p),
        "edit": (share_interval(edits, every), (1 - COPIES) * 0.4),
        "tokens": (amount_interval(lengths.mean(axis=1), every), float(np.exp(5.25))),
    }
    if wrong.any():
        found["wrong gets right"] = (share_interval(up[wrong > 0], wrong[wrong > 0]), repair)
    if user.any():
        found["blind spot"] = (ratio_interval(own, user), OWN)
    return {
        name: low - 1e-9 <= truth <= high + 1e-9
        for name, (interval, truth) in found.items()
        for low, high in [interval or (0.0, 0.0)]
    }


NAMES = ["accuracy", "i→c", "c→i", "wrong gets right", "vote", "Δ", "two systems", "their Δ"]
NAMES += ["vote − first", "blind spot", "edit", "tokens"]
WITHIN = (93, 97)


@dataclass(frozen=True)
class Cell:
    """The share of the intervals of a number that held the truth, in percent, in one setting."""

    name: str
    world: World
    problems: int
    samples: int
    covered: float

    @property
    def is_within(self) -> bool:
        """Whether it is within 93 to 97."""
        return WITHIN[0] <= self.covered <= WITHIN[1]

    @property
    def rate(self) -> float:
        """The chance of the rarer kind of event that the number counts; NaN for other numbers."""
        p, repair, spoil = self.world
        up, down = (1 - p) * repair, p * spoil
        rates = {"accuracy": min(p, 1 - p), "i→c": up, "c→i": down, "wrong gets right": up}
        return (rates | {"Δ": up + down, "two systems": up / 2}).get(self.name, float("nan"))

    @property
    def is_reachable(self) -> bool | None:
        """Whether there are counts a to b that a binomial number of events lies between with a
        chance of 93 to 97 %; None where the number is not binomial."""
        if self.name not in ("accuracy", "i→c", "c→i") or self.samples > 1:
            return None
        below = binom.cdf(np.arange(-1, self.problems + 1), self.problems, self.rate)
        chances = 100 * (below[None] - below[:, None])
        return bool(((chances >= WITHIN[0]) & (chances <= WITHIN[1])).any())


def by_events(cells: list[Cell]) -> str:
    """The coverage by expected events, as text."""
    rows = []
    for low, high in ((0, 2), (2, 5), (5, 10), (10, np.inf)):
        these = [c for c in cells if low <= c.problems * c.samples * c.rate < high]
        shares = [cell.covered for cell in these]
        span = f"{low} or more" if high == np.inf else f"{low} to {high}"
        row = [span, str(len(these)), str(sum(cell.is_within for cell in these))]
        rows.append([*row, f"{min(shares):.1f}", f"{max(shares):.1f}"])
    heads = ["expected events", "intervals", "within 93 to 97", "lowest", "highest"]
    binomial = [cell for cell in cells if cell.is_reachable is not None]
    out = [cell for cell in binomial if not cell.is_reachable]
    found = sum(cell.is_within for cell in binomial if cell.is_reachable)
    tokens, edits = (
        [cell.covered for cell in cells if cell.name == name] for name in ("tokens", "edit")
    )
    low = [cell for cell in cells if cell.covered < WITHIN[0]]
    told = "; ".join(
        f"{c.name} at {c.world[0]:.0%} right, {c.problems} × {c.samples}: {c.covered:.1f}"
        for c in low
    )
    return f"""
By the number of events (right first answers, flips, discordant pairs) that are expected:

{markdown_lines(heads, rows)}

Intervals of tokens cover {min(tokens):.1f} to {max(tokens):.1f} %, of edit distances
{min(edits):.1f} to {max(edits):.1f} %.

**Where no interval can.** A count of events takes whole numbers. With 0.15 events expected it is 0
with a chance of 86 % and at most 1 with one of 99 %, so an interval that holds the truth for one
count more or one less covers 86 or 99 %, and none covers 93 to 97. This is so for {len(out)} of the
{len(binomial)} cells of accuracy, i→c and c→i with one sample a problem; these intervals cover more
there. Of the other {len(binomial) - len(out)} they cover 93 to 97 % in {found}. A difference of few
events covers nearly always: the interval that nothing or little was seen in still holds 0 and
what is near it, as it has to.

Below 93, of {len(cells)}: {told or "none"}.
"""


def measured(runs: int) -> Iterator[tuple[World, list[Cell]]]:
    """The cells of each world."""
    random = np.random.default_rng(0)
    for world in WORLDS:
        cells = []
        for problems, samples in SIZES:
            held, seen = Counter[str](), Counter[str]()
            for _ in range(runs):
                found = simulated(world, problems, samples, random)
                seen.update(found.keys())
                held.update(name for name, inside in found.items() if inside)
            row = [Cell(n, world, problems, samples, 100 * held[n] / seen[n]) for n in NAMES]
            print(*world, problems, samples, *(f"{cell.covered:.1f}" for cell in row), flush=True)
            cells += row
        yield world, cells


def table(world: World, cells: list[Cell]) -> str:
    """The cells of a world, a row for each size."""
    p, repair, spoil = world
    rows = []
    for problems, samples in SIZES:
        row = [c for c in cells if (c.problems, c.samples) == (problems, samples)]
        shown = [f"{c.covered:.1f}" if c.is_within else f"**{c.covered:.1f}**" for c in row]
        rows.append([f"{problems} × {samples}", *shown])
    title = f"## {p:.0%} right, {repair:.0%} of wrong repaired, {spoil:.0%} of right spoiled"
    return f"\n{title}\n\n{markdown_lines(['problems × samples', *NAMES], rows)}\n"


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    every = dict(measured(runs))
    error = 100 * (0.95 * 0.05 / runs) ** 0.5
    intro = INTRO.format(runs=runs, own=OWN, copies=COPIES, error=error)
    cells = [cell for row in every.values() for cell in row]
    PAGE.write_text(intro + by_events(cells) + "".join(map(table, every, every.values())), "utf-8")


if __name__ == "__main__":
    main()
