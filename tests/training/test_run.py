"""A training run in progress: what it keeps, what it says, and how it spreads its work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guessing_model import save_guesser
from redraft.chat.protocols import Intrinsic
from redraft.chat.rollout import rollout
from redraft.config import resolve
from redraft.engines.base import Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.learning.checkpoint import complete_checkpoints, newest_complete, read_extra
from redraft.learning.rows import TrainingRow
from redraft.methods.baselines import StarConfig
from redraft.methods.score import ScoreConfig
from redraft.models import load_model, parameter_count
from redraft.progress import Silent
from redraft.training import launch, policy
from redraft.training.diagnostics import flat_note, gap_note, no_signal, unfit_note
from redraft.training.method import METHODS
from redraft.training.on_policy import OnPolicyRun
from redraft.training.order import ProblemOrder
from redraft.training.run import TrainingRun
from redraft.training.summary import summarize
from redraft.training.supervised import SupervisedRun
from score_runs import Notes, metrics, same_weights, settings

Train = Callable[..., Path]


@pytest.fixture
def train(world: Path, tmp_path: Path) -> Train:
    """Trains in a folder of the test's own."""

    def run(progress: Silent | None = None, **fields: Any) -> Path:
        return launch.train("score", settings(world, tmp_path / "run", **fields), progress)

    return run


# Memory


