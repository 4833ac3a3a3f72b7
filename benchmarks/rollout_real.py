"""Speed of rollout at the size of real models: the local engine against `generate` once per turn.

Two workloads of two turns each, at temperature 1: 64 problems with one sample, and 16 problems with
8 samples and prompts of 300 tokens. The engine plays them first; `transformers.generate` then has
to draw responses of exactly the same lengths, row by row, in the same precision (`rollout.py` has
both sides). The sides take turns `--repeats` times. Counted are sampled tokens only.

    python benchmarks/rollout_real.py --model runs/SmolLM2-135M-Instruct
    python benchmarks/rollout_real.py --model smollm2-135m       # that shape, random weights

Random weights never end a response, so there every response has `--max-tokens` tokens. One call
measures one model and prints its lines; with `--out` they are added to that page.

On a machine that does other work, `--clock cpu` counts the processor time of the process.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.lab import model_path
from redraft.models import load_model
from rollout import CLOCKS, engine_turns, generate_turns

SHAPES: dict[str, Any] = {
    "smollm2-135m": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    ),
    "qwen2-0.5b": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            tie_word_embeddings=True,
        )
    ),
}
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


def load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model, a folder's or a shape with random weights, and a tokenizer."""
    if arguments.model not in SHAPES:
        return load_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
    torch.manual_seed(0)
    model = SHAPES[arguments.model]().to(getattr(torch, arguments.dtype)).to(arguments.device)
    return model.eval(), AutoTokenizer.from_pretrained(model_path())


def measure(model: Any, template: ChatTemplate, arguments: argparse.Namespace, name: str) -> str:
    """One line of the table: tokens per second of both sides, and their ratio in each round."""
    problems, samples, length = WORKLOADS[name]
    engine = LocalEngine(model, template)
    prompts = [prompt(template, n, length) for n in range(problems) for _ in range(samples)]
    clock = CLOCKS[arguments.clock]
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        start = clock()  # both sides end by reading tokens back, so a GPU is done too
        lengths, bridges = engine_turns(engine, prompts, RETRY, 2, arguments.max_tokens)
        middle = clock()
        generate_turns(model, prompts, lengths, bridges)
        tokens = sum(map(sum, lengths))
        ours.append(tokens / (middle - start))
        theirs.append(tokens / (clock() - middle))
        print(name, f"{ours[-1]:.1f}", f"{theirs[-1]:.1f}", flush=True)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(map(len, prompts)) / len(prompts)
    return (
        f"| {Path(arguments.model).name} | {name} | {mean:.0f} | {tokens / len(prompts) / 2:.0f} "
        f"| {statistics.median(ours):,.0f} | {statistics.median(theirs):,.0f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help=f"a folder or {', '.join(SHAPES)}")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, help="a JSON Lines file that the lines are added to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model, tokenizer = load(arguments)
    template = ChatTemplate(tokenizer, generation_config=model.generation_config)
    for name in arguments.workloads:
        line = measure(model, template, arguments, name)
        print(line, flush=True)


if __name__ == "__main__":
    main()
