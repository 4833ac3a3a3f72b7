"""What an endpoint took and costs, in the summary and in the table, and what is told of graders."""

import re
from pathlib import Path
from typing import Any

import pytest

from endpoints import completion, serving
from guessing_model import save_problems
from redraft.evaluation import evaluate, resume
from redraft.evaluation.settings import EvaluationSettings
from redraft.evaluation.tables import tables
from score_runs import Notes


def test_the_price_is_in_the_summary_and_in_the_table(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "task": "jsonl",
        "data": save_problems(tmp_path / "problems.jsonl", "121"),
        "http": {"prompt_price": 2e6, "completion_price": 6e6},
        "out": tmp_path / "run",
    }
    notes = Notes()
    with serving() as server:
        result = evaluate(EvaluationSettings(model=server.model, **fields), notes)
        assert "graded with --grader math" in notes.notes[0]
        again = resume(tmp_path / "run")
        assert again is not None
        no_price = evaluate(EvaluationSettings(model=server.model, **fields | UNPRICED))
    for one in (result, again):  # 3 problems of 2 turns of 10 + 5 tokens
        took = one.to_summary()["endpoint"]
        assert took["cost"] == pytest.approx(6 * (10 * 2 + 5 * 6))
        (table,) = tables(one)
        assert "6 requests; 60 prompt and 30 generated tokens cost 300.0000." in str(table.caption)
    assert no_price.to_summary()["endpoint"]["cost"] is None
    assert "have no price (--http.prompt-price" in str(tables(no_price)[0].caption)


def test_an_endpoint_that_changes_its_model_on_the_way_is_told(tmp_path: Path) -> None:
    asked_for = 0

    def behave(handler: Any, asked: Any) -> None:
        nonlocal asked_for
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
            return
        asked_for += 1
        handler.send(200, completion("1", model="tiny" if asked_for < 4 else "other\x1b[31m"))

    notes = Notes()
    data = save_problems(tmp_path / "problems.jsonl", "121")
    with serving(behave) as server:
        config = EvaluationSettings(task="jsonl", data=data, model=server.model)
        result = evaluate(config, notes)
    assert len(result.to_summary()["endpoint"]["models"]) == 2
    said = r"come from 2 models \(other\ufffd\[31m, tiny\): the numbers mix them"
    assert re.search(said, notes.notes[-1])
    assert re.search(said, str(tables(result)[0].caption))


UNPRICED: dict[str, Any] = {"http": {}, "out": None, "grader": "exact"}
