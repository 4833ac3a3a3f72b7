"""Strategies: ways of spending a budget of samples on a question, in chains of thought, programs or
both.

CaP (arXiv 2412.16871) names Best-of-N and BoNBoN; how each strategy here spends its samples and
how it selects are this project's own. For a budget of N samples:

    chain, program      one greedy sample
    turns               greedy attempts, each after the request to correct the one before it
    cap                 a greedy chain, then a greedy program that refines it
    majority-chains     a vote over N chains
    majority-programs   a vote over N programs, each for the bare question
    majority-mix        a vote over k chains and N - k programs that refine them by turns
    best-chains         the best of N chains; with `agreement` one sample is a program to agree with
    best-programs       the best of N programs; with `agreement` one sample is a chain
    best-cap            the best of N - 1 programs that refine one chain
    bonbon              the best of N₁ chains, then the best of N₂ programs that refine it
    adaptive            a chain and its program at a time until they agree, at most N; else a vote

`agreement` takes the first candidate whose answer is that of the other kind, and a vote where none
is; chains among themselves have nothing to agree with and vote. `oracle` takes the first right one.
Votes are those of `voting`. Tokens and runs of programs are counted for each.

Other packages add strategies through the entry points `redraft.strategies`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

from redraft.chat.prompts import ProgramPrompts, Prompts
from redraft.chat.protocols import ChainToProgram, Intrinsic, ProgramAlone, Protocol
from redraft.chat.rollout import rollout
from redraft.engines.base import Engine, Sampling, Watch
from redraft.evaluation.metrics import CUT, counted, grade_of
from redraft.evaluation.settings import Selector, StrategyChoice
from redraft.evaluation.voting import majority_group, same_answer
from redraft.grading import Grader
from redraft.types import Episode, Problem, Turn, without_failed

SELF = "self"
"""The source of chains that is the evaluated model itself."""

ANSWER = "answer"
"""The tag on a trial's last episode: the number of the sample that answers, "" for none."""

FollowTrial = Callable[["Trial", int, Callable[[], str], bool], bool]
"""(trial, number of the sample, reads its text so far, whether that is all of it) to whether the
trial is still wanted; see `engines.base.Follow`."""


@dataclass(frozen=True)
class Sample:
    """One sample of a strategy: the last response of its episode."""

    episode: Episode

    @property
    def kind(self) -> Literal["chain", "program"]:
        """A program refines a chain or answers the bare question; all else is a chain."""
        programs = (ProgramAlone.name, ChainToProgram.name)
        return "program" if self.episode.protocol in programs else "chain"

    @property
    def chain(self) -> Turn | None:
        """The chain that a program refines."""
        refines = self.episode.protocol == ChainToProgram.name
        return self.episode.responses[0] if refines else None

    @property
    def turn(self) -> Turn:
        """The response itself; one that the context had no room for was cut off."""
        responses = self.episode.responses[1 if self.chain else 0 :]
        return responses[-1] if responses else CUT

    @property
    def answer(self) -> str | None:
        """The answer found in the text, or in what the program printed."""
        return grade_of(self.turn).answer

    @property
    def correct(self) -> bool:
        """The verdict."""
        return grade_of(self.turn).correct

    @property
    def tokens(self) -> int:
        """Generated tokens; 0 where the endpoint does not count them."""
        return self.turn.generated

    @property
    def executions(self) -> int:
        """Runs of a program: none of one that was cut off."""
        return int(self.kind == "program" and grade_of(self.turn).status != "truncated")


