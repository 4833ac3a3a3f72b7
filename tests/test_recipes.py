"""Every recipe is a configuration that its method takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from redraft.config import fields, resolve
from redraft.methods.baselines import BASELINES
from redraft.methods.rise_config import RiseConfig
from redraft.methods.score_config import ScoreConfig
from redraft.methods.train_config import TrainConfig
from redraft.protocols import prompts_for

RECIPES = Path(__file__).parents[1] / "recipes"
METHODS: dict[str, type[TrainConfig]] = {
    "rise": RiseConfig,
    "score": ScoreConfig,
    **{name: baseline.settings for name, baseline in BASELINES.items()},
}

files = sorted(RECIPES.glob("*.yaml"))
every_recipe = pytest.mark.parametrize("file", files, ids=lambda file: file.stem)


def settings(file: Path) -> type[TrainConfig]:
    """The settings of the method that a recipe's name begins with."""
    return METHODS[max((m for m in METHODS if file.stem.startswith(f"{m}-")), key=len)]


def test_there_are_recipes_for_one_gpu_and_for_a_node() -> None:
    assert {"rise-qwen2.5-1.5b-lora", "rise-llama3-8b-full"} <= {file.stem for file in files}


@every_recipe
def test_a_recipe_resolves(file: Path, tmp_path: Path) -> None:
    """Into what it says: no field is misspelt, none is left to a default by mistake."""
    config = resolve(settings(file), file=file, overrides={"out": tmp_path / "run"})
    written = yaml.safe_load(file.read_text())
    kept = config.model_dump(mode="json")
    for name, value in written.items():
        if isinstance(value, dict):
            assert {key: kept[name][key] for key in value} == value
        else:
            assert kept[name] == value, name
    assert prompts_for(config.task, config.prompts).name == written["prompts"]


@every_recipe
def test_the_commands_in_a_recipe_are_those_of_the_program(file: Path) -> None:
    """The training command names the recipe itself, and only flags that there are."""
    text = " ".join(line.strip("# ").removesuffix("\\") for line in file.read_text().splitlines())
    [method] = {m for m, kind in METHODS.items() if kind is settings(file)}
    found = re.search(rf"redraft\s+train {method} (--config \S+ --out \S+)", text)
    assert found
    flags = shlex.split(found.group(1))
    assert flags[1] == f"recipes/{file.name}"
    assert {flag.removeprefix("--") for flag in flags[::2]} <= {"config", *fields(settings(file))}


@pytest.mark.parametrize("file", [f for f in files if f.stem.startswith("rise-")], ids=str)
def test_rise_recipes_have_the_papers_numbers(file: Path, tmp_path: Path) -> None:
    """arXiv 2407.18219 and its code; the learning rate is the paper's with full fine-tuning."""
    config = resolve(RiseConfig, file=file, overrides={"out": tmp_path / "run"})
    paper = resolve(RiseConfig, preset="gsm8k", overrides={"out": tmp_path / "run"})
    same = (
        *("task", "prompts", "window", "epochs", "batch_size", "warmup_share", "schedule"),
        *("temperature", "max_tokens", "reward_temperature", "unparsable_reward", "best_of"),
        *("teacher_temperature", "teacher_max_tokens", "criterion", "loss_mean"),
    )
    for name in same:
        assert getattr(config, name) == getattr(paper, name), name
    assert config.lora_rank or config.learning_rate == paper.learning_rate


def test_the_readme_names_every_recipe() -> None:
    text = (RECIPES / "README.md").read_text()
    assert set(re.findall(r"^\| `(\S+\.yaml)`", text, re.MULTILINE)) == {f.name for f in files}
