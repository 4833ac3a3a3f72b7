"""The engine for vLLM against a stand-in for its server; test_vllm_real.py has the real one."""

import copy
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from endpoints import free_port
from guessing_model import guessing_llama
from process_groups import run_group
from redraft.engines.base import Failed, Request, Response, Sampling, WeightsLostError
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.engines.vllm import VLLMEngine
from redraft.engines.vllm_api import VLLMSettings, check_version
from redraft.errors import UserError
from redraft.processes import Processes
from redraft.progress import Silent
from redraft.training import launch
from redraft.training.method import METHODS
from redraft.training.run import TrainingRun
from redraft.types import Message
from score_runs import metrics, same_weights, settings
from tiny_models import tiny_llama, tiny_tokenizer
from vllm_server import TroubleError, VLLMServer, serving_vllm

TOKENIZER = tiny_tokenizer()
TEMPLATE = ChatTemplate(TOKENIZER)
GREEDY = Sampling(0.0, max_tokens=8)
REQUESTS = [
    Request([Message(role="user", content=text)], problem=text) for text in ("2+2", "pear fig", "x")
]


@pytest.fixture
def learner() -> PreTrainedModel:
    return tiny_llama(spread=2.0)


@pytest.fixture
def server(learner: PreTrainedModel) -> Iterator[VLLMServer]:
    """A server with the learner's model, in a copy of its own."""
    with serving_vllm(copy.deepcopy(learner), tiny_tokenizer()) as server:
        yield server


Connect = Callable[..., VLLMEngine]


@pytest.fixture
def connect(server: VLLMServer) -> Iterator[Connect]:
    """Makes engines for a learner, and closes them."""
    engines: list[VLLMEngine] = []

    def connect(learner: Any, **more: Any) -> VLLMEngine:
        engines.append(VLLMEngine(learner, TEMPLATE, VLLMSettings(url=server.url), **more))
        return engines[-1]

    yield connect
    for engine in engines:
        engine.close()


def disturb(model: PreTrainedModel, seed: int = 1) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def same(ours: list[list[Response | Failed]], theirs: list[list[Response | Failed]]) -> bool:
    """Whether all responses are the same, their log-probabilities within 1e-4 nats."""
    pairs = [
        (a, b)
        for row, other in zip(ours, theirs, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    return all(
        isinstance(a, Response)
        and isinstance(b, Response)
        and (a.text, a.tokens, a.finish) == (b.text, b.tokens, b.finish)
        and max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)) < 1e-4
        for a, b in pairs
    )


