"""The loop of the supervised methods: collect, choose, fine-tune, and again.

    for k in 1..K
        collect    attempts of the newest policy on the iteration's problems, chunk by chunk
        choose     which attempts are imitated, and with what weight
        fine-tune  some epochs of weighted cross-entropy, from the newest policy or from the base

A method says how a chunk of problems becomes episodes and how episodes become examples (`Recipe`);
all else is here. An iteration leaves everything in its folder::

    iterations/01/episodes-0000.jsonl   what was played for each chunk of problems, as it comes
    iterations/01/failed-0000.json      problems of the chunk that could not be had, with the reason
    iterations/01/rolled-0000.jsonl     the policy's part of a chunk that is not whole yet
    iterations/01/examples.jsonl        what is learned from, with its weights
    iterations/01/summary.json          counts: collected, kept, dropped and why
    iterations/01/model/                the policy after it

A killed run takes up collecting at the first chunk that is not whole. Problems that failed, and no
others, are tried again, and what a try has brought is never given up for less; where more problems
failed than the configuration allows, the run stops before training so that they can be tried. Once
an iteration has examples they stay as they are.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from zlib import crc32

import torch
from accelerate import Accelerator

from redraft.chat_rollout import Played
from redraft.credit.imitation import Example, to_rows
from redraft.episode import Episode, Problem, read_jsonl, to_jsonl
from redraft.errors import UserError
from redraft.learning.checkpoint import export_model
from redraft.learning.streams import TokenStreams
from redraft.methods.order import ProblemOrder
from redraft.methods.session import Session
from redraft.methods.supervised_config import SupervisedConfig
from redraft.models import load_model
from redraft.progress import Progress
from redraft.runs import Run, write_json, write_text

C = TypeVar("C", bound=SupervisedConfig)
S = TypeVar("S", bound="SupervisedSession[Any]", contravariant=True)


@dataclass
class Chosen:
    """What an iteration learns from, and what it does not: `counts` says how much and why."""

    examples: list[Example]
    counts: dict[str, float] = field(default_factory=dict)


@dataclass
class Collected:
    """Episodes on a chunk of problems, and the problems that could not be had, with the reason."""

    episodes: list[Episode]
    failed: dict[str, str] = field(default_factory=dict)


class Recipe(Protocol[S]):
    """One supervised method."""

    def collect(self, session: S, problems: Sequence[Problem]) -> Collected:
        """Attempts at some problems, with the policy as it is. `session.had` are those that an
        earlier try at the same problems has left; what of them is not among the result is lost."""
        ...

    def choose(self, session: S, episodes: Sequence[Episode]) -> Chosen:
        """What to learn from all episodes of an iteration."""
        ...


class SupervisedSession(Session[C]):
    """A session that goes through iterations."""

    def __init__(
        self,
        config: C,
        run: Run,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        super().__init__(config, run, progress, accelerator, checkpoint)
        self.iteration = int(self._restored.get("iteration", config.first_iteration))
        """The iteration in progress."""
        self.began = int(self._restored.get("began", 0))
        """Steps taken before it."""
        self.had: Sequence[Episode] = ()
        """Episodes of the problems in hand that an earlier try at them has left."""

    def state(self) -> dict[str, Any]:
        """Which iteration the checkpoint lies in, and where that began."""
        return {"iteration": self.iteration, "began": self.began}

    @property
    def folder(self) -> Path:
        """The iteration's folder."""
        return self._folder_of(self.iteration)

    @property
    def teacher_folder(self) -> Path:
        """Where this process keeps the answers of its teacher."""
        index = self.accelerator.process_index
        return self.run.folder / (f"teacher-{index}" if index else "teacher")

    def rolled(
        self, problems: Sequence[Problem], roll: Callable[[], list[Episode]]
    ) -> list[Episode]:
        """The policy's part in the problems in hand: what `roll` plays, or what an earlier try has
        played, which is kept until the chunk is whole. It is on disk when this returns, so that
        others are asked about the same states whenever they are asked."""
        path = self.folder / f"rolled-{self.part:04d}.jsonl"
        wanted = {problem.id for problem in problems}
        before = Played.judged(read_jsonl(path, Episode)).episodes if path.exists() else []
        here = path.exists() and wanted <= {episode.problem.id for episode in before}
        if all(self.everyones([here])):
            return [episode for episode in before if episode.problem.id in wanted]
        made = roll()
        everyones = self.everyones(made)
        if self.accelerator.is_main_process:
            write_text(path, to_jsonl(everyones))
        self.accelerator.wait_for_everyone()
        return made

    def iteration_problems(self) -> list[Problem]:
        """The problems of the iteration in progress: the next ones in the run's seeded order."""
        size = self.config.problems_per_iteration or len(self.problems)
        order = ProblemOrder(self.config.seed, len(self.problems), min(size, len(self.problems)))
        return [self.problems[index] for index in order.problems(max(0, self.iteration - 1))]

    def take_base(self) -> None:
        """Give the policy the weights again that it had before iteration 1."""
        config = self.config
        boosted = self._folder_of(0) / "model"
        torch.manual_seed(config.seed)  # new LoRA adapters are those the run began with
        base, _ = load_model(
            boosted if boosted.exists() else config.model,
            training=True,
            device=str(self.accelerator.device),
            lora_rank=0 if boosted.exists() else config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_target_modules,
        )
        self.model.load_state_dict(base.state_dict())

    def end_iteration(self) -> None:
        """Keep the iteration's weights and get ready for the next one."""
        self.iteration, self.began = self.iteration + 1, self.step
        self._write_checkpoint()

    def checkpoint_written(self) -> None:
        """Copy the policy that an iteration has ended with to the iteration's folder."""
        done = self._folder_of(self.iteration - 1)
        if self.step == self.began and done.exists() and not (done / "model").exists():
            export_model(self._place(), done / "model")

    def _folder_of(self, iteration: int) -> Path:
        return self.run.folder / "iterations" / f"{iteration:02d}"


