"""Intervals over problems, paired differences between two evaluations, and McNemar's test.

The samples of one problem are not independent, so problems are what varies, each with all its
samples. An interval therefore covers which problems were drawn and how the model sampled on them;
it does not cover the luck of a training seed. There are three kinds of numbers, told by name:

    shares        Wilson's interval with the effective sample size (`share_interval`)
    differences   the adjusted Wald interval of paired shares (`difference_interval`)
    amounts       tokens and the like: expanded percentiles of a cluster bootstrap

All have quantiles of Student's t with P - 1 degrees of freedom for P problems. Percentiles of a
bootstrap cover shares and differences as well where events are many, and not at all where they are
few: where none was seen there is nothing to resample. `docs/results/coverage.md` has the figures.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import Array, Ratio, answers, counts, grade_of, ratios
from redraft.evaluation.result import Group, Result, Row
from redraft.types import Episode, same_problem_groups

RESAMPLES = 10_000
LEVEL = 0.95

# Resample weights held in memory at once: 2^22 doubles are 32 MiB.
WEIGHTS_AT_ONCE = 1 << 22

Interval = list[float]
"""[low, high]"""

_DIFFERENCE = re.compile(r"delta|gain_over_|.*_minus_")
_AMOUNT = re.compile(r"attempt_tokens|edit_distance_ratio|tokens|samples|executions|updates")
"""Names of differences and of amounts, from their beginning; all others are shares."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the number of problems behind it."""

    value: float
    low: float
    high: float
    n_problems: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return self.low > 0 or self.high < 0


def summarise(episodes: Sequence[Episode], seed: int = 0, turns: int = 1) -> Result:
    """Every metric of self-correction with its 95 % interval, and `flip_test` as `flips_p`.

    There are at least `turns` turns, whether or not any episode went on for so long. The same
    episodes and seed give the same numbers.

    Raises:
        UserError: there are no episodes.
    """
    result = estimate(episodes, ratios(episodes, turns), seed)
    return result.note(flips_p=flip_test(episodes))


def estimate(
    episodes: Sequence[Episode], metrics: Mapping[str, Ratio], seed: int = 0, group: Group = ()
) -> Result:
    """A row for each metric of the episodes, and their counts."""
    found = intervals(episodes, metrics, seed)
    counted = counts(episodes)
    rows = []
    for name, ratio in metrics.items():
        low, high = found[name] or (None, None)
        rows.append(Row(name, ratio.value, low, high, counted["n_problems"], group))
    return Result(rows).note(group, **counted)


def estimate_means(columns: Mapping[str, Array], seed: int = 0, group: Group = ()) -> Result:
    """A row for the mean over problems of each column [P]; undefined where one has a NaN."""
    defined = {name: column for name, column in columns.items() if not np.isnan(column).any()}
    rows = {name: Row(name, None, None, None, len(one), group) for name, one in columns.items()}
    if defined:
        table = np.stack(list(defined.values()), axis=1)  # [P, M]
        found = _intervals(list(defined), table, np.ones_like(table), seed)
        for name, column in defined.items():
            low, high = found[name] or (None, None)
            rows[name] = Row(name, float(column.mean()), low, high, len(column), group)
    return Result(list(rows.values()))


def intervals(
    episodes: Sequence[Episode], metrics: Mapping[str, Ratio] | None = None, seed: int = 0
) -> dict[str, Interval | None]:
    """95 % interval [low, high] of every metric, by flat name; None where it is undefined.

    Raises:
        UserError: there are no episodes.
    """
    metrics = ratios(episodes) if metrics is None else metrics
    sums = _by_problem(list(metrics.values()), same_problem_groups(episodes))
    return _intervals(list(metrics), *sums, seed)


def _intervals(
    names: Sequence[str], numerators: Array, denominators: Array, seed: int
) -> dict[str, Interval | None]:
    """By name, from each problem's sums [P, M]. Resamples in which an amount is undefined do not
    count for it."""
    found: dict[str, Interval | None] = dict.fromkeys(names)
    defined = denominators.sum(axis=0) > 0
    amounts = []
    for place, name in enumerate(names):
        seen = denominators[:, place] > 0
        above, below = numerators[seen, place], denominators[seen, place]
        if not defined[place]:
            continue
        if _AMOUNT.match(name):
            amounts.append(place)
        elif _DIFFERENCE.match(name):
            found[name] = difference_interval(_linear(above, below))
        else:
            found[name] = share_interval(above, below)
    if not amounts:
        return found
    draws = bootstrap(numerators[:, amounts], denominators[:, amounts], seed)  # [R, amounts]
    for column, place in enumerate(amounts):
        values = draws[:, column][~np.isnan(draws[:, column])]
        levels = percentile_levels(len(numerators))
        found[names[place]] = [float(bound) for bound in np.quantile(values, levels)]
    return found


