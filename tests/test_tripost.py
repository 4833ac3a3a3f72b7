"""TriPosT end to end on the lab, and the mistakes of the released code that it must not have."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redraft.cli import run as redraft
from redraft.credit.imitation import to_rows
from redraft.engines import Sampling
from redraft.engines.local import LocalEngine
from redraft.episode import Problem
from redraft.learning import Learner, LearnerConfig
from redraft.methods import tripost
from redraft.methods.editing import Judge
from redraft.methods.supervised import SupervisedSession
from redraft.methods.trajectory import fate_of
from redraft.methods.tripost import Tripost
from redraft.methods.tripost_config import DemonstrationConfig, RationaleConfig, TripostConfig
from redraft.methods.tripost_modules import ScriptedFeedback
from redraft.methods.tripost_scripts import ask_all
from redraft.methods.tripost_world import world_for
from redraft.models import load_model
from redraft.progress import Silent
from rise_runs import collected, counts, examples, folder, texts
from score_runs import metrics, same_weights
from tripost_drafts import RIGHT, SECOND, WRONG, draft

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

FEW: dict[str, Any] = {
    "model": "lab",
    "task": "lab/arithmetic-cells",
    "limit": 8,
    "max_tokens": 48,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "epochs": 1.0,
    "device": "cpu",
    "precision": "float32",
}
SHORT: dict[str, Any] = {"rationale_epochs": 1.0, "iterations": 2, "own_updates": 1, "samples": 2}


def config(out: Path, **fields: Any) -> TripostConfig:
    return TripostConfig(out=out, **(FEW | SHORT | fields))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 0 and two repeats."""
    return tripost.train("tripost", config(tmp_path_factory.mktemp("tripost") / "run"))


# A whole run


def test_a_run_has_stage_0_and_its_repeats_each_from_the_last(run: Path) -> None:
    models = [folder(run, number) / "model" for number in (0, 1, 2)]
    assert same_weights(models[2], run / "model")
    assert not same_weights(models[0], models[1])
    phases = [line["phase"] for line in metrics(run)]
    assert list(dict.fromkeys(phases)) == ["iteration 0", "iteration 1", "iteration 2"]


def test_stage_0_learns_gold_rationales(run: Path) -> None:
    for example in examples(run, 0):
        assert example.weights == [1.0]
        assert example.episode.correct == [True]


def test_counts_add_up(run: Path) -> None:
    for number in (1, 2):
        found = counts(run, number)
        fates = ("kept", "edited", "first_feedback", "worse", "dropped")
        assert sum(found[fate] for fate in fates) == found["episodes"] == 16
        reasons = [name for name in found if name.startswith("dropped_")]
        assert sum(found[name] for name in reasons) == found["dropped"]
        assert found["improve"] + found["confirm"] + found["gold"] == found["examples"]
        assert found["confirm"] == min(found["confirm"], np.ceil(found["improve"] / 1.5))
        assert found["p"] == pytest.approx(found["improve"] / found["examples"])


def test_trajectories_that_end_worse_are_kept_aside(run: Path) -> None:
    for number in (1, 2):
        aside = (folder(run, number) / tripost.WORSE).read_text().splitlines()
        worse = [e for e in collected(run, number) if fate_of(e)[0] == "worse"]
        assert aside == [episode.model_dump_json() for episode in worse]


def test_the_tokens_of_an_example_are_those_of_a_rollout(run: Path) -> None:
    """Problem, attempt, request, feedback, request, update: rendered as one dialogue."""
    _, tokenizer = load_model("lab", device="cpu")
    seen = 0
    for example in examples(run, 1):
        turns = example.episode.turns
        if len(turns) == 3:
            said = "".join(
                f"<|user|>{question}<|end|><|assistant|>{turn.attempt}<|end|>"
                for question, turn in zip(
                    [example.episode.problem.question, "Feedback :", "Please correct any error."],
                    turns,
                    strict=True,
                )
            )
            assert example.episode.tokens == tokenizer(said, add_special_tokens=False)["input_ids"]
            assert example.weights == [1.0, 1.5, 1.5]
            seen += 1
    assert seen


def test_loss_weights_lie_on_what_was_said_and_on_nothing_else(run: Path) -> None:
    [example] = [e for e in examples(run, 1) if len(e.weights) == 3][:1]
    [row] = to_rows([example])
    expected: list[float] = []
    for turn, weight in zip(example.episode.turns, [1.0, 1.5, 1.5], strict=True):
        expected += [0.0] * len(turn.prompt_tokens) + [weight] * len(turn.attempt_tokens)
    assert row.loss_weight is not None
    assert row.loss_weight.tolist() == expected


def test_resumed_is_unbroken(run: Path, tmp_path: Path) -> None:
    """Cut off before the second repeat is collected, and resumed, it ends as the whole run."""

    class StopError(Exception):
        pass

    class Stopper(Silent):
        def phase(self, name: str, total: int | None = None):  # type: ignore[no-untyped-def]
            if name == "collecting 2":
                raise StopError
            return super().phase(name, total)

    with pytest.raises(StopError):
        tripost.train("tripost", config(tmp_path / "run"), Stopper())
    assert redraft(["resume", str(tmp_path / "run")]) == 0
    assert same_weights(tmp_path / "run" / "model", run / "model")
    assert texts(tmp_path / "run") == texts(run)


