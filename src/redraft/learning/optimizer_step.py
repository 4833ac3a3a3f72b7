"""One optimiser step over a batch of rows or pairs: gradients, their check, the update."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from redraft.errors import UserError
from redraft.learning.batching import microbatch
from redraft.learning.memory import OutOfMemory, is_out_of_memory, out_of_memory_alone
from redraft.learning.parallel import largest
from redraft.learning.rows import TrainingRow
from redraft.learning.sharding import is_sharded, part, whole


class NonFiniteLoss(UserError):  # noqa: N818 - the name says what happened
    """A step met numbers that are NaN or infinite.

    `rows` are the rows that did it (empty if another process had them): those of the micro-batch
    whose loss or gradient is not finite, or all of the step's if its update spoiled the weights.
    `spoiled` says that the weights are of no more use; without it they are as they were before the
    step.
    """

    def __init__(self, message: str, rows: list[TrainingRow], *, spoiled: bool) -> None:
        super().__init__(message)
        self.rows = rows
        self.spoiled = spoiled


class OptimizerBatch(Protocol):
    """This process's part of one optimiser batch, cut into micro-batches."""

    @property
    def passes(self) -> int:
        """Forward and backward passes of the step: those of the process with the most."""

    def rows(self, k: int | None = None) -> list[TrainingRow]:
        """Rows of micro-batch k (none if this process has run out of them), or of all."""

    def loss(self, scorer: Any, k: int) -> Tensor:
        """Micro-batch k's share of the batch's loss, with gradient; counted in `metrics`."""

    def metrics(self) -> dict[str, float]:
        """What the passes so far have found, over all processes; `loss` among it."""


