"""The one driver of evaluations: problems in, episodes as they come, a `Result` at the end.

    settings ──▶ parts ──▶ episodes/NAME.jsonl ──▶ metrics ──▶ Result ──▶ summary.json
                   ▲
                   └── each samples the episodes of some problems at a time, through one `rollout`

A part is one kind of episodes: `turns`, the first responses in `parallel` to compare them with, the
error in the message of the `user`, or a strategy with chains of one model. Problems whose episodes
are on disk are not run again, so an evaluation that was killed continues where it stopped; those
that failed are tried again. On several processes each plays its share of the problems and writes a
file of its own, which the main process merges. The random numbers of an episode depend on the seed,
the part, the problem and the sample, and neither on the other problems nor on the processes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redraft.chat.protocols import Intrinsic, Protocol, Wait
from redraft.chat.rollout import rollout
from redraft.engines.base import Engine, Sampling, Watch
from redraft.engines.endpoints import Usage
from redraft.errors import UserError
from redraft.evaluation.blind_spot import (
    own_error,
    summarise_blind_spot,
    user_error,
    wrong_solution,
)
from redraft.evaluation.headline import headline
from redraft.evaluation.metrics import measure
from redraft.evaluation.opening import open_engine, open_protocol, open_samplers, sampling_of
from redraft.evaluation.result import Result, failed_facts, in_order
from redraft.evaluation.sequential import SEQUENTIAL, summarise_sequential
from redraft.evaluation.settings import CollectSettings, EvaluationSettings, RolloutSettings
from redraft.evaluation.statistics import summarise
from redraft.evaluation.strategies import (
    ANSWER,
    SELF,
    Sampler,
    Strategy,
    Trial,
    play_seed,
    play_strategy,
)
from redraft.evaluation.summaries import (
    Played,
    answer_lines,
    summarise_improvement,
    summarise_strategies,
)
from redraft.evaluation.table_parts import models_note
from redraft.grading import Grader
from redraft.processes import Processes
from redraft.progress import Phase, Progress, Seen, Silent
from redraft.run_directory import RunDirectory, run_locks
from redraft.storage import append_jsonl, read_jsonl, to_jsonl, write_text
from redraft.types import Episode, Problem, Turn, without_failed
from redraft.workers import set_workers

if TYPE_CHECKING:
    from redraft.tasks.base import Task

EPISODES_AT_ONCE = 512
"""Episodes that are sampled, and then written, together."""
SLOW_EPISODES_AT_ONCE = 64
"""The same of a model that takes minutes for them, which an end in between would lose."""
SLOW_PARAMETERS = 50_000_000
"""Parameters of a model that is slow on a CPU."""

COMMANDS: Mapping[str, type[RolloutSettings]] = {
    "eval": EvaluationSettings,
    "collect": CollectSettings,
}
"""Commands whose run directories `resume` can open, and their settings."""


MAY_CHANGE = frozenset(
    ("out", "limit", "samples", "parallel", "strategy", "workers", "max_rows", "device", "sandbox")
)
"""Settings that do not change what is drawn for a problem and a sample, so that an evaluation may
be resumed with others."""


@run_locks()
def evaluate(config: EvaluationSettings, progress: Progress | None = None) -> Result:
    """Sample episodes of every problem and measure; with `out`, write it all to that folder.

    Raises:
        UserError: anything in the settings, the model or the data that cannot work, or no problem
            could be evaluated. Episodes that were finished by then are in the folder.
    """
    return _Evaluation.begin(config, "eval", progress).result()


@run_locks()
def collect(config: CollectSettings, progress: Progress | None = None) -> Path:
    """Sample episodes of every problem of the settings and write them to `out`/episodes.

    Raises:
        UserError: as `evaluate`.
    """
    _Evaluation.begin(config, "collect", progress).play()
    return config.out


@run_locks()
def resume(folder: Path, progress: Progress | None = None) -> Result | None:
    """Resume an evaluation or a collection that stopped; what failed in it is tried again.

    An evaluation ends with the summary that it would have had in one go, and returns its result.

    Raises:
        UserError: the folder is none of `redraft eval` or `redraft collect`, or in use; else as
            `evaluate`.
    """
    run = RunDirectory.open(folder)
    if run.command not in COMMANDS:
        raise UserError(f"{folder}: made by `redraft {run.command}`; expected eval or collect")
    settings, edits = run.config(COMMANDS[run.command])
    for name, said in edits.items():
        if name not in MAY_CHANGE and not name.startswith("http."):
            raise UserError(
                f"{said}; the episodes that are there were sampled with that: put it back, or "
                "begin anew with another --out"
            )
    config = settings.model_copy(update={"out": folder})
    processes = Processes.launched()
    with processes.together():
        confinement = config.confinement()
        if processes.main:
            run.lock()
            run.confined(confinement)
    shown = _shown(progress, processes)
    for said in edits.values():
        shown.note(said)
    evaluation = _Evaluation(config, run, shown, processes, confinement)
    if run.command == "eval":
        return evaluation.result()
    evaluation.play()
    return None


@dataclass(frozen=True)
class Part:
    """One kind of episodes of an evaluation."""

    name: str
    """Name of their file."""
    sample: Callable[[Sequence[Problem], Watch], list[Episode]]
    """The episodes of some problems."""
    responses: int
    """Most responses to a problem."""
    complete: Callable[[Sequence[Episode]], bool]
    """Whether a problem's episodes, as read from a file, are all of them."""
    samples: int = 1
    """Episodes of a problem, about."""


