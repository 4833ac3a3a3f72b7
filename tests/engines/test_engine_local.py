"""The local engine against plain forward passes, `generate`, and itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
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

from redraft.engines import Failed, Reply, Request, Response, Sampling
from redraft.engines.attention import RowCache
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.types import Message
from tiny_models import CHAT_TEMPLATE, seeded, tiny_llama, tiny_tokenizer

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
STOPS = [2, *range(20, 26)]  # 7 of 101 tokens: responses of very different lengths
TEMPLATE = ChatTemplate(TOKENIZER, generation_config=GenerationConfig(eos_token_id=STOPS))


def endless() -> ChatTemplate:
    """A template with which only `max_tokens` ends a response."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    return ChatTemplate(tokenizer, chat_template=template, stop=["never comes up"])


ENDLESS = endless()


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
    """Tokens between responses, of 1 to 7 tokens."""
    return ids("again!?"[: 1 + (row + 3 * turn) % 7])


def again(turns: int | Sequence[int]) -> Reply:
    """Asks for that many responses in all; a list gives a number for each row."""
    seen: dict[int, int] = {}

    def reply(row: int, response: Response) -> list[int] | None:
        seen[row] = seen.get(row, 0) + 1
        wanted = turns if isinstance(turns, int) else turns[row]
        return bridge(row, seen[row]) if seen[row] < wanted else None

    return reply


def requests_for(prompts: Sequence[Sequence[int]]) -> list[Request]:
    """Requests of one problem, numbered as its samples."""
    return [Request([], prompt, "p", row) for row, prompt in enumerate(prompts)]


def respond(
    engine: LocalEngine,
    requests: Sequence[Request],
    sampling: Sampling,
    reply: Reply | None = None,
) -> list[list[Response]]:
    """The responses to `requests`, none of which fails."""
    rows = engine.generate(requests, sampling, reply)
    responses = [[one for one in row if isinstance(one, Response)] for row in rows]
    assert responses == rows
    return responses


def generate(
    engine: LocalEngine,
    prompts: Sequence[Sequence[int]],
    reply: Reply | None,
    sampling: Sampling,
) -> list[list[Response]]:
    """The responses to prompts that are samples of one problem."""
    return respond(engine, requests_for(prompts), sampling, reply)


@torch.no_grad()
def plain_logprobs(
    model: PreTrainedModel, row: int, prompt: Sequence[int], samples: Sequence[Response]
) -> list[list[float]]:
    """Log-probability of every sampled token by one forward pass over the whole conversation."""
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


def only_tokens(played: list[list[Response]]) -> list[list[list[int]]]:
    return [[sample.tokens for sample in row] for row in played]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("max_rows", [5, None])
def test_logprobs_equal_a_plain_forward_pass_in_every_turn(name: str, max_rows: int | None) -> None:
    model = MODELS[name]()
    engine = LocalEngine(model, TEMPLATE, max_rows=max_rows, prefill_tokens=40)
    sampling = Sampling(max_tokens=24, seed=4)
    played = generate(engine, GROUPED, again(3), sampling)
    assert [len(samples) for samples in played] == [3] * len(GROUPED)
    for row, (prompt, samples) in enumerate(zip(GROUPED, played, strict=True)):
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=1e-4)