class OptimizerStep:
    """Takes optimiser steps."""

    def __init__(
        self, accelerator: Accelerator, scorer: Any, optimizer: Any, max_grad_norm: float | None
    ) -> None:
        """Work on a prepared scorer and its prepared optimiser."""
        self._accelerator = accelerator
        self._scorer = scorer
        self._optimizer = optimizer
        self._within_passes = is_sharded(scorer)
        """Whether processes exchange gradients within every backward pass."""
        self._changed = False
        """Whether the weights have changed by the time that a norm is known."""
        self._limit = float("inf") if max_grad_norm is None else max_grad_norm

    def step(self, batch: OptimizerBatch, learning_rate: float) -> dict[str, float]:
        """One optimiser step; returns the batch's metrics, `grad_norm` and `learning_rate`.

        Raises:
            NonFiniteLoss: see `Learner.step`.
            OutOfMemory: an allocation failed before the update, on some process. Nothing has
                changed; a batch of smaller micro-batches may do.
            UserError: there is no memory for the optimiser's state.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        losses = self._accumulate(batch, range(batch.passes))
        norm = self._clipped_norm()
        metrics = batch.metrics() | {"grad_norm": float(norm), "learning_rate": learning_rate}
        found = f"loss {metrics['loss']} with gradient norm {metrics['grad_norm']}"
        if not np.isfinite([metrics["loss"], metrics["grad_norm"]]).all():
            raise self._refusal(batch, losses, found)
        self._update()
        if not self._sound(sorted(batch.rows(), key=len)[-1:]):
            raise NonFiniteLoss(
                f"{found} was finite, but its update with learning_rate {learning_rate:g} has "
                "spoiled the weights: the model's outputs are no longer finite; lower "
                "learning_rate",
                batch.rows(),
                spoiled=True,
            )
        return metrics

    def _clipped_norm(self) -> Tensor:
        """The norm of the gradients, which are clipped."""
        return whole(self._accelerator.clip_grad_norm_(self._scorer.parameters(), self._limit))

    def _update(self) -> None:
        with self._enough_memory():
            self._optimizer.step()
        self._optimizer.zero_grad()

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                "not enough memory for the optimiser's state, 8 bytes for each trained weight; "
                "train adapters (--lora-rank 16) or a smaller model"
            ) from None

    def _accumulate(
        self, batch: OptimizerBatch, numbers: Sequence[int], *, exchange: bool = True
    ) -> list[Tensor]:
        """Add up the gradients of these micro-batches, and with `exchange` those of all processes;
        returns the loss of each micro-batch, detached.

        Processes that have run out of rows use blank ones. Gradients are exchanged once all
        processes have theirs, so that one that runs out of memory leaves none waiting; but those of
        a sharded model within every backward pass.
        """
        self._scorer.train()
        self._accelerator.sync_gradients = True  # accelerate ignores zero_grad otherwise
        self._optimizer.zero_grad()
        losses, failed = [], False
        try:
            with self._passes():
                for k in numbers:
                    loss = batch.loss(self._scorer, k)
                    with torch.autocast(loss.device.type, enabled=False):
                        self._backward(loss, last=k == numbers[-1])
                    losses.append(loss.detach())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._within_passes:
                raise out_of_memory_alone(self._accelerator) from None
            failed = True
        self._scorer.eval()
        if exchange:
            if largest(self._accelerator, failed):
                self._optimizer.zero_grad()
                raise OutOfMemory
            self._exchange_gradients()
        return losses

    def _passes(self) -> AbstractContextManager[Any]:
        """What all passes of a step are made in."""
        stack = ExitStack()
        stack.enter_context(self._accelerator.no_sync(self._scorer))
        # Autocast around all of them casts every weight once. Sharded ones are cast before they are
        # gathered.
        if not self._within_passes:
            stack.enter_context(self._accelerator.autocast())
        return stack

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; the step's `last` one completes them."""
        self._accelerator.backward(loss)

    def _exchange_gradients(self) -> None:
        """Give every process the sum of all processes' gradients."""
        if self._accelerator.num_processes > 1 and not self._within_passes:
            for parameter in self._scorer.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)

    def _refusal(
        self, batch: OptimizerBatch, losses: Sequence[Tensor], found: str
    ) -> NonFiniteLoss:
        """What to raise in place of an update: with the rows at fault, if they are ours."""
        self._optimizer.zero_grad()
        bad = next((k for k, loss in enumerate(losses) if not np.isfinite(loss.item())), None)
        if not largest(self._accelerator, bad is not None):  # all losses are finite everywhere
            bad = self._first_bad_gradient(batch)
        culprits = [] if bad is None else batch.rows(bad)
        spoiled = self._changed or not self._sound(culprits)
        state = "the weights are spoiled" if spoiled else "weights are unchanged"
        return NonFiniteLoss(
            f"{found}; {state}, lower learning_rate or look at the batch",
            culprits,
            spoiled=spoiled,
        )

    def _first_bad_gradient(self, batch: OptimizerBatch) -> int | None:
        """The micro-batch of this process whose own gradient is not finite though its loss is; of a
        sharded model the first one for which the sum over processes is not."""
        bad = None
        for k in range(batch.passes):
            self._accumulate(batch, [k], exchange=False)
            gradients = [p.grad for p in self._scorer.parameters() if p.grad is not None]
            norm = whole(torch.nn.utils.get_total_norm(gradients))
            if bad is None and not bool(torch.isfinite(norm)):
                bad = k
        self._optimizer.zero_grad()
        return bad

    @torch.no_grad()
    def _sound(self, rows: Sequence[TrainingRow]) -> bool:
        """Whether trained weights, and log-probabilities of the rows, are finite everywhere."""
        mine = [part(p) for p in self._scorer.parameters() if p.requires_grad]
        held = [weight for weight in mine if weight.numel()]
        extreme = torch.nn.utils.get_total_norm(held, norm_type=float("inf"))
        batch = microbatch(rows, lambda row: row.learned, self._accelerator.device)
        logprob, _ = self._scorer(batch.tokens, batch.positions, batch.targets)
        finite = torch.isfinite(extreme) & torch.isfinite(logprob).all()
        return not largest(self._accelerator, not bool(finite))


class ZeroStep(OptimizerStep):
    """Takes optimiser steps through a DeepSpeed engine."""

    def __init__(self, accelerator: Accelerator, engine: Any) -> None:
        super().__init__(accelerator, engine, engine.optimizer, None)
        self._engine = engine
        self._within_passes = True

    def _passes(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._accelerator.num_processes)  # DeepSpeed takes the mean

    def _clipped_norm(self) -> Tensor:
        """DeepSpeed does all at once: it clips, and updates unless the norm is not finite."""
        with self._enough_memory():
            self._engine.step()
        self._changed = self._engine.was_step_applied()
        return torch.as_tensor(self._engine.get_global_grad_norm())

    def _update(self) -> None:
        pass

    def _first_bad_gradient(self, batch: Any) -> int | None:
        return None  # the step's gradients are gone
