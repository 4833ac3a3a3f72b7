"""Bootstrap intervals over problems, and paired differences between two evaluations.

The samples of one problem are not independent, so problems are what is resampled, each with all
its samples (a cluster bootstrap). An interval therefore covers which problems were drawn and how
the model sampled on them; it does not cover the luck of a training seed.

The interval is the *expanded percentile* interval (Hesterberg, arXiv 1411.5279): the
percentiles of the bootstrap distribution at levels widened to

    Φ(± sqrt(P / (P - 1)) · t_{0.975, P-1})

for P problems. The plain percentile interval is the same thing with ± 1.96, and too narrow when
problems are few. Simulated on Δ with one sample per problem, plain percentile, expanded percentile
and BCa cover 87, 90 and 86 % with 15 problems, 90, 92 and 92 % with 30, and 94 to 95 % with 60.
BCa is also undefined where no resample differs from the data, so it was not taken.

Where all problems agree (all right, all wrong, or just one problem) resampling has nothing to vary
and the interval is the point itself. That is not certainty: after 0 events in P problems the true
rate may still be as high as about 3 / P.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the number of problems behind it."""

    value: float
    low: float
    high: float
    n_problems: int

    @classmethod
    def of(cls, row: Row) -> "Estimate":
        """The estimate in a row that is defined."""
        bounds = [row.value, row.low, row.high]
        value, low, high = (bound for bound in bounds if bound is not None)
        return cls(value, low, high, row.n)

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
    intervals = bootstrap_intervals(episodes, metrics, seed)
    counted = counts(episodes)
    rows = []
    for name, ratio in metrics.items():
        low, high = intervals[name] or (None, None)
        rows.append(Row(name, ratio.value, low, high, counted["n_problems"], group))
    return Result(rows).note(group, **counted)


def estimate_means(columns: Mapping[str, Array], seed: int = 0, group: Group = ()) -> Result:
    """A row for the mean over problems of each column [P]; undefined where one has a NaN."""
    defined = {name: column for name, column in columns.items() if not np.isnan(column).any()}
    rows = {}
    if defined:
        table = np.stack(list(defined.values()), axis=1)  # [P, M]
        draws = bootstrap(table, np.ones_like(table), seed)  # [R, M]
        low, high = np.quantile(draws, percentile_levels(len(table)), axis=0)  # [M] each
        for number, (name, column) in enumerate(defined.items()):
            bounds = float(low[number]), float(high[number])
            rows[name] = Row(name, float(column.mean()), *bounds, len(column), group)
    return Result(
        [rows.get(name, Row(name, None, None, None, len(c), group)) for name, c in columns.items()]
    )


def bootstrap_intervals(
    episodes: Sequence[Episode],
    metrics: Mapping[str, Ratio] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval | None]:
    """95 % interval [low, high] of every metric, by flat name; None where it is undefined.

    All metrics share the same resamples. Resamples in which a metric is undefined (no wrong first
    attempt among the problems drawn) do not count for it.

    Raises:
        UserError: there are no episodes.
    """
    metrics = ratios(episodes) if metrics is None else metrics
    groups = same_problem_groups(episodes)
    numerators, denominators = _by_problem(list(metrics.values()), groups)
    draws = bootstrap(numerators, denominators, seed, resamples)  # [R, M]
    return {name: _interval(draws[:, column], len(groups)) for column, name in enumerate(metrics)}


def paired_difference(
    a: Sequence[Episode],
    b: Sequence[Episode],
    metric: str = "delta_t1_t2",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """`metric` of evaluation `a` minus that of `b` on the same problems, with a 95 % interval.

    `metric` is a flat name, such as `delta_t1_t2` or `accuracy/turn2`. None where the metric is
    undefined in either evaluation.

    Raises:
        UserError: as `paired_differences`.
    """
    return paired_differences(a, b, [metric], seed, resamples)[metric]


def paired_differences(
    a: Sequence[Episode],
    b: Sequence[Episode],
    metrics: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate | None]:
    """`paired_difference` of several metrics, by name, from the same resamples.

    Each resample draws the same problems for both, so what makes a problem hard for both cancels.

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
    numerators = np.concatenate([sums_a[0], sums_b[0]], axis=1)  # [P, 2M]
    denominators = np.concatenate([sums_a[1], sums_b[1]], axis=1)  # [P, 2M]
    draws = bootstrap(numerators, denominators, seed, resamples)  # [R, 2M]
    gains = draws[:, : len(metrics)] - draws[:, len(metrics) :]
    found: dict[str, Estimate | None] = {}
    for column, name in enumerate(metrics):
        value_a, value_b = metrics_a[name].value, metrics_b[name].value
        bounds = _interval(gains[:, column], len(groups_a))
        found[name] = None
        if value_a is not None and value_b is not None and bounds is not None:
            low, high = bounds
            found[name] = Estimate(value_a - value_b, low, high, len(groups_a))
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


def _interval(draws: Array, n_problems: int) -> Interval | None:
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, percentile_levels(n_problems))
    return [float(low), float(high)]
