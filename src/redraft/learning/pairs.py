"""Preference pairs as tokens: one prompt, a chosen and a rejected completion.

A pair is a record: a line of `pairs.jsonl` is what the learner takes a step on.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from redraft.errors import UserError
from redraft.learning.rows import TrainingRow
from redraft.types import Record


class Completion(Record):
    """What follows a prompt.

    `mask` says which of the tokens the model is answerable for (None: all); the others, a tool's
    output say, are seen and not scored. `ref_logprob` is the reference's summed log-probability of
    the scored tokens, in nats, once it is known.
    """

    tokens: list[int]
    mask: list[bool] | None = None
    ref_logprob: float | None = None

    @model_validator(mode="after")
    def _can_be_scored(self) -> Self:
        if self.mask is not None and len(self.mask) != len(self.tokens):
            raise ValueError(f"mask has {len(self.mask)} entries for {len(self.tokens)} tokens")
        if not self.scored:
            raise ValueError("a completion has no token that counts")
        if self.ref_logprob is not None and not np.isfinite(self.ref_logprob):
            raise ValueError(f"ref_logprob {self.ref_logprob} is not finite")
        return self

    @property
    def scored(self) -> int:
        """Number of tokens that the model is answerable for."""
        return len(self.tokens) if self.mask is None else sum(self.mask)

    def after(self, prompt: Sequence[int]) -> TrainingRow:
        """The training row of this completion: turn 1 where the mask is set, and held to the
        reference there, so that `Learner.with_reference` knows which tokens to score."""
        mask = np.ones(len(self.tokens)) if self.mask is None else self.mask
        turn = np.concatenate([np.zeros(len(prompt)), mask])
        return TrainingRow([*prompt, *self.tokens], turn, kl_weight=turn)

    def with_reference(self, logprob: float | None) -> "Completion":
        """The same with the reference's log-probability.

        Raises:
            ValueError: it is not finite.
        """
        return Completion(tokens=self.tokens, mask=self.mask, ref_logprob=logprob)


class PreferencePair(Record):
    """Two completions of one prompt, the first preferred to the second.

    `unrelated` is a completion of another prompt, which KTO estimates its KL on; `with_unrelated`
    fills it in. It travels with the pair, so that the estimate does not depend on how a batch is
    shared out. `problem` and `kind` say where the pair comes from; no loss reads them.
    """

    problem: str = ""
    kind: str = ""
    prompt: list[int] = Field(min_length=1)
    """Not empty: something has to predict a completion's first token."""
    chosen: Completion
    rejected: Completion
    unrelated: Completion | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.chosen.tokens == self.rejected.tokens:
            raise ValueError("chosen and rejected are the same tokens")
        return self

    @property
    def completions(self) -> dict[str, Completion]:
        """Chosen, rejected, and the unrelated one if there is one, by their names."""
        sides = {"chosen": self.chosen, "rejected": self.rejected}
        return sides if self.unrelated is None else sides | {"unrelated": self.unrelated}

    @property
    def longest(self) -> int:
        """Tokens of the longer of chosen and rejected with the prompt before it."""
        return len(self.prompt) + max(len(self.chosen.tokens), len(self.rejected.tokens))


def with_unrelated(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The same pairs, each with a completion of the next pair that has another prompt, by turns its
    chosen and its rejected one (KTO's mismatched y', arXiv 2402.01306, section 4.1).

    Call it once on the whole data set. The completions of a batch are then a sample of all pairs'
    and not, as in TRL, exactly the batch's own.

    Raises:
        UserError: all pairs have the same prompt.
    """
    done: list[PreferencePair] = []
    for index, pair in enumerate(pairs):
        later = (pairs[(index + step) % len(pairs)] for step in range(1, len(pairs)))
        other = next((o for o in later if o.prompt != pair.prompt), None)
        if other is None:
            raise UserError(
                f"loss 'kto' compares completions across prompts, but all {len(pairs)} preference "
                "pairs have the same one; add pairs of other prompts or choose another loss"
            )
        unrelated = other.rejected if index % 2 else other.chosen
        # The reference has scored it after its own prompt, not after this one.
        done.append(pair.model_copy(update={"unrelated": unrelated.with_reference(None)}))
    return done
