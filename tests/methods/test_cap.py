"""CaP runs on a tiny model with programs that really run: data, stages, refusals, sources."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cap_runs import CHAINS, PROGRAMS, played, settings
from endpoints import serving
from guessing_model import save_problems
from redraft.cli import run as redraft
from redraft.errors import UserError
from redraft.evaluation.metrics import label_of
from redraft.learning.imitation import Example, to_rows
from redraft.learning.pairs import PreferencePair
from redraft.methods.cap.settings import CapConfig
from redraft.models import load_model
from redraft.sandbox import Wanted, level
from redraft.storage import read_jsonl
from redraft.training.launch import train
from rise_runs import knowing
from score_runs import Notes, metrics, same_weights


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with both stages, and what it noted."""
    out, notes = tmp_path_factory.mktemp("cap") / "run", Notes()
    train("cap", settings(world, out), notes)
    return out, notes.notes


def summary(run: Path, iteration: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run / "iterations" / f"{iteration:02d}" / "summary.json").read_text()
    )
    return found


def test_every_chain_is_followed_by_programs_that_ran(run: tuple[Path, list[str]]) -> None:
    episodes = played(run[0])
    assert len(episodes) == 6 * CHAINS * PROGRAMS
    assert {(e.problem.id, e.sample) for e in episodes} == {
        (f"jsonl/train/{problem}", sample)
        for problem in range(6)
        for sample in range(CHAINS * PROGRAMS)
    }
    for episode in episodes:
        chain, program = episode.responses
        assert chain.source == "policy"
        assert episode.said_after(0) == "Write a program."
        assert chain.grade
        assert chain.grade.answer is None or chain.grade.answer in chain.text
        code = program.text
        if code.isdigit() and not code.startswith("0") and not program.truncated:
            assert episode.said_after(1) == code  # the value of its last expression
            assert episode.correct[1] == (code == episode.problem.gold)
        if program.truncated:
            assert episode.said_after(1) is None
            assert label_of(episode) == "error"
        assert episode.tags["label"] == label_of(episode)
    counted = summary(run[0], 1)
    for name in ("right", "wrong", "copy", "error", "silent"):
        assert counted[name] == sum(label_of(e) == name for e in episodes)
    assert counted["wrong_chains"] == sum(not e.correct[0] for e in episodes)
    assert json.loads((run[0] / "sandbox.json").read_text())["mechanisms"] == level().mechanisms


def test_the_supervised_stage_learns_from_right_programs_alone(
    run: tuple[Path, list[str]],
) -> None:
    examples = read_jsonl(run[0] / "iterations" / "01" / "examples.jsonl", Example)
    after_right = [example.episode.correct[0] for example in examples]
    assert after_right.count(True) == after_right.count(False) > 0
    for example, row in zip(examples, to_rows(examples), strict=True):
        assert example.episode.correct[1]
        program = example.episode.responses[1].tokens
        assert row.tokens.tolist() == example.episode.tokens  # what it printed has no tokens
        weighed = row.loss_weight != 0
        assert weighed.sum() == len(program)
        assert weighed[-len(program) :].all()


def test_the_preference_stage_has_typed_pairs_on_one_prompt(
    run: tuple[Path, list[str]],
) -> None:
    pairs = read_jsonl(run[0] / "iterations" / "02" / "pairs.jsonl", PreferencePair)
    counted = summary(run[0], 2)
    assert counted["pairs"] == len(pairs) == sum(counted["kept"].values())
    assert counted["kept"] == {
        kind: sum(pair.kind == kind for pair in pairs) for kind in counted["found"]
    }
    assert sum(counted["kept"][kind] > 0 for kind in counted["kept"]) > 1
    labels = {}
    for episode in played(run[0]):
        program = episode.responses[1].tokens
        of = labels.setdefault(tuple(episode.tokens[: -len(program)]), {})
        of[tuple(program)] = (label_of(episode), episode.correct[0])
    wanted = {"fix": ("copy", False), "fix-hard": ("wrong", False), "preserve": ("wrong", True)}
    for pair in pairs:
        on_prompt = labels[tuple(pair.prompt)]
        assert on_prompt[tuple(pair.chosen.tokens)][0] == "right"
        rejected = on_prompt.get(tuple(pair.rejected.tokens))
        if rejected is not None and pair.kind in wanted:
            assert rejected == wanted[pair.kind]
        assert pair.chosen.ref_logprob is not None
    assert any(note.startswith(f"{len(pairs)} preference pairs (fix") for note in run[1])


