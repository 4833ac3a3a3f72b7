"""The learner: one optimiser step over training rows or over preference pairs, whatever the
method behind them.

The loss of a step over rows is a sum of components, each divided by its own weight over the whole
optimiser batch, that is the rows of all processes:

    Σ loss_weight·(−log π) / M
  + Σ (policy gradient(advantage) + kl_weight·KL − entropy_weight·H) / N

with M the number of imitated tokens, or of imitated responses whose tokens are averaged first
(`LearnerConfig.loss_mean`), and N the number of reinforced rows or response tokens
(`LearnerConfig.normalize`). The three reinforcement components share N, so that β keeps its ratio
to the advantage. The loss of a step over pairs is their mean (`preference.py`). Micro-batches and
processes change nothing but memory and speed.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.logprobs import TokenScorer
from redraft.learning.memory import (
    MicroBatches,
    OutOfMemory,
    choose,
    is_out_of_memory,
    measure,
    most_tokens,
)
from redraft.learning.optimizer_step import NonFiniteLoss, OptimizerBatch, OptimizerStep, ZeroStep
from redraft.learning.pair_batch import PairBatch
from redraft.learning.pairs import PreferencePair
from redraft.learning.parallel import largest, processes_of
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.randomness import random_state, set_random_state
from redraft.learning.row_batch import RowBatch
from redraft.learning.rows import BoolArray, FloatArray, TrainingRow
from redraft.learning.scoring import score
from redraft.learning.sharding import (
    MOMENTS,
    is_fsdp,
    is_sharded,
    load_moments,
    part,
    shape_of,
    write_model,
    write_moments,
)
from redraft.learning.zero import (
    Stage,
    load_optimizer_state,
    optimizer_state,
    start,
)
from redraft.system import free_memory

__all__ = ["Learner", "NonFiniteLoss"]

T = TypeVar("T")


class Learner:
    """Changes the weights of one model, on as many processes as `accelerator` knows of."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: LearnerConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: PreTrainedModel | None = None,
        zero: Stage | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: the policy; parameters that require gradients are trained. Master weights should
                be float32; bf16 compute comes from `Accelerator(mixed_precision="bf16")`, or where
                the model is sharded by `sharding.shard`, before this, from how it is.
            config: how weights change.
            accelerator: a prepared accelerate `Accelerator`; None: a default one.
            reference: the frozen model KL is measured to, sharded or not. None with a PEFT model:
                its base, with the adapter switched off. None with any other model: no KL is
                possible.
            zero: share gradients and the optimiser's state out by DeepSpeed; stage 3 for models
                that are sharded by `zero.partition`.
            note: is told, in one line, of smaller micro-batches for want of memory.

        Raises:
            UserError: nothing to train, an unsupported head, or an accelerator set up in a way
                that would change the scale of gradients.
        """
        self.config = config
        self.accelerator = accelerator or Accelerator()
        self.model = model
        self.steps = 0
        """Optimiser steps taken so far."""
        _check(self.accelerator)
        scorer = TokenScorer(model, config.temperature, config.logit_chunk)
        self.micro_batches: MicroBatches | None = None
        """How rows go through the model; decided when there are rows."""
        self._most_tokens = 0
        self._plain_scorer = scorer
        self._note = note
        self._zero = zero
        optimizer = self._adamw(scorer)
        self._trained = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._no_state = optimizer.state_dict()
        self._scorer: Any = scorer
        if zero is not None:  # which gathers weights from here on
            device, norm = self.accelerator.device, config.max_grad_norm
            self._scorer = start(scorer, zero, device, optimizer, norm)
        scorer.check_head()
        if zero is not None:
            self._optimizer: Any = self._scorer.optimizer
            self._optimizer_step: OptimizerStep = ZeroStep(self.accelerator, self._scorer)
            self.accelerator.prepare_model(scorer, evaluation_mode=True)  # autocast, no more
        else:
            self._optimizer = self.accelerator.prepare_optimizer(optimizer)
            if not is_sharded(model):
                self._scorer = self.accelerator.prepare_model(scorer)
            if isinstance(self._scorer, DistributedDataParallel):
                # Buffers are constants; exchanging them would leave processes waiting for one whose
                # forward pass has failed.
                self._scorer.broadcast_buffers = False
            self._optimizer_step = OptimizerStep(
                self.accelerator, self._scorer, self._optimizer, config.max_grad_norm
            )
        self._reference = self._prepare_reference(reference)

    def close(self) -> None:
        """Let go of the model, so that another learner can take it."""
        if self._zero is not None:
            for engine in (self._scorer, self._reference):
                if hasattr(engine, "destroy"):
                    engine.destroy()
        self.accelerator.free_memory()  # it holds on to the optimiser

    def step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """One optimiser step over all rows of all processes.

        Args:
            rows: this process's rows; processes may have different numbers of them, even none.

        Returns:
            Metrics over all processes; `docs/learner.md` explains each.

        Raises:
            NonFiniteLoss: the loss or its gradient is not finite, and the weights are untouched;
                or the step has spoiled the weights (`NonFiniteLoss.spoiled`).
            UserError: no process has anything to learn from, or a row with a KL weight lacks
                `ref_logprob`.
        """
        longest = max(map(len, rows), default=0)
        return self._take(
            longest, lambda tokens: RowBatch(rows, self.config, self.accelerator, tokens)
        )

    def preference_step(
        self, pairs: Sequence[PreferencePair], preference: PreferenceConfig
    ) -> dict[str, float]:
        """One optimiser step over all preference pairs of all processes: their mean loss.

        Args:
            pairs: this process's pairs; processes may have different numbers of them, even none.
            preference: which losses, and their constants.

        Returns:
            Metrics over all processes; `docs/learner.md` explains each.

        Raises:
            NonFiniteLoss: as `step`.
            UserError: no process has a pair; a loss compares with a reference and a pair has not
                been through `pairs_with_reference`; or the loss is KTO and a pair has not been
                through `with_unrelated`.
        """
        longest = max((pair.longest for pair in pairs), default=0)
        return self._take(
            2 * longest,
            lambda tokens: PairBatch(pairs, preference, self.accelerator, self._scorer, tokens),
        )

    def with_reference(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The same rows with `ref_logprob` wherever some `kl_weight` is not 0.

        Rows that have it already, or need none, cost nothing. All processes must call this.

        Raises:
            UserError: a row has a KL weight but the learner has no reference.
        """
        wanted = [i for i, row in enumerate(rows) if row.needs_reference]
        done = list(rows)
        if not largest(self.accelerator, len(wanted)):
            return done
        logprobs = self._reinforced_logprobs(self._as_reference, [rows[i] for i in wanted])
        for i, values in zip(wanted, logprobs, strict=True):
            done[i] = replace(rows[i], ref_logprob=_spread(rows[i].reinforced, values))
        return done

    def pairs_with_reference(
        self, pairs: Sequence[PreferencePair], *, from_policy: bool = False
    ) -> list[PreferencePair]:
        """The same pairs with the reference's log-probability of each completion.

        Call it once, before the first step on the pairs. Completions that have one already cost
        nothing. All processes must call this.

        Args:
            pairs: this process's pairs.
            from_policy: take the policy as it is now for the reference, as preference training
                after supervised training does; no second model is needed then, and an adapter
                stays switched on.

        Raises:
            UserError: not `from_policy`, and the learner has no reference.
        """
        missing = [
            (index, side)
            for index, pair in enumerate(pairs)
            for side, completion in pair.completions.items()
            if completion.ref_logprob is None
        ]
        done = list(pairs)
        if not largest(self.accelerator, len(missing)):
            return done
        rows = [pairs[i].completions[side].after(pairs[i].prompt) for i, side in missing]
        policy = partial(nullcontext[Any], self._scorer)
        logprobs = self._reinforced_logprobs(policy if from_policy else self._as_reference, rows)
        for (i, side), values in zip(missing, logprobs, strict=True):
            known = float(values.sum(dtype=np.float64))
            completion = done[i].completions[side].with_reference(known)
            done[i] = done[i].model_copy(update={side: completion})
        return done

    def save(self, folder: Path) -> None:
        """Write optimiser, step counter and this process's random states (not the weights). All
        processes must call this."""
        state: dict[str, Any] = {"steps": self.steps}
        if self._zero is not None:
            main = self.accelerator.is_main_process
            state["optimizer"] = optimizer_state(
                self._scorer, self._no_state, self._trained, main=main
            )
        elif not is_sharded(self.model):
            state["optimizer"] = self._optimizer.state_dict()
        elif self._optimizer.state:
            write_moments(self.model, self._optimizer, folder / MOMENTS)
            state["updates"] = next(iter(self._optimizer.state.values()))["step"]
        if self.accelerator.is_main_process:
            torch.save(state, folder / "learner.pt")
        torch.save(random_state(), folder / f"random-{self.accelerator.process_index}.pt")

    def save_weights(self, folder: Path) -> None:
        """Write the model in Hugging Face format (safetensors), from the main process. All
        processes must call this."""
        write_model(self.model, folder, main=self.accelerator.is_main_process)

    def load(self, folder: Path) -> None:
        """Take up where `save` left off; the weights must have been loaded already. All processes
        must call this. They may be others than those that called `save`: the random states of a new
        one stay as they are.

        Raises:
            UserError: the files are missing or belong to another model, or the model is sharded and
                was not when they were written.
        """
        try:
            state = torch.load(folder / "learner.pt", map_location="cpu", weights_only=True)
            self._load_optimizer(folder, state)
            own = folder / f"random-{self.accelerator.process_index}.pt"
            if own.exists():
                set_random_state(torch.load(own, weights_only=True))
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
        except (UnpicklingError, RuntimeError, KeyError, EOFError):
            raise UserError(
                f"{folder}: learner.pt or its random states are damaged, or were not written by "
                "redraft; delete this checkpoint and `redraft resume` resumes from the one before"
            ) from None
        except ValueError as error:
            raise UserError(f"{folder}: optimiser of another model ({error})") from None
        self.steps = state["steps"]

    def _load_optimizer(self, folder: Path, state: dict[str, Any]) -> None:
        if self._zero is not None and "optimizer" in state:
            load_optimizer_state(self._scorer, state["optimizer"]["state"], self._trained)
        elif "updates" in state and self._zero is not None:
            raise UserError(
                f"{folder}: its optimiser was written with sharding fsdp2; resume with that or none"
            )
        elif "updates" in state:
            load_moments(self.model, self._optimizer, folder / MOMENTS, state["updates"])
        elif "optimizer" in state and is_sharded(self.model):
            raise UserError(
                f"{folder}: its optimiser was not written with sharding fsdp2; resume with none"
            )
        elif "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])

    def _adamw(self, scorer: TokenScorer) -> torch.optim.AdamW:
        trained = [p for p in scorer.parameters() if p.requires_grad]
        if not trained:
            raise UserError(f"{type(self.model).__name__}: no parameter requires a gradient")
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if len(shape_of(p)) >= 2]},
            {"params": [p for p in trained if len(shape_of(p)) < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.config.learning_rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def _prepare_reference(self, reference: PreTrainedModel | None) -> Any:
        if reference is None:
            return None
        scorer = TokenScorer(reference, self.config.temperature, self.config.logit_chunk)
        if is_fsdp(reference):
            return scorer
        reference.requires_grad_(False)
        scorer = self.accelerator.prepare_model(scorer, evaluation_mode=True)
        if is_sharded(reference):
            return start(scorer, 3, self.accelerator.device)
        return scorer

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The reference's scorer; for PEFT the policy's own with the adapter switched off."""
        if self._reference is not None:
            yield self._reference
        elif isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                yield self._scorer
        else:
            raise UserError(
                "log-probabilities of a reference are wanted (by a kl_weight or by preference "
                "pairs) but there is no reference; give the learner a reference model, train a "
                "LoRA adapter, or set every β to 0"
            )

    def _reinforced_logprobs(
        self, model: Callable[[], AbstractContextManager[Any]], rows: Sequence[TrainingRow]
    ) -> list[FloatArray]:
        def work(tokens: int) -> list[FloatArray]:
            with model() as scorer:
                return score(scorer, rows, lambda row: row.reinforced, tokens, self.accelerator)

        return self._within_memory(max(map(len, rows), default=0), work)

    def _take(self, longest: int, batch: Callable[[int], OptimizerBatch]) -> dict[str, float]:
        rate = self.config.learning_rate_at(self.steps)
        metrics = self._within_memory(
            longest, lambda tokens: self._optimizer_step.step(batch(tokens), rate)
        )
        self.steps += 1
        return metrics

    def _within_memory(self, longest: int, work: Callable[[int], T]) -> T:
        """The result of `work` on micro-batches of so many padded tokens: as many as fit, and half
        as many after every allocation that fails. `work` must be repeatable.

        Args:
            longest: tokens of this process's longest row, or of the longest rows of a pair.
            work: makes the micro-batches, all processes together.

        Raises:
            UserError: one row at a time is too much.
        """
        size = self._size_for(longest)
        while True:
            with suppress(OutOfMemory):
                return work(size.tokens)
            # The error is gone, and with it the frames that held its tensors.
            size = self._smaller(size, longest)

    def _size_for(self, longest: int) -> MicroBatches:
        """The size of micro-batches, found when there is something to compute for the first time:
        the engine and the reference have their memory by then."""
        longest = largest(self.accelerator, longest)
        if self.micro_batches is not None and longest <= self._most_tokens:
            return self.micro_batches
        with processes_of(self.accelerator).together():
            size = self._measured(longest)
        self._most_tokens = max(longest, size.tokens)
        return self._use(size)

    def _measured(self, longest: int) -> MicroBatches:
        device = self.accelerator.device
        most = most_tokens(device, bf16=self.accelerator.mixed_precision == "bf16")
        free = free_memory(device)
        if device.type == "cpu":
            free //= self.accelerator.num_processes
        held = sum(part(weight).numel() for weight in self._trained)
        missing = 4.0 * held  # gradients
        if not self._optimizer.state:
            missing += 8 * held / (self.accelerator.num_processes if self._zero == 2 else 1)
        try:
            footprint = measure(self._plain_scorer, missing, device, most)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"not enough memory for any training: {free / 1e9:.1f} GB free"
            ) from None
        return choose(footprint, free, longest, self.config, most)

    def _use(self, size: MicroBatches) -> MicroBatches:
        if size.checkpointing and not (self.micro_batches and self.micro_batches.checkpointing):
            self._plain_scorer.checkpoint_activations()
        self.micro_batches = size
        return size

    def _smaller(self, size: MicroBatches, longest: int) -> MicroBatches:
        """The next smaller size, on all processes: half the tokens, or recomputed activations."""
        gc.collect()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        longest = largest(self.accelerator, longest)
        if size.tokens > longest:
            smaller = replace(size, tokens=size.tokens // 2)
            change = f"of {smaller.tokens} tokens instead of {size.tokens}"
        elif not size.checkpointing and self.config.gradient_checkpointing is None:
            smaller = replace(size, checkpointing=True)
            change = "with recomputed activations"
        else:
            raise UserError(
                f"not enough memory for one row of {longest} tokens at a time; lower --max-tokens "
                "or --logit-chunk, or train adapters (--lora-rank 16) or a smaller model"
            )
        self._note(f"not enough memory: continues with micro-batches {change}")
        return self._use(smaller)


def _check(accelerator: Accelerator) -> None:
    """Refuse set-ups that would change the scale of gradients or lose the optimiser's state."""
    if accelerator.mixed_precision == "fp16":
        raise UserError("mixed_precision 'fp16' needs loss scaling; use 'bf16' or 'no'")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"gradient_accumulation_steps {accelerator.gradient_accumulation_steps} of the "
            "accelerator: leave it at 1, the learner accumulates by tokens_per_microbatch"
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UserError(
            f"distributed_type {accelerator.distributed_type.value} of accelerate's configuration: "
            "leave it out (accelerate launch --multi_gpu); --sharding fsdp2 shards the model"
        )


def _spread(mask: BoolArray, values: FloatArray) -> FloatArray:
    """Values put where the mask is set, 0 elsewhere."""
    spread = np.zeros(len(mask), dtype=np.float32)
    spread[mask] = values
    return spread