# Bugs of the released code (papers' fact sheets: section 9)


def test_sampling_settings_hold_in_every_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. From the second repeat on, and in later rounds, the default decoding was used."""
    asked: list[Sampling] = []
    converse = LocalEngine.converse

    def listening(
        engine: LocalEngine, dialogues: Any, reply: Any, sampling: Any, *rest: Any
    ) -> Any:
        asked.append(sampling)
        return converse(engine, dialogues, reply, sampling, *rest)

    monkeypatch.setattr(LocalEngine, "converse", listening)
    tripost.train(
        "tripost",
        config(tmp_path / "run", temperature=0.7, max_tokens=47, own_updates=2, limit=4),
    )
    assert len(asked) > 3, "rounds of both repeats"
    assert {(one.temperature, one.max_tokens) for one in asked} == {(0.7, 47)}


def test_samples_of_a_problem_differ(run: Path) -> None:
    for number in (1, 2):
        by_problem: dict[str, set[str]] = {}
        for episode in collected(run, number):
            by_problem.setdefault(episode.problem.id, set()).add(episode.turns[0].attempt)
        assert any(len(attempts) > 1 for attempts in by_problem.values()), f"repeat {number}"


def test_padding_has_no_part_in_the_loss(run: Path) -> None:
    """2. A short example beside a long one counts what it counts alone."""
    chosen = sorted(examples(run, 1), key=lambda one: len(one.episode.tokens))
    rows = to_rows([chosen[0], chosen[-1]])
    assert len(rows[0]) < len(rows[1])

    def loss(*batch: int) -> tuple[float, int]:
        model, _ = load_model("lab", device="cpu", training=True)
        learner = Learner(model, LearnerConfig(learning_rate=1e-9))
        learned = sum(int(rows[index].learned.sum()) for index in batch)
        return learner.step([rows[index] for index in batch])["loss"], learned

    (short, few), (long, many), (both, _) = loss(0), loss(1), loss(0, 1)
    assert both == pytest.approx((short * few + long * many) / (few + many), rel=1e-4)


def test_the_next_round_shows_the_update_and_not_the_feedback(tmp_path: Path) -> None:
    """3. Re-prompting put feedback into the answer's place when a turn ended on it."""
    session = SupervisedSession.create(
        config(tmp_path / "run", own_updates=3, rationale_epochs=0.0), "train tripost", Silent()
    )
    session.iteration = 2
    made, _ = Tripost(session).tried(session, session.problems)
    longer = [one for one in made if len(one.remarks) > 1]
    assert longer
    for one in longer:
        start = session.dialogue.start([{"role": "user", "content": one.problem.question}])
        for attempt, remark in zip(one.attempts, one.remarks, strict=False):
            shown = [*start, *attempt.attempt_tokens]
            assert remark.prompt_tokens[: len(shown)] == shown
            said = session.dialogue.bridge(attempt.attempt_tokens, "Feedback :")
            assert remark.prompt_tokens[len(shown) :] == said
        assert one.episode("self-improve").turns[-1].attempt == one.attempts[-1].attempt


def test_scripted_feedback_is_what_is_learned(run: Path) -> None:
    """4. The script's branch was dead: here its words are in the examples, and it was right."""
    world = world_for("lab/arithmetic")
    edited = [e for e in collected(run, 1) if fate_of(e)[0] == "edited"]
    assert edited
    for episode in edited:
        first, said = episode.turns[:2]
        [reply] = ask_all(
            [("lab/arithmetic", "inspect", episode.problem.question, world.split(first.attempt))]
        )
        assert said.attempt == reply.value["text"]
        assert " wrong because " in said.attempt or " missing " in said.attempt
        assert episode.turns[-1].attempt == f"{episode.turns[-2].attempt} right"


