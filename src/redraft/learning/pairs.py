"""Preference pairs as tokens: one prompt, a chosen and a rejected completion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from redraft.errors import UserError
from redraft.learning.streams import BoolArray, IntArray, TokenStreams


@dataclass(frozen=True, eq=False, init=False)
class Completion:
    """What follows a prompt: tokens [time], which of them the model is answerable for [time], and
    the reference's summed log-probability of those, in nats, once it is known.

    Masked-out tokens (a tool's output, say) are context: seen, not scored.
    """

    tokens: IntArray
    mask: BoolArray
    ref_logprob: float | None

    def __init__(
        self,
        tokens: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        ref_logprob: float | None = None,
    ) -> None:
        """Take array-likes of one length; without a mask all tokens count.

        Raises:
            ValueError: lengths differ, no token counts, or `ref_logprob` is not finite.
        """
        put = object.__setattr__
        put(self, "tokens", np.asarray(tokens, dtype=np.int64))
        everything = np.ones(self.tokens.shape, dtype=np.bool_)
        put(self, "mask", everything if mask is None else np.asarray(mask, dtype=np.bool_))
        put(self, "ref_logprob", ref_logprob)
        if self.tokens.ndim != 1 or self.mask.shape != self.tokens.shape:
            raise ValueError(f"mask has {self.mask.size} entries for {self.tokens.size} tokens")
        if not self.mask.any():
            raise ValueError("a completion has no token that counts")
        if ref_logprob is not None and not np.isfinite(ref_logprob):
            raise ValueError(f"ref_logprob {ref_logprob} is not finite")

    def after(self, prompt: IntArray) -> TokenStreams:
        """The training row of this completion: attempt 1 where the mask is set, and held to the
        reference there, so that `Learner.with_reference` knows which tokens to score."""
        attempt = np.concatenate([np.zeros(len(prompt), dtype=np.int64), self.mask])
        tokens = np.concatenate([prompt, self.tokens])
        return TokenStreams(tokens, attempt, kl_weight=attempt)


@dataclass(frozen=True, eq=False, init=False)
class PreferencePair:
    """Two completions of one prompt, the first preferred to the second.

    `unrelated` is a completion of another prompt, which KTO estimates its KL on; `with_unrelated`
    fills it in. It travels with the pair, so that the estimate does not depend on how a batch is
    shared out.
    """

    prompt: IntArray
    chosen: Completion
    rejected: Completion
    unrelated: Completion | None

    def __init__(
        self,
        prompt: npt.ArrayLike,
        chosen: Completion,
        rejected: Completion,
        unrelated: Completion | None = None,
    ) -> None:
        """Put a pair together.

        Raises:
            ValueError: the prompt is empty, so that nothing predicts a completion's first token; or
                the completions are the same, so that there is nothing to prefer.
        """
        put = object.__setattr__
        put(self, "prompt", np.asarray(prompt, dtype=np.int64))
        put(self, "chosen", chosen)
        put(self, "rejected", rejected)
        put(self, "unrelated", unrelated)
        if self.prompt.ndim != 1 or not self.prompt.size:
            raise ValueError(f"prompt must be a non-empty list, got shape {self.prompt.shape}")
        if np.array_equal(chosen.tokens, rejected.tokens):
            raise ValueError("chosen and rejected are the same tokens")

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
        other = next((o for o in later if not np.array_equal(o.prompt, pair.prompt)), None)
        if other is None:
            raise UserError(
                f"loss 'kto' compares completions across prompts, but all {len(pairs)} preference "
                "pairs have the same one; add pairs of other prompts or choose another loss"
            )
        unrelated = other.rejected if index % 2 else other.chosen
        # The reference has scored it after its own prompt, not after this one.
        done.append(replace(pair, unrelated=Completion(unrelated.tokens, unrelated.mask)))
    return done
