"""Self-improvement at test time: rounds, when they end, and what is measured."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from endpoints import Asked, Handler, completion, serving
from redraft.chat_rollout import rollout_chat
from redraft.cli import run as redraft
from redraft.engines import Sampling
from redraft.engines.base import Messages
from redraft.engines.scripted import ScriptedChat
from redraft.episode import Episode, Grade, Problem, Turn, read_jsonl
from redraft.evaluation import evaluate
from redraft.evaluation.self_improvement import summarise_improvement
from redraft.evaluation.settings import EvaluationSettings
from redraft.grading import ExactGrader
from redraft.progress import Phase, Silent
from redraft.protocols import PROMPTS
from redraft.protocols.self_improve import LAB_STEPS, STEPS, SelfImprove
from redraft.rounds import Improvement, in_circles, play_rounds, stuck

PROBLEM = Problem(id="p", task="t", question="2?", gold="2")


def improved(
    replies: Sequence[str], updates: int = 3, oracle: bool = False
) -> tuple[Improvement, list[Messages]]:
    """A self-improvement whose model says these, and the dialogues that it saw."""
    seen: list[Messages] = []
    rest = iter(replies)

    def answer(messages: Messages) -> str:
        seen.append([dict(message) for message in messages])
        return next(rest)

    def play(problems, protocol, *, samples, number, given):  # type: ignore[no-untyped-def]
        engine = ScriptedChat(answer)
        return rollout_chat(
            problems, protocol, engine, ExactGrader(), Sampling(), samples=samples, given=given
        )

    protocol = SelfImprove(PROMPTS["lab"], LAB_STEPS, oracle)
    [one], failed = play_rounds([PROBLEM], protocol, updates, play)
    assert not failed
    return one, seen


def attempts(one: Improvement) -> list[str]:
    return [turn.attempt for turn in one.attempts]


def test_it_ends_when_the_model_says_that_it_is_right() -> None:
    one, _ = improved(["2", "right"])
    assert (attempts(one), one.stopped) == (["2"], "confirmed")
    one, _ = improved(["1", "step 1 wrong", "2", "right"])
    assert (attempts(one), one.stopped) == (["1", "2"], "confirmed")


def test_a_wrong_answer_that_the_model_believes_in_stays() -> None:
    """No gold answer takes part."""
    one, _ = improved(["1", "right"])
    assert (attempts(one), one.stopped) == (["1"], "confirmed")
    one, _ = improved(["2", "step 1 wrong", "1", "right"])
    assert attempts(one) == ["2", "1"]


def test_no_more_than_so_many_updates() -> None:
    one, _ = improved(["a", "wrong", "b", "wrong", "c"], updates=2)
    assert (attempts(one), one.stopped) == (["a", "b", "c"], "updates")
    one, seen = improved(["a"], updates=0)
    assert (attempts(one), one.stopped, len(seen)) == (["a"], "updates", 1)


def test_each_round_shows_the_problem_and_the_latest_attempt() -> None:
    _, seen = improved(["a", "x", "b", "y", "c", "right"])
    said = [[message["content"] for message in dialogue] for dialogue in seen]
    ask, again = LAB_STEPS.feedback, LAB_STEPS.update
    assert said == [
        ["2?"],
        ["2?", "a", ask],
        ["2?", "a", ask, "x", again],
        ["2?", "b", ask],
        ["2?", "b", ask, "y", again],
        ["2?", "c", ask],
    ]


def test_an_oracle_stops_at_the_first_right_attempt() -> None:
    one, seen = improved(["2"], oracle=True)
    assert (attempts(one), one.stopped, len(seen)) == (["2"], "oracle", 1)
    one, _ = improved(["1", "x", "2"], oracle=True)
    assert (attempts(one), one.stopped) == (["1", "2"], "oracle")
    assert SelfImprove(PROMPTS["lab"], LAB_STEPS, True).name == "self-improve-oracle"


def test_an_update_without_progress_ends_it() -> None:
    one, _ = improved(["1", "wrong", "1"])
    assert one.stopped == "unchanged"
    one, _ = improved(["1", "wrong", "no no no no no"])
    assert one.stopped == "repetitive"


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("(1) A = 2\n(15) B = 3", False),
        ("(1) A = 2\n(16) B = 3", True),
        ("(3.2.1) fine", False),
        ("go go go go go", True),
        ("go go go go", False),
        ("abcabc" * 10, True),
        ("x = 1 ; " * 10, True),
        ("The quick brown fox jumps over the lazy dog, and then it sleeps.", False),
        ("qwertyuiopasdfghjklzxcvbnm" * 2, True),
        ("", False),
    ],
)
def test_loops_are_recognised(text: str, circles: bool) -> None:
    assert in_circles(text) is circles


def test_an_attempt_that_was_cut_off_ends_it() -> None:
    grade = Grade(correct=False, decided_by="none")
    before = Turn(attempt="a", finish="stop", grade=grade)
    after = Turn(attempt="b", finish="length", grade=grade)
    assert stuck(before, after) == "truncated"


def test_confirmation_is_read_from_the_last_line() -> None:
    assert STEPS.confirms("All steps are correct. The final response is also correct.")
    assert STEPS.confirms("Looked at it.\nThe final  response is ALSO correct")
    assert not STEPS.confirms("The final response is also correct.\nNo, step 2 is wrong.")
    assert not STEPS.confirms("Fine. I do not think that the final response is also correct.")
    assert STEPS.confirms("I do not see a mistake. The final response is also correct.")
    assert not STEPS.confirms("")


# What is measured


def episode(number: int, verdicts: str, seen: bool = True) -> Episode:
    problem = Problem(
        id=str(number), task="t", question="?", gold="1", metadata={"seen": seen, "cell": "abc"}
    )
    turns = [
        Turn(attempt=v, finish="stop", grade=Grade(correct=v == "+", answer=v, decided_by="string"))
        for v in verdicts
    ]
    return Episode(problem=problem, messages=[], turns=turns, protocol="self-improve")


def test_metrics_by_hand() -> None:
    verdicts = ["+", "+", "-+", "--+", "+-", "-", "--", "+-+"]
    episodes = [episode(i, v, seen=i < 4) for i, v in enumerate(verdicts)]
    found = summarise_improvement(episodes, ["confirmed"] * 7 + ["updates"])
    everything = found["all"]
    assert everything["accuracy"] == 5 / 8
    assert everything["first_accuracy"] == 4 / 8
    assert everything["solved_directly"] == 3 / 8
    assert everything["gained"] == 2 / 8
    assert everything["lost"] == 1 / 8
    assert everything["delta"] == 1 / 8
    assert everything["updated"] == 5 / 8
    assert everything["updates"] == 7 / 8
    assert everything["stopped_updates"] == 1 / 8
    assert (found["seen"]["n_problems"], found["unseen"]["n_problems"]) == (4, 4)
    assert found["seen"]["accuracy"] == 1.0
    assert found["cells"]["abc"]["n_problems"] == 8
    low, high = everything["ci95"]["accuracy"]
    assert low < 5 / 8 < high


def corrects_itself(handler: Handler, asked: Asked) -> None:
    """A server that answers 1 and, told so by itself, 2; it knows "easy" questions at once."""
    if asked.method == "GET":
        handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        return
    said = [message["content"] for message in asked.body["messages"]]
    reply = "2" if "easy" in said[0] else "1"
    if said[-1] == STEPS.feedback:
        right = STEPS.confirmation
        reply = right if said[1] == "2" else 'In step (1) the part "1" is incorrect.'
    elif said[-1] == STEPS.update:
        reply = "2"
    handler.send(200, completion(reply))


class Watched(Silent):
    """Keeps what it is told of the one phase of an evaluation."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.steps: list[int] = []

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Phase]:
        self.total = total
        return super().phase(name, total)

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self.steps.append(n)


