"""The learner on models of real size: memory, and speed as a share of the machine's matrix rate.

For each case a fresh process loads the model twice, as the policy and as its frozen reference
(with LoRA the adapters' base serves), and takes a step on rows of two responses, with the
learner's default settings. The share compares the step with the bare matrix products that it
consists of, each shape timed by itself in the same process and precision on as many tokens as a
micro-batch has: forward for the reference, and both products of the backward pass for the update
(for frozen matrices only that by the weights). Attention, padding, recomputation, norms, the
softmax over the vocabulary and the optimiser are in the step's time only.

MFU is the share of a peak rate that the operations of the update make (`model_flops`): the
device's dense bf16 rate by its data sheet, another one with `--peak-tflops`, and on a CPU the
measured matrix rate.

A case is a model and how it is trained: a folder in Hugging Face format or the name of a shape
(random weights), with `:R` for LoRA adapters of rank R, `@N` for N rows in place of `--rows`.

    python benchmarks/learner.py smollm2-135m qwen2.5-0.5b@2 qwen2.5-0.5b:16@2
    python benchmarks/learner.py qwen2.5-0.5b --prompt 512 --response 764    # rows of 2,048 tokens
"""

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from decode_bf16 import CLOCKS, machine
from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.frozen import narrow_frozen
from redraft.learning.learner import Learner
from redraft.learning.parallel import accelerator_on
from redraft.learning.rows import TrainingRow
from redraft.models import load_model, torch_device
from redraft.system import has_bf16
from shapes import SHAPES, folder_of

PEAKS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312,
    "L40S": 362, "L4": 121, "A10": 125, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""Dense bf16 TFLOP/s of GPUs by a part of their name, from NVIDIA's data sheets."""


def batch(count: int, prompt: int, response: int, vocabulary: int) -> list[TrainingRow]:
    """Rows of a prompt and two responses, the second after a reply of eight tokens."""
    draw = np.random.default_rng(0)
    turn = [0] * prompt + [1] * response + [0] * 8 + [2] * response
    kl, advantage = (np.sign(turn) * scale for scale in (0.01, 1.0))
    return [
        TrainingRow(
            draw.integers(vocabulary, size=len(turn)),
            turn,
            advantage=advantage * draw.normal(),
            kl_weight=kl,
        )
        for _ in range(count)
    ]


def product_seconds(
    model: nn.Module, tokens: int, rows: list[TrainingRow], dtype: torch.dtype, clock: Any
) -> tuple[float, float]:
    """Seconds that the matrix products of the rows take by themselves, timed on `tokens` tokens:
    of a forward pass, and of forward and backward passes."""
    whole = sum(map(len, rows))
    chosen = sum(int(row.learned.sum()) for row in rows)
    head = model.get_output_embeddings()
    known: dict[tuple[int, ...], list[float]] = {}
    forward = both = 0.0
    for layer in model.modules():
        if not isinstance(layer, nn.Linear):
            continue
        weight = layer.weight.detach()
        if weight.shape not in known:
            w = weight.to(dtype)
            x = torch.randn(tokens, w.shape[1], device=w.device, dtype=dtype)
            g = torch.randn(tokens, w.shape[0], device=w.device, dtype=dtype)
            known[weight.shape] = [
                fastest(lambda x=x, w=w: x @ w.T, clock),
                fastest(lambda g=g, w=w: g @ w, clock),
                fastest(lambda g=g, x=x: g.T @ x, clock),
            ]
        ahead, by_weight, by_input = known[weight.shape]
        times = (chosen if layer is head else whole) / tokens
        forward += times * ahead
        both += times * (ahead + by_weight + by_input * layer.weight.requires_grad)
    return forward, both


def fastest(work: Callable[[], Any], clock: Any, repeats: int = 3) -> float:
    """Seconds of the fastest of a few calls."""
    work()
    return min(timed(work, clock)[0] for _ in range(repeats))


