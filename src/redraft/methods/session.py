"""A training run in progress: the policy, its problems, the folder, and one step after another.

Methods say what is played and what it is worth; a `Session` plays it, learns from it, writes it
down and can go on where a killed process stopped. Whatever a step draws is a function of the seed
and the step's number alone, so there is no state to lose but weights, optimiser and the step.
"""

import copy
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel

from redraft.dialogue import Dialogue
from redraft.engines import Sampling
from redraft.engines.local import LocalEngine
from redraft.episode import Episode, Problem, Turn
from redraft.errors import UserError
from redraft.evaluation.metrics import flat, self_correction_metrics
from redraft.learning.acceleration import accelerator_on
from redraft.learning.checkpoint import (
    export_model,
    newest_complete,
    prune_checkpoints,
    read_extra,
    restore_replaced,
    write_checkpoint,
)
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.streams import TokenStreams
from redraft.methods.order import ProblemOrder
from redraft.methods.score_config import ScoreConfig
from redraft.methods.signs import flat_note, gap_note, no_signal
from redraft.methods.summary import speed, summarize
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
        self.order = ProblemOrder(
            config.seed,
            len(self.problems),
            config.problems_per_step,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.prompts = prompts_for(config.task, config.prompts)
        torch.manual_seed(config.seed)  # new LoRA adapters start at random weights
        self.model, self.tokenizer = load_model(
            checkpoint or config.model,
            training=True,
            device=str(self.accelerator.device),
            lora_rank=config.lora_rank if checkpoint is None else 0,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_target_modules,
        )
        self.dialogue = Dialogue(
            self.tokenizer,
            generation_config=self.model.generation_config,
            stop=self.prompts.stop,
            chat_template_kwargs=config.template_values,
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
        self._seconds: dict[str, float] = {}
        self._signal: dict[str, float] = {}
        self._turns = 0  # attempts per episode of the step in progress
        self._gap_noted = False

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
        accelerator = _accelerator(config)
        if accelerator.is_main_process:
            restore_replaced(run.checkpoints)
        accelerator.wait_for_everyone()
        checkpoint = newest_complete(run.checkpoints)
        session = cls(config, run, progress, accelerator, checkpoint)
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
        self._gap_noted = False
        if self.step == 0 and newest_complete(self.run.checkpoints) is None:
            self._write_checkpoint()  # good weights to go back to, whatever the first steps do

    def play(self, turns: int, offline_share: float = 0.0) -> list[Episode]:
        """This process's episodes of the next step: `samples` of each problem, sampled now.

        For `offline_share` of the problems, counted over steps, the first attempts come from the
        reference.

        Raises:
            UserError: the policy cannot go on, because its weights have diverged or a dialogue has
                outgrown its window. Names the newest checkpoint.
        """
        started = time.perf_counter()
        problems = [self.problems[index] for index in self.order.problems(self.step)]
        offline = self.order.chosen(self.step, offline_share)
        try:
            first_turns = self._offline_turns(problems, offline)
            episodes = self._roll(problems, self.engine, turns, stream=0, first_turns=first_turns)
        except UserError as error:
            newest = newest_complete(self.run.checkpoints)
            raise UserError(f"step {self.step + 1}: {error}; newest checkpoint: {newest}") from None
        self._turns = turns
        self._seconds["rollout"] = time.perf_counter() - started
        return episodes

    def learn(
        self, rows: Sequence[TokenStreams], episodes: Sequence[Episode], phase: str
    ) -> dict[str, float]:
        """One optimiser step on the rows; writes metrics, episodes and, when due, a checkpoint.

        Raises:
            UserError: the step met numbers that are not finite. The last good weights are in a
                checkpoint, and the batch that did it lies in the run's folder.
        """
        started = time.perf_counter()
        rows = self.learner.with_reference(rows)
        self._seconds["reference"] = time.perf_counter() - started
        started = time.perf_counter()
        try:
            learned = self.learner.step(rows)
        except NonFiniteLoss as error:
            raise self._stopped_by(error) from None
        self._seconds["update"] = time.perf_counter() - started
        if not self._gap_noted and (note := gap_note(learned)):
            self._gap_noted = True  # once a phase is enough
            self.progress.note(f"step {self.step + 1}: {note}")
        self.step += 1
        if self.accelerator.num_processes > 1:
            episodes = gather_object(list(episodes))
        measured = flat(self_correction_metrics(list(episodes)))
        metrics = {**measured, **self._signal, **learned}
        metrics |= speed(self._seconds, episodes, self.accelerator)
        self._recent.append(float(np.mean([episode.correct[-1] for episode in episodes])))
        if self.accelerator.is_main_process:
            self.run.log({"phase": phase, **metrics}, self.step)
            self.run.episodes("train", episodes, self.step)
        if self.step % self.config.checkpoint_every == 0:
            self._write_checkpoint()
        return metrics

    def note_if_flat(self, rewards: npt.NDArray[np.float64]) -> None:
        """Measure how many problems' samples agree, and say so when all of a step's do.

        `rewards` are this process's, shape [episodes, rewarded turns]; the rewarded turns are the
        last ones of the episodes. The step's metrics will have `no_signal/turnT`, the share of
        problems (of all processes) whose samples have one and the same reward for turn T.
        """
        if self.accelerator.num_processes > 1:
            rewards = np.array(gather_object(rewards.tolist()))
        first = self._turns - rewards.shape[1] + 1
        self._signal = {
            f"no_signal/turn{turn}": no_signal(column, self.config.samples)
            for turn, column in enumerate(rewards.T, start=first)
        }
        if note := flat_note(rewards, first):
            self.progress.note(f"step {self.step + 1}: {note}")

    def finish(self) -> Path:
        """Write the chosen weights to the run's `model` folder and the outcome to `summary.json`;
        returns the run's folder."""
        if newest_complete(self.run.checkpoints) != self._place():
            self._write_checkpoint()
        if self.accelerator.is_main_process:
            best = self.run.folder / "best"
            chosen = self.config.select == "best" and best.exists()
            export_model(best if chosen else self._place(), self.run.folder / "model")
            step = self._best_step if chosen else self.step
            outcome = summarize(self.run.metrics(), self.config.checkpoint_every)
            counts = {"n_problems": len(self.problems), "n_dropped": len(self.dropped)}
            outcome |= {"selected_step": step, **counts, "dropped": self.dropped}
            self.run.summary(outcome)
        self.accelerator.wait_for_everyone()
        return self.run.folder

    def _load_problems(self) -> list[Problem]:
        loaded = self.task.load("train", self.config.limit, self.config.seed)
        self.dropped = [{"id": name, "reason": why} for name, why in loaded.dropped]
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

    def _offline_turns(
        self, problems: Sequence[Problem], offline: Sequence[bool]
    ) -> list[Turn | None] | None:
        """First attempts of the reference at the problems that are `offline`, else None."""
        if not any(offline):
            return None
        chosen = [p for p, is_offline in zip(problems, offline, strict=True) if is_offline]
        if self.reference is not None:
            engine = LocalEngine(self.reference, self.tokenizer, max_rows=self.config.max_rows)
            made = self._roll(chosen, engine, 1, stream=1)
        else:
            # No reference of its own: the policy is a PEFT model, its base is the reference.
            with cast(PeftModel, self.model).disable_adapter():
                made = self._roll(chosen, self.engine, 1, stream=1)
        turns = iter(episode.turns[0] for episode in made)
        samples = range(self.config.samples)
        return [next(turns) if is_offline else None for is_offline in offline for _ in samples]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.accelerator.device.type,
            torch.bfloat16,
            enabled=self.accelerator.mixed_precision == "bf16",
        )

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
            export_model(self._place(), self.run.folder / "best")

    def _stopped_by(self, error: NonFiniteLoss) -> UserError:
        """Keep the good weights and the bad batch, and say where they are."""
        if not error.spoiled:
            self._write_checkpoint()
        step, good = self.step + 1, newest_complete(self.run.checkpoints)
        culprit = self.run.folder / f"failed-step-{step:06d}.json"
        rows = [row.as_json() for row in error.rows]
        if self.accelerator.num_processes > 1:
            rows = gather_object(rows)
        if self.accelerator.is_main_process:
            write_json(culprit, {"rows": rows})
        return UserError(f"step {step}: {error}; last good checkpoint: {good}, batch: {culprit}")


def _accelerator(config: ScoreConfig) -> Accelerator:
    device, precision = torch_device(config.device), config.precision
    bf16 = precision == "bfloat16" or (precision == "auto" and has_bf16(device))
    return accelerator_on(device, bf16=bf16)
