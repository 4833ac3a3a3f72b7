"""A whole step of two-turn reinforcement learning, against TRL's `GRPOTrainer`.

Redraft trains for `--steps` steps (`train score --variant multi-turn-last`: sampling, grading,
reference, update). TRL then trains on the same batches: its `rollout_func` draws responses of the
same lengths with `transformers.generate`, once per turn, and hands over the tokens that Redraft had
sampled, so that both see the same rows, rewards and advantages, and their losses can be compared.

    python benchmarks/step_trl.py --models lab models/SmolLM2-135M-Instruct
    python benchmarks/step_trl.py --models qwen2.5-0.5b --device cuda --max-tokens 512

A model is a folder, the lab's, or a shape with random weights. The figures are printed and written
to results/step-trl.md. The first step warms up and is left out of the times. On a machine
that does other work, `--clock cpu` counts processor time.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import torch
import transformers
import trl
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from decode_bf16 import machine
from redraft.methods.score import ScoreConfig
from redraft.models import load_model, torch_device
from redraft.storage import read_jsonl, write_text
from redraft.system import has_bf16
from redraft.types import Episode
from rollout import CLOCKS, generate_turns
from shapes import SHAPES, folder_of
from timed_steps import timed_steps

LAB: dict[str, Any] = {"task": "lab/arithmetic", "problems_per_step": 32, "samples": 8}
OTHER: dict[str, Any] = {"problems_per_step": 8, "samples": 4}
"""What is trained on: the lab's model and shapes on the lab's task, folders on GSM8K."""
BETA, RATE = 0.05, 1e-6


def reward(responses: list[str], **_: Any) -> list[float]:
    """A reward that a model which solves nothing also earns: how long each response is."""
    return [len(response) % 17 / 16 for response in responses]


def settings(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a model is trained on."""
    told = dict(LAB if model == "lab" else OTHER)
    if model == "lab" or model in SHAPES:
        told["task"] = "lab/arithmetic"
    else:
        told |= {"task": "gsm8k", "prompts": "boxed", "data": arguments.data / "gsm8k/train.jsonl"}
    told["max_tokens"] = arguments.max_tokens
    if arguments.problems is not None:
        told["problems_per_step"] = arguments.problems
    return told


