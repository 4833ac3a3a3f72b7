"""What an evaluation reports beyond the metrics of self-correction: self-improvement by kind of
problem, programs by what came before them, and strategies with what each costs.

A strategy is compared with a vote at its cost: over the first samples of each problem, as many as
cost the same on average over the problems. It is one number of samples for all, so that no
problem's samples are chosen by their length. Where that number is no whole one, the vote is one of
the two next to it, by lot; what is given is the expectation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redraft.errors import UserError
from redraft.evaluation.metrics import (
    Array,
    answers,
    counted,
    grade_of,
    improvement_ratios,
    label_of,
    refinement_ratios,
)
from redraft.evaluation.result import Group, Result
from redraft.evaluation.settings import StrategyChoice
from redraft.evaluation.statistics import estimate, estimate_means
from redraft.evaluation.strategies import SELF, Sample, Strategy, Trial, vote_of
from redraft.types import Episode, Record


def summarise_improvement(episodes: Sequence[Episode]) -> Result:
    """Every metric of self-improvement with its interval: of all problems, of those that are seen
    and unseen, and of each cell, where the problems' metadata says so.

    Raises:
        UserError: there are no episodes.
    """
    if not episodes:
        raise UserError("no self-improvement to measure: the list of episodes is empty")
    top = "self_improvement"
    parts: dict[Group, list[Episode]] = {(top, "all"): list(episodes)}
    for episode in episodes:
        metadata = episode.problem.metadata
        if isinstance(seen := metadata.get("seen"), bool):
            parts.setdefault((top, "seen" if seen else "unseen"), []).append(episode)
        if (cell := metadata.get("cell")) is not None:
            parts.setdefault((top, "cells", str(cell)), []).append(episode)
    result = Result().note((top, "cells"))
    for group, theirs in parts.items():
        result.add(estimate(theirs, improvement_ratios(theirs), group))
    return result


def summarise_refinement(episodes: Sequence[Episode], top: Group = ("refinement",)) -> Result:
    """Every metric of programs after chains with its interval; the same after wrong and after
    right chains and by source model.

    Raises:
        UserError: there is no episode of two answers whose program the sandbox could run.
    """
    pairs = [episode for episode in episodes if len(episode.answers) == 2]
    known = [episode for episode in pairs if label_of(episode) is not None]
    if not known:
        raise UserError(
            f"no refinement to measure: {len(pairs)} programs after a chain, none of which the "
            "sandbox could run"
        )
    parts: dict[Group, list[Episode]] = {}
    for episode in known:
        chain = answers(episode)[0]
        worth = "after_right_chain" if grade_of(chain).correct else "after_wrong_chain"
        for name in ((worth,), ("by_source", chain.source)):
            parts.setdefault((*top, *name), []).append(episode)
    result = estimate(known, refinement_ratios(known), top)
    nothing = {"after_wrong_chain": None, "after_right_chain": None}
    absent = {name: None for name in nothing if (*top, name) not in parts}
    result.note(top, n_infrastructure=len(pairs) - len(known), **absent)
    for group, theirs in parts.items():
        result.add(estimate(theirs, refinement_ratios(theirs), group))
    return result


# Strategies


@dataclass(frozen=True)
class Played:
    """A strategy with chains of one source, on the problems that could be evaluated, in order."""

    strategy: Strategy
    source: str
    trials: list[Trial]

    @property
    def label(self) -> str:
        """What summaries call it."""
        name = self.strategy.name
        return name if self.source == SELF else f"{name} ({self.source})"


class Answered(Record):
    """A line of `answers.jsonl`: what a strategy answered to a problem, and what it cost."""

    problem: str
    strategy: str
    source: str
    correct: bool
    answer: str | None
    kind: str | None
    samples: int
    tokens: int
    executions: int
    upper_bound: bool


def answer_lines(one: Played) -> list[Answered]:
    """What each trial came to."""
    return [
        Answered(
            problem=trial.problem.id,
            strategy=one.strategy.name,
            source=one.source,
            correct=trial.answered is not None and trial.answered.correct,
            answer=None if trial.answered is None else trial.answered.answer,
            kind=None if trial.answered is None else trial.answered.kind,
            samples=len(trial.usable),
            tokens=sum(sample.tokens for sample in trial.usable),
            executions=sum(sample.executions for sample in trial.usable),
            upper_bound=one.strategy.uses_oracle(trial.choice),
        )
        for trial in one.trials
    ]


def summarise_strategies(played: Sequence[Played], choice: StrategyChoice) -> Result:
    """Accuracy, samples, tokens and executions of each strategy, with a vote over chains and one
    over programs at its cost, and the metrics of refinements where chains were refined."""
    result = Result().note(
        n_problems=len(played[0].trials),
        n_samples=sum(len(trial.samples) for one in played for trial in one.trials),
        budget=choice.budget,
        select=choice.select,
    )
    pools = {
        (one.strategy.name, one.source): [trial.usable for trial in one.trials] for one in played
    }
    for one in played:
        group = ("strategies", one.label)
        columns, costs = _columns(one), dict[str, float | None]()
        for kind in ("chains", "programs"):
            if (pool := pools.get((f"majority-{kind}", one.source))) is not None:
                _compare(columns, costs, kind, pool)
        result.note(group, strategy=one.strategy.name, source=one.source)
        result.note(group, upper_bound=one.strategy.uses_oracle(choice), **costs)
        result.add(estimate_means(columns, group))
    return result.add(_refinement(played))


def _columns(one: Played) -> dict[str, Array]:
    """Each number by problem, [P]."""
    trials = one.trials
    answered = [trial.answered for trial in trials]
    scores = [0.0 if sample is None else grade_of(sample.turn).score for sample in answered]
    tokens = [total_tokens(trial.usable) for trial in trials]
    executions = [sum(sample.executions for sample in trial.usable) for trial in trials]
    has_answer = [sample is not None and sample.answer is not None for sample in answered]
    return {
        "accuracy": np.array(scores),
        "samples": np.array([len(trial.usable) for trial in trials], float),
        "tokens": np.array(tokens, float),
        "executions": np.array(executions, float),
        "answered": np.array(has_answer, float),
    }


def _compare(
    columns: dict[str, Array],
    costs: dict[str, float | None],
    kind: str,
    pools: Sequence[Sequence[Sample]],
) -> None:
    """Add a vote over a kind of samples at the same cost, and the gain over a vote over all N."""
    runs = float(columns["executions"].mean()) if kind == "programs" else np.inf
    peer = vote_at_cost(pools, float(columns["tokens"].mean()), runs)
    unknown = np.full(len(pools), np.nan)
    columns[f"vote_{kind}_at_its_cost"] = unknown if peer is None else peer.right
    for name in ("samples", "tokens", "executions"):
        costs[f"vote_{kind}_{name}"] = None if peer is None else getattr(peer, name)
    columns[f"gain_over_majority_{kind}"] = columns["accuracy"] - _scores(pools)


def _refinement(played: Sequence[Played]) -> Result:
    """Metrics of the programs of one strategy after the chains of every source: those of `cap`, or
    of the first that refines; samples of several would count some chains more than others."""
    of: dict[str, list[Episode]] = {}
    for one in played:
        refined = [s.episode for trial in one.trials for s in trial.samples if s.chain is not None]
        of[one.strategy.name] = [*of.get(one.strategy.name, []), *refined]
    name = "cap" if "cap" in of else next((name for name in of if of[name]), None)
    programs = [] if name is None else [one for one in of[name] if len(one.answers) == 2]
    if all(label_of(episode) is None for episode in programs):
        return Result()
    top = ("refinement",)
    return Result().note(top, strategy=name).add(summarise_refinement(programs, top))


@dataclass(frozen=True)
class Peer:
    """A vote at a given cost.

    `right` is by problem the expected score of the vote, [P]; the others are means over problems.
    """

    right: Array
    samples: float
    tokens: float
    executions: float


def vote_at_cost(
    pools: Sequence[Sequence[Sample]], tokens: float, executions: float = np.inf
) -> Peer | None:
    """A vote over samples that cost `tokens` and `executions` a problem, or all that there are.

    Args:
        pools: the samples of each problem, in the order they were drawn.
        tokens: generated tokens a problem, on average; NaN where they are not counted.
        executions: runs of programs a problem, on average.

    Returns:
        None where tokens are not counted, or where the cost does not pay for one sample of each
        problem: a vote without votes means nothing.
    """
    size = max(map(len, pools), default=0)
    known = not np.isnan([tokens, *map(total_tokens, pools)]).any()
    if not (size and known):
        return None
    spent = _mean_cost([[sample.tokens for sample in pool] for pool in pools], size)
    runs = _mean_cost([[sample.executions for sample in pool] for pool in pools], size)
    numbers = np.arange(size + 1.0)
    samples = float(np.interp(tokens, spent, numbers))
    if runs[-1] > executions:
        samples = min(samples, float(np.interp(executions, runs, numbers)))
    if samples < 1:
        return None
    low = int(samples)
    right = _scores([pool[:low] for pool in pools])
    if samples > low:
        right += (samples - low) * (_scores([pool[: low + 1] for pool in pools]) - right)
    cost = [float(np.interp(samples, numbers, column)) for column in (spent, runs)]
    return Peer(right, samples, *cost)


def total_tokens(samples: Sequence[Sample]) -> float:
    """Tokens generated for all `samples`; NaN where the endpoint did not count those of one."""
    known = all(counted(sample.turn) for sample in samples)
    return float(sum(sample.tokens for sample in samples)) if known else np.nan


def _mean_cost(costs: Sequence[Sequence[int]], size: int) -> Array:
    """Of the first 0, 1, ... `size` samples of a problem, on average; [size + 1]."""
    padded = np.array([[0, *own, *[0] * (size - len(own))] for own in costs], dtype=np.float64)
    return np.asarray(padded.cumsum(axis=1).mean(axis=0))


def _scores(pools: Sequence[Sequence[Sample]]) -> Array:
    """Score of the vote over each problem's samples, [P]."""
    votes = map(vote_of, pools)
    return np.array([0.0 if vote is None else grade_of(vote.turn).score for vote in votes])