def test_pairs_are_scored_at_temperature_1_whatever_they_were_sampled_at(
    world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("cap", settings(world, run, temperature=0.7))
    model, _ = load_model(run / "iterations" / "01" / "model", device="cpu")
    for pair in read_jsonl(run / "iterations" / "02" / "pairs.jsonl", PreferencePair)[:8]:
        tokens = torch.tensor([[*pair.prompt, *pair.chosen.tokens]])
        logprobs = model(tokens).logits[0, :-1].float().log_softmax(-1)
        said = logprobs.gather(-1, tokens[0, 1:, None])[len(pair.prompt) - 1 :].sum().item()
        assert pair.chosen.ref_logprob == pytest.approx(said, rel=1e-4)


def test_the_log_and_the_models_of_both_stages(run: tuple[Path, list[str]]) -> None:
    lines = metrics(run[0])
    stages = [line["phase"] for line in lines]
    assert stages == sorted(stages, key=["iteration 1", "preferences"].index)
    first = next(line for line in lines if line["phase"] == "preferences")
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)  # the reference is the policy
    assert {"logps/chosen", "logps/rejected", "rewards/accuracies"} <= first.keys()
    folders = [run[0] / "iterations" / name / "model" for name in ("01", "02")]
    assert not same_weights(*folders)
    assert same_weights(folders[1], run[0] / "model")


def test_supervised_fine_tuning_alone(world: Path, tmp_path: Path) -> None:
    train("cap", settings(world, tmp_path / "run", loss="none", chain_ratio="any"))
    assert not (tmp_path / "run" / "iterations" / "02").exists()
    assert same_weights(tmp_path / "run/iterations/01/model", tmp_path / "run/model")


def test_the_baseline_sees_no_chain_and_says_that_its_pairs_are_of_few_types(
    world: Path, tmp_path: Path
) -> None:
    notes = Notes()
    train("cap", settings(world, tmp_path / "run", variant="pot", exec_share=0.0), notes)
    episodes = played(tmp_path / "run")
    assert {len(episode.responses) for episode in episodes} == {1}
    assert len(episodes) == 6 * CHAINS * PROGRAMS
    assert episodes[0].messages[0].content == f"{episodes[0].problem.question} Write a program."
    assert any("all preference pairs are of type 'fix-hard'" in note for note in notes.notes)


@pytest.mark.parametrize("loss", ["kto", "sigmoid+0.5*nll", "simpo"])
def test_losses_and_new_samples(world: Path, tmp_path: Path, loss: str) -> None:
    train("cap", settings(world, tmp_path / "run", loss=loss, resample=True))
    pairs = read_jsonl(tmp_path / "run/iterations/02/pairs.jsonl", PreferencePair)
    assert all((pair.unrelated is not None) == (loss == "kto") for pair in pairs)
    assert all((pair.chosen.ref_logprob is None) == (loss == "simpo") for pair in pairs)
    resampled = played(tmp_path / "run", 2)
    assert {e.policy for e in resampled} == {f"step-{_sft_steps(tmp_path / 'run'):06d}"}


def _sft_steps(run: Path) -> int:
    return sum(line["phase"] == "iteration 1" for line in metrics(run))


