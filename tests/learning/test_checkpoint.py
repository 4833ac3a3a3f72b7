"""Checkpoints: a run killed and resumed goes on as if nothing had happened."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from redraft.errors import UserError
from redraft.learning.checkpoint import (
    complete_checkpoints,
    newest_complete,
    prune_checkpoints,
    read_extra,
    restore_replaced,
    write_checkpoint,
)
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner
from redraft.learning.rows import TrainingRow
from tiny_models import tiny_llama, tiny_tokenizer

CONFIG = LearnerConfig(
    learning_rate=1e-2, weight_decay=0.1, schedule="cosine", warmup_steps=1, total_steps=6
)


def sampled_rows() -> list[TrainingRow]:
    """Rows that depend on all three random generators."""
    return [
        TrainingRow(
            tokens=torch.randint(5, 40, (9,)).numpy(),
            turn=[0, 0, 1, 1, 1, 0, 2, 2, 2],
            advantage=[0, 0, *np.random.normal(size=3), 0, *[random.gauss(0, 1)] * 3],
        )
        for _ in range(4)
    ]


def seed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return copy.deepcopy(dict(learner.model.state_dict()))


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def lora() -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(adapter: bool, tmp_path: Path) -> None:
    learner = Learner(lora() if adapter else tiny_llama(), CONFIG)
    seed()
    for _ in range(2):
        learner.step(sampled_rows())
    folder = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"next": [3, 1]})
    assert folder == newest_complete(tmp_path) == tmp_path / "step-000002"
    halfway = weights(learner)
    unbroken = [learner.step(sampled_rows()) for _ in range(2)]

    torch.manual_seed(99)
    model: Any
    if adapter:
        model = PeftModel.from_pretrained(tiny_llama(), str(folder), is_trainable=True)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    resumed = Learner(model, CONFIG)
    resumed.load(folder)
    assert resumed.steps == 2
    assert_identical(weights(resumed), halfway)
    assert [resumed.step(sampled_rows()) for _ in range(2)] == unbroken
    assert_identical(weights(resumed), weights(learner))
    assert read_extra(folder) == {"next": [3, 1]}


def test_resuming_without_the_optimiser_is_not_identical(tmp_path: Path) -> None:
    """The test above can fail: the weights alone do not carry a run on."""
    learner = Learner(tiny_llama(), CONFIG)
    seed()
    learner.step(sampled_rows())
    folder = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {})
    learner.step(sampled_rows())
    fresh = Learner(AutoModelForCausalLM.from_pretrained(folder), CONFIG)
    fresh.step(sampled_rows())
    assert not torch.equal(
        fresh.model.get_input_embeddings().weight, learner.model.get_input_embeddings().weight
    )


def test_a_checkpoint_loads_like_any_model(tmp_path: Path) -> None:
    model: PreTrainedModel = tiny_llama()
    folder = write_checkpoint(tmp_path, Learner(model, CONFIG), tiny_tokenizer(), {})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("1 + 1", return_tensors="pt").input_ids
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert tokenizer.chat_template == tiny_tokenizer().chat_template


def test_an_unfinished_checkpoint_is_not_complete(tmp_path: Path) -> None:
    learner = Learner(tiny_llama(), CONFIG)
    assert newest_complete(tmp_path / "nowhere") is None
    first = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {})
    learner.step(sampled_rows())
    with pytest.raises(TypeError):  # dies half-way, as if killed
        write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"bad": object()})
    assert newest_complete(tmp_path) == first
    second = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {})
    assert complete_checkpoints(tmp_path) == [first, second]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000", "step-000001"]


def test_a_step_written_twice_keeps_the_second(tmp_path: Path) -> None:
    learner = Learner(tiny_llama(), CONFIG)
    for value in (1, 2):
        folder = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"value": value})
    assert read_extra(folder) == {"value": 2}


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (2, 10, 9, 1000000):
        (tmp_path / f"step-{step:06d}").mkdir()
    (tmp_path / ".step-000011.partial").mkdir()
    (tmp_path / "step-notes").mkdir()
    prune_checkpoints(tmp_path, keep_last=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["step-000010", "step-1000000", "step-notes"]


def test_checkpoints_are_read_without_running_their_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    learner = Learner(tiny_llama(), CONFIG)
    folder = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {})
    torch.save({"optimizer": Trap(), "steps": 0}, folder / "learner.pt")
    with pytest.raises(UserError, match=r"learner\.pt"):
        learner.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_missing_or_foreign_files_are_one_clear_line(tmp_path: Path) -> None:
    learner = Learner(tiny_llama(), CONFIG)
    with pytest.raises(UserError, match=r"learner\.pt: cannot be read"):
        learner.load(tmp_path)
    learner.step(sampled_rows())
    folder = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {})
    with pytest.raises(UserError, match="optimiser of another model"):
        Learner(tiny_llama(layers=1), CONFIG).load(folder)
    whole = (folder / "learner.pt").read_bytes()
    (folder / "learner.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        learner.load(folder)
    (folder / "extra.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not a JSON object"):
        read_extra(folder)
    (folder / "extra.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON object"):
        read_extra(folder)


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(tiny_llama(), CONFIG)
    place = write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"value": 1})
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"value": 2})
    restore_replaced(tmp_path)
    assert newest_complete(tmp_path) == place
    assert read_extra(place) == {"value": 1}
    AutoModelForCausalLM.from_pretrained(place)
    write_checkpoint(tmp_path, learner, tiny_tokenizer(), {"value": 3})
    restore_replaced(tmp_path)
    assert read_extra(place) == {"value": 3}
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_when_the_tokenizer_is_written(tmp_path: Path) -> None:
    """The library says so by a bare Exception."""

    class Full:
        def save_pretrained(self, folder: Path) -> None:
            tiny_tokenizer().backend_tokenizer.save("/dev/full")

    tokenizer: Any = Full()
    learner = Learner(tiny_llama(), CONFIG)
    with pytest.raises(UserError, match=r"cannot be written \(No space left .*make room"):
        write_checkpoint(tmp_path, learner, tokenizer, {})
    assert not list(tmp_path.iterdir())
