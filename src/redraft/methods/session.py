"""A training run in progress: the policy, its problems, the folder, and one step after another.

Methods say what is played and what it is worth; a `Session` plays it, learns from it, writes it
down and can go on where a killed process stopped. Whatever a step draws is a function of the seed
and the step's number alone, so there is no state to lose but weights, optimiser and the step.
"""

import copy
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from peft import PeftModel

from redraft.dialogue import Dialogue
from redraft.engines import Sampling
from redraft.engines.local import LocalEngine
from redraft.episode import Episode, Problem, Turn
from redraft.errors import UserError
from redraft.evaluation.metrics import flat, self_correction_metrics
from redraft.learning.checkpoint import (
    newest_complete,
    prune_checkpoints,
    read_extra,
    write_checkpoint,
)
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.streams import TokenStreams
from redraft.methods.score_config import ScoreConfig
from redraft.models import has_bf16, load_model, torch_device
from redraft.progress import Progress, Silent
from redraft.protocols import Intrinsic, prompts_for
from redraft.rollout import rollout
from redraft.runs import Run, write_json
from redraft.tasks import get_task


class Session:
    """One run of one method on one policy."""

    def __init__(
        self,
        config: ScoreConfig,
        run: Run,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        if config.problems_per_step < accelerator.num_processes:
            raise UserError(
                f"--problems-per-step {config.problems_per_step}: every one of the "
                f"{accelerator.num_processes} processes needs at least 1"
            )
        self.config, self.run, self.accelerator = config, run, accelerator
        self.progress = progress if accelerator.is_main_process else Silent()
        self.task = get_task(
            config.task,
            config.data,
            grader=config.grader,
            question_field=config.question_field,
            gold_field=config.gold_field,
        )
        self.problems = self._load_problems()
        self.prompts = prompts_for(config.task, config.prompts)
        torch.manual_seed(config.seed)  # new LoRA adapters start at random weights
        self.model, self.tokenizer = load_model(
            checkpoint or config.model,
            training=True,
            device=str(self.accelerator.device),
            lora_rank=config.lora_rank if checkpoint is None else 0,
        )
        self.dialogue = Dialogue(
            self.tokenizer,
            generation_config=self.model.generation_config,
            stop=self.prompts.stop,
        )
        if self.dialogue.rewrites_history:
            self.progress.note(self.dialogue.rewrites_history)
        self.engine = LocalEngine(self.model, self.tokenizer, max_rows=config.max_rows)
        self.reference: Any = None
        self._base_is_reference = False
        self._learner: Learner | None = None
        self._checkpoint = checkpoint
        extra = {} if checkpoint is None else read_extra(checkpoint)
        self.step = int(extra.get("step", 0))
        """Optimiser steps taken since the run began."""
        self._best = float(extra.get("best", -1.0))
        self._best_step = int(extra.get("best_step", -1))
        self._recent: list[float] = []  # rewards of the last attempt since the last checkpoint
        self._speed: dict[str, float] = {}

    @classmethod
    def create(cls, config: ScoreConfig, command: str, progress: Progress) -> Self:
        """A new run in `config.out`."""
        accelerator = _accelerator(config)
        if accelerator.is_main_process:
            Run.create(config.out, config, command)
        accelerator.wait_for_everyone()
        return cls(config, Run(config.out, command), progress, accelerator)

    @classmethod
    def reopen(cls, folder: Path, settings: type[ScoreConfig], progress: Progress) -> Self:
        """The run in a folder as it was at its newest complete checkpoint, or at its beginning."""
        run = Run.open(folder)
        config = run.config(settings)
        checkpoint = newest_complete(run.checkpoints)
        session = cls(config, run, progress, _accelerator(config), checkpoint)
        if session.accelerator.is_main_process:
            aside = run.rewind(session.step)
            rest = f"; what had been written after it is in {aside}" if aside else ""
            progress.note(f"going on after step {session.step}{rest}")
            session._keep_if_best()  # it may have been killed just before it did
        return session

    @property
    def learner(self) -> Learner:
        """What changes the weights; there is one from the first phase on."""
        if self._learner is None:
            raise RuntimeError("no phase has begun")
        return self._learner

    def begin_phase(self, number: int, begin: int, *, anchored: bool, new_reference: bool) -> None:
        """Get ready for phase `number`, whose first step is `begin + 1`.

        With `anchored` the learner gets a reference: the run's base model, or with `new_reference`
        the policy as it is when the phase begins. Inside a phase (a resumed run) the optimiser
        comes from the checkpoint; so it does without `fresh_optimizer`, whether the run was
        interrupted there or not, which is why both end at the same weights.
        """
        keeps_optimizer = self.step > begin or (self.step > 0 and not self.config.fresh_optimizer)
        if keeps_optimizer and self._checkpoint is None:
            self._write_checkpoint()
            self._checkpoint = self._place()
        if self._learner is not None:
            self._learner = None
            self.accelerator.free_memory()  # it holds on to the last phase's optimiser
        if new_reference:
            self.reference = self._frozen_policy(self.run.folder / f"reference-{number}", begin)
            self._base_is_reference = False
        elif isinstance(self.model, PeftModel):
            self.reference = None  # the base is the policy without its adapter
        elif anchored and not self._base_is_reference:
            self.reference = load_model(self.config.model, device=str(self.accelerator.device))[0]
            self._base_is_reference = True
        self._learner = self._new_learner()
        if keeps_optimizer and self._checkpoint is not None:
            self._learner.load(self._checkpoint)
        self._checkpoint = None

    def play(self, turns: int, offline_share: float = 0.0) -> list[Episode]:
        """This process's episodes of the next step: `samples` of each problem, sampled now.

        For the first `offline_share` of the problems the first attempts come from the reference.

        Raises:
            UserError: the policy cannot go on, because its weights have diverged or a dialogue has
                outgrown its window. Names the newest checkpoint.
        """
        started = time.perf_counter()
        problems = self._batch()
        try:
            first_turns = self._offline_turns(problems, self._offline_count(offline_share))
            episodes = self._roll(problems, self.engine, turns, stream=0, first_turns=first_turns)
        except UserError as error:
            newest = newest_complete(self.run.checkpoints) or "none yet"
            raise UserError(f"step {self.step + 1}: {error}; newest checkpoint: {newest}") from None
        self._timed("rollout", started, episodes)
        return episodes

    def learn(
        self, rows: Sequence[TokenStreams], episodes: Sequence[Episode], phase: str
    ) -> dict[str, float]:
        """One optimiser step on the rows; writes metrics, episodes and, when due, a checkpoint.

        Raises:
            UserError: the loss is not finite. Weights are those before the step, saved as a
                checkpoint, and the batch that did it lies in the run's folder.
        """
        started = time.perf_counter()
        rows = self.learner.with_reference(rows)
        self._timed("reference", started, episodes)
        started = time.perf_counter()
        try:
            learned = self.learner.step(rows)
        except NonFiniteLoss as error:
            raise self._stopped_by(error) from None
        self._timed("update", started, episodes)
        self.step += 1
        if self.accelerator.num_processes > 1:
            episodes = gather_object(list(episodes))
        metrics = {**flat(self_correction_metrics(list(episodes))), **learned, **self._speed}
        self._recent.append(float(np.mean([episode.correct[-1] for episode in episodes])))
        if self.accelerator.is_main_process:
            self.run.log({"phase": phase, **metrics}, self.step)
            self.run.episodes("train", episodes, self.step)
        if self.step % self.config.checkpoint_every == 0:
            self._write_checkpoint()
        return metrics

    def note_if_flat(self, rewards: npt.NDArray[np.float64]) -> None:
        """Say so when every reward of a step, shape [episodes, rewarded turns], is the same."""
        if rewards.size and rewards.min() == rewards.max():
            remedy = (
                "easier problems or a higher --max-tokens"
                if rewards.min() == 0
                else ("harder problems")
            )
            self.progress.note(
                f"step {self.step + 1}: every reward is {rewards.min():g}, there is nothing to "
                f"tell attempts apart by; use {remedy}"
            )

    def finish(self) -> Path:
        """Write the chosen weights to the run's `model` folder; returns the run's folder."""
        if newest_complete(self.run.checkpoints) != self._place():
            self._write_checkpoint()
        if self.accelerator.is_main_process:
            best = self.run.folder / "best"
            source = best if self.config.select == "best" and best.exists() else self._place()
            _copy_model(source, self.run.folder / "model")
        self.accelerator.wait_for_everyone()
        return self.run.folder

    def _load_problems(self) -> list[Problem]:
        loaded = self.task.load("train", self.config.limit, self.config.seed)
        if loaded.dropped:
            name, why = loaded.dropped[0]
            self.progress.note(
                f"{len(loaded.dropped)} problems dropped, no answer could be right: {name}: {why}"
            )
        if not loaded.problems:
            raise UserError(f"--task {self.config.task}: no problem is left to train on")
        return loaded.problems

    def _new_learner(self) -> Learner:
        config = self.config
        return Learner(
            self.model,
            LearnerConfig(
                learning_rate=config.learning_rate,
                warmup_steps=config.warmup_steps,
                max_grad_norm=config.max_grad_norm,
                tokens_per_microbatch=config.tokens_per_microbatch,
                normalize=config.normalize,
                temperature=config.temperature,
                gradient_checkpointing=config.gradient_checkpointing,
            ),
            accelerator=self.accelerator,
            reference=self.reference,
        )

    def _frozen_policy(self, place: Path, begin: int) -> Any:
        """The policy as it was after step `begin`; kept on disk for a run that is resumed later."""
        if self.step == begin and self.accelerator.is_main_process:
            frozen = self.model
            if isinstance(frozen, PeftModel):
                frozen = copy.deepcopy(frozen).merge_and_unload()
            frozen.save_pretrained(place)
            self.tokenizer.save_pretrained(place)
        self.accelerator.wait_for_everyone()
        return load_model(place, device=str(self.accelerator.device))[0]

    def _batch(self) -> list[Problem]:
        """This process's share of the next step's problems: every epoch a new permutation."""
        size, count = self.config.problems_per_step, len(self.problems)
        places = range(self.step * size, (self.step + 1) * size)
        orders = {
            epoch: np.random.default_rng([self.config.seed, epoch]).permutation(count)
            for epoch in {place // count for place in places}
        }
        batch = [self.problems[orders[place // count][place % count]] for place in places]
        return batch[self.accelerator.process_index :: self.accelerator.num_processes]

    def _roll(
        self,
        problems: Sequence[Problem],
        engine: LocalEngine,
        turns: int,
        *,
        stream: int,
        first_turns: Sequence[Turn | None] | None = None,
    ) -> list[Episode]:
        """Episodes sampled with a seed of their own for every step, process and `stream`."""
        key = [self.config.seed, self.step, self.accelerator.process_index, stream]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        with self._autocast():
            return rollout(
                problems,
                Intrinsic(self.prompts, turns),
                engine,
                self.dialogue,
                self.task.grader,
                Sampling(self.config.temperature, max_tokens=self.config.max_tokens, seed=seed),
                samples=self.config.samples,
                policy=f"step-{self.step:06d}",
                first_turns=first_turns,
            )

    def _offline_count(self, share: float) -> int:
        """How many of this process's problems are among the first `share` of the whole batch."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return len(range(process, round(share * self.config.problems_per_step), processes))

    def _offline_turns(self, problems: Sequence[Problem], count: int) -> list[Turn | None] | None:
        """First attempts of the reference at the first `count` problems, None for the others."""
        if not count:
            return None
        if self.reference is not None:
            engine = LocalEngine(self.reference, self.tokenizer, max_rows=self.config.max_rows)
            made = self._roll(problems[:count], engine, 1, stream=1)
        else:
            # No reference of its own: the policy is a PEFT model, its base is the reference.
            with cast(PeftModel, self.model).disable_adapter():
                made = self._roll(problems[:count], self.engine, 1, stream=1)
        rest = (len(problems) - count) * self.config.samples
        return [*(episode.turns[0] for episode in made), *[None] * rest]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.accelerator.device.type,
            torch.bfloat16,
            enabled=self.accelerator.mixed_precision == "bf16",
        )

    def _timed(self, what: str, started: float, episodes: Sequence[Episode]) -> None:
        seconds = time.perf_counter() - started
        tokens = sum(len(turn.attempt_tokens) for episode in episodes for turn in episode.turns)
        self._speed[f"seconds/{what}"] = seconds
        self._speed[f"tokens_per_second/{what}"] = tokens / seconds

    def _place(self) -> Path:
        return self.run.checkpoints / f"step-{self.step:06d}"

    def _write_checkpoint(self) -> None:
        reward = float(np.mean(self._recent)) if self._recent else -1.0
        self._recent = []
        if reward > self._best:
            self._best, self._best_step = reward, self.step
        write_checkpoint(
            self.run.checkpoints,
            self.learner,
            self.tokenizer,
            {"step": self.step, "best": self._best, "best_step": self._best_step},
            step=self.step,
        )
        if self.accelerator.is_main_process:
            self._keep_if_best()
            prune_checkpoints(self.run.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _keep_if_best(self) -> None:
        """Copy the newest checkpoint's model out of the way of pruning if it is the best so far."""
        if self.config.select == "best" and self._best_step == self.step:
            _copy_model(self._place(), self.run.folder / "best")

    def _stopped_by(self, error: NonFiniteLoss) -> UserError:
        """Keep the good weights and the bad batch, and say where they are."""
        self._write_checkpoint()
        culprit = self.run.folder / f"failed-step-{self.step + 1:06d}.json"
        rows = [row.as_json() for row in error.rows]
        if self.accelerator.num_processes > 1:
            rows = gather_object(rows)
        if self.accelerator.is_main_process:
            write_json(culprit, {"rows": rows})
        return UserError(f"{error}; last good checkpoint: {self._place()}, batch: {culprit}")


def _accelerator(config: ScoreConfig) -> Accelerator:
    device = torch_device(config.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and has_bf16(device))
    # Accelerate keeps device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device.type != "cuda")


def _copy_model(checkpoint: Path, place: Path) -> None:
    """Copy a checkpoint's model and tokenizer, without what only training needs, all at once."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, ignore=shutil.ignore_patterns("*.pt", "extra.json"))
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
