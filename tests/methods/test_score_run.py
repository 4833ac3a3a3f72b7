"""Whole runs of `train` on a tiny model: the folder, the ablations, and what stops a run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from guessing_model import save_guesser, save_problems
from redraft.cli import run as redraft
from redraft.config import resolve
from redraft.errors import UserError
from redraft.learning.checkpoint import complete_checkpoints, read_extra
from redraft.learning.rows import TrainingRow
from redraft.methods.score import ScoreConfig
from redraft.progress import Silent
from redraft.training import launch
from redraft.training.on_policy import OnPolicyRun
from score_runs import Notes, metrics, played, same_weights, settings, weights

Train = Callable[..., Path]


@pytest.fixture
def train(world: Path, tmp_path: Path) -> Train:
    """Trains in a folder of the test's own."""

    def run(progress: Silent | None = None, **fields: Any) -> Path:
        return launch.train("score", settings(world, tmp_path / "run", **fields), progress)

    return run


# The folder

EVERY_STEP = {
    "n_problems",
    "n_samples",
    "accuracy/turn1",
    "accuracy/turn2",
    "delta_t1_t2",
    "i_to_c",
    "c_to_i",
    "changed",
    "verbatim_copy",
    "edit_distance_ratio",
    "attempt_tokens/turn1",
    "attempt_tokens/turn2",
    "truncated/turn1",
    "truncated/turn2",
    "kl/turn1",
    "kl/turn2",
    "entropy/turn1",
    "entropy/turn2",
    "grad_norm",
    "loss",
    "learning_rate",
    "logprob_gap/mean_abs",
    "logprob_gap/max",
    "tokens_per_second/rollout",
    "tokens_per_second/reference",
    "tokens_per_second/update",
    "seconds/rollout",
    "seconds/reference",
    "seconds/update",
}


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    """A run of two steps of each stage, and what it said."""
    notes = Notes()
    out = tmp_path_factory.mktemp("score") / "run"
    config = settings(world, out, stage_one_steps=2, stage_two_steps=2, checkpoint_every=1)
    assert launch.train("score", config, notes) == out
    return out, notes


def test_the_folder_explains_itself(finished: tuple[Path, Notes], world: Path) -> None:
    run, notes = finished
    names = {path.name for path in run.iterdir()}
    assert names == {
        "run.lock",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "episodes",
        "checkpoints",
        "model",
        "summary.json",
    }
    config = resolve(ScoreConfig, file=run / "config.yaml")
    assert config == settings(world, run, stage_one_steps=2, stage_two_steps=2, checkpoint_every=1)
    assert json.loads((run / "environment.json").read_text())["command"] == "train score"
    assert notes.phases == [("training", 4)]


def test_every_step_is_logged_with_every_metric(finished: tuple[Path, Notes]) -> None:
    lines = metrics(finished[0])
    assert [(line["step"], line["phase"]) for line in lines] == [
        (1, "stage I"),
        (2, "stage I"),
        (3, "stage II"),
        (4, "stage II"),
    ]
    for line in lines:
        assert {
            name for name in EVERY_STEP if isinstance(line.get(name), int | float)
        } == EVERY_STEP
        # Sampled and scored by the same float32 weights.
        assert line["logprob_gap/max"] < 1e-4
        assert line["grad_norm"] > 0


def test_metrics_are_those_of_the_steps_episodes(finished: tuple[Path, Notes]) -> None:
    run, _ = finished
    for line in metrics(run):
        episodes = played(run, line["step"])
        assert len(episodes) == line["n_samples"] == 12
        assert line["n_problems"] == 3
        assert {episode.policy for episode in episodes} == {f"step-{line['step'] - 1:06d}"}
        second = [episode.correct[1] for episode in episodes]
        for one in (turn for episode in episodes for turn in episode.answers):
            assert one.advantage is not None
            assert len(one.ref_logprobs) == len(one.logprobs)
            gap = np.subtract(one.logprobs, one.ref_logprobs)
            assert abs(gap).max() < 1e-4 or line["step"] > 1, "the reference is where it began"
        assert line["accuracy/turn2"] == pytest.approx(sum(second) / 12)
    assert len({tuple(e.tokens) for s in (1, 2, 3, 4) for e in played(run, s)}) > 12


