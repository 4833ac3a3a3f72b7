"""TriPosT end to end on the lab, and the mistakes of the released code that it must not have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redraft.cli import run as redraft
from redraft.engines.base import Sampling
from redraft.engines.local import LocalEngine
from redraft.grading import NumberGrader
from redraft.learning.config import LearnerConfig
from redraft.learning.imitation import to_rows
from redraft.learning.learner import Learner
from redraft.methods.tripost.config import DemonstrationConfig, RationaleConfig
from redraft.methods.tripost.recipe import WORSE_FILE, Tripost
from redraft.models import load_model
from redraft.progress import Silent
from redraft.training.launch import train
from redraft.training.supervised import SupervisedRun
from redraft.types import Grade, Problem
from rise_runs import collected, counts, examples, folder, texts
from score_runs import metrics, same_weights
from tripost_runs import FEW, settings
from tripost_trajectories import LAB, outcome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 0 and two repeats."""
    return train("tripost", settings(tmp_path_factory.mktemp("tripost") / "run"))


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
        tags = ("kept", "edited", "first_feedback", "worse", "dropped")
        assert sum(found[tag] for tag in tags) == found["episodes"] == 16
        reasons = [name for name in found if name.startswith("dropped_")]
        assert sum(found[name] for name in reasons) == found["dropped"]
        assert found["improve"] + found["confirm"] + found["gold"] == found["examples"]
        assert found["confirm"] == min(found["confirm"], np.ceil(found["improve"] / 1.5))
        assert found["p"] == pytest.approx(found["improve"] / found["examples"])


def test_trajectories_that_end_worse_are_kept_aside(run: Path) -> None:
    for number in (1, 2):
        aside = (folder(run, number) / WORSE_FILE).read_text().splitlines()
        worse = [e for e in collected(run, number) if outcome(e)[0] == "worse"]
        assert aside == [episode.model_dump_json() for episode in worse]


def test_only_answers_are_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critiques are prose: a grader that cannot judge one must not cost the trajectory."""
    judged: list[str] = []

    def grade(grader: NumberGrader, problem: Problem, text: str) -> Grade:
        judged.append(text)
        if text.split()[-1:] == ["right"] or " wrong because " in text:
            return Grade(score=0.0, status="undecided", decided_by="sandbox", reason="it is down")
        return Grade(
            score=float(text.endswith(f"= {problem.gold}")), answer=text, decided_by="test"
        )

    monkeypatch.setattr(NumberGrader, "begin", grade)
    monkeypatch.setattr(NumberGrader, "__call__", grade)
    made = train("tripost", settings(tmp_path / "run"))
    critiques = 0
    for episode in collected(made, 2):
        for turn in episode.responses[1::2]:
            assert turn.grade is None
            critiques += turn.author == "policy"
    assert critiques, "the policy's own"
    assert judged
    assert not any(" right" in text or " wrong because " in text for text in judged)
    assert not list(folder(made, 2).glob("failed-*"))
    assert counts(made, 2)["episodes"] == 16


def test_the_tokens_of_an_example_are_those_of_a_rollout(run: Path) -> None:
    """Problem, answer, request, critique, request, update: rendered as one conversation."""
    _, tokenizer = load_model("lab", device="cpu")
    seen = 0
    for example in examples(run, 1):
        episode = example.episode
        asked = [episode.problem.question, "Feedback :", "Please correct any error."]
        said = "".join(
            f"<|user|>{question}<|end|><|assistant|>{turn.text}<|end|>"
            for question, turn in zip(asked, episode.responses, strict=False)
        )
        assert episode.tokens == tokenizer(said, add_special_tokens=False)["input_ids"]
        if len(episode.responses) == 3:
            assert example.weights == [1.0, 1.5, 1.5]
            seen += 1
    assert seen


def test_the_tokens_of_a_trajectory_are_those_of_a_rollout(run: Path) -> None:
    """Each of its conversations begins anew, with the latest answer."""
    _, tokenizer = load_model("lab", device="cpu")
    seen = 0
    for episode in collected(run, 2):
        for place in range(4, len(episode.turns), 4):
            latest, request = episode.turns[place - 4], episode.turns[place - 3]
            said = f"<|user|>{episode.problem.question}<|end|><|assistant|>{latest.text}<|end|>"
            said += f"<|user|>{request.text}<|end|><|assistant|>"
            expected = tokenizer(said, add_special_tokens=False)["input_ids"]
            assert episode.context(place - 2) == expected
            seen += 1
    assert seen


def test_loss_weights_lie_on_what_was_said_and_on_nothing_else(run: Path) -> None:
    [example] = [e for e in examples(run, 1) if len(e.weights) == 3][:1]
    [row] = to_rows([example])
    expected = [0.0] * len(example.episode.prompt_tokens)
    weights = iter([1.0, 1.5, 1.5])
    for turn in example.episode.turns:
        weight = 0.0 if turn.author == "environment" else next(weights)
        expected += [weight] * len(turn.tokens)
    assert row.loss_weight is not None
    assert row.loss_weight.tolist() == expected


def test_resumed_is_unbroken(run: Path, tmp_path: Path) -> None:
    """Cut off before the second repeat is collected, and resumed, it ends as the whole run."""

    class StopError(Exception):
        pass

    class Stopper(Silent):
        def phase(self, name: str, *numbers: int | None):  # type: ignore[no-untyped-def]
            if name == "collecting 2":
                raise StopError
            return super().phase(name, *numbers)

    with pytest.raises(StopError):
        train("tripost", settings(tmp_path / "run"), Stopper())
    assert redraft(["resume", str(tmp_path / "run")]) == 0
    assert same_weights(tmp_path / "run" / "model", run / "model")
    assert texts(tmp_path / "run") == texts(run)


# Bugs of the released code (papers' fact sheets: section 9)


def test_sampling_settings_hold_in_every_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. From the second repeat on, and in later rounds, the default decoding was used."""
    asked: list[Sampling] = []
    generate = LocalEngine.generate

    def listening(
        engine: LocalEngine, requests: Any, sampling: Sampling, *rest: Any, **more: Any
    ) -> Any:
        asked.append(sampling)
        return generate(engine, requests, sampling, *rest, **more)

    monkeypatch.setattr(LocalEngine, "generate", listening)
    train(
        "tripost",
        settings(tmp_path / "run", temperature=0.7, max_tokens=47, own_updates=2, limit=4),
    )
    assert len(asked) > 2, "rounds of both repeats"
    assert {(one.temperature, one.max_tokens) for one in asked} == {(0.7, 47)}


