"""Two processes that share gradients, moments and weights out by DeepSpeed end at the weights of
one without it."""

import os
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from redraft.learning.checkpoint import write_checkpoint
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.sharding import load_whole, part, whole
from redraft.learning.zero import Stage, partition
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import VOCABULARY, two_turn_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIRST = 11
"""How many of a step's twelve rows the first process gets."""
CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


def learner_of(
    accelerator: Accelerator, stage: Stage | None, *, adapter: bool = False, start: Any = None
) -> Learner:
    """A learner of a small model, whose head takes several chunks; it starts from `start`."""
    model: Any = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
    reference: Any = None
    if adapter:
        torch.manual_seed(3)
        lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(model, lora)
    else:
        reference = tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=1).requires_grad_(False)
    if stage == 3:
        partition(model, CPU)
        if reference is not None:
            partition(reference, CPU)
    if start is not None:
        load_whole(model, start)
    config = LearnerConfig(
        learning_rate=1e-3,
        tokens_per_microbatch=50,
        entropy_weight=0.01,
        gradient_checkpointing=stage is not None,
        logit_chunk=7,
        weight_decay=0.1,
    )
    return Learner(model, config, accelerator=accelerator, reference=reference, zero=stage)


def trained(learner: Learner) -> Weights:
    """In full, whether they are sharded or not."""
    named = learner.model.named_parameters()
    return {name: whole(weight).clone() for name, weight in named if weight.requires_grad}


def step(learner: Learner, seed: int, share: slice) -> dict[str, float]:
    return learner.step(learner.with_reference(two_turn_rows(12, seed=seed)[share]))


def train(learner: Learner, share: slice) -> dict[str, Any]:
    """Three steps, the second of which meets a NaN and changes nothing."""
    metrics = [step(learner, 0, share)]
    before = trained(learner)
    rows = learner.with_reference(two_turn_rows(12, seed=1)[share])
    head = learner.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, logits: logits * float("nan"))
    with pytest.raises(NonFiniteLoss) as caught:
        learner.step(rows)
    hook.remove()
    after = trained(learner)
    kept = all(torch.equal(weight, after[name]) for name, weight in before.items())
    metrics += [step(learner, 1, share), step(learner, 2, share)]
    return {
        "metrics": metrics,
        "weights": trained(learner),
        "kept": kept and "update" not in str(caught.value),
    }


def worker(rank: int, port: int, folder: Path) -> None:
    """One of the two processes; its results go to files, for the test to look at."""
    warnings.simplefilter("ignore")
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    accelerator = Accelerator(cpu=True)
    share = slice(0, FIRST) if rank == 0 else slice(FIRST, 12)
    results: dict[str, Any] = {}
    stages: tuple[Stage, ...] = (2, 3)
    for stage in stages:
        for adapter in (False, True):
            learner = learner_of(accelerator, stage, adapter=adapter)
            results[f"{stage}-{adapter}"] = train(learner, share)
            learner.close()
        held = sum(part(weight).numel() for weight in learner.model.parameters())
        results[f"{stage}-held"] = held
        learner = learner_of(accelerator, stage)
        step(learner, 0, share)
        place = write_checkpoint(folder / f"stage-{stage}", learner, tiny_tokenizer(), {})
        step(learner, 1, share)
        results[f"{stage}-ran-on"] = trained(learner)
        learner.close()
        weights = AutoModelForCausalLM.from_pretrained(place).state_dict()
        learner = learner_of(accelerator, stage, start=weights)
        learner.load(place)
        step(learner, 1, share)
        results[f"{stage}-resumed"] = trained(learner)
        learner.close()
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left behind."""
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(port, folder), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("adapter", [False, True])
def test_two_processes_equal_one(
    stage: Stage, adapter: bool, results: list[dict[str, Any]]
) -> None:
    alone = train(learner_of(Accelerator(cpu=True), None, adapter=adapter), slice(0, 12))
    assert alone["kept"]
    for result in results:
        mine = result[f"{stage}-{adapter}"]
        assert mine["kept"]
        assert_close(mine["weights"], alone["weights"])
        for theirs, ours in zip(mine["metrics"], alone["metrics"], strict=True):
            assert theirs.keys() == ours.keys()
            for name in ours.keys() - {"padding_share"}:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_resumes_to_the_same_weights_with_and_without_deepspeed(
    stage: Stage, folder: Path, results: list[dict[str, Any]]
) -> None:
    for result in results:
        assert_close(result[f"{stage}-resumed"], result[f"{stage}-ran-on"])
    place = folder / f"stage-{stage}" / "step-000001"
    learner = learner_of(Accelerator(cpu=True), None)
    learner.model.load_state_dict(AutoModelForCausalLM.from_pretrained(place).state_dict())
    learner.load(place)
    step(learner, 1, slice(0, 12))
    assert_close(trained(learner), results[0][f"{stage}-ran-on"])


def test_stage_three_shares_the_weights_out(results: list[dict[str, Any]]) -> None:
    total = results[0]["2-held"]
    assert results[1]["2-held"] == total
    assert results[0]["3-held"] + results[1]["3-held"] == total
    assert results[0]["3-held"] < 0.6 * total


def assert_close(theirs: Weights, ours: Weights) -> None:
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)
