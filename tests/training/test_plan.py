"""What `redraft train ... --plan` says: memory against hand counts and measurements, and time."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from redraft.cli import run as redraft
from redraft.learning.logprobs import TokenScorer
from redraft.learning.memory import measure, most_tokens
from redraft.models import prepare_training
from redraft.training import plan
from redraft.training.plan import DeviceMemory, longest_row, memory_of
from score_runs import settings
from tiny_models import tiny_llama

CPU = torch.device("cpu")
ROOM = 10**12


def needed(world: Path, free: int = ROOM, processes: int = 1, **fields: Any) -> DeviceMemory:
    config = settings(world, world / "run", **fields)
    shape = tiny_llama(layers=3).config
    return memory_of(shape, config, CPU, 64, free, processes=processes)


def test_weights_gradients_and_moments_are_counted(world: Path) -> None:
    count = sum(weight.numel() for weight in tiny_llama(layers=3).parameters())
    memory = needed(world)
    assert (memory.parameters, memory.trained) == (count, count)
    weights, learned, reference, micro_batch = memory.parts.values()
    assert (weights, learned, reference) == (4 * count, 12 * count, 4 * count)
    assert micro_batch > 0
    assert memory.problem is None


def test_shards_are_parts_and_come_with_a_whole_copy_to_decode_with(world: Path) -> None:
    whole, quarter = needed(world), needed(world, processes=4, sharding="fsdp2")
    for name in ("weights", "gradients and AdamW", "reference"):
        assert quarter.parts[name] == whole.parts[name] / 4
    assert quarter.parts["a copy to decode with"] == whole.parts["weights"]
    assert needed(world, processes=4).parts == whole.parts


def test_deepspeed_keeps_a_copy_of_what_it_trains(world: Path) -> None:
    whole = needed(world)
    count = whole.trained
    two, three = (needed(world, processes=4, sharding=f"zero{stage}") for stage in (2, 3))
    assert two.parts["weights"] == whole.parts["weights"]
    assert two.parts["reference"] == whole.parts["reference"]
    assert "a copy to decode with" not in two.parts
    assert two.parts["gradients and AdamW"] == 4 * count + (8 + 4) * count / 4
    assert three.parts["weights"] == whole.parts["weights"] / 4
    assert three.parts["gradients and AdamW"] == 16 * count / 4


def test_adapters_train_little_and_need_no_reference(world: Path) -> None:
    memory = needed(world, lora_rank=2)
    adapted = prepare_training(tiny_llama(layers=3), CPU, 2)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert memory.trained == trained < memory.parameters / 10
    assert memory.parts["gradients and AdamW"] == 12 * trained
    assert "reference" not in memory.parts


@pytest.mark.parametrize("rank", [0, 2])
def test_what_rows_keep_is_that_of_all_layers(world: Path, rank: int) -> None:
    """Measured on one layer and on two, it is what the whole model keeps."""
    model = tiny_llama(256, layers=5)
    config = settings(world, world / "run", lora_rank=rank)
    missing = 0.0
    planned = plan._footprint(model.config, config, CPU, missing, bf16=False)
    scorer = TokenScorer(prepare_training(model, CPU, rank), 1.0, None)
    whole = measure(scorer, missing, CPU, most_tokens(CPU, bf16=False))
    assert planned.linear == pytest.approx(whole.linear, rel=0.02)
    assert planned.square == pytest.approx(whole.square, rel=0.02, abs=1)
    assert (planned.inputs, planned.layers) == (whole.inputs, whole.layers)
    assert planned.fixed == pytest.approx(whole.fixed, rel=0.02)


def test_what_does_not_fit_is_said_with_what_would(world: Path) -> None:
    weights, learned, reference, _ = needed(world).parts.values()
    short = needed(world, free=int(weights + learned + reference))
    assert short.problem is not None
    assert "training on rows of 64 tokens needs" in short.problem


def test_the_longest_row_is_an_opening_and_all_responses(world: Path) -> None:
    rows = [longest_row(settings(world, world / "run", max_tokens=n)) for n in (4, 5)]
    assert rows[1] - rows[0] == 2
    three = longest_row(settings(world, world / "run", max_tokens=4, attempts=3))
    assert three - rows[0] == 4


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    task = ["--task", "jsonl", "--grader", "number", "--prompts", "lab", "--max-tokens", "4"]
    named = ["--model", str(world / "model"), "--data", str(world / "problems.jsonl")]
    return ["train", "score", *named, *task, "--device", "cpu", "--out", str(out), "--plan", *more]


def test_a_plan_trains_nothing_and_leaves_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(arguments(world, tmp_path / "run", "--samples", "2")) == 0
    said = capsys.readouterr().out
    assert re.search(r"^memory: [\d.]+ GB = weights ", said, re.M)
    assert re.search(r"^seconds a step: about .* rollout .* reference .* update", said, re.M)
    assert re.search(r"^120 steps: about ", said, re.M)
    assert not list(tmp_path.iterdir())


def test_supervised_methods_tell_collecting_from_fine_tuning(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(world, tmp_path / "run", "--best-of", "2", "--json")
    assert redraft(["train", "rise", *command[2:]]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["collecting_seconds_per_problem"] > 0
    assert set(said["seconds_per_step"]) == {"update"}


def test_no_endpoint_is_asked_for_a_plan(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(world, tmp_path / "run", "--sources", "http://127.0.0.1:9/v1#model")
    assert redraft(["train", "cap", *command[2:]]) == 0
    said = capsys.readouterr().out
    assert "asks an endpoint" in said
    assert "seconds a step" not in said


def test_several_devices_are_planned_without_a_measurement(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(world, tmp_path / "run", "--processes", "8", "--sharding", "fsdp2")
    assert redraft(command) == 0
    said = capsys.readouterr().out
    assert "memory each of 8 devices" in said
    assert "without torchrun" in said
    assert "seconds a step" not in said


def test_overlap_on_one_device_is_not_said_to_save_time(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(arguments(world, tmp_path / "run", "--samples", "2", "--overlap")) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("overlap is not in the time")


def test_a_run_that_does_not_fit_is_exit_code_1(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 1000)
    assert redraft(arguments(world, tmp_path / "run")) == 1
    assert "does not fit: " in capsys.readouterr().out


def test_processes_belong_to_a_plan(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(world, tmp_path / "run", "--processes", "2")
    command.remove("--plan")
    assert redraft(command) == 2
    assert "torchrun" in capsys.readouterr().err
