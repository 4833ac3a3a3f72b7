"""Two processes (gloo, CPU) end at the weights of one, however the rows are shared out, and whether
or not the weights are too."""

import gc
import os
import socket
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from redraft.errors import UserError
from redraft.learning.checkpoint import export_model, newest_complete, write_checkpoint
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.rows import TrainingRow
from redraft.learning.sharding import load_whole, shard, whole
from redraft.learning.zero import check_installed
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import VOCABULARY, preference_pairs, two_turn_rows

STEPS = 3
SPLITS = {"even": 6, "uneven": 11, "one-has-none": 12}
"""How many of a step's twelve rows (or pairs) the first process gets."""
LOSS = "sigmoid+kto+0.3*orpo"
"""Of the whole batch these need its size, a KL and a mean length."""
Outcome = tuple[dict[str, torch.Tensor], list[dict[str, float]]]


def train(
    adapter: bool,
    share: slice,
    accelerator: Accelerator,
    *,
    short_of_memory: bool = False,
    sharded: bool = False,
) -> Outcome:
    """Three steps on a share of the rows; the trained weights and the metrics of each step. With
    `sharded` activations are recomputed and the head is chunked too."""
    model = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
    if short_of_memory:
        model.get_decoder().register_forward_hook(fail_on_two_rows, with_kwargs=True)
    reference = None
    if adapter:
        torch.manual_seed(3)
        lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(model, lora)
    else:
        reference = tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=1)
    config = LearnerConfig(
        learning_rate=1e-3,
        tokens_per_microbatch=50,
        entropy_weight=0.01,
        loss_mean="attempt" if adapter else "token",
        gradient_checkpointing=sharded or None,
        logit_chunk=7 if sharded else None,
    )
    if sharded:
        share_out(model, reference)
    learner = Learner(model, config, accelerator=accelerator, reference=reference)
    metrics = []
    for step in range(STEPS):
        rows = two_turn_rows(12, seed=step)[share]
        metrics.append(learner.step(learner.with_reference(rows)))
    return trained_weights(model), metrics


def fail_on_two_rows(module: object, inputs: object, named: Any, output: object) -> None:
    """Fails in training as an allocation does, where more than one row goes through the model."""
    if torch.is_grad_enabled() and len(named["input_ids"]) > 1:
        raise RuntimeError("not enough memory: you tried to allocate too much")


def share_out(*models: Any) -> None:
    """Shard models; a frozen one too."""
    for model in models:
        if model is not None:
            shard(model, torch.device("cpu"), None)


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """In full, whether they are sharded or not."""
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return {name: whole(weight).clone() for name, weight in trained.items()}


def prefer(share: slice, accelerator: Accelerator, *, sharded: bool = False) -> Outcome:
    """Three steps on a share of twelve pairs; the same two things."""
    model = tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=1)
    reference = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
    config = LearnerConfig(learning_rate=1e-3, tokens_per_microbatch=50)
    if sharded:
        share_out(model, reference.requires_grad_(False))
    learner = Learner(model, config, accelerator=accelerator, reference=reference)
    pairs = learner.pairs_with_reference(with_unrelated(preference_pairs(12))[share])
    preference = PreferenceConfig(loss=LOSS)
    metrics = [learner.preference_step(pairs, preference) for _ in range(STEPS)]
    return trained_weights(model), metrics


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
    results: dict[str, object] = {"processes": accelerator.num_processes}
    for name, first in SPLITS.items():
        share = slice(0, first) if rank == 0 else slice(first, 12)
        for adapter in (False, True):
            results[f"{name}-{adapter}"] = train(adapter, share, accelerator)
            if name == "uneven":
                results[f"sharded-{adapter}"] = train(adapter, share, accelerator, sharded=True)
        results[f"{name}-pairs"] = prefer(share, accelerator)
        if name == "uneven":
            results["sharded-pairs"] = prefer(share, accelerator, sharded=True)
    share = slice(0, 6) if rank == 0 else slice(6, 12)
    results["out-of-memory"] = train(False, share, accelerator, short_of_memory=rank == 1)
    results["culprits"] = fail_on_second_process(rank, accelerator)
    model = tiny_llama(VOCABULARY)
    learner = Learner(model, LearnerConfig(), accelerator=accelerator)
    write_checkpoint(folder / "checkpoints", learner, tiny_tokenizer(), {"rows": 7})
    learner.load(folder / "checkpoints" / "step-000000")
    learner.step(without_kl(two_turn_rows(2)))
    write_checkpoint(folder / "whole", learner, tiny_tokenizer(), {})
    results["resumed"] = resume_sharded(rank, folder, accelerator)
    torch.save(results, folder / f"{rank}.pt")
    del learner  # as `leave_group_at_exit` says
    gc.collect()
    torch.distributed.destroy_process_group()


