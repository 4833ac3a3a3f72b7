"""The learner: one optimiser step over rows of token streams, blind to the method behind them.

The loss of a step is a sum of components, each divided by its own weight over the whole optimiser
batch, that is the rows of all processes:

    Σ loss_weight·(−log π) / #imitated tokens
  + Σ (policy gradient(advantage) + kl_weight·KL − entropy_weight·H) / N

with N the number of reinforced rows or attempt tokens (`LearnerConfig.normalize`). The three
reinforcement components share N, so that β keeps its ratio to the advantage. Micro-batches and
processes change nothing but memory and speed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from redraft.errors import UserError
from redraft.learning.batching import BLANK, MicroBatch, collate, split
from redraft.learning.config import LearnerConfig
from redraft.learning.logprobs import TokenScorer
from redraft.learning.losses import kl_k2, kl_k3, policy_gradient
from redraft.learning.randomness import random_state, set_random_state
from redraft.learning.streams import BoolArray, FloatArray, TokenStreams
from redraft.learning.tally import Tally


class NonFiniteLoss(UserError):  # noqa: N818 - the name says what happened
    """A step met numbers that are NaN or infinite.

    `rows` are the rows that did it (empty if another process had them): those of the micro-batch
    whose loss or gradient is not finite, or all of the step's if its update spoiled the weights.
    `spoiled` says that the weights are of no more use; without it they are as they were before the
    step.
    """

    def __init__(self, message: str, rows: list[TokenStreams], *, spoiled: bool) -> None:
        super().__init__(message)
        self.rows = rows
        self.spoiled = spoiled


@dataclass(frozen=True)
class _Weights:
    """What each component is divided by, over the whole optimiser batch."""

    imitated: float
    reinforced: float


class Learner:
    """Changes the weights of one model, on as many processes as `accelerator` knows of."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: LearnerConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: PreTrainedModel | None = None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: the policy; parameters that require gradients are trained. Master weights should
                be float32; bf16 compute comes from `Accelerator(mixed_precision="bf16")`.
            config: how weights change.
            accelerator: a prepared accelerate `Accelerator`; None: a default one.
            reference: the frozen model KL is measured to. None with a PEFT model: its base, with
                the adapter switched off. None with any other model: no KL is possible.

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
        scorer.check_head()
        if config.gradient_checkpointing:
            scorer.checkpoint_activations()
        self._scorer, self._optimizer = self.accelerator.prepare(scorer, self._adamw(scorer))
        self._reference = self._prepare_reference(reference)

    def step(self, rows: Sequence[TokenStreams]) -> dict[str, float]:
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
        rows = [row for row in rows if row.reinforced.any() or row.imitated.any()]
        chosen = [row.reinforced | row.imitated for row in rows]
        plan = split([len(row) for row in rows], self.config.tokens_per_microbatch)
        weights, passes, turns, unanchored = self._survey(rows, len(plan))
        if unanchored:
            raise UserError(
                f"{unanchored} rows have a kl_weight but no ref_logprob; pass them through "
                "Learner.with_reference first"
            )
        if not passes:
            raise UserError("the batch has no token to learn from: no attempt and no loss_weight")
        learning_rate = self.config.learning_rate_at(self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        tally = Tally(turns, self.accelerator.device)
        losses = self._accumulate(rows, chosen, plan, passes, weights, tally)
        grad_norm = self._clip()
        metrics = tally.metrics(self.accelerator)
        if not np.isfinite([metrics["loss"], grad_norm]).all():
            self._optimizer.zero_grad()
            bad = next((k for k, loss in enumerate(losses) if not np.isfinite(loss.item())), None)
            if not self._largest(bad is not None):  # every loss is finite, on all processes
                bad = self._first_bad_gradient(rows, chosen, plan, passes, weights)
            culprits = [] if bad is None or bad >= len(plan) else [rows[i] for i in plan[bad]]
            spoiled = not self._sound(culprits)
            state = "the weights had been spoiled before" if spoiled else "weights are unchanged"
            raise NonFiniteLoss(
                f"loss {metrics['loss']} with gradient norm {grad_norm}; {state}, lower "
                "learning_rate or look at the batch",
                culprits,
                spoiled=spoiled,
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not self._sound(sorted(rows, key=len)[-1:]):
            raise NonFiniteLoss(
                f"loss {metrics['loss']} with gradient norm {grad_norm} was finite, but its update "
                f"with learning_rate {learning_rate:g} has spoiled the weights: the model's "
                "outputs are no longer finite; lower learning_rate",
                rows,
                spoiled=True,
            )
        self.steps += 1
        return metrics | {"grad_norm": grad_norm, "learning_rate": learning_rate}

    def with_reference(self, rows: Sequence[TokenStreams]) -> list[TokenStreams]:
        """The same rows with `ref_logprob` wherever some `kl_weight` is not 0.

        Rows that have it already, or need none, cost nothing. All processes must call this.

        Raises:
            UserError: a row has a KL weight but the learner has no reference.
        """
        wanted = [i for i, row in enumerate(rows) if row.needs_reference]
        plan = split([len(rows[i]) for i in wanted], self.config.tokens_per_microbatch)
        passes = self._largest(len(plan))
        done = list(rows)
        if not passes:
            return done
        with torch.no_grad(), self._as_reference() as scorer:
            scorer.eval()
            for k in range(passes):
                group = [wanted[i] for i in plan[k]] if k < len(plan) else []
                members = [rows[i] for i in group] or [BLANK]
                chosen = [row.reinforced for row in members]
                batch = collate(members, chosen).to(self.accelerator.device)
                logprob, _ = scorer(batch.tokens, batch.positions, batch.targets)
                if group:
                    parts = np.split(logprob.cpu().numpy(), np.cumsum([c.sum() for c in chosen]))
                    for i, mask, part in zip(group, chosen, parts, strict=False):
                        done[i] = replace(rows[i], ref_logprob=_spread(mask, part))
        return done

    def save(self, folder: Path) -> None:
        """Write optimiser, step counter and this process's random states (not the weights)."""
        if self.accelerator.is_main_process:
            state = {"optimizer": self._optimizer.state_dict(), "steps": self.steps}
            torch.save(state, folder / "learner.pt")
        torch.save(random_state(), folder / f"random-{self.accelerator.process_index}.pt")

    def save_weights(self, folder: Path) -> None:
        """Write the model in Hugging Face format (safetensors), from the main process."""
        if self.accelerator.is_main_process:
            self.model.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Take up where `save` left off; the weights must have been loaded already.

        Raises:
            UserError: the files are missing or belong to another model.
        """
        try:
            state = torch.load(folder / "learner.pt", map_location="cpu", weights_only=True)
            index = self.accelerator.process_index
            randomness = torch.load(folder / f"random-{index}.pt", weights_only=True)
            self._optimizer.load_state_dict(state["optimizer"])
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
        except UnpicklingError:
            raise UserError(
                f"{folder}: learner.pt or its random states were not written by redraft; resume "
                "from another checkpoint"
            ) from None
        except ValueError as error:
            raise UserError(f"{folder}: optimiser of another model ({error})") from None
        self.steps = state["steps"]
        set_random_state(randomness)

    def _adamw(self, scorer: TokenScorer) -> torch.optim.AdamW:
        trained = [p for p in scorer.parameters() if p.requires_grad]
        if not trained:
            raise UserError(f"{type(self.model).__name__}: no parameter requires a gradient")
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim >= 2]},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
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
        reference.requires_grad_(False)
        scorer = TokenScorer(reference, self.config.temperature, self.config.logit_chunk)
        return self.accelerator.prepare_model(scorer, evaluation_mode=True)

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
                "rows have a kl_weight but there is no reference; give the learner a reference "
                "model, train a LoRA adapter, or set every β to 0"
            )

    def _survey(
        self, rows: Sequence[TokenStreams], microbatches: int
    ) -> tuple[_Weights, int, int, int]:
        """Global denominators, passes each process must make, highest turn, rows in want of a
        reference."""
        per_token = self.config.normalize == "token"
        reinforced = [int(row.reinforced.sum()) for row in rows]
        sums = [
            sum(int(row.imitated.sum()) for row in rows),
            sum(n if per_token else 1 for n in reinforced if n),
            sum(row.needs_reference for row in rows),
        ]
        local = [*sums, microbatches, max((int(row.turn.max()) for row in rows), default=0)]
        table = torch.tensor([local], dtype=torch.float64, device=self.accelerator.device)
        table = self.accelerator.gather(table).cpu()  # [processes, 5]
        imitated, reinforced_total, unanchored = table[:, :3].sum(0).tolist()
        passes, turns = table[:, 3:].amax(0).long().tolist()
        # A component without tokens has a zero sum; any divisor does.
        weights = _Weights(max(imitated, 1.0), max(reinforced_total, 1.0))
        return weights, passes, turns, int(unanchored)

    def _largest(self, value: int) -> int:
        local = torch.tensor([value], device=self.accelerator.device)
        return int(self.accelerator.gather(local).max())

    def _accumulate(
        self,
        rows: Sequence[TokenStreams],
        chosen: Sequence[BoolArray],
        plan: Sequence[Sequence[int]],
        passes: int,
        weights: _Weights,
        tally: Tally,
    ) -> list[Tensor]:
        """Add up the gradient of the whole batch; returns each micro-batch's loss, detached.

        Processes that have run out of rows go on with blank ones. Gradients are exchanged in the
        last pass only; they are averaged over processes, hence the factor.
        """
        self._scorer.train()
        self.accelerator.sync_gradients = True  # accelerate ignores zero_grad otherwise
        self._optimizer.zero_grad()
        losses = []
        for k in range(passes):
            group = plan[k] if k < len(plan) else []
            members = [rows[i] for i in group] or [BLANK]
            masks = [chosen[i] for i in group] or [np.zeros(2, dtype=np.bool_)]
            batch = collate(members, masks).to(self.accelerator.device)
            last = k == passes - 1
            self.accelerator.sync_gradients = last
            with nullcontext() if last else self.accelerator.no_sync(self._scorer):
                loss = self._loss(batch, sum(len(rows[i]) for i in group), weights, tally)
                self.accelerator.backward(loss * self.accelerator.num_processes)
            losses.append(loss.detach())
        self._scorer.eval()
        return losses

    def _loss(self, batch: MicroBatch, real_tokens: int, weights: _Weights, tally: Tally) -> Tensor:
        """This micro-batch's share of the step's loss."""
        config = self.config
        bonus = config.entropy_weight != 0
        logprob, entropy = self._scorer(
            batch.tokens, batch.positions, batch.targets, "gradient" if bonus else "value"
        )
        # Where a term has no weight its ratio is 1, so that no overflow can come from it.
        now = logprob.detach()
        old = torch.where(batch.sampled & (batch.advantage != 0), batch.old_logprob, now)
        ref = torch.where(batch.anchored & (batch.kl_weight != 0), batch.ref_logprob, now)
        gradient, clipped = policy_gradient(
            logprob, old, batch.advantage, config.clip_low, config.clip_high
        )
        kl = (kl_k2 if config.kl_estimator == "k2" else kl_k3)(logprob, ref)
        losses = {
            "cross_entropy": -(batch.loss_weight * logprob).sum() / weights.imitated,
            "policy_gradient": gradient.sum() / weights.reinforced,
            "kl": (batch.kl_weight * kl).sum() / weights.reinforced,
        }
        if bonus:
            held = (entropy * batch.reinforced).sum() / weights.reinforced
            losses["entropy"] = -config.entropy_weight * held
        tally.add(batch, real_tokens, now, entropy, clipped, losses)
        return torch.stack(list(losses.values())).sum()

    def _clip(self) -> float:
        limit = self.config.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(
            self._scorer.parameters(), float("inf") if limit is None else limit
        )
        return float(norm)

    @torch.no_grad()
    def _sound(self, rows: Sequence[TokenStreams]) -> bool:
        """Whether trained weights, and log-probabilities of the rows, are finite everywhere."""
        trained = [p for p in self._scorer.parameters() if p.requires_grad]
        largest = torch.nn.utils.get_total_norm(trained, norm_type=float("inf"))
        members = list(rows) or [BLANK]
        chosen = [row.reinforced | row.imitated for row in members]
        batch = collate(members, chosen).to(self.accelerator.device)
        logprob, _ = self._scorer(batch.tokens, batch.positions, batch.targets)
        finite = torch.isfinite(largest) & torch.isfinite(logprob).all()
        return not self._largest(not bool(finite))

    def _first_bad_gradient(
        self,
        rows: Sequence[TokenStreams],
        chosen: Sequence[BoolArray],
        plan: Sequence[Sequence[int]],
        passes: int,
        weights: _Weights,
    ) -> int | None:
        """The micro-batch of this process whose own gradient is not finite though its loss is."""
        bad = None
        turns = max((int(row.turn.max()) for row in rows), default=0)
        for k in range(passes):
            single = [plan[k]] if k < len(plan) else [[]]
            with self.accelerator.no_sync(self._scorer):
                self._accumulate(
                    rows, chosen, single, 1, weights, Tally(turns, self.accelerator.device)
                )
            gradients = [p.grad for p in self._scorer.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if bad is None and not bool(torch.isfinite(norm)):
                bad = k
        self._optimizer.zero_grad()
        return bad


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
            f"distributed_type {accelerator.distributed_type.value}: checkpoints of sharded "
            "optimisers are not supported; use accelerate's multi-GPU (DDP) launch, with a LoRA "
            "adapter where memory is short"
        )


def _spread(mask: BoolArray, values: FloatArray) -> FloatArray:
    """Values put where the mask is set, 0 elsewhere."""
    spread = np.zeros(len(mask), dtype=np.float32)
    spread[mask] = values
    return spread
