"""The loss components, each as one term per token: pure functions on tensors of one shape.

The learner multiplies, sums and divides; nothing here knows about batches. `logprob` is the
log-probability of the sampled token under the policy, with gradient.
"""

import math

import torch
from torch import Tensor


def importance_weight(logprob: Tensor, old_logprob: Tensor, cap: float | None = None) -> Tensor:
    """ρ = exp(logprob − old_logprob) of each token, truncated at `cap` (Ionides 2008, J. Comput.
    Graph. Stat. 17; None: as it is).

    The gradient of a truncated weight is cap·∇logprob: the token still counts, at a bounded size.
    """
    log_ratio = logprob - old_logprob
    if cap is not None:
        log_ratio = log_ratio - (log_ratio - math.log(cap)).clamp(min=0).detach()
    return torch.exp(log_ratio)


def policy_gradient(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    clip_low: float | None = None,
    clip_high: float | None = None,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Policy-gradient loss of each token, and whether clip or cap have changed its gradient.

    Without clipping −A·ρ with ρ the `importance_weight`, whose gradient at ρ = 1 is REINFORCE's
    −A·∇logprob. With clipping PPO's −min(A·ρ, A·clip(ρ, 1 − clip_low, 1 + clip_high)) (arXiv
    1707.06347, Eq. 7), which takes a token's gradient away; a bound that is None is open.
    """
    ratio = importance_weight(logprob, old_logprob, cap)
    changed = torch.zeros_like(ratio, dtype=torch.bool)
    if cap is not None:
        changed = logprob - old_logprob > math.log(cap)
    loss = -advantage * ratio
    if clip_low is None and clip_high is None:
        return loss, changed
    low = None if clip_low is None else 1 - clip_low
    high = None if clip_high is None else 1 + clip_high
    clipped = -advantage * ratio.clamp(low, high)
    return torch.maximum(loss, clipped), changed | (clipped > loss)


def kl_k1(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """log π − log π_ref: the unbiased estimate of KL(π‖π_ref), for reporting or for a reward.

    As a loss it is useless: the expectation of its gradient over on-policy tokens is 0.
    """
    return logprob - ref_logprob


def kl_k2(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """½(log π − log π_ref)². As a loss on on-policy tokens its expected gradient is that of
    KL(π‖π_ref), since ∇k2 = (log π − log π_ref)·∇log π; as a value it is biased. TRL's GRPO has
    the same gradient on policy (ratio · k3 with a differentiable ratio, arXiv 2512.02556).
    """
    return 0.5 * (logprob - ref_logprob).square()


def kl_k3(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """π_ref/π − 1 − log(π_ref/π) (J. Schulman, "Approximating KL Divergence", 2020).

    Unbiased and never negative as a value. As a loss on on-policy tokens its expected gradient is
    that of KL(π_ref‖π), the other direction (GRPO's choice).
    """
    log_ratio = ref_logprob - logprob
    return torch.exp(log_ratio) - 1 - log_ratio
