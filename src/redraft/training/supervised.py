"""Runs of supervised methods: collect, choose, fine-tune, and again.

    for k in 1..K
        collect    responses of the newest policy to the iteration's problems, chunk by chunk
        choose     which responses are imitated, and with what weight
        fine-tune  some epochs of weighted cross-entropy, from the newest policy or from the base

A method says how a chunk of problems becomes episodes and how episodes become examples (`Recipe`);
all else is here. An iteration leaves everything in its folder::

    iterations/01/episodes-0000.jsonl   episodes of each chunk of problems, as they come
    iterations/01/failed-0000.json      problems of the chunk that failed, with the error
    iterations/01/rolled-0000-0.jsonl   the policy's part of a chunk that is not complete yet
    iterations/01/examples.jsonl        what is learned from, with its weights
    iterations/01/summary.json          counts: collected, kept, dropped and why
    iterations/01/model/                the policy after it

A resumed run continues collecting at the first chunk that is not complete. Only problems that
failed are tried again, and the episodes of an earlier try are kept unless the new try has more.
Where more problems failed than the configuration allows, the run stops before training, so that
they can be tried again. Once an iteration has examples they stay as they are.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate import Accelerator

from redraft.errors import UserError
from redraft.evaluation.headline import headline
from redraft.learning.checkpoint import export_model
from redraft.learning.imitation import Chosen, Example, to_rows
from redraft.learning.rows import TrainingRow
from redraft.progress import Progress
from redraft.run_directory import RunDirectory
from redraft.storage import (
    read_checked,
    read_json,
    read_jsonl,
    to_jsonl,
    write_checked,
    write_json,
    write_text,
)
from redraft.training.order import ProblemOrder
from redraft.training.run import TrainingRun
from redraft.training.settings import SupervisedConfig, TeacherConfig
from redraft.training.teacher import Teacher, open_teacher
from redraft.types import Episode, Problem, without_failed

C = TypeVar("C", bound=SupervisedConfig)
R = TypeVar("R", bound="SupervisedRun[Any]", contravariant=True)


class Recipe(Protocol[R]):
    """One supervised method."""

    def collect(self, run: R, problems: Sequence[Problem]) -> list[Episode]:
        """Episodes on some problems, with the policy as it is. One that a teacher or another model
        did not answer has the outcome `failed`; its problem is tried again, and then
        `run.earlier(problems)` are the other episodes of the problem."""
        ...

    def choose(self, run: R, episodes: Sequence[Episode]) -> Chosen:
        """What to learn from all episodes of an iteration."""
        ...


class SupervisedRun(TrainingRun[C]):
    """A run that goes through iterations."""

    def __init__(
        self,
        config: C,
        directory: RunDirectory,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        super().__init__(config, directory, progress, accelerator, checkpoint)
        self.evaluation = replace(self.evaluation, history_turns=config.window)
        self.iteration = self.restore("iteration", int, config.first_iteration)
        """The iteration in progress."""
        self.began = self.restore("began", int, 0)
        """Steps taken before it."""
        self.chunk = 0
        """The chunk of its problems that is being collected."""

    def state(self) -> dict[str, Any]:
        """The iteration of the checkpoint, and the step at which that began."""
        return {"iteration": self.iteration, "began": self.began}

    def folder(self, iteration: int | None = None) -> Path:
        """The folder of an iteration, by default of the one in progress."""
        number = self.iteration if iteration is None else iteration
        return self.directory.folder / "iterations" / f"{number:02d}"

    def open_teacher(self) -> Teacher:
        """The teacher that the configuration names; its processes share one cache of answers."""
        config, process = self.config, self.processes.rank
        assert isinstance(config, TeacherConfig)
        folder = self.directory.folder / "teacher"
        return self.together(lambda: open_teacher(config, folder, self.progress, process=process))

    def rolled(
        self,
        problems: Sequence[Problem],
        roll: Callable[[Sequence[Problem]], list[Episode]],
    ) -> list[Episode]:
        """The policy's episodes on some problems of the chunk in progress: those that an earlier
        try has sampled, and for the other problems what `roll` samples now.

        They are on disk when this returns, until the chunk is complete, so that a teacher is asked
        about the same states whenever it is asked.
        """
        stem = f"rolled-{self.chunk:04d}"
        files = {
            path.name: without_failed(read_jsonl(path, Episode))[0]
            for path in sorted(self.folder().glob(f"{stem}-*.jsonl"))
        }
        had = [episode for episodes in files.values() for episode in episodes]
        known = {episode.problem.id for episode in had}
        missing = [problem for problem in problems if problem.id not in known]
        made = roll(missing) if missing else []
        if made:
            own = f"{stem}-{self.processes.rank}.jsonl"
            write_text(self.folder() / own, to_jsonl([*files.get(own, []), *made]))
        wanted = {problem.id for problem in problems}
        return [episode for episode in [*had, *made] if episode.problem.id in wanted]

    def earlier(self, problems: Sequence[Problem]) -> list[Episode]:
        """The episodes on some problems that an earlier try at the chunk in progress has brought,
        although others of these problems failed."""
        path, names = self.episodes_file(self.chunk), {problem.id for problem in problems}
        had = read_checked(path, Episode) if path.exists() else []
        return [episode for episode in had if episode.problem.id in names]

    def episodes_file(self, chunk: int) -> Path:
        """Where the episodes of a chunk of the iteration in progress are."""
        return self.folder() / f"episodes-{chunk:04d}.jsonl"

    def iteration_problems(self) -> list[Problem]:
        """The problems of the iteration in progress: the next ones in the run's seeded order."""
        size = self.config.problems_per_iteration or len(self.problems)
        order = ProblemOrder(self.config.seed, len(self.problems), min(size, len(self.problems)))
        return [self.problems[index] for index in order.problems(max(0, self.iteration - 1))]

    def take_base(self) -> None:
        """Give the policy the weights again that it had before iteration 1."""
        boosted = self.folder(0) / "model"
        base = boosted if self.exists(boosted) else self.config.model
        self.together(lambda: self.policy.take_weights(base))
        self.policy.updated(f"base-{self.iteration}")

    def end_iteration(self) -> None:
        """Keep the iteration's weights and get ready for the next one."""
        self.iteration, self.began = self.iteration + 1, self.step
        self.write_checkpoint()

    def checkpoint_written(self) -> None:
        """Copy the policy that an iteration has ended with to the iteration's folder."""
        done = self.folder(self.iteration - 1)
        if self.step == self.began and done.exists() and not (done / "model").exists():
            export_model(self._place(), done / "model")


