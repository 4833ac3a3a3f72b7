"""Speed of rollout: the local engine against `transformers.generate` called once per turn.

Both play the same dialogues with the same model in one process: problems of the lab, some samples
of each, an attempt, a request to correct it, a second attempt, at temperature 1. The engine plays
them first; `generate` then has to produce attempts of exactly the same lengths, row by row, with
the second prompt (the whole history) encoded anew, left-padded to the longest row. Counted are
sampled tokens only. The sides take turns `--repeats` times, and the median counts.

    python benchmarks/rollout.py            # prints the figures and writes results/rollout.md

On a machine that does other work, `--clock cpu` counts the processor time of the process.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
import transformers
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from redraft.engines.base import Request, Response, Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.engines.vllm import VLLMEngine
from redraft.models import load_model
from redraft.tasks import get_task

P = ParamSpec("P")
R = TypeVar("R")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class FixedLengths(StoppingCriteria):
    """Ends row i of a `generate` call after `lengths[i]` new tokens."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        self.ends = start + torch.tensor(lengths)

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends.to(input_ids.device)


def generate_turns(
    model: PreTrainedModel,
    prompts: list[list[int]],
    lengths: list[list[int]],
    bridges: list[list[list[int]]],
) -> None:
    """Play the dialogues with one `generate` call per turn.

    `lengths[row][turn]` tokens are drawn in each turn, and `bridges[row][turn]` follow them.
    """
    histories = [list(prompt) for prompt in prompts]
    for turn in range(len(lengths[0])):
        width = max(map(len, histories))
        ids = torch.tensor([[0] * (width - len(h)) + h for h in histories], device=model.device)
        mask = torch.tensor([[0] * (width - len(h)) + [1] * len(h) for h in histories])
        wanted = [row[turn] for row in lengths]
        output = model.generate(
            input_ids=ids,
            attention_mask=mask.to(model.device),
            do_sample=True,
            top_k=0,
            max_new_tokens=max(wanted),
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=StoppingCriteriaList([FixedLengths(width, wanted)]),
        )
        for history, drawn, length, said in zip(
            histories, output.tolist(), wanted, bridges, strict=True
        ):
            history += drawn[width : width + length] + said[turn]


def engine_turns(
    engine: LocalEngine | VLLMEngine,
    prompts: list[list[int]],
    said: str,
    turns: int,
    limit: int,
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Continue the conversations with an engine that knows tokens.

    Returns:
        The length of every row's responses, and what followed each of them (the last: nothing).
    """
    bridges: list[list[list[int]]] = [[] for _ in prompts]

    def reply(row: int, response: Response) -> list[int] | None:
        more = len(bridges[row]) + 1 < turns
        bridges[row].append(engine.template.bridge(response.tokens, said) if more else [])
        return bridges[row][-1] if more else None

    requests = [Request((), prompt, problem=str(row)) for row, prompt in enumerate(prompts)]
    played = engine.generate(requests, Sampling(max_tokens=limit, seed=1), reply)
    lengths = [[len(one.tokens) for one in row if isinstance(one, Response)] for row in played]
    return lengths, bridges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab")
    parser.add_argument("--tasks", nargs="+", default=["lab/sorting", "lab/arithmetic"])
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/rollout.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    clock = CLOCKS[arguments.clock]

    def timed(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
        start = clock()
        result = call(*args, **kwargs)  # ends by reading tokens back, so a GPU is done too
        return result, clock() - start

    model, tokenizer = load_model(arguments.model, device=arguments.device)
    template = ChatTemplate(tokenizer, generation_config=model.generation_config)
    engine = LocalEngine(model, template)
    speed, growth = [], []
    for task in arguments.tasks:
        chosen = get_task(task)
        texts = chosen.prompts
        rows = arguments.problems * arguments.samples
        loaded = chosen.load("train", rows, 0).problems
        starts = [
            template.start([message.model_dump() for message in texts.opening(problem)])
            for problem in loaded
        ]
        grouped = [
            start for start in starts[: arguments.problems] for _ in range(arguments.samples)
        ]

        times: dict[str, list[float]] = {"engine": [], "generate": [], "1": [], "2": [], "5": []}
        drawn: dict[str, int] = {}
        for _ in range(arguments.repeats):
            for turns in (1, 2, 5):
                (lengths, _), spent = timed(engine_turns, engine, starts, texts.retry, turns, 16)
                times[str(turns)].append(spent)
                drawn[str(turns)] = sum(map(sum, lengths))
            (lengths, bridges), spent = timed(
                engine_turns, engine, grouped, texts.retry, 2, arguments.max_tokens
            )
            times["engine"].append(spent)
            _, spent = timed(generate_turns, model, grouped, lengths, bridges)
            times["generate"].append(spent)
            print(task, {name: f"{spent[-1]:.2f} s" for name, spent in times.items()}, flush=True)
        median = {name: statistics.median(spent) for name, spent in times.items()}
        tokens = sum(map(sum, lengths))
        speed.append(
            f"| `{task}` | {tokens / (2 * rows):.1f} | {tokens / median['engine']:,.0f} "
            f"| {tokens / median['generate']:,.0f} | {median['generate'] / median['engine']:.1f} |"
        )
        growth.append(
            f"| `{task}` | {median['1']:.2f} | {median['2']:.2f} | {median['5']:.2f} "
            f"| {median['5'] / median['1']:.2f} | {drawn['5'] / drawn['1']:.2f} |"
        )

    parameters = sum(parameter.numel() for parameter in model.parameters())
    arguments.out.write_text(
        f"""# Rollout speed

Model `{arguments.model}` ({parameters / 1e6:.1f} M parameters, {model.dtype}, \
{model.device.type}, {arguments.threads} threads), temperature 1, median {arguments.clock} time \
of {arguments.repeats} runs in turns.

## Two turns

{arguments.problems} problems with {arguments.samples} samples each. `generate` is called once per \
turn and draws attempts of the same lengths; only sampled tokens count.

| task | tokens per attempt | local engine, tokens/s | `generate`, tokens/s | ratio |
|---|---|---|---|---|
{chr(10).join(speed)}

## One, two and five turns

{rows} problems with one sample each, so that every turn, the first included, reads as many \
prompts as it makes attempts; attempts of at most 16 tokens, so that they are about as long in \
every turn.

| task | 1 turn, s | 2 turns, s | 5 turns, s | 5 to 1 | sampled tokens, 5 to 1 |
|---|---|---|---|---|---|
{chr(10).join(growth)}

Made by `python benchmarks/rollout.py` with torch {torch.__version__}, transformers \
{transformers.__version__}, Python {platform.python_version()}.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