def resume_sharded(
    rank: int, folder: Path, accelerator: Accelerator
) -> list[dict[str, torch.Tensor]]:
    """A step after a checkpoint, and again by another learner from that checkpoint: the weights in
    both ends."""
    ends: list[dict[str, torch.Tensor]] = []
    rows, place = without_kl(two_turn_rows(12))[rank::2], folder / "sharded" / "step-000001"
    for resumed in (False, True):
        model: Any = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
        if resumed:
            load_whole(model, AutoModelForCausalLM.from_pretrained(place).state_dict())
        share_out(model)
        config = LearnerConfig(learning_rate=1e-3, tokens_per_microbatch=50)
        learner = Learner(model, config, accelerator=accelerator)
        if resumed:
            learner.load(place)
        else:
            learner.step(rows)
            write_checkpoint(place.parent, learner, tiny_tokenizer(), {})
        learner.step(rows)
        ends.append(trained_weights(model))
    with pytest.raises(UserError, match="not written with sharding fsdp2"):
        learner.load(folder / "whole" / "step-000001")
    return ends


def without_kl(rows: list[TrainingRow]) -> list[TrainingRow]:
    """The rows for a learner without a reference."""
    return [replace(row, kl_weight=None) for row in rows]


def fail_on_second_process(rank: int, accelerator: Accelerator) -> int:
    """A NaN that only the second process meets: number of rows that this one is told did it."""
    model = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
    learner = Learner(model, LearnerConfig(), accelerator=accelerator)
    with torch.no_grad():
        model.get_input_embeddings().weight[23] = float("nan")
    with pytest.raises(NonFiniteLoss) as caught:
        learner.step([TrainingRow([22 + rank, 3], [0, 1], advantage=[0, 1])])
    return len(caught.value.rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left behind."""
    folder = tmp_path_factory.mktemp("distributed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(port, folder), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Outcome]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("split", [*SPLITS, "sharded"])
@pytest.mark.parametrize("adapter", [False, True])
def test_two_processes_equal_one(
    split: str, adapter: bool, results: list[dict[str, Outcome]]
) -> None:
    assert [result["processes"] for result in results] == [2, 2]
    alone = train(adapter, slice(0, 12), Accelerator(cpu=True))
    for result in results:
        assert_same(result[f"{split}-{adapter}"], alone)


@pytest.mark.parametrize("split", [*SPLITS, "sharded"])
def test_two_processes_equal_one_on_preference_pairs(
    split: str, results: list[dict[str, Outcome]]
) -> None:
    alone = prefer(slice(0, 12), Accelerator(cpu=True))
    assert min(metrics["kl"] for metrics in alone[1]) > 0.01
    for result in results:
        assert_same(result[f"{split}-pairs"], alone)


def test_two_processes_go_on_where_one_runs_out_of_memory(
    results: list[dict[str, Outcome]],
) -> None:
    alone = train(False, slice(0, 12), Accelerator(cpu=True))
    for result in results:
        assert_same(result["out-of-memory"], alone)


def assert_same(theirs: Outcome, ours: Outcome) -> None:
    """The same weights and metrics, up to the order of sums."""
    assert theirs[0].keys() == ours[0].keys()
    for name, value in ours[0].items():
        torch.testing.assert_close(theirs[0][name], value, rtol=1e-4, atol=1e-5)
    for their_metrics, our_metrics in zip(theirs[1], ours[1], strict=True):
        assert their_metrics.keys() == our_metrics.keys()
        for name in our_metrics.keys() - {"padding_share"}:
            wanted = pytest.approx(our_metrics[name], rel=1e-3, abs=1e-5)
            assert their_metrics[name] == wanted, name


def test_training_moved_the_weights_by_more_than_the_tolerance() -> None:
    start = dict(tiny_llama(VOCABULARY, hidden_size=16, layers=1).named_parameters())
    weights, _ = train(False, slice(0, 12), Accelerator(cpu=True))
    assert all((weights[name] - start[name]).abs().max() > 1e-3 for name in weights)


def test_a_failure_of_one_process_stops_both(results: list[dict[str, Outcome]]) -> None:
    assert [result["culprits"] for result in results] == [0, 1]


def test_a_sharded_checkpoint_is_one_model_and_resumes_to_the_same_weights(
    folder: Path, results: list[dict[str, Any]]
) -> None:
    place = folder / "sharded" / "step-000001"
    for before, after in (result["resumed"] for result in results):
        assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert len([*place.glob("optimizer/*.safetensors")]) == 2
    export_model(place, folder / "exported")
    assert not (folder / "exported" / "optimizer").exists()
    alone = AutoModelForCausalLM.from_pretrained(folder / "exported")
    assert type(alone) is type(tiny_llama())
    start = tiny_llama(VOCABULARY, hidden_size=16, layers=1).state_dict()
    assert alone.state_dict().keys() == start.keys()
    learner = Learner(alone, LearnerConfig(learning_rate=1e-3))
    learner.load(place)  # on one process now
    learner.step(without_kl(two_turn_rows(12)))
    for name, weight in trained_weights(alone).items():
        wanted = results[0]["resumed"][0][name]
        torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=1e-5)


def test_both_processes_write_one_checkpoint(folder: Path) -> None:
    newest = newest_complete(folder / "checkpoints")
    assert newest is not None
    names = {path.name for path in newest.iterdir()}
    assert names >= {"model.safetensors", "learner.pt", "random-0.pt", "random-1.pt", "extra.json"}


def test_deepspeed_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"need DeepSpeed .*: pip install 'redraft\[deepspeed\]'"):
        check_installed(torch.device("cpu"))
