"""K attempts one after another against K attempts side by side, at equal compute.

RISE's numbers (arXiv 2407.18219), for K turns:

    m1@t1   a single first attempt
    mK@t1   majority over K parallel first attempts
    m1@tK   majority over the K turns of one episode, in which nothing knew the gold
    p1@tK   solved at any of K turns: an oracle stops the episode at its first right attempt
    pass@K  any of K parallel first attempts is right: the same oracle beside p1@tK

The last two need the gold answer to choose, so they are upper bounds and compare with each other
only. The first three do not. What keeps the two kinds apart is the type `Unaided`: the numbers
without an oracle are computed from it alone, and it cannot be made of episodes that were stopped
at a right answer. Such episodes are all wrong until their last turn, so that a vote over them
would be a vote among the survivors of the gold answer.

Here every problem counts once, whatever its number of samples: a value is the mean over problems of
the mean over the problem's samples. Votes follow `voting`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import comb, nan

import numpy as np

from redraft.episode import Episode, Grade, Turn
from redraft.errors import UserError
from redraft.evaluation.metrics import Array, by_turn
from redraft.evaluation.standing import at_rest
from redraft.evaluation.statistics import (
    Estimate,
    Interval,
    Summary,
    bootstrap,
    percentile_levels,
)
from redraft.evaluation.voting import vote
from redraft.protocols import SelfRefine

Turns = Sequence[Turn]
ByProblem = dict[str, list[Turns]]
"""The turns of each episode, by problem id, in order of `Episode.sample`."""

_UNAIDED_BY_NAME = re.compile(r"non?[-_ ]?oracle")


class OracleLeakError(UserError, ValueError):
    """Episodes that an oracle has shaped were offered for a number without one."""


@dataclass(frozen=True)
class Unaided:
    """Episodes of at least K = `turns` turns that no oracle has stopped, cut to their first K.

    Self-Refine's may have fewer, because the model itself ends them: its last answer then stands in
    the turns that are left (`standing.at_rest`).

    Raises:
        OracleLeakError: an episode's protocol is an oracle's by name, or it has fewer than K turns
            and the model did not end it.
        UserError: no episodes, or K below 2.
    """

    episodes: tuple[Episode, ...]
    turns: int

    def __post_init__(self) -> None:
        _check_turns(self.turns)
        if not self.episodes:
            raise UserError("no sequential episodes: the list is empty; play or read some first")
        for episode in self.episodes:
            if reason := self._aided(episode):
                raise OracleLeakError(
                    f"episode of problem {episode.problem.id!r} (sample {episode.sample}): {reason}"
                    f"; m1@t{self.turns} needs all {self.turns} turns, played without an oracle"
                )

    @property
    def by_problem(self) -> ByProblem:
        """The first K turns of every episode, by problem."""
        return _by_problem([at_rest(one, self.turns) for one in self.episodes], self.turns)

    def _aided(self, episode: Episode) -> str | None:
        if is_oracle(episode.protocol):
            return f"its protocol {episode.protocol!r} stops at right answers"
        if len(episode.turns) < self.turns and episode.protocol != SelfRefine.name:
            return (
                f"it has {len(episode.turns)} of {self.turns} turns, so something stopped it early"
            )
        return None


def is_oracle(protocol: str) -> bool:
    """Whether a protocol's name says that it knows the gold: "oracle", but not "no-oracle"."""
    return "oracle" in _UNAIDED_BY_NAME.sub("", protocol.casefold())


@dataclass(frozen=True)
class ProblemValues:
    """The numbers of one system before they are averaged.

    `columns` has every number by flat name (`m1_t5`, `accuracy/turn1`, ...), each [P] in the order
    of `problems`. NaN stands where a number is undefined: a vote where the grader calls attempts
    right but names no answers, tokens that nobody counted.
    """

    problems: list[str]
    columns: dict[str, Array]

    @property
    def defined(self) -> dict[str, Array]:
        """The columns without a NaN."""
        return {name: values for name, values in self.columns.items() if not np.isnan(values).any()}


def summarise_sequential(
    episodes: Sequence[Episode],
    parallel: Sequence[Episode],
    turns: int,
    *,
    oracle: Sequence[Episode] | None = None,
    seed: int = 0,
) -> Summary:
    """Every number of `docs/metrics.md`, section "Sequential against parallel", with intervals.

    For K = 5 the keys are `m1_t1`, `m5_t1`, `m1_t5`, `last_t5`, `p1_t5`, `pass_5`,
    `m_t1_equal_tokens`, the paired differences `m1_t5_minus_m1_t1`, ..., `accuracy` and the flips
    by turn, and `tokens_...` by strategy. `ci95` has the same keys but for the counts, each with
    [low, high] from resampled problems (`statistics`); what nothing defines is None in both places.

    Args:
        episodes: at least one for each problem, of K turns, no oracle.
        parallel: at least K for each problem, of which the first turns count (single-turn episodes,
            or other samples of longer ones).
        turns: K.
        oracle: episodes for p1@tK that an oracle protocol has stopped; by default the sequential
            ones, stopped in hindsight. The two agree where the protocols say the same after a wrong
            attempt.
        seed: of the resamples.

    Raises:
        OracleLeakError: as `Unaided`.
        UserError: no episodes, different problems, fewer than K parallel attempts at a problem, or
            an oracle episode that stopped at a wrong answer.
    """
    values = values_by_problem(Unaided(tuple(episodes), turns), parallel, oracle)
    means = {name: float(column.mean()) for name, column in values.defined.items()}
    intervals = _intervals(values.defined, seed)
    return {
        "turns": turns,
        "n_problems": len(values.problems),
        "n_samples": len(episodes),
        "n_parallel": len(parallel),
        **by_turn({name: means.get(name) for name in values.columns}),
        "ci95": by_turn({name: intervals.get(name) for name in values.columns}),
    }


