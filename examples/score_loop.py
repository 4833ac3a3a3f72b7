"""SCoRe on the lab, as one loop to be read from top to bottom.

`redraft train score` does the same and more: run directories, exact resume, checkpoints, several
processes, every setting. This file has only the algorithm, on the public pieces of the package:

    task        problems, and a grader of the answers
    rollout     protocol x engine x grader -> episodes
    credit      rewards -> shaped rewards -> leave-one-out advantages
    learner     rows of tokens with per-token weights -> one optimiser step

Run it:  python examples/score_loop.py --steps 60 120       (about 8 minutes on two CPU cores)

Letters in names: E episodes in a step, T attempts in an episode, G samples of a problem.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator

from redraft.chat.protocols import Intrinsic
from redraft.chat.rollout import rollout
from redraft.engines.base import Sampling
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.evaluation.metrics import ratios
from redraft.grading import Grader
from redraft.learning.config import LearnerConfig
from redraft.learning.credit import (
    advantage_rows,
    leave_one_out,
    rewards_by_answer,
    with_progress_bonus,
)
from redraft.learning.learner import Learner
from redraft.models import load_model
from redraft.system import has_bf16
from redraft.tasks.base import TASKS
from redraft.types import Episode, Problem, same_problem_groups

ATTEMPTS = 2
PROBLEMS, SAMPLES = 64, 8  # E = 64 x 8 episodes in an optimiser step
MAX_TOKENS = 96  # longest attempt; a longer one is cut off and wrong
BETA1, BETA2 = 0.01, 0.25  # KL to the base model: everywhere; and on attempt 1 in Stage I
ALPHA = 10.0  # Stage II's bonus for progress


@dataclass(frozen=True)
class Stage:
    """One of SCoRe's two objectives; tuples have one entry per attempt."""

    name: str
    rewarded: tuple[bool, ...]
    kl_weights: tuple[float, ...]
    alpha: float


# Stage I keeps attempt 1 where the base model has it and teaches attempt 2 to repair it; otherwise
# the policy would learn to be right at once and never to correct (arXiv 2409.12917, section 5.1).
STAGE_ONE = Stage("stage I", (False, True), (BETA1 + BETA2, BETA1), alpha=0.0)
# Stage II rewards both, and pays for wrong -> right and charges right -> wrong (section 5.2).
STAGE_TWO = Stage("stage II", (True, True), (BETA1, BETA1), alpha=ALPHA)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train for the steps of both stages; returns the metrics of the held-out problems."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, nargs=2, default=(60, 120), metavar=("I", "II"))
    parser.add_argument("--problems", type=int, default=PROBLEMS, help="in an optimiser step")
    parser.add_argument("--held-out", type=int, default=300, help="problems of the evaluation")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args(arguments)

    # The task owns what belongs to it: problems, the grader, and what is said to the model.
    task = TASKS["lab/sorting"].open({})
    problems = task.load("train").problems
    held_out = task.load("test", told.held_out).problems
    protocol = Intrinsic(task.prompts, ATTEMPTS)  # the same instruction whatever the answer

    # The policy: float32 master weights, computed in bfloat16 where the machine is fast in it. The
    # reference is the base model, frozen and computed in the same way.
    bf16 = has_bf16(torch.device("cpu"))
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=True)
    policy, tokenizer = load_model("lab", device="cpu", training=True)
    reference, _ = load_model("lab", device="cpu", training=True)
    template = ChatTemplate(tokenizer, generation_config=policy.generation_config)
    engine = LocalEngine(policy, template, dtype=torch.bfloat16 if bf16 else None)

    report("base model", evaluate(held_out, protocol, engine, task.grader))
    random, step = np.random.default_rng(told.seed), 0
    for stage, steps in zip((STAGE_ONE, STAGE_TWO), told.steps, strict=True):
        # Each stage starts with a new optimiser; log-probs are taken at the sampling temperature.
        learner = Learner(
            policy,
            LearnerConfig(learning_rate=3e-4, tokens_per_microbatch=2048, temperature=1.0),
            accelerator=accelerator,
            reference=reference.requires_grad_(False),
        )
        for _ in range(steps):
            step += 1
            chosen = random.choice(len(problems), told.problems, replace=False)
            episodes = rollout(
                [problems[index] for index in chosen],
                protocol,
                engine,
                task.grader,
                Sampling(temperature=1.0, max_tokens=MAX_TOKENS, seed=told.seed + 1000 * step),
                samples=SAMPLES,
            )
            metrics = train_step(learner, episodes, stage)
            engine.sync_weights(f"step {step}")  # the engine shares memory; copies are renewed
            right = rewards_by_answer(episodes, ATTEMPTS).mean(axis=0)  # [T]
            print(
                f"{stage.name} step {step}: t1 {right[0]:.3f}  t2 {right[1]:.3f}  "
                f"KL {metrics['kl/turn1']:.4f} {metrics['kl/turn2']:.4f}",
                flush=True,
            )
    found = evaluate(held_out, protocol, engine, task.grader)
    report("SCoRe", found)
    return found


def train_step(learner: Learner, episodes: list[Episode], stage: Stage) -> dict[str, float]:
    """One optimiser step on the episodes under a stage's objective."""
    rewards_ET = rewards_by_answer(episodes, ATTEMPTS)  # 1 right, 0 wrong
    shaped_ET = with_progress_bonus(rewards_ET, stage.alpha)  # r_2 + alpha (r_2 - r_1)
    # Each attempt is compared with the same attempt of the problem's G - 1 other episodes. No
    # return is added up: attempt 1 never sees what comes after it, nor any of the bonus.
    advantages_ET = leave_one_out(shaped_ET, same_problem_groups(episodes))
    advantages_ET = advantages_ET * np.array(stage.rewarded)
    # One row per episode: every token of attempt t carries A_t and the KL weight beta_t; what the
    # environment said carries nothing.
    rows = advantage_rows(episodes, advantages_ET, stage.kl_weights)
    rows = learner.with_reference(rows)  # log-probs of the frozen base model, for the KL
    # loss = sum over tokens of -A log pi + beta KL(pi || reference), divided by E
    return learner.step(rows)


def evaluate(
    problems: list[Problem], protocol: Intrinsic, engine: LocalEngine, grader: Grader
) -> dict[str, float]:
    """Metrics by name, greedily."""
    greedy = Sampling(temperature=0.0, max_tokens=MAX_TOKENS)
    episodes = rollout(problems, protocol, engine, grader, greedy)
    values = {name: ratio.value for name, ratio in ratios(episodes).items()}
    return {name: value for name, value in values.items() if value is not None}


def report(name: str, metrics: dict[str, float]) -> None:
    """The headline of an evaluation, in percent and points."""
    shares = ("accuracy/turn1", "accuracy/turn2", "delta_t1_t2", "i_to_c", "c_to_i")
    shown = "  ".join(f"{share} {100 * metrics[share]:+.1f}" for share in shares)
    print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
