"""What a step on preference pairs reports, and the warning when the chosen completions fall."""

from collections import deque
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from redraft.learning.preference import PairLogprobs

_COLUMNS = (
    "pairs", "chosen", "rejected", "chosen_tokens", "rejected_tokens",
    "chosen_reward", "rejected_reward", "accurate",
    "anchored", "chosen_change", "rejected_change", "chosen_fell",
)  # fmt: skip


class PairStepMetrics:
    """Running sums of one optimiser step over pairs; kept on the device, read once at the end."""

    def __init__(self, terms: Iterable[str], reward_scale: float, device: torch.device) -> None:
        """Start from nothing.

        Args:
            terms: names of the losses, the same on all processes.
            reward_scale: β of the implicit rewards.
            device: where the sums are kept.
        """
        self._scale = reward_scale
        self._sums = torch.zeros(len(_COLUMNS), device=device)
        self._tokens = torch.zeros(2, device=device)  # real, with padding
        self._losses = {name: torch.zeros((), device=device) for name in sorted(terms)}

    @torch.no_grad()
    def add(self, pairs: PairLogprobs, losses: Mapping[str, Tensor]) -> None:
        """Add a micro-batch's pairs and its share of each loss.

        The implicit reward of a completion is β·(log π − log π_ref) where there is a reference, and
        else β·log π/|y|, SimPO's.
        """
        anchored = pairs.ref_chosen is not None
        chosen, rejected = pairs.mean_chosen, pairs.mean_rejected
        change = (torch.zeros_like(chosen), torch.zeros_like(chosen))
        if anchored:
            chosen, rejected = change = (pairs.chosen_ratio, pairs.rejected_ratio)
        columns = [
            torch.ones_like(chosen), pairs.chosen, pairs.rejected,
            pairs.chosen_tokens, pairs.rejected_tokens,
            self._scale * chosen, self._scale * rejected, chosen > rejected,
            torch.full_like(chosen, float(anchored)), *change, change[0] < 0,
        ]  # fmt: skip
        self._sums += torch.stack([column.float().sum() for column in columns])
        for name, loss in losses.items():
            self._losses[name] += loss.detach()

    def add_tokens(self, real: int, padded: int) -> None:
        """Add a micro-batch's tokens, without and with padding."""
        self._tokens += torch.tensor([real, padded], device=self._tokens.device)

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """The step's metrics over all processes; `docs/learner.md` explains each."""
        names = list(self._losses)
        losses = torch.stack(list(self._losses.values()))
        flat = torch.cat([losses, self._sums, self._tokens])
        values = accelerator.reduce(flat, reduction="sum").tolist()
        by_name = dict(zip(names, values, strict=False))
        sums = dict(zip(_COLUMNS, values[len(names) :], strict=False))
        real, padded = values[-2:]
        count = sums["pairs"]
        chosen, rejected = sums["chosen_reward"] / count, sums["rejected_reward"] / count
        found = {"loss": sum(by_name.values())}
        found |= {f"loss/{name}": value for name, value in by_name.items()}
        found |= {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": sums["accurate"] / count,
            "logps/chosen": sums["chosen"] / count,
            "logps/rejected": sums["rejected"] / count,
            "logps/chosen_per_token": sums["chosen"] / sums["chosen_tokens"],
            "logps/rejected_per_token": sums["rejected"] / sums["rejected_tokens"],
        }
        if sums["anchored"]:
            found["logps/chosen_change"] = sums["chosen_change"] / sums["anchored"]
            found["logps/rejected_change"] = sums["rejected_change"] / sums["anchored"]
            found["logps/chosen_fell"] = sums["chosen_fell"] / sums["anchored"]
        return found | {"pairs": count, "tokens": real, "padding_share": 1 - real / max(padded, 1)}


class ChosenWatch:
    """Says once when the chosen completions have become less likely than they were.

    A preference loss only widens the gap between chosen and rejected; it may do so by pushing both
    down, the chosen one a little less (arXiv 2402.13228). The change of the chosen completions'
    log-probability is `logps/chosen_change` where there is a reference. Without one it is
    `logps/chosen_per_token` against its own mean over the first steps.
    """

    def __init__(self, steps: int = 10) -> None:
        """Judge the mean over this many steps, so that one odd batch raises no alarm."""
        self._changes: deque[float] = deque(maxlen=steps)
        self._first: list[float] = []
        self._told = False

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """Take note of a step's metrics; one line when the chosen ones have fallen, once."""
        change = metrics.get("logps/chosen_change")
        steps = self._changes.maxlen or 1
        if change is None:
            level = metrics["logps/chosen_per_token"]
            if len(self._first) < steps:
                self._first.append(level)
                return None
            change = level - sum(self._first) / steps
        self._changes.append(change)
        mean = sum(self._changes) / len(self._changes)
        if self._told or len(self._changes) < steps or mean >= 0:
            return None
        self._told = True
        return (
            f"the chosen completions have become less likely: their log-probability has changed by "
            f"{mean:.3g} nats on average over the last {steps} steps; add an NLL term "
            "(loss: sigmoid+nll) or use dpop"
        )
