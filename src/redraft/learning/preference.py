"""Preference losses under the field's names: pure functions of log-probabilities of pairs.

Every function returns one loss per pair, shape [pairs]; what is minimised is their mean over the
whole optimiser batch. Where a loss needs a number of the whole batch (the mean length of `nll`, the
KL of `kto`), that number is an argument, so that no loss depends on how the batch is cut up.

In the equations y_w is the chosen and y_l the rejected completion, |y| a number of completion
tokens, r(y) = log π(y|x) − log π_ref(y|x), and Δ = r(y_w) − r(y_l); log-probabilities of a
completion are sums over its tokens unless divided by |y|.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from redraft.learning.preference_config import PreferenceConfig


@dataclass(frozen=True)
class PairLogprobs:
    """Log-probabilities of chosen and rejected completions, summed over tokens, [pairs] each.

    `chosen` and `rejected` are the policy's and carry gradient; `ref_chosen` and `ref_rejected` are
    the reference's (None: there is none). The token counts are those of the completions.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None

    @property
    def chosen_ratio(self) -> Tensor:
        """r(y_w), [pairs]."""
        return self.chosen - _given(self.ref_chosen)

    @property
    def rejected_ratio(self) -> Tensor:
        """r(y_l), [pairs]."""
        return self.rejected - _given(self.ref_rejected)

    @property
    def delta(self) -> Tensor:
        """Δ, [pairs]."""
        return self.chosen_ratio - self.rejected_ratio

    @property
    def mean_chosen(self) -> Tensor:
        """log π(y_w|x) / |y_w|, [pairs]."""
        return self.chosen / self.chosen_tokens

    @property
    def mean_rejected(self) -> Tensor:
        """log π(y_l|x) / |y_l|, [pairs]."""
        return self.rejected / self.rejected_tokens


@dataclass(frozen=True)
class PairStatistics:
    """What some losses need to know of the whole optimiser batch, over all processes."""

    mean_chosen_tokens: float
    """Mean number of completion tokens of the chosen side."""
    kl: float = 0.0
    """KTO's estimate of KL(π‖π_ref), see `kto_kl`."""


def losses_of(
    config: PreferenceConfig, pairs: PairLogprobs, batch: PairStatistics
) -> dict[str, Tensor]:
    """Weighted loss of each pair under each term of `config.loss`, [pairs] by the term's name."""
    return {
        name: weight * _BY_NAME[name](pairs, config.beta_of(name), config, batch)
        for name, weight in config.terms.items()
    }


def _given(ref_logprob: Tensor | None) -> Tensor:
    if ref_logprob is None:
        raise ValueError("this loss needs the reference's log-probabilities of the pairs")
    return ref_logprob


