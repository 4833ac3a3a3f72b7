"""Where strategies get their samples: chains from one model, programs from another or the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from redraft.chat_rollout import Played
from redraft.episode import Episode, Problem, Turn
from redraft.evaluation.player import Player, open_player
from redraft.evaluation.refinement import same_answer
from redraft.evaluation.settings import RolloutSettings
from redraft.evaluation.strategies_settings import StrategyChoice
from redraft.grading.program import ProgramGrader, was_run
from redraft.progress import Progress
from redraft.protocols import (
    ChainToProgram,
    Intrinsic,
    ProgramAlone,
    ProgramPrompts,
    Prompts,
    Protocol,
    program_prompts_for,
)

SELF = "self"
"""The source of chains that is the evaluated model itself."""


@dataclass(frozen=True)
class Attempt:
    """One sample of a strategy, as the last turn of its episode."""

    kind: Literal["chain", "program"]
    episode: Episode

    @property
    def turn(self) -> Turn:
        """The attempt itself; a program's output is its feedback."""
        return self.episode.turns[-1]

    @property
    def answer(self) -> str | None:
        """The answer found in the text, or in what the program printed."""
        return self.turn.grade.answer

    @property
    def correct(self) -> bool:
        """The verdict."""
        return self.turn.grade.correct

    @property
    def tokens(self) -> int:
        """Generated tokens; 0 where the endpoint does not count them."""
        return self.turn.generated

    @property
    def executions(self) -> int:
        """Runs of a program."""
        return int(self.kind == "program" and was_run(self.turn.grade))

    @property
    def chain(self) -> Turn | None:
        """The chain that a program refines."""
        return self.episode.turns[0] if len(self.episode.turns) == 2 else None

    @property
    def agrees_with_its_chain(self) -> bool:
        """Whether a refinement came to the answer of its chain."""
        before = None if self.chain is None else self.chain.grade.answer
        return before is not None and self.answer is not None and same_answer(before, self.answer)


@dataclass(eq=False)
class Trial:
    """One strategy on one problem: what was sampled, and what was answered."""

    problem: Problem
    choice: StrategyChoice
    attempts: list[Attempt] = field(default_factory=list)
    answered: Attempt | None = None
    failed: str | None = None

    @property
    def usable(self) -> list[Attempt]:
        """The attempts, from the first on, that stay within all limits of the budget."""
        most_tokens, most_runs = self.choice.budget_tokens, self.choice.budget_executions
        tokens = runs = 0
        for number, attempt in enumerate(self.attempts):
            tokens, runs = tokens + attempt.tokens, runs + attempt.executions
            if (most_tokens is not None and tokens > most_tokens) or (
                most_runs is not None and runs > most_runs
            ):
                return self.attempts[:number]
        return self.attempts

    @property
    def chains(self) -> list[Attempt]:
        """The usable chains."""
        return [attempt for attempt in self.usable if attempt.kind == "chain"]

    @property
    def programs(self) -> list[Attempt]:
        """The usable programs."""
        return [attempt for attempt in self.usable if attempt.kind == "program"]

    @property
    def over(self) -> bool:
        """Whether there is nothing more to sample: answered, failed, or a limit was met."""
        met = len(self.usable) < len(self.attempts)
        return self.answered is not None or self.failed is not None or met

    def add(self, attempt: Attempt) -> None:
        """Take an attempt in; one whose tokens cannot be counted, but must, fails the trial."""
        if self.choice.budget_tokens is not None and not attempt.tokens:
            self.failed = "a budget of tokens needs an endpoint that counts them"
        else:
            self.attempts.append(attempt)