def ours(model: str, out: Path, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """Seconds of a step of Redraft, and the loss of each."""
    config = ScoreConfig(
        model=folder_of(model),
        out=out,
        variant="multi-turn-last",
        stage_one_steps=0,
        stage_two_steps=arguments.steps,
        beta1=BETA,
        learning_rate=RATE,
        normalize="token",
        kl_estimator="k3",
        reward="step_trl:reward",
        checkpoint_every=10**9,
        device=arguments.device,
        precision="bfloat16" if arguments.bf16 else "float32",
        **settings(model, arguments),
    )
    steps, _ = timed_steps(config, CLOCKS[arguments.clock])
    return mean(step.seconds for step in steps[1:]), [step.loss for step in steps]


def theirs(model: str, out: Path, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """The same of TRL, on the batches that are in the run `out`."""
    steps = [
        read_jsonl(out / "episodes" / f"train-{step + 1:06d}.jsonl", Episode)
        for step in range(arguments.steps)
    ]
    loaded, tokenizer = load_model(folder_of(model), dtype="float32", device=arguments.device)
    samples = len({episode.sample for episode in steps[0]})
    rows, clock, read = len(steps[0]), CLOCKS[arguments.clock], list[float]()

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        read.append(clock())
        episodes = steps[trainer.state.global_step]
        turns = [[turn for turn in e.turns if turn.author == "policy"] for e in episodes]
        said = [[t.tokens for t in e.turns if t.author == "environment"] for e in episodes]
        starts = [e.prompt_tokens for e in episodes]
        lengths = [[len(turn.tokens) for turn in row] for row in turns]
        whole = trainer.accelerator.unwrap_model(trainer.model)
        whole.eval()
        with torch.no_grad():
            generate_turns(whole, starts, lengths, [[*row, []] for row in said])
        whole.train()
        return {
            "prompt_ids": starts,
            "completion_ids": [[t for turn in e.turns for t in turn.tokens] for e in episodes],
            "logprobs": [
                [v for t in e.turns for v in (t.logprobs or [0.0] * len(t.tokens))]
                for e in episodes
            ],
            "env_mask": [
                [int(t.author == "policy") for t in e.turns for _ in t.tokens] for e in episodes
            ],
            "value": [reward([e.answers[-1].text])[0] for e in episodes],
        }

    def value(completions: list[Any], value: list[float], **_: Any) -> list[float | None]:
        # Redraft compares a sample with the others, TRL with all of them.
        return [v * samples / (samples - 1) for v in value]

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=arguments.device == "cpu",
            bf16=arguments.bf16,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            max_steps=arguments.steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=BETA,
            loss_type="dapo",
            scale_rewards="none",
            num_generations=samples,
            per_device_train_batch_size=min(rows, arguments.peer_rows),
            gradient_accumulation_steps=max(1, rows // arguments.peer_rows),
            max_completion_length=4096,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=loaded,
            reward_funcs=value,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "1"}] * rows * arguments.steps),
            processing_class=tokenizer,
            rollout_func=rollout,
        )
        trainer.train()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return (clock() - read[1]) / (arguments.steps - 1), logged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["lab", "models/SmolLM2-135M-Instruct"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="has gsm8k/train.jsonl")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--problems", type=int, help="of a step; default: by model")
    parser.add_argument("--max-tokens", type=int, default=96, help="of a response")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="float32")
    parser.add_argument("--peer-rows", type=int, default=8, help="rows of TRL's micro-batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/step-trl.md")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error(f"--steps {arguments.steps}: the first warms up, so there must be two")
    device = torch_device(arguments.device)
    arguments.device, precision = device.type, arguments.precision
    arguments.bf16 = precision == "bfloat16" or (precision == "auto" and has_bf16(device))
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    lines = []
    for model in arguments.models:
        folder = Path(tempfile.mkdtemp())
        try:
            seconds, losses = ours(model, folder / "run", arguments)
            gc.collect()  # the run's weights, before TRL's
            peer, peers = theirs(model, folder / "run", arguments)
            episodes = read_jsonl(folder / "run/episodes/train-000001.jsonl", Episode)
        finally:
            shutil.rmtree(folder)
        tokens = mean(len(turn.tokens) for e in episodes for turn in e.answers)
        gap = max(abs(a - b) for a, b in zip(losses, peers, strict=True))
        lines.append(
            f"| {Path(model).name} | {len(episodes)} | {tokens:.0f} | {seconds:.1f} | {peer:.1f} "
            f"| {peer / seconds:.2f} | {', '.join(f'{v:.4f}' for v in losses)} | {gap:.1g} |"
        )
        print(lines[-1], flush=True)
    peak = psutil.Process().memory_info().rss / 2**30
    print(f"resident at the end: {peak:.1f} GiB")
    made_by = " ".join(Path(word).name if "/" in word else word for word in sys.argv)
    write_text(
        arguments.out,
        f"""# A whole step against TRL

Two-turn reinforcement learning with KL to a frozen copy, \
{"bfloat16 autocast" if arguments.bf16 else "float32"}: Redraft's step (rollout, grading,
reference pass, update, writing) and that of TRL's `GRPOTrainer` with a `rollout_func` that calls
`generate` once per turn, on the same episodes and rewards. Seconds of {arguments.clock} time, mean
of {arguments.steps - 1} steps after the first. TRL's micro-batch has {arguments.peer_rows} rows.

| model | episodes | tokens a response | Redraft, s | TRL, s | ratio | losses | largest difference |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

{machine(arguments.device, arguments.threads)}

Made by `python {made_by}` with TRL {trl.__version__}, torch {torch.__version__}, transformers \
{transformers.__version__}.
""",
    )


if __name__ == "__main__":
    main()
