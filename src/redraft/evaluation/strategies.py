"""Ways of spending a budget of samples on a question: chains of thought, programs, and both.

CaP (arXiv 2412.16871) names Best-of-N and BoNBoN; how each strategy here spends its samples and
how it selects are this project's own. For a budget of N samples:

    chain, program      one greedy sample
    cap                 a greedy chain, then a greedy program that refines it
    majority-chains     a vote over N chains
    majority-programs   a vote over N programs, each at the bare question
    majority-mix        a vote over k chains and N - k programs that refine them by turns
    best-chains         the best of N chains; with `agreement` one sample is a program to agree with
    best-programs       the best of N programs; with `agreement` one sample is a chain
    best-cap            the best of N - 1 programs that refine one chain
    bonbon              the best of N₁ chains, then the best of N₂ programs that refine it
    adaptive            a chain and its program at a time until they agree, at most N; else a vote

`agreement` takes the first candidate whose answer is that of the other kind, and a vote where none
is; chains among themselves have nothing to agree with and vote. `oracle` takes the first right one.
Votes are those of `voting`. Tokens and runs of programs are counted for each.
"""

from collections.abc import Callable, Sequence
from math import nan

from redraft.evaluation.refinement import same_answer
from redraft.evaluation.strategies_play import Attempt, Table, Trial
from redraft.evaluation.strategies_settings import (
    Selector,
    StrategyChoice,
    StrategyName,
)
from redraft.evaluation.voting import majority_group

Strategy = Callable[[Table, list[Trial], StrategyChoice], None]
"""Plays all trials and sets what each has answered."""


def vote_of(attempts: Sequence[Attempt]) -> Attempt | None:
    """The earliest attempt with the answer that wins the vote; where all abstain, the first."""
    winners = majority_group([attempt.answer for attempt in attempts])
    return attempts[winners[0]] if winners else next(iter(attempts), None)


def select(
    how: Selector, candidates: Sequence[Attempt], others: Sequence[Attempt] = ()
) -> Attempt | None:
    """The best of the candidates; `others` are what they may agree with."""
    if how == "oracle":
        right = (attempt for attempt in candidates if attempt.correct)
        return next(right, next(iter(candidates), None))
    if how == "agreement":
        for attempt in candidates:
            if any(agree(attempt, other) for other in others):
                return attempt
    return vote_of(candidates)


def agree(a: Attempt, b: Attempt) -> bool:
    """Whether two attempts have one answer; an attempt without one agrees with nothing."""
    return a.answer is not None and b.answer is not None and same_answer(a.answer, b.answer)


def uses_oracle(name: StrategyName, choice: StrategyChoice) -> bool:
    """Whether the strategy's number is an upper bound."""
    return choice.select == "oracle" and name.startswith(("best-", "bonbon"))


def total(values: Sequence[float]) -> float:
    """Their sum; NaN where one is 0, which stands for an endpoint that does not count tokens."""
    return float(sum(values)) if all(values) else nan


def _chain(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.chains(trials, greedy=True)
    _answer(trials, lambda trial: next(iter(trial.usable), None))


def _program(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.programs(trials, greedy=True)
    _answer(trials, lambda trial: next(iter(trial.usable), None))


def _cap(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    """A program without an answer leaves the chain's standing."""
    table.chains(trials, greedy=True)
    table.refine([(trial, chain) for trial in trials for chain in trial.chains], greedy=True)
    _answer(trials, _refined)


def _refined(trial: Trial) -> Attempt | None:
    answered = [program for program in trial.programs if program.answer is not None]
    return next(iter([*answered, *trial.usable]), None)


def _majority_chains(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.chains(trials, choice.budget)
    _answer(trials, lambda trial: vote_of(trial.usable))


def _majority_programs(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.programs(trials, choice.budget)
    _answer(trials, lambda trial: vote_of(trial.usable))


def _majority_mix(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    count = choice.first_chains
    table.chains(trials, count)
    left = choice.budget - count
    table.refine(
        [
            (trial, trial.chains[number % len(trial.chains)])
            for trial in trials
            if trial.chains
            for number in range(left)
        ]
    )
    _answer(trials, lambda trial: vote_of(trial.usable))


def _best_chains(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    asked = choice.select == "agreement"
    if asked:
        table.programs(trials)
    table.chains(trials, choice.budget - asked)
    _answer(trials, lambda trial: select(choice.select, trial.chains, trial.programs))


def _best_programs(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    asked = choice.select == "agreement"
    if asked:
        table.chains(trials)
    table.programs(trials, choice.budget - asked)
    _answer(trials, lambda trial: select(choice.select, trial.programs, trial.chains))


def _best_cap(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.chains(trials)
    left = range(choice.budget - 1)
    table.refine([(trial, chain) for trial in trials for chain in trial.chains for _ in left])
    _answer(trials, lambda trial: select(choice.select, trial.programs, trial.chains))


def _bonbon(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    table.chains(trials, choice.first_chains)
    first = {id(trial): select(choice.select, trial.chains) for trial in trials}
    left = range(choice.budget - choice.first_chains)
    won = [(trial, chain) for trial in trials if (chain := first[id(trial)]) is not None]
    table.refine([(trial, chain) for trial, chain in won for _ in left])

    def answer(trial: Trial) -> Attempt | None:
        chain = first[id(trial)]
        others = [] if chain is None else [chain]
        return select(choice.select, trial.programs, others) or chain

    _answer(trials, answer)


def _adaptive(table: Table, trials: list[Trial], choice: StrategyChoice) -> None:
    open_trials = trials
    for _ in range(choice.budget // 2):
        seen = {id(trial): len(trial.chains) for trial in open_trials}
        table.chains(open_trials)
        table.refine([(trial, c) for trial in open_trials for c in trial.chains[seen[id(trial)] :]])
        for trial in open_trials:
            trial.answered = next((p for p in trial.programs if p.agrees_with_its_chain), None)
        open_trials = [trial for trial in open_trials if not trial.over]
        if not open_trials:
            break
    for trial in trials:
        trial.answered = trial.answered or vote_of(trial.usable)


def _answer(trials: list[Trial], chosen: Callable[[Trial], Attempt | None]) -> None:
    """What was chosen, or where a limit of the budget left nothing to choose from, a vote."""
    for trial in trials:
        trial.answered = chosen(trial) or vote_of(trial.usable)


PLAYED: dict[StrategyName, Strategy] = {
    "chain": _chain,
    "program": _program,
    "cap": _cap,
    "majority-chains": _majority_chains,
    "majority-programs": _majority_programs,
    "majority-mix": _majority_mix,
    "best-chains": _best_chains,
    "best-programs": _best_programs,
    "best-cap": _best_cap,
    "bonbon": _bonbon,
    "adaptive": _adaptive,
}
"""Every strategy by name."""
