"""The blind spot: its items, its numbers, and the evaluation of it on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation_episodes import episodes_from
from guessing_model import save_guesser
from redraft.chat.prompts import PLAIN
from redraft.cli import run as redraft
from redraft.errors import UserError
from redraft.evaluation import evaluate, resume
from redraft.evaluation.blind_spot import ratio_interval, summarise_blind_spot, user_error
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.statistics import share_interval
from redraft.storage import to_jsonl, write_text
from redraft.tasks.blind_spot import TASK
from redraft.types import Problem

R, W = True, False


def test_every_item_has_a_right_and_a_wrong_answer_and_comes_once() -> None:
    task = TASK.open({})
    splits = [task.load("test").problems, task.load("train").problems]
    questions = [problem.question for split in splits for problem in split]
    assert len(set(questions)) == len(questions) > 600
    assert {problem.metadata["type"] for problem in splits[0][:8]} == {
        *("one more", "one less", "next letter", "previous letter"),
        *("larger", "smaller", "letters", "digits"),
    }
    for problem in splits[0]:
        wrong = problem.metadata["wrong"]
        assert not task.grader(problem, wrong).correct
        assert task.grader(problem, f"{wrong} Wait, it is \\boxed{{{problem.gold}}}.").correct


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("What is 40 + 1?", "41", "42"),
        ("What letter comes before M?", "L", "K"),
        ("What letter comes after C?", "D", "E"),
    ],
)
def test_items_by_hand(question: str, right: str, wrong: str) -> None:
    task = TASK.open({})
    problems = [*task.load("test").problems, *task.load("train").problems]
    [item] = [one for one in problems if one.question.startswith(question)]
    assert item.question == f"{question} Put the answer in \\boxed{{}}."
    assert (item.gold, item.metadata["wrong"]) == (right, f"The answer is \\boxed{{{wrong}}}.")


def test_the_users_error_stands_behind_the_question() -> None:
    problem = Problem(id="p", task="t", question="1 + 1?", gold="2", metadata={"wrong": "It is 3."})
    [message] = PLAIN.opening(user_error(problem))
    assert (message.role, message.content) == ("user", "1 + 1? It is 3.")


def test_the_blind_spot_by_hand() -> None:
    # Corrected: 2 of 40 in the model's own response, 12 after "Wait", 16 in the user's message.
    own, wait, user = (
        episodes_from([[[W, n < right]] for n in range(40)]) for right in (2, 12, 16)
    )
    found = summarise_blind_spot(own, user, wait).to_summary()["blind_spot"]
    assert (found["own"], found["user"], found["wait"]) == (0.05, 0.4, 0.3)
    assert found["blind_spot"] == pytest.approx(14 / 16)
    assert found["blind_spot_wait"] == pytest.approx(4 / 16)
    low, high = found["ci95"]["blind_spot"]
    assert 0.5 < low < 14 / 16 < high < 1
    nothing = episodes_from([[[W, W]]] * 40)
    found = summarise_blind_spot(nothing, nothing, nothing).to_summary()["blind_spot"]
    assert (found["blind_spot"], found["ci95"]["blind_spot"]) == (None, None)
    found = summarise_blind_spot(nothing, user, wait).to_summary()["blind_spot"]
    low, high = found["ci95"]["blind_spot"]
    assert found["blind_spot"] == high == 1.0
    assert 0.6 < low < 1  # no correction was seen, which does not make the blind spot certain


def test_a_share_over_one_that_is_sure_has_the_interval_of_the_share() -> None:
    share = np.repeat([1.0, 0.0], [6_000, 14_000])
    low, high = ratio_interval(share, np.ones(20_000))
    assert [low, high] == pytest.approx(share_interval(share, np.ones(20_000)), abs=2e-4)


# The evaluation


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_guesser(folder / "model")
    rows = [
        {"question": f"{n}?", "gold": "12"[n % 2], "wrong": f"\\boxed{{{'21'[n % 2]}}}"}
        for n in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    return folder


def fields(world: Path, **more: Any) -> dict[str, Any]:
    given = {"model": str(world / "model"), "task": "jsonl", "data": world / "rows.jsonl"}
    given |= {"grader": "number", "prompts": "plain", "max_tokens": 8, "device": "cpu"}
    return {**given, "temperature": 1.0, "samples": 2, **more}


def test_the_same_error_is_put_into_both_messages(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate(EvaluationSettings(**fields(world, protocol="blind-spot", out=out)))
    own, user, wait = (read_episodes(out, part) for part in ("turns", "user", "wait"))
    assert [len(part) for part in (own, user, wait)] == [12, 12, 12]
    for a, b, c in zip(own, user, wait, strict=True):
        wrong = a.problem.metadata["wrong"]
        assert a.answers[0].text == c.answers[0].text == wrong
        assert a.answers[1].text.startswith(wrong)
        assert c.answers[1].text.startswith(f"{wrong} Wait")
        assert b.messages[-1].content.endswith(f"? {wrong}")
        assert len(b.answers) == 1
        assert a.correct[0] is False
    summary = result.to_summary()
    assert summary["blind_spot"]["own"] == np.mean([one.correct[-1] for one in own])
    assert summary["blind_spot"]["wait"] == np.mean([one.correct[-1] for one in wait])
    assert summary["accuracy"] == [0.0, summary["blind_spot"]["own"]]
    # The rest of it is sampled again as it was.
    write_text(out / "episodes" / "wait.jsonl", to_jsonl(wait[:2]))
    assert resume(out).to_summary() == summary


def test_the_word_wait_reopens_any_response(world: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(**fields(world, protocol="wait", turns=3, out=tmp_path / "out"))
    summary = evaluate(settings).to_summary()
    for episode in read_episodes(tmp_path / "out"):
        first, second, third = (turn.text for turn in episode.answers)
        assert second.startswith(f"{first} Wait")
        assert third.startswith(f"{second} Wait")
    assert {"i_to_c", "c_to_i", "delta_t1_t3", "verbatim_copy"} <= summary.keys()
    assert summary["protocol"] == "wait"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "http://127.0.0.1:9/v1#tiny"}, "which a chat endpoint cannot do"),
        ({"window": 2}, "leave --window out"),
        ({"protocol": "blind-spot", "turns": 3}, "has its own turns"),
        ({"grader": "exact"}, "answers are marked in a text"),
        ({"prompts": "code"}, "--prompts without `stop`"),
    ],
)
def test_what_cannot_be_reopened_is_refused(
    world: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises((UserError, ValueError), match=said):
        evaluate(EvaluationSettings(**fields(world, **{"protocol": "wait", **changes})))


def test_a_problem_without_a_wrong_solution(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "1?", "gold": "1"}\n')
    arguments = ["eval", "--task", "jsonl", "--data", str(file), "--protocol", "blind-spot"]
    assert redraft([*arguments, "--model", str(world / "model"), "--prompts", "plain"]) == 2
    assert "has no wrong solution to be corrected" in capsys.readouterr().err
