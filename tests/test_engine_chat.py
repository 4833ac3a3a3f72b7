"""Engines of messages that need no server: a local model, and a Python function."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from redraft.dialogue import Dialogue
from redraft.engines import ChatEngine, Failed, Messages, Sample, Sampling
from redraft.engines.chat import LocalChat
from redraft.engines.local import LocalEngine
from redraft.engines.scripted import ScriptedChat
from redraft.errors import UserError
from tiny_models import tiny_tokenizer

QUESTION: Messages = [{"role": "user", "content": "What is 1+1?"}]
LONGER: Messages = [
    *QUESTION,
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "Try again."},
]


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LocalEngine(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.fixture(scope="module")
def dialogue(engine: LocalEngine) -> Dialogue:
    return Dialogue(engine.tokenizer)


def test_a_local_model_answers_what_its_engine_samples(
    engine: LocalEngine, dialogue: Dialogue
) -> None:
    chat: ChatEngine = LocalChat(engine, dialogue)
    sampling = Sampling(max_tokens=12, seed=1)
    finished: list[int] = []
    answers = chat.chat([QUESTION, LONGER], sampling, finished.append)
    ids = [dialogue.start(QUESTION), dialogue.start(LONGER)]
    stopping = Sampling(max_tokens=12, seed=1, stop_token_ids=dialogue.stop_token_ids)
    expected = engine.converse(ids, lambda row, samples: None, stopping)
    for answer, (attempt,) in zip(answers, expected, strict=True):
        assert isinstance(answer, Sample)
        assert answer.tokens == attempt.tokens
        assert answer.logprobs == attempt.logprobs
        assert answer.text == dialogue.decode(attempt.tokens)
        assert answer.completion_tokens == len(attempt.tokens)
        assert answer.finish == attempt.finish
    assert sum(finished) == 2


def test_equal_dialogues_are_answered_separately(engine: LocalEngine, dialogue: Dialogue) -> None:
    chat = LocalChat(engine, dialogue)
    answers = chat.chat([QUESTION] * 4, Sampling(max_tokens=8))
    assert len({answer.text for answer in answers if isinstance(answer, Sample)}) == 4
    assert chat.chat([QUESTION] * 4, Sampling(max_tokens=8)) == answers
    assert chat.chat([], Sampling()) == []


def test_an_answer_ends_at_the_callers_stop_strings_too(
    engine: LocalEngine, dialogue: Dialogue
) -> None:
    chat = LocalChat(engine, dialogue)
    (whole,) = chat.chat([QUESTION], Sampling(max_tokens=12, temperature=0))
    assert isinstance(whole, Sample)
    stop = whole.text[4:6]
    place = whole.text.index(stop)
    (cut,) = chat.chat([QUESTION], Sampling(max_tokens=12, temperature=0, stop=(stop,)))
    assert isinstance(cut, Sample)
    assert (cut.text, cut.finish) == (whole.text[:place], "stop")
    assert len(cut.tokens) == place + 2  # one token a character; those of the stop are kept


def test_a_dialogue_that_does_not_fit_or_is_refused_keeps_no_other(engine: LocalEngine) -> None:
    refusing = (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('no system messages') }}{% endif %}"
        "<user>{{ message['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = LocalChat(engine, Dialogue(engine.tokenizer, chat_template=refusing), window=64)
    long: Messages = [{"role": "user", "content": "x" * 60}]
    system: Messages = [{"role": "system", "content": "Be brief."}, *QUESTION]
    finished: list[int] = []
    answers = chat.chat([long, QUESTION, system, QUESTION], Sampling(max_tokens=4), finished.append)
    assert answers[0] == Failed("63 prompt tokens and max_tokens 4 exceed the model's window of 64")
    assert isinstance(answers[2], Failed)
    assert "no system messages" in answers[2].reason
    assert [type(answer) for answer in answers] == [Failed, Sample, Failed, Sample]
    assert sum(finished) == 4
    assert [type(answer) for answer in chat.chat([long], Sampling(max_tokens=4))] == [Failed]


def test_sampling_that_makes_no_sense_is_the_users_mistake(
    engine: LocalEngine, dialogue: Dialogue
) -> None:
    with pytest.raises(UserError, match="temperature is -1"):
        LocalChat(engine, dialogue).chat([QUESTION], Sampling(temperature=-1))


def test_a_function_answers() -> None:
    def expert(messages: Messages) -> str | Failed:
        if len(messages) > 1:
            return Failed("only first questions")
        return messages[-1]["content"].upper()

    finished: list[int] = []
    chat: ChatEngine = ScriptedChat(expert)
    answers = chat.chat([QUESTION, LONGER, QUESTION], Sampling(), finished.append)
    answer = Sample([], [], "WHAT IS 1+1?", "stop", completion_tokens=0)
    assert answers == [answer, Failed("only first questions"), answer]
    assert sum(finished) == 3
