"""How often the intervals of evaluations hold the truth, by simulation.

    python benchmarks/coverage.py [--runs 1000]

writes `docs/results/coverage.md`, in a quarter of an hour on one core.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from redraft.evaluation.blind_spot import ratio_interval
from redraft.evaluation.metrics import Array
from redraft.evaluation.statistics import (
    bootstrap,
    difference_interval,
    percentile_levels,
    share_interval,
)
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
the rate p. *Tokens* are log-normal lengths. **Bold** is below 93.
"""

BEFORE = """
## Percentiles of a bootstrap

The same evaluations with expanded percentiles (Hesterberg, arXiv 1411.5279) of 1,000 resamples of
the problems, which all numbers had before. Where no event was seen no resample has one either, and
the interval is the point 0.
"""


def percentiles(*columns: Array) -> list[tuple[float, float]]:
    """The expanded percentile intervals of means over problems, from columns [P]."""
    table = np.stack(columns, axis=1)
    draws = bootstrap(table, np.ones_like(table), resamples=1000)
    ends = np.quantile(draws, percentile_levels(len(table)), axis=0)  # [2, columns]
    return [(float(low), float(high)) for low, high in ends.T]


def simulated(
    world: World, problems: int, samples: int, random: np.random.Generator
) -> tuple[dict[str, bool], dict[str, bool]]:
    """By number whether one evaluation's interval holds the truth, and whether the bootstrap's."""
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
    of_tokens, *of_shares = percentiles(lengths.mean(axis=1), right, up, delta)

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
        "tokens": (of_tokens, float(np.exp(5.25))),
    }
    if wrong.any():
        found["wrong gets right"] = (share_interval(up[wrong > 0], wrong[wrong > 0]), repair)
    if user.any():
        found["blind spot"] = (ratio_interval(own, user), OWN)
    before = {
        "accuracy": (of_shares[0], p),
        "i→c": (of_shares[1], gain),
        "Δ": (of_shares[2], gain - p * spoil),
    }
    return covers(found), covers(before)


def covers(found: dict[str, tuple[tuple[float, float] | list[float], float]]) -> dict[str, bool]:
    """Whether each interval holds its truth."""
    return {
        name: low - 1e-9 <= truth <= high + 1e-9 for name, ((low, high), truth) in found.items()
    }


NAMES = ["accuracy", "i→c", "c→i", "wrong gets right", "vote", "Δ", "two systems", "their Δ"]
NAMES += ["vote − first", "blind spot", "tokens"]


Cells = list[tuple[str, float, float]]
"""Names of numbers, expected events (NaN where none are counted), and shares covered."""


def events(name: str, world: World, episodes: int) -> float:
    """How many events of the rarer kind a number rests on, on average."""
    p, repair, spoil = world
    up, down = (1 - p) * repair, p * spoil
    rates = {"accuracy": min(p, 1 - p), "i→c": up, "c→i": down, "wrong gets right": up}
    return episodes * (rates | {"Δ": up + down, "two systems": up / 2}).get(name, float("nan"))


def by_events(cells: Cells) -> str:
    """The coverage by expected events, as text."""
    rows = []
    for low, high in ((0, 2), (2, 5), (5, 10), (10, np.inf)):
        shares = [share for _, rests_on, share in cells if low <= rests_on < high]
        within = sum(93 <= share <= 97 for share in shares)
        span = f"{low} or more" if high == np.inf else f"{low} to {high}"
        ends = [f"{min(shares):.1f}", f"{max(shares):.1f}"] if shares else ["–", "–"]
        rows.append([span, str(len(shares)), str(within), *ends])
    heads = ["expected events", "intervals", "within 93 to 97", "lowest", "highest"]
    tokens = [share for name, _, share in cells if name == "tokens"]
    return f"""
By the number of events (right first answers, flips, discordant pairs) that are expected:

{markdown_lines(heads, rows)}

Intervals of tokens cover {min(tokens):.1f} to {max(tokens):.1f} %: lengths are skewed, and few
problems say little of their mean. An interval of a rate with less than two expected events is often
too wide; where a single event of a rarer kind was seen it may begin too far above 0.
"""


def tables(runs: int) -> tuple[str, str, Cells]:
    """Both parts of the page, and what the first has in its cells."""
    random = np.random.default_rng(0)
    after: list[str] = []
    before: list[list[str]] = []
    cells: Cells = []
    for p, repair, spoil in WORLDS:
        rows: list[list[str]] = []
        for problems, samples in SIZES:
            held, seen = [Counter[str](), Counter[str]()], Counter[str]()
            for _ in range(runs):
                both = simulated((p, repair, spoil), problems, samples, random)
                seen.update(both[0].keys())
                for counted, found in zip(held, both, strict=True):
                    counted.update(name for name, inside in found.items() if inside)
            shares = [100 * held[0][name] / seen[name] for name in NAMES]
            rests_on = [events(name, (p, repair, spoil), problems * samples) for name in NAMES]
            cells += zip(NAMES, rests_on, shares, strict=True)
            size = f"{problems} × {samples}"
            rows.append([size, *(f"**{x:.1f}**" if x < 93 else f"{x:.1f}" for x in shares)])
            old = [f"{100 * held[1][name] / runs:.1f}" for name in ("accuracy", "i→c", "Δ")]
            before.append([f"{p:g}, {repair:g}, {spoil:g}", size, *old])
            print(p, repair, spoil, size, " ".join(rows[-1][1:]), flush=True)
        title = f"## {p:.0%} right, {repair:.0%} of wrong repaired, {spoil:.0%} of right spoiled"
        after.append(f"\n{title}\n\n{markdown_lines(['problems × samples', *NAMES], rows)}\n")
    head = ["right, repaired, spoiled", "problems × samples", "accuracy", "i→c", "Δ"]
    return "".join(after), markdown_lines(head, before), cells


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    after, before, cells = tables(runs)
    intro = INTRO.format(runs=runs, own=OWN, error=100 * (0.95 * 0.05 / runs) ** 0.5)
    text = f"{intro}{by_events(cells)}{after}{BEFORE}\n{before}\n"
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
