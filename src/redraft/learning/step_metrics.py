"""What a training step reports, summed over micro-batches and processes."""

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from redraft.learning.batching import MicroBatch
from redraft.learning.losses import kl_k1, kl_k3

_BY_TURN = ("tokens", "entropy", "anchored", "k1", "k3")
_TOTALS = ("gap", "sampled", "clipped", "advantaged", "tokens", "padded")


@dataclass
class StepMetrics:
    """Running sums of one optimiser step; kept on the device, read once at the end."""

    turns: int
    """Highest turn number in the batch, over all processes."""
    device: torch.device
    by_turn: Tensor = field(init=False)  # [turns + 1, len(_BY_TURN)]
    totals: Tensor = field(init=False)  # [len(_TOTALS)]
    largest_gap: Tensor = field(init=False)  # [1]
    losses: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_turn = torch.zeros(self.turns + 1, len(_BY_TURN), device=self.device)
        self.totals = torch.zeros(len(_TOTALS), device=self.device)
        self.largest_gap = torch.zeros(1, device=self.device)

    @torch.no_grad()
    def add(
        self,
        batch: MicroBatch,
        real_tokens: int,
        logprob: Tensor,
        entropy: Tensor,
        clipped: Tensor,
        losses: dict[str, Tensor],
    ) -> None:
        """Add a micro-batch: `logprob`, `entropy`, `clipped` are [chosen], `losses` its share of
        each loss component."""
        reinforced, anchored = batch.reinforced.float(), batch.anchored & batch.reinforced
        k1 = torch.where(anchored, kl_k1(logprob, batch.ref_logprob), 0.0)
        k3 = torch.where(anchored, kl_k3(logprob, batch.ref_logprob), 0.0)
        columns = torch.stack([reinforced, entropy * reinforced, anchored.float(), k1, k3], dim=1)
        self.by_turn.index_add_(0, batch.turn, columns)
        sampled = batch.sampled & batch.reinforced
        gap = torch.where(sampled, (logprob - batch.old_logprob).abs(), 0.0)
        self.largest_gap = torch.maximum(self.largest_gap, gap.max())
        advantaged = batch.advantage != 0
        sums = [gap.sum(), sampled.sum(), clipped.sum(), advantaged.sum()]
        self.totals[:4] += torch.stack([s.float() for s in sums])
        self.totals[4] += real_tokens
        self.totals[5] += batch.tokens.numel()
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0) + loss.detach()

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """The step's metrics over all processes; what the batch says nothing about is left out."""
        names = sorted(self.losses)
        flat = torch.cat(
            [torch.stack([self.losses[n] for n in names]), self.totals, self.by_turn.flatten()]
        )
        flat = accelerator.reduce(flat, reduction="sum").tolist()
        losses = dict(zip(names, flat, strict=False))
        totals = dict(zip(_TOTALS, flat[len(names) :], strict=False))
        found = {"loss": sum(losses.values())}
        found |= {f"loss/{name}": value for name, value in losses.items()}
        table = torch.tensor(flat[len(names) + len(_TOTALS) :]).view(self.turns + 1, -1).tolist()
        for turn, row in enumerate(table):
            sums = dict(zip(_BY_TURN, row, strict=True))
            if sums["tokens"]:
                found[f"entropy/turn{turn}"] = sums["entropy"] / sums["tokens"]
            if sums["anchored"]:
                found[f"kl/turn{turn}"] = sums["k1"] / sums["anchored"]
                found[f"kl_k3/turn{turn}"] = sums["k3"] / sums["anchored"]
        largest = accelerator.gather(self.largest_gap).max().item()
        if totals["sampled"]:
            found["logprob_gap/mean_abs"] = totals["gap"] / totals["sampled"]
            found["logprob_gap/max"] = largest
        if totals["advantaged"]:
            found["clip_fraction"] = totals["clipped"] / totals["advantaged"]
        found["tokens"] = totals["tokens"]
        found["padding_share"] = 1 - totals["tokens"] / max(totals["padded"], 1.0)
        return found
