"""Decoding speed in bf16: copies of the weights made once, against autocast, which casts per token.

A Llama of about 50 million parameters with random float32 weights, as a learner with mixed
precision holds them, decodes the same requests in three ways: with the engine's bf16 copies
(`LocalEngine(dtype=torch.bfloat16)`), under an autocast around the call (how rollout worked
before), and in float32. The ways take turns `--repeats` times, and the fastest counts. Both bf16
ways do the same arithmetic, which the benchmark checks: their responses must be equal.

    python benchmarks/decode_bf16.py        # prints the figures and writes results/decode-bf16.md
"""

import argparse
import platform
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from redraft.engines import Request, Response, Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.lab import model_path
from redraft.types import Message

WAYS = {"copies": "bf16 copies", "autocast": "bf16, autocast", "float32": "float32"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def build(device: str) -> LlamaForCausalLM:
    """54 million parameters, 16 million of them in the tied embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        attn_implementation="eager" if device == "cpu" else "sdpa",  # as for training
    )
    return LlamaForCausalLM(config).to(device).eval()


def measure(model: LlamaForCausalLM, arguments: argparse.Namespace, rows: int) -> dict[str, float]:
    """Sampled tokens per second of each of `WAYS`."""
    template = ChatTemplate(AutoTokenizer.from_pretrained(model_path()))
    engines = {way: LocalEngine(model, template) for way in ("autocast", "float32")}
    engines["copies"] = LocalEngine(model, template, dtype=torch.bfloat16)
    engines["copies"].sync_weights("step-000000")
    question = [Message(role="user", content="sort: pear fig apple")]
    requests = [Request(question, sample=sample) for sample in range(rows)]
    clock, sampling = CLOCKS[arguments.clock], Sampling(max_tokens=arguments.max_tokens)
    speed = dict.fromkeys(WAYS, 0.0)
    for _ in range(arguments.repeats):
        responses = {}
        for way in WAYS:
            bf16 = torch.autocast(arguments.device, torch.bfloat16)
            start = clock()  # a call ends by reading tokens back, so a GPU is done too
            with bf16 if way == "autocast" else nullcontext():
                responses[way] = engines[way].generate(requests, sampling)
            spent = clock() - start
            drawn = (one for row in responses[way] for one in row if isinstance(one, Response))
            speed[way] = max(speed[way], sum(len(one.tokens) for one in drawn) / spent)
        assert responses["copies"] == responses["autocast"]
    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/decode-bf16.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = build(arguments.device)
    lines = []
    for rows in arguments.rows:
        speed = measure(model, arguments, rows)
        lines.append(
            f"| {rows} | {' | '.join(f'{speed[way]:,.1f}' for way in WAYS)} "
            f"| {speed['copies'] / speed['autocast']:.1f} |"
        )
        print(lines[-1], flush=True)

    parameters = sum(parameter.numel() for parameter in model.parameters())
    arguments.out.write_text(
        f"""# Decoding with bf16 weights

A Llama with {parameters / 1e6:.0f} M random float32 parameters decodes up to \
{arguments.max_tokens} tokens a row, in tokens per second of {arguments.clock} time; the fastest \
of {arguments.repeats} runs in turns. "bf16 copies" and "bf16, autocast" gave equal responses.

| rows | {" | ".join(WAYS.values())} | copies to autocast |
|---|---|---|---|---|
{chr(10).join(lines)}

{machine(arguments.device, arguments.threads)}

Made by `python {" ".join(sys.argv)}` with torch {torch.__version__}, transformers \
{transformers.__version__}, Python {platform.python_version()}.
""",
        encoding="utf-8",
    )


def machine(device: str, threads: int) -> str:
    """One sentence about the hardware."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}."
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return (
        f"{names[0]}, {threads} of {len(names)} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{'with' if has else 'without'} bf16 arithmetic in hardware."
    )


if __name__ == "__main__":
    main()
