"""Memory of a step: attention in blocks, micro-batches that fit, and allocations that fail."""

import copy
import re
import resource
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import eager_attention_forward

from redraft.errors import UserError
from redraft.learning import learner as learner_module
from redraft.learning.attention import blockwise_attention
from redraft.learning.config import LearnerConfig
from redraft.learning.frozen import narrow_frozen
from redraft.learning.learner import Learner
from redraft.learning.logprobs import TokenScorer
from redraft.learning.memory import Footprint, choose, is_out_of_memory, measure
from redraft.learning.preference_config import PreferenceConfig
from redraft.system import free_memory
from tiny_models import seeded, tiny_llama
from training_rows import VOCABULARY, preference_pairs, step_and_gradient, two_turn_rows

CPU = torch.device("cpu")
UNCLIPPED = LearnerConfig(max_grad_norm=None)


def policy(seed: int = 0) -> PreTrainedModel:
    return tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=seed, spread=3.0)


# ---- attention in blocks ----


@pytest.mark.parametrize("time", [1, 128, 300])
def test_blocks_of_attention_equal_plain_attention(time: int) -> None:
    torch.manual_seed(0)
    layer = SimpleNamespace(num_key_value_groups=3, training=True)
    shapes = [(3, 6, time, 8), (3, 2, time, 8), (3, 2, time, 8)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    causal = torch.full((time, time), float("-inf")).triu(1)[None, None]
    plain, _ = eager_attention_forward(layer, *inputs, causal, scaling=0.3)
    blocks, _ = blockwise_attention(layer, *inputs, None, scaling=0.3)
    torch.testing.assert_close(blocks, plain)
    weights = torch.randn_like(plain)
    wanted = torch.autograd.grad((plain * weights).sum(), inputs)
    got = torch.autograd.grad((blocks * weights).sum(), inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_activations_grow_with_the_length_of_rows_and_not_its_square() -> None:
    found = measure(TokenScorer(policy(), 1.0, None), 7.0, CPU, 512)
    assert found.square == 0
    assert found.linear > 4 * 16 * 10  # ten vectors of the model's width at the very least
    windows = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=4,
        attn_implementation="eager", pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with_scores = measure(TokenScorer(seeded(Gemma2ForCausalLM, windows), 1.0, None), 0.0, CPU, 512)
    assert with_scores.square > 4 * 2 * 2  # the scores of two heads in two layers


# ---- micro-batches that fit ----

BILLION = Footprint(missing=6e9, fixed=1e9, linear=1e6, square=0, inputs=1.01e5, layers=10)
"""A step that needs 7 GB and 1 MB for every token, or 0.2 MB with recomputed activations."""


@pytest.mark.parametrize(
    ("free", "tokens", "checkpointing"),
    [
        (20e9, 1024, False),  # 16 GB hold 9,000 tokens; no more than 1,024 are asked for
        (9.5e9, 512, False),  # 7.6 GB: 600 tokens
        (9e9, 512, True),  # 7.2 GB: 200 tokens, or almost 1,000 with recomputed activations
        (8.8e9, 128, True),  # 7.04 GB: 40 tokens, or 200 with recomputed activations
    ],
)
def test_micro_batches_are_as_large_as_memory_and_use_allow(
    free: float, tokens: int, checkpointing: bool
) -> None:
    found = choose(BILLION, free, 100, LearnerConfig(), 1024)
    assert (found.tokens, found.checkpointing) == (tokens, checkpointing)


def test_what_the_configuration_says_is_done() -> None:
    config = LearnerConfig(tokens_per_microbatch=77, gradient_checkpointing=False)
    assert choose(BILLION, 1e9, 100, config, 1024).tokens == 77
    config = LearnerConfig(gradient_checkpointing=True)
    assert choose(BILLION, 20e9, 100, config, 1024).checkpointing


@pytest.mark.parametrize(
    ("free", "longest", "remedy"),
    [(5e9, 100, "--lora-rank 16 needs about 1.3 GB"), (1e9, 100, "train a smaller model"),
     (9e9, 3000, "rows of 995 tokens fit: lower --max-tokens")],
)  # fmt: skip
def test_too_little_memory_is_said_with_what_would_fit(
    free: float, longest: int, remedy: str
) -> None:
    with pytest.raises(UserError, match=re.escape(remedy)) as caught:
        choose(BILLION, free, longest, LearnerConfig(), 1024)
    assert f"{free / 1e9:.1f} GB are free" in str(caught.value)


def test_a_step_without_memory_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "free_memory", lambda device: 1000)
    model = policy()
    with pytest.raises(UserError, match="needs about"):
        Learner(model, UNCLIPPED, reference=policy(1)).with_reference(two_turn_rows(3))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_limit_of_address_space_counts() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**29, hard))
    try:
        assert 2**28 < free_memory(CPU) <= 2**29
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ---- allocations that fail ----


def test_failed_allocations_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


