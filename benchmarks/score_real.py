"""SCoRe and plain multi-turn RL on a real model: the page docs/results/score-real.md.

    python benchmarks/score_real.py                                # hours; goes on where it was
    python benchmarks/score_real.py --seeds 1 --systems base SCoRe
    python benchmarks/score_real.py --page-only

To be run in the repository's folder. The model is `public_models.py`'s, in `models/`; first it is
fine-tuned on sorted lists.
"""

from pathlib import Path
from typing import Any

from public_models import FOLDER
from redraft.progress import Progress
from redraft.training.method import METHODS
from resumable import trained
from score_study import Study, main

MODEL = "SmolLM2-135M-Instruct"
PROBLEMS = 200

SOURCE: dict[str, Any] = {
    "task": "lab/short-lists",
    "prompts": "benchmarks/short_prompts.yaml",
    "max_tokens": 24,
}
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-5,
    "problems_per_step": 8,
    "samples": 4,
    "stage_one_steps": 12,
    "stage_two_steps": 18,
    "beta1": 0.01,
    "beta2": 0.25,
    "checkpoint_every": 5,
}
FINE_TUNING: dict[str, Any] = {
    "model": str(FOLDER / MODEL),
    "limit": 384,
    "epochs": 3.0,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "warmup_share": 0.1,
}


def base(out: Path, progress: Progress) -> str:
    """The model after its fine-tuning on worked solutions, here sorted lists; one for all seeds."""
    method = METHODS["rationale-sft"]
    told = {**SOURCE, **FINE_TUNING, "out": out / "fine-tuned"}
    return str(trained(method.name, method.configure(overrides=told), progress))


STUDY = Study(
    name="score-real",
    title="SCoRe on a real model",
    about=f"""\
Made by `python benchmarks/score_real.py` with {MODEL} (4-bit weights, dequantised), all weights \
trained in float32, on `{SOURCE["task"]}`, lists of 3 or 4 words. The base model is {MODEL} after \
{FINE_TUNING["epochs"]:g} epochs of fine-tuning on {FINE_TUNING["limit"]} sorted lists; without \
that it cannot do the task. All systems go on from it, for as many optimiser steps on as many \
episodes, and are evaluated on {PROBLEMS} held-out problems, greedily and at temperature 1. \
Intervals are 95 % intervals over problems; the spread over training seeds is what the seeds show. \
What the tables do not have has not been run yet.

Tried before: the lab's lists of 5 to 15 words, which {MODEL} does not learn to sort from 192 of \
them (0 % right).

The fine-tuned model spoils right answers when it is asked to correct them. After 30 steps of \
either training it hardly does, and neither system repairs more than a few wrong ones. Over two \
seeds SCoRe is not better than plain multi-turn RL: the first seed is in its favour, the second in \
the other's (at temperature 1 by more than its interval), so the seeds differ by more than the \
systems. SCoRe's second responses are mostly copies of its first. 30 steps of 8 problems are few: \
the paper takes 1,500 to 3,000.""",
    base=base,
    source=SOURCE,
    settings=SETTINGS,
    evaluations={
        "greedy": ("Greedy decoding", {"limit": PROBLEMS}),
        "evaluation": ("Temperature 1", {"limit": PROBLEMS, "temperature": 1.0}),
    },
    looked_at=0,
    systems=("base", "SCoRe", "multi-turn RL (sum)"),
)

if __name__ == "__main__":
    main(STUDY)
