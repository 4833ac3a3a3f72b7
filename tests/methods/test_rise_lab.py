"""The benchmark of RISE: systems lie apart, and old runs are not taken for new ones."""

import sys
from pathlib import Path
from typing import Any

import pytest

from episodes import Answer, episode
from redraft.config import resolve
from redraft.errors import UserError
from redraft.learning.imitation import Example
from redraft.methods.baselines import StarConfig
from redraft.methods.rise import RiseConfig
from redraft.progress import Silent
from redraft.run_directory import RunDirectory
from redraft.storage import to_jsonl
from redraft.training.method import METHODS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script finds its neighbours."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_no_two_systems_share_a_folder(tmp_path: Path) -> None:
    from rise_lab_systems import SYSTEMS
    from rise_study import place_in

    places = {place_in(tmp_path, seed, name) for name in SYSTEMS for seed in (1, 2)}
    assert len(places) == 2 * len(SYSTEMS)


def test_every_system_resolves_with_the_specifications_numbers(tmp_path: Path) -> None:
    from rise_lab_systems import COMMON, SYSTEMS

    configs = {
        name: METHODS[system.method].configure(overrides={**COMMON, **system.told, "out": tmp_path})
        for name, system in SYSTEMS.items()
        if system.method is not None
    }
    for name in ("STaR D", "STaR D+"):
        assert (configs[name].iterations, configs[name].start) == (3, "base")
    for name in ("Pair-SFT D", "Pair-SFT D+"):
        assert (configs[name].iterations, configs[name].epochs) == (1, 1)
    assert len({c.problems_per_iteration for c in configs.values()}) == 1
    assert [configs[f"STaR D{plus}"].model_dump()["plus"] for plus in ("", "+")] == [False, True]


@pytest.mark.parametrize("differing", [{"plus": True}, {"samples": 3}, {"seed": 9}])
def test_a_run_made_with_other_settings_is_refused(
    differing: dict[str, Any], tmp_path: Path
) -> None:
    from rise_lab_systems import COMMON, lab_study
    from rise_study import run

    place = tmp_path / "star-d"
    told = {**COMMON, "iterations": 3, "start": "base", "seed": 1, **differing}
    config = resolve(StarConfig, overrides={**told, "out": place / "training"})
    made = RunDirectory.create(place / "training", config, "train star")
    made.summary({})
    [name] = differing
    with pytest.raises(UserError, match=f"was made with {name} "):
        run(lab_study(8), "STaR D", place, 1, Silent())


def test_what_an_iteration_drew_and_learned_is_counted_from_its_files(tmp_path: Path) -> None:
    """Two roll-ins of iteration 1: one right at once, one improved as the best of 4."""
    from rise_study import learned_in

    at_once = episode(Answer(True, "1"))
    improved = episode(Answer(False, "2"), Answer(True, "1"))
    copied = episode(Answer(True, "1"), Answer(True, "1"))
    folder = tmp_path / "01"
    folder.mkdir()
    (folder / "episodes-0000.jsonl").write_text(to_jsonl([at_once, improved]))
    examples = [
        Example(episode=at_once, weights=[2.0]),
        Example(episode=improved, weights=[1.0, 2.0]),
        Example(episode=copied, weights=[0.0, 1.0]),
    ]
    (folder / "examples.jsonl").write_text(to_jsonl(examples))
    found = learned_in(folder, RiseConfig(out=tmp_path, task="lab/sorting", best_of=4))
    assert (found.drawn, found.taught, found.examples) == (1 + 1 + 4, 0, 3)
    assert (found.right, found.copies) == (3 / 4, 1 / 4)