@dataclass(eq=False)
class Trial:
    """One strategy on one problem: what was sampled, and which sample answers."""

    problem: Problem
    choice: StrategyChoice
    samples: list[Sample] = field(default_factory=list)
    answered: Sample | None = None
    failed: str | None = None

    @classmethod
    def read(cls, choice: StrategyChoice, episodes: Sequence[Episode]) -> "Trial":
        """The trial that `episodes` has written."""
        samples = [Sample(episode) for episode in episodes]
        number = episodes[-1].tags[ANSWER]
        answered = samples[int(number)] if number else None
        return cls(episodes[0].problem, choice, samples, answered)

    def episodes(self, strategy: str) -> list[Episode]:
        """The samples in order, the last one tagged with the number of the one that answers."""
        if self.failed is not None:
            return [
                Episode(
                    problem=self.problem,
                    messages=[],
                    turns=[],
                    protocol=strategy,
                    outcome="failed",
                    note=self.failed,
                )
            ]
        numbered = [
            one.episode.model_copy(update={"sample": number})
            for number, one in enumerate(self.samples)
        ]
        chosen = "" if self.answered is None else str(self.samples.index(self.answered))
        tags = {**numbered[-1].tags, ANSWER: chosen}
        return [*numbered[:-1], numbered[-1].model_copy(update={"tags": tags})]

    @property
    def usable(self) -> list[Sample]:
        """The samples, from the first on, that stay within all limits of the budget."""
        most_tokens, most_runs = self.choice.budget_tokens, self.choice.budget_executions
        tokens = runs = 0
        for number, sample in enumerate(self.samples):
            tokens, runs = tokens + sample.tokens, runs + sample.executions
            if (most_tokens is not None and tokens > most_tokens) or (
                most_runs is not None and runs > most_runs
            ):
                return self.samples[:number]
        return self.samples

    @property
    def chains(self) -> list[Sample]:
        """The usable chains."""
        return [sample for sample in self.usable if sample.kind == "chain"]

    @property
    def programs(self) -> list[Sample]:
        """The usable programs."""
        return [sample for sample in self.usable if sample.kind == "program"]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to sample: answered, failed, or a limit was met."""
        met = len(self.usable) < len(self.samples)
        return self.answered is not None or self.failed is not None or met

    def add(self, episode: Episode) -> None:
        """Take a sample in; one whose tokens cannot be counted, but must, fails the trial."""
        if self.choice.budget_tokens is not None and not counted(Sample(episode).turn):
            self.failed = "a budget of tokens needs an endpoint that counts them"
        else:
            self.samples.append(Sample(episode))


@dataclass
class Sampler:
    """Draws the samples of one strategy.

    The n-th call draws from random numbers of its own, which are a function of `name`, n and the
    seed, and of each problem.
    """

    name: str
    prompts: Prompts
    programs: ProgramPrompts
    engine: Engine
    grader: Grader
    program_grader: Grader
    sampling: Sampling
    """Of samples that are not greedy."""
    policy: str = ""
    source: str = SELF
    """The model that writes the chains."""
    writer: Engine | None = None
    """The engine of `source`, where that is another model."""
    watch: Watch | None = None
    follow: FollowTrial | None = None
    calls: int = 0

    def draw_chains(
        self, trials: Sequence[Trial], count: int = 1, *, greedy: bool = False, turns: int = 1
    ) -> None:
        """Add `count` chains to each trial; or as many times `turns`, each after the request to
        correct the one before it."""
        engine, policy = (self.writer, self.source) if self.writer else (self.engine, self.policy)
        protocol = Intrinsic(self.prompts, turns)
        of = [(trial, ()) for trial in trials for _ in range(count)]
        for trial, episode in self._draw(engine, protocol, self.grader, of, greedy):
            written = [turn.model_copy(update={"source": self.source}) for turn in episode.turns]
            ends = [i for i, turn in enumerate(written, 1) if turn.author != "environment"]
            for end in ends or [0]:
                update = {"turns": written[:end], "policy": policy}
                trial.add(episode.model_copy(update=update))

    def draw_programs(
        self, trials: Sequence[Trial], count: int = 1, *, greedy: bool = False
    ) -> None:
        """Add `count` programs for the bare question to each trial."""
        protocol, of = ProgramAlone(self.programs), [(t, ()) for t in trials for _ in range(count)]
        for trial, episode in self._draw(self.engine, protocol, self.program_grader, of, greedy):
            trial.add(episode)

    def refine(self, wanted: Sequence[tuple[Trial, Sample]], *, greedy: bool = False) -> None:
        """Add to each trial a program after the chain, for each time that it is wanted."""
        of = [(trial, (self._given(chain),)) for trial, chain in wanted]
        protocol = ChainToProgram(self.prompts, self.programs)
        for trial, episode in self._draw(self.engine, protocol, self.program_grader, of, greedy):
            trial.add(episode)

    def _given(self, chain: Sample) -> Turn:
        """A chain as the evaluated model is shown it: another's without that one's token ids."""
        if self.writer is None:
            return chain.turn
        other = {"author": "teacher", "tokens": [], "logprobs": []}
        return chain.turn.model_copy(update={**other, "completion_tokens": chain.tokens or None})

    def _draw(
        self,
        engine: Engine,
        protocol: Protocol,
        grader: Grader,
        wanted: Sequence[tuple[Trial, Sequence[Turn]]],
        greedy: bool,
    ) -> list[tuple[Trial, Episode]]:
        """An episode for each wanted one, which begins with the given turns; none for a trial of
        which one fails."""
        self.calls += 1
        live = [(trial, given) for trial, given in wanted if trial.failed is None]
        if not live:
            return []
        drawn: Counter[Trial] = Counter()
        first = []  # number of the sample that each episode's first response is in its trial
        for trial, turns in live:
            first.append(len(trial.samples) + drawn[trial] - len(turns))
            drawn[trial] += 1

        def follow(place: int, response: int, read: Callable[[], str], whole: bool) -> bool:
            assert self.follow is not None
            return self.follow(live[place][0], first[place] + response, read, whole)

        seed = play_seed(self.sampling.seed, f"{self.name}/{self.calls}")
        heat = 0.0 if greedy else self.sampling.temperature
        episodes = rollout(
            [trial.problem for trial, _ in live],
            protocol,
            engine,
            grader,
            replace(self.sampling, seed=seed, temperature=heat),
            policy=self.policy,
            given=[given for _, given in live],
            watch=self.watch,
            follow=follow if self.follow else None,
        )
        _, failed = without_failed(episodes)
        for trial, _ in live:
            trial.failed = failed.get(trial.problem.id)
        pairs = zip(live, episodes, strict=True)
        return [(trial, episode) for (trial, _), episode in pairs if trial.failed is None]


Play = Callable[[Sampler, list[Trial], StrategyChoice], None]
"""Draws samples for all trials and sets which one answers each."""


@dataclass(frozen=True)
class Strategy:
    """One way to spend a budget."""

    name: str
    """What the command line calls it."""
    summary: str
    """One sentence."""
    play: Play
    programs: Literal["always", "agreement", "never"] = "always"
    """Whether it runs programs: always, when it selects by agreement, or never."""
    greedy: int | Literal["turns"] = 0
    """Samples, where all are greedy and their number does not depend on the budget; 0: it spends
    the budget."""
    last_answers: bool = False
    """Whether the last of these samples answers, unless the budget or the context cut it off."""
    mixes: bool = False
    """Whether it has chains and programs in numbers that `mix_chains` sets."""
    selects: bool = False
    """Whether it selects as `select` says."""

    def most_samples(self, choice: StrategyChoice) -> int:
        """Most samples that it draws for a question."""
        return choice.turns if self.greedy == "turns" else self.greedy or choice.budget

    def runs_programs(self, choice: StrategyChoice) -> bool:
        """Whether it has a use for the sandbox."""
        return self.programs == "always" or self.programs == choice.select

    def uses_oracle(self, choice: StrategyChoice) -> bool:
        """Whether its number is an upper bound."""
        return self.selects and choice.select == "oracle"


def play_strategy(
    strategy: Strategy, sampler: Sampler, problems: Sequence[Problem], choice: StrategyChoice
) -> list[Trial]:
    """One strategy on some problems: a trial for each."""
    trials = [Trial(problem, choice) for problem in problems]
    name = strategy.name if sampler.source == SELF else f"{strategy.name}/{sampler.source}"
    strategy.play(replace(sampler, name=name), trials, choice)
    return trials


def play_seed(seed: int, name: str) -> int:
    """The sampling seed of one play of an evaluation, so that plays on the same problems (first
    responses in parallel, the n-th call of a strategy) draw different random numbers."""
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "little")


def vote_of(samples: Sequence[Sample]) -> Sample | None:
    """The earliest sample with the answer that wins the vote; where all abstain, the first."""
    winners = majority_group([sample.answer for sample in samples])
    return samples[winners[0]] if winners else next(iter(samples), None)


def select(
    how: Selector, candidates: Sequence[Sample], others: Sequence[Sample] = ()
) -> Sample | None:
    """The best of the candidates; `others` are what they may agree with."""
    if how == "oracle":
        right = (sample for sample in candidates if sample.correct)
        return next(right, next(iter(candidates), None))
    if how == "agreement":
        for sample in candidates:
            if any(same_answer(sample.answer, other.answer) for other in others):
                return sample
    return vote_of(candidates)


def _answer(trials: list[Trial], chosen: Callable[[Trial], Sample | None]) -> None:
    """What was chosen, or where a limit of the budget left nothing to choose from, a vote."""
    for trial in trials:
        trial.answered = chosen(trial) or vote_of(trial.usable)


def _chain(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials, greedy=True)
    _answer(trials, lambda trial: next(iter(trial.usable), None))


def _turns(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials, greedy=True, turns=choice.turns)
    _answer(trials, lambda trial: next(reversed(trial.usable), None))


def _program(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_programs(trials, greedy=True)
    _answer(trials, lambda trial: next(iter(trial.usable), None))


def _cap(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    """Where the program has no answer, that of the chain stands."""
    sampler.draw_chains(trials, greedy=True)
    sampler.refine([(trial, chain) for trial in trials for chain in trial.chains], greedy=True)

    def refined(trial: Trial) -> Sample | None:
        answered = [program for program in trial.programs if program.answer is not None]
        return next(iter([*answered, *trial.usable]), None)

    _answer(trials, refined)


def _majority_chains(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials, choice.budget)
    _answer(trials, lambda trial: vote_of(trial.usable))


def _majority_programs(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_programs(trials, choice.budget)
    _answer(trials, lambda trial: vote_of(trial.usable))


def _majority_mix(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials, choice.first_chains)
    left = range(choice.budget - choice.first_chains)
    turns = [(t, t.chains[number % len(t.chains)]) for t in trials if t.chains for number in left]
    sampler.refine(turns)
    _answer(trials, lambda trial: vote_of(trial.usable))


def _best_chains(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    asked = choice.select == "agreement"
    if asked:
        sampler.draw_programs(trials)
    sampler.draw_chains(trials, choice.budget - asked)
    _answer(trials, lambda trial: select(choice.select, trial.chains, trial.programs))


def _best_programs(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    asked = choice.select == "agreement"
    if asked:
        sampler.draw_chains(trials)
    sampler.draw_programs(trials, choice.budget - asked)
    _answer(trials, lambda trial: select(choice.select, trial.programs, trial.chains))


def _best_cap(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials)
    left = range(choice.budget - 1)
    sampler.refine([(trial, chain) for trial in trials for chain in trial.chains for _ in left])
    _answer(trials, lambda trial: select(choice.select, trial.programs, trial.chains))


def _bonbon(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    sampler.draw_chains(trials, choice.first_chains)
    first = [(trial, select(choice.select, trial.chains)) for trial in trials]
    left = range(choice.budget - choice.first_chains)
    sampler.refine([(trial, chain) for trial, chain in first if chain is not None for _ in left])
    for trial, chain in first:
        others = [] if chain is None else [chain]
        best = select(choice.select, trial.programs, others) or chain
        trial.answered = best or vote_of(trial.usable)


def _adaptive(sampler: Sampler, trials: list[Trial], choice: StrategyChoice) -> None:
    for number in range(choice.budget // 2):
        going_on = [trial for trial in trials if not trial.over]
        sampler.draw_chains(going_on)
        sampler.refine([(trial, chain) for trial in going_on for chain in trial.chains[number:]])
        for trial in going_on:
            agreeing = (p for p in trial.programs if p.chain and _agrees(p, p.chain))
            trial.answered = next(agreeing, None)
    for trial in trials:
        trial.answered = trial.answered or vote_of(trial.usable)


def _agrees(program: Sample, chain: Turn) -> bool:
    return same_answer(program.answer, grade_of(chain).answer)


OURS = [
    Strategy("chain", "One greedy chain of thought.", _chain, "never", greedy=1, last_answers=True),
    Strategy(
        "turns",
        "Greedy attempts, each asked to correct the last; the last one answers.",
        _turns,
        "never",
        greedy="turns",
        last_answers=True,
    ),
    Strategy("program", "One greedy program.", _program, greedy=1),
    Strategy("cap", "A greedy chain, then a greedy program that refines it.", _cap, greedy=2),
    Strategy("majority-chains", "A vote over N chains.", _majority_chains, "never"),
    Strategy("majority-programs", "A vote over N programs.", _majority_programs),
    Strategy(
        "majority-mix", "A vote over chains and programs after them.", _majority_mix, mixes=True
    ),
    Strategy("best-chains", "The best of N chains.", _best_chains, "agreement", selects=True),
    Strategy("best-programs", "The best of N programs.", _best_programs, selects=True),
    Strategy("best-cap", "The best of N - 1 programs after a chain.", _best_cap, selects=True),
    Strategy(
        "bonbon",
        "The best of some chains, then the best of programs after it.",
        _bonbon,
        mixes=True,
        selects=True,
    ),
    Strategy("adaptive", "Chains and programs until two agree, else a vote.", _adaptive),
]
"""Those of this package; `STRATEGIES` has those of other packages too."""
