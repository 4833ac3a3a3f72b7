"""The supervised baselines: what each learns from, as short runs of its own command."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoints import Asked, Handler, completion, serving
from episodes import Answer
from guessing_model import save_problems
from redraft.cli import run as redraft
from redraft.learning.config import LearnerConfig
from redraft.learning.imitation import Example, to_rows
from redraft.learning.learner import Learner
from redraft.methods import baselines
from redraft.methods.baselines import _trace
from redraft.models import load_model
from redraft.progress import Silent
from redraft.training import launch
from redraft.training.method import METHODS
from redraft.types import Turn
from rise_runs import RETRY, collected, counts, examples, gold, settings, texts, train
from score_runs import metrics, same_weights, timeless
from tiny_models import tiny_tokenizer

Run = Callable[..., Path]


@pytest.fixture
def run_method(world: Path, tmp_path: Path) -> Run:
    """Trains by a baseline's command in a folder of the test's own."""

    def run(method: str, name: str = "run", **fields: Any) -> Path:
        assert train(method, world, tmp_path / name, **fields) == 0
        return tmp_path / name

    return run


def verdicts(run: Path, iteration: int = 1) -> Counter[tuple[bool, ...]]:
    """How often each sequence of verdicts is learned from."""
    return Counter(tuple(example.episode.correct) for example in examples(run, iteration))


def last_attempts_only(chosen: Sequence[Example]) -> bool:
    """Whether the last attempt of each example carries all the loss, with weight 1."""
    return all(e.weights == [0.0] * (len(e.episode.responses) - 1) + [1.0] for e in chosen)


def fit(turn: Turn) -> bool:
    return bool(turn.text.strip()) and not turn.truncated


def right(turn: Turn) -> bool:
    return turn.grade is not None and turn.grade.correct


# STaR


@pytest.mark.parametrize("plus", [False, True])
def test_star_learns_second_attempts_that_are_right(plus: bool, run_method: Run) -> None:
    run = run_method("star", iterations=2, samples=24, **({"plus": True} if plus else {}))
    kept = {(False, True), (True, True)} if plus else {(False, True)}
    assert {kind for iteration in (1, 2) for kind in verdicts(run, iteration)} == kept
    for iteration in (1, 2):
        chosen = examples(run, iteration)
        assert last_attempts_only(chosen)
        played = collected(run, iteration)
        assert {len(episode.answers) for episode in played} == {2}, "no oracle stops an episode"
        expected = [e for e in played if tuple(e.correct) in kept and fit(e.answers[1])]
        assert [example.episode for example in chosen] == expected
        found = counts(run, iteration)
        assert found["corrections"] == verdicts(run, iteration)[False, True]
        assert found["confirmations"] == verdicts(run, iteration)[True, True]


def test_star_has_three_iterations_by_default_each_from_the_base(
    run_method: Run, world: Path
) -> None:
    """A batch holds all examples, so that the first loss of iteration 3 tells its weights."""
    run = run_method("star", samples=24, plus=True, batch_size=1000)
    names = sorted(path.name for path in (run / "iterations").iterdir())
    assert names == ["01", "02", "03"]
    found = {line["phase"]: line["loss"] for line in metrics(run)}
    how, losses = LearnerConfig(loss_mean="attempt"), {}
    for name, model in {"base": world / "model", "last": run / "iterations/02/model"}.items():
        policy, _ = load_model(model, training=True, device="cpu")
        losses[name] = Learner(policy, how).step(to_rows(examples(run, 3)))["loss"]
    assert found["iteration 3"] == pytest.approx(losses["base"], rel=1e-4)
    assert found["iteration 3"] != pytest.approx(losses["last"], rel=1e-3)


# Pair-SFT


@pytest.mark.parametrize("plus", [False, True])
def test_pair_sft_pairs_attempts_at_the_same_problem(
    plus: bool, run_method: Run, world: Path, tmp_path: Path
) -> None:
    run = run_method("pair-sft", samples=16, **({"plus": True} if plus else {}))
    chosen = examples(run)
    assert set(verdicts(run)) == ({(False, True), (True, True)} if plus else {(False, True)})
    assert last_attempts_only(chosen)
    pools: dict[str, list[Turn]] = {}
    for episode in collected(run):
        pools.setdefault(episode.problem.id, []).extend(episode.answers)
    per_problem = Counter(example.episode.problem.id for example in chosen)
    for name, pool in pools.items():
        count = sum(right(turn) for turn in pool if fit(turn))
        assert per_problem[name] == (count > 0) + (plus and count > 1)
    for example in chosen:
        made = [(turn.text, turn.tokens) for turn in pools[example.episode.problem.id]]
        for turn in example.episode.answers:
            assert fit(turn)
            assert (turn.text, turn.tokens) in made


def drawn(*texts: str) -> list[Turn]:
    return [Answer(True, text).turn for text in texts]


def test_a_pair_is_never_one_sample_twice() -> None:
    rng = np.random.default_rng(0)
    alone = drawn("1")
    assert _trace(alone, alone, rng) is None
    alike = drawn("1", "1")
    for _ in range(20):
        first, second = _trace(alike, alike, rng) or ()
        assert first is not second


def test_a_pair_of_right_samples_has_two_texts_where_there_are_two() -> None:
    rng, pool = np.random.default_rng(0), drawn("1", "1", "1 or one")
    pairs = [tuple(turn.text for turn in _trace(pool, pool, rng) or ()) for _ in range(40)]
    assert set(pairs) == {("1", "1 or one"), ("1 or one", "1")}


def test_a_problem_with_one_right_attempt_makes_no_confirmation(run_method: Run) -> None:
    run = run_method("pair-sft", samples=4, plus=True)
    pools: dict[str, list[Turn]] = {}
    for episode in collected(run):
        pools.setdefault(episode.problem.id, []).extend(filter(fit, episode.answers))
    counts_right = {name: sum(map(right, pool)) for name, pool in pools.items()}
    assert 1 in counts_right.values()
    confirmed = [e.episode.problem.id for e in examples(run) if all(e.episode.correct)]
    assert set(confirmed) == {name for name, count in counts_right.items() if count > 1}


def test_a_pairs_tokens_are_laid_out_as_rollout_would(run_method: Run) -> None:
    for example in examples(run_method("pair-sft", samples=16)):
        [first, second] = example.episode.answers
        question = example.episode.problem.question
        shown = [f"<bos><user>{question}<eos><assistant>", f"<user>{RETRY}<eos><assistant>"]
        [row] = to_rows([example])
        text = f"{shown[0]}{first.text}<eos>{shown[1]}{second.text}<eos>"
        assert decode(row.tokens.tolist()) == text
        assert row.loss_weight is not None
        learned = row.tokens[row.loss_weight > 0].tolist()
        assert decode(learned) == f"{second.text}<eos>"


def decode(tokens: Sequence[int]) -> str:
    return str(tiny_tokenizer().decode(list(tokens)))


# Best of N


def test_bon_sft_learns_all_right_attempts_alike(run_method: Run) -> None:
    run = run_method("bon-sft", samples=8, best_of=4)
    chosen = examples(run)
    assert chosen
    for example in chosen:
        for correct, weight in zip(example.episode.correct, example.weights, strict=True):
            assert weight == (pytest.approx(1) if correct else 0)
    total = sum(sum(episode.correct) for episode in collected(run))
    assert counts(run)["attempts"] == counts(run)["attempts_right"] == total


def test_bon_sft_has_rises_data(run_method: Run) -> None:
    """Success only on the same attempts: nothing but the choice and the weights differ."""
    options = {"samples": 8, "best_of": 4}
    ours, rises = run_method("bon-sft", **options), run_method("rise", "rise", **options)
    assert collected(ours) == collected(rises)
    assert len(examples(ours)) < len(examples(rises))


# Off-policy


def erring(handler: Handler, asked: Asked) -> None:
    """A teacher whose first answers are wrong, but for one question."""
    if asked.method == "GET":
        handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        return
    messages = asked.body["messages"]
    question = messages[0]["content"]
    knows = len(messages) > 1 or question == "0?"
    handler.send(200, completion(gold(question) if knows else "9"))


def test_off_policy_sft_has_no_attempt_of_the_policy(run_method: Run) -> None:
    with serving(erring) as endpoint:
        run = run_method("off-policy-sft", teacher=endpoint.model)
    played, chosen = collected(run), examples(run)
    assert len(played) == len(chosen) == 6
    assert {turn.author for episode in played for turn in episode.responses} == {"teacher"}
    assert verdicts(run) == {(True,): 1, (False, True): 5}
    assert last_attempts_only(chosen)
    assert counts(run)["corrections"] == 5
    second = [body["messages"] for body in endpoint.bodies if len(body["messages"]) > 1]
    assert len(second) == 5
    for messages in second:
        assert [message["content"] for message in messages[1:]] == ["9", RETRY]
    for example in chosen:
        attempts = [f"{turn.text}<eos>" for turn in example.episode.responses]
        own = [decode(turn.tokens) for turn in example.episode.responses]
        assert own == attempts


def test_off_policy_sft_stops_after_its_attempts(run_method: Run, world: Path) -> None:
    with serving(erring) as endpoint:
        run = run_method("off-policy-sft", teacher=endpoint.model, attempts=1)
    assert verdicts(run) == {(True,): 1}
    assert len(endpoint.bodies) == 6


def test_off_policy_sft_needs_a_teacher(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("off-policy-sft", world, tmp_path / "run") == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("redraft: error: --teacher is required; ")
    )


# LMSI


def test_lmsi_learns_the_majority(run_method: Run) -> None:
    run = run_method("lmsi", samples=16)
    chosen: dict[str, list[str]] = {}
    for example in examples(run):
        assert example.weights == [1.0]
        chosen.setdefault(example.episode.problem.id, []).append(example.episode.turns[0].text)
    votes: dict[str, list[str | None]] = {}
    for episode in collected(run):
        votes.setdefault(episode.problem.id, []).append(episode.grades[0].answer)
    for name, attempts in chosen.items():
        tally = Counter(answer for answer in votes[name] if answer is not None)
        most = max(tally.values())
        first = next(answer for answer in votes[name] if answer and tally[answer] == most)
        assert {attempt.strip() for attempt in attempts} == {first}
        assert len(attempts) == len(set(attempts)), "one of each text"


def test_lmsi_asks_for_agreement(run_method: Run) -> None:
    run = run_method("lmsi", samples=64, agreement=0.08)
    votes: dict[str, Counter[str | None]] = {}
    for episode in collected(run):
        votes.setdefault(episode.problem.id, Counter())[episode.grades[0].answer] += 1
    for tally in votes.values():
        del tally[None]
    agreed = {name for name, tally in votes.items() if max(tally.values(), default=0) >= 0.08 * 64}
    assert {example.episode.problem.id for example in examples(run)} == agreed
    assert 0 < len(agreed) < 6


def test_lmsi_does_not_look_at_the_golds(run_method: Run, tmp_path: Path) -> None:
    """Other golds change the verdicts that are recorded, and nothing that is learned."""
    other = save_problems(tmp_path / "other.jsonl", "987654")
    runs = run_method("lmsi"), run_method("lmsi", "other", data=other)
    learned = [
        [(example.episode.turns[0].tokens, example.weights) for example in examples(run)]
        for run in runs
    ]
    assert learned[0] == learned[1]
    assert learned[0]
    assert same_weights(runs[0] / "model", runs[1] / "model")
    assert counts(runs[1])["attempts_right"] == 0 < counts(runs[0])["attempts_right"]


# All of them

SHORT: dict[str, dict[str, Any]] = {
    "star": {"iterations": 2, "samples": 24, "start": "base"},
    "pair-sft": {"samples": 16},
    "bon-sft": {"samples": 8, "best_of": 4},
    "off-policy-sft": {},
    "lmsi": {"iterations": 2},
}


@pytest.mark.parametrize("method", SHORT)
def test_a_run_stopped_while_fine_tuning_goes_on_to_the_same_weights(
    method: str, world: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        """As good as a kill: nothing catches it."""

    class Stopper(Silent):
        def advance(self, n: int = 1, **metrics: Any) -> None:
            if "loss" in metrics:
                raise StoppedError

    with serving(erring) as endpoint:
        fields = SHORT[method] | {"batch_size": 2, "checkpoint_every": 1}
        if method == "off-policy-sft":
            fields["teacher"] = endpoint.model
        broken = settings(METHODS[method].settings, world, tmp_path / "run", **fields)
        with pytest.raises(StoppedError):
            launch.train(method, broken, Stopper())
        assert len(metrics(broken.out)) == 1
        assert redraft(["resume", str(broken.out)]) == 0
        assert train(method, world, tmp_path / "unbroken", **fields) == 0
    unbroken = tmp_path / "unbroken"
    assert same_weights(broken.out / "model", unbroken / "model")
    assert not same_weights(unbroken / "model", world / "model")
    assert timeless(broken.out) == timeless(unbroken)
    assert texts(broken.out) == texts(unbroken)


def test_every_baseline_is_tried_here() -> None:
    assert SHORT.keys() == {method.name for method in baselines.METHODS}
    assert all(METHODS[name].baseline for name in SHORT)


@pytest.mark.parametrize(
    ("method", "wrong", "named"),
    [
        ("bon-sft", {"criterion": "all"}, "bon-sft learns from right responses alone"),
        ("bon-sft", {"centred": True}, "bon-sft learns from right responses alone"),
        ("pair-sft", {"window": 2}, "window 2: a pair is the problem and both responses"),
        ("lmsi", {"window": 1}, "window 1: a first response has nothing before it"),
    ],
)
def test_what_would_make_another_method_of_it_is_refused(
    method: str,
    wrong: dict[str, Any],
    named: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(method, world, tmp_path / "run", **wrong) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("redraft: error: ")
    assert named in line
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_rise_does_not_make_rise_of_best_of_n(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "rise-qwen2.5-1.5b-lora.yaml"
    arguments = ["train", "bon-sft", "--config", str(recipe), "--out", str(tmp_path / "run")]
    assert redraft(arguments) == 2
    assert "bon-sft learns from right responses alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
