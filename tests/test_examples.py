"""The examples run, and what they show is what the package does."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_score_loop_takes_a_few_steps(capsys: pytest.CaptureFixture[str]) -> None:
    found = loaded("score_loop").main(["--steps", "1", "1", "--problems", "4", "--held-out", "8"])
    said = capsys.readouterr().out
    assert (
        said.index("base model:") < said.index("stage I step 1:") < said.index("stage II step 2:")
    )
    assert found["delta_t1_t2"] == pytest.approx(found["i_to_c"] - found["c_to_i"])


def test_the_score_loop_has_the_settings_of_the_lab_preset() -> None:
    """The numbers that it states are those of `redraft train score --preset lab`."""
    from redraft.training.method import METHODS

    loop = loaded("score_loop")
    config = METHODS["score"].configure(preset="lab", overrides={"out": Path("unused")})
    assert (config.problems_per_step, config.samples) == (loop.PROBLEMS, loop.SAMPLES)
    assert (config.beta1, config.beta2, config.alpha) == (loop.BETA1, loop.BETA2, loop.ALPHA)
    assert (config.attempts, config.max_tokens) == (loop.ATTEMPTS, loop.MAX_TOKENS)


def test_the_score_loop_can_be_read_in_one_sitting() -> None:
    assert len((EXAMPLES / "score_loop.py").read_text().splitlines()) < 260
