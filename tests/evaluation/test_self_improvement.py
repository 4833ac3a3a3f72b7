"""Self-improvement: what is measured, and the evaluation of it on an endpoint."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from endpoints import Asked, Handler, completion, serving
from evaluation_episodes import critique, turn
from evaluation_episodes import episode as episode_of
from redraft.cli import run as redraft
from redraft.evaluation import evaluate
from redraft.evaluation.result import read_episodes
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.summaries import summarise_improvement
from redraft.progress import Phase, Silent
from redraft.tasks.steps import LINES
from redraft.types import Episode

STEPS = LINES.prompts


def episode(number: int, verdicts: str, outcome: str = "confirmed", seen: bool = True) -> Episode:
    """Answers with critiques between them; one that confirms at the end."""
    turns = [piece for v in verdicts for piece in (turn(v == "+", answer=v), critique("..."))]
    made = episode_of(str(number), turns if outcome == "confirmed" else turns[:-1])
    metadata = {"seen": seen, "cell": "abc"}
    problem = made.problem.model_copy(update={"metadata": metadata})
    update = {"problem": problem, "protocol": "self-improve", "outcome": outcome}
    return made.model_copy(update=update)


def test_metrics_by_hand() -> None:
    verdicts = ["+", "+", "-+", "--+", "+-", "-", "--", "+-+"]
    episodes = [episode(i, v, "confirmed", seen=i < 4) for i, v in enumerate(verdicts[:-1])]
    episodes.append(episode(7, verdicts[-1], "finished", seen=False))
    found = summarise_improvement(episodes).to_summary()["self_improvement"]
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
        self.responses = self.skipped = 0

    def phase(
        self, name: str, total: int | None = None, *more: object
    ) -> AbstractContextManager[Phase]:
        self.total = total
        return super().phase(name, total)

    def watch(self, tokens: int, responses: int) -> None:
        self.responses += responses

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        self.skipped += n


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
        summary = evaluate(settings, watched).to_summary()
    assert summary["attempted"] == [1.0, 0.25, 0.0, 0.0]
    assert summary["accuracy"] == [0.75, 1.0, 1.0, 1.0]
    assert summary["changed"] == 1.0
    assert summary["verbatim_copy"] == 0.0
    assert summary["no_answer"] == [0.0, 0.0, None, None]
    assert watched.total == 4 * 7
    assert watched.responses == 4 + 4 + 1 + 1  # answers, critiques, the update and the one of it
    assert watched.responses + watched.skipped == watched.total


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
    [first, *_] = read_episodes(tmp_path / "out")
    assert [answer.text for answer in first.answers] == ["1", "2"]
    assert first.responses[1].text == 'In step (1) the part "1" is incorrect.'
    assert first.responses[1].grade is None
    assert summary["self_improvement"]["all"]["stopped_confirmed"] == 1.0


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