def save_questions(path: Path, questions: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"question": q, "gold": "2"}) + "\n" for q in questions))
    return path


def test_metrics_by_attempt_count_attempts_that_were_made(tmp_path: Path) -> None:
    """One problem of four is updated, once; the others stop at their first attempt."""
    data = save_questions(tmp_path / "data.jsonl", ["easy 1", "easy 2", "easy 3", "hard"])
    watched = Watched()
    with serving(corrects_itself) as endpoint:
        settings = EvaluationSettings(
            task="jsonl",
            data=data,
            grader="exact",
            protocol="self-improve",
            model=endpoint.model,
        )
        summary = evaluate(settings, watched)
    assert summary["attempted"] == [1.0, 0.25, 0.0, 0.0]
    assert summary["accuracy"] == [0.75, 1.0, 1.0, 1.0]
    assert summary["changed"] == 1.0
    assert summary["verbatim_copy"] == 0.0
    assert summary["no_answer"] == [0.0, 0.0, None, None]
    replies = 4 + 4 + 1 + 1  # attempts, feedback, the update and feedback on it
    assert watched.total == 4 * 7
    assert watched.steps == [*[1] * replies, 4 * 7 - replies]


def test_the_command_on_an_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_questions(tmp_path / "data.jsonl", [f"{n}?" for n in range(3)])
    with serving(corrects_itself) as endpoint:
        flags = ["--task", "jsonl", "--data", str(data), "--grader", "exact", "--json"]
        flags += ["--protocol", "self-improve", "--model", endpoint.model]
        assert redraft(["eval", *flags, "--out", str(tmp_path / "out")]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert redraft(["eval", *flags, "--oracle-stop"]) == 0
        bound = json.loads(capsys.readouterr().out)
    assert summary["protocol"] == "self-improve"
    assert summary["upper_bound"] is False
    assert summary["self_improvement"]["all"]["gained"] == 1.0
    assert summary["accuracy"][:2] == [0.0, 1.0]
    assert (bound["protocol"], bound["upper_bound"]) == ("self-improve-oracle", True)
    episodes = read_jsonl(tmp_path / "out" / "episodes.jsonl", Episode)
    assert [turn.attempt for turn in episodes[0].turns] == ["1", "2"]
    assert episodes[0].turns[0].feedback == 'In step (1) the part "1" is incorrect.'


def test_a_problem_without_an_answer_is_left_out_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_questions(tmp_path / "data.jsonl", [f"{n}?" for n in range(3)])

    def loses(handler: Handler, asked: Asked) -> None:
        if asked.method == "POST" and "1?" in asked.body["messages"][0]["content"]:
            handler.send(400, {"error": "no"})
        else:
            corrects_itself(handler, asked)

    with serving(loses) as endpoint:
        flags = ["--task", "jsonl", "--data", str(data), "--grader", "exact"]
        flags += ["--protocol", "self-improve", "--model", endpoint.model]
        assert redraft(["eval", *flags]) == 0
    shown = capsys.readouterr()
    assert "1 of 3 problems left out" in " ".join(shown.out.split())
    assert "1 problems failed" in shown.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--oracle-stop"], "belongs to --protocol self-improve"),
        (["--protocol", "self-improve", "--window", "2"], "leave --parallel and --window out"),
    ],
)
def test_settings_that_make_no_sense(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert redraft(["eval", "--task", "lab/sorting", *flags]) == 2
    assert told in capsys.readouterr().err