def test_an_epoch_goes_through_every_problem_once(finished: tuple[Path, Notes]) -> None:
    run, _ = finished
    drawn = [[episode.problem.id for episode in played(run, step)] for step in (1, 2, 3, 4)]
    everything = {f"jsonl/train/{index}" for index in range(6)}
    for epoch in (drawn[0] + drawn[1], drawn[2] + drawn[3]):
        assert sorted(epoch) == sorted([*everything] * 4)
    assert drawn[0] + drawn[1] != drawn[2] + drawn[3]  # and in another order


def test_checkpoints_and_model_load_like_any_other(
    finished: tuple[Path, Notes], world: Path
) -> None:
    run, _ = finished
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-000003", "step-000004"]
    names = {path.name for path in (run / "model").iterdir()}
    assert not names & {"learner.pt", "random-0.pt", "extra.json"}
    assert AutoTokenizer.from_pretrained(run / "model")("1").input_ids == [6]
    assert same_weights(run / "model", run / "checkpoints" / "step-000004")
    assert not same_weights(run / "model", world / "model")


def test_training_on_reward_raises_it_until_there_is_nothing_left_to_learn(train: Train) -> None:
    notes = Notes()
    run = train(
        notes,
        variant="multi-turn-sum",
        stage_one_steps=0,
        stage_two_steps=20,
        problems_per_step=1,
        samples=8,
        limit=1,
    )
    lines = metrics(run)
    early, late = (
        sum(line["accuracy/turn2"] for line in part) / 5 for part in (lines[:5], lines[-5:])
    )
    assert late > early + 0.3
    flat = {
        line["step"]: line["accuracy/turn1"]
        for line in lines
        if line["accuracy/turn1"] == line["accuracy/turn2"] and line["accuracy/turn1"] in (0, 1)
    }
    assert 1 in flat.values()
    whole = [note for note in notes.notes if "of attempt" not in note]
    assert [note.partition(", ")[0] for note in whole] == [
        f"step {step}: every reward is {reward:g}" for step, reward in flat.items()
    ]
    assert notes.notes[-1].endswith("use harder problems")


# Variants


