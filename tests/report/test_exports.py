"""Episodes in other tools' formats."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation_episodes import turn
from redraft.errors import UserError
from redraft.report.exports import EXPORTS, export
from redraft.report.runs import read_runs
from redraft.types import Grade, Turn
from report_runs import asked, evaluation

SAMPLES = [
    asked("p", [turn(False, "no"), turn(True, "yes")], sample=0, metadata={"level": 3}),
    asked("p", [turn(True, "at once"), turn(False, "spoiled")], sample=1, metadata={"level": 3}),
    asked("p", [turn(False, "never"), turn(False, "ever", finish="length")], sample=2),
]


def exported(folder: Path, kind: str) -> Path:
    [run] = read_runs([evaluation(folder / "run", SAMPLES)])
    out = folder / ("logs" if kind == "inspect" else f"out.{kind}")
    rows, file = export(run, kind, out)
    assert rows > 0
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_sft_rows_are_right_answers_after_what_was_said(tmp_path: Path) -> None:
    first, second = rows(exported(tmp_path, "sft"))
    assert first["completion"] == [{"role": "assistant", "content": "yes"}]
    assert [one["role"] for one in first["prompt"]] == ["user", "assistant", "user"]
    assert second["prompt"] == [{"role": "user", "content": "question p"}]


def test_preference_rows_pair_a_wrong_first_answer_with_a_right_one(tmp_path: Path) -> None:
    found = rows(exported(tmp_path, "preference"))
    texts = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found]
    assert texts == [("yes", "no"), ("at once", "never")]
    assert all(row["prompt"] == [{"role": "user", "content": "question p"}] for row in found)


def test_parquet_is_read_by_datasets(tmp_path: Path) -> None:
    import datasets

    file = exported(tmp_path, "parquet")
    table = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    assert table["attempts"][0] == ["no", "yes"]
    assert table["scores"][1] == [1.0, 0.0]
    assert json.loads(table["metadata"][0]) == {"level": 3}


def test_inspect_log_has_a_score_for_each_attempt(tmp_path: Path) -> None:
    log = json.loads(exported(tmp_path, "inspect").read_text("utf-8"))
    assert [sample["epoch"] for sample in log["samples"]] == [1, 2, 3]
    scores = {one["name"]: one["metrics"]["accuracy"]["value"] for one in log["results"]["scores"]}
    assert scores == {"attempt_1": pytest.approx(1 / 3), "attempt_2": pytest.approx(1 / 3)}
    assert [m["role"] for m in log["samples"][0]["messages"]] == ["user", "assistant"] * 2
    assert log["samples"][2]["output"]["choices"][0]["stop_reason"] == "max_tokens"


def test_inspect_reads_the_log(tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="inspect-ai is not installed")
    file = exported(tmp_path, "inspect")
    assert len(log.read_eval_log(str(file)).samples) == 3
    assert [Path(one.name).name for one in log.list_eval_logs(str(file.parent))] == [file.name]


def test_an_inspect_log_has_a_name_that_inspect_lists(tmp_path: Path) -> None:
    file = exported(tmp_path, "inspect")
    assert file.parent == tmp_path / "logs"
    time = r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\+00-00"
    assert re.fullmatch(rf"{time}_test_[0-9a-f]{{22}}\.json", file.name)
    [run] = read_runs([tmp_path / "run"])
    (tmp_path / "taken").touch()
    for name in ("logs/score.json", "taken"):
        with pytest.raises(UserError, match="name a folder"):
            export(run, "inspect", tmp_path / name)
    assert export(run, "inspect", file) == (3, file)


def unrecorded(correct: bool) -> Turn:
    """An answer of which an imported file has the verdict alone."""
    grade = Grade(score=float(correct), status="no_text", decided_by="recorded")
    return Turn(author="policy", text="", grade=grade)


def test_an_unrecorded_text_is_in_no_row(tmp_path: Path) -> None:
    episodes = [
        asked("p", [unrecorded(False), turn(True, "yes")]),
        asked("q", [turn(False, "no"), unrecorded(True)]),
        asked("r", [turn(False, "never"), unrecorded(True), turn(True, "at last")]),
    ]
    [run] = read_runs([evaluation(tmp_path / "run", episodes)])
    with pytest.raises(UserError, match="no sft row"):
        export(run, "sft", tmp_path / "sft")
    [pair] = rows(export(run, "preference", tmp_path / "pairs")[1])
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("at last", "never")
    first = next(iter(EXPORTS["parquet"](episodes)))
    assert first["attempts"] == [None, "yes"]
    assert first["tokens"] == [None, None]  # nobody counted them
    assert [one["content"] for one in first["messages"]] == [
        "question p",
        "Please correct any error.",
        "yes",
    ]


def test_nothing_to_export_is_a_line(tmp_path: Path) -> None:
    [run] = read_runs([evaluation(tmp_path / "run", SAMPLES[2:])])
    with pytest.raises(UserError, match="no sft row"):
        export(run, "sft", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # between TRL and transformers
@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_trl_trains_a_step_from_an_export(tmp_path: Path, world: Path, kind: str) -> None:
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    data = datasets.Dataset.from_list(rows(exported(tmp_path, kind)))
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config, trainer = (SFTConfig, SFTTrainer) if kind == "sft" else (DPOConfig, DPOTrainer)
    told = {"max_steps": 1, "use_cpu": True, "report_to": [], "save_strategy": "no"}
    settings = config(output_dir=str(tmp_path / "trl"), per_device_train_batch_size=1, **told)
    done = trainer(model, args=settings, train_dataset=data, processing_class=tokenizer).train()
    assert done.global_step == 1
