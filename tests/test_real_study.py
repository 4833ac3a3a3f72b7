"""Studies on real models: kept figures, missing models, stages that go on from another run."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

from redraft.config import resolve
from redraft.errors import UserError
from redraft.methods.cap import CapConfig
from redraft.run_directory import RunDirectory
from redraft.storage import read_json

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script finds its neighbours."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_figures_are_kept_with_the_options_that_they_were_made_with(tmp_path: Path) -> None:
    from real_study import in_order, keep, missing

    file, asked = tmp_path / "results" / "known.json", {"model": "small", "problems": 8}
    keep(file, asked, {"system": "RISE", "seed": 1, "hours": 2.5})
    keep(file, asked, {"system": "base", "seed": 1, "hours": 1.5})
    known = read_json(file)
    assert known["made_with"] == asked
    assert [one["hours"] for one in in_order(known, ["base", "RISE"])] == [1.5, 2.5]
    options = Namespace(known=file, seeds=[1, 2], systems=["base", "RISE"], page_only=False)
    assert list(missing(options, asked)) == [(2, "base"), (2, "RISE")]
    with pytest.raises(UserError, match="made with --problems 8, wanted is 9"):
        list(missing(options, {"model": "small", "problems": 9}))


def test_a_model_that_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    from real_study import folder_of

    (tmp_path / "mine").mkdir()
    assert folder_of("mine", tmp_path) == tmp_path / "mine"
    with pytest.raises(UserError, match=r"public_models.py Qwen2.5-Coder-1.5B-Instruct --folder"):
        folder_of("Qwen2.5-Coder-1.5B-Instruct", tmp_path)
    with pytest.raises(UserError, match="neither a folder nor one of"):
        folder_of("nobody", tmp_path)


@pytest.mark.parametrize("script", ["rise_real", "cap_real"])
def test_a_page_without_a_finished_run_says_so(script: str) -> None:
    assert "Nothing has been run yet" in __import__(script).page({})


def test_a_preference_stage_goes_on_from_a_copy_of_the_supervised_run(tmp_path: Path) -> None:
    """A copy that was cut off before is made anew; the supervised run stays as it was."""
    from cap_study import branch
    from resumable import made_with

    told = {"task": "lab/arithmetic", "seed": 1}
    sft, place = tmp_path / "sft" / "training", tmp_path / "nll" / "training"
    config = resolve(CapConfig, overrides={**told, "loss": "none", "out": sft})
    RunDirectory.create(sft, config, "train cap").summary({})
    (place.parent / ".training.partial").mkdir(parents=True)
    wanted = resolve(CapConfig, overrides={**told, "loss": "nll", "out": place})
    branch(sft, wanted)
    assert made_with(place, wanted)
    assert not (place / "summary.json").exists()
    assert (sft / "summary.json").exists()
    assert [one.name for one in place.parent.iterdir()] == ["training"]