@pytest.mark.parametrize(
    ("fields", "names", "turns"),
    [
        ({"variant": "no-stage-one"}, ["stage II"] * 2, 2),
        ({"variant": "no-bonus"}, ["stage I", "stage II"], 2),
        ({"variant": "single-turn"}, ["single-turn RL"] * 2, 1),
        ({"variant": "multi-turn-last"}, ["multi-turn RL (last)"] * 2, 2),
        ({"variant": "multi-turn-sum"}, ["multi-turn RL (sum)"] * 2, 2),
        ({"beta1": 0, "beta2": 0, "stage_two_steps": 4}, ["stage I"] + ["stage II"] * 4, 2),
        ({"attempts": 3, "lora_rank": 2}, ["stage I", "stage I(b)", "stage II"], 3),
        ({"fresh_optimizer": False, "normalize": "token"}, ["stage I", "stage II"], 2),
        ({"precision": "bfloat16"}, ["stage I", "stage II"], 2),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_every_variant_runs(
    fields: dict[str, Any], names: list[str], turns: int, train: Train, world: Path
) -> None:
    run = train(**fields)
    lines = metrics(run)
    assert [line["phase"] for line in lines] == names
    assert f"accuracy/turn{turns}" in lines[-1]
    assert f"accuracy/turn{turns + 1}" not in lines[-1]
    assert ("kl/turn1" in lines[0]) == (fields.get("beta1") != 0)
    assert {len(episode.responses) for episode in played(run, len(lines))} == {turns}
    if "lora_rank" in fields:
        assert (run / "model" / "adapter_config.json").exists()
    else:
        assert not same_weights(world / "model", run / "model")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_policy_equals_its_reference_before_the_first_step(
    precision: str, train: Train
) -> None:
    assert metrics(train(precision=precision))[0]["kl_k3/turn1"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("attempts", [2, 3])
def test_the_reference_of_a_lora_folder_has_its_adapter(
    attempts: int, train: Train, world: Path, tmp_path: Path
) -> None:
    start = launch.train("score", settings(world, tmp_path / "start", lora_rank=2)) / "model"
    lines = metrics(train(model=str(start), attempts=attempts, precision="bfloat16"))
    assert lines[0]["kl_k3/turn1"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["kl_k3/turn1"] > 1e-5


def test_three_attempts_go_back_to_the_base_model_as_reference(train: Train) -> None:
    run = train(attempts=3, stage_one_steps=2, stage_two_steps=1)
    lines = metrics(run)
    assert [line["phase"] for line in lines] == ["stage I"] * 2 + ["stage I(b)"] * 2 + ["stage II"]
    # The policy equals its reference before a run's and I(b)'s first step, but not Stage II's.
    distances = [line["kl_k3/turn1"] for line in lines]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[1] > 1e-4
    assert distances[2] == pytest.approx(0, abs=1e-6)
    assert distances[4] > 1e-4


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_offline_first_attempts_are_the_references(lora_rank: int, train: Train) -> None:
    run = train(
        offline_share=0.5,
        stage_one_steps=1,
        stage_two_steps=2,
        problems_per_step=2,
        lora_rank=lora_rank,
    )
    lines = metrics(run)
    assert [line["off_policy/turn1"] for line in lines] == [0, 0.5, 0.5]
    assert all(line["off_policy/turn2"] == 0 for line in lines)
    for step in (2, 3):
        episodes = played(run, step)
        by_problem = {e.problem.id: e.turns[0].author for e in episodes}
        assert sorted(by_problem.values()) == ["policy", "teacher"]
        assert all(e.turns[0].author == by_problem[e.problem.id] for e in episodes)
        assert all(e.responses[1].author == "policy" for e in episodes)


def test_the_best_checkpoint_becomes_the_model(train: Train) -> None:
    run = train(
        variant="multi-turn-sum",
        stage_one_steps=0,
        stage_two_steps=6,
        checkpoint_every=2,
        keep_checkpoints=9,
        select="best",
    )
    rewards = [line["accuracy/turn2"] for line in metrics(run)]
    means = [sum(rewards[k : k + 2]) / 2 for k in (0, 2, 4)]
    best = 2 * (1 + means.index(max(means)))
    assert best != 6, "the case says nothing if the last checkpoint is the best; take another seed"
    assert same_weights(run / "model", run / "checkpoints" / f"step-{best:06d}")
    kept = {int(read_extra(p)["step"]): p for p in complete_checkpoints(run / "checkpoints")}
    scores = [read_extra(kept[step])["score"] for step in (2, 4, 6)]
    assert scores == pytest.approx(means)


# What a run says


def test_rewards_that_are_all_zero_are_said(train: Train, tmp_path: Path) -> None:
    notes = Notes()
    train(notes, data=save_problems(tmp_path / "hopeless.jsonl", "~~"), max_tokens=1)
    assert notes.notes == [
        f"step {step}: every reward is 0, there is nothing to tell attempts apart by; "
        "use easier problems or a higher --max-tokens"
        for step in (1, 2)
    ]


def test_last_reward_credit_looks_at_the_last_reward_alone(train: Train) -> None:
    notes = Notes()
    run = train(
        notes,
        variant="multi-turn-last",
        stage_one_steps=0,
        stage_two_steps=12,
        problems_per_step=1,
        learning_rate=1e-9,
    )
    lines = metrics(run)
    flat = [line for line in lines if line["accuracy/turn2"] in (0, 1)]
    assert any(0 < line["accuracy/turn1"] < 1 for line in flat)
    assert len(notes.notes) == len(flat)
    for note, line in zip(notes.notes, flat, strict=True):
        assert note.startswith(f"step {line['step']}: every reward ")


def test_problems_without_a_usable_gold_are_dropped_and_counted(
    train: Train, tmp_path: Path
) -> None:
    rows = [{"question": "a?", "gold": "one"}, {"question": "b?", "gold": "1"}]
    data = tmp_path / "some.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    run = train(notes, data=data, grader="number", variant="single-turn")
    assert notes.notes[0].startswith("1 problems dropped, no answer could be right: jsonl/train/0")
    assert {episode.problem.gold for episode in played(run, 1)} == {"1"}


def test_a_run_needs_at_least_one_problem(train: Train, tmp_path: Path) -> None:
    data = save_problems(tmp_path / "none.jsonl", "xy")
    with pytest.raises(UserError, match="--task jsonl: no problem is left to train on"):
        train(data=data, grader="number")


# What reaches the learner


def test_the_bonus_is_in_the_advantages_of_stage_two_alone(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every advantage is one of reward alone, but those of attempt 2 in Stage II."""
    seen: list[list[TrainingRow]] = []
    update = OnPolicyRun.update
    monkeypatch.setattr(
        OnPolicyRun, "update", lambda self, rows: seen.append(list(rows)) or update(self, rows)
    )
    train(stage_one_steps=3, stage_two_steps=3, alpha=100.0)

    def largest(rows: list[TrainingRow], turn: int) -> float:
        values = [abs(row.advantage[row.turn == turn]) for row in rows if row.advantage is not None]
        return max((float(each.max()) for each in values if each.size), default=0.0)

    one = [row for rows in seen[:3] for row in rows]
    two = [row for rows in seen[3:] for row in rows]
    assert largest(one, 1) == 0
    assert 0 < largest(one, 2) <= 1
    assert largest(two, 1) <= 1
    assert largest(two, 2) > 30


# What stops a run


def test_a_loss_that_is_not_finite_stops_with_weights_and_batch(
    train: Train, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train(stage_one_steps=2, stage_two_steps=2, alpha=1e38)
    run = tmp_path / "run"
    checkpoint, aside = run / "checkpoints" / "step-000000", run / "failed-step-000003"
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("step 3: loss ")
    assert f"; batch: {aside / 'rows.json'}, last good checkpoint: {checkpoint}; " in line
    rows = [TrainingRow(**row) for row in json.loads((aside / "rows.json").read_text())["rows"]]
    assert max(float(abs(row.advantage).max()) for row in rows if row.advantage is not None) > 1e37
    assert all(value.isfinite().all() for value in weights(aside).values())
    assert not same_weights(world / "model", aside)
    assert same_weights(world / "model", checkpoint)
    assert [line["step"] for line in metrics(run)] == [1, 2]
    assert len(played(run, 2)) == 12


# Problems that do not fit the context window


@pytest.fixture
def with_long_problem(world: Path, tmp_path: Path) -> dict[str, Any]:
    """Fields of a run whose second problem alone has more tokens than the model takes."""
    rows = [{"question": f"{i}?", "gold": "1"} for i in range(3)]
    rows[1]["question"] = "long" * 200
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"data": data, "stage_one_steps": 2, "stage_two_steps": 2}


def test_a_problem_that_does_not_fit_is_a_truncated_episode_without_a_row(
    train: Train, with_long_problem: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    learn = OnPolicyRun.learn

    def count(run: Any, given: Any, *rest: Any) -> Any:
        rows.append(len(given))
        return learn(run, given, *rest)

    monkeypatch.setattr(OnPolicyRun, "learn", count)
    run = train(**with_long_problem)
    assert len(metrics(run)) == 4
    for step in (1, 2, 3, 4):
        long = [e for e in played(run, step) if e.problem.question.startswith("long")]
        assert len(played(run, step)) == 12
        assert len(long) == 4
        for episode in long:
            assert episode.turns == []
            assert episode.outcome == "truncated"
            assert "exceed the model's window of 512" in episode.note
    assert rows == [8] * 4
    assert all(line["truncated/turn1"] >= 1 / 3 for line in metrics(run))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_step_whose_only_problem_does_not_fit_is_gone_past(
    stopped: bool, train: Train, with_long_problem: dict[str, Any], tmp_path: Path
) -> None:
    """Also by a resumed run, which meets the problem again."""
    fields = {**with_long_problem, "problems_per_step": 1, "checkpoint_every": 1}
    notes = Notes()
    run = train(notes, **fields)
    said = [note for note in notes.notes if "no problem fits the context window" in note]
    empty = [step for step in (1, 2, 3, 4) if not any(e.turns for e in played(run, step))]
    assert len(said) == len(empty) >= 1
    [number] = [k for k in range(len(said)) if said[k].startswith(f"step {empty[0]}: ")]
    assert "jsonl/train/1: a context of" in said[number]
    before, after = (run / "checkpoints" / f"step-{empty[-1] - k:06d}" for k in (1, 0))
    if before.exists():
        assert same_weights(before, after)
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]
    if stopped:
        kept = weights(run / "model")
        for path in complete_checkpoints(run / "checkpoints"):
            if int(read_extra(path)["step"]) >= empty[-1]:
                shutil.rmtree(path)
        launch.resume(run)
        assert all(value.equal(kept[name]) for name, value in weights(run / "model").items())
        assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]


def test_the_schedule_of_the_learning_rate_goes_by_the_steps_of_the_run(
    train: Train, with_long_problem: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that have nothing to learn from count, too."""
    counted, empty = [], []
    update = OnPolicyRun.update

    def spied(run: Any, rows: Any) -> dict[str, float]:
        learned = update(run, rows)
        empty.append(not learned)
        counted.append((run.step, run.learner.steps))
        return learned

    monkeypatch.setattr(OnPolicyRun, "update", spied)
    train(**with_long_problem, problems_per_step=1)
    assert any(empty)
    assert counted == [(1, 1), (2, 2), (3, 1), (4, 2)]


def test_a_run_none_of_whose_problems_fit_stops(
    train: Train, with_long_problem: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train(**with_long_problem, max_tokens=511)
    assert re.fullmatch(
        r"step 1: no problem fits the context window, not even the shortest, jsonl/train/\d: a "
        r"context of \d+ tokens and max_tokens 511 exceed the model's window of 512; newest "
        rf"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step-000000'}",
        str(caught.value),
    )


def test_a_dialogue_that_outgrows_the_window_ends_truncated(world: Path, tmp_path: Path) -> None:
    """One attempt fits this model, and two if the first is short: the others are learned from as
    far as they go."""
    model = save_guesser(tmp_path / "short", window=40)
    run = launch.train("score", settings(world, tmp_path / "run", model=str(model)))
    for step in (1, 2):
        episodes = played(run, step)
        assert {(len(e.answers), e.outcome) for e in episodes} == {
            (1, "truncated"),
            (2, "finished"),
        }
        for episode in episodes:
            assert ("exceed the model's window of 40" in episode.note) == (
                len(episode.answers) == 1
            )
    assert metrics(run)[1]["attempted/turn2"] < 1


# Bad input


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--task", "gms8k"], "unknown task 'gms8k'"),
        (["--data", "nowhere.jsonl"], "data 'nowhere.jsonl' does not exist"),
        (["--max-tokens", "512"], "has a context window of 512 tokens"),
        (["--question-field", "query"], "query"),
        (["--prompts", "mine"], "unknown prompt set 'mine'; there is: "),
        (["--device", "cuda:99"], "--device cuda:99: this machine offers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    flags: list[str],
    complaint: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {
        "--model": world / "model",
        "--task": "jsonl",
        "--data": world / "problems.jsonl",
        "--grader": "exact",
        "--out": tmp_path / "run",
        "--device": "cpu",
    }
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    if given["--task"] != "jsonl":
        given = {name: given[name] for name in ("--model", "--task", "--out")}
    code = redraft(["train", "score", *(str(part) for pair in given.items() for part in pair)])
    error = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("redraft: error: ")
    assert complaint in error.splitlines()[-1]


def test_a_run_never_overwrites_another(train: Train, tmp_path: Path) -> None:
    run = train()
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="holds a run; give another --out"):
        train()
    assert (run / "metrics.jsonl").read_text() == before