def iterate(run: R, recipe: Recipe[R]) -> None:
    """Go through the iterations that are left.

    Raises:
        UserError: an iteration has nothing to learn from, and whatever training raises.
    """
    while run.iteration <= run.config.iterations:
        examples = _examples(run, recipe)
        _fine_tune(run, to_rows(examples))
        run.end_iteration()


def collect(run: R, recipe: Recipe[R]) -> list[Episode]:
    """All episodes of the iteration in progress, chunk by chunk; chunks on disk are read.

    Raises:
        UserError: more problems failed than the configuration allows.
    """
    problems, size = run.iteration_problems(), run.config.collect_at_once
    episodes: list[Episode] = []
    failed: dict[str, str] = {}
    run.together(lambda: run.folder().mkdir(parents=True, exist_ok=True))
    with run.progress.phase(f"collecting {run.iteration}", len(problems)) as bar:
        for number, begin in enumerate(range(0, len(problems), size)):
            chunk = problems[begin : begin + size]
            done, missing = _chunk(run, recipe, number, chunk)
            episodes += done
            failed |= missing
            bar.advance(len(chunk), episodes=float(len(episodes)))
    if failed:
        _weigh_failures(run, failed, len(problems))
    return episodes


def _examples(run: R, recipe: Recipe[R]) -> list[Example]:
    """The iteration's examples: those on disk, or collected and chosen now."""
    path = run.folder() / "examples.jsonl"
    if not run.exists(path):
        episodes = collect(run, recipe)
        chosen = recipe.choose(run, episodes)
        counts = ", ".join(f"{name} {value:g}" for name, value in chosen.counts.items())

        def write() -> None:
            numbers = {"episodes": len(episodes), "examples": len(chosen.examples)}
            write_json(run.folder() / "summary.json", {**numbers, **chosen.counts})
            if chosen.examples:
                write_checked(path, to_jsonl(chosen.examples))

        run.processes.on_main(write)
        if not chosen.examples:
            raise UserError(
                f"iteration {run.iteration}: none of {len(episodes)} episodes is usable as an "
                f"example ({counts}); use easier problems, more samples or a less strict choice"
            )
        run.progress.note(
            f"iteration {run.iteration}: {len(chosen.examples)} examples of {len(episodes)} "
            f"({counts})"
        )
    examples = run.together(lambda: read_checked(path, Example))
    if not examples:
        raise UserError(f"{path}: holds no example; delete it, and they are chosen anew")
    return examples


