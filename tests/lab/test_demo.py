"""The demo, cut short: everything happens, nothing is learned."""

import json
from pathlib import Path

import pytest

from redraft.cli import run


def test_the_demo_compares_three_systems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    told = f"demo --out {out} --problems 4 --stage-one-steps 1 --stage-two-steps 1"
    assert run(told.split()) == 0
    shown = capsys.readouterr()
    assert "multi-turn RL (sum): training" in shown.err
    assert "SCoRe: stage II" in shown.err
    assert "Δ(t1,t2) of SCoRe minus multi-turn RL (sum):" in shown.out
    assert str(out) in shown.out.replace("\n", "")
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert list(summary) == ["base", "multi-turn RL (sum)", "SCoRe"]
    assert all(len(system["accuracy"]) == 2 for system in summary.values())
    for trained in ("multi-turn-rl-sum", "score"):
        lines = (out / trained / "training" / "metrics.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == 2
        assert (out / trained / "evaluation" / "episodes" / "turns.jsonl").exists()
