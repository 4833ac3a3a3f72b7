"""Speed of rollout at the size of real models: the local engine against `generate` once per turn.

Two workloads of two turns each, at temperature 1: 64 problems with one sample, and 16 problems with
8 samples and prompts of 300 tokens. The engine plays them first; `transformers.generate` then has
to draw responses of exactly the same lengths, row by row, in the same precision (`rollout.py` has
both sides). The sides take turns `--repeats` times. Counted are sampled tokens only.

    python benchmarks/rollout_real.py --models runs/SmolLM2-135M-Instruct   # a folder
    python benchmarks/rollout_real.py --models smollm2-135m qwen2.5-0.5b    # shapes, random weights

Random weights seldom end a response, so there nearly all have `--max-tokens` tokens. With `--vllm`,
where vLLM is installed, it plays the same prompts too, with the weights of the same model. The
figures are printed and written to results/rollout-real.md.

On a machine that does other work, `--clock cpu` counts the processor time of the process.
"""

import argparse
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from decode_bf16 import machine
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.engines.vllm import VLLMEngine
from redraft.engines.vllm_api import VLLMSettings
from redraft.models import load_model
from rollout import CLOCKS, engine_turns, generate_turns
from shapes import SHAPES, folder_of

RETRY = "There might be an error in the solution above. Please correct it and answer again."
WORKLOADS = {"64 rows": (64, 1, 0), "8 samples of 16 problems, prompts of 300": (16, 8, 300)}
"""Problems, samples of each, and tokens that a prompt is filled up to."""


def question(number: int) -> str:
    """A word problem with numbers of its own."""
    a, b, c = 12 + number, 3 + number % 7, 20 + 5 * (number % 11)
    return (
        f"A baker makes {a} loaves a day and sells each for {b} dollars. Flour costs {c} dollars a "
        f"day. How much does the baker earn in {2 + number % 5} days? Think step by step."
    )


def prompt(template: ChatTemplate, number: int, length: int) -> list[int]:
    """A question, behind as many others as make the prompt `length` tokens long."""
    text, others = question(number), 0
    tokens = template.start([{"role": "user", "content": text}])
    while len(tokens) < length:
        others += 1
        text = f"{question(100 * number + others)}\n{text}"
        tokens = template.start([{"role": "user", "content": text}])
    return tokens


def measure(
    model: Any,
    vllm: VLLMEngine | None,
    engine: LocalEngine,
    arguments: argparse.Namespace,
    workload: str,
) -> str:
    """The table's cells for one workload: lengths, tokens per second of each side, and the ratio of
    the local engine to `generate`."""
    problems, samples, length = WORKLOADS[workload]
    template = engine.template
    prompts = [prompt(template, n, length) for n in range(problems) for _ in range(samples)]
    clock = CLOCKS[arguments.clock]
    ours, theirs, servers = [], [], list[float]()
    for _ in range(arguments.repeats):
        start = clock()  # both sides end by reading tokens back, so a GPU is done too
        lengths, bridges = engine_turns(engine, prompts, RETRY, 2, arguments.max_tokens)
        middle = clock()
        generate_turns(model, prompts, lengths, bridges)
        end = clock()
        tokens = sum(map(sum, lengths))
        ours.append(tokens / (middle - start))
        theirs.append(tokens / (end - middle))
        if vllm is not None:
            drawn, _ = engine_turns(vllm, prompts, RETRY, 2, arguments.max_tokens)
            servers.append(sum(map(sum, drawn)) / (clock() - end))
        print(workload, tokens, f"{ours[-1]:.1f} {theirs[-1]:.1f}", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return (
        f"{sum(map(len, prompts)) / len(prompts):.0f} | {tokens / len(prompts) / 2:.0f} "
        f"| {statistics.median(ours):,.0f} | {statistics.median(theirs):,.0f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| {f'{statistics.median(servers):,.0f}' if servers else '–'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="+",
        default=["smollm2-135m", "qwen2.5-0.5b"],
        help=f"folders or {', '.join(SHAPES)}",
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--vllm", action="store_true", help="also measure vLLM")
    parser.add_argument("--vllm-memory", type=float, default=0.3, help="its share of the memory")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/rollout-real.md"
    )
    arguments = parser.parse_args()
    if arguments.vllm and arguments.clock == "cpu":
        parser.error("--vllm: works in processes of its own, so --clock cpu would not count it")
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    lines = []
    for name in arguments.models:
        model, tokenizer = load_model(
            folder_of(name), device=arguments.device, dtype=arguments.dtype
        )
        template = ChatTemplate(tokenizer, generation_config=model.generation_config)
        engine, vllm = LocalEngine(model, template), None
        if arguments.vllm:
            settings = VLLMSettings(memory=arguments.vllm_memory, context=2048, sleep=False)
            vllm = VLLMEngine(model, template, settings)
        for workload in arguments.workloads:
            cells = measure(model, vllm, engine, arguments, workload)
            lines.append(f"| {Path(name).name} | {workload} | {cells} |")
            print(lines[-1], flush=True)
        if vllm is not None:
            vllm.close()
    arguments.out.write_text(page(lines, arguments), encoding="utf-8")


def page(lines: list[str], arguments: argparse.Namespace) -> str:
    """The result page."""
    made_by = " ".join(Path(word).name if "/" in word else word for word in sys.argv)
    return f"""# Rollout speed of real models

Two turns at temperature 1, responses of at most {arguments.max_tokens} tokens, \
{arguments.dtype}. `generate` is called once per turn and draws responses of the same lengths; \
only sampled tokens count, in tokens per second of {arguments.clock} time. Medians of \
{arguments.repeats} rounds in turns; ratios with their range.

| model | workload | prompt | response | local engine | `generate` | ratio | vLLM |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

{machine(arguments.device, arguments.threads)}

Made by `python {made_by}` with torch {torch.__version__}, transformers \
{transformers.__version__}, Python {platform.python_version()}.
"""


if __name__ == "__main__":
    main()
