"""Episodes of the next step that are sampled while the learner is at this one."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from guessing_model import guessing_llama
from redraft.engines.base import Sampling, Watch
from redraft.engines.vllm_api import VLLMSettings
from redraft.errors import UserError
from redraft.training import launch
from redraft.training.ahead import Ahead
from redraft.training.on_policy import OnPolicyRun
from redraft.training.policy import Policy
from score_runs import Notes, metrics, played, same_weights, settings
from tiny_models import tiny_tokenizer
from vllm_server import serving_vllm

STEPS: dict[str, Any] = {"stage_one_steps": 3, "stage_two_steps": 4, "overlap": True}


def sampled_by(run: Path, steps: int = 7) -> list[str]:
    """The name of the weights that each step's episodes were sampled with."""
    return [played(run, step)[0].policy.removeprefix("step-00000") for step in range(1, steps + 1)]


def test_each_step_of_a_phase_samples_with_the_weights_before_the_last(
    world: Path, tmp_path: Path
) -> None:
    """But for its first, and for one after a checkpoint or an evaluation."""
    launch.train("score", settings(world, tmp_path / "run", **STEPS))
    assert sampled_by(tmp_path / "run") == ["0", "0", "1", "3", "3", "4", "5"]
    pausing = {"checkpoint_every": 6, "evaluate_every": 5}
    launch.train("score", settings(world, tmp_path / "pausing", **STEPS | pausing))
    assert sampled_by(tmp_path / "pausing") == ["0", "0", "1", "3", "3", "5", "6"]


def test_the_learner_does_not_change_what_is_being_sampled(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step's episodes are those of the first weights, although the learner has taken a
    step of a large learning rate before they begin."""
    learned = threading.Event()
    sample, publish = Policy.sample, OnPolicyRun.publish

    def late(self: Policy, *given: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            assert learned.wait(60)
        return sample(self, *given, **named)

    def told(self: Any) -> None:
        learned.set()
        publish(self)

    few = {"stage_one_steps": 0, "stage_two_steps": 2, "learning_rate": 0.5}
    with monkeypatch.context() as patched:
        patched.setattr(Policy, "sample", late)
        patched.setattr(OnPolicyRun, "publish", told)
        launch.train("score", settings(world, tmp_path / "late", **few, overlap=True))
    run = OnPolicyRun.create(settings(world, tmp_path / "fresh", **few), "train score", Notes())
    problems = [run.problems[index] for index in run.order.problems(1)]
    task, sampling = run.task, run.sampling(step=1)
    assert isinstance(sampling, Sampling)
    protocol = run.evaluation.protocol
    expected = run.policy.sample(problems, protocol, task.grader, sampling, samples=4)
    found = played(tmp_path / "late", 2)
    assert [[t.tokens for t in e.turns] for e in found] == [
        [t.tokens for t in e.turns] for e in expected
    ]
    first, second = metrics(tmp_path / "late")
    assert first["tokens_per_second/rollout"] * first["seconds/rollout"] == pytest.approx(
        sum(
            turn.generated for episode in played(tmp_path / "late", 1) for turn in episode.responses
        )
    )
    tokens = sum(turn.generated for episode in found for turn in episode.responses)
    assert second["tokens_per_second/rollout"] < tokens / second["seconds/rollout"]
    assert first["logprob_gap/max"] < 1e-4
    assert second["logprob_gap/max"] > 0.1


def test_a_killed_run_ends_at_the_same_weights(world: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    kept = {"checkpoint_every": 2, "keep_checkpoints": 9}
    launch.train("score", settings(world, whole, **STEPS | kept))
    shutil.copytree(whole, part)
    shutil.rmtree(part / "model")
    (part / "summary.json").unlink()
    for step in (6, 7):
        shutil.rmtree(part / "checkpoints" / f"step-{step:06d}")
    config = part / "config.yaml"
    config.write_text(config.read_text().replace(str(whole), str(part)))
    launch.resume(part)
    assert sampled_by(part) == sampled_by(whole) == ["0", "0", "2", "3", "4", "4", "6"]
    assert same_weights(whole / "model", part / "model")


def test_weights_are_handed_to_a_server_between_steps_only(world: Path, tmp_path: Path) -> None:
    """A server that is started again while it samples ahead makes the step sample anew."""
    tokenizer = tiny_tokenizer()
    with serving_vllm(guessing_llama(tokenizer), tokenizer) as server:
        answered = [0]

        def watch(path: str, body: dict[str, Any]) -> None:
            answered[0] += path == "/v1/completions"
            if answered[0] == 40:  # a step is 12 episodes of 2 responses, after one to compare
                answered[0] += 1
                server.start(guessing_llama(tokenizer))

        server.before = watch
        vllm = VLLMSettings(url=server.url)
        few = {"engine": "vllm", "vllm": vllm, "max_tokens": 2, "stage_two_steps": 3}
        run = tmp_path / "run"
        launch.train("score", settings(world, run, **few, stage_one_steps=0, overlap=True))
    assert sampled_by(run, 3) == ["0", "1", "1"]  # the server went while it sampled the second
    gaps = [line["logprob_gap/max"] for line in metrics(run)]
    assert max(gaps[:2]) < 1e-4 < gaps[2]


def test_an_error_while_sampling_ahead_ends_the_run_with_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Policy.sample

    def fail(self: Policy, *given: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise UserError("the server has gone")
        return sample(self, *given, **named)

    monkeypatch.setattr(Policy, "sample", fail)
    with pytest.raises(UserError, match="step 2: the server has gone; newest checkpoint"):
        launch.train("score", settings(world, tmp_path / "run", **STEPS))


def test_what_is_not_wanted_any_more_ends() -> None:
    def work(watch: Watch) -> None:
        while True:
            watch(1, 0)
            time.sleep(0.01)

    ahead = Ahead(work)
    ahead.stop()
    assert not ahead._thread.is_alive()


def test_progress_is_passed_on_to_who_waits() -> None:
    def work(watch: Watch) -> str:
        watch(3, 0)
        watch(2, 1)
        return "done"

    seen: list[tuple[int, int]] = []
    assert Ahead(work).result(lambda tokens, responses: seen.append((tokens, responses))) == "done"
    assert seen == [(3, 0), (2, 1)]


def test_a_vllm_beside_the_learner_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name a server with --vllm\.url"):
        settings(world, tmp_path, engine="vllm", overlap=True)
