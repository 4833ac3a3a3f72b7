"""Two processes (gloo, CPU) end at the weights of one, however the rows are shared out."""

import gc
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

from redraft.learning.checkpoint import newest_complete, write_checkpoint
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner, NonFiniteLoss
from redraft.learning.pairs import with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from redraft.learning.rows import TrainingRow
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import VOCABULARY, preference_pairs, two_turn_rows

STEPS = 3
SPLITS = {"even": 6, "uneven": 11, "one-has-none": 12}
"""How many of a step's twelve rows (or pairs) the first process gets."""
LOSS = "sigmoid+kto+0.3*orpo"
"""Of the whole batch these need its size, a KL and a mean length."""
Outcome = tuple[dict[str, torch.Tensor], list[dict[str, float]]]


def train(
    adapter: bool, share: slice, accelerator: Accelerator, *, short_of_memory: bool = False
) -> Outcome:
    """Three steps on a share of the rows; the trained weights and the metrics of each step."""
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
    )
    learner = Learner(model, config, accelerator=accelerator, reference=reference)
    metrics = []
    for step in range(STEPS):
        rows = two_turn_rows(12, seed=step)[share]
        metrics.append(learner.step(learner.with_reference(rows)))
    trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return trained, metrics


def fail_on_two_rows(module: object, inputs: object, named: Any, output: object) -> None:
    """Fails in training as an allocation does, where more than one row goes through the model."""
    if torch.is_grad_enabled() and len(named["input_ids"]) > 1:
        raise RuntimeError("not enough memory: you tried to allocate too much")


def prefer(share: slice, accelerator: Accelerator) -> Outcome:
    """Three steps on a share of twelve pairs; the same two things."""
    model = tiny_llama(VOCABULARY, hidden_size=16, layers=1, seed=1)
    reference = tiny_llama(VOCABULARY, hidden_size=16, layers=1)
    config = LearnerConfig(learning_rate=1e-3, tokens_per_microbatch=50)
    learner = Learner(model, config, accelerator=accelerator, reference=reference)
    pairs = learner.pairs_with_reference(with_unrelated(preference_pairs(12))[share])
    preference = PreferenceConfig(loss=LOSS)
    metrics = [learner.preference_step(pairs, preference) for _ in range(STEPS)]
    return {n: p.detach().clone() for n, p in model.named_parameters()}, metrics


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
        results[f"{name}-pairs"] = prefer(share, accelerator)
    share = slice(0, 6) if rank == 0 else slice(6, 12)
    results["out-of-memory"] = train(False, share, accelerator, short_of_memory=rank == 1)
    results["culprits"] = fail_on_second_process(rank, accelerator)
    model = tiny_llama()
    learner = Learner(model, LearnerConfig(), accelerator=accelerator)
    write_checkpoint(folder / "checkpoints", learner, tiny_tokenizer(), {"rows": 7})
    learner.load(folder / "checkpoints" / "step-000000")
    torch.save(results, folder / f"{rank}.pt")
    del learner  # as `leave_group_at_exit` says
    gc.collect()
    torch.distributed.destroy_process_group()


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


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("adapter", [False, True])
def test_two_processes_equal_one(
    split: str, adapter: bool, results: list[dict[str, Outcome]]
) -> None:
    assert [result["processes"] for result in results] == [2, 2]
    alone = train(adapter, slice(0, 12), Accelerator(cpu=True))
    for result in results:
        assert_same(result[f"{split}-{adapter}"], alone)


@pytest.mark.parametrize("split", SPLITS)
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


def test_both_processes_write_one_checkpoint(folder: Path) -> None:
    newest = newest_complete(folder / "checkpoints")
    assert newest is not None
    names = {path.name for path in newest.iterdir()}
    assert names >= {"model.safetensors", "learner.pt", "random-0.pt", "random-1.pt", "extra.json"}
