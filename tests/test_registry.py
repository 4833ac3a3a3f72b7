"""The registry: what ships is there by name, and so is what another package brings."""

import json
import re
from pathlib import Path

import pytest

from outside_package import TASK_AND_METHOD, install, redraft_with
from redraft.chat.prompts import PROMPTS
from redraft.errors import UserError
from redraft.models import MODELS
from redraft.registry import Registry
from redraft.tasks.base import TASKS
from redraft.training.method import METHODS, PRESETS

ROOT = Path(__file__).parents[1]


# What ships


def test_what_ships_is_registered() -> None:
    assert {"gsm8k", "math", "humaneval", "mbpp", "jsonl", "bbh/word_sorting"} <= set(TASKS)
    assert {"score", "rise", "cap", "tripost"} <= set(METHODS)
    assert {"score-math", "boxed", "plain", "lab"} <= set(PROMPTS)
    assert {method.name for method in METHODS.values() if not method.baseline} == {
        *("score", "rise", "cap", "tripost")
    }
    assert "lab" in MODELS


def test_presets_are_of_methods_that_there_are() -> None:
    for preset in PRESETS.values():
        assert preset.preset in METHODS[preset.method].presets


@pytest.mark.parametrize("name", [name for name in TASKS if name != "jsonl"])
def test_a_task_answers_for_itself(name: str) -> None:
    task = TASKS[name].open({})
    assert task.name == name
    assert "{question}" in task.prompts.first
    assert "{question}" in task.programs.alone
    assert task.improvement.confirms(task.improvement.confirmation)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"unknown method 'scoer'; did you mean score\?"):
        METHODS["scoer"]
    with pytest.raises(UserError, match=r"unknown prompt set 'x'; there is: lab, score-math"):
        PROMPTS["x"]


def test_a_group_without_entry_points_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"no fork is registered: .* install it again"):
        list(Registry("fork", "redraft.forks"))


def test_the_readme_names_every_method_and_each_has_its_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `redraft train ([^|]+)\|", readme, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"[a-z][a-z-]+", row)}
    assert named == set(METHODS)
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "methods").glob("*.md"))
    for method in METHODS.values():
        if method.baseline:
            assert f"`{method.name}`" in pages or f"train {method.name}" in pages, method.name
        else:
            assert (ROOT / "docs" / "methods" / f"{method.name}.md").exists(), method.name


# What another package brings


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that brings a task and a method."""
    folder = tmp_path_factory.mktemp("outside") / "packages"
    points = {
        "redraft.tasks": {"digits": "outside_digits:TASK"},
        "redraft.methods": {"plain": "outside_digits:METHOD"},
    }
    install(folder, "outside_digits", TASK_AND_METHOD, points)
    return folder


def test_a_task_of_another_package_is_listed(installed: Path) -> None:
    done = redraft_with(installed, "tasks", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outside/digits"] == "say a digit"


def test_a_method_of_another_package_has_its_flags(installed: Path) -> None:
    listed = redraft_with(installed, "train", "--help")
    assert re.search(r"outside-plain +Plain policy gradient", listed.stdout), listed.stderr
    assert "--steps INT" in redraft_with(installed, "train", "outside-plain", "--help").stdout


def test_a_method_trains_and_resumes_and_a_task_is_evaluated_by_name(
    installed: Path, world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    few = ["--problems-per-step", 2, "--samples", 2, "--max-tokens", 4, "--checkpoint-every", 1]
    on_digits = ["--task", "outside/digits", "--device", "cpu"]
    done = redraft_with(
        installed,
        *("train", "outside-plain", "--model", world / "model", "--out", run, *on_digits, *few),
        *("then", "resume", run),
        *("then", "eval", "--model", run / "model", *on_digits, "--max-tokens", 4, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads(done.stdout[done.stdout.rindex("\n{") :])["n_problems"] == 4
    without = redraft_with(tmp_path, "resume", run)
    assert without.returncode == 2
    assert "unknown method 'outside-plain'" in without.stderr


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (
            "import no_such_library\n",
            "package broken: its task 'x' (broken:TASK) cannot be loaded (ModuleNotFoundError: "
            "No module named 'no_such_library'); update or uninstall the package",
        ),
        (
            "TASK = 3\n",
            "package broken: its task 'x' (broken:TASK) cannot be loaded (AttributeError: "
            "'int' object has no attribute 'name'); update or uninstall the package",
        ),
        (
            "from redraft.tasks.gsm8k import TASK\n",
            "task 'gsm8k' is registered by two packages, redraft and broken; uninstall one of them",
        ),
    ],
    ids=["import", "object", "name"],
)
def test_a_package_that_does_not_work_is_one_line(
    source: str, complaint: str, tmp_path: Path
) -> None:
    install(tmp_path / "packages", "broken", source, {"redraft.tasks": {"x": "broken:TASK"}})
    done = redraft_with(tmp_path / "packages", "tasks")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"redraft: error: {complaint}\n"
