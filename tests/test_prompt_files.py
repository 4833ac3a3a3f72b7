"""Prompt texts of the user's own, from a YAML file."""

from pathlib import Path

import pytest

from redraft.episode import Problem
from redraft.errors import UserError
from redraft.protocols import prompts_for

PROBLEM = Problem(id="1", task="jsonl", question="What is {1, 2}?", gold="a set")


def test_a_file_poses_problems_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "first: 'Q: {question}'\nretry: Look again.\ninstructions: Be brief.\n"
        "instructions_as: system\nstop: [END]\n"
    )
    prompts = prompts_for("jsonl", str(path))
    opening = prompts.opening(PROBLEM)
    assert [(m.role, m.content) for m in opening] == [
        ("system", "Be brief."),
        ("user", "Q: What is {1, 2}?"),
    ]
    assert (prompts.retry, prompts.stop) == ("Look again.", ("END",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("first: '{question}'\n", "'retry'"),
        ("first: no place\nretry: again\n", "{question}"),
        ("first: '{question}'\nretry: again\nsecond: x\n", "'second'"),
        ("first: '{question}'\nretry: again\ninstructions_as: assistant\n", "instructions_as"),
    ],
)
def test_a_file_that_makes_no_prompts_is_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        prompts_for("jsonl", str(path))
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_task_without_texts_of_its_own_gets_nothing_but_the_question() -> None:
    assert prompts_for("jsonl").opening(PROBLEM)[0].content == PROBLEM.question
    assert "math expert" in prompts_for("gsm8k").opening(PROBLEM)[0].content
    assert prompts_for("lab/sorting").name == "lab"