def train(session: S, recipe: Recipe[S]) -> Path:
    """Go through the iterations that are left and finish; returns the run's folder.

    Raises:
        UserError: as `iterate`.
    """
    iterate(session, recipe)
    return session.finish()


def iterate(session: S, recipe: Recipe[S]) -> None:
    """Go through the iterations that are left.

    Raises:
        UserError: an iteration has nothing to learn from, and whatever training raises.
    """
    while session.iteration <= session.config.iterations:
        examples = _examples(session, recipe)
        _fine_tune(session, to_rows(examples))
        session.end_iteration()


def _examples(session: S, recipe: Recipe[S]) -> list[Example]:
    """The iteration's examples: those on disk, or collected and chosen now."""
    path = session.folder / "examples.jsonl"
    if not path.exists():
        episodes = collect(session, recipe)
        chosen = recipe.choose(session, episodes)
        if session.accelerator.is_main_process:
            counts = {"episodes": len(episodes), "examples": len(chosen.examples)}
            write_json(session.folder / "summary.json", {**counts, **chosen.counts})
            if chosen.examples:
                write_text(path, to_jsonl(chosen.examples))
        session.accelerator.wait_for_everyone()
        if not chosen.examples:
            why = ", ".join(f"{name} {value:g}" for name, value in chosen.counts.items())
            raise UserError(
                f"iteration {session.iteration}: none of {len(episodes)} episodes is of use as an "
                f"example ({why}); use easier problems, more samples or a less strict choice"
            )
        session.progress.note(_told(session, len(episodes), chosen))
    return read_jsonl(path, Example)


def _told(session: S, episodes: int, chosen: Chosen) -> str:
    counts = ", ".join(f"{name} {value:g}" for name, value in chosen.counts.items())
    return (
        f"iteration {session.iteration}: {len(chosen.examples)} examples of {episodes} ({counts})"
    )


