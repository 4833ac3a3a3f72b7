"""`redraft eval --strategy`: strategies on the problems of a task, with what each of them costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redraft.episode import Episode, Grade, Problem, Record, append_jsonl
from redraft.errors import UserError
from redraft.evaluation.failures import listed, tell
from redraft.evaluation.metrics import Array
from redraft.evaluation.refinement import label_of, summarise_refinement
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import Interval, bootstrap, percentile_levels
from redraft.evaluation.strategies import (
    PLAYED,
    total,
    uses_oracle,
    vote_of,
)
from redraft.evaluation.strategies_cost import vote_at_cost
from redraft.evaluation.strategies_play import SELF, Attempt, Table, Trial, open_tables
from redraft.evaluation.strategies_settings import STRATEGIES, StrategyName, strategy_names
from redraft.progress import Progress
from redraft.runs import Run
from redraft.tasks import Loaded

AT_ONCE = 64
"""Problems that a strategy is played on together."""


class Answered(Record):
    """A line of `answers.jsonl`: what a strategy answered to a problem, and what it cost."""

    problem: str
    strategy: StrategyName
    source: str
    correct: bool
    answer: str | None
    kind: str | None
    samples: int
    tokens: int
    executions: int
    upper_bound: bool


@dataclass(frozen=True)
class Played:
    """A strategy with chains of one source, on the problems that could be played, in order."""

    name: StrategyName
    source: str
    trials: list[Trial]


def evaluate_strategies(
    config: EvaluationSettings, loaded: Loaded, run: Run | None, progress: Progress
) -> dict[str, Any]:
    """Play the settings' strategies on the loaded problems; what is played is written as it comes.

    Returns:
        The content of `summary.json`: under `strategies` one entry for each strategy and source,
        with accuracy, samples, tokens and executions a problem and their intervals; `refinement`
        where chains were refined.

    Raises:
        UserError: a model cannot be loaded, or no problem could be played.
    """
    names = strategy_names(config.strategy or "all")
    folder = None if run is None else run.folder
    tables = open_tables(config, config, folder, progress)
    played: list[Played] = []
    failed: dict[str, str] = {}
    size = len(names) * len(tables) * len(loaded.problems)
    with progress.phase("strategies", size) as bar:
        for number, table in enumerate(tables):
            for name in names:
                trials = []
                for begin in range(0, len(loaded.problems), AT_ONCE):
                    table.key = [begin, number, STRATEGIES.index(name)]
                    chunk = loaded.problems[begin : begin + AT_ONCE]
                    trials += play(table, name, chunk, config)
                    bar.advance(len(chunk))
                    _write(folder, name, table, trials[-len(chunk) :], config)
                played.append(Played(name, table.source, trials))
                failed |= {t.problem.id: t.failed for t in trials if t.failed is not None}
    tell(failed, progress)
    return _summary(config, [_without(one, failed) for one in played], failed)


def play(
    table: Table, name: StrategyName, problems: Sequence[Problem], config: EvaluationSettings
) -> list[Trial]:
    """One strategy on some problems: a trial for each."""
    table.calls = 0
    trials = [Trial(problem, config) for problem in problems]
    PLAYED[name](table, trials, config)
    return trials


def label_for(name: str, source: str) -> str:
    """What a strategy is called in summaries."""
    return name if source == SELF else f"{name} ({source})"


def _without(played: Played, failed: dict[str, str]) -> Played:
    """Strategies are compared on the problems that all of them could play."""
    kept = [trial for trial in played.trials if trial.problem.id not in failed]
    return Played(played.name, played.source, kept)


def _write(
    folder: Path | None,
    name: StrategyName,
    table: Table,
    trials: Sequence[Trial],
    config: EvaluationSettings,
) -> None:
    if folder is None:
        return
    done = [trial for trial in trials if trial.failed is None]
    place = (
        folder / "episodes" / f"{name}{'' if table.source == SELF else f'-{table.key[1]}'}.jsonl"
    )
    append_jsonl(place, [e for trial in done for e in numbered(trial)])
    append_jsonl(
        folder / "answers.jsonl",
        [answered(trial, name, table.source, uses_oracle(name, config)) for trial in done],
    )


def numbered(trial: Trial) -> list[Episode]:
    """A trial's samples as episodes, numbered in the order they were drawn."""
    return [
        attempt.episode.model_copy(update={"sample": number})
        for number, attempt in enumerate(trial.attempts)
    ]


def answered(trial: Trial, name: StrategyName, source: str, upper_bound: bool) -> Answered:
    """What a trial came to."""
    chosen = trial.answered
    return Answered(
        problem=trial.problem.id,
        strategy=name,
        source=source,
        correct=verdict(trial).correct,
        answer=None if chosen is None else chosen.answer,
        kind=None if chosen is None else chosen.kind,
        samples=len(trial.usable),
        tokens=sum(attempt.tokens for attempt in trial.usable),
        executions=sum(attempt.executions for attempt in trial.usable),
        upper_bound=upper_bound,
    )


