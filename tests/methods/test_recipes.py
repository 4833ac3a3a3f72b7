"""Every recipe is a configuration that its method takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from redraft.methods import baselines
from redraft.training.method import METHODS

RECIPES = Path(__file__).parents[2] / "recipes"
BASELINES = [method.name for method in baselines.METHODS]
NEEDED: dict[str, dict[str, Any]] = {
    "off-policy-sft": {"teacher": "http://127.0.0.1:8000/v1#MODEL"},
}
"""What a method has to be told beside a recipe that is not its own alone."""

files = sorted(RECIPES.glob("*.yaml"))
every_use = pytest.mark.parametrize(
    ("file", "method"),
    [(f, m) for f in files for m in METHODS if f.stem.startswith(f"{m}-")]
    + [(f, m) for f in files for m in BASELINES if f.stem.startswith("baselines-")],
    ids=lambda value: getattr(value, "stem", value),
)


def test_there_are_recipes_for_one_gpu_and_for_a_node() -> None:
    assert {"rise-qwen2.5-1.5b-lora", "rise-llama3-8b-full"} <= {file.stem for file in files}


def test_every_recipe_is_some_methods() -> None:
    names = (*METHODS, "baselines")
    assert all(any(file.stem.startswith(f"{name}-") for name in names) for file in files)


@every_use
def test_a_recipe_resolves(file: Path, method: str, tmp_path: Path) -> None:
    """Into what it says: no field is misspelt, none is left to a default by mistake."""
    told = {"out": tmp_path / "run", **NEEDED.get(method, {})}
    config = METHODS[method].configure(file=file, overrides=told)
    written = yaml.safe_load(file.read_text())
    kept = config.model_dump(mode="json")
    for name, value in written.items():
        if isinstance(value, dict):
            assert {key: kept[name][key] for key in value} == value
        else:
            assert kept[name] == value, name
    assert config.open_prompts().name == written["prompts"]


@pytest.mark.parametrize("file", [f for f in files if f.stem.startswith("rise-")], ids=str)
def test_rise_recipes_have_the_papers_numbers(file: Path, tmp_path: Path) -> None:
    """arXiv 2407.18219 and its code; the learning rate is the paper's with full fine-tuning."""
    config = METHODS["rise"].configure(file=file, overrides={"out": tmp_path / "run"})
    paper = METHODS["rise"].configure(preset="gsm8k", overrides={"out": tmp_path / "run"})
    same = (
        *("task", "prompts", "window", "epochs", "batch_size", "warmup_share", "schedule"),
        *("temperature", "max_tokens", "reward_temperature", "unparsable_reward", "best_of"),
        *("teacher_temperature", "teacher_max_tokens", "criterion", "loss_mean"),
    )
    for name in same:
        assert getattr(config, name) == getattr(paper, name), name
    assert config.lora_rank or config.learning_rate == paper.learning_rate


def test_the_baselines_recipe_has_the_model_data_and_optimiser_of_rises() -> None:
    common, rise = (
        yaml.safe_load((RECIPES / f"{name}-qwen2.5-1.5b-lora.yaml").read_text())
        for name in ("baselines", "rise")
    )
    assert common.items() <= rise.items()
    assert {"model", "task", "prompts", "learning_rate", "batch_size"} <= common.keys()


def test_the_readme_names_every_recipe() -> None:
    text = (RECIPES / "README.md").read_text()
    assert set(re.findall(r"^\| `(\S+\.yaml)`", text, re.MULTILINE)) == {f.name for f in files}
