"""Programs in place of answers: how they are asked for."""

from pathlib import Path

import pytest

from redraft.chat.prompts import PLAIN, PYTHON, find_program_prompts
from redraft.chat.protocols import ChainToProgram, ProgramAlone, Say
from redraft.errors import UserError
from redraft.evaluation import evaluate
from redraft.evaluation.settings import EvaluationSettings
from redraft.lab.corpus import PROGRAM, conversations
from redraft.lab.prompts import PROGRAM_PROMPTS
from redraft.types import Problem, Turn

SIX = Problem(id="six", task="t", question="2*3?", gold="6")


def test_the_labs_texts_are_those_of_its_corpus() -> None:
    assert PROGRAM_PROMPTS.refine == PROGRAM
    stream = conversations(0)
    alone = next(d for d in stream if len(d) == 2 and d[0]["content"].endswith(PROGRAM))
    question = alone[0]["content"].removesuffix(f" {PROGRAM}")
    problem = Problem(id="x", task="lab", question=question, gold="")
    assert [m.model_dump() for m in PROGRAM_PROMPTS.opening(problem)] == [alone[0]]


def test_a_program_is_asked_for_after_one_chain_only() -> None:
    chain, program = (Turn(author="policy", text=text) for text in ("chain", "program"))
    cap = ChainToProgram(PLAIN, PYTHON)
    assert cap.opening(SIX) == PLAIN.opening(SIX)
    assert cap.after(SIX, [chain]) == Say(PYTHON.refine)
    assert cap.after(SIX, [chain, program]) == "finished"
    alone = ProgramAlone(PYTHON)
    assert alone.after(SIX, [program]) == "finished"
    assert SIX.question in alone.opening(SIX)[0].content


def test_texts_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("alone: 'Code for {question}'\nrefine: Now code.\n")
    mine = find_program_prompts(str(file))
    assert mine.opening(SIX)[0].content == "Code for 2*3?"
    assert mine.refine == "Now code."
    for text, message in (
        ("alone: x\nrefine: y\n", "no {question}"),
        ("alone: '{question}'\n", "'refine' with a text is missing"),
        ("alone: '{question}'\nrefine: y\nretry: z\n", "unknown field 'retry'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            find_program_prompts(str(file))
    with pytest.raises(UserError, match="--program-prompts nope: unknown"):
        find_program_prompts("nope")


def test_the_labs_model_writes_programs_that_run(tmp_path: Path) -> None:
    settings = EvaluationSettings(
        model="lab",
        task="lab/arithmetic",
        limit=12,
        strategy="program",
        max_tokens=48,
        device="cpu",
        out=tmp_path / "evaluation",
    )
    assert evaluate(settings).to_summary()["strategies"]["program"]["accuracy"] > 0.5
