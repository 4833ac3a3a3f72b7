"""A package of somebody else, installed for the length of a test into a folder of its own."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

TASK_AND_METHOD = '''
"""A task and a method that Redraft does not ship."""

from collections.abc import Sequence

import numpy as np

from redraft.chat.protocols import Intrinsic
from redraft.grading import ExactGrader
from redraft.learning.credit import advantage_rows, leave_one_out
from redraft.training.method import Method
from redraft.tasks import GeneratedTask, Posed, TaskEntry
from redraft.training.settings import OnPolicyConfig
from redraft.types import same_problem_groups


def make(split: str, index: int) -> Posed:
    return Posed("0123"[index % 4], "12"[index % 2], {"split": split})


TASK = TaskEntry(
    "outside/digits",
    "say a digit",
    lambda: GeneratedTask(
        name="outside/digits", grader=ExactGrader(), make=make, sizes={"train": 8, "test": 4}
    ),
    takes=(),
)


class PlainConfig(OnPolicyConfig):
    """Plain policy gradient on one response."""

    steps: int = 2
    """Optimiser steps."""


def train(run) -> None:
    run.begin_phase(0, 0, run.learner_config(total_steps=run.config.steps), anchored=False)
    while run.step < run.config.steps:
        episodes = run.play(Intrinsic(run.prompts, 1), run.config.steps)
        rewards = run.rewards(episodes, 1)
        advantages = leave_one_out(rewards, same_problem_groups(episodes))
        run.learn(advantage_rows(episodes, advantages, (0.0,)), episodes, "plain")


METHOD = Method("outside-plain", "Plain policy gradient.", PlainConfig, train, "on_policy")
'''
"""The source of a module with a task and a method."""


def install(
    folder: Path, name: str, source: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Install a package of one module into `folder` with pip, from a wheel made here.

    `entry_points` are names and objects by group, as in a `pyproject.toml`.
    """
    sections = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in entry_points.items()
    )
    info = f"{name}-1.0.dist-info"
    content = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(sections),
    }
    content[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*content, f"{info}/RECORD"))
    wheel = folder.parent / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", folder, wheel], check=True)


_COMMANDS = """
import sys
from redraft.cli import run
words, command = sys.argv[1:], []
for word in [*words, "then"]:
    if word != "then":
        command.append(word)
    elif code := run(command):
        sys.exit(code)
    else:
        command = []
"""


def redraft_with(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `redraft` where the packages in `folder` are installed too; several commands, with "then"
    between them, run in one process up to the first that fails."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", _COMMANDS, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
