"""The loss components, each as one term per token: pure functions on tensors of one shape.

The learner multiplies, sums and divides; nothing here knows about batches. `logprob` is the
log-probability of the sampled token under the policy, with gradient.
"""

import torch
from torch import Tensor


def policy_gradient(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    clip_low: float | None = None,
    clip_high: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Policy-gradient loss of each token and whether the clip has cut its gradient off.

    Without clipping −A·ρ with ρ = exp(logprob − old_logprob), whose gradient at ρ = 1 is
    REINFORCE's −A·∇logprob. With clipping PPO's −min(A·ρ, A·clip(ρ, 1 − clip_low, 1 + clip_high))
    (arXiv 1707.06347, Eq. 7); a bound that is None is open.
    """
    ratio = torch.exp(logprob - old_logprob)
    loss = -advantage * ratio
    if clip_low is None and clip_high is None:
        return loss, torch.zeros_like(loss, dtype=torch.bool)
    low = None if clip_low is None else 1 - clip_low
    high = None if clip_high is None else 1 + clip_high
    clipped = -advantage * ratio.clamp(low, high)
    return torch.maximum(loss, clipped), clipped > loss


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
