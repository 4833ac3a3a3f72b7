"""The learner: every component by hand, micro-batches that change nothing, and its failures."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.logprobs import TokenScorer
from redraft.learning.rows import TrainingRow
from tiny_models import seeded, tiny_llama
from training_rows import VOCABULARY, step_and_gradient, two_turn_rows

UNCLIPPED = LearnerConfig(max_grad_norm=None)


def policy(seed: int = 0) -> PreTrainedModel:
    return tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=seed, spread=3.0)


def config(**changes: object) -> LearnerConfig:
    return LearnerConfig.model_validate({"max_grad_norm": None, **changes})


def full_logprobs(model: PreTrainedModel, tokens: list[int], temperature: float = 1.0) -> Tensor:
    """Log-probability of every token but the first from the model's own logits, [time - 1]."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]


def entropies(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    log_p = model(input_ids=torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def expect(
    model: PreTrainedModel,
    rows: list[TrainingRow],
    settings: LearnerConfig,
    loss: Tensor,
    **kwargs: PreTrainedModel,
) -> dict[str, float]:
    """Check a step's loss and gradient against a loss worked out on `model` itself."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    wanted = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    learner = Learner(model, settings, **kwargs)
    metrics, gradient = step_and_gradient(learner, learner.with_reference(rows))
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name in names:
        torch.testing.assert_close(gradient[name], wanted[name], rtol=1e-4, atol=1e-6)
    return metrics


# ---- each component by hand, on two tokens ----


def test_cross_entropy_of_two_tokens() -> None:
    model = policy()
    logprob = full_logprobs(model, [3, 7, 9])
    loss = -(0.5 * logprob[0] + 2.0 * logprob[1]) / 2
    rows = [TrainingRow([3, 7, 9], [0, 1, 1], loss_weight=[0, 0.5, 2.0])]
    metrics = expect(model, rows, UNCLIPPED, loss)
    assert metrics["loss/cross_entropy"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("normalize", "divisor"), [("sequence", 1), ("token", 2)])
def test_policy_gradient_of_two_tokens(normalize: str, divisor: int) -> None:
    model = policy()
    logprob = full_logprobs(model, [3, 7, 9])
    old = torch.tensor([-2.0, -3.0])
    loss = -(1.5 * (logprob[0] - old[0]).exp() - 0.5 * (logprob[1] - old[1]).exp()) / divisor
    rows = [TrainingRow([3, 7, 9], [0, 1, 2], advantage=[0, 1.5, -0.5], old_logprob=[0, -2, -3])]
    metrics = expect(model, rows, config(normalize=normalize), loss)
    gaps = (logprob - old).abs().tolist()
    assert metrics["logprob_gap/mean_abs"] == pytest.approx(sum(gaps) / 2, rel=1e-4)
    assert metrics["logprob_gap/max"] == pytest.approx(max(gaps), rel=1e-4)


def test_without_old_logprobs_it_is_reinforce() -> None:
    model = policy()
    logprob = full_logprobs(model, [3, 7, 9])
    loss = -(1.5 * logprob[0] - 0.5 * logprob[1])
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    rows = [TrainingRow([3, 7, 9], [0, 1, 1], advantage=[0, 1.5, -0.5])]
    metrics, gradient = step_and_gradient(Learner(model, UNCLIPPED), rows)
    assert metrics["loss"] == pytest.approx(-1.0)  # ratios are 1
    for got, want in zip(gradient.values(), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_of_two_tokens(estimator: str) -> None:
    model, reference = policy(), policy(seed=1)
    gap = full_logprobs(model, [3, 7, 9]) - full_logprobs(reference, [3, 7, 9]).detach()
    per_token = 0.5 * gap**2 if estimator == "k2" else (-gap).exp() - 1 + gap
    loss = 0.2 * per_token[0] + 0.7 * per_token[1]
    rows = [TrainingRow([3, 7, 9], [0, 1, 2], kl_weight=[0, 0.2, 0.7])]
    metrics = expect(model, rows, config(kl_estimator=estimator), loss, reference=reference)
    assert metrics["kl/turn1"] == pytest.approx(gap[0].item(), rel=1e-4)
    assert metrics["kl/turn2"] == pytest.approx(gap[1].item(), rel=1e-4)
    k3 = math.exp(-gap[1].item()) - 1 + gap[1].item()
    assert metrics["kl_k3/turn2"] == pytest.approx(k3, rel=1e-4)


def test_entropy_bonus_of_two_tokens() -> None:
    model = policy()
    entropy = entropies(model, [3, 7, 9])
    rows = [TrainingRow([3, 7, 9], [0, 1, 2], advantage=[0, 0, 0])]
    metrics = expect(model, rows, config(entropy_weight=0.3), -0.3 * entropy.sum())
    assert metrics["entropy/turn1"] == pytest.approx(entropy[0].item(), rel=1e-5)
    assert metrics["entropy/turn2"] == pytest.approx(entropy[1].item(), rel=1e-5)


def test_components_keep_their_own_divisors() -> None:
    model, reference = policy(), policy(seed=1)
    first, second = full_logprobs(model, [3, 7, 9]), full_logprobs(model, [4, 4, 5, 6])
    ref = full_logprobs(reference, [3, 7, 9]).detach()
    kl = 0.5 * 0.1 * (first - ref).square().sum()
    loss = -second.sum() / 3 + (kl - (2.0 * (first - first.detach()).exp()).sum()) / 1
    rows = [
        TrainingRow([3, 7, 9], [0, 1, 1], advantage=[0, 2, 2], kl_weight=[0, 0.1, 0.1]),
        TrainingRow([4, 4, 5, 6], [0, 0, 0, 0], loss_weight=[1, 1, 1, 1]),
    ]
    metrics = expect(model, rows, UNCLIPPED, loss, reference=reference)
    assert metrics["tokens"] == 7
    assert metrics["padding_share"] == pytest.approx(1 / 8)


def test_cross_entropy_with_unit_weights_is_the_token_mean() -> None:
    model = policy()
    rows = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]
    padded = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (5 - len(row)) for row in rows])
    loss = model(input_ids=padded, labels=labels).loss
    streams = [TrainingRow(row, [0] * len(row), loss_weight=[1] * len(row)) for row in rows]
    expect(model, streams, config(tokens_per_microbatch=5), loss)


# ---- what must not matter ----


@pytest.mark.parametrize("normalize", ["sequence", "token"])
def test_a_split_batch_equals_the_whole_batch(normalize: str) -> None:
    model, reference, rows = policy(), policy(seed=1), two_turn_rows(13)
    results = []
    for budget, chunk in ((100_000, None), (60, None), (33, 7), (1, 3)):
        settings = config(
            normalize=normalize,
            tokens_per_microbatch=budget,
            logit_chunk=chunk,
            clip_high=0.2,
            entropy_weight=0.01,
        )
        learner = Learner(copy.deepcopy(model), settings, reference=reference)
        results.append(step_and_gradient(learner, learner.with_reference(rows)))
    whole, gradient = results[0]
    assert whole["clip_fraction"] > 0
    for metrics, split in results[1:]:
        assert metrics.keys() == whole.keys()
        for name in metrics.keys() - {"padding_share"}:
            assert metrics[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name
        for name, wanted in gradient.items():
            torch.testing.assert_close(split[name], wanted, rtol=1e-4, atol=1e-6)
    assert results[-1][0]["padding_share"] == 0


def test_gradient_checkpointing_changes_nothing() -> None:
    rows, gradients = two_turn_rows(5), []
    for on in (False, True):
        learner = Learner(policy(), config(gradient_checkpointing=on), reference=policy(1))
        gradients.append(step_and_gradient(learner, learner.with_reference(rows))[1])
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted)


def test_clipping_scales_the_gradient_to_its_limit() -> None:
    rows = [row for row in two_turn_rows(4) if not row.has_kl]
    free, gradient = step_and_gradient(Learner(policy(), UNCLIPPED), rows)
    metrics, clipped = step_and_gradient(Learner(policy(), config(max_grad_norm=0.01)), rows)
    assert metrics["grad_norm"] == pytest.approx(free["grad_norm"])
    assert free["grad_norm"] > 0.01
    scale = 0.01 / free["grad_norm"]
    for name, wanted in gradient.items():
        torch.testing.assert_close(clipped[name], wanted * scale, rtol=1e-3, atol=1e-8)


# ---- log-probabilities ----


def tiny(kind: str) -> PreTrainedModel:
    size = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    match kind:
        case "gemma2":  # sliding windows, and a cap low enough to bite
            settings = Gemma2Config(
                **size, head_dim=8, final_logit_softcapping=2.0, sliding_window=4
            )
            return seeded(Gemma2ForCausalLM, settings, spread=5.0)
        case "cohere":
            return seeded(CohereForCausalLM, CohereConfig(**size, logit_scale=0.5), spread=5.0)
        case "granite":
            return seeded(GraniteForCausalLM, GraniteConfig(**size, logits_scaling=3.0), spread=5.0)
    return policy()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "granite"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_chunked_head_equals_the_full_forward_pass(kind: str, chunk: int | None) -> None:
    model = tiny(kind)
    scorer = TokenScorer(model, temperature=0.7, logit_chunk=chunk)
    scorer.check_head()
    long, short = [1, 2, 3, 4, 5, 6, 7, 8, 9], [11, 12, 13]
    tokens = torch.tensor([long, short + [0] * 6])  # [2, 9]
    positions = torch.tensor([*range(8), 9, 10])
    logprob, _ = scorer(tokens, positions, torch.tensor(long[1:] + short[1:]))
    expected = torch.cat([full_logprobs(model, long, 0.7), full_logprobs(model, short, 0.7)])
    torch.testing.assert_close(logprob, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.autograd.grad(logprob.sum(), list(model.parameters()))
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    for got, want in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def test_an_unknown_head_is_refused() -> None:
    model = tiny("granite")
    model.config.logits_scaling = 1.0  # the model itself read 3.0 when it was built
    model.logits_scaling = 3.0
    original = model.forward

    def louder(*args: object, **kwargs: object) -> object:
        output = original(*args, **kwargs)
        output.logits = output.logits * 3.0
        return output

    model.forward = louder
    with pytest.raises(UserError, match=r"GraniteForCausalLM: .* differ from the model's own"):
        Learner(model, UNCLIPPED)


# ---- the reference ----


def lora(model: PreTrainedModel) -> torch.nn.Module:
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(model, settings)


def test_reference_of_an_adapter_is_its_base() -> None:
    torch.manual_seed(0)
    base = policy()
    learner = Learner(lora(copy.deepcopy(base)), UNCLIPPED)
    rows = [row for row in two_turn_rows(6) if row.has_kl]
    for row, done in zip(rows, learner.with_reference(rows), strict=True):
        expected = full_logprobs(base, row.tokens.tolist()).detach().numpy()
        assert done.ref_logprob is not None
        attempt = row.reinforced[1:]
        np.testing.assert_allclose(done.ref_logprob[1:][attempt], expected[attempt], atol=1e-5)
    metrics, gradient = step_and_gradient(learner, learner.with_reference(rows))
    assert abs(metrics["kl/turn1"]) > 1e-3
    assert gradient
    assert all("lora" in name for name in gradient)


def test_rows_without_kl_cost_no_reference_pass() -> None:
    rows = [TrainingRow([3, 7], [0, 1], advantage=[0, 1], kl_weight=[0, 0])]
    assert Learner(policy(), UNCLIPPED).with_reference(rows) == rows


def test_kl_without_a_reference_is_refused() -> None:
    learner, rows = Learner(policy(), UNCLIPPED), two_turn_rows(2)
    with pytest.raises(UserError, match="no reference"):
        learner.with_reference(rows)
    with pytest.raises(UserError, match="no ref_logprob"):
        learner.step(rows)


# ---- failures, schedule, precision ----


@pytest.mark.parametrize("cause", ["loss", "gradient"])
@pytest.mark.parametrize(("budget", "culprits"), [(8, 2), (100_000, 5)])
def test_a_non_finite_step_leaves_the_weights_alone(cause: str, budget: int, culprits: int) -> None:
    model = policy()
    learner = Learner(model, config(tokens_per_microbatch=budget))
    rows = [TrainingRow([1 + i, 2, 3, 4], [0, 1, 1, 1], advantage=[0, 1, 1, 1]) for i in range(5)]
    if cause == "loss":
        with torch.no_grad():
            model.get_input_embeddings().weight[23] = float("nan")
        rows[2] = TrainingRow([23, 2, 3, 4], [0, 1, 1, 1], advantage=[0, 1, 1, 1])
    else:  # the loss is finite, the squares of its gradient are not
        rows[2] = TrainingRow([3, 2, 3, 4], [0, 1, 1, 1], advantage=[0, 1e38, 0, 0])
    before = copy.deepcopy(model.state_dict())
    expected = "loss nan" if cause == "loss" else r"loss -[0-9.e+]+ with gradient norm inf"
    with pytest.raises(NonFiniteLoss, match=f"^{expected}") as caught:
        learner.step(rows)
    assert rows[2] in caught.value.rows
    assert len(caught.value.rows) == culprits
    assert caught.value.spoiled == (cause == "loss")
    assert learner.steps == 0
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_learner_goes_on_after_a_non_finite_loss() -> None:
    rows = [TrainingRow([3, 7, 9], [0, 1, 1], advantage=[0, 1, -1])]
    worst = [TrainingRow([3, 7], [0, 1], advantage=[0, 3e38])]
    learner, untroubled = Learner(policy(), UNCLIPPED), Learner(policy(), UNCLIPPED)
    with pytest.raises(NonFiniteLoss) as caught:
        learner.step(worst)
    assert caught.value.rows == worst
    _, gradient = step_and_gradient(learner, rows)
    _, wanted = step_and_gradient(untroubled, rows)
    for name, value in wanted.items():
        torch.testing.assert_close(gradient[name], value)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(UserError, match="no token to learn from"):
        Learner(policy(), UNCLIPPED).step([TrainingRow([1, 2], [0, 1])])


def test_learning_rate_schedules_by_hand() -> None:
    cosine = LearnerConfig(learning_rate=4.0, schedule="cosine", warmup_steps=2, total_steps=6)
    assert [cosine.learning_rate_at(i) for i in (0, 1, 2, 4, 6, 9)] == pytest.approx(
        [2.0, 4.0, 4.0, 2.0, 0.0, 0.0]
    )
    linear = LearnerConfig(learning_rate=4.0, schedule="linear", total_steps=4)
    assert [linear.learning_rate_at(i) for i in range(4)] == pytest.approx([4, 3, 2, 1])
    with pytest.raises(ValueError, match="needs total_steps"):
        LearnerConfig(schedule="linear")


def test_steps_raise_the_probability_of_what_is_rewarded() -> None:
    learner = Learner(policy(), LearnerConfig(learning_rate=3e-3))
    rows = [TrainingRow([3, 7, 9], [0, 1, 1], advantage=[0, 1, -1])]
    before = full_logprobs(learner.model, [3, 7, 9]).tolist()
    rates = [learner.step(rows)["learning_rate"] for _ in range(5)]
    after = full_logprobs(learner.model, [3, 7, 9]).tolist()
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert rates == [3e-3] * 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mixed_precision": "fp16"}, "use 'bf16'"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 2"),
        ({"distributed_type": DistributedType.FSDP}, "distributed_type FSDP"),
    ],
)
def test_accelerators_that_would_train_wrongly_are_refused(
    setting: dict[str, object], message: str
) -> None:
    usual = {
        "mixed_precision": "no",
        "gradient_accumulation_steps": 1,
        "distributed_type": DistributedType.NO,
    }
    with pytest.raises(UserError, match=message):
        Learner(policy(), UNCLIPPED, accelerator=SimpleNamespace(**usual | setting))


def test_bf16_computes_low_and_keeps_weights_high() -> None:
    AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        model, rows = policy(), two_turn_rows(6)
        learner = Learner(model, UNCLIPPED, accelerator=accelerator, reference=policy())
        metrics, gradient = step_and_gradient(learner, learner.with_reference(rows))
    finally:
        AcceleratorState._reset_state()
    exact = Learner(policy(), UNCLIPPED, reference=policy())
    wanted, _ = step_and_gradient(exact, exact.with_reference(rows))
    assert metrics["loss"] == pytest.approx(wanted["loss"], rel=0.1)
    assert metrics["loss"] != wanted["loss"]
    assert metrics["kl_k3/turn1"] == 0  # the same rounding in policy and reference
    assert {value.dtype for value in gradient.values()} == {torch.float32}


# ---- weights that are of no more use ----


def test_an_update_that_spoils_the_weights_is_told_with_its_rows() -> None:
    rows = [TrainingRow([3, 7, 9], [0, 1, 1], advantage=[0, 1, -1])]
    learner = Learner(policy(), config(learning_rate=1e30))
    with pytest.raises(NonFiniteLoss, match="has spoiled the weights") as caught:
        learner.step(rows)
    assert caught.value.spoiled
    assert caught.value.rows == rows


def test_weights_that_are_not_finite_are_named() -> None:
    model = policy()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(
        UserError, match=r"1 of its weight tensors .* the first is model\.norm\.weig"
    ):
        Learner(model, UNCLIPPED)


def test_logits_that_overflow_are_not_blamed_on_the_architecture() -> None:
    model = policy()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(1e38)
        model.model.norm.weight.fill_(1e30)
    with pytest.raises(UserError, match="although all weights are finite"):
        Learner(model, UNCLIPPED)