@pytest.mark.parametrize(
    ("bytes_each", "remedy"),
    [(2, "free; choose a smaller model"), (8, "free; train adapters .--lora-rank 16")],
)
def test_weights_that_memory_does_not_hold_are_refused_before_they_are_loaded(
    bytes_each: int, remedy: str, train: Train, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = (parameter_count(world / "model") or 0) * bytes_each
    monkeypatch.setattr(policy, "free_memory", lambda device: free)
    monkeypatch.setattr(policy, "load_model", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=f"weights need .* to be trained, .*{remedy}"):
        train()


# Divergence


@pytest.mark.parametrize("rate", [1e12, 1e38])
def test_an_update_that_diverges_leaves_good_weights_and_its_batch(
    rate: float, train: Train, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train(learning_rate=rate, checkpoint_every=1)
    run = tmp_path / "run"
    good, batch = run / "checkpoints" / "step-000000", run / "failed-step-000001" / "rows.json"
    assert str(caught.value).startswith("step 1: ")
    assert "spoiled the weights" in str(caught.value)
    assert f"; batch: {batch}, last good checkpoint: {good}; " in str(caught.value)
    assert newest_complete(run / "checkpoints") == good
    assert same_weights(good, world / "model")
    rows = [TrainingRow(**row) for row in json.loads(batch.read_text())["rows"]]
    assert len(rows) == 12


@pytest.mark.parametrize("every", [1, 2, 50])
def test_a_checkpoint_that_the_next_step_fails_of_is_not_called_good(
    every: int, train: Train, world: Path, tmp_path: Path
) -> None:
    """Weights of 1e30 are finite, and so is the first loss after them."""
    with pytest.raises(UserError, match="last good checkpoint") as caught:
        train(learning_rate=1e30, checkpoint_every=every, stage_one_steps=4, warmup_steps=0)
    run = tmp_path / "run"
    good = newest_complete(run / "checkpoints")
    assert good is not None
    assert same_weights(good, world / "model")
    assert str(good) in str(caught.value)
    config = run / "config.yaml"
    text = config.read_text().replace("learning_rate: 1.0e+30", "learning_rate: 0.001")
    assert text != config.read_text()
    config.write_text(text)
    launch.resume(run)
    assert len(metrics(run)) == 5


def test_the_weights_a_run_begins_with_are_kept_until_there_are_later_ones(train: Train) -> None:
    run = train(checkpoint_every=1, keep_checkpoints=3)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-000000", "step-000001", "step-000002"]


def test_reinforcement_scores_attempts_at_the_temperature_they_were_sampled_at(
    train: Train,
) -> None:
    first = metrics(train(temperature=0.7))[0]
    assert first["logprob_gap/max"] < 1e-4


# Held-out evaluation, and the weights that become the model


def test_held_out_problems_are_evaluated_as_training_goes_on(train: Train, world: Path) -> None:
    """By the greedy responses of the weights after the step."""
    run = train(stage_one_steps=2, stage_two_steps=3, evaluate_every=2, checkpoint_every=1)
    lines = metrics(run)
    evaluated = [line["step"] for line in lines if "held_out/accuracy/turn2" in line]
    assert evaluated == [2, 4]
    assert all(
        (line["held_out/n_problems"], line["held_out/n_samples"]) == (4, 4)
        for line in lines
        if line["step"] in evaluated
    )
    task = settings(world, run, evaluate_every=2).open_task()
    prompts = settings(world, run).open_prompts()
    model, tokenizer = load_model(run / "checkpoints" / "step-000004", device="cpu")
    engine = LocalEngine(model, ChatTemplate(tokenizer))
    sampling = Sampling(0.0, max_tokens=4, stop=prompts.stop)
    problems = task.load("test").problems
    assert {problem.question for problem in problems} == {"20?", "21?", "22?", "23?"}
    episodes = rollout(problems, Intrinsic(prompts, 2), engine, task.grader, sampling)
    for turn in (1, 2):
        expected = sum(e.correct[turn - 1] for e in episodes) / 4
        assert lines[3][f"held_out/accuracy/turn{turn}"] == pytest.approx(expected)
        length = sum(len(e.responses[turn - 1].tokens) for e in episodes) / 4
        assert lines[3][f"held_out/attempt_tokens/turn{turn}"] == pytest.approx(length)


def test_held_out_problems_are_no_problems_of_training(train: Train, world: Path) -> None:
    """A single file serves as both splits."""
    with pytest.raises(UserError, match="--task jsonl: no held-out problems for --evaluate-every"):
        train(evaluate_every=1, data=world / "problems.jsonl")


ACCURACIES = {2: 0.25, 4: 0.75, 6: 0.5}
"""On held-out problems, by step, in the tests of `select`."""


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fields of a run of 6 steps that is best on its held-out problems after step 4."""

    def evaluate(run: TrainingRun[Any]) -> dict[str, float]:
        return {"accuracy/turn1": 1 - run.step / 10, "accuracy/turn2": ACCURACIES[run.step]}

    monkeypatch.setattr(TrainingRun, "evaluate", evaluate)
    steps = {"stage_one_steps": 3, "stage_two_steps": 3, "evaluate_every": 2}
    return {**steps, "select": "best", "checkpoint_every": 5}


def steps_of(run: Path) -> dict[int, Path]:
    """The checkpoints that are there, by step."""
    return {int(read_extra(p)["step"]): p for p in complete_checkpoints(run / "checkpoints")}


def selected(run: Path) -> int:
    """The step that the summary names, whose weights have been exported."""
    step = int(json.loads((run / "summary.json").read_text())["selected_step"])
    assert same_weights(run / "model", steps_of(run)[step])
    return step


def test_the_best_on_held_out_problems_becomes_the_model(
    train: Train, evaluated: dict[str, Any]
) -> None:
    """It has a checkpoint although none was due, and is kept although others are newer."""
    run = train(**evaluated)
    assert {step: read_extra(p)["score"] for step, p in steps_of(run).items()} == {
        4: 0.75,
        5: None,  # a step that was not evaluated has no score, however well it has trained
        6: 0.5,
    }
    assert selected(run) == 4


@pytest.mark.parametrize("how", ["deleted", "set aside"])
def test_the_best_of_the_checkpoints_that_are_there_becomes_the_model(
    how: str, train: Train, evaluated: dict[str, Any]
) -> None:
    """Not the weights of one that is gone, nor its number with the weights of another."""
    run = train(**evaluated)
    best = steps_of(run)[4]
    shutil.rmtree(best) if how == "deleted" else best.rename(run / "failed-step-000005")
    launch.resume(run)
    assert selected(run) == 6


def test_the_best_is_found_again_by_a_run_that_goes_back_before_it(
    train: Train, evaluated: dict[str, Any]
) -> None:
    run = train(**evaluated, keep_checkpoints=9)
    for step, path in steps_of(run).items():
        if step >= 4:
            shutil.rmtree(path)
    launch.resume(run)
    assert selected(run) == 4


# Settings that the learner has

COMMON = {
    "learning_rate": 2e-3,
    "weight_decay": 0.3,
    "max_grad_norm": 0.7,
    "tokens_per_microbatch": 99,
    "gradient_checkpointing": True,
}
REINFORCEMENT = {
    "clip_low": 0.1,
    "clip_high": 0.3,
    "kl_estimator": "k3",
    "entropy_weight": 0.02,
    "normalize": "token",
    "temperature": 0.8,
    "warmup_steps": 1,
    "schedule": "linear",
}


@pytest.mark.parametrize(("name", "value"), [*COMMON.items(), *REINFORCEMENT.items()])
def test_settings_of_reinforcement_reach_the_learner(
    name: str, value: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learners(monkeypatch)
    train(**{name: value}, stage_one_steps=2, stage_two_steps=3)
    assert [getattr(config, name) for config in found] == [value, value]
    assert [config.total_steps for config in found] == [2, 3]


@pytest.mark.parametrize(
    ("name", "value"), [*COMMON.items(), ("loss_mean", "token"), ("schedule", "linear")]
)
def test_settings_of_imitation_reach_the_learner(
    name: str, value: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learners(monkeypatch)
    config = settings(world, tmp_path, temperature=0.7).model_dump()
    fields = {key: config[key] for key in StarConfig.model_fields if key in config}
    star = StarConfig(
        **{
            **fields,
            "samples": 24,
            "iterations": 1,
            "epochs": 1,
            "schedule": "cosine",
            "out": tmp_path / "run",
            name: value,
        }
    )
    launch.train("star", star)
    assert [getattr(config, name) for config in found] == [value]
    assert found[0].temperature == 1
    assert found[0].total_steps == len(metrics(tmp_path / "run"))


@pytest.mark.parametrize("method", ["score", "star"])
def test_betas_and_warm_up_reach_the_learner(method: str, world: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"adam_beta1": 0.8, "adam_beta2": 0.95}
    kind = METHODS[method]
    config = settings(world, tmp_path / "run", **told)
    if method == "score":
        run: TrainingRun[Any] = OnPolicyRun.create(config, "train score", Silent())
    else:
        kept = {k: v for k, v in config.model_dump().items() if k in kind.settings.model_fields}
        run = SupervisedRun.create(StarConfig(**kept), "train star", Silent())
    assert run.learner_config().betas == (0.8, 0.95)
    assert run.learner_config(warmup_steps=3).warmup_steps == 3


def learners(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of each learner that a run makes from now on."""
    found: list[Any] = []
    begin = TrainingRun.begin_phase

    def watch(run: TrainingRun[Any], number: int, first: int, learner: Any, **rest: Any) -> None:
        found.append(learner)
        begin(run, number, first, learner, **rest)

    monkeypatch.setattr(TrainingRun, "begin_phase", watch)
    return found


# LoRA


def adapter(world: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """The adapter's weights before the first step."""
    config = settings(world, out, lora_rank=2, **fields)
    model = OnPolicyRun.create(config, "train score", Silent()).policy.model
    return {name: w.clone() for name, w in model.named_parameters() if "lora_A" in name}


def test_the_adapter_begins_as_the_seed_says(world: Path, tmp_path: Path) -> None:
    first, again, other = (
        adapter(world, tmp_path / str(number), seed=seed) for number, seed in enumerate((3, 3, 4))
    )
    assert first
    for name, value in first.items():
        assert value.equal(again[name])
        assert not value.equal(other[name])


def test_lora_settings_reach_the_adapter(world: Path, tmp_path: Path) -> None:
    fields = {"lora_alpha": 3, "lora_targets": "q_proj, v_proj"}
    assert {name.split(".")[-4] for name in adapter(world, tmp_path / "a", **fields)} == {
        "q_proj",
        "v_proj",
    }
    one = settings(world, tmp_path / "b", lora_rank=2, **fields)
    model = OnPolicyRun.create(one, "train score", Silent()).policy.model
    assert model.peft_config["default"].lora_alpha == 3
    assert settings(world, tmp_path, lora_targets="all-linear").lora_target_modules == "all-linear"


# The summary


def test_a_run_ends_with_its_summary(train: Train, tmp_path: Path) -> None:
    rows = [{"question": "a?", "gold": "one"}] + [{"question": f"{i}?", "gold": "1"} for i in "123"]
    data = tmp_path / "some.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = train(data=data, grader="number", stage_two_steps=4, checkpoint_every=3, select="best")
    summary = json.loads((run / "summary.json").read_text())
    lines = metrics(run)
    assert summary["steps"] == 5
    assert (summary["n_problems"], summary["n_dropped"]) == (3, 1)
    assert [problem["id"] for problem in summary["dropped"]] == ["jsonl/train/0"]
    assert summary["dropped"][0]["reason"]
    assert summary["selected_step"] in (3, 5)
    for turn in (1, 2):
        mean = sum(line[f"accuracy/turn{turn}"] for line in lines[-3:]) / 3
        assert summary["accuracy"][turn - 1] == pytest.approx(mean)
    delta = summary["accuracy"][1] - summary["accuracy"][0]
    assert summary["delta_t1_t2"] == pytest.approx(delta)
    assert 0 < summary["seconds"] < 60
    launch.resume(run)
    assert json.loads((run / "summary.json").read_text()) == summary


def test_the_summary_by_hand() -> None:
    lines = [
        {"step": 1, "time": 5.0, "phase": "a", "accuracy/turn1": 0.0, "seconds/rollout": 1.0},
        {"step": 2, "time": 6.0, "phase": "a", "accuracy/turn1": 0.5, "seconds/rollout": 2.0},
        {"step": 3, "time": 7.0, "phase": "b", "accuracy/turn1": 1.0, "delta_t1_t2": None},
    ]
    assert summarize(lines, 2) == {
        "steps": 3,
        "window": 2,
        "accuracy": [0.75],
        "delta_t1_t2": None,
        "metrics": {"accuracy/turn1": 0.75, "seconds/rollout": 2.0},
        "seconds": 3.0,
    }


def test_the_outcome_of_lines_that_somebody_edited() -> None:
    lines = [{"step": 1, "loss": "x", "seconds/rollout": "y"}, {"step": 2, "loss": 10**400}]
    assert summarize(lines, 2)["seconds"] == 0
    assert summarize(lines, 2)["metrics"] == {}


# The order of problems


@pytest.mark.parametrize(("size", "processes"), [(1, 1), (3, 1), (7, 3), (2, 2)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_the_offline_share_holds_over_small_steps(size: int, processes: int, share: float) -> None:
    orders = [ProblemOrder(0, 5, size, process, processes) for process in range(processes)]
    steps = range(40)
    chosen = [flag for step in steps for order in orders for flag in order.chosen(step, share)]
    assert len(chosen) == 40 * size
    assert sum(chosen) == int(40 * size * share)
    places = sorted(place for step in steps for order in orders for place in order.places(step))
    assert places == list(range(40 * size))


def test_processes_share_out_one_order() -> None:
    whole = ProblemOrder(7, 5, 5)
    parts = [ProblemOrder(7, 5, 5, process, 2) for process in range(2)]
    assert sorted(whole.problems(3)) == [0, 1, 2, 3, 4]
    assert parts[0].problems(3) == whole.problems(3)[::2]
    assert parts[1].problems(3) == whole.problems(3)[1::2]


def test_one_problem_a_step_is_offline_every_other_step(train: Train) -> None:
    run = train(variant="no-stage-one", stage_two_steps=3, problems_per_step=1, offline_share=0.5)
    assert [line["off_policy/turn1"] for line in metrics(run)] == [0, 1, 0, 1]


# Signs of trouble


def test_groups_that_agree_by_hand() -> None:
    assert no_signal(np.array([1.0, 1, 0, 1, 0, 0]), 2) == pytest.approx(2 / 3)
    # Of the second problem one episode has such an answer, of the third none: nothing to compare.
    nan = np.nan
    assert no_signal(np.array([1.0, 0, 1, nan, nan, nan, 1, 1]), 2) == pytest.approx(1 / 2)
    assert no_signal(np.array([1.0, nan]), 2) is None


def test_steps_without_signal_are_told_by_attempt() -> None:
    assert flat_note(np.array([[1.0, 0], [1, 1]]), [1, 2]) == (
        "every reward of attempt 1 is 1, there is nothing to tell attempts apart by; "
        "use harder problems"
    )
    both = flat_note(np.array([[1.0, 0], [1, 0]]), [2, 3])
    assert both is not None
    assert both.startswith("every reward of attempt 2 is 1 and every reward of attempt 3 is 0, ")
    assert flat_note(np.array([[1.0], [0]]), [2]) is None
    assert flat_note(np.array([[1.0, np.nan], [0, np.nan]]), [1, 2]) is None
    mine = flat_note(np.zeros((4, 1)), [1], "mine:reward")
    assert mine is not None
    assert mine.endswith("use a --reward that does; these are mine:reward's")
    alike = flat_note(np.zeros((4, 2)), [1, 2])
    assert alike is not None
    assert alike.startswith("every reward is 0, ")


def test_every_step_logs_how_many_problems_have_no_signal(train: Train) -> None:
    lines = metrics(train(stage_two_steps=1))
    assert [name for name in lines[0] if name.startswith("no_signal")] == ["no_signal/turn2"]
    assert [name for name in lines[1] if name.startswith("no_signal")] == [
        "no_signal/turn1",
        "no_signal/turn2",
    ]
    for line in lines:
        assert line["no_signal/turn2"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)


def test_training_without_any_signal_stops_and_says_what_to_change(
    world: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"{number}+1?", "gold": "no such answer"} for number in range(3)]
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(out: str, **fields: Any) -> Any:
        few = {"data": data, "stage_one_steps": 0, "stage_two_steps": 5, "samples": 8}
        return settings(world, tmp_path / out, **(few | fields))

    with pytest.raises(UserError, match=r"step 3: every reward of the first steps is 0") as stopped:
        launch.train("score", run("stopped"))
    for remedy in ("easier problems", "--prompts lab", "fine-tuned on worked", "--keep-going"):
        assert remedy in str(stopped.value)
    assert len(metrics(tmp_path / "stopped")) == 2
    with pytest.raises(UserError, match="step 3: every reward"):
        launch.resume(tmp_path / "stopped")  # as often as nothing is changed
    notes = Notes()
    launch.train("score", run("going", keep_going=True), notes)
    assert [note[:28] for note in notes.notes if "first steps" in note] == [
        "step 3: every reward of the "
    ]
    launch.train("score", run("few", samples=2, stage_two_steps=4))  # may be alike by chance


def test_what_to_change_when_nothing_is_learned() -> None:
    told = unfit_note(0.0, 0.734, 384, "boxed")
    assert "take more than --max-tokens 384, at which 73% of the responses were cut, easier" in told
    assert "--max-tokens" not in unfit_note(0.0, 0.0, 384, "boxed")
    assert unfit_note(1.0, 0.0, 384, "boxed").endswith("take harder problems")
    assert "a --reward that tells" in unfit_note(0.5, 0.0, 384, "boxed", "mine:reward")


def test_a_task_with_some_signal_is_not_called_unfit(train: Train) -> None:
    notes = Notes()
    train(notes, stage_one_steps=0, stage_two_steps=4)
    assert not any("of the first steps" in note for note in notes.notes)


def test_a_gap_of_rounding_is_not_told(train: Train) -> None:
    assert gap_note({"logprob_gap/mean_abs": 0.05}) is None
    assert gap_note({}) is None
    notes = Notes()
    train(notes)
    assert not any("logprob_gap" in note for note in notes.notes)


def test_the_gap_is_told_once_a_phase(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy changes between rollout and update, as if the two disagreed."""
    play = OnPolicyRun.play

    def play_and_shift(run: OnPolicyRun[Any], *rest: Any) -> Any:
        episodes = play(run, *rest)
        run.policy.model.get_output_embeddings().weight.data.mul_(1.5)
        return episodes

    monkeypatch.setattr(OnPolicyRun, "play", play_and_shift)
    notes = Notes()
    launch.train(
        "score", settings(world, tmp_path / "run", stage_one_steps=2, stage_two_steps=2), notes
    )
    told = [note for note in notes.notes if "logprob_gap/mean_abs is " in note]
    assert [note.split(":")[0] for note in told] == ["step 1", "step 3"]


# Settings


def test_a_run_started_with_relative_paths_resumes_from_elsewhere(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_guesser(tmp_path / "model")
    (tmp_path / "problems.jsonl").write_text((world / "problems.jsonl").read_text())
    monkeypatch.chdir(tmp_path)
    relative = {"model": "model", "data": Path("problems.jsonl")}
    run = launch.train("score", settings(world, Path("run"), **relative))
    assert run == tmp_path / "run"
    config = resolve(ScoreConfig, file=run / "config.yaml")
    assert (config.model, config.data) == (str(tmp_path / "model"), tmp_path / "problems.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert launch.resume(run) == run
    assert load_model(run / "model", device="cpu")


def test_names_that_are_no_folders_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("lab", "./nowhere", "owner/model"):
        assert ScoreConfig(out=tmp_path, task="gsm8k", model=name).model == name
    assert ScoreConfig(out=tmp_path, task="gsm8k", data=Path("nowhere")).data == Path("nowhere")


def test_a_seed_is_not_negative(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seed -1: "):
        resolve(ScoreConfig, overrides={"out": tmp_path, "task": "gsm8k", "seed": -1})