class Limited:
    """Fails, as an allocation does, where more than `most` padded tokens go through the model."""

    def __init__(self, model: PreTrainedModel, most: int, where: str) -> None:
        self.most, self.where = most, where
        self.sizes: list[int] = []
        model.get_decoder().register_forward_hook(self._hook, with_kwargs=True)

    def _hook(self, module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        size = named["input_ids"].numel()
        self.sizes.append(size)
        if size <= self.most or not torch.is_grad_enabled():
            return
        if self.where == "forward":
            self._fail()
        output[0].register_hook(lambda gradient: self._fail())

    def _fail(self) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ...")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_failed_allocation_halves_micro_batches_and_changes_nothing_else(where: str) -> None:
    rows, notes = two_turn_rows(13), []
    config = LearnerConfig(max_grad_norm=None, tokens_per_microbatch=80)
    whole = Learner(policy(), config, reference=policy(1))
    rows = whole.with_reference(rows)
    wanted, gradient = step_and_gradient(whole, rows)
    model = policy()
    learner = Learner(model, config, note=notes.append)
    limited = Limited(model, 50, where)
    metrics, halved = step_and_gradient(learner, rows)
    assert notes == ["not enough memory: continues with micro-batches of 40 tokens instead of 80"]
    assert max(limited.sizes) > 50
    for name in metrics.keys() - {"padding_share"}:
        assert metrics[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name
    for name, value in gradient.items():
        torch.testing.assert_close(halved[name], value, rtol=1e-4, atol=1e-6)
    step_and_gradient(learner, rows)
    assert len(notes) == 1  # the smaller size stays


def test_pairs_are_halved_too() -> None:
    notes: list[str] = []
    pairs, preference = preference_pairs(8), PreferenceConfig(loss="simpo")
    config = LearnerConfig(max_grad_norm=None, tokens_per_microbatch=100)
    wanted = Learner(policy(), config).preference_step(pairs, preference)
    model = policy()
    learner = Learner(model, config, note=notes.append)
    Limited(model, 55, "backward")
    assert learner.preference_step(pairs, preference)["loss"] == pytest.approx(wanted["loss"])
    assert len(notes) == 1


def test_rows_that_do_not_fit_alone_are_computed_again_and_then_refused() -> None:
    notes: list[str] = []
    model, rows = policy(), two_turn_rows(4)
    config = LearnerConfig(tokens_per_microbatch=40)
    learner = Learner(model, config, reference=policy(1), note=notes.append)
    rows = learner.with_reference(rows)
    before = copy.deepcopy(model.state_dict())
    Limited(model, 0, "forward")
    with pytest.raises(UserError, match=r"not enough memory for one row of .*--lora-rank 16"):
        learner.step(rows)
    assert [note.split("micro-batches ")[1] for note in notes] == [
        "of 20 tokens instead of 40",  # one of the longest rows
        "with recomputed activations",
    ]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


# ---- frozen weights in low precision ----


@pytest.fixture
def bf16() -> Iterator[Callable[[], Accelerator]]:
    def make() -> Accelerator:
        AcceleratorState._reset_state()
        return Accelerator(cpu=True, mixed_precision="bf16")

    yield make
    AcceleratorState._reset_state()


def kl(model: Any, reference: PreTrainedModel | None, accelerator: Accelerator) -> list[Tensor]:
    """Policy's minus reference's log-probabilities on rows with a KL, and the gradients' norm."""
    learner = Learner(model, UNCLIPPED, accelerator=accelerator, reference=reference)
    rows = learner.with_reference([row for row in two_turn_rows(8) if row.has_kl])
    metrics, _ = step_and_gradient(learner, rows)
    return [metrics["kl_k3/turn1"], metrics["kl_k3/turn2"], metrics["grad_norm"], metrics["loss"]]


@pytest.mark.parametrize("published", ["float32", "bfloat16"])
def test_a_reference_in_bf16_equals_the_policy(
    published: str, bf16: Callable[[], Accelerator]
) -> None:
    model = policy()
    if published == "bfloat16":
        model.load_state_dict({n: w.bfloat16().float() for n, w in model.state_dict().items()})
    reference = copy.deepcopy(model).requires_grad_(False)
    narrow_frozen(reference, torch.bfloat16)
    embedding = reference.get_input_embeddings().weight.dtype
    assert embedding == getattr(torch, published)  # narrow only where no value changes
    assert {
        layer.weight.dtype for layer in reference.modules() if isinstance(layer, nn.Linear)
    } == {torch.bfloat16}
    assert kl(model, reference, bf16())[:2] == [0, 0]


def test_adapters_on_a_bf16_base_compute_what_they_did(bf16: Callable[[], Accelerator]) -> None:
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    found = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        model = get_peft_model(policy(), settings)
        narrow_frozen(model, dtype)
        found.append(kl(model, None, bf16()))
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert found[0] == found[1]
    assert found[0][0] > 0


def test_bf16_micro_batches_share_the_cast_weights(bf16: Callable[[], Accelerator]) -> None:
    gradients = []
    for tokens in (10_000, 30):
        config = LearnerConfig(max_grad_norm=None, tokens_per_microbatch=tokens)
        learner = Learner(policy(), config, accelerator=bf16(), reference=policy(1))
        gradients.append(step_and_gradient(learner, learner.with_reference(two_turn_rows(9)))[1])
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, rtol=0.1, atol=0.02)
