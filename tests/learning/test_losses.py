"""Loss components: values worked by hand, and the KL gradients against the closed form."""

import math

import pytest
import torch
from torch import Tensor

from redraft.learning.losses import importance_weight, kl_k1, kl_k2, kl_k3, policy_gradient


def test_policy_gradient_of_two_tokens_by_hand() -> None:
    logprob = torch.tensor([math.log(0.6), math.log(0.1)], requires_grad=True)
    old = torch.tensor([math.log(0.5), math.log(0.2)])
    loss, clipped = policy_gradient(logprob, old, torch.tensor([2.0, -3.0]))
    # ratios 1.2 and 0.5; loss −A·ρ, gradient of each term by its log-prob −A·ρ as well.
    torch.testing.assert_close(loss.detach(), torch.tensor([-2.4, 1.5]))
    assert not clipped.any()
    loss.sum().backward()
    torch.testing.assert_close(logprob.grad, torch.tensor([-2.4, 1.5]))


def test_policy_gradient_is_reinforce_on_policy() -> None:
    logprob = torch.tensor([-0.3, -1.2], requires_grad=True)
    advantage = torch.tensor([0.7, -0.4])
    policy_gradient(logprob, logprob.detach(), advantage)[0].sum().backward()
    torch.testing.assert_close(logprob.grad, -advantage)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.2, True),  # gained enough: clipped at 1 + 0.2
        (1.5, -1.0, 1.5, False),  # moved the wrong way: never clipped
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.9, True),  # fell enough: clipped at 1 − 0.1
        (1.05, 1.0, -1.05, False),
    ],
)
def test_ppo_clip_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprob = torch.tensor([math.log(ratio) - 1.0], requires_grad=True)
    value, cut = policy_gradient(
        logprob, torch.tensor([-1.0]), torch.tensor([advantage]), clip_low=0.1, clip_high=0.2
    )
    assert value.item() == pytest.approx(loss)
    assert cut.item() is clipped
    value.sum().backward()
    assert logprob.grad is not None
    assert (logprob.grad.item() == 0) is clipped


def test_an_open_bound_does_not_clip() -> None:
    far = torch.tensor([math.log(9.0)])
    loss, clipped = policy_gradient(far, torch.zeros(1), torch.ones(1), clip_low=0.2)
    assert loss.item() == pytest.approx(-9.0)
    assert not clipped.any()


def test_a_truncated_weight_keeps_a_bounded_gradient() -> None:
    logprob = torch.tensor([math.log(0.9), math.log(0.9), math.log(0.3)], requires_grad=True)
    old = torch.tensor([math.log(0.1), math.log(0.1), math.log(0.2)])  # ratios 9, 9 and 1.5
    loss, changed = policy_gradient(logprob, old, torch.tensor([1.0, -2.0, 4.0]), cap=3.0)
    torch.testing.assert_close(loss.detach(), torch.tensor([-3.0, 6.0, -6.0]))
    assert changed.tolist() == [True, True, False]
    loss.sum().backward()
    torch.testing.assert_close(logprob.grad, torch.tensor([-3.0, 6.0, -6.0]))


def test_a_truncated_weight_cannot_overflow() -> None:
    logprob = torch.tensor([0.0], requires_grad=True)
    weight = importance_weight(logprob, torch.tensor([-100.0]), cap=2.0)
    weight.sum().backward()
    assert weight.item() == pytest.approx(2.0, rel=1e-4)
    assert logprob.grad is not None
    assert logprob.grad.item() == weight.item()


def test_importance_weights_make_samples_of_another_policy_count_as_ones_own() -> None:
    """Σ_y π_old(y)·ρ(y)·∇ is Σ_y π(y)·∇, for the policy gradient and for k2."""
    torch.manual_seed(0)
    logits, old, ref = torch.randn(3, 6)
    advantage = torch.randn(6)

    def gradient(sampled_by: Tensor) -> Tensor:
        theta = logits.clone().requires_grad_()
        logprob = theta.log_softmax(-1)
        weight = importance_weight(logprob.detach(), sampled_by)
        value = policy_gradient(logprob, sampled_by, advantage)[0]
        value = value + weight * kl_k2(logprob, ref.log_softmax(-1))
        (sampled_by.exp() * value).sum().backward()
        assert theta.grad is not None
        return theta.grad

    own = gradient(logits.log_softmax(-1))
    torch.testing.assert_close(gradient(old.log_softmax(-1)), own)


def test_kl_estimators_by_hand() -> None:
    logprob, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k1(logprob, ref).item() == pytest.approx(math.log(2))
    assert kl_k2(logprob, ref).item() == pytest.approx(0.5 * math.log(2) ** 2)
    assert kl_k3(logprob, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


def _expected_gradient(estimator: object, logits: Tensor, ref: Tensor) -> Tensor:
    """Σ_y π(y)·∇ estimator(y): what on-policy samples give on average."""
    logits = logits.clone().requires_grad_()
    logprob = logits.log_softmax(-1)
    assert callable(estimator)
    (logprob.detach().exp() * estimator(logprob, ref)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def _closed_form(first: Tensor, second: Tensor, wanted: Tensor) -> Tensor:
    """∇ of KL(first‖second), all summed exactly."""
    (gradient,) = torch.autograd.grad((first.exp() * (first - second)).sum(), wanted)
    return gradient


def test_kl_gradients_against_the_closed_form() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    ref = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64).log_softmax(-1)
    wanted = logits.clone().requires_grad_()
    logprob = wanted.log_softmax(-1)
    forward = _closed_form(logprob, ref, wanted)
    wanted = logits.clone().requires_grad_()
    backward = _closed_form(ref, wanted.log_softmax(-1), wanted)

    torch.testing.assert_close(_expected_gradient(kl_k2, logits, ref), forward)
    torch.testing.assert_close(_expected_gradient(kl_k3, logits, ref), backward)
    assert (_expected_gradient(kl_k3, logits, ref) - forward).abs().max() > 0.1
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(_expected_gradient(kl_k1, logits, ref), zero)


def test_kl_values_against_the_closed_form() -> None:
    logprob = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64).log_softmax(-1)
    ref = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64).log_softmax(-1)
    kl = (logprob.exp() * (logprob - ref)).sum()
    torch.testing.assert_close((logprob.exp() * kl_k1(logprob, ref)).sum(), kl)
    torch.testing.assert_close((logprob.exp() * kl_k3(logprob, ref)).sum(), kl)