def test_eager_attention_gives_the_same_samples() -> None:
    sampling = Sampling(max_tokens=20)
    model = tiny_llama()
    fused = generate(LocalEngine(model, TEMPLATE), GROUPED, again(2), sampling)
    model.set_attn_implementation("eager")
    assert only_tokens(generate(LocalEngine(model, TEMPLATE), GROUPED, again(2), sampling)) == (
        only_tokens(fused)
    )


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_generate_token_for_token(name: str) -> None:
    model = MODELS[name]()
    sampling = Sampling(temperature=0, max_tokens=16)
    played = generate(LocalEngine(model, TEMPLATE), PROMPTS, again(2), sampling)
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
    played = generate(LocalEngine(model, TEMPLATE), [prompt] * 3000, None, Sampling(max_tokens=1))
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
    sampling = replace(sampling, max_tokens=12)
    shuffled = [GROUPED[(7 * row) % len(GROUPED)] for row in range(len(GROUPED))]
    played = [
        only_tokens(
            generate(LocalEngine(model, TEMPLATE, max_rows=rows), shuffled, again(3), sampling)
        )
        for rows in (1, 3, 64)
    ]
    assert played[0] == played[1] == played[2]
    other = replace(sampling, seed=4)
    assert (
        only_tokens(generate(LocalEngine(model, TEMPLATE), shuffled, again(3), other))
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
    generate(
        LocalEngine(model, TEMPLATE, max_rows=max_rows), prompts * 4, None, Sampling(max_tokens=8)
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
    replies = count()
    generate(
        LocalEngine(model, ENDLESS),
        [prompt] * 2,
        lambda row, response: [5, 6, 7] if next(replies) < 2 * 2 else None,
        Sampling(max_tokens=10),
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
    played = generate(LocalEngine(model, TEMPLATE), GROUPED, None, Sampling(max_tokens=40))
    lengths = [len(row[0].tokens) for row in played]
    steps = [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert len(set(lengths)) > 5
    assert widths[-len(steps) :] == steps


def test_responses_end_at_stop_tokens_or_at_the_limit() -> None:
    played = generate(
        LocalEngine(tiny_llama(), TEMPLATE), GROUPED, again(2), Sampling(max_tokens=12)
    )
    finishes = set()
    for sample in (sample for row in played for sample in row):
        finishes.add(sample.finish)
        assert not set(sample.tokens[:-1]) & set(STOPS)
        assert (sample.finish == "stop") == (sample.tokens[-1] in STOPS)
        assert len(sample.tokens) == 12 or sample.finish == "stop"
        spoken = sample.tokens[:-1] if sample.finish == "stop" else sample.tokens
        assert sample.text == TOKENIZER.decode(spoken, skip_special_tokens=False)
        assert len(sample.logprobs) == len(sample.tokens)
    assert finishes == {"stop", "length"}


def test_responses_end_at_stop_strings() -> None:
    model = tiny_llama()
    free = generate(LocalEngine(model, ENDLESS), GROUPED, again(1), Sampling(max_tokens=30))
    # A pair of characters from the middle of a response.
    stop = next(
        row[0].text[10:12]
        for row in free
        if len(row[0].text) > 12 and row[0].text.find(row[0].text[10:12]) == 10
    )
    stopped = generate(
        LocalEngine(model, ENDLESS),
        GROUPED,
        again(2),
        Sampling(max_tokens=30, stop=(stop,)),
    )
    assert any(row[0].finish == "stop" for row in stopped)
    for before, after in zip(free, stopped, strict=True):
        place = before[0].text.find(stop)
        assert after[0].finish == ("stop" if place >= 0 else "length")
        assert after[0].tokens == before[0].tokens[: len(after[0].tokens)]
        assert after[0].text == (before[0].text[:place] if place >= 0 else before[0].text)
        if place >= 0:  # the token that completed the string is the last one kept
            assert TOKENIZER.decode(after[0].tokens, skip_special_tokens=False).endswith(stop)


def test_five_turns_and_rows_that_end_at_different_ones() -> None:
    model = tiny_llama()
    turns = [1 + row % 5 for row in range(len(GROUPED))]
    seen: list[int] = []
    asked = again(turns)

    def reply(row: int, response: Response) -> Sequence[int] | None:
        seen.append(row)
        return asked(row, response)

    played = generate(
        LocalEngine(model, TEMPLATE, max_rows=6), GROUPED, reply, Sampling(max_tokens=10)
    )
    assert [len(responses) for responses in played] == turns
    assert sorted(seen) == [row for row, number in enumerate(turns) for _ in range(number)]
    for row, (prompt, responses) in enumerate(zip(GROUPED, played, strict=True)):
        for response, plain in zip(
            responses, plain_logprobs(model, row, prompt, responses), strict=True
        ):
            assert response.logprobs == pytest.approx(plain, abs=1e-4)


def test_progress_is_reported_while_responses_are_under_way() -> None:
    calls: list[tuple[int, int]] = []
    rows = LocalEngine(tiny_llama(), ENDLESS, max_rows=2).generate(
        requests_for(PROMPTS),
        Sampling(max_tokens=40),
        watch=lambda tokens, responses: calls.append((tokens, responses)),
    )
    assert len(rows) == len(PROMPTS) == 4
    # Two rows at a time; every 16 steps, and when two of the responses are finished.
    assert calls == [(32, 0), (32, 0), (16, 2), (16, 0), (32, 0), (32, 2)]


def test_responses_are_followed_and_end_when_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redraft.engines.batch._FOLLOW_SECONDS", 0.0)
    engine = LocalEngine(tiny_llama(), ENDLESS, max_rows=2)
    requests, sampling = requests_for(PROMPTS), Sampling(max_tokens=12)
    undisturbed = [one.text for [one] in engine.generate(requests, sampling)]
    texts: dict[int, list[str]] = {}
    counts: list[int] = []

    def follow(row: int, read: Callable[[], str]) -> bool:
        texts.setdefault(row, []).append(read())
        return row != 1 or len(texts[1]) < 3

    rows = engine.generate(requests, sampling, watch=lambda n, _: counts.append(n), follow=follow)
    for row, [response] in enumerate(rows):
        if row == 1:
            assert response == Failed("nobody waits for the response any more")
            assert len(texts[row]) == 3
        else:
            assert isinstance(response, Response)
            assert response.text == undisturbed[row]
            assert len(texts[row]) == 11  # after every token but the last
        assert all(undisturbed[row].startswith(text) for text in texts[row])
        assert texts[row][-1] > texts[row][0]
    assert sum(counts) == 3 * 12 + 3


def test_an_empty_reply_goes_on_where_the_response_ended() -> None:
    model = tiny_llama()
    engine = LocalEngine(model, ENDLESS)
    greedy = Sampling(temperature=0, max_tokens=6)
    replies = iter([[], None])
    whole = generate(engine, [PROMPTS[0]], None, replace(greedy, max_tokens=12))
    parts = generate(engine, [PROMPTS[0]], lambda row, response: next(replies), greedy)
    assert parts[0][0].tokens + parts[0][1].tokens == whole[0][0].tokens


def test_new_weights_count_at_the_next_call() -> None:
    model = tiny_llama()
    engine = LocalEngine(model, TEMPLATE)
    sampling = Sampling(max_tokens=8)
    before = generate(engine, PROMPTS, again(2), sampling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    after = generate(engine, PROMPTS, again(2), sampling)
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
    engine = LocalEngine(model, TEMPLATE)
    played = generate(engine, PROMPTS, again(1), Sampling(max_tokens=8))
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
    played = generate(LocalEngine(model, TEMPLATE), PROMPTS, again(2), Sampling(max_tokens=8))
    for row, (prompt, samples) in enumerate(zip(PROMPTS, played, strict=True)):
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=0.15)


def test_no_prompts_no_samples() -> None:
    assert generate(LocalEngine(tiny_llama(), TEMPLATE), [], again(2), Sampling()) == []


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(temperature=-1), "temperature is -1"),
        (Sampling(top_p=0), "top_p is 0"),
        (Sampling(top_k=-1), "top_k is -1"),
        (Sampling(max_tokens=0), "max_tokens is 0"),
        (Sampling(stop=("",)), "an empty stop string"),
    ],
)
def test_sampling_out_of_range_is_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalEngine(tiny_llama(), TEMPLATE).generate([], sampling)


def test_a_prompt_that_does_not_fit_the_window_keeps_no_other_from_its_response() -> None:
    engine = LocalEngine(tiny_llama(max_position_embeddings=64), ENDLESS)
    requests = requests_for([[7] * 30, [7], [7] * 24])
    long, short, just = engine.generate(requests, Sampling(max_tokens=40), again(1))
    assert long == [
        Failed("a context of 30 tokens and max_tokens 40 exceed the model's window of 64", True)
    ]
    for (response,) in (short, just):
        assert isinstance(response, Response)
        assert len(response.tokens) == 40


def test_a_conversation_that_outgrows_the_window_ends_after_its_last_response() -> None:
    engine = LocalEngine(tiny_llama(max_position_embeddings=64), ENDLESS)
    asked = again(2)
    rows = engine.generate(
        requests_for([[7] * 20, [7]]),
        Sampling(max_tokens=20),
        lambda row, response: [7] * 5 if row == 0 else asked(row, response),
    )
    assert [type(response) for response in rows[0]] == [Response, Failed]
    assert rows[0][1] == Failed(
        "a context of 45 tokens and max_tokens 20 exceed the model's window of 64", True
    )
    assert [type(response) for response in rows[1]] == [Response, Response]


def test_messages_are_rendered_by_the_template() -> None:
    engine = LocalEngine(tiny_llama(), TEMPLATE)
    asked = [Message(role="user", content="2+2=")]
    tokens = TEMPLATE.start([message.model_dump() for message in asked])
    sampling = Sampling(max_tokens=8)
    given, rendered = engine.generate([Request(asked, tokens), Request(asked)], sampling)
    assert given == rendered


def test_messages_that_the_template_refuses_keep_no_other_from_its_response() -> None:
    refusing = CHAT_TEMPLATE.replace(
        "{% for",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{% for",
        1,
    )
    engine = LocalEngine(tiny_llama(), ChatTemplate(TOKENIZER, chat_template=refusing))
    user, system = Message(role="user", content="x"), Message(role="system", content="x")
    rows = engine.generate([Request([system, user]), Request([user])], Sampling(max_tokens=4))
    assert [[type(response) for response in row] for row in rows] == [[Failed], [Response]]
    assert isinstance(rows[0][0], Failed)
    assert "no system" in rows[0][0].reason
    assert not rows[0][0].context_full


def test_tokens_beyond_the_embedding_are_a_users_mistake() -> None:
    engine = LocalEngine(tiny_llama(vocab_size=90), TEMPLATE)
    with pytest.raises(UserError) as raised:
        engine.generate([Request([Message(role="user", content="a}")])], Sampling(max_tokens=2))
    line = str(raised.value)
    assert line.startswith(f"token {ids('}')[0]} ('}}') of the tokenizer ")
    assert "is beyond the model's 90 embeddings" in line
    assert "\n" not in line
    with pytest.raises(UserError, match="is beyond the model's 90 embeddings"):
        engine.generate([Request([], [7])], Sampling(max_tokens=2), lambda *_: ids("}"))


def test_diverged_weights_are_reported() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    for sampling in (Sampling(max_tokens=4), Sampling(max_tokens=4, top_k=5)):
        with pytest.raises(UserError, match="not finite"):
            generate(LocalEngine(model, TEMPLATE), PROMPTS, again(1), sampling)


def test_good_weights_work_again_after_diverged_ones() -> None:
    """The buffers of keys and values outlive a call; NaN in them would too."""
    model = tiny_llama()
    good = {name: weight.clone() for name, weight in model.state_dict().items()}
    engine = LocalEngine(model, ENDLESS)
    sampling = Sampling(max_tokens=100)  # long enough for the buffers to grow on the way
    before = generate(engine, PROMPTS, None, sampling)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        generate(engine, PROMPTS, None, sampling)
    model.load_state_dict(good)
    assert generate(engine, PROMPTS, None, sampling) == before


def test_draws_depend_on_seed_problem_sample_and_turn_alone() -> None:
    engine = LocalEngine(tiny_llama(), TEMPLATE)
    sampling = Sampling(max_tokens=16, seed=5)
    requests = [
        Request([], PROMPTS[1], problem, sample) for problem in ("a", "b") for sample in range(3)
    ]
    whole = respond(engine, requests, sampling, again(2))
    assert len({tuple(row[0].tokens) for row in whole}) == 6
    reverse = respond(engine, requests[::-1], sampling, again(1))[::-1]
    assert [row[0].tokens for row in reverse] == [row[0].tokens for row in whole]
    assert respond(engine, requests[4:5], sampling)[0][0].tokens == whole[4][0].tokens

    # The second response again, in a call of its own.
    first, second = whole[0]
    later = replace(requests[0], tokens=[*PROMPTS[1], *first.tokens, *bridge(0, 1)], turn=1)
    assert respond(engine, [later], sampling)[0][0].tokens == second.tokens
    assert respond(engine, [replace(later, turn=2)], sampling)[0][0].tokens != second.tokens


# Prompts that rows share

LONG = [ids("a prompt of more than sixty-four tokens, which its rows share: " + text) for text in (
    "2+2=", "sort: pear fig apple ->", "x",
)]  # fmt: skip
SAMPLES = [prompt for prompt in LONG for _ in range(4)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_logprobs_of_rows_that_share_prompts_equal_a_plain_forward_pass(
    name: str, attention: str
) -> None:
    model = MODELS[name]()
    model.set_attn_implementation(attention)
    engine = LocalEngine(model, TEMPLATE, max_rows=5, prefill_tokens=90)
    played = generate(
        engine, SAMPLES, again([1 + row % 3 for row in range(12)]), Sampling(seed=4, max_tokens=16)
    )
    for row, (prompt, samples) in enumerate(zip(SAMPLES, played, strict=True)):
        assert len(samples) == 1 + row % 3
        for sample, plain in zip(samples, plain_logprobs(model, row, prompt, samples), strict=True):
            assert sample.logprobs == pytest.approx(plain, abs=1e-4)


def test_samples_do_not_depend_on_who_shares_a_prompt() -> None:
    model = tiny_llama()
    sampling = Sampling(max_tokens=16, seed=3)
    requests = requests_for(SAMPLES)
    played = [
        [
            row[0].tokens
            for row in respond(LocalEngine(model, TEMPLATE, max_rows=rows), requests, sampling)
        ]
        for rows in (1, 3, 7, None)
    ]
    assert played[0] == played[1] == played[2] == played[3]
    alone = [
        respond(LocalEngine(model, TEMPLATE), [one], sampling)[0][0].tokens for one in requests
    ]
    assert alone == played[0]


@pytest.mark.parametrize("max_rows", [3, None])
def test_keys_of_a_shared_prompt_are_computed_and_kept_once(max_rows: int | None) -> None:
    model = tiny_llama()
    computed = 0
    caches: list[RowCache] = []

    def record(module: object, arguments: object, named: dict[str, Any]) -> None:
        nonlocal computed
        computed += named["input_ids"].numel() if named["input_ids"].shape[1] > 1 else 0
        caches.append(named["past_key_values"])

    model.register_forward_pre_hook(record, with_kwargs=True)
    engine = LocalEngine(model, TEMPLATE, max_rows=max_rows, prefill_tokens=40)
    generate(engine, SAMPLES, None, Sampling(max_tokens=8))
    assert computed == sum(len(prompt) - 1 for prompt in LONG)
    assert caches[0].own.extent < min(map(len, LONG))


# Memory


def test_rows_wait_for_each_other_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later turns outgrow what was free at the start: rows are put off and computed again."""
    model = tiny_llama()
    sampling = Sampling(max_tokens=16, seed=3)
    kept = 2 * 2 * 2 * 8 * 4  # bytes of a token: layers, keys and values, heads, width, float32
    for prompts in (GROUPED, SAMPLES):
        turns = [9 - row % 3 for row in range(len(prompts))]
        plenty = generate(LocalEngine(model, ENDLESS), prompts, again(turns), sampling)
        most = 0

        def watch(module: object, arguments: object, named: dict[str, Any]) -> None:
            nonlocal most
            cache = named["past_key_values"]
            shown = len(named["input_ids"]) * cache.slots.extent
            most = max(most, shown)

        monkeypatch.setattr(
            "redraft.engines.local.free_memory", lambda device: int(600 * kept / 0.4 / 1.5)
        )
        hook = model.register_forward_pre_hook(watch, with_kwargs=True)
        scarce = generate(LocalEngine(model, ENDLESS), prompts, again(turns), sampling)
        hook.remove()
        assert only_tokens(scarce) == only_tokens(plenty)
        assert most <= 600 + 5 * 32  # extents are rounded up
        monkeypatch.undo()


# Decoding with low-precision copies of the weights


def linear_casts(model: PreTrainedModel, engine: LocalEngine, max_tokens: int) -> int:
    """How many elements of float32 weights are cast to bfloat16 while `engine` decodes."""
    weights = {weight.data_ptr(): weight.numel() for weight in model.parameters()}
    casting = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)
    cast = 0

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal cast
            output = func(*args, **(kwargs or {}))
            if func in casting and output.dtype == torch.bfloat16:
                cast += weights.get(args[0].data_ptr(), 0)
            return output

    with Casts():
        generate(engine, PROMPTS[:1], None, Sampling(max_tokens=max_tokens))
    return cast


def test_decoding_in_bf16_casts_no_weight_for_a_token() -> None:
    model = tiny_llama()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    size = sum(layer.weight.numel() for layer in layers)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_casts(model, LocalEngine(model, ENDLESS), 4) >= 4 * size
    engine = LocalEngine(model, ENDLESS, dtype=torch.bfloat16)
    engine.sync_weights("step-1")
    assert linear_casts(model, engine, 4) == 0  # the copies are made by another operation


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3, mixed windows", "lora"])
def test_bf16_decoding_agrees_with_a_forward_pass_under_autocast(name: str, attention: str) -> None:
    model = MODELS[name]()
    model.set_attn_implementation(attention)
    before = {name: (weight, weight.clone()) for name, weight in model.named_parameters()}
    engine = LocalEngine(model, TEMPLATE, dtype=torch.bfloat16)
    sampling = Sampling(max_tokens=16)
    played = generate(engine, PROMPTS, again(2), sampling)
    for name, weight in model.named_parameters():  # the learner's weights are back in place
        assert weight is before[name][0]
        assert torch.equal(weight, before[name][1])
    with torch.autocast("cpu", torch.bfloat16):  # the same arithmetic, all weights cast per token
        assert generate(LocalEngine(model, TEMPLATE), PROMPTS, again(2), sampling) == played
    gaps = []
    for row, (prompt, responses) in enumerate(zip(PROMPTS, played, strict=True)):
        with torch.autocast("cpu", torch.bfloat16):
            plain = plain_logprobs(model, row, prompt, responses)
        for response, values in zip(responses, plain, strict=True):
            gaps += [abs(a - b) for a, b in zip(response.logprobs, values, strict=True)]
    assert max(gaps) < 0.06  # logits are rounded to bfloat16: 2^-8 of up to about 5
    assert sum(gaps) / len(gaps) < 5e-3


def test_tied_weights_decode_in_bf16_as_the_learner_computes_them() -> None:
    model = tiny_llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    engine = LocalEngine(model, TEMPLATE, dtype=torch.bfloat16)
    played = generate(engine, PROMPTS, None, Sampling(max_tokens=16))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.autocast("cpu", torch.bfloat16):
        plain = plain_logprobs(model, 0, PROMPTS[0], played[0])
    assert played[0][0].logprobs == pytest.approx(plain[0], abs=0.06)


@pytest.mark.parametrize("name", ["llama", "lora"])
def test_new_weights_count_in_bf16_once_the_engine_is_told(name: str) -> None:
    model = MODELS[name]()
    engine = LocalEngine(model, TEMPLATE, dtype=torch.bfloat16)
    sampling = Sampling(max_tokens=8)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    # Fused, because PyTorch does not count the changes that a fused optimizer makes.
    optimizer = torch.optim.AdamW(trainable, lr=0.3, fused=True)

    def learn() -> None:
        for weight in trainable:
            weight.grad = torch.ones_like(weight)
        optimizer.step()

    def logprobs() -> list[float]:
        return generate(engine, PROMPTS[:1], None, sampling)[0][0].logprobs

    untold = [logprobs()]
    learn()
    untold.append(logprobs())  # never told of a version: copied in every call
    assert untold[0] != untold[1]
    engine.sync_weights("step-1")
    assert logprobs() == untold[1]
    copied = linear_copies(engine)
    engine.sync_weights("step-1")
    learn()
    engine.sync_weights("step-2")
    assert logprobs() != untold[1]
    assert linear_copies(engine) == copied, "copies are made into the same memory"


def linear_copies(engine: LocalEngine) -> list[int]:
    assert engine._weights is not None
    return sorted(copy.parameter.data_ptr() for copy in engine._weights.copies.values())


def test_models_that_cannot_be_continued_are_refused() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(UserError, match="mamba"):
        LocalEngine(mamba, TEMPLATE)
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
        LocalEngine(hybrid, TEMPLATE)
    flexible: LlamaForCausalLM = tiny_llama()
    flexible.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="attn_implementation='sdpa'"):
        LocalEngine(flexible, TEMPLATE)
    with pytest.raises(UserError, match="max_rows is 0"):
        LocalEngine(tiny_llama(), TEMPLATE, max_rows=0)
