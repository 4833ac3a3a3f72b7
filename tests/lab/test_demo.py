"""The demo, cut short: everything happens, nothing is learned."""

import json
import shutil
from pathlib import Path

import pytest

from redraft.cli import run
from redraft.storage import read_jsonl
from redraft.types import Episode


def texts(file: Path) -> list[list[str]]:
    """What was said in the episodes of a file; log-probabilities depend on the batch, a bit."""
    return [[turn.text for turn in episode.turns] for episode in read_jsonl(file, Episode)]


def demonstrate(out: Path) -> None:
    told = f"demo --out {out} --problems 4 --stage-one-steps 1 --stage-two-steps 1"
    assert run(told.split()) == 0


def test_the_demo_compares_three_systems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    demonstrate(out)
    shown = capsys.readouterr()
    assert "multi-turn RL (sum): training" in shown.err
    assert "SCoRe: training" in shown.err
    assert "Δ(t1,t2) of SCoRe minus multi-turn RL (sum):" in shown.out
    assert str(out) in shown.out.replace("\n", "")
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert list(summary) == ["base", "multi-turn RL (sum)", "SCoRe"]
    assert all(len(system["accuracy"]) == 2 for system in summary.values())
    for trained in ("multi-turn-rl-sum", "score"):
        lines = (out / trained / "training" / "metrics.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == 2
        assert (out / trained / "evaluation" / "episodes" / "turns.jsonl").exists()


@pytest.mark.slow
def test_a_demo_that_was_killed_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    demonstrate(out)
    shown = capsys.readouterr()
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    # As a kill in the middle leaves it: one system trained and half evaluated, one half trained.
    (out / "summary.json").unlink()
    (out / "multi-turn-rl-sum" / "evaluation" / "summary.json").unlink()
    turns = out / "multi-turn-rl-sum" / "evaluation" / "episodes" / "turns.jsonl"
    said = texts(turns)
    turns.write_text("".join(turns.read_text().splitlines(True)[:2]))
    shutil.rmtree(out / "score" / "evaluation")
    shutil.rmtree(out / "score" / "training" / "model")
    (out / "score" / "training" / "summary.json").unlink()
    assert run(["resume", str(out)]) == 0
    again = capsys.readouterr()
    assert "Δ(t1,t2) of SCoRe minus multi-turn RL (sum):" in again.out
    assert again.out.splitlines()[-8:] == shown.out.splitlines()[-8:]
    assert texts(turns) == said
    assert json.loads((out / "summary.json").read_text("utf-8")) == summary