def test_model_text_is_never_run(tmp_path: Path) -> None:
    """5. The released verifier evaluated it."""
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for task in ("lab/arithmetic", "lab/sorting", "bbh/multistep_arithmetic", "bbh/word_sorting"):
        world = world_for(task)
        questions = {
            "lab/arithmetic": "Compute (1+2)-(3*4)",
            "lab/sorting": "Sort b a",
            "bbh/multistep_arithmetic": "((1 + 2) - (3 * 4)) =",
            "bbh/word_sorting": "Sort the following words alphabetically: List: b a",
        }
        assert world.script is not None
        problem = Problem(id="hostile", task=task, question=questions[task], gold=code)
        for steps in (
            [f"1 + 2 = {code}", f"{code} = -9", f"So the answer is {code}."],
            [code, f"(1) {code}", f"A = {code}", "(2) So the answer is 3."],
        ):
            replies = ask_all(
                [(world.script, action, questions[task], steps) for action in ("inspect", "mend")]
            )
            assert replies[0].status == "error" or replies[0].value["step"] is not None
            world.consistent(problem, steps)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("attempt", "kept"),
    [
        ("(1) A = 2\nSo A.\n(2) The answer is 8.", ["(1) A = 2", "(2) The answer is 8."]),
        (
            "(1.) A = 2\nSo A.\n(Final response) So the answer is 8.",
            ["(1.) A = 2", "(Final response) So the answer is 8."],
        ),
        ("((2 + 3) - 1)\n= 4\nSo the answer is 4.", None),
        ("Today is Monday.\n(A) is wrong.\nSo the answer is (B).", None),
        ("(1) A = 2\n(2) B = 6\nSo the answer is 8.", None),
        ("Let's think step by step.\nIt is 8.\n\nQ: And 9?\nIt is 9.", ["It is 8."]),
    ],
)
def test_the_lines_of_an_attempt(attempt: str, kept: list[str] | None) -> None:
    for task in ("bbh/multistep_arithmetic", "bbh/date_understanding"):
        assert world_for(task).split(attempt) == (kept or attempt.split("\n"))


# Hostile and strange attempts


@pytest.mark.parametrize(
    "steps",
    [
        ["(" * 1000 + "1" + ")" * 1000 + " = 1"],
        ["1 + 2 = " + "9" * 1_000_000],
        ["9 ** 9 ** 9 ** 9 = 1"],
        ["\x00", "=", "=== ;"],
    ],
    ids=["brackets", "digits", "tower", "rubbish"],
)
def test_strange_attempts_neither_hang_nor_crash(steps: Sequence[str]) -> None:
    world = world_for("lab/arithmetic")
    hostile = replace(draft(WRONG), steps=list(steps))
    sane = draft(WRONG)
    first, second = ScriptedFeedback(world)([Judge(hostile), Judge(sane)])
    assert getattr(first, "reason", "unreadable") == "unreadable"
    assert getattr(second, "text", "") == SECOND.text


# The scripts of the lab


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ("alps bear cat", "alps bear cat right"),
        ("bear alps cat", "bear wrong because alps before bear"),
        ("alps cat bear", "alps cat wrong because bear before cat"),
        ("alps bear", "alps bear missing cat"),
        ("alps alps bear cat", "alps alps twice"),
        ("alps cat", "alps cat wrong because bear missing"),
        ("alps bear cat dog", "alps bear cat dog wrong"),
        ("", "missing alps"),
    ],
)
def test_words_out_of_place(attempt: str, said: str) -> None:
    steps = attempt.split()
    found, mended = ask_all(
        [("lab/sorting", action, "Sort bear cat alps", steps) for action in ("inspect", "mend")]
    )
    assert found.value["text"] == said
    assert mended.value == ["alps", "bear", "cat"]


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (RIGHT, f"{RIGHT} right"),
        (WRONG, "1 + 2 = 3 ; 3 * 4 = 13 wrong because 3 * 4 = 12"),
        ("1 + 2 = 3 ; 3 * 4 = 12", "1 + 2 = 3 ; 3 * 4 = 12 missing 3 - 12 = -9"),
        (f"{RIGHT} ; 1 + 1 = 2", f"{RIGHT} ; 1 + 1 = 2 wrong because answer is -9"),
    ],
)
def test_steps_out_of_order(attempt: str, said: str) -> None:
    steps = attempt.split(" ; ")
    question = "Compute (1+2)-(3*4)"
    found, mended = ask_all(
        [("lab/arithmetic", action, question, steps) for action in ("inspect", "mend")]
    )
    assert found.value["text"] == said
    assert " ; ".join(mended.value) == RIGHT


# Baselines and settings


def test_the_baselines_train(tmp_path: Path) -> None:
    rationales = tripost.train("rationale-sft", RationaleConfig(out=tmp_path / "r", **FEW))
    assert len(examples(rationales)) == 8
    few = FEW | {"rationale_epochs": 0.0}
    shown = tripost.train("si-demo-sft", DemonstrationConfig(out=tmp_path / "d", **few))
    found = examples(shown)
    assert {weight for example in found for weight in example.weights} == {1.0}
    assert {len(example.weights) for example in found} == {2, 3}
    assert all(not turn.on_policy for example in found for turn in example.episode.turns)


def test_wrong_attempts_can_be_masked(tmp_path: Path) -> None:
    masked = config(tmp_path / "run", iterations=1, rationale_epochs=0.0, train_attempt=False)
    for example in examples(tripost.train("tripost", masked)):
        right = example.episode.turns[0].grade.correct
        assert (example.weights[0] == 1.0) is right


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--feedback", "teacher"], "needs one: --teacher http"),
        (["--teacher", "expert"], "would not be asked"),
        (["--window", "2"], "window 2"),
        (["--task", "gsm8k"], "there is no script for its solutions"),
        (["--p", "1.5"], "--p"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n")
    more = ["--data", str(data)] if "gsm8k" in flags else []
    assert redraft(["train", "tripost", "--out", str(tmp_path / "run"), *flags, *more]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
