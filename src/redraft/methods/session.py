"""A training run in progress: the policy, its problems, the folder, and one step after another.

Methods say what is played and what it is worth; a `Session` samples it, learns from it, writes it
down and can go on where a killed process stopped. Whatever a step draws is a function of the seed
and the step's number alone, so there is no state to lose but weights, optimiser and the step.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel

from redraft.dialogue import Dialogue
from redraft.engines import Engine, Sampling
from redraft.engines.local import LocalEngine
from redraft.episode import Episode, Problem, Turn
from redraft.errors import UserError
from redraft.grading import Grader
from redraft.learning.acceleration import accelerator_on
from redraft.learning.checkpoint import (
    complete_checkpoints,
    export_model,
    newest_complete,
    prune_checkpoints,
    read_extra,
    restore_replaced,
    write_checkpoint,
)
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import PreferencePair
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.streams import TokenStreams
from redraft.methods.signs import gap_note
from redraft.methods.summary import speed, summarize
from redraft.methods.train_config import TrainConfig
from redraft.models import has_bf16, is_adapter, load_model, torch_device
from redraft.progress import Progress, Silent
from redraft.protocols import Protocol
from redraft.rollout import rollout
from redraft.runs import Run, write_json

C = TypeVar("C", bound=TrainConfig)


class Session(Generic[C]):
    """One run of one method on one policy."""

    def __init__(
        self,
        config: C,
        run: Run,
        progress: Progress,
        accelerator: Accelerator,
        checkpoint: Path | None = None,
    ) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        self.progress = progress if accelerator.is_main_process else Silent()
        self.task = config.open_task()
        self.problems = self._load_problems()
        self.prompts = config.open_prompts()
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
        self._restored = {} if checkpoint is None else read_extra(checkpoint)
        self.step = int(self._restored.get("step", 0))
        """Optimiser steps taken since the run began."""
        self.part = 0
        """Part of the step's sampling that is in progress; each has random numbers of its own."""
        self.retry = 0
        """What sets the random numbers of a part that is sampled again off from the first ones."""
        self._seconds: dict[str, float] = {}
        self._gap_noted = False

    @classmethod
    def create(cls, config: C, command: str, progress: Progress) -> Self:
        """A new run in `config.out`.

        Raises:
            UserError: `config.out` holds something, or what the policy writes cannot be run as
                safely as the configuration asks for; nothing has been written then.
        """
        confinement = config.confinement()
        accelerator = _accelerator(config)
        if accelerator.is_main_process:
            Run.create(config.out, config, command, confinement)
        accelerator.wait_for_everyone()
        return cls(config, Run(config.out, command), progress, accelerator)

    @classmethod
    def reopen(cls, folder: Path, settings: type[C], progress: Progress) -> Self:
        """The run in a folder as it was at its newest complete checkpoint, or at its beginning."""
        run = Run.open(folder)
        config = run.config(settings)
        confinement = config.confinement()
        accelerator = _accelerator(config)
        if accelerator.is_main_process:
            run.confined(confinement)
            restore_replaced(run.checkpoints)
        accelerator.wait_for_everyone()
        checkpoint = newest_complete(run.checkpoints)
        session = cls(config, run, progress, accelerator, checkpoint)
        if session.accelerator.is_main_process:
            aside = run.rewind(session.step)
            rest = f"; what had been written after it is in {aside}" if aside else ""
            progress.note(f"going on after step {session.step}{rest}")
            session.checkpoint_written()  # it may have been killed just before that
        return session

    @property
    def learner(self) -> Learner:
        """What changes the weights; there is one from the first phase on."""
        if self._learner is None:
            raise RuntimeError("no phase has begun")
        return self._learner

    def learner_config(self, **settings: Any) -> LearnerConfig:
        """The run's settings as the learner takes them, with those of a method or a phase.

        Log-probabilities are taken at temperature 1 unless a method asks for the temperature that
        it samples at, as reinforcement does: imitation is of what was said, however it was drawn.
        """
        config = self.config
        return LearnerConfig(
            learning_rate=config.learning_rate,
            max_grad_norm=config.max_grad_norm,
            tokens_per_microbatch=config.tokens_per_microbatch,
            gradient_checkpointing=config.gradient_checkpointing,
            **settings,
        )

    def begin_phase(
        self,
        number: int,
        begin: int,
        learner: LearnerConfig,
        *,
        anchored: bool = False,
        new_reference: bool = False,
        fresh_optimizer: bool = True,
    ) -> None:
        """Get ready for phase `number`, whose first step is `begin + 1`.

        With `anchored` the learner gets a reference: the model the run starts from, or with
        `new_reference` the policy as it is when the phase begins. Inside a phase (a resumed run)
        the optimiser comes from the checkpoint; so it does without `fresh_optimizer`, whether the
        run was interrupted there or not, which is why both end at the same weights.
        """
        keeps_optimizer = self.step > begin or (self.step > 0 and not fresh_optimizer)
        if keeps_optimizer and self._checkpoint is None:
            self._write_checkpoint()
            self._checkpoint = self._place()
        if self._learner is not None:
            self._learner = None
            self.accelerator.free_memory()  # it holds on to the last phase's optimiser
        if new_reference:
            self.reference = self._frozen_policy(self.run.folder / f"reference-{number}", begin)
            self._base_is_reference = False
        elif isinstance(self.model, PeftModel) and not is_adapter(self.config.model):
            self.reference = None  # the start is the policy without its adapter, which is new
        elif anchored and not self._base_is_reference:
            self.reference = self._frozen(self.config.model)
            self._base_is_reference = True
        self._learner = Learner(
            self.model, learner, accelerator=self.accelerator, reference=self.reference
        )
        if keeps_optimizer and self._checkpoint is not None:
            self._learner.load(self._checkpoint)
        self._checkpoint = None
        self._gap_noted = False
        if self.step == 0 and newest_complete(self.run.checkpoints) is None:
            self._write_checkpoint()  # good weights to go back to, whatever the first steps do

    def sample(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        stream: int = 0,
        engine: Engine | None = None,
        given: Sequence[Sequence[Turn]] | None = None,
        window: int | None = None,
        grader: Grader | None = None,
    ) -> list[Episode]:
        """Episodes of the policy (or of another engine) with a seed of their own for every step,
        process and `stream`, judged by the task's grader or another. For `given` and `window`, see
        `rollout`."""
        stream += 2 * self.part  # within a part there are two at most
        key = [self.config.seed, self.step, self.accelerator.process_index, stream]
        key += [self.retry] if self.retry else []
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        with self._autocast():
            return rollout(
                problems,
                protocol,
                engine or self.engine,
                self.dialogue,
                grader or self.task.grader,
                Sampling(self.config.temperature, max_tokens=self.config.max_tokens, seed=seed),
                samples=samples,
                policy=f"step-{self.step:06d}",
                given=given,
                window=window,
            )

    def update(self, rows: Sequence[TokenStreams]) -> dict[str, float]:
        """One optimiser step on the rows; returns what the learner measured.

        Raises:
            UserError: the step met numbers that are not finite. The last good weights are in a
                checkpoint; the batch that did it, and the weights before it, in the run's folder.
        """
        started = time.perf_counter()
        rows = self.learner.with_reference(rows)
        self._seconds["reference"] = time.perf_counter() - started
        return self._take_step(lambda: self.learner.step(rows))

    def prefer(
        self, pairs: Sequence[PreferencePair], preference: PreferenceConfig
    ) -> dict[str, float]:
        """One optimiser step on the preference pairs; returns what the learner measured.

        Raises:
            UserError: as `update`, and `Learner.preference_step`.
        """
        self._seconds.pop("reference", None)  # of an earlier phase
        return self._take_step(lambda: self.learner.preference_step(pairs, preference))

    def _take_step(self, step: Callable[[], dict[str, float]]) -> dict[str, float]:
        started = time.perf_counter()
        try:
            learned = step()
        except NonFiniteLoss as error:
            raise self._stopped_by(error) from None
        self._seconds["update"] = time.perf_counter() - started
        if not self._gap_noted and (note := gap_note(learned)):
            self._gap_noted = True  # once a phase is enough
            self.progress.note(f"step {self.step + 1}: {note}")
        self.step += 1
        return learned

    def record(
        self, phase: str, metrics: Mapping[str, float], episodes: Sequence[Episode] = ()
    ) -> dict[str, float]:
        """Write down the step just taken, with its episodes, and a checkpoint if one is due.

        Returns the metrics with the step's speed: the attempt tokens of `episodes`, those of all
        processes, by phase.
        """
        complete = {**metrics, **speed(self._seconds, episodes, self.accelerator)}
        if self.accelerator.is_main_process:
            self.run.log({"phase": phase, **complete}, self.step)
            if episodes:
                self.run.episodes("train", episodes, self.step)
        if self.step % self.config.checkpoint_every == 0:
            self._write_checkpoint()
        return complete

    def everyones(self, items: Sequence[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        if self.accelerator.num_processes == 1:
            return list(items)
        gathered: list[Any] = gather_object(list(items))
        return gathered

    def finish(self) -> Path:
        """Write the chosen weights to the run's `model` folder and the outcome to `summary.json`;
        returns the run's folder."""
        if newest_complete(self.run.checkpoints) != self._place():
            self._write_checkpoint()
        if self.accelerator.is_main_process:
            chosen, step = self.chosen_weights()
            export_model(chosen, self.run.folder / "model")
            outcome = summarize(self.run.metrics(), self.config.checkpoint_every)
            counts = {"n_problems": len(self.problems), "n_dropped": len(self.dropped)}
            outcome |= {"selected_step": step, **counts, "dropped": self.dropped}
            self.run.summary(outcome)
        self.accelerator.wait_for_everyone()
        return self.run.folder

    def chosen_weights(self) -> tuple[Path, int]:
        """The checkpoint that becomes the run's `model`, and its step: the last one."""
        return self._place(), self.step

    def state(self) -> dict[str, Any]:
        """What a method wants to find in a checkpoint beside the step; JSON values."""
        return {}

    def checkpoint_written(self) -> None:
        """Called on the main process after every checkpoint, before old ones are deleted."""

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

    def _frozen_policy(self, place: Path, begin: int) -> Any:
        """The policy as it was after step `begin`; kept on disk for a run that is resumed later."""
        if self.step == begin and self.accelerator.is_main_process:
            self.model.save_pretrained(place)
            self.tokenizer.save_pretrained(place)
        self.accelerator.wait_for_everyone()
        return self._frozen(place)

    def _frozen(self, name_or_path: str | Path) -> Any:
        """A model that does not learn, loaded and computed as the policy is: another precision or
        another attention would show as a KL between equal weights, and be trained on."""
        device = str(self.accelerator.device)
        return load_model(name_or_path, training=True, device=device)[0].requires_grad_(False)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.accelerator.device.type,
            torch.bfloat16,
            enabled=self.accelerator.mixed_precision == "bf16",
        )

    def _place(self) -> Path:
        return self.run.checkpoints / f"step-{self.step:06d}"

    def _write_checkpoint(self) -> None:
        write_checkpoint(
            self.run.checkpoints,
            self.learner,
            self.tokenizer,
            {"step": self.step, **self.state()},
            step=self.step,
        )
        if self.accelerator.is_main_process:
            self.checkpoint_written()
            prune_checkpoints(self.run.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _stopped_by(self, error: NonFiniteLoss) -> UserError:
        """Put aside what the failed step had: its rows, and the weights before it.

        Weights are known to be good once a step from them was finite. Those before the failed step
        may be what it failed of, so their checkpoint makes way for an older one.
        """
        step, checkpoints, place = self.step + 1, self.run.checkpoints, self._place()
        aside = self.run.folder / f"failed-step-{step:06d}"
        rows = self.everyones([row.as_json() for row in error.rows])
        if self.accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
            if place.exists() and len(complete_checkpoints(checkpoints)) > 1:
                place.rename(aside)
            elif not place.exists() and not error.spoiled:
                self.model.save_pretrained(aside)
                self.tokenizer.save_pretrained(aside)
            aside.mkdir(exist_ok=True)
            write_json(aside / "rows.json", {"rows": rows})
        self.accelerator.wait_for_everyone()
        return UserError(
            f"step {step}: {error}; batch: {aside / 'rows.json'}, last good checkpoint: "
            f"{newest_complete(checkpoints)}; `redraft resume` goes on from it with what "
            f"{self.run.folder / 'config.yaml'} says then"
        )


def _accelerator(config: TrainConfig) -> Accelerator:
    device, precision = torch_device(config.device), config.precision
    bf16 = precision == "bfloat16" or (precision == "auto" and has_bf16(device))
    return accelerator_on(device, bf16=bf16)
