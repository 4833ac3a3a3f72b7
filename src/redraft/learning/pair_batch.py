"""One optimiser batch of preference pairs."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from redraft.errors import UserError
from redraft.learning.batching import microbatch, split
from redraft.learning.pair_metrics import PairStepMetrics
from redraft.learning.pairs import Completion, PreferencePair
from redraft.learning.parallel import gather_numbers
from redraft.learning.preference import PairLogprobs, PairStatistics, kto_kl, losses_of
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.rows import TrainingRow
from redraft.learning.scoring import score


class PairBatch:
    """An `OptimizerBatch` of preference pairs.

    The two completions of a pair share a micro-batch. What a loss needs to know of the whole batch
    (number of pairs, chosen tokens, KTO's KL) is worked out over all processes before the first
    backward pass.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        preference: PreferenceConfig,
        accelerator: Accelerator,
        scorer: Any,
        tokens: int,
    ) -> None:
        """Gather what all processes must know of each other; all must call this.

        Args:
            pairs: this process's pairs.
            preference: the losses.
            accelerator: the learner's.
            scorer: the learner's, prepared.
            tokens: padded tokens in a micro-batch.

        Raises:
            UserError: see `Learner.preference_step`.
        """
        self._pairs = list(pairs)
        self._preference = preference
        self._accelerator = accelerator
        # A micro-batch of n pairs is 2n rows.
        self._plan = split([pair.longest for pair in pairs], tokens // 2)
        table = gather_numbers(accelerator, self._counts())  # [processes, 5]
        self._passes = int(table[:, 4].max())
        self._count, tokens, wanting, alone = table[:, :4].sum(0).tolist()
        self._refuse(int(self._count), int(wanting), int(alone))
        self._anchored = not wanting
        kl = 0.0
        if preference.needs_unrelated:
            kl = self._kl(scorer, tokens)
        self._statistics = PairStatistics(tokens / self._count, kl)
        self._sums = PairStepMetrics(preference.terms, preference.reward_scale, accelerator.device)

    @property
    def passes(self) -> int:
        """Forward and backward passes of the step: those of the process with the most."""
        return self._passes

    def rows(self, k: int | None = None) -> list[TrainingRow]:
        """Rows of micro-batch k (none if this process has run out of them), or of all: the chosen
        ones first, then the rejected ones in the same order."""
        pairs = self._pairs if k is None else self._members(k)
        return [pair.chosen.after(pair.prompt) for pair in pairs] + [
            pair.rejected.after(pair.prompt) for pair in pairs
        ]

    def loss(self, scorer: Any, k: int) -> Tensor:
        """Micro-batch k's share of the mean loss over all pairs of all processes."""
        rows = self.rows(k)
        batch = microbatch(rows, lambda row: row.learned, self._accelerator.device)
        logprob, _ = scorer(batch.tokens, batch.positions, batch.targets)
        self._sums.add_tokens(sum(map(len, rows)), batch.tokens.numel())
        if not rows:
            return logprob.sum() * 0
        pairs = self._logprobs(logprob, self._members(k))
        losses = {
            name: loss.sum() / self._count
            for name, loss in losses_of(self._preference, pairs, self._statistics).items()
        }
        self._sums.add(pairs, losses)
        return torch.stack(list(losses.values())).sum()

    def metrics(self) -> dict[str, float]:
        """What the passes so far have found, over all processes."""
        found = self._sums.metrics(self._accelerator)
        return found | ({"kl": self._statistics.kl} if self._preference.needs_unrelated else {})

    def _members(self, k: int) -> list[PreferencePair]:
        return [self._pairs[i] for i in self._plan[k]] if k < len(self._plan) else []

    def _logprobs(self, logprob: Tensor, pairs: Sequence[PreferencePair]) -> PairLogprobs:
        """Sums over completions of `logprob`, [chosen tokens of all rows]."""
        sides = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
        lengths = [completion.scored for side in sides for completion in side]
        sums = torch.stack([part.sum() for part in logprob.split(lengths)])
        chosen, rejected = sums.chunk(2)
        chosen_tokens, rejected_tokens = sums.new_tensor(lengths).chunk(2)
        if not self._anchored:
            return PairLogprobs(chosen, rejected, chosen_tokens, rejected_tokens)
        ref_chosen, ref_rejected = (
            sums.new_tensor([completion.ref_logprob for completion in side]) for side in sides
        )
        return PairLogprobs(
            chosen, rejected, chosen_tokens, rejected_tokens, ref_chosen, ref_rejected
        )

    def _counts(self) -> list[float]:
        """This process's pairs, their chosen tokens, pairs that lack a reference and that lack an
        unrelated completion, and micro-batches."""
        compared = ["chosen", "rejected"]
        if self._preference.needs_unrelated:
            compared.append("unrelated")
        pairs = [pair.completions for pair in self._pairs]
        wanting = [
            any(sides[name].ref_logprob is None for name in compared if name in sides)
            for sides in pairs
        ]
        return [
            len(pairs),
            sum(sides["chosen"].scored for sides in pairs),
            sum(wanting),
            sum("unrelated" not in sides for sides in pairs),
            len(self._plan),
        ]

    def _refuse(self, count: int, wanting: int, alone: int) -> None:
        """Refuse what the losses cannot work on."""
        if not count:
            raise UserError("the batch has no preference pair to learn from")
        if alone and self._preference.needs_unrelated:
            raise UserError(
                f"loss 'kto' needs a completion of another prompt by each pair, and {alone} of "
                f"{count} have none; pass all pairs through with_unrelated first"
            )
        if wanting and self._preference.needs_reference:
            raise UserError(
                f"loss {self._preference.loss!r} compares with a reference, and {wanting} of "
                f"{count} pairs lack its log-probabilities; pass them through "
                "Learner.pairs_with_reference first"
            )

    def _kl(self, scorer: Any, budget: int) -> float:
        """KTO's z, from the policy as it is before this step."""
        unrelated = [
            (pair.prompt, pair.unrelated) for pair in self._pairs if pair.unrelated is not None
        ]
        rows = [completion.after(prompt) for prompt, completion in unrelated]
        logprobs = score(scorer, rows, lambda row: row.learned, budget, self._accelerator)
        ratios = [
            float(logprob.sum(dtype="float64")) - _reference(completion)
            for logprob, (_, completion) in zip(logprobs, unrelated, strict=True)
        ]
        table = gather_numbers(self._accelerator, [sum(ratios), len(ratios)])
        return kto_kl(*table.sum(0).tolist())


def _reference(completion: Completion) -> float:
    assert completion.ref_logprob is not None, "_check has seen to it"
    return completion.ref_logprob