def timed(work: Callable[[], Any], clock: Any) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    started = clock()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started, result


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one case, in this process."""
    torch.set_num_threads(arguments.threads)
    whole, _, count = case.partition("@")
    name, _, rank = whole.rpartition(":") if whole.rpartition(":")[2].isdigit() else (whole, "", 0)
    device = torch_device(arguments.device)
    bf16 = arguments.precision == "bfloat16" or (arguments.precision == "auto" and has_bf16(device))
    dtype = torch.bfloat16 if bf16 else torch.float32
    clock = CLOCKS[arguments.clock]
    notes: list[str] = []
    place = folder_of(name)
    model, _ = load_model(place, training=True, device=str(device), lora_rank=int(rank))
    narrow_frozen(model, dtype if bf16 else None)
    reference = None
    if not int(rank):
        reference, _ = load_model(place, training=True, device=str(device))
        reference.requires_grad_(False)
        narrow_frozen(reference, dtype if bf16 else None)
    config = LearnerConfig(
        learning_rate=1e-6, tokens_per_microbatch=arguments.tokens_per_microbatch
    )
    learner = Learner(
        model, config, accelerator=accelerator_on(device, bf16=bf16), reference=reference,
        note=notes.append,
    )  # fmt: skip
    rows = batch(
        int(count or arguments.rows), arguments.prompt, arguments.response, model.config.vocab_size
    )
    short = batch(1, 8, 4, model.config.vocab_size)
    learner.step(learner.with_reference(short))  # the optimiser's state, the probe, the libraries
    reference_seconds, ready = timed(lambda: learner.with_reference(rows), clock)
    update_seconds, metrics = timed(lambda: learner.step(ready), clock)
    peak = peak_memory(device)
    size = learner.micro_batches
    forward, both = product_seconds(model, min(size.tokens, 1024), rows, dtype, clock)
    tokens = sum(map(len, rows))
    work = flops(model, rows)
    rate = work / forward
    learned = sum(int(row.learned.sum()) for row in rows)
    operations = sum(model_flops(model, [len(row) for row in rows], learned))
    known = peak_flops(device, arguments.peak_tflops)
    return {
        "case": whole,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "rows": len(rows),
        "tokens": tokens,
        "precision": "bfloat16" if bf16 else "float32",
        "microbatch": size.tokens,
        "checkpointing": size.checkpointing,
        "peak": peak,
        "reference": tokens / reference_seconds,
        "reference_share": forward / reference_seconds,
        "update": tokens / update_seconds,
        "update_share": both / update_seconds,
        "rate": rate / 1e9,
        "mfu": operations / update_seconds / (known or rate),
        "peak_rate": "the matrix rate" if known is None else f"{known / 1e12:,.0f} TFLOP/s",
        "kl": metrics["kl_k3/turn1"],
        "notes": notes,
        "machine": machine(device.type, arguments.threads),
    }


def flops(model: nn.Module, rows: list[TrainingRow]) -> float:
    """Operations of the products of a forward pass over the rows."""
    head = model.get_output_embeddings()
    chosen = sum(int(row.learned.sum()) for row in rows)
    return sum(
        2.0 * layer.weight.numel() * (chosen if layer is head else sum(map(len, rows)))
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    )


def model_flops(model: Any, lengths: Sequence[int], learned: int) -> tuple[float, float]:
    """Operations of forward and backward passes, without what is computed twice: of the linear
    layers and of attention.

    Linear layers make 6·N for each token, N their weights (4·N of frozen ones), the head only for
    tokens that are learned from. Causal attention makes 6·layers·width·T² for a row of T tokens:
    scores and sums over values, 2·width·T² in a forward pass where half of the scores are skipped.

    Args:
        model: a causal language model.
        lengths: tokens of each row.
        learned: how many of them are learned from.
    """
    head = model.get_output_embeddings()
    products = sum(
        (6.0 if layer.weight.requires_grad else 4.0)
        * layer.weight.numel()
        * (learned if layer is head else sum(lengths))
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    )
    config = model.config
    each = config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or each)
    attention = 6.0 * config.num_hidden_layers * width * sum(length**2 for length in lengths)
    return products, attention


def peak_flops(device: torch.device, told: float | None) -> float | None:
    """Operations a second that a device can do at most: as told in TFLOP/s, or as its data sheet
    says; None for a CPU, whose rate is measured.

    Raises:
        UserError: a GPU that is not known.
    """
    if told is not None:
        return told * 1e12
    if device.type == "cpu":
        return None
    name = torch.cuda.get_device_name(device)
    words = set(re.split(r"\W", name))  # an L40 is no L4
    for known, rate in PEAKS.items():
        if words.issuperset(known.split()):
            return rate * 1e12
    raise UserError(f"{name}: its peak rate is not known; give --peak-tflops")


def peak_memory(device: torch.device) -> float:
    """Bytes that this process has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status").read_text()  # Linux
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    size = f"{found['microbatch']}{', recomputed' if found['checkpointing'] else ''}"
    return (
        f"| {Path(found['case']).name} | {found['parameters'] / 1e6:,.0f} "
        f"| {found['trained'] / 1e6:,.0f} | {found['rows']} | {found['tokens']:,} "
        f"| {found['precision']} | {size} | {found['peak'] / 1e9:.1f} | {found['rate']:,.0f} "
        f"| {found['reference']:,.0f} | {found['reference_share']:.0%} "
        f"| {found['update']:,.0f} | {found['update_share']:.0%} | {found['mfu']:.0%} |"
    )


HEADER = """| model | parameters, M | trained, M | rows | tokens | precision | micro-batch, tokens \
| peak memory, GB | matrix rate, GFLOP/s | reference, tokens/s | share | update, tokens/s | share \
| MFU |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["smollm2-135m"], metavar="MODEL[:R][@N]")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--response", type=int, default=96)
    parser.add_argument("--tokens-per-microbatch", type=int)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for MFU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/learner.md")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.cases[0], arguments)))
        return
    options = [word for word in sys.argv[1:] if word not in arguments.cases]
    found = []
    for case in arguments.cases:
        command = [sys.executable, __file__, "--child", case, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(line(found[-1]), *found[-1]["notes"], sep="\n", flush=True)
    arguments.out.write_text(page(found, arguments), encoding="utf-8")


def page(found: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The results as a page."""
    rows = "\n".join(map(line, found))
    command = [Path(word).name for word in sys.argv[1:]]  # folders and files are this machine's
    return f"""# The learner on models of real size

Rows of a prompt of {arguments.prompt} tokens and two responses of {arguments.response}, with KL \
to a frozen copy (LoRA: to the base). A model is a folder, or one of these shapes with random \
weights: {", ".join(SHAPES)}; `:R` trains LoRA adapters of rank R. The share is the time of the \
bare matrix products of the same shapes, timed in the same process, over that of the pass; "matrix \
rate" is theirs in the forward pass. MFU is the share of {found[0]["peak_rate"]} that the \
operations of the update make (`model_flops`). Seconds are of {arguments.clock} time. Peak memory \
is the process's, with loading.

{HEADER}
{rows}

{found[0]["machine"]} Where the processor multiplies bfloat16 (AMX, AVX-512 bf16), the default \
precision takes it; the same command measures it there.

Made by `python benchmarks/learner.py {" ".join(command)}` with torch {torch.__version__}, \
transformers {transformers.__version__}, Python {platform.python_version()}.
"""


if __name__ == "__main__":
    main()