@dataclass
class _Evaluation:
    """An evaluation under way."""

    config: RolloutSettings
    run: RunDirectory | None
    progress: Progress
    processes: Processes
    confinement: Mapping[str, object] | None = None
    dropped: dict[str, Any] = field(default_factory=dict)
    """Facts about problems that no answer can be compared to."""
    failed: dict[str, str] = field(default_factory=dict)
    """By problem, why an episode of it could not be had or judged, in any part."""
    trials: list[tuple[Strategy, Sampler]] = field(default_factory=list)
    endpoints: list[Any] = field(default_factory=list)
    """Those that this process has asked."""
    at_once: int = 0
    """Episodes that are sampled together, once the model is open."""

    @classmethod
    def begin(cls, config: Any, command: str, progress: Progress | None) -> "_Evaluation":
        """A new evaluation, with a folder where the settings name one."""
        processes = Processes.launched()
        if processes.count > 1 and config.out is None:
            raise UserError("on several processes the episodes go through files; give --out FOLDER")
        run = None
        with processes.together():
            confinement = config.confinement()
            if config.out is not None and processes.main:
                run = RunDirectory.create(config.out, config, command, confinement)
        with processes.together():
            if config.out is not None and run is None:
                run = RunDirectory.open(config.out)
        return cls(config, run, _shown(progress, processes), processes, confinement)

    def result(self) -> Result:
        """Sample what is missing, measure everything and write the summary."""
        config = self.config
        assert isinstance(config, EvaluationSettings)
        played = self.play()
        kept = {
            name: [one for one in episodes if one.problem.id not in self.failed]
            for name, episodes in played.items()
        }
        if not kept[next(iter(kept))]:
            why = next(iter(self.failed.values()), "no reason was given")
            raise UserError(
                f"--model {config.model}: no problem could be evaluated; the first: {why}"
            )
        first = next(iter(kept.values()))
        if all(one.outcome == "truncated" and not one.responses for one in first):
            raise UserError(
                f"--max-tokens {config.max_tokens}: no problem leaves room for a response; first: "
                f"{first[0].note}"
            )
        result = self._measured(config, kept).note(**failed_facts(self.failed), **self.dropped)
        if self.confinement is not None:
            result.note(sandbox=self.confinement)
        if took := self._usage():
            result.note(endpoint=took.model_dump())
            if warning := models_note(took.models):
                self.progress.note(warning)
        if self.run is not None:
            result.folder = self.run.folder
            if self.processes.main:
                self.run.summary(result.to_summary())
        return result

    def _usage(self) -> Usage | None:
        """What all endpoints and processes took, also before the evaluation was resumed."""
        every = self.processes.gather([one.total for one in self.endpoints])
        if not every:
            return None
        total = Usage()
        for one in every:
            total.add(one)
        total.price(self.config.http)
        return total

    def _measured(self, config: EvaluationSettings, kept: Mapping[str, list[Episode]]) -> Result:
        if config.strategy is not None:
            return self._measured_strategies(config, kept)
        episodes = kept["turns"]
        result = Result().note(
            protocol=episodes[0].protocol,
            max_tokens=config.max_tokens,
            prompts=config.open_prompts().name,
        )
        if config.protocol == "self-improve":
            result.note(upper_bound=config.oracle_stop)
            result.add(summarise(episodes, config.updates + 1))
            return result.add(summarise_improvement(episodes))
        result.add(summarise(episodes, config.turns))
        if config.protocol == "blind-spot":
            spot = summarise_blind_spot(episodes, kept["user"], kept["wait"])
            return result.add(spot)
        if config.parallel:
            result.add(summarise_sequential(episodes, kept["parallel"], config.turns)).note(
                SEQUENTIAL, n_failed=len(self.failed)
            )
        return result

    def _measured_strategies(
        self, config: EvaluationSettings, kept: Mapping[str, list[Episode]]
    ) -> Result:
        played = []
        for (strategy, sampler), episodes in zip(self.trials, kept.values(), strict=True):
            of: dict[str, list[Episode]] = {}
            for episode in episodes:
                of.setdefault(episode.problem.id, []).append(episode)
            trials = [Trial.read(config, theirs) for theirs in of.values()]
            played.append(Played(strategy, sampler.source, trials))
        if self.run is not None and self.processes.main:
            lines = [line for one in played for line in answer_lines(one)]
            write_text(self.run.folder / "answers.jsonl", to_jsonl(lines))
        return summarise_strategies(played, config)

    def play(self) -> dict[str, list[Episode]]:
        """All episodes by part, those of earlier parts' failed problems left out of later ones."""
        config = self.config
        set_workers(config.workers)
        with self.processes.together():
            task = config.open_task()
            loaded = task.load(config.split, config.limit, config.seed)
            if said := config.grader_note:
                self.progress.note(said)
            if loaded.dropped:
                name, why = loaded.dropped[0]
                self.progress.note(f"{len(loaded.dropped)} problems dropped, first {name}: {why}")
            if not loaded.problems:
                raise UserError(f"--task {config.task}: no problem is left to evaluate")
            if config.protocol == "blind-spot":
                for problem in loaded.problems:
                    wrong_solution(problem)
            parts = self._parts(task)
        listed = [{"id": name, "reason": reason} for name, reason in loaded.dropped]
        self.dropped = {"n_dropped": len(listed), "dropped": listed}
        played: dict[str, list[Episode]] = {}
        share = len(loaded.problems[self.processes.rank :: self.processes.count])
        total = share * sum(part.responses for part in parts)
        title = "evaluation" if len(parts) > 1 else parts[0].name
        with self.progress.phase(title, total, config.max_tokens) as bar:
            for part in parts:
                problems = [one for one in loaded.problems if one.id not in self.failed]
                played[part.name] = self._play(part, problems, share, bar)
                self.failed |= without_failed(played[part.name])[1]
        if self.failed:
            name, why = next(iter(self.failed.items()))
            self.progress.note(f"{len(self.failed)} problems failed, first {name}: {why}")
        every = (one for episodes in played.values() for one in episodes)
        if cut := [one for one in every if one.outcome == "truncated" and one.note]:
            self.progress.note(
                f"{len(cut)} episodes outgrew the model's context and ended there, first "
                f"{cut[0].problem.id}: {cut[0].note}"
            )
        return played

    def _parts(self, task: "Task") -> list[Part]:
        """What is sampled; opens the models."""
        config = self.config
        prompts = config.open_prompts()
        protocol = open_protocol(config, prompts, task)
        cache = None if self.run is None else self.run.folder / "endpoint"
        rank = self.processes.rank
        engine = open_engine(config, config.model, cache, self.progress, rank)
        self._asks(engine)
        model: Any = getattr(engine, "model", None)  # of an endpoint its name
        on_cpu = str(getattr(model, "device", "")) == "cpu"
        slow = on_cpu and model.num_parameters() > SLOW_PARAMETERS
        self.at_once = SLOW_EPISODES_AT_ONCE if slow else EPISODES_AT_ONCE
        if isinstance(config, EvaluationSettings) and config.strategy is not None:
            folder = None if self.run is None else self.run.folder
            samplers = open_samplers(
                config, config, task, engine, prompts, folder, self.progress, rank
            )
            self._asks(*(one.writer for one in samplers))
            return [
                self._strategy(strategy, sampler, number)
                for number, sampler in enumerate(samplers)
                for strategy in config.strategies
            ]
        turns = partial(self._turns, engine, task.grader, sampling_of(config, prompts))
        n = config.samples
        if config.protocol == "blind-spot":
            return [
                turns("turns", protocol, n, begin=own_error),
                turns("user", Intrinsic(prompts, 1), n, pose=user_error),
                turns("wait", Wait(prompts), n, begin=own_error),
            ]
        parts = [turns("turns", protocol, n)]
        if isinstance(config, EvaluationSettings) and config.parallel:
            parts.append(turns("parallel", Intrinsic(prompts, 1), config.turns))
        return parts

    def _turns(
        self,
        engine: Engine,
        grader: Grader,
        sampling: Sampling,
        name: str,
        protocol: Protocol,
        samples: int,
        pose: Callable[[Problem], Problem] = lambda problem: problem,
        begin: Callable[[Problem], list[Turn]] = lambda _: [],
    ) -> Part:
        """Episodes of a protocol, of problems as `pose` puts them, with the turns of `begin`."""
        config = self.config
        drawn = replace(sampling, seed=play_seed(sampling.seed, name))

        def sample(problems: Sequence[Problem], watch: Watch) -> list[Episode]:
            return rollout(
                [pose(problem) for problem in problems],
                protocol,
                engine,
                grader,
                drawn,
                samples=samples,
                given=[begin(problem) for problem in problems for _ in range(samples)],
                policy=config.model,
                history_turns=config.window,
                count_whole=getattr(config, "count_whole", False),
                watch=watch,
            )

        whole = samples * protocol.turns
        return Part(name, sample, whole, lambda found: len(found) == samples, samples)

    def _asks(self, *engines: Engine | None) -> None:
        """Keep those that are endpoints; they count what they take."""
        self.endpoints += [one for one in engines if isinstance(getattr(one, "total", 0), Usage)]

    def _strategy(self, strategy: Strategy, sampler: Sampler, number: int) -> Part:
        choice = self.config
        assert isinstance(choice, EvaluationSettings)
        self.trials.append((strategy, sampler))

        def sample(problems: Sequence[Problem], watch: Watch) -> list[Episode]:
            trials = play_strategy(strategy, replace(sampler, watch=watch), problems, choice)
            return [one for trial in trials for one in trial.episodes(strategy.name)]

        samples = strategy.most_samples(choice)
        return Part(
            strategy.name if sampler.source == SELF else f"{strategy.name}-{number}",
            sample,
            samples,
            lambda found: ANSWER in found[-1].tags,
            samples,
        )

    def _play(
        self, part: Part, problems: Sequence[Problem], counted: int, bar: Phase
    ) -> list[Episode]:
        """All episodes of a part in order; those that are not on disk are sampled. The bar counts
        `counted` problems of this process."""
        processes = self.processes
        path = None if self.run is None else self.run.folder / "episodes" / f"{part.name}.jsonl"
        order = [problem.id for problem in problems]
        with processes.together():
            if path is not None and processes.main:
                _merge(path, order, lambda one: part.complete(one) and not without_failed(one)[1])
        episodes = read_jsonl(path, Episode) if path is not None and path.exists() else []
        done = {episode.problem.id for episode in episodes}
        share = problems[processes.rank :: processes.count]
        mine = [problem for problem in share if problem.id not in done]
        size = max(1, self.at_once // part.samples)
        bar.skip((counted - len(mine)) * part.responses)
        own = path and (path.with_suffix(f".{processes.rank}.jsonl") if processes.rank else path)
        with processes.together():
            for begin in range(0, len(mine), size):
                chunk, began = mine[begin : begin + size], time.monotonic()
                seen = Seen(bar.watch)
                played = part.sample(chunk, seen.watch)
                episodes += played
                left = len(chunk) * part.responses - seen.responses  # what was not needed
                # Of the latest episodes only: measuring all after each chunk would take long.
                known = without_failed(episodes[-10 * EPISODES_AT_ONCE :])[0]
                bar.advance(left, **headline(measure(known) if known else {}))
                if own is not None:
                    append_jsonl(own, played)
                if self.run is not None and processes.main:
                    self.run.took(part.name, time.monotonic() - began)
        if processes.count > 1:
            assert path is not None
            with processes.together():
                if processes.main:
                    _merge(path, order)
            episodes = read_jsonl(path, Episode)
        return in_order(episodes, order)


def _shown(progress: Progress | None, processes: Processes) -> Progress:
    """Progress of the main process alone."""
    return progress if progress is not None and processes.main else Silent()


def _merge(
    path: Path,
    order: Sequence[str],
    complete: Callable[[Sequence[Episode]], bool] = lambda found: True,
) -> None:
    """Make one file of those of all processes, in order of the problems.

    A problem is left out that is not in `order`, or whose episodes are not `complete`. One process
    has all episodes of a problem, so where several files have a problem, because a merge was killed
    before it removed them, the first one's episodes are taken.
    """
    files = [
        file for file in (path, *path.parent.glob(f"{path.stem}.[0-9]*.jsonl")) if file.exists()
    ]
    kept: dict[str, list[Episode]] = {}
    for file in files:
        theirs: dict[str, list[Episode]] = {}
        for episode in read_jsonl(file, Episode):
            theirs.setdefault(episode.problem.id, []).append(episode)
        for name, episodes in theirs.items():
            if complete(episodes):
                kept.setdefault(name, episodes)
    if files:
        every = [episode for name in order for episode in kept.get(name, [])]
        write_text(path, to_jsonl(every))
    for file in files:
        if file != path:
            file.unlink()