def verdict(trial: Trial) -> Grade:
    """The grade of what was answered; no answer is wrong."""
    if trial.answered is None:
        return Grade(correct=False, decided_by="none", reason="the budget allowed no sample")
    return trial.answered.turn.grade


def _summary(
    config: EvaluationSettings, played: Sequence[Played], failed: dict[str, str]
) -> dict[str, Any]:
    if not played[0].trials:
        why = next(iter(failed.values()))
        raise UserError(f"--model {config.model}: not one problem could be played; first: {why}")
    return {
        "n_problems": len(played[0].trials),
        "n_samples": sum(len(trial.attempts) for one in played for trial in one.trials),
        "budget": config.budget,
        "select": config.select,
        "strategies": {
            label_for(one.name, one.source): {
                "strategy": one.name,
                "source": one.source,
                "upper_bound": uses_oracle(one.name, config),
                **_measured(one, played, config.seed),
            }
            for one in played
        },
        **_refinement(played, config.seed),
        **listed(failed),
    }


def _refinement(played: Sequence[Played], seed: int) -> dict[str, Any]:
    """Metrics of the programs of one strategy after the chains of every source: those of `cap`, or
    of the first that refines; samples of several would count some chains more than others."""
    of = {
        one.name: [
            attempt.episode
            for other in played
            if other.name == one.name
            for trial in other.trials
            for attempt in trial.attempts
            if attempt.chain is not None
        ]
        for one in played
    }
    name = "cap" if "cap" in of else next((name for name in of if of[name]), None)
    if name is None or all(label_of(episode) is None for episode in of[name]):
        return {}
    return {"refinement": {"strategy": name, **summarise_refinement(of[name], seed)}}


def _measured(one: Played, played: Sequence[Played], seed: int) -> dict[str, Any]:
    """Means over problems, with 95 % intervals; None where something was not counted. With a vote
    over chains and one over programs at the same cost, and what a vote over all N falls short."""
    columns = _columns(one)
    costs: dict[str, float | None] = {}
    for kind in ("chains", "programs"):
        pools = _pools(played, f"majority-{kind}", one.source)
        if pools is None:
            continue
        runs = float(columns["executions"].mean()) if kind == "programs" else np.inf
        peer = vote_at_cost(pools, float(columns["tokens"].mean()), runs)
        unknown = np.full(len(pools), np.nan)
        columns[f"vote_{kind}_at_its_cost"] = unknown if peer is None else peer.right
        for name in ("samples", "tokens", "executions"):
            costs[f"vote_{kind}_{name}"] = None if peer is None else getattr(peer, name)
        majority = [float(vote is not None and vote.correct) for vote in map(vote_of, pools)]
        columns[f"gain_over_majority_{kind}"] = columns["accuracy"] - np.array(majority)
    return {**_with_intervals(columns, seed), **costs}


def _pools(played: Sequence[Played], name: str, source: str) -> list[list[Attempt]] | None:
    """The samples of a strategy with chains of a source by problem, if it was played."""
    for one in played:
        if (one.name, one.source) == (name, source):
            return [trial.usable for trial in one.trials]
    return None


def _columns(one: Played) -> dict[str, Array]:
    """Each number by problem, [P]."""
    return {
        "accuracy": np.array([float(verdict(trial).correct) for trial in one.trials]),
        "samples": np.array([float(len(trial.usable)) for trial in one.trials]),
        "tokens": np.array([total([a.tokens for a in trial.usable]) for trial in one.trials]),
        "executions": np.array(
            [float(sum(a.executions for a in trial.usable)) for trial in one.trials]
        ),
        "answered": np.array(
            [float(trial.answered is not None and trial.answered.answer is not None)
             for trial in one.trials]
        ),
    }  # fmt: skip


def _with_intervals(columns: dict[str, Array], seed: int) -> dict[str, Any]:
    known = {name: column for name, column in columns.items() if not np.isnan(column).any()}
    table = np.stack(list(known.values()), axis=1)  # [P, M]
    draws = bootstrap(table, np.ones_like(table), seed)  # [R, M]
    low, high = np.quantile(draws, percentile_levels(len(table)), axis=0)  # [M] each
    bounds: dict[str, Interval] = {
        name: [float(a), float(b)] for name, a, b in zip(known, low, high, strict=True)
    }
    means = {name: float(column.mean()) for name, column in known.items()}
    return {
        **{name: means.get(name) for name in columns},
        "ci95": {name: bounds.get(name) for name in columns},
    }
