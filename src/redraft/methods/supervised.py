"""The loop of the supervised methods: collect, choose, fine-tune, and again.

    for k in 1..K
        collect    attempts of the newest policy on the iteration's problems, chunk by chunk
        choose     which attempts are imitated, and with what weight
        fine-tune  some epochs of weighted cross-entropy, from the newest policy or from the base

A method says how a chunk of problems becomes episodes and how episodes become examples (`Recipe`);
all else is here. An iteration leaves everything in its folder::

    iterations/01/episodes-0000.jsonl   what was played for each chunk of problems, as it comes
    iterations/01/failed-0000.json      problems of the chunk that could not be had, with the reason
    iterations/01/examples.jsonl        what is learned from, with its weights
    iterations/01/summary.json          counts: collected, kept, dropped and why
    iterations/01/model/                the policy after it

A killed run takes up collecting at the first chunk that is not whole, and chunks with failures are
tried again; once an iteration has examples they stay as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator

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
        """Attempts at some problems, with the policy as it is."""
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

    def state(self) -> dict[str, Any]:
        """Which iteration the checkpoint lies in, and where that began."""
        return {"iteration": self.iteration, "began": self.began}

    @property
    def folder(self) -> Path:
        """The iteration's folder."""
        return self.run.folder / "iterations" / f"{self.iteration:02d}"

    def iteration_problems(self) -> list[Problem]:
        """The problems of the iteration in progress: the next ones in the run's seeded order."""
        size = self.config.problems_per_iteration or len(self.problems)
        order = ProblemOrder(self.config.seed, len(self.problems), min(size, len(self.problems)))
        return [self.problems[index] for index in order.problems(max(0, self.iteration - 1))]

    def take_base(self) -> None:
        """Give the policy the weights again that it had before iteration 1."""
        config = self.config
        boosted = self.run.folder / "iterations" / "00" / "model"
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
        done = self.folder
        self.iteration, self.began = self.iteration + 1, self.step
        self._write_checkpoint()
        if self.accelerator.is_main_process:
            export_model(self._place(), done / "model")


def train(session: S, recipe: Recipe[S]) -> Path:
    """Go through the iterations that are left; returns the run's folder.

    Raises:
        UserError: an iteration has nothing to learn from, and whatever training raises.
    """
    while session.iteration <= session.config.iterations:
        examples = _examples(session, recipe)
        rows = to_rows(examples, per_example=session.config.loss_mean == "attempt")
        _fine_tune(session, rows)
        session.end_iteration()
    return session.finish()


def _examples(session: S, recipe: Recipe[S]) -> list[Example]:
    """The iteration's examples: those on disk, or collected and chosen now."""
    path = session.folder / "examples.jsonl"
    if not path.exists():
        episodes = _collect(session, recipe)
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


def _collect(session: S, recipe: Recipe[S]) -> list[Episode]:
    """All episodes of the iteration, chunk by chunk; chunks that are on disk are read."""
    problems, size = session.iteration_problems(), session.config.collect_at_once
    episodes: list[Episode] = []
    failed: dict[str, str] = {}
    session.folder.mkdir(parents=True, exist_ok=True)
    with session.progress.phase(f"collecting {session.iteration}", len(problems)) as bar:
        for number, begin in enumerate(range(0, len(problems), size)):
            chunk = problems[begin : begin + size]
            done, missing = _chunk(session, recipe, number, chunk)
            episodes += done
            failed |= missing
            bar.advance(len(chunk), episodes=float(len(episodes)))
    if failed:
        name, why = next(iter(failed.items()))
        session.progress.note(
            f"{len(failed)} problems could not be collected, first {name}: {why}; all are listed "
            f"in {session.folder}, `redraft resume` asks again as long as training has not begun"
        )
    return episodes


def _chunk(
    session: S, recipe: Recipe[S], number: int, problems: Sequence[Problem]
) -> tuple[list[Episode], dict[str, str]]:
    place = session.folder / f"episodes-{number:04d}.jsonl"
    list_of_failed = session.folder / f"failed-{number:04d}.json"
    if place.exists() and not list_of_failed.exists():
        return read_jsonl(place, Episode), {}
    process, processes = session.accelerator.process_index, session.accelerator.num_processes
    made = recipe.collect(session, problems[process::processes])
    episodes = session.everyones(made.episodes)
    failed = dict(session.everyones(list(made.failed.items())))
    if session.accelerator.is_main_process:
        write_text(place, to_jsonl(episodes))
        list_of_failed.unlink(missing_ok=True)
        if failed:
            write_json(list_of_failed, failed)
    session.accelerator.wait_for_everyone()
    return episodes, failed


def _fine_tune(session: S, rows: Sequence[TokenStreams]) -> None:
    config, count = session.config, len(rows)
    steps = max(1, math.ceil(config.epochs_of(session.iteration) * count / config.batch_size))
    begin, end = session.began, session.began + steps
    if session.step == begin and config.start == "base" and session.iteration > 1:
        session.take_base()
    learner = session.learner_config(
        schedule=config.schedule,
        warmup_steps=min(round(config.warmup_share * steps), steps - 1),
        total_steps=steps,
    )
    session.begin_phase(session.iteration, begin, learner)
    order = ProblemOrder(
        config.seed + session.iteration,
        count,
        min(config.batch_size, count),
        session.accelerator.process_index,
        session.accelerator.num_processes,
    )
    with session.progress.phase(f"fine-tuning {session.iteration}", steps) as bar:
        bar.advance(session.step - begin)
        while session.step < end:
            batch = [rows[index] for index in order.problems(session.step - begin)]
            metrics = session.record(f"iteration {session.iteration}", session.update(batch))
            bar.advance(1, loss=metrics["loss"])
