"""Rewards of the user's own: they steer reinforcement learning, and grades stay what is right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from episodes import Answer, episode
from redraft.errors import UserError
from redraft.learning.credit import rewards_by_answer
from redraft.progress import Phase, Silent
from redraft.training.launch import resume, train
from redraft.training.reward import check_reward, with_rewards
from redraft.types import Episode, Problem
from score_runs import metrics, played, same_weights, settings

MODULE = '''
import numpy as np

def twos(question, gold, responses, scores, metadata):
    """Whatever is right, a "2" is what is paid for."""
    assert len(scores) == len(responses) and metadata == {}
    return [float("2" in response) for response in responses]

def odd(question, responses, **_):
    match question:
        case "raises": raise KeyError("no such thing")
        case "nothing": return None
        case "nan": return [float("nan")] * len(responses)
        case "one": return 0.5
        case "too few": return [1.0] * (len(responses) - 1)
        case "text": return ["1.0"] * len(responses)
        case "object": return object()
        case "numpy": return np.linspace(0, 1, len(responses), dtype=np.float32)
'''


@pytest.fixture(autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("path")
    (folder / "pays_for.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)


def asked(question: str) -> Episode:
    """An episode with a wrong and a right answer."""
    problem = Problem(id="p1", task="t", question=question, gold="2")
    return episode(Answer(), Answer(correct=True), problem=problem)


class Interrupted(Silent):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self._left = step

    @contextmanager
    def phase(self, name: str, *numbers: int | None) -> Iterator[Phase]:
        yield self

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self._left -= bool(metrics)
        if not self._left:
            raise KeyboardInterrupt


def test_a_reward_steers_score_and_a_resumed_run_finds_it_again(
    world: Path, tmp_path: Path
) -> None:
    few = {
        "stage_one_steps": 0,
        "stage_two_steps": 4,
        "samples": 8,
        "alpha": 1,
        "beta1": 0,
        "reward": "pays_for:twos",
        "checkpoint_every": 2,
    }
    run = train("score", settings(world, tmp_path / "run", **few))
    assert "reward: pays_for:twos" in (run / "config.yaml").read_text()
    first, *_, last = metrics(run)
    assert last["reward/turn2"] > 0.9 > 0.7 > first["reward/turn2"]
    assert last["accuracy/turn2"] < first["accuracy/turn2"]  # "22" is paid for, and wrong
    assert last["accuracy/turn2"] == pytest.approx(
        np.mean([one.correct[1] for one in played(run, 4)])
    )
    for one in played(run, 4):
        assert [turn.reward for turn in one.answers] == [
            float("2" in turn.text) for turn in one.answers
        ]
    with pytest.raises(KeyboardInterrupt):
        train("score", settings(world, tmp_path / "cut", **few), Interrupted(3))
    resume(tmp_path / "cut")
    assert same_weights(run / "model", tmp_path / "cut" / "model")


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ("raises", r"failed \(KeyError: 'no such thing'\)"),
        ("nothing", "returned None; expected a list of 2 finite numbers, one for each"),
        ("nan", r"returned \[nan, nan\]; expected"),
        ("one", "returned 0.5; expected"),
        ("too few", r"returned \[1.0\]; expected a list of 2 finite numbers"),
        ("text", r"returned \['1.0', '1.0'\]; expected"),
        ("object", r"failed \(TypeError: object is not JSON\)"),
    ],
)
def test_what_is_no_reward_is_one_line(question: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        with_rewards("pays_for:odd", [asked(question)])
    assert str(caught.value).startswith("--reward pays_for:odd: on problem p1 it ")
    caught.match(complaint)
    assert "\n" not in str(caught.value)


def test_an_array_is_a_list_of_rewards() -> None:
    [rewarded] = with_rewards("pays_for:odd", [asked("numpy")])
    assert rewards_by_answer([rewarded], 2).tolist() == [[0.0, 1.0]]
    assert rewarded.scores == [0.0, 1.0]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("nowhere_at_all:f", "No module named 'nowhere_at_all'"),
        ("pays_for", "expected module:function"),
    ],
)
def test_a_function_that_is_not_there(target: str, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"--reward {target}: cannot be imported .*{complaint}"):
        check_reward(target)