def _weigh_failures(run: R, failed: Mapping[str, str], problems: int) -> None:
    """Proceed without a few problems; stop before training where too many failed."""
    name, why = next(iter(failed.items()))
    summary = (
        f"iteration {run.iteration}: {len(failed)} of {problems} problems could not be "
        f"collected, first {name}: {why}; all are listed in {run.folder()}"
    )
    if not run.config.allows(len(failed), problems):
        raise UserError(
            f"{summary}; `redraft resume {run.directory.folder}` asks for them again, raise "
            "failures_allowed in its config.yaml to train without them"
        )
    run.progress.note(f"{summary}; training proceeds without them")


def _chunk(
    run: R, recipe: Recipe[R], number: int, problems: Sequence[Problem]
) -> tuple[list[Episode], dict[str, str]]:
    """A chunk's episodes and failures, from disk as far as they are there."""
    place = run.episodes_file(number)
    list_of_failed = run.folder() / f"failed-{number:04d}.json"
    begun, incomplete = run.exists(place), run.exists(list_of_failed)
    had = run.together(lambda: read_checked(place, Episode)) if begun else []

    def tidy() -> None:  # once the chunk is complete
        for kept in run.folder().glob(f"rolled-{number:04d}-*.jsonl"):
            kept.unlink()

    if begun and not incomplete:
        run.processes.on_main(tidy)  # a kill may have come before
        return had, {}
    tried = list(problems)
    if begun:
        missing: dict[str, str] = run.together(lambda: read_json(list_of_failed))
        tried = [problem for problem in problems if problem.id in missing]
    process, processes = run.processes.rank, run.processes.count
    mine = tried[process::processes]
    run.chunk = number
    collected = run.together(lambda: recipe.collect(run, mine))
    failed = dict(run.processes.gather([*without_failed(collected)[1].items()]))
    # Without a verdict on one response nothing of the problem counts, see `without_failed`; what
    # a teacher has answered does, although it did not answer everything.
    made, _ = without_failed([episode for episode in collected if episode.outcome != "failed"])
    everyones = run.processes.gather_to_main(made)

    def write() -> None:
        episodes = _merged(problems, had, everyones, {problem.id for problem in tried}, failed)
        if failed:  # listed first: a chunk without a list counts as complete
            write_json(list_of_failed, failed)
        write_checked(place, to_jsonl(episodes))
        if not failed:
            list_of_failed.unlink(missing_ok=True)
            tidy()

    run.processes.on_main(write)
    return run.together(lambda: read_checked(place, Episode)), failed


def _merged(
    problems: Sequence[Problem],
    had: Sequence[Episode],
    made: Sequence[Episode],
    tried: Collection[str],
    failed: Collection[str],
) -> list[Episode]:
    """A chunk's episodes in the order of its problems: those `made` of the problems `tried`, and
    those `had` of the others and of problems that have `failed` again with fewer than before."""
    before, now = _by_problem(had), _by_problem(made)
    merged: list[Episode] = []
    for name in dict.fromkeys(problem.id for problem in problems):
        kept = name not in tried or (name in failed and len(now[name]) < len(before[name]))
        episodes = before[name] if kept else now[name]
        merged += sorted(episodes, key=lambda episode: episode.sample)
    return merged


def _by_problem(episodes: Sequence[Episode]) -> defaultdict[str, list[Episode]]:
    found: defaultdict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        found[episode.problem.id].append(episode)
    return found


def _fine_tune(run: R, rows: Sequence[TrainingRow]) -> None:
    """The optimiser steps of the iteration that are left."""
    config, count = run.config, len(rows)
    size = min(config.batch_size, count)
    steps = math.ceil(config.epochs_of(run.iteration) * count / size)
    begin, end = run.began, run.began + steps
    if run.step == begin and config.start == "base" and run.iteration > 1:
        run.take_base()
    learner = run.learner_config(
        loss_mean=config.loss_mean,
        schedule=config.schedule,
        warmup_steps=min(round(config.warmup_share * steps), steps - 1),
        total_steps=steps,
    )
    run.begin_phase(run.iteration, begin, learner)
    order = ProblemOrder(
        config.seed + run.iteration,
        count,
        size,
        run.processes.rank,
        run.processes.count,
    )
    with run.progress.phase(f"fine-tuning {run.iteration}", steps) as bar:
        bar.skip(run.step - begin)
        while run.step < end:
            batch = [rows[index] for index in order.problems(run.step - begin)]
            metrics = run.record(f"iteration {run.iteration}", run.update(batch))
            bar.advance(1, **headline(metrics))