def sigmoid(pairs: PairLogprobs, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """DPO: −log σ(βΔ) (arXiv 2305.18290, Eq. 7).

    With `label_smoothing` ε, the chance that a pair's label is flipped, conservative DPO:
    −(1−ε)·log σ(βΔ) − ε·log σ(−βΔ) (arXiv 2305.18290, and E. Mitchell's note on cDPO, 2023).
    """
    return _smoothed(beta * pairs.delta, label_smoothing)


def robust(pairs: PairLogprobs, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Robust DPO: (−(1−ε)·log σ(βΔ) + ε·log σ(−βΔ)) / (1−2ε) (arXiv 2403.00409).

    An unbiased estimate of DPO's loss when a share ε < ½ of the labels is flipped.
    """
    logits, flip = beta * pairs.delta, label_smoothing
    return (flip * logsigmoid(-logits) - (1 - flip) * logsigmoid(logits)) / (1 - 2 * flip)


def sigmoid_norm(pairs: PairLogprobs, beta: float = 5.0) -> Tensor:
    """Length-normalised DPO: −log σ(β·(r(y_w)/|y_w| − r(y_l)/|y_l|)) (arXiv 2411.15124)."""
    return -logsigmoid(beta * _mean_delta(pairs))


def ipo(pairs: PairLogprobs, beta: float = 0.1) -> Tensor:
    """IPO: (r(y_w)/|y_w| − r(y_l)/|y_l| − 1/(2β))² (arXiv 2310.12036, Eq. 17 with τ = β).

    The paper writes no division by |y|; its authors confirmed to TRL's that their results have it.
    """
    return (_mean_delta(pairs) - 1 / (2 * beta)).square()


def hinge(pairs: PairLogprobs, beta: float = 0.1) -> Tensor:
    """max(0, 1 − βΔ): SLiC's loss on the log-ratios (arXiv 2309.06657, section 2; 2305.10425)."""
    return torch.relu(1 - beta * pairs.delta)


def dpop(pairs: PairLogprobs, beta: float = 0.1, penalty: float = 50.0) -> Tensor:
    """DPO-Positive: −log σ(β·(Δ − λ·max(0, −r(y_w)))) (arXiv 2402.13228, Eq. 3), λ = `penalty`.

    The penalty is 0 while the chosen completion is at least as likely as under the reference.
    """
    return -logsigmoid(beta * (pairs.delta - penalty * torch.relu(-pairs.chosen_ratio)))


def apo_zero(pairs: PairLogprobs, beta: float = 0.1) -> Tensor:
    """APO-zero: 1 − σ(β·r(y_w)) + σ(β·r(y_l)) (arXiv 2408.06266, Eq. 7).

    For chosen completions that are better than what the model writes by itself.
    """
    return torch.sigmoid(-beta * pairs.chosen_ratio) + torch.sigmoid(beta * pairs.rejected_ratio)


def apo_down(pairs: PairLogprobs, beta: float = 0.1) -> Tensor:
    """APO-down: σ(β·r(y_w)) + 1 − σ(βΔ) (arXiv 2408.06266, Eq. 8).

    For chosen completions that are worse than what the model writes by itself.
    """
    return torch.sigmoid(beta * pairs.chosen_ratio) + torch.sigmoid(-beta * pairs.delta)


def kto(
    pairs: PairLogprobs,
    kl: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO: ½·(λ_D·(1 − σ(β(r(y_w) − z))) + λ_U·(1 − σ(β(z − r(y_l))))) (arXiv 2402.01306, Eq. 7).

    KTO's mean is over completions, not pairs; the ½ makes the mean over pairs the same number.

    Args:
        pairs: each counts as one desirable and one undesirable example.
        kl: z, the batch's estimate of KL(π‖π_ref), never negative, from `kto_kl`; no gradient.
        beta: β.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """
    desirable = desirable_weight * torch.sigmoid(beta * (kl - pairs.chosen_ratio))
    undesirable = undesirable_weight * torch.sigmoid(beta * (pairs.rejected_ratio - kl))
    return (desirable + undesirable) / 2


def kto_kl(total_ratio: float, completions: float) -> float:
    """z of `kto`: max(0, mean of r(y') over completions y' of other prompts).

    Args:
        total_ratio: sum over the whole optimiser batch of log π(y'|x) − log π_ref(y'|x).
        completions: how many were summed.
    """
    return max(0.0, total_ratio / max(completions, 1.0))


def nll(pairs: PairLogprobs, mean_tokens: Tensor | float) -> Tensor:
    """Negative log-likelihood of the chosen completions: −log π(y_w|x) / mean |y_w|.

    Its mean over the batch is the mean over all chosen tokens: TRL's `sft`, the usual form of RPO's
    NLL term (arXiv 2404.19733, Eq. 2, divides each completion by its own length instead).

    Args:
        pairs: the rejected completions play no part.
        mean_tokens: mean number of chosen tokens of a pair, over the whole optimiser batch.
    """
    return -pairs.chosen / mean_tokens


def simpo(pairs: PairLogprobs, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """SimPO: −log σ(β·log π(y_w)/|y_w| − β·log π(y_l)/|y_l| − γ) (arXiv 2405.14734, Eq. 6).

    No reference. γ is a margin of the scaled rewards, not divided by β; γ/β = ½ here, as the paper
    recommends.
    """
    return -logsigmoid(beta * (pairs.mean_chosen - pairs.mean_rejected) - gamma)


def orpo(pairs: PairLogprobs, mean_tokens: Tensor | float, beta: float = 0.1) -> Tensor:
    """ORPO: `nll` + λ·(−log σ(log odds(y_w) − log odds(y_l))) (arXiv 2403.07691, Eq. 6, 7; λ = β).

    odds(y) = p/(1−p) with log p = log π(y|x)/|y|, the average. No reference. TRL's trainer counts
    the prompt's tokens in its NLL too; here, as in the paper, they are masked.
    """
    log_odds = _log_odds(pairs.mean_chosen) - _log_odds(pairs.mean_rejected)
    return nll(pairs, mean_tokens) - beta * logsigmoid(log_odds)


def _smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def _mean_delta(pairs: PairLogprobs) -> Tensor:
    chosen = pairs.chosen_ratio / pairs.chosen_tokens
    return chosen - pairs.rejected_ratio / pairs.rejected_tokens


def _log_odds(logprob: Tensor) -> Tensor:
    """log(p / (1 − p)) from log p; p is kept below 1, where the odds are infinite."""
    below = logprob.clamp(max=-1e-6)
    near_one = below > -math.log(2)
    rest = torch.where(near_one, torch.log(-torch.expm1(below)), torch.log1p(-torch.exp(below)))
    return logprob - rest


_BY_NAME: dict[str, Callable[[PairLogprobs, float, PreferenceConfig, PairStatistics], Tensor]] = {
    "sigmoid": lambda p, beta, c, b: sigmoid(p, beta, c.label_smoothing),
    "robust": lambda p, beta, c, b: robust(p, beta, c.label_smoothing),
    "sigmoid_norm": lambda p, beta, c, b: sigmoid_norm(p, beta),
    "ipo": lambda p, beta, c, b: ipo(p, beta),
    "hinge": lambda p, beta, c, b: hinge(p, beta),
    "dpop": lambda p, beta, c, b: dpop(p, beta, c.dpop_penalty),
    "apo_zero": lambda p, beta, c, b: apo_zero(p, beta),
    "apo_down": lambda p, beta, c, b: apo_down(p, beta),
    "kto": lambda p, beta, c, b: kto(p, b.kl, beta, c.desirable_weight, c.undesirable_weight),
    "nll": lambda p, beta, c, b: nll(p, b.mean_chosen_tokens),
    "simpo": lambda p, beta, c, b: simpo(p, beta, c.gamma),
    "orpo": lambda p, beta, c, b: orpo(p, b.mean_chosen_tokens, beta),
}