def test_samples_of_a_problem_differ(run: Path) -> None:
    for number in (1, 2):
        by_problem: dict[str, set[str]] = {}
        for episode in collected(run, number):
            by_problem.setdefault(episode.problem.id, set()).add(episode.turns[0].text)
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


def test_the_next_round_shows_the_update_and_not_the_critique(tmp_path: Path) -> None:
    """3. Re-prompting put feedback into the answer's place when a turn ended on it."""
    made: SupervisedRun[Any] = SupervisedRun.create(
        settings(tmp_path / "run", own_updates=3, rationale_epochs=0.0), "train tripost", Silent()
    )
    made.iteration = 2
    played = Tripost(made).attempted(made, made.problems)
    longer = [one for one in played if len(one.responses) > 3]
    assert longer
    for one in longer:
        for place in range(2, len(one.turns), 4):
            answer = one.turns[place - 2].text
            assert [m.content for m in one.shown(place)] == [
                one.problem.question,
                answer,
                "Feedback :",
            ]


def test_scripted_feedback_is_what_is_learned(run: Path) -> None:
    """4. The script's branch was dead: here its words are in the examples, and it was right."""
    edited = [e for e in collected(run, 1) if outcome(e)[0] == "edited"]
    assert edited
    for episode in edited:
        first, said, *_, last, confirmation = episode.responses
        [critique] = LAB.inspect([(episode.problem.question, LAB.split(first.text))])
        assert critique is not None
        assert said.text == critique.text
        assert " wrong because " in said.text or " missing " in said.text
        assert confirmation.text == f"{last.text} right"


# Baselines and settings


def test_the_baselines_train(tmp_path: Path) -> None:
    rationales = train("rationale-sft", RationaleConfig(out=tmp_path / "r", **FEW))
    assert len(examples(rationales)) == 8
    few = FEW | {"rationale_epochs": 0.0}
    shown = train("si-demo-sft", DemonstrationConfig(out=tmp_path / "d", **few))
    found = examples(shown)
    assert {weight for example in found for weight in example.weights} == {1.0}
    assert {len(example.weights) for example in found} == {2, 3}
    assert all(turn.author == "teacher" for e in found for turn in e.episode.responses)


def test_wrong_attempts_can_be_masked(tmp_path: Path) -> None:
    masked = settings(tmp_path / "run", iterations=1, rationale_epochs=0.0, train_attempt=False)
    for example in examples(train("tripost", masked)):
        right = example.episode.correct[0]
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
    more = ["--data", str(data)] if "gsm8k" in flags else ["--task", "lab/sorting"]
    assert redraft(["train", "tripost", "--out", str(tmp_path / "run"), *flags, *more]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