def test_greedy_conversations_equal_those_of_the_local_engine(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    def reply(row: int, response: Response) -> list[int] | None:
        turns[row] = turns.get(row, 0) + 1
        return TEMPLATE.bridge(response.tokens, "again") if turns[row] < 3 else None

    turns: dict[int, int] = {}
    ours = connect(learner).generate(REQUESTS, GREEDY, reply)
    turns = {}
    assert [len(row) for row in ours] == [3, 3, 3]
    assert same(ours, LocalEngine(learner, TEMPLATE).generate(REQUESTS, GREEDY, reply))


def test_log_probabilities_are_those_of_the_sampling_distribution(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    [[response], *_] = connect(learner).generate(REQUESTS, Sampling(0.7, max_tokens=8))
    assert isinstance(response, Response)
    prompt = TEMPLATE.start([{"role": "user", "content": "2+2"}])
    with torch.no_grad():
        logits = learner(torch.tensor([[*prompt, *response.tokens]])).logits[0, len(prompt) - 1 :]
    expected = torch.log_softmax(logits / 0.7, -1)
    for place, (token, logprob) in enumerate(zip(response.tokens, response.logprobs, strict=True)):
        assert logprob == pytest.approx(float(expected[place, token]), abs=1e-4)


def test_draws_belong_to_seed_problem_sample_and_turn(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine = connect(learner)

    def drawn(seed: int = 0, **fields: Any) -> Any:
        request = Request(REQUESTS[0].messages, **({"problem": "a"} | fields))
        return engine.generate([request], Sampling(seed=seed, max_tokens=8))[0][0]

    first = drawn()
    assert drawn() == first
    assert len({repr(first), *map(repr, (drawn(1), drawn(problem="b"), drawn(sample=1)))}) == 4
    assert drawn(turn=1) != first


def test_new_weights_are_handed_over_once_before_the_next_response(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine = connect(learner)
    before = engine.generate(REQUESTS, GREEDY)
    for step in range(3):
        disturb(learner, step)
        engine.sync_weights(f"step-{step}")
    after = engine.generate(REQUESTS, GREEDY)
    assert not same(after, before)
    assert same(after, LocalEngine(learner, TEMPLATE).generate(REQUESTS, GREEDY))
    assert same(engine.generate(REQUESTS, GREEDY), after)
    assert server.asked.count("/update_weights") == 2  # at the start, and for the last step
    assert server.version.endswith(":step-2")
    cleared = server.asked.index("/reset_prefix_cache")
    assert server.asked.index("/finish_weight_update") < cleared < server.asked.index("/resume")


def test_an_adapter_is_handed_over_alone(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    policy = get_peft_model(learner, LoraConfig(r=2, target_modules="all-linear"))
    engine = connect(policy)
    disturb(policy)
    engine.sync_weights("step-1")
    adapted = engine.generate(REQUESTS, GREEDY)
    assert same(adapted, LocalEngine(policy, TEMPLATE).generate(REQUESTS, GREEDY))
    assert "/update_weights" not in server.asked


def test_a_server_without_lora_says_so(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    without("/v1/load_lora_adapter", 404)(server)
    policy = get_peft_model(learner, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(UserError, match="for LoRA it needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        connect(policy)


def test_a_push_that_fails_half_way_is_repeated_before_anything_is_sampled(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine = connect(learner)
    disturb(learner)
    engine.sync_weights("step-1")
    seen: list[str] = []

    def fail_once(path: str, body: dict[str, Any]) -> None:
        seen.append(path)
        if path == "/each_weight" and seen.count(path) == 3:
            raise TroubleError("the disk is gone")

    server.before = fail_once
    assert same(
        engine.generate(REQUESTS, GREEDY), LocalEngine(learner, TEMPLATE).generate(REQUESTS, GREEDY)
    )
    pushes = [n for n, path in enumerate(seen) if path == "/update_weights"]
    assert len(pushes) == 2
    assert seen.index("/v1/completions") > pushes[-1]


def test_nothing_is_sampled_where_the_weights_never_arrive(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine = connect(learner)
    server.asked.clear()

    def fail(path: str, body: dict[str, Any]) -> None:
        if path == "/each_weight":
            raise TroubleError("the disk is gone")

    server.before = fail
    engine.sync_weights("step-1")
    with pytest.raises(UserError, match=r"weights 'step-1' could not be handed over .*disk is go"):
        engine.generate(REQUESTS, GREEDY)
    assert "/v1/completions" not in server.asked


def test_what_was_written_while_the_weights_changed_is_refused(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine, fresh = connect(learner), copy.deepcopy(learner)
    disturb(learner)
    engine.sync_weights("step-1")
    left = [2]

    def restart(path: str, body: dict[str, Any]) -> None:
        left[0] -= path == "/v1/completions"
        if left[0] == 0:
            left[0] = -1
            server.start(fresh)

    server.before = restart
    with pytest.raises(WeightsLostError, match=r"'default' and not .*it was started again"):
        engine.generate(REQUESTS, GREEDY)
    assert same(
        engine.generate(REQUESTS, GREEDY), LocalEngine(learner, TEMPLATE).generate(REQUESTS, GREEDY)
    )


def test_with_overlap_weights_are_read_when_they_are_published_and_never_later(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine, published = connect(learner, overlap=True), copy.deepcopy(learner)
    for model in (learner, published):
        disturb(model, seed=1)
    engine.sync_weights("step-1")
    disturb(learner, seed=2)  # the learner goes on
    expected = LocalEngine(published, TEMPLATE).generate(REQUESTS, GREEDY)
    assert same(engine.generate(REQUESTS, GREEDY), expected)
    server.asked.clear()
    server.start(copy.deepcopy(published))
    for _ in range(2):
        with pytest.raises(WeightsLostError):
            engine.generate(REQUESTS, GREEDY)
    assert "/update_weights" not in server.asked
    engine.sync_weights("step-2")
    assert same(
        engine.generate(REQUESTS, GREEDY), LocalEngine(learner, TEMPLATE).generate(REQUESTS, GREEDY)
    )


def test_a_conversation_beyond_the_window_fails_alone(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    server.window = 40
    long = Request([Message(role="user", content="x" * 40)])
    [[full], [response]] = connect(learner).generate([long, REQUESTS[0]], GREEDY)
    assert isinstance(full, Failed)
    assert full.context_full
    assert isinstance(response, Response)


def test_a_refused_request_fails_alone(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    def refuse(path: str, body: dict[str, Any]) -> None:
        if path == "/v1/completions" and body["prompt"] == prompt:
            raise TroubleError("no such token", 400)

    prompt = TEMPLATE.start([{"role": "user", "content": "x"}])
    engine = connect(learner)
    server.before = refuse
    rows = engine.generate(REQUESTS, GREEDY)
    assert [isinstance(row[0], Response) for row in rows] == [True, True, False]
    assert isinstance(rows[2][0], Failed)
    assert rows[2][0].reason.endswith("/v1/completions: HTTP 400: no such token")


def test_logits_that_are_not_finite_end_the_run(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    engine = connect(learner)
    server.do_completions = lambda body: {  # type: ignore[method-assign]
        "choices": [
            {"token_ids": [5], "logprobs": {"token_logprobs": [math.nan]}, "finish_reason": "stop"}
        ]
    }
    with pytest.raises(UserError, match=r"not finite.*weights have diverged"):
        engine.generate(REQUESTS, GREEDY)


# What is refused before the first response


def renamed(server: VLLMServer) -> None:
    del server.tokenizer.chat_template
    server.tokenizer.chat_template = "{{ messages[0]['content'] }}"


def reordered(server: VLLMServer) -> None:
    server.do_tokenize = lambda body: {"tokens": [9, 9]}  # type: ignore[method-assign]


def without(path: str, status: int, said: str = "Not Found") -> Any:
    def change(server: VLLMServer) -> None:
        def refuse(asked: str, body: dict[str, Any]) -> None:
            if asked == path:
                raise TroubleError(said, status)

        server.before = refuse

    return change


REFUSALS = {
    "version 0.27.1 is not supported; install vLLM 0.28 to 0.33": {"release": "0.27.1"},
    "has another vocabulary than the learner": reordered,
    "has another chat template than the learner": renamed,
    "it serves a model with 1 layers, not 2; serve the": {"model": tiny_llama(layers=1)},
    "from the learner's: it has another base model": {"logprobs_of": "raw"},
    "/weight_info: HTTP 404: Not Found; start it with VLLM_SERVER_DEV_MODE=1": without(
        "/weight_info", 404
    ),
    "Weight transfer not configured; start it with VLLM_SERVER_DEV_MODE=1": without(
        "/init_weight_transfer_engine", 500, "Weight transfer not configured"
    ),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_server_that_does_not_fit_is_refused(
    said: str, server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    change = REFUSALS[said]
    if callable(change):
        change(server)
    else:
        vars(server).update(change)
    with pytest.raises(UserError) as caught:
        connect(learner)
    assert str(caught.value).startswith(f"vLLM at {server.url}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_base_model_under_an_adapter_is_refused(
    server: VLLMServer, learner: PreTrainedModel, connect: Connect
) -> None:
    disturb(server.model)
    with pytest.raises(UserError, match="it has another base model"):
        connect(get_peft_model(learner, LoraConfig(r=2, target_modules="all-linear")))


def test_a_server_that_is_not_there(learner: PreTrainedModel) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=r"it cannot be reached \(.*; start it with VLLM_SERVER"):
        VLLMEngine(learner, TEMPLATE, VLLMSettings(url=url))


def test_without_vllm_there_is_none_beside_the_learner(
    learner: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"not installed; pip install 'redraft\[vllm\]', or name a"):
        VLLMEngine(learner, TEMPLATE, VLLMSettings())


@pytest.mark.parametrize("version", ["0.28.0", "0.32.0+cpu", "0.33.1.dev3"])
def test_versions_that_are_supported(version: str) -> None:
    check_version(version, "vLLM")


@pytest.mark.parametrize("version", ["0.27.9", "0.34.0", "1.30.0", "main", "0"])
def test_versions_that_are_not(version: str) -> None:
    with pytest.raises(UserError, match=f"^vLLM: version {version} is not supported"):
        check_version(version, "vLLM")


def test_an_address_with_a_password_is_not_written_down() -> None:
    with pytest.raises(UserError, match="user names, passwords"):
        VLLMSettings(url="http://me:word@127.0.0.1:8000")
    assert VLLMSettings(url="http://127.0.0.1:8000/v1/").url == "http://127.0.0.1:8000"


# Training


def test_a_step_whose_server_was_restarted_is_sampled_again(world: Path, tmp_path: Path) -> None:
    """The run ends with the same weights as one without trouble."""
    with serving_vllm(guessing_llama(TOKENIZER), TOKENIZER) as server:
        vllm = VLLMSettings(url=server.url)

        def restart(path: str, body: dict[str, Any]) -> None:
            sampled.append(path == "/v1/completions")
            if sum(sampled) == restart_at[0]:
                restart_at[0] = -1
                server.start(guessing_llama(TOKENIZER))

        sampled: list[bool] = []
        restart_at = [-1]
        server.before = restart
        for name, at in (("calm", -1), ("restarted", 35)):  # a step is 12 episodes of 2 turns
            restart_at[0] = at
            sampled.clear()
            fields = {"engine": "vllm", "vllm": vllm, "max_tokens": 2}
            launch.train("score", settings(world, tmp_path / name, **fields))
    assert restart_at == [-1]
    assert same_weights(tmp_path / "calm" / "model", tmp_path / "restarted" / "model")
    assert not same_weights(tmp_path / "calm" / "model", world / "model")
    gaps = [line["logprob_gap/max"] for line in metrics(tmp_path / "restarted")]
    assert max(gaps) < 1e-4
    assert len(gaps) == 2


def train_rank(world: Path, folder: Path) -> TrainingRun[Any]:
    """What each of several sharded processes does: SCoRe through one server."""
    url = (folder.parent / "url").read_text()
    how = "zero3" if folder.parent.name == "deepspeed" else "fsdp2"
    fields = {"engine": "vllm", "vllm": VLLMSettings(url=url), "sharding": how}
    overlap = folder.parent.name == "overlapped"
    config = settings(world, folder, **fields, problems_per_step=4, overlap=overlap)
    run = launch.RUNS["on_policy"].create(config, "train score", Silent())
    METHODS["score"].train(run)
    run.finish()
    return run


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["in-turn", "overlapped", "deepspeed"])
def test_two_sharded_processes_train_through_one_server(
    name: str, world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with serving_vllm(guessing_llama(TOKENIZER), TOKENIZER) as server:
        (folder / "url").write_text(server.url)
        run_group("test_vllm", world, folder)
        pushed = server.asked.count("/update_weights")
    assert pushed == 3  # at the start and after each step
    assert max(line["logprob_gap/max"] for line in metrics(folder / "run")) < 1e-4
    assert not same_weights(folder / "run" / "model", world / "model")


def test_the_first_process_hands_the_weights_over_and_the_others_wait(
    server: VLLMServer, learner: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    first = connect(learner)
    with monkeypatch.context() as patched:
        patched.setattr(Processes, "gather", lambda self, items: list(items))
        patched.setattr(
            "redraft.engines.vllm.uuid.uuid4", lambda: type("", (), {"hex": first._run})
        )
        second = connect(copy.deepcopy(learner), processes=Processes(1, 2))
        asked = server.asked.count("/update_weights")
        disturb(learner)
        first.sync_weights("step-1")
        changed = first.generate(REQUESTS, GREEDY)
        second.sync_weights("step-1")
        assert same(second.generate(REQUESTS, GREEDY), changed)
        assert server.asked.count("/update_weights") == asked + 1