def collect(session: S, recipe: Recipe[S]) -> list[Episode]:
    """All episodes of the iteration in progress, chunk by chunk; chunks on disk are read.

    Raises:
        UserError: more problems failed than the configuration allows.
    """
    problems, size = session.iteration_problems(), session.config.collect_at_once
    episodes: list[Episode] = []
    failed: dict[str, str] = {}
    session.folder.mkdir(parents=True, exist_ok=True)
    with session.progress.phase(f"collecting {session.iteration}", len(problems)) as bar:
        for number, begin in enumerate(range(0, len(problems), size)):
            chunk = problems[begin : begin + size]
            session.part = number
            done, missing = _chunk(session, recipe, number, chunk)
            episodes += done
            failed |= missing
            bar.advance(len(chunk), episodes=float(len(episodes)))
    session.part = 0
    if failed:
        _weigh_failures(session, failed, len(problems))
    return episodes


def _weigh_failures(session: S, failed: Mapping[str, str], problems: int) -> None:
    """Go on without a few problems; stop before training where too many are missing."""
    name, why = next(iter(failed.items()))
    told = (
        f"iteration {session.iteration}: {len(failed)} of {problems} problems could not be "
        f"collected, first {name}: {why}; all are listed in {session.folder}"
    )
    if not session.config.does_without(len(failed), problems):
        raise UserError(
            f"{told}; `redraft resume {session.run.folder}` asks for them again, raise "
            "failures_allowed in its config.yaml to train without them"
        )
    session.progress.note(f"{told}; training goes on without them")


def _chunk(
    session: S, recipe: Recipe[S], number: int, problems: Sequence[Problem]
) -> tuple[list[Episode], dict[str, str]]:
    place = session.folder / f"episodes-{number:04d}.jsonl"
    list_of_failed = session.folder / f"failed-{number:04d}.json"
    had = read_jsonl(place, Episode) if place.exists() else []
    if place.exists() and not list_of_failed.exists():
        return had, {}
    if place.exists():
        missing: dict[str, str] = json.loads(list_of_failed.read_text("utf-8"))
        tried = [problem for problem in problems if problem.id in missing]
        session.retry = crc32("\n".join(problem.id for problem in tried).encode())
    else:
        tried = list(problems)
    names = {problem.id for problem in tried}
    session.had = [episode for episode in had if episode.problem.id in names]
    process, processes = session.accelerator.process_index, session.accelerator.num_processes
    made = recipe.collect(session, tried[process::processes])
    session.had, session.retry = (), 0
    judged = Played.judged(made.episodes)
    failed = dict(session.everyones([*judged.failed.items(), *made.failed.items()]))
    episodes = _merged(problems, had, session.everyones(judged.episodes), names, failed)
    if session.accelerator.is_main_process:
        if failed:  # listed first: a chunk without a list counts as whole
            write_json(list_of_failed, failed)
        write_text(place, to_jsonl(episodes))
        if not failed:
            list_of_failed.unlink(missing_ok=True)
            (session.folder / f"rolled-{number:04d}.jsonl").unlink(missing_ok=True)
    session.accelerator.wait_for_everyone()
    return episodes, failed


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


def _fine_tune(session: S, rows: Sequence[TokenStreams]) -> None:
    config, count = session.config, len(rows)
    size = min(config.batch_size, count)
    steps = math.ceil(config.epochs_of(session.iteration) * count / size)
    begin, end = session.began, session.began + steps
    if session.step == begin and config.start == "base" and session.iteration > 1:
        session.take_base()
    learner = session.learner_config(
        loss_mean=config.loss_mean,
        schedule=config.schedule,
        warmup_steps=min(round(config.warmup_share * steps), steps - 1),
        total_steps=steps,
    )
    session.begin_phase(session.iteration, begin, learner)
    order = ProblemOrder(
        config.seed + session.iteration,
        count,
        size,
        session.accelerator.process_index,
        session.accelerator.num_processes,
    )
    with session.progress.phase(f"fine-tuning {session.iteration}", steps) as bar:
        bar.advance(session.step - begin)
        while session.step < end:
            batch = [rows[index] for index in order.problems(session.step - begin)]
            metrics = session.record(f"iteration {session.iteration}", session.update(batch))
            bar.advance(1, loss=metrics["loss"])
