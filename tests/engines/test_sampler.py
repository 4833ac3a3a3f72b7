"""Sampling against hand-worked distributions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from redraft.engines import Request, Sampling
from redraft.engines.sampler import draw, uniforms

PROBABILITIES = [0.1, 0.4, 0.05, 0.25, 0.2]
LOGITS = torch.tensor([PROBABILITIES]).log() + 3.0  # a constant does not matter

ALMOST_ONE = math.nextafter(1.0, 0.0)


def drawn(sampling: Sampling, count: int = 4000) -> tuple[np.ndarray, dict[int, float]]:
    """How often each token comes up, and the log-probability reported for it."""
    uniform = torch.from_numpy(uniforms([(3, 0)], count)[0])
    tokens, logprobs = draw(LOGITS.expand(count, -1), uniform, sampling)
    reported: dict[int, float] = {}
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        assert reported.setdefault(token, logprob) == logprob
    return np.bincount(tokens, minlength=5), reported


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), PROBABILITIES),
        # Squared and renormalised: 0.01, 0.16, 0.0025, 0.0625, 0.04 over 0.275.
        (Sampling(temperature=0.5), [p / 0.275 for p in (0.01, 0.16, 0.0025, 0.0625, 0.04)]),
        (Sampling(top_k=3), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        (Sampling(top_k=9), PROBABILITIES),
        # 0.4 alone does not reach 0.6, 0.4 + 0.25 does.
        (Sampling(top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(top_p=0.01), [0, 1, 0, 0, 0]),
        # top_p counts within what top_k left: 0.4 / 0.85 = 0.47, and with 0.25 it is 0.76.
        (Sampling(top_k=3, top_p=0.7), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(temperature=0.5, top_k=2), [0, 0.16 / 0.2225, 0, 0.0625 / 0.2225, 0]),
    ],
    ids=str,
)
def test_frequencies_and_logprobs_match_the_distribution(
    sampling: Sampling, expected: list[float]
) -> None:
    counts, reported = drawn(sampling)
    support = [token for token, p in enumerate(expected) if p > 0]
    assert counts.sum() == counts[support].sum()
    if len(support) > 1:
        wanted = np.array(expected)[support] * counts.sum()
        assert stats.chisquare(counts[support], wanted).pvalue > 0.001
    for token, logprob in reported.items():
        assert logprob == pytest.approx(math.log(expected[token]), abs=1e-5)


def test_greedy_takes_the_mode_and_reports_the_models_logprob() -> None:
    tokens, logprobs = draw(LOGITS, torch.zeros(1, dtype=torch.float64), Sampling(temperature=0))
    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(math.log(0.4), abs=1e-6)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5), Sampling(top_p=0.999)])
@pytest.mark.parametrize("uniform", [0.0, 0.5, ALMOST_ONE])
def test_impossible_tokens_are_never_drawn_at_the_ends(sampling: Sampling, uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    token, logprob = draw(logits, torch.tensor([uniform], dtype=torch.float64), sampling)
    assert token.item() in (1, 3)
    assert torch.isfinite(logprob).all()


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40),
    uniform=st.floats(0, ALMOST_ONE) | st.sampled_from([0.0, ALMOST_ONE]),
    top_k=st.integers(1, 45),
)
def test_a_token_outside_top_k_is_never_drawn(
    logits: list[float], uniform: float, top_k: int
) -> None:
    token, _ = draw(
        torch.tensor([logits]),
        torch.tensor([uniform], dtype=torch.float64),
        Sampling(top_k=top_k, temperature=0.7),
    )
    better = sum(logit > logits[int(token)] for logit in logits)
    assert better < top_k


def test_of_equal_tokens_exactly_k_remain() -> None:
    uniform = torch.linspace(0, ALMOST_ONE, 100, dtype=torch.float64)
    tokens, logprobs = draw(torch.zeros(100, 8), uniform, Sampling(top_k=3))
    assert set(tokens.tolist()) == {0, 1, 2}
    torch.testing.assert_close(logprobs.exp(), torch.full((100,), 1 / 3))


def test_half_precision_logits_are_computed_on_in_float32() -> None:
    logits = LOGITS.bfloat16()
    _, logprobs = draw(logits, torch.zeros(1, dtype=torch.float64), Sampling())
    assert logprobs.dtype == torch.float32
    expected = logits.float().log_softmax(-1)[0, 0].item()
    assert logprobs.item() == pytest.approx(expected, abs=1e-6)


def test_random_numbers_depend_on_seed_problem_sample_and_turn() -> None:
    request = Request([], (), "p", 1, 2)
    keys = [
        request.stream(7),
        request.stream(8),
        Request([], (), "q", 1, 2).stream(7),
        Request([], (), "p", 2, 2).stream(7),
        request.stream(7, 3),
    ]
    whole = uniforms(keys, 6)
    assert whole.shape == (5, 6)
    assert len(np.unique(whole)) == whole.size
    assert ((whole >= 0) & (whole < 1)).all()
    np.testing.assert_array_equal(uniforms([request.stream(7, 2)], 3)[0], whole[0, :3])


# A vocabulary of a real model

LARGE = 3000  # three blocks, the last one shorter


def large(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, LARGE, generator=generator)
    logits[:, 1024:2048] = -torch.inf  # a block that nothing is drawn from
    logits[::2, 2999] = 12.0
    return logits, torch.rand(rows, generator=generator, dtype=torch.float64)


def test_a_large_vocabulary_is_drawn_from_by_inversion() -> None:
    logits, uniform = large(512)
    uniform[:2] = torch.tensor([0.0, ALMOST_ONE])
    tokens, logprobs = draw(logits, uniform, Sampling())
    exact = logits.double().softmax(dim=-1)
    steps = exact.cumsum(dim=-1)
    assert (tokens // 1024 == torch.tensor([[0], [2]])).any(dim=1).all()
    for row, token in enumerate(tokens.tolist()):
        low = steps[row, token] - exact[row, token]
        assert low - 1e-6 <= uniform[row] <= steps[row, token] + 1e-6
        assert logprobs[row].item() == pytest.approx(exact[row, token].log().item(), abs=1e-5)


def test_greedy_takes_the_first_of_the_most_likely_of_a_large_vocabulary() -> None:
    logits, uniform = large()
    logits[1, [5, 2500]] = 50.0
    logits[3, [2049, 2500]] = 50.0
    tokens, logprobs = draw(logits, uniform, Sampling(temperature=0))
    assert tokens.tolist() == logits.argmax(dim=-1).tolist()
    assert tokens[[1, 3]].tolist() == [5, 2049]
    torch.testing.assert_close(logprobs, logits.log_softmax(dim=-1).amax(dim=-1))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=20),
        Sampling(top_p=0.9),
        Sampling(top_p=0.99999),  # its nucleus is larger than what is put in order first
        Sampling(top_k=20, top_p=0.7, temperature=0.8),
    ],
    ids=str,
)
@pytest.mark.parametrize("ties", [False, True])
def test_filters_of_a_large_vocabulary_keep_what_the_whole_order_keeps(
    sampling: Sampling, ties: bool
) -> None:
    logits, uniform = large()
    if ties:
        logits = logits.round()
    logits[:, -8:] = logits[:, :8]
    tokens, logprobs = draw(logits, uniform, sampling)
    for row, token in enumerate(tokens.tolist()):
        ordered = (logits[row].double() / sampling.temperature).sort(descending=True, stable=True)
        kept = ordered.values[: sampling.top_k or LARGE].softmax(dim=-1)
        kept[kept.cumsum(dim=-1) - kept >= sampling.top_p] = 0.0
        kept /= kept.sum()
        place = int((kept.cumsum(dim=-1) <= uniform[row]).sum())
        assert token == ordered.indices[place]
        assert logprobs[row].item() == pytest.approx(kept[place].log().item(), abs=1e-4)
