"""The local engine against plain forward passes, `generate`, and itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from redraft.engines.base import Reply, Sample, Sampling
from redraft.engines.local import LocalEngine
from redraft.errors import UserError
from tiny_models import seeded, tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft on transformers 5
)

TOKENIZER = tiny_tokenizer()
VOCABULARY = len(TOKENIZER)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
STOPS = tuple(range(20, 26))  # 6 of 101 tokens: attempts of very different lengths


def ids(text: str) -> list[int]:
    return TOKENIZER(text).input_ids


PROMPTS = [
    ids(text) for text in ("2+2=", "sort: pear fig apple ->", "x", "the longest of them all")
]
GROUPED = [prompt for prompt in PROMPTS for _ in range(4)]


def gemma() -> PreTrainedModel:
    config = Gemma3TextConfig(
        **SHAPE,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    return seeded(Gemma3ForCausalLM, config)


def lora() -> PreTrainedModel:
    model = get_peft_model(
        tiny_llama(), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    return model.eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": tiny_llama,
    "qwen2": lambda: seeded(Qwen2ForCausalLM, Qwen2Config(**SHAPE)),
    "mistral, window 7": lambda: seeded(
        MistralForCausalLM, MistralConfig(**SHAPE, head_dim=8, sliding_window=7)
    ),
    "gemma3, mixed windows": gemma,
    "gpt2": lambda: seeded(
        GPT2LMHeadModel,
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    ),
    "lora": lora,
}


def bridge(row: int, turn: int) -> list[int]:
    """Tokens between attempts, of 1 to 7 tokens."""
    return ids("again!?"[: 1 + (row + 3 * turn) % 7])


def again(turns: int) -> Reply:
    def reply(row: int, samples: list[Sample]) -> list[int] | None:
        return bridge(row, len(samples)) if len(samples) < turns else None

    return reply


@torch.no_grad()
def plain_logprobs(
    model: PreTrainedModel, row: int, prompt: Sequence[int], samples: Sequence[Sample]
) -> list[list[float]]:
    """Log-probability of every sampled token by one forward pass over the whole dialogue."""
    tokens, starts = list(prompt), []
    for turn, sample in enumerate(samples):
        tokens += bridge(row, turn) if turn else []
        starts.append(len(tokens))
        tokens += sample.tokens
    logprobs = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return [
        [logprobs[start + i - 1, token].item() for i, token in enumerate(sample.tokens)]
        for start, sample in zip(starts, samples, strict=True)
    ]


def only_tokens(played: list[list[Sample]]) -> list[list[list[int]]]:
    return [[sample.tokens for sample in row] for row in played]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("max_rows", [5, None])
def test_logprobs_equal_a_plain_forward_pass_in_every_turn(name: str, max_rows: int | None) -> None:
    model = MODELS[name]()
    engine = LocalEngine(model, TOKENIZER, max_rows=max_rows, prefill_tokens=40)
    sampling = Sampling(max_tokens=24, stop_token_ids=STOPS, seed=4)
    played = engine.converse(GROUPED, again(3), sampling)
    assert [len(samples) for samples in played] == [3] * len(GROUPED)
    for row, (prompt, samples) in enumerate(zip(GROUPED, played, strict=True)):
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=1e-4)


def test_eager_attention_gives_the_same_samples() -> None:
    sampling = Sampling(max_tokens=20, stop_token_ids=STOPS)
    model = tiny_llama()
    fused = LocalEngine(model, TOKENIZER).converse(GROUPED, again(2), sampling)
    model.set_attn_implementation("eager")
    assert only_tokens(LocalEngine(model, TOKENIZER).converse(GROUPED, again(2), sampling)) == (
        only_tokens(fused)
    )


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_generate_token_for_token(name: str) -> None:
    model = MODELS[name]()
    sampling = Sampling(temperature=0, max_tokens=16, stop_token_ids=STOPS)
    played = LocalEngine(model, TOKENIZER).converse(PROMPTS, again(2), sampling)
    for row, (prompt, samples) in enumerate(zip(PROMPTS, played, strict=True)):
        context = list(prompt)
        for turn, sample in enumerate(samples):
            context += bridge(row, turn) if turn else []
            output = model.generate(
                input_ids=torch.tensor([context]),
                attention_mask=torch.ones(1, len(context), dtype=torch.long),
                do_sample=False,
                max_new_tokens=16,
                eos_token_id=list(STOPS),
                pad_token_id=0,
            )
            assert sample.tokens == output[0, len(context) :].tolist()
            context += sample.tokens
        plain = plain_logprobs(model, row, prompt, samples)
        assert [sample.logprobs for sample in samples] == [
            pytest.approx(values, abs=1e-4) for values in plain
        ]


def test_sampled_frequencies_match_the_models_distribution() -> None:
    model = tiny_llama(vocab_size=24, spread=0.5)
    prompt = [3, 7, 11]
    with torch.no_grad():
        probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    played = LocalEngine(model, TOKENIZER).converse(
        [prompt] * 3000, lambda *_: None, Sampling(max_tokens=1)
    )
    counts = torch.bincount(torch.tensor([row[0].tokens[0] for row in played]), minlength=24)
    expected = probabilities.double() / probabilities.double().sum() * 3000
    assert expected.min() >= 5  # what the test's approximation needs
    assert expected.max() > 5 * expected.min()  # far from uniform
    assert stats.chisquare(counts, expected).pvalue > 0.001


@pytest.mark.parametrize(
    "sampling",
    [Sampling(seed=3), Sampling(seed=3, temperature=0.8, top_p=0.9, top_k=20)],
    ids=["plain", "filtered"],
)
def test_samples_do_not_depend_on_the_batch(sampling: Sampling) -> None:
    model = tiny_llama()
    sampling = replace(sampling, max_tokens=24, stop_token_ids=STOPS)
    shuffled = [GROUPED[(7 * row) % len(GROUPED)] for row in range(len(GROUPED))]
    played = [
        only_tokens(
            LocalEngine(model, TOKENIZER, max_rows=rows).converse(shuffled, again(3), sampling)
        )
        for rows in (1, 3, 64)
    ]
    assert played[0] == played[1] == played[2]
    other = replace(sampling, seed=4)
    assert (
        only_tokens(LocalEngine(model, TOKENIZER).converse(shuffled, again(3), other))
        != (played[0])
    )


@pytest.mark.parametrize("max_rows", [2, 3, 64])
def test_equal_prompts_are_computed_once(max_rows: int) -> None:
    model = tiny_llama()
    computed: list[tuple[int, ...]] = []  # every row of every pass over more than one token

    def record(module: object, arguments: object, named: dict[str, torch.Tensor]) -> None:
        if named["input_ids"].shape[1] > 1:
            computed.extend(map(tuple, named["input_ids"].tolist()))

    model.register_forward_pre_hook(record, with_kwargs=True)
    prompts = [prompt for prompt in PROMPTS if len(prompt) > 1]
    LocalEngine(model, TOKENIZER, max_rows=max_rows).converse(
        prompts * 4, lambda *_: None, Sampling(max_tokens=8, stop_token_ids=STOPS)
    )
    for prompt in prompts:
        inner = tuple(prompt[:-1])  # the last token is computed with the first decoding step
        assert sum(row[: len(inner)] == inner for row in computed) == 1
    assert len(computed) == len(prompts)


def test_a_later_turn_computes_only_what_is_new() -> None:
    model = tiny_llama()
    computed = 0

    def record(module: object, arguments: object, named: dict[str, torch.Tensor]) -> None:
        nonlocal computed
        computed += named["input_ids"].numel()

    model.register_forward_pre_hook(record, with_kwargs=True)
    prompt = PROMPTS[1]
    LocalEngine(model, TOKENIZER).converse(
        [prompt] * 2, lambda row, s: [5, 6, 7] if len(s) < 3 else None, Sampling(max_tokens=10)
    )
    # Prompt once, but for its last token; then per row 3 times 10 steps, and before the second and
    # third of them the pending token with all but the last token of the reply.
    assert computed == (len(prompt) - 1) + 2 * (3 * 10 + 2 * 3)


def test_finished_rows_leave_the_batch() -> None:
    model = tiny_llama()
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda module, arguments, named: widths.append(named["input_ids"].shape[0]),
        with_kwargs=True,
    )
    played = LocalEngine(model, TOKENIZER).converse(
        GROUPED, lambda *_: None, Sampling(max_tokens=40, stop_token_ids=STOPS)
    )
    lengths = [len(row[0].tokens) for row in played]
    steps = [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert len(set(lengths)) > 5
    assert widths[-len(steps) :] == steps


def test_attempts_end_at_stop_tokens_or_at_the_limit() -> None:
    played = LocalEngine(tiny_llama(), TOKENIZER).converse(
        GROUPED, again(2), Sampling(max_tokens=12, stop_token_ids=STOPS)
    )
    finishes = set()
    for sample in (sample for row in played for sample in row):
        finishes.add(sample.finish)
        assert not set(sample.tokens[:-1]) & set(STOPS)
        assert (sample.finish == "stop") == (sample.tokens[-1] in STOPS)
        assert len(sample.tokens) == 12 or sample.finish == "stop"
        spoken = sample.tokens[:-1] if sample.finish == "stop" else sample.tokens
        assert sample.text == TOKENIZER.decode(spoken, skip_special_tokens=True)
        assert len(sample.logprobs) == len(sample.tokens)
    assert finishes == {"stop", "length"}


def test_attempts_end_at_stop_strings() -> None:
    model = tiny_llama()
    free = LocalEngine(model, TOKENIZER).converse(GROUPED, again(1), Sampling(max_tokens=30))
    # A pair of characters from the middle of an attempt, and one that never comes up.
    stop = next(
        row[0].text[10:12]
        for row in free
        if len(row[0].text) > 12 and row[0].text.find(row[0].text[10:12]) == 10
    )
    stopped = LocalEngine(model, TOKENIZER).converse(
        GROUPED, again(2), Sampling(max_tokens=30, stop=("never comes up", stop))
    )
    assert any(row[0].finish == "stop" for row in stopped)
    for before, after in zip(free, stopped, strict=True):
        place = before[0].text.find(stop)
        assert after[0].finish == ("stop" if place >= 0 else "length")
        assert after[0].tokens == before[0].tokens[: len(after[0].tokens)]
        assert after[0].text == (before[0].text[:place] if place >= 0 else before[0].text)
        if place >= 0:  # the token that completed the string is the last one kept
            assert TOKENIZER.decode(after[0].tokens, skip_special_tokens=True).endswith(stop)


def test_five_turns_and_rows_that_end_at_different_ones() -> None:
    model = tiny_llama()
    turns = [1 + row % 5 for row in range(len(GROUPED))]
    seen: list[tuple[int, int]] = []
    done: list[int] = []

    def reply(row: int, samples: list[Sample]) -> list[int] | None:
        seen.append((row, len(samples)))
        return bridge(row, len(samples)) if len(samples) < turns[row] else None

    played = LocalEngine(model, TOKENIZER, max_rows=6).converse(
        GROUPED, reply, Sampling(max_tokens=10, stop_token_ids=STOPS), done.append
    )
    assert [len(samples) for samples in played] == turns
    assert sorted(seen) == [(row, t + 1) for row, n in enumerate(turns) for t in range(n)]
    assert sum(done) == sum(turns)
    for row, (prompt, samples) in enumerate(zip(GROUPED, played, strict=True)):
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=1e-4)


def test_an_empty_reply_goes_on_where_the_attempt_ended() -> None:
    model = tiny_llama()
    engine = LocalEngine(model, TOKENIZER)
    greedy = Sampling(temperature=0, max_tokens=6)
    whole = engine.converse([PROMPTS[0]], lambda *_: None, replace(greedy, max_tokens=12))
    parts = engine.converse([PROMPTS[0]], lambda row, s: [] if len(s) < 2 else None, greedy)
    assert parts[0][0].tokens + parts[0][1].tokens == whole[0][0].tokens


def test_new_weights_count_at_the_next_call() -> None:
    model = tiny_llama()
    engine = LocalEngine(model, TOKENIZER)
    sampling = Sampling(max_tokens=8)
    before = engine.converse(PROMPTS, again(2), sampling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    after = engine.converse(PROMPTS, again(2), sampling)
    assert only_tokens(after) != only_tokens(before)
    plain = plain_logprobs(model, 0, PROMPTS[0], after[0])
    assert after[0][1].logprobs == pytest.approx(plain[1], abs=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_llama()
    model.train()
    model.lm_head.eval()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    engine = LocalEngine(model, TOKENIZER)
    played = engine.converse(PROMPTS, again(1), Sampling(max_tokens=8))
    assert model.training
    assert model.model.layers[0].self_attn.training
    assert not model.lm_head.training
    assert model.config._attn_implementation == "sdpa"
    loss = model(torch.tensor([PROMPTS[0]]), labels=torch.tensor([PROMPTS[0]])).loss
    loss.backward()
    model.eval()  # dropout was off during rollout
    assert played[0][0].logprobs == pytest.approx(
        plain_logprobs(model, 0, PROMPTS[0], played[0])[0], abs=1e-4
    )


def test_half_precision_models_sample_from_float32_distributions() -> None:
    model = tiny_llama().to(torch.bfloat16)
    played = LocalEngine(model, TOKENIZER).converse(PROMPTS, again(2), Sampling(max_tokens=8))
    for row, (prompt, samples) in enumerate(zip(PROMPTS, played, strict=True)):
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=0.15)


def test_no_prompts_no_samples() -> None:
    assert LocalEngine(tiny_llama(), TOKENIZER).converse([], again(2), Sampling()) == []


@pytest.mark.parametrize(
    ("prompts", "turns", "sampling", "message"),
    [
        ([[]], 1, Sampling(), "prompt 0 has no tokens"),
        ([[1], [1] * 30], 1, Sampling(max_tokens=40), "a context of 30 .* 40 .* of 64"),
        ([[1] * 30], 3, Sampling(max_tokens=20), "a context of .* window of 64; lower"),
        ([[1]], 1, Sampling(temperature=-1), "temperature is -1"),
        ([[1]], 1, Sampling(top_p=0), "top_p is 0"),
        ([[1]], 1, Sampling(top_k=-1), "top_k is -1"),
        ([[1]], 1, Sampling(max_tokens=0), "max_tokens is 0"),
        ([[1]], 1, Sampling(stop=("",)), "stop strings is empty"),
    ],
)
def test_bad_requests_are_refused(
    prompts: list[list[int]], turns: int, sampling: Sampling, message: str
) -> None:
    engine = LocalEngine(tiny_llama(max_position_embeddings=64), TOKENIZER)
    with pytest.raises(UserError, match=message):
        engine.converse(prompts, again(turns), sampling)


def test_diverged_weights_are_reported() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    for sampling in (Sampling(max_tokens=4), Sampling(max_tokens=4, top_k=5)):
        with pytest.raises(UserError, match="not finite"):
            LocalEngine(model, TOKENIZER).converse(PROMPTS, again(1), sampling)


def test_models_that_cannot_be_continued_are_refused() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(UserError, match="mamba"):
        LocalEngine(mamba, TOKENIZER)
    hybrid = Qwen3NextForCausalLM(
        Qwen3NextConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            layer_types=["linear_attention", "full_attention"],
            num_experts=2,
            moe_intermediate_size=4,
            shared_expert_intermediate_size=4,
        )
    )
    with pytest.raises(UserError, match="qwen3_next"):
        LocalEngine(hybrid, TOKENIZER)
    flexible: LlamaForCausalLM = tiny_llama()
    flexible.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="attn_implementation='sdpa'"):
        LocalEngine(flexible, TOKENIZER)
    with pytest.raises(UserError, match="max_rows is 0"):
        LocalEngine(tiny_llama(), TOKENIZER, max_rows=0)
