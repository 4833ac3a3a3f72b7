"""Preference losses: values worked by hand, gradients, and how a sum of losses is written."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from redraft.learning import preference as losses
from redraft.learning.pair_metrics import ChosenWatch
from redraft.learning.preference import PairLogprobs, PairStatistics, losses_of
from redraft.learning.preference_config import LOSSES, NAMES, PreferenceConfig

EVERY = [
    "sigmoid", "ipo", "hinge", "robust", "sigmoid_norm", "dpop", "simpo", "orpo", "kto",
    "apo_zero", "apo_down", "nll",
]  # fmt: skip


def one_pair(ref_chosen: float = -2.5) -> PairLogprobs:
    """r(y_w) = ½, r(y_l) = −1, so Δ = 1½; 4 chosen tokens at −½ each, 2 rejected at −1½ each."""
    return PairLogprobs(
        chosen=torch.tensor([-2.0]),
        rejected=torch.tensor([-3.0]),
        chosen_tokens=torch.tensor([4.0]),
        rejected_tokens=torch.tensor([2.0]),
        ref_chosen=torch.tensor([ref_chosen]),
        ref_rejected=torch.tensor([-2.0]),
    )


def softplus(x: float) -> float:
    """−log σ(−x)."""
    return math.log1p(math.exp(x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(logprob: float) -> float:
    return math.exp(logprob) / (1 - math.exp(logprob))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.sigmoid(one_pair(), 2.0), softplus(-3.0)),
        (losses.sigmoid(one_pair(), 2.0, 0.1), 0.9 * softplus(-3.0) + 0.1 * softplus(3.0)),
        (losses.robust(one_pair(), 2.0, 0.1), (0.9 * softplus(-3) - 0.1 * softplus(3)) / 0.8),
        # mean log-ratios 1/8 and −1/2
        (losses.sigmoid_norm(one_pair(), 2.0), softplus(-1.25)),
        (losses.ipo(one_pair(), 2.0), (0.625 - 0.25) ** 2),
        (losses.hinge(one_pair(), 0.5), 0.25),
        (losses.hinge(one_pair(), 1.0), 0.0),
        (losses.dpop(one_pair(), 2.0, 10.0), softplus(-3.0)),
        # r(y_w) = −1/4 costs 10 · 1/4, and Δ is 3/4
        (losses.dpop(one_pair(-1.75), 2.0, 10.0), softplus(-2 * (0.75 - 2.5))),
        (losses.apo_zero(one_pair(), 2.0), 1 - sigma(1.0) + sigma(-2.0)),
        (losses.apo_down(one_pair(), 2.0), sigma(1.0) + 1 - sigma(3.0)),
        (losses.kto(one_pair(), 0.0, 2.0), (1 - sigma(1.0) + 1 - sigma(2.0)) / 2),
        (
            losses.kto(one_pair(), 0.25, 2.0, 3.0, 0.5),
            (3 * (1 - sigma(0.5)) + 0.5 * (1 - sigma(2.5))) / 2,
        ),
        (losses.nll(one_pair(), 4), 0.5),
        (losses.simpo(one_pair(), 2.0, 0.5), softplus(-(2.0 * (-0.5 + 1.5) - 0.5))),
        (
            losses.orpo(one_pair(), 4, 0.3),
            0.5 + 0.3 * softplus(-math.log(odds(-0.5) / odds(-1.5))),
        ),
    ],
)
def test_values_by_hand(loss: Tensor, expected: float) -> None:
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_dpo_has_the_gradient_of_its_paper() -> None:
    """−βσ(−βΔ)·(∇log π(y_w) − ∇log π(y_l)): arXiv 2305.18290, section 4."""
    pair = one_pair()
    chosen, rejected = pair.chosen.requires_grad_(), pair.rejected.requires_grad_()
    losses.sigmoid(pair, 2.0).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-2 * sigma(-3.0), rel=1e-5)
    assert rejected.grad.item() == pytest.approx(2 * sigma(-3.0), rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    chosen, rejected, ref_chosen, ref_rejected = (
        -6 * torch.rand(6, generator=generator, dtype=torch.float64) - 0.1 for _ in range(4)
    )
    tokens = torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.float64)
    config = PreferenceConfig(loss=name, beta=0.4)

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        pairs = PairLogprobs(chosen, rejected, tokens, tokens.flip(0), ref_chosen, ref_rejected)
        return losses_of(config, pairs, PairStatistics(mean_chosen_tokens=3.5, kl=0.2))[name]

    inputs = (chosen.requires_grad_(), rejected.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EVERY), st.lists(st.floats(-1e4, 0), min_size=4, max_size=4))
def test_losses_and_gradients_stay_finite_however_far_apart(name: str, values: list[float]) -> None:
    logprobs = [torch.tensor([value], requires_grad=True) for value in values]
    one = torch.ones(1)
    pairs = PairLogprobs(logprobs[0], logprobs[1], one, one, logprobs[2], logprobs[3])
    statistics = PairStatistics(mean_chosen_tokens=1.0)
    loss = losses_of(PreferenceConfig(loss=name), pairs, statistics)[name]
    loss.sum().backward()
    assert loss.isfinite().all()
    for logprob in logprobs[:2]:
        assert logprob.grad is None or logprob.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"nll", "apo_down", "dpop"}))
def test_a_wider_gap_costs_less(name: str) -> None:
    """Starting at the reference, every contrastive loss wants chosen up and rejected down."""
    start = torch.tensor([-4.0])
    chosen, rejected = start.clone().requires_grad_(), start.clone().requires_grad_()
    two = torch.tensor([2.0])
    pairs = PairLogprobs(chosen, rejected, two, two, start, start)
    losses_of(PreferenceConfig(loss=name), pairs, PairStatistics(2.0))[name].sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() < 0 < rejected.grad.item()


def test_kl_of_kto_is_never_negative() -> None:
    assert losses.kto_kl(6.0, 4.0) == 1.5
    assert losses.kto_kl(-6.0, 4.0) == 0.0


def test_a_loss_with_a_reference_says_when_there_is_none() -> None:
    alone = PairLogprobs(*(torch.tensor([x]) for x in (-1.0, -2.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="needs the reference"):
        losses.sigmoid(alone)
    assert losses.simpo(alone).isfinite()


# ---- how losses are written ----


@pytest.mark.parametrize(
    ("written", "terms"),
    [
        ("sigmoid", {"sigmoid": 1.0}),
        ("dpo", {"sigmoid": 1.0}),
        ("rpo", {"sigmoid": 1.0, "nll": 1.0}),
        (" sigmoid + 0.2*nll", {"sigmoid": 1.0, "nll": 0.2}),
        ("0.5 * ipo+2*rpo+sft", {"ipo": 0.5, "sigmoid": 2.0, "nll": 3.0}),
        ({"simpo": 1, "nll": 0.2}, {"simpo": 1.0, "nll": 0.2}),
    ],
)
def test_a_sum_of_losses(written: str | dict[str, float], terms: dict[str, float]) -> None:
    assert PreferenceConfig(loss=written).terms == terms


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "sigmiod"}, "unknown preference loss 'sigmiod'; choose from apo_down"),
        ({"loss": "sigmoid+"}, "unknown preference loss ''"),
        ({"loss": ""}, "unknown preference loss ''"),
        ({"loss": {}}, "no preference loss is named"),
        ({"loss": "nll*0.2"}, r"'nll\*0.2' is not a loss"),
        ({"loss": "-1*nll"}, "weight -1.0 of 'nll' must be a positive number"),
        ({"loss": {"nll": float("nan")}}, "weight nan of 'nll'"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "has no effect on loss 'ipo'"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_losses_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PreferenceConfig.model_validate(settings)


def test_what_each_loss_needs() -> None:
    free = {name for name in EVERY if not PreferenceConfig(loss=name).needs_reference}
    assert free == {"simpo", "orpo", "nll"}
    assert PreferenceConfig(loss="simpo+0.1*sigmoid").needs_reference
    assert [name for name in EVERY if PreferenceConfig(loss=name).needs_unrelated] == ["kto"]
    assert sorted(LOSSES) == sorted(EVERY)
    assert {name for terms in NAMES.values() for name in terms} <= set(EVERY)


def test_beta_where_none_is_given() -> None:
    config = PreferenceConfig(loss="simpo+sigmoid")
    assert (config.beta_of("simpo"), config.beta_of("sigmoid_norm"), config.beta_of("ipo")) == (
        2.0, 5.0, 0.1,
    )  # fmt: skip
    assert config.reward_scale == 2.0
    assert PreferenceConfig(loss="simpo", beta=0.3).beta_of("simpo") == 0.3


# ---- the warning ----


def test_falling_chosen_completions_are_told_once() -> None:
    watch = ChosenWatch(steps=2)
    changes = [0.5, -0.1, -0.3, -0.9, -5.0]
    told = [watch.warning({"logps/chosen_change": change}) for change in changes]
    assert [message is not None for message in told] == [False, False, True, False, False]
    assert told[2] is not None
    assert "-0.2 nats on average over the last 2 steps" in told[2]


def test_without_a_reference_they_are_compared_with_the_first_steps() -> None:
    watch = ChosenWatch(steps=2)
    levels = [-1.0, -2.0, -1.4, -1.5, -1.9]  # they began at −1.5
    told = [watch.warning({"logps/chosen_per_token": level}) for level in levels]
    assert [message is not None for message in told] == [False, False, False, False, True]
