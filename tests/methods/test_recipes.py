"""Every recipe is a configuration that its method takes, and that trains."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from endpoints import completion, serving
from process_groups import run_group
from recipe_models import MODELS, TEXTS, save_small
from redraft.methods import baselines
from redraft.progress import Silent
from redraft.training.launch import RUNS, train
from redraft.training.method import METHODS
from redraft.training.plan import memory_of
from redraft.training.run import TrainingRun

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


def test_there_are_recipes_for_one_gpu_for_a_node_and_for_every_method() -> None:
    assert {"rise-qwen2.5-1.5b-lora", "rise-llama3-8b-full"} <= {file.stem for file in files}
    methods = {method.name for method in METHODS.values() if not method.baseline}
    assert methods <= {file.stem.split("-")[0] for file in files}


def test_every_recipe_is_some_methods() -> None:
    names = (*METHODS, "baselines")
    assert all(any(file.stem.startswith(f"{name}-") for name in names) for file in files)


@every_use
def test_a_recipe_resolves(file: Path, method: str, tmp_path: Path) -> None:
    """Into what it says: no field is misspelt, none is left to a default by mistake."""
    written = yaml.safe_load(file.read_text())
    told = {"out": tmp_path / "run", **NEEDED.get(method, {})}
    if written["task"] == "mbpp":  # its prompts show examples
        told["data"] = save_rows("mbpp", tmp_path / "data")
    config = METHODS[method].configure(file=file, overrides=told)
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


ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": f"What is {n} + {4 - n}?", "answer": "#### 4"} for n in range(4)],
    "math": [
        {
            "problem": f"What is {n} + {4 - n}?",
            "solution": "It is $\\boxed{4}$.",
            "answer": "4",
            "level": 1,
            "subject": "Algebra",
        }
        for n in range(4)
    ],
    "mbpp": [
        {
            "text": f"Write a function that returns four, in way {n}.",
            "code": "def four():\n    return 4",
            "test_list": ["assert four() == 4"],
        }
        for n in range(4)
    ],
}
"""Problems whose answer is one of `recipe_models.TEXTS`."""


def save_rows(task: str, folder: Path) -> Path:
    """Write the problems of a task in all its splits; the questions of no two are alike."""
    folder.mkdir()
    field = next(name for name in ("question", "problem", "text") if name in ROWS[task][0])
    for first, split in ((1, "prompt"), (11, "train"), (21, "test")):
        rows = [
            {**row, "task_id": first + n, field: f"{row[field]} ({split})"}
            for n, row in enumerate(ROWS[task])
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SMALL: dict[str, Any] = {
    "device": "cpu",
    "precision": "float32",
    "engine": "local",
    "max_tokens": 8,
    "limit": 4,
    "tokens_per_microbatch": 512,
    "lora_rank": 2,
    "evaluate_every": 1,
    "evaluate_problems": 2,
    "checkpoint_every": 1,
    "problems_per_step": 2,
    "samples": 2,
    "keep_going": True,
    "stage_one_steps": 1,
    "stage_two_steps": 1,
    "steps": 2,
    "iterations": 1,
    "epochs": 2.0,
    "rationale_epochs": 1.0,
    "batch_size": 2,
    "collect_at_once": 4,
    "problems_per_iteration": 4,
    "best_of": 2,
    "chains": 2,
    "programs": 6,
    "chain_ratio": "any",
    "preference_batch_size": 2,
    "balance": False,
}
"""Settings in the place of a recipe's, where its method has them."""


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model for every model of the recipes."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        save_small(name, folder / name.replace("/", "--"))
    return folder


def small(file: Path, method: str, models: Path, folder: Path) -> dict[str, Any]:
    """What a use of a recipe is told, for a run of seconds in `folder`; without its teacher."""
    told, fields = yaml.safe_load(file.read_text()), METHODS[method].settings.model_fields
    overrides = {name: value for name, value in SMALL.items() if name in fields}
    overrides["model"] = str(models / told["model"].replace("/", "--"))
    if not told.get("lora_rank"):
        overrides["lora_rank"] = 0
    if told["task"] in ROWS:
        overrides["data"] = str(save_rows(told["task"], folder / "data"))
    return {**overrides, "out": str(folder / "run")}


def check_trained(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 2
    assert (folder / "model" / "tokenizer.json").exists()


@pytest.mark.slow
@every_use
def test_a_recipe_takes_two_steps(
    file: Path, method: str, small_models: Path, tmp_path: Path
) -> None:
    """With a small model of random weights that has the recipe's architecture, vocabulary and chat
    template, on problems and with numbers that a CPU has done in seconds."""
    overrides = small(file, method, small_models, tmp_path)
    said = completion(next(iter(TEXTS)))
    with serving(lambda handler, asked: handler.send(200, said)) as endpoint:
        if "teacher" in yaml.safe_load(file.read_text()) or method in NEEDED:
            overrides["teacher"] = endpoint.model
        train(METHODS[method], METHODS[method].configure(file=file, overrides=overrides))
    check_trained(tmp_path / "run")


def train_rank(world: Path, folder: Path) -> TrainingRun[Any]:
    """What each of several processes does with a recipe, which a file in `world` names."""
    told = json.loads((world / "told.json").read_text())
    kind = METHODS[told["method"]]
    config = kind.configure(file=Path(told["file"]), overrides=told["overrides"])
    run = RUNS[kind.run].create(config, f"train {kind.name}", Silent())
    kind.train(run)
    run.finish()
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [f for f in files if "fsdp2" in f.read_text()], ids=lambda file: file.stem
)
def test_a_sharded_recipe_takes_two_steps_on_two_processes(
    file: Path, small_models: Path, tmp_path: Path
) -> None:
    """The same, with the recipe's sharding; the engine is the local one."""
    method = file.stem.split("-")[0]
    overrides = small(file, method, small_models, tmp_path)
    said = completion(next(iter(TEXTS)))
    with serving(lambda handler, asked: handler.send(200, said)) as endpoint:
        if "teacher" in yaml.safe_load(file.read_text()):
            overrides["teacher"] = endpoint.model
        told = {"method": method, "file": str(file), "overrides": overrides}
        (tmp_path / "told.json").write_text(json.dumps(told))
        run_group("test_recipes", tmp_path, tmp_path)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["sharding"] == "fsdp2"
    check_trained(tmp_path / "run")


@pytest.mark.slow
def test_the_readme_has_the_planned_memory_of_every_recipe(tmp_path: Path) -> None:
    text, data = (RECIPES / "README.md").read_text(), save_rows("mbpp", tmp_path / "data")
    for file in files:
        method = next((name for name in METHODS if file.stem.startswith(f"{name}-")), "star")
        told = {"out": tmp_path / "run", **NEEDED.get(method, {})}
        if "mbpp" in file.stem:
            told["data"] = data
        config = METHODS[method].configure(file=file, overrides=told)
        shape, _ = MODELS[config.model]
        processes = 8 if config.sharding == "fsdp2" else 1
        longest = 512 + config.responses * config.max_tokens
        memory = memory_of(
            shape,
            config,
            torch.device("cpu"),
            longest,
            80 * 10**9,
            processes=processes,
            bf16=config.precision == "bfloat16",
        )
        assert memory.problem is None, file.name
        row = next(line for line in text.splitlines() if line.startswith(f"| `{file.name}`"))
        assert f"{memory.total / 1e9:.0f} GB" in row, (file.name, memory)