def share_interval(numerator: Array, denominator: Array) -> Interval:
    """Wilson's 95 % interval of a share Σ numerator / Σ denominator, from each problem's sums [P].

    The sample size n is the effective one, p (1 - p) / v, with v the variance of p over problems
    (linearised where denominators differ), or the number of problems where all agree (Korn and
    Graubard, Survey Methodology 24, 1998, 193-201; Wilson, JASA 22, 1927, 209-212).
    """
    problems, total = len(numerator), float(denominator.sum())
    if problems < 2:
        return [0.0, 1.0]
    p = float(numerator.sum()) / total
    residuals = numerator - p * denominator
    v = float((residuals**2).sum()) / total**2 * problems / (problems - 1)
    n = p * (1 - p) / v if v > 0 else problems
    t2 = _quantile(problems) ** 2
    middle = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = (t2 * (p * (1 - p) / n + t2 / (4 * n**2))) ** 0.5 / (1 + t2 / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def difference_interval(differences: Array) -> Interval:
    """The adjusted Wald 95 % interval of a mean difference, from each problem's [P].

    Two problems are added that differ one way and the other (Bonett and Price, Journal of
    Educational and Behavioral Statistics 37, 2012, 479-488): by 1 where a problem has one sample
    and differs by 1 or not, else by as much as differing problems do, Σ d² / Σ |d|. It ends where
    a difference of shares does.
    """
    problems, size = len(differences), float(np.abs(differences).sum())
    if problems < 2:
        return [-1.0, 1.0]
    squares = float((differences**2).sum())
    step = squares / size if size > 0 else 1.0
    mean = float(differences.sum()) / (problems + 2)
    variance = (squares + 2 * step**2) / (problems + 2) - mean**2
    half = _quantile(problems) * (variance / (problems + 2)) ** 0.5
    bound = 1.0 if np.abs(differences).max() <= 1 else 2.0  # a difference of two differences
    return [max(mean - half, -bound), min(mean + half, bound)]


def _linear(numerator: Array, denominator: Array) -> Array:
    """Each problem's part [P] in a ratio of sums: their mean is the ratio, and they vary as it."""
    ratio = numerator.sum() / denominator.sum()
    return np.asarray(ratio + (numerator - ratio * denominator) / denominator.mean())


@cache
def _quantile(problems: int) -> float:
    from scipy.stats import t  # a second to import, which `--help` need not wait for

    return float(t.ppf((1 + LEVEL) / 2, problems - 1))


def paired_difference(
    a: Sequence[Episode], b: Sequence[Episode], metric: str = "delta_t1_t2"
) -> Estimate | None:
    """`metric` of evaluation `a` minus that of `b` on the same problems, with a 95 % interval.

    `metric` is a flat name, such as `delta_t1_t2` or `accuracy/turn2`. None where the metric is
    undefined in either evaluation.

    Raises:
        UserError: as `paired_differences`.
    """
    return paired_differences(a, b, [metric])[metric]


def paired_differences(
    a: Sequence[Episode], b: Sequence[Episode], metrics: Sequence[str]
) -> dict[str, Estimate | None]:
    """`paired_difference` of several metrics, by name.

    Problems are compared with themselves, so what makes one hard for both cancels.

    Raises:
        UserError: no episodes, an unknown metric, or different problems in the two evaluations.
    """
    metrics_a, metrics_b = ratios(a), ratios(b)
    for metric in metrics:
        if metric not in metrics_a or metric not in metrics_b:
            known = ", ".join(name for name in metrics_a if name in metrics_b)
            raise UserError(f"metric {metric!r} is not in both evaluations; there are: {known}")
    groups_a = {a[group[0]].problem.id: group for group in same_problem_groups(a)}
    groups_b = {b[group[0]].problem.id: group for group in same_problem_groups(b)}
    if unpaired := sorted(groups_a.keys() ^ groups_b.keys()):
        raise UserError(
            f"the two evaluations differ in {len(unpaired)} problems (first: {unpaired[0]!r}); "
            "a paired difference needs the same problems in both"
        )
    sums_a = _by_problem([metrics_a[name] for name in metrics], list(groups_a.values()))
    sums_b = _by_problem([metrics_b[name] for name in metrics], [groups_b[p] for p in groups_a])
    found: dict[str, Estimate | None] = dict.fromkeys(metrics)
    for column, name in enumerate(metrics):
        parts = [(above[:, column], below[:, column]) for above, below in (sums_a, sums_b)]
        if all(below.sum() > 0 for _, below in parts):
            gains = _linear(*parts[0]) - _linear(*parts[1])  # [P]
            low, high = difference_interval(gains)
            found[name] = Estimate(float(gains.mean()), low, high, len(gains))
    return found


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: the chance of a split at least as uneven as `gained`
    against `lost` where both are equally likely. One pair a problem; samples are not independent.
    """
    from scipy.stats import binomtest  # a second to import, which `--help` need not wait for

    changed = gained + lost
    return float(binomtest(gained, changed).pvalue) if changed else 1.0


def flips(episodes: Sequence[Episode], before: int, after: int) -> dict[tuple[bool, bool], int]:
    """Episodes by (right at answer `before`, right at answer `after`), both from 1; an episode that
    ended earlier keeps its last verdict."""
    counted = dict.fromkeys([(True, True), (True, False), (False, True), (False, False)], 0)
    for episode in episodes:
        verdicts = [grade_of(turn).correct for turn in answers(episode)]
        first, second = (verdicts[min(turn, len(verdicts)) - 1] for turn in (before, after))
        counted[first, second] += 1
    return counted


def flip_test(episodes: Sequence[Episode], before: int = 1, after: int = 2) -> float | None:
    """McNemar's p for as many answers repaired as spoiled, from answer `before` to `after`; None
    with several samples of a problem, which are not independent, and where none has a second."""
    if len(same_problem_groups(episodes)) < len(episodes):
        return None
    if all(len(answers(episode)) < 2 for episode in episodes):
        return None
    counted = flips(episodes, before, after)
    return mcnemar(counted[False, True], counted[True, False])


def bootstrap(
    numerators: Array, denominators: Array, seed: int = 0, resamples: int = RESAMPLES
) -> Array:
    """Values of M ratios over resampled problems, from each problem's sums.

    `numerators` and `denominators` are [P, M]; the result is [resamples, M], NaN where a resample's
    denominator is 0. Each resample draws P problems with replacement, the same ones for all M.
    """
    problems = len(numerators)
    generator = np.random.default_rng(seed)
    draws = np.full((resamples, numerators.shape[1]), np.nan)
    chunk = max(1, WEIGHTS_AT_ONCE // problems)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(problems, size=(rows, problems))
        cells = drawn + problems * np.arange(rows)[:, None]
        times = np.bincount(cells.ravel(), minlength=rows * problems)
        weights = times.reshape(rows, problems).astype(float)  # how often each problem was drawn
        below = weights @ denominators  # [rows, M]
        np.divide(weights @ numerators, below, out=draws[start : start + rows], where=below > 0)
    return draws


def percentile_levels(n_problems: int, level: float = LEVEL) -> tuple[float, float]:
    """Lower and upper level of the expanded percentile interval (arXiv 1411.5279)."""
    from scipy.stats import norm, t  # a second to import, which `--help` need not wait for

    if n_problems < 2:
        return 0.0, 1.0
    quantile = t.ppf((1 + level) / 2, n_problems - 1)
    upper = float(norm.cdf(quantile * np.sqrt(n_problems / (n_problems - 1))))
    return 1 - upper, upper


def _by_problem(metrics: Sequence[Ratio], groups: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Each problem's sums of numerators and of denominators over its samples, both [P, M]."""
    samples = np.concatenate([np.asarray(group) for group in groups])
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    numerators = np.stack([ratio.numerator for ratio in metrics], axis=1)[samples]  # [N, M]
    denominators = np.stack([ratio.denominator for ratio in metrics], axis=1)[samples]
    return np.add.reduceat(numerators, starts), np.add.reduceat(denominators, starts)