def test_a_question_that_fills_the_context_stops_nothing(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    long = {"question": "9" * 600, "gold": "1"}  # the model's context has 512 tokens
    data.write_text((world / "problems.jsonl").read_text() + json.dumps(long) + "\n")
    run = tmp_path / "run"
    train("cap", settings(world, run, data=data, loss="none", chain_ratio="any"))
    cut = [episode for episode in played(run) if episode.outcome == "truncated"]
    assert {episode.problem.question for episode in cut} == {long["question"]}
    assert all(not episode.turns and "context" in episode.note for episode in cut)
    assert summary(run, 1)["no_program"] == len(cut) == CHAINS


# ---- sources ----


def test_chains_of_other_models(world: Path, tmp_path: Path) -> None:
    with serving(knowing()) as server:
        few = {"chains": 2, "programs": 3, "chain_ratio": "any"}
        sources = f"policy,{world / 'model'},{server.model}"
        train("cap", settings(world, tmp_path / "run", sources=sources, loss="none", **few))
    episodes = played(tmp_path / "run")
    by_source: dict[str, list[bool]] = {}
    for episode in episodes:
        chain, program = episode.responses
        by_source.setdefault(chain.source, []).append(episode.correct[0])
        assert chain.author == ("policy" if chain.source == "policy" else "teacher")
        assert chain.tokens
        assert bool(chain.logprobs) == (chain.source == "policy")
        assert program.sampled
    assert {name: len(of) for name, of in by_source.items()} == dict.fromkeys(
        ["policy", str(world / "model"), server.model], 36
    )
    assert all(by_source[server.model])
    assert not all(by_source[str(world / "model")])


def test_a_source_that_fails_stops_the_run_before_training(world: Path, tmp_path: Path) -> None:
    fails = ["3?"]
    with serving(knowing(fails)) as server:
        config = settings(world, tmp_path / "run", sources=server.model, loss="none")
        with pytest.raises(UserError, match="1 of 6 problems could not be collected"):
            train("cap", config.model_copy(update={"chain_ratio": "any"}))
        assert not (tmp_path / "run/iterations/01/examples.jsonl").exists()


# ---- refusals ----


def test_no_pairs_is_refused_and_the_fine_tuned_model_is_there(world: Path, tmp_path: Path) -> None:
    data = save_problems(tmp_path / "more.jsonl", "12" * 60)
    one = {"data": data, "chains": 1, "programs": 1, "chain_ratio": "any"}
    with pytest.raises(UserError, match=r"^no preference pairs \(fix 0 of 0.*programs right"):
        train("cap", settings(world, tmp_path / "run", **one))
    assert (tmp_path / "run/iterations/01/model/config.json").is_file()


def test_strict_refuses_before_anything_is_sampled(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = level(Wanted(namespaces=False, landlock=False, seccomp=False))
    monkeypatch.setattr("redraft.grading.confinement.level", lambda: bare)
    with pytest.raises(UserError, match="sandbox strict"):
        train("cap", settings(world, tmp_path / "run", sandbox="strict"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "dopey"}, "unknown preference loss 'dopey'"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing 0.1 has no effect"),
        ({"loss": "none", "resample": True}, "--loss none does not use"),
        ({"loss": "none", "beta": 1.0}, "--beta 1.0 has no effect with --loss none"),
        ({"loss": "sigmoid", "gamma": 2.0}, "gamma 2.0 has no effect on loss 'sigmoid'"),
        ({"variant": "pot", "sources": "lab"}, "the variant pot has no chains"),
        ({"window": 2}, "leave the window out"),
        ({"chain_ratio": "0:0"}, "RIGHT:WRONG"),
        ({"chain_ratio": "1"}, "RIGHT:WRONG"),
        ({"sources": "lab,lab"}, "each once"),
        ({"sources": "lab,"}, "each once"),
        ({"task": "gsm8k", "sources": "expert"}, "--sources expert: task 'gsm8k' has no expert"),
        ({"task": "humaneval"}, "an answer is a program, judged by its tests"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CapConfig(out=Path("x"), **{"task": "lab/arithmetic", **fields})


def test_the_command_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cap = ["train", "cap", "--task", "lab/arithmetic", "--out", str(tmp_path / "run")]
    assert redraft([*cap, "--loss", "dopey"]) == 2
    assert "unknown preference loss 'dopey'" in capsys.readouterr().err
    assert redraft([*cap, "--chain-ratio", "x"]) == 2
    assert "--chain-ratio 'x': expected RIGHT:WRONG" in capsys.readouterr().err
