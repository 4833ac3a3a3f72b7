"""What a GPU is needed to measure, one part after another.

    python benchmarks/gpu.py                # on a machine with a GPU, TRL and vLLM
    python benchmarks/gpu.py --small        # tries all of it on this CPU, with a tiny model

- learner: reference pass and update on rows of 2,048 tokens in bf16, with their model-FLOP
  utilisation (MFU; the aim is 40 %)
- rollout: vLLM, the local engine and `generate` on the same prompts
- step: a whole step of two-turn reinforcement learning against TRL's `GRPOTrainer`, in one run

Each part is a command of another benchmark for one shape with random weights; nothing is fetched.
It is printed, and its figures and its log are kept in `--folder`. What is there is not measured
again, so that an interrupted run goes on. The page joins what there is and names what is missing.
`--parts` and `--models` choose. Where vLLM has an environment of its own, run the others in one and
`--parts rollout` in the other, from the same folder:

    python benchmarks/gpu.py --parts learner step
    ENVIRONMENT/bin/python benchmarks/gpu.py --parts rollout
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from redraft.storage import write_text

HERE = Path(__file__).parent
PARTS = {
    "learner": "learner.py {model} --device {device} --rows {rows} --prompt 512 --response 764",
    "rollout": "rollout_real.py --models {model} --max-tokens {tokens} --device {device} "
    "--dtype {dtype} --repeats {repeats} --vllm --vllm-memory {memory}",
    "step": "step_trl.py --models {model} --device {device} --precision auto "
    "--max-tokens {tokens} --problems {problems}",
}
LARGE = {
    "device": "cuda",
    "dtype": "bfloat16",
    "rows": 32,
    "tokens": 512,
    "problems": 8,
    "repeats": 3,
    "memory": 0.3,
}
SMALL = {
    "device": "cpu",
    "dtype": "float32",
    "rows": 2,
    "tokens": 16,
    "problems": 2,
    "repeats": 1,
    "memory": 0.03,
}
LIMIT = 900
"""Seconds that a part may take."""


def command(part: str, model: str, small: bool) -> list[str]:
    """The words after `python` that measure a part on a model."""
    told = SMALL if small else LARGE
    script, *words = PARTS[part].format(model=model, **told).split()
    return [str(HERE / script), *words]


def run(part: str, model: str, small: bool, folder: Path) -> str | None:
    """Measure a part, unless that was done; returns why it failed."""
    out, log = folder / f"{part}-{model}.md", folder / f"{part}-{model}.log"
    if out.exists():
        return None
    words = command(part, model, small)
    print("python benchmarks/" + " ".join([Path(words[0]).name, *words[1:]]), flush=True)
    try:
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, *words, "--out", str(out)],
                stdout=file, stderr=file, timeout=LIMIT, check=False,
                env={"CUDA_VISIBLE_DEVICES": "0", **os.environ},  # a Trainer would take them all
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"took more than {LIMIT} seconds"
    said = log.read_text(errors="replace").split("\n")
    return next(filter(None, reversed(said)), "no reason") if done.returncode else None


def page(files: Iterable[Path], small: bool) -> str:
    """What was measured, as one page, which names the files that are not there."""
    note = (
        "**This has run on a CPU, at a size that says nothing; no GPU figures exist yet.** It "
        "shows that the commands work. On a machine with a GPU: `python benchmarks/gpu.py`."
        if small
        else "Shapes with random weights, on one GPU."
    )
    parts = [
        file.read_text(encoding="utf-8").replace("# ", "## ", 1)
        if file.exists()
        else f"**Not measured: {file.stem}.**\n"
        for file in files
    ]
    return "\n".join(["# On a GPU", "", note, "", "\n".join(parts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="on this CPU, in some minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", help="shapes; default: qwen2.5-0.5b qwen2.5-1.5b")
    parser.add_argument("--folder", type=Path, help="default: runs/gpu, or runs/gpu-small")
    parser.add_argument("--page", type=Path, default=HERE / "results/gpu.md")
    arguments = parser.parse_args()
    if not (arguments.small or torch.cuda.is_available()):
        parser.error("PyTorch sees no GPU; --small tries the commands on this CPU")
    models = arguments.models or (
        ["llama-5m"] if arguments.small else ["qwen2.5-0.5b", "qwen2.5-1.5b"]
    )
    folder = arguments.folder or Path("runs/gpu-small" if arguments.small else "runs/gpu")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in arguments.parts:
        for model in models:
            if why := run(part, model, arguments.small, folder):
                failed.append(f"{part}, {model}: {why}")
                print(failed[-1], flush=True)
    files = [folder / f"{part}-{model}.md" for part in PARTS for model in models]
    write_text(arguments.page, page(files, arguments.small))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
