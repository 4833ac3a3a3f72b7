"""Settings: precedence, refusals that name value and place, and files that read back."""

from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from pydantic import Field, model_validator

from redraft.config import Settings, fields, resolve, to_yaml
from redraft.errors import UserError


class Optimiser(Settings):
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates."""


class Training(Settings):
    model: str
    """What to train."""
    alpha: float = 1.0
    """A long description of the bonus multiplier, long enough that it has to be wrapped when it
    is written as a comment over the field."""
    steps: int = Field(default=10, ge=1)
    """Optimiser steps."""
    warmup: int = 0
    """Steps of warm-up."""
    out: Path | None = None
    """Folder."""
    optimiser: Optimiser = Optimiser()
    """How weights change."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"alpha": 10.0, "steps": 300, "optimiser": {"learning_rate": 5e-6}},
    }

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup >= self.steps:
            raise ValueError(f"--warmup {self.warmup} leaves nothing of --steps {self.steps}")
        return self


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


def refusal(**arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(Training, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_flags_come_before_the_file_before_the_preset_before_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "model: from-file\nsteps: 20\noptimiser:\n  betas: [0.8, 0.9]\n")
    resolved = resolve(Training, file=file, preset="paper", overrides={"steps": 5})
    assert resolved.model == "from-file"
    assert resolved.steps == 5
    assert resolved.alpha == 10.0
    assert resolved.optimiser == Optimiser(learning_rate=5e-6, betas=(0.8, 0.9))
    assert resolved.warmup == 0


def test_a_field_of_a_group_is_named_with_a_dot() -> None:
    assert "optimiser.learning_rate" in fields(Training)
    assert "optimiser" not in fields(Training)
    resolved = resolve(Training, overrides={"model": "m", "optimiser.learning_rate": 0.5})
    assert resolved.optimiser.learning_rate == 0.5
    assert resolved.optimiser.betas == (0.9, 0.999)


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 reads `1e-4` as text.
    file = written(tmp_path, "model: m\noptimiser: {learning_rate: 1e-4}\n")
    assert resolve(Training, file=file).optimiser.learning_rate == 1e-4


def test_an_unknown_key_of_a_file_names_file_key_and_close_matches(tmp_path: Path) -> None:
    file = written(tmp_path, "model: m\nalhpa: 3\n")
    message = refusal(file=file)
    assert message == f"{file}: unknown field 'alhpa'; did you mean alpha?"
    file = written(tmp_path, "model: m\noptimiser: {learning_rte: 3}\n")
    assert "did you mean optimiser.learning_rate?" in refusal(file=file)
    file = written(tmp_path, "model: m\nzzz: 3\n")
    assert "there is: model, alpha, steps" in refusal(file=file)


def test_an_unknown_preset_names_those_there_are() -> None:
    assert refusal(preset="papper") == "--preset: unknown preset 'papper'; did you mean paper?"


@pytest.mark.parametrize(
    ("text", "place", "complaint"),
    [
        ("model: m\nsteps: 0\n", "steps 0", "greater than or equal to 1"),
        ("model: m\nsteps: many\n", "steps 'many'", "valid integer"),
        ("model: m\noptimiser: {betas: [0.9, x]}\n", "optimiser.betas 'x'", "valid number"),
    ],
)
def test_a_refused_value_of_a_file_names_value_and_place(
    tmp_path: Path, text: str, place: str, complaint: str
) -> None:
    file = written(tmp_path, text)
    message = refusal(file=file)
    assert message.startswith(f"{file}: {place}: ")
    assert complaint in message


def test_a_refused_flag_is_named_as_the_user_typed_it() -> None:
    message = refusal(overrides={"model": "m", "optimiser.learning_rate": -1.0})
    assert message == "--optimiser.learning-rate -1.0: should be greater than 0"


def test_a_missing_field_says_how_to_give_it() -> None:
    assert refusal() == "--model is required; give the flag, or `model:` in a --config file"


def test_a_combination_that_makes_no_sense_is_refused_when_it_is_read() -> None:
    message = refusal(overrides={"model": "m", "steps": 3, "warmup": 3})
    assert message == "--warmup 3 leaves nothing of --steps 3"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a: [1\nb: 2\n", "not valid YAML"),
        (b"- 1\n- 2\n", "found a list"),
        (b'model: "\\ud800"\n', "no valid Unicode"),
        (b'model: "\\UFFFFFFFF"\n', "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'model: "a\\0b"', "a null character"),
        (b"a: !!int x", "not valid YAML"),
        (b"a: !!bool z", "not valid YAML"),
        (b"a: !!timestamp 2026-13-45", "not valid YAML"),
        (b"a: !!set {x}", "not valid YAML"),
        (b"a: !!python/name:os.system", "not valid YAML"),
        (b"? [a]\n: b", "not valid YAML"),
        (b"a: &x [1]\nb: [*x, *x]", "an alias"),
        (b"a: " + b"[" * 50_000, "nested too deeply"),
        (b"a: " + b"1" * 5000, "not valid YAML"),
        (b"a: [" + b"1," * 20_000 + b"]", "more than 10,000 values"),
        (b"#" * 1_000_000, "longer than 100,000 characters"),
        (b"model: m\nsteps: -0x" + b"f" * 50_000, "too long to be shown"),
        (b"model: m\nsteps: " + b"word " * 10_000, "valid integer"),
        (b'model: m\n"' + b"s" * 900 + b'\\e[31m": 1', "unknown field"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    message = refusal(file=file)
    assert message.startswith(str(file))
    assert complaint in message
    assert len(message) < 600
    assert message.isprintable()


def test_what_looks_like_a_date_is_a_text(tmp_path: Path) -> None:
    for date in ("2026-11-30", "2026-13-45", "2026-11-30 25:00:00"):
        assert resolve(Training, file=written(tmp_path, f"model: {date}\n")).model == date


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(file=tmp_path / "no.yaml").startswith(f"{tmp_path / 'no.yaml'}: cannot be read")


def test_yaml_reads_back_as_the_same_settings_and_explains_each_field(tmp_path: Path) -> None:
    overrides = {"model": "yes", "out": Path("runs/ünïcode"), "optimiser.betas": (0.5, 0.75)}
    settings = resolve(Training, preset="paper", overrides=overrides)
    text = to_yaml(settings, "redraft train score")
    assert resolve(Training, file=written(tmp_path, text)) == settings
    assert text.startswith("# redraft train score\n\n# What to train.\nmodel: 'yes'\n")
    assert "\n  # Peak of the schedule.\n  learning_rate: 5.0e-06\n" in text
    assert max(map(len, text.splitlines())) <= 100


class Group(Settings):
    """A group of settings."""

    size: int = 1
    """One of them."""


@pytest.mark.parametrize("text", ["{4: 1}", "{~: 1, true: 2}", "[1]"])
def test_keys_of_a_group_that_are_no_names_are_mistakes(tmp_path: Path, text: str) -> None:
    class Outer(Settings):
        group: Group = Group()

    (tmp_path / "c.yaml").write_text(f"group: {text}\n")
    with pytest.raises(UserError, match="group"):
        resolve(Outer, file=tmp_path / "c.yaml")
