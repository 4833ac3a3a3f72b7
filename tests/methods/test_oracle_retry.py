"""A whole run of oracle retry on a tiny model that guesses; right answers end its episodes."""

from pathlib import Path
from typing import Any

import pytest

from redraft.chat import rollout
from redraft.cli import run as redraft
from redraft.learning.rows import TrainingRow
from redraft.methods.oracle_retry import OracleRetryConfig
from redraft.training.launch import train
from redraft.training.run import TrainingRun
from redraft.types import Grade
from score_runs import metrics, played, same_weights


def settings(world: Path, out: Path, **fields: Any) -> OracleRetryConfig:
    few = {
        "model": str(world / "model"),
        "task": "jsonl",
        "data": world / "problems.jsonl",
        "grader": "exact",
        "prompts": "lab",
        "steps": 2,
        "problems_per_step": 3,
        "samples": 4,
        "max_tokens": 4,
        "learning_rate": 1e-2,
        "checkpoint_every": 1,
        "device": "cpu",
        "precision": "float32",
        "seed": 5,
    }
    return OracleRetryConfig(out=out, **(few | fields))


def test_episodes_of_unequal_length_are_learned_from(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[list[TrainingRow]] = []
    update = TrainingRun.update

    def spied(run: Any, rows: Any) -> dict[str, float]:
        learned.append(list(rows))
        return update(run, rows)

    monkeypatch.setattr(TrainingRun, "update", spied)
    run = train("oracle-retry", settings(world, tmp_path / "run"))
    episodes = played(run, 1)
    lengths = {len(episode.answers) for episode in episodes}
    assert len(lengths) > 1
    for episode in episodes:
        assert not any(episode.correct[:-1]), "the first right answer ends an episode"
        assert episode.correct[-1] == (episode.outcome == "solved")
    reached = {tuple(row.tokens.tolist()) for row in learned[0]}
    assert reached == {tuple(episode.tokens) for episode in episodes}
    first = metrics(run)[0]
    solved = sum(episode.correct[-1] for episode in episodes) / len(episodes)
    assert first["accuracy/turn3"] == pytest.approx(solved)


def test_a_step_in_which_all_is_right_at_once_has_metrics_of_every_attempt(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Grade(score=1, decided_by="always")
    monkeypatch.setattr(rollout, "grade_all", lambda _, asked, *__: [right] * len(asked))
    run = train("oracle-retry", settings(world, tmp_path / "run"))
    assert {len(episode.answers) for episode in played(run, 1)} == {1}
    for line in metrics(run):
        assert [line[f"accuracy/turn{turn}"] for turn in (1, 2, 3)] == [1.0, 1.0, 1.0]


def test_a_run_that_stopped_ends_at_the_same_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("oracle-retry", settings(world, tmp_path / "whole", steps=3))
    record = TrainingRun.record

    def stops(run: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        found = record(run, *args, **kwargs)
        if run.step == 2:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "record", stops)
        with pytest.raises(KeyboardInterrupt):
            train("oracle-retry", settings(world, tmp_path / "cut", steps=3))
    assert redraft(["resume", str(tmp_path / "cut")]) == 0
    assert same_weights(whole / "model", tmp_path / "cut" / "model")
    assert len(metrics(tmp_path / "cut")) == 3
