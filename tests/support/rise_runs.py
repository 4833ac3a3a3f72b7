"""Tiny runs of RISE and its baselines: their settings, and what they leave in their folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from endpoints import Asked, Behaviour, Handler, completion
from redraft.cli import run as redraft
from redraft.learning.imitation import Example
from redraft.storage import read_jsonl
from redraft.training.settings import SupervisedConfig
from redraft.types import Episode

C = TypeVar("C", bound=SupervisedConfig)

RETRY = "Please correct any error."


def fields(world: Path, **others: Any) -> dict[str, Any]:
    """Settings of a run on the world's 6 problems, 2 at a time, `others` before these."""
    few = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "max_tokens": 4,
        "learning_rate": 1e-2,
        "batch_size": 4,
        "epochs": 1.0,
        "collect_at_once": 2,
        "device": "cpu",
        "precision": "float32",
    }
    return few | others


def settings(kind: type[C], world: Path, out: Path, **others: Any) -> C:
    """The same as a method's settings."""
    return kind(out=out, **fields(world, **others))


def train(method: str, world: Path, out: Path, **others: Any) -> int:
    """`redraft train METHOD` with these settings; its exit code."""
    flags: list[str] = []
    for name, value in fields(world, **others).items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return redraft(["train", method, "--out", str(out), *flags])


def collected(run: Path, iteration: int = 1) -> list[Episode]:
    """What was played in an iteration, in order."""
    files = sorted(folder(run, iteration).glob("episodes-*.jsonl"))
    return [episode for file in files for episode in read_jsonl(file, Episode)]


def examples(run: Path, iteration: int = 1) -> list[Example]:
    """What was learned from in an iteration."""
    return read_jsonl(folder(run, iteration) / "examples.jsonl", Example)


def counts(run: Path, iteration: int = 1) -> dict[str, float]:
    """The iteration's summary."""
    found: dict[str, float] = json.loads((folder(run, iteration) / "summary.json").read_text())
    return found


def folder(run: Path, iteration: int = 1) -> Path:
    return run / "iterations" / f"{iteration:02d}"


def texts(run: Path) -> dict[str, str]:
    """All files of all iterations but models, by name."""
    return {
        str(path.relative_to(run)): path.read_text()
        for path in sorted((run / "iterations").rglob("*.json*"))
        if "model" not in path.parts and path.name != "checksums.json"
    }


def edit(run: Path, **fields: Any) -> None:
    """Change settings in a run's config.yaml."""
    file = run / "config.yaml"
    values = yaml.safe_load(file.read_text())
    for name, value in fields.items():
        group, _, inner = name.rpartition("__")
        (values[group] if group else values)[inner] = value
    file.write_text(yaml.safe_dump(values))


def gold(question: str) -> str:
    """The answer to a question of `guessing_model.save_problems`."""
    return "12"[int(question.removesuffix("?")) % 2]


def knowing(fails: Sequence[str] = ()) -> Behaviour:
    """A server that knows the golds, and refuses questions in `fails` as long as they are there."""

    def behave(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
            return
        question = asked.body["messages"][0]["content"]
        if question in fails:
            handler.send(400, {"error": {"message": f"no answer to {question}"}})
        else:
            handler.send(200, completion(gold(question)))

    return behave
