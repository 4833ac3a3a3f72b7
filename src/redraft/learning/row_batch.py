"""One optimiser batch of rows of token streams: its components, divided over the whole of it."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from redraft.errors import UserError
from redraft.learning.batching import MicroBatch, microbatch, split
from redraft.learning.config import LearnerConfig
from redraft.learning.losses import importance_weight, kl_k2, kl_k3, policy_gradient
from redraft.learning.parallel import gather_numbers
from redraft.learning.rows import TrainingRow
from redraft.learning.step_metrics import StepMetrics


class RowBatch:
    """An `OptimizerBatch` of token streams."""

    def __init__(
        self,
        rows: Sequence[TrainingRow],
        config: LearnerConfig,
        accelerator: Accelerator,
        tokens: int,
    ) -> None:
        """Count what each component is divided by; all processes must call this.

        Args:
            rows: this process's rows.
            config: the learner's.
            accelerator: the learner's.
            tokens: padded tokens in a micro-batch.

        Raises:
            UserError: see `Learner.step`.
        """
        self._config = config
        self._accelerator = accelerator
        self._rows = [row for row in rows if row.learned.any()]
        self._plan = split([len(row) for row in self._rows], tokens)
        table = gather_numbers(accelerator, self._counts())  # [processes, 5]
        imitated, reinforced, unanchored = table[:, :3].sum(0).tolist()
        self._passes, turns = (int(most) for most in table[:, 3:].amax(0).tolist())
        # A component without tokens has a zero sum; any divisor does.
        self._imitated, self._reinforced = max(imitated, 1.0), max(reinforced, 1.0)
        self._sums = StepMetrics(turns, accelerator.device)
        if unanchored:
            raise UserError(
                f"{int(unanchored)} rows have a kl_weight but no ref_logprob; pass them through "
                "Learner.with_reference first"
            )
        if not self._passes:
            raise UserError("the batch has no token to learn from: no response and no loss_weight")

    @property
    def passes(self) -> int:
        """Forward and backward passes of the step: those of the process with the most."""
        return self._passes

    def rows(self, k: int | None = None) -> list[TrainingRow]:
        """Rows of micro-batch k (none if this process has run out of them), or of all."""
        if k is None:
            return self._rows
        return [self._rows[i] for i in self._plan[k]] if k < len(self._plan) else []

    def loss(self, scorer: Any, k: int) -> Tensor:
        """Micro-batch k's share of the step's loss."""
        rows = self.rows(k)
        if self._config.loss_mean == "attempt":
            rows = [row.averaged_by_response() for row in rows]
        batch = microbatch(rows, lambda row: row.learned, self._accelerator.device)
        with_entropy = self._config.entropy_weight != 0
        logprob, entropy = scorer(
            batch.tokens, batch.positions, batch.targets, "gradient" if with_entropy else "value"
        )
        losses, clipped = self._components(batch, logprob)
        if with_entropy:
            held = (entropy * batch.reinforced).sum() / self._reinforced
            losses["entropy"] = -self._config.entropy_weight * held
        real_tokens = sum(map(len, rows))
        self._sums.add(batch, real_tokens, logprob.detach(), entropy, clipped, losses)
        return torch.stack(list(losses.values())).sum()

    def metrics(self) -> dict[str, float]:
        """What the passes so far have found, over all processes."""
        return self._sums.metrics(self._accelerator)

    def _counts(self) -> list[float]:
        """This process's imitated tokens or responses, reinforced rows or tokens, rows that lack
        their reference, micro-batches, and highest turn."""
        rows = self._rows
        by_response = self._config.loss_mean == "attempt"
        imitated = [row.imitated_by_response for row in rows]
        by_row = [int(row.reinforced.sum()) for row in rows]
        return [
            sum(len(sizes) if by_response else int(sizes.sum()) for sizes in imitated),
            sum(by_row) if self._config.normalize == "token" else sum(n > 0 for n in by_row),
            sum(row.needs_reference for row in rows),
            len(self._plan),
            max((int(row.turn.max()) for row in rows), default=0),
        ]

    def _components(self, batch: MicroBatch, logprob: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of a micro-batch by component, and which tokens are clipped, [chosen]."""
        config = self._config
        # Where a term has no weight its ratio is 1, so that no overflow can come from it.
        now = logprob.detach()
        weighted = (batch.advantage != 0) | (batch.kl_weight != 0)
        old = torch.where(batch.sampled & weighted, batch.old_logprob, now)
        ref = torch.where(batch.anchored & (batch.kl_weight != 0), batch.ref_logprob, now)
        gradient, clipped = policy_gradient(
            logprob, old, batch.advantage, config.clip_low, config.clip_high, config.importance_cap
        )
        if config.kl_estimator == "k2":  # its gradient is KL's over the policy's own tokens
            kl = importance_weight(now, old, config.importance_cap) * kl_k2(logprob, ref)
        else:
            kl = kl_k3(logprob, ref)
        losses = {
            "cross_entropy": -(batch.loss_weight * logprob).sum() / self._imitated,
            "policy_gradient": gradient.sum() / self._reinforced,
            "kl": (batch.kl_weight * kl).sum() / self._reinforced,
        }
        return losses, clipped