@dataclass
class Table:
    """Samples for strategies. What a strategy samples is a function of the settings and `key`."""

    prompts: Prompts
    requests: ProgramPrompts
    player: Player
    grader: ProgramGrader
    source: str = SELF
    theirs: Player | None = None
    """The model that writes the chains, where it is another."""
    key: list[int] = field(default_factory=list)
    """Begins the stream of random numbers; followed by the number of the call."""
    calls: int = 0

    def chains(self, trials: Sequence[Trial], count: int = 1, *, greedy: bool = False) -> None:
        """Add `count` chains to each trial."""
        live = [trial for trial in trials if trial.failed is None]
        played = self._play(
            self.theirs or self.player,
            [trial.problem for trial in live],
            Intrinsic(self.prompts, 1),
            count,
            greedy,
        )
        for trial, episodes in zip(live, self._shared_out(live, played), strict=True):
            for episode in episodes:
                trial.add(Attempt("chain", self._named(episode)))

    def programs(self, trials: Sequence[Trial], count: int = 1, *, greedy: bool = False) -> None:
        """Add `count` programs at the bare question to each trial."""
        live = [trial for trial in trials if trial.failed is None]
        problems = [trial.problem for trial in live]
        protocol = ProgramAlone(self.requests)
        played = self._play(self.player, problems, protocol, count, greedy, self.grader)
        for trial, episodes in zip(live, self._shared_out(live, played), strict=True):
            for episode in episodes:
                trial.add(Attempt("program", self._with_output(episode)))

    def refine(self, wanted: Sequence[tuple[Trial, Attempt]], *, greedy: bool = False) -> None:
        """Add to each trial one program after the chain, for each time that it is wanted."""
        live = [(trial, chain) for trial, chain in wanted if trial.failed is None]
        adopt = self.player.adopt
        given = [[chain.turn if self.theirs is None else adopt(chain.turn)] for _, chain in live]
        played = self._play(
            self.player,
            [trial.problem for trial, _ in live],
            ChainToProgram(self.prompts, self.requests),
            1,
            greedy,
            self.grader,
            given,
        )
        trials = list({id(trial): trial for trial, _ in live}.values())
        for trial, episodes in zip(trials, self._shared_out(trials, played), strict=True):
            chains = [chain for of, chain in live if of is trial]
            for chain, episode in zip(chains, episodes, strict=bool(episodes)):
                spent = {"source": chain.turn.source, "completion_tokens": chain.tokens or None}
                first = episode.turns[0].model_copy(update=spent)
                whole = episode.model_copy(update={"turns": [first, *episode.turns[1:]]})
                trial.add(Attempt("program", self._with_output(whole)))

    def _play(
        self,
        player: Player,
        problems: Sequence[Problem],
        protocol: Protocol,
        samples: int,
        greedy: bool,
        grader: ProgramGrader | None = None,
        given: Sequence[Sequence[Turn]] | None = None,
    ) -> Played:
        self.calls += 1
        if not problems:
            return Played([], {})
        return player.play(
            problems,
            protocol,
            samples=samples,
            stream=[*self.key, self.calls],
            progress=lambda made: None,
            given=given,
            grader=grader,
            temperature=0.0 if greedy else None,
        )

    def _shared_out(self, trials: Sequence[Trial], played: Played) -> list[list[Episode]]:
        """Each trial's episodes in order; none for a trial with one that could not be had."""
        of: dict[str, list[Episode]] = {}
        for episode in played.episodes:
            of.setdefault(episode.problem.id, []).append(episode)
        for trial in trials:
            trial.failed = played.failed.get(trial.problem.id)
        return [[] if t.failed is not None else of.get(t.problem.id, []) for t in trials]

    def _named(self, episode: Episode) -> Episode:
        turn = episode.turns[0].model_copy(update={"source": self.source})
        return episode.model_copy(update={"turns": [turn]})

    def _with_output(self, episode: Episode) -> Episode:
        last = episode.turns[-1]
        said = "" if last.truncated else self.grader.output(last.attempt)
        turns = [*episode.turns[:-1], last.model_copy(update={"feedback": said})]
        return episode.model_copy(update={"turns": turns})


def open_tables(
    config: RolloutSettings, choice: StrategyChoice, folder: Path | None, progress: Progress
) -> list[Table]:
    """A table for each source of chains, all with the evaluated model for programs.

    Raises:
        UserError: a model cannot be loaded or reached, or there are no such texts.
    """
    prompts = config.open_prompts()
    requests = program_prompts_for(config.task, choice.program_prompts)
    player = open_player(config, prompts, folder, progress)
    grader = ProgramGrader(config.open_task().grader, choice.limits)
    tables = []
    for number, source in enumerate(choice.source_names):
        theirs = None
        if source != SELF:
            other = config.model_copy(update={"model": source})
            place = None if folder is None else folder / f"source-{number}"
            theirs = open_player(other, prompts, place, progress)
        tables.append(Table(prompts, requests, player, grader, source, theirs))
    return tables
