"""`redraft solve`: one question or a file of them, with every attempt shown."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from endpoints import Asked, Handler, completion, serving
from guessing_model import save_guesser
from redraft.cli import run as redraft


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_guesser(tmp_path_factory.mktemp("world") / "model")


def thinker(handler: Handler, asked: Asked) -> None:
    """A server that gets sums wrong in words and right in Python."""
    if asked.method == "GET":
        handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        return
    wants_program = "Python program" in asked.body["messages"][-1]["content"]
    text = "```python\nprint(3 + 4)\n```" if wants_program else "3 + 4 is \\boxed{8}."
    handler.send(200, completion(text))


def solved(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert redraft(["solve", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_a_question_to_an_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(thinker) as server:
        [one] = solved(capsys, "What is 3+4?", "--model", server.model)
    assert one["answer"] == "7"
    assert (one["samples"], one["tokens"], one["executions"]) == (2, 10, 1)
    chain, program = one["attempts"]
    assert (chain["kind"], chain["answer"]) == ("chain", "8")
    assert (program["kind"], program["answer"], program["output"]) == ("program", "7", "7")
    assert program["refines"] == 0
    assert one["chosen"] == 1
    assert "correct" not in one  # nobody said what is right


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(thinker) as server:
        assert redraft(["solve", "What is 3+4?\x1b[31m", "--model", server.model]) == 0
    shown = capsys.readouterr().out
    for part in ("What is 3+4?", "boxed{8}", "print(3 + 4)", "output", "answer: 7; 2 samples"):
        assert part in shown
    assert "\x1b[31m" not in shown


def test_responses_are_shown_on_a_terminal_as_they_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")

    def wordy(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            thinker(handler, asked)
        else:
            number = len(asked.body["messages"])
            handler.send(
                200, completion(f"word\x1b[31m {'and more ' * 9}\n\nso \\boxed{{{number}}}")
            )

    with serving(wordy) as server:
        arguments = ["What is 3+4?", "--model", server.model, "--strategy", "turns"]
        assert redraft(["solve", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    texts = [line for line in lines if line.startswith(("sample", "word", "and", "more", "so"))]
    first = texts[: texts.index("sample 2")]
    assert " ".join(first) == f"sample 1 word␛[31m {'and more ' * 9}so \\boxed{{1}}"
    assert max(map(len, first)) <= 40
    assert "10 tokens," in shown
    assert "a second" in shown
    assert "sample 2, chain: answer 3 (5 tokens)" in shown
    assert "answer: 3; 2 samples, 10 tokens" in shown
    assert shown.count("word") == 2  # the texts are not printed again


def test_a_file_with_gold_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "What is 3+4?", "gold": "7"}\n{"question": "And now?"}\n')
    with serving(thinker) as server:
        arguments = ["--file", str(file), "--model", server.model, "--strategy", "chain"]
        first, second = solved(capsys, *arguments)
        assert (first["answer"], first["correct"]) == ("8", False)
        assert "correct" not in second
        oracle = ["--strategy", "best-cap", "--select", "oracle", "--budget", "3"]
        assert redraft(["solve", *arguments[:4], *oracle]) == 2
        assert "--select oracle needs the gold answer" in capsys.readouterr().err
        file.write_text('{"question": "What is 3+4?", "gold": "7"}\n')
        [one] = solved(capsys, *arguments[:4], *oracle)
        assert (one["upper_bound"], one["correct"]) == (True, True)


@pytest.mark.parametrize("strategy", ["program", "majority-mix", "bonbon", "adaptive"])
def test_a_local_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("1?\n\n2?\n")
    arguments = ["--model", str(model), "--strategy", strategy, "--budget", "4"]
    prompts = tmp_path / "programs.yaml"
    prompts.write_text('alone: "{question}"\nrefine: "Again."\n')
    limits = ["--max-tokens", "3", "--program-prompts", str(prompts), "--device", "cpu"]
    found = solved(capsys, "--file", str(file), *arguments, *limits)
    assert [one["question"] for one in found] == ["1?", "2?"]
    for one in found:
        kinds = [attempt["kind"] for attempt in one["attempts"]]
        assert len(kinds) <= 4
        ran = [a for a in one["attempts"] if a["kind"] == "program" and not a["truncated"]]
        assert one["executions"] == len(ran)


def test_a_question_that_an_endpoint_does_not_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            thinker(handler, asked)
        else:
            handler.send(400, {"error": {"message": "not that one"}})

    with serving(refuse) as server:
        assert redraft(["solve", "What?", "--model", server.model]) == 1
    assert "not solved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one question, or --file"),
        (["a?", "--file", "x"], "give one question, or --file"),
        (["  "], "the question is empty"),
        (["a?", "--strategy", "best"], "best"),
        (["--file", "/nowhere/at/all.txt"], "cannot be read"),
        (["a?", "--strategy", "bonbon", "--temperature", "0"], "would be equal"),
        (["a?", "--sources", "self,lab"], "one source of chains"),
        (["a?", "--model", "./nowhere"], "no such folder"),
        (["a?", "--task", "mbpp"], "an answer is a program"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert redraft(["solve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_an_empty_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.txt").write_text("\n")
    assert redraft(["solve", "--file", str(tmp_path / "none.txt")]) == 2
    assert "holds no question" in capsys.readouterr().err