def system_difference(
    a: ProblemValues, b: ProblemValues, metric: str, seed: int = 0
) -> Estimate | None:
    """`metric` of system `a` minus that of `b` on the same problems, with a 95 % interval.

    Each resample draws the same problems for both. `metric` is a flat name; with one such as
    `m1_t5_minus_m1_t1` it is asked whether `a` gains more from its turns than `b` does. None where
    the metric is undefined for either.

    Raises:
        UserError: an unknown metric, or different problems.
    """
    if metric not in a.columns or metric not in b.columns:
        known = ", ".join(name for name in a.columns if name in b.columns)
        raise UserError(f"metric {metric!r} is not in both systems' values; there are: {known}")
    _check_problems(a.problems, {"second system's": b.problems}, "first system's")
    place = {problem: row for row, problem in enumerate(b.problems)}
    rows = [place[problem] for problem in a.problems]
    gain = a.columns[metric] - b.columns[metric][rows]  # [P]
    if np.isnan(gain).any():
        return None
    low, high = _intervals({metric: gain}, seed)[metric]
    return Estimate(float(gain.mean()), low, high, len(gain))


def values_by_problem(
    sequential: Unaided,
    parallel: Sequence[Episode],
    oracle: Sequence[Episode] | None = None,
) -> ProblemValues:
    """Every number of every problem, from which means, intervals and differences are made.

    Raises:
        UserError: as `summarise_sequential`.
    """
    k = sequential.turns
    played = sequential.by_problem
    first = first_attempts(parallel)
    stopped = played if oracle is None else _by_problem(oracle, k)
    _check_problems(played, {"parallel": first, "oracle": stopped}, "sequential")
    rows = []
    for problem in played:
        if len(first[problem]) < k:
            raise UserError(
                f"problem {problem!r} has {len(first[problem])} parallel first attempts; "
                f"m{k}@t1 and pass@{k} need at least {k}: sample more of them"
            )
        runs = [until_right(turns, k, problem) for turns in stopped[problem]]
        rows.append(
            {
                **_parallel_values(first[problem], k),
                **_sequential_values(played[problem], k),
                **_oracle_values(runs, k),
                **_equal_token_values(played[problem], first[problem]),
            }
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    differences = {f"{a}_minus_{b}": columns[a] - columns[b] for a, b in compared(k)}
    return ProblemValues(list(played), columns | differences)


def compared(k: int) -> list[tuple[str, str]]:
    """The pairs of numbers whose difference is reported, by name."""
    return [
        (f"m1_t{k}", "m1_t1"),
        (f"m1_t{k}", f"m{k}_t1"),
        (f"m1_t{k}", "m_t1_equal_tokens"),
        (f"p1_t{k}", f"pass_{k}"),
    ]


def first_attempts(episodes: Sequence[Episode]) -> dict[str, list[Turn]]:
    """The first turn of every episode, by problem, in order of `Episode.sample`."""
    return {
        problem: [turns[0] for turns in samples]
        for problem, samples in _by_problem(episodes, 1).items()
    }


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold one of the c right ones.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of pass@k (arXiv 2107.03374, Eq. 1).

    Raises:
        ValueError: unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k of n={n}, c={c}, k={k}: needs 0 <= c <= n and 1 <= k <= n")
    return 1 - comb(n - c, k) / comb(n, k)


def until_right(turns: Turns, k: int, problem: str = "") -> Turns:
    """The turns an oracle lets happen: up to the first right one, or all K.

    Raises:
        UserError: fewer than K turns and none is right, so no oracle stopped them.
    """
    for number, turn in enumerate(turns[:k], start=1):
        if turn.grade.correct:
            return turns[:number]
    if len(turns) < k:
        raise UserError(
            f"an episode of problem {problem!r} ends at a wrong answer after {len(turns)} of {k} "
            f"turns; p1@t{k} needs episodes that go on until one is right"
        )
    return turns[:k]


def fitting(attempts: Turns, budget: int) -> Turns:
    """As many attempts, from the first on, as were generated with `budget` tokens in all.

    None is passed over for a shorter one behind it: that would favour short answers.
    """
    spent = np.cumsum([turn.generated for turn in attempts])
    return attempts[: int(np.searchsorted(spent, budget, side="right"))]


def tokens(turns: Turns) -> float:
    """Tokens generated in all `turns`; NaN where nobody counted those of an attempt."""
    if any(turn.completion_tokens is None and not turn.attempt_tokens for turn in turns):
        return nan
    return float(sum(turn.generated for turn in turns))


def _parallel_values(first: Turns, k: int) -> dict[str, float]:
    """From n >= K first attempts at a problem; mK@t1 is the mean over n // K separate votes."""
    right = sum(turn.grade.correct for turn in first)
    votes = [first[start : start + k] for start in range(0, len(first) - k + 1, k)]
    one = tokens(first) / len(first)
    return {
        "m1_t1": right / len(first),
        f"m{k}_t1": _mean([_voted(turns) for turns in votes]),
        f"pass_{k}": pass_at_k(len(first), right, k),
        "tokens_m1_t1": one,
        f"tokens_m{k}_t1": k * one,
        f"tokens_pass_{k}": k * one,
    }


def _sequential_values(played: Sequence[Turns], k: int) -> dict[str, float]:
    """From all K turns of each of a problem's episodes, without an oracle."""
    right = np.array([[turn.grade.correct for turn in turns] for turns in played], float)  # [S, K]
    before, after = right[:, :-1], right[:, 1:]  # [S, K - 1]
    repaired = ((1 - before) * after).mean(axis=0)
    spoiled = (before * (1 - after)).mean(axis=0)
    accuracy = right.mean(axis=0)
    return {
        f"m1_t{k}": _mean([_voted(turns) for turns in played]),
        f"last_t{k}": float(accuracy[-1]),
        **{f"accuracy/turn{t}": float(share) for t, share in enumerate(accuracy, start=1)},
        **{f"i_to_c_by_turn/turn{t}": float(share) for t, share in enumerate(repaired, start=2)},
        **{f"c_to_i_by_turn/turn{t}": float(share) for t, share in enumerate(spoiled, start=2)},
        f"tokens_m1_t{k}": _mean([tokens(turns) for turns in played]),
    }


def _oracle_values(runs: Sequence[Turns], k: int) -> dict[str, float]:
    """From a problem's episodes, each stopped at its first right turn."""
    return {
        f"p1_t{k}": _mean([turns[-1].grade.correct for turns in runs]),
        f"tokens_p1_t{k}": _mean([tokens(turns) for turns in runs]),
    }


def _equal_token_values(played: Sequence[Turns], first: Turns) -> dict[str, float]:
    """The vote over as many first attempts as fit the tokens of each episode's K turns.

    Where not even one fits there is no answer, which is wrong. An episode that would have paid for
    more than the n attempts there are is counted in `short_of_samples`.
    """
    known = [tokens(first), *(tokens(turns) for turns in played)]
    names = ("m_t1_equal_tokens", "tokens_m_t1_equal_tokens", "samples_equal_tokens")
    if np.isnan(known).any():
        return dict.fromkeys((*names, "short_of_samples"), nan)
    budgets = [int(budget) for budget in known[1:]]
    fit = [fitting(first, budget) for budget in budgets]
    return {
        "m_t1_equal_tokens": _mean([_voted(turns) for turns in fit]),
        "tokens_m_t1_equal_tokens": _mean([tokens(turns) for turns in fit]),
        "samples_equal_tokens": _mean([len(turns) for turns in fit]),
        "short_of_samples": _mean(
            [budget - known[0] >= known[0] / len(first) for budget in budgets]
        ),
    }


def _voted(turns: Turns) -> float:
    """Verdict of the vote, 0 or 1; NaN where a right attempt has no answer to vote with."""
    grades: list[Grade] = [turn.grade for turn in turns]
    if any(grade.correct and grade.answer is None for grade in grades):
        return nan
    return float(vote(grades).correct)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _by_problem(episodes: Sequence[Episode], turns: int) -> ByProblem:
    groups: ByProblem = {}
    for episode in sorted(episodes, key=lambda episode: episode.sample):
        groups.setdefault(episode.problem.id, []).append(episode.turns[:turns])
    return groups


def _check_turns(turns: int) -> None:
    if turns < 2:
        raise UserError(f"turns={turns}: sequential attempts are compared from 2 turns up")


def _check_problems(
    problems: Collection[str], others: Mapping[str, Collection[str]], whose: str
) -> None:
    for name, theirs in others.items():
        if unpaired := sorted(set(problems) ^ set(theirs)):
            raise UserError(
                f"the {whose} and the {name} episodes differ in {len(unpaired)} problems "
                f"(first: {unpaired[0]!r}); a comparison needs the same problems in both"
            )


def _intervals(columns: Mapping[str, Array], seed: int) -> dict[str, Interval]:
    """95 % interval of the mean of each column over resampled problems, the same for all."""
    table = np.stack(list(columns.values()), axis=1)  # [P, M]
    draws = bootstrap(table, np.ones_like(table), seed)  # [R, M]
    low, high = np.quantile(draws, percentile_levels(len(table)), axis=0)  # [M] each
    return {name: [float(a), float(b)] for name, a, b in zip(columns, low, high, strict=True)}
