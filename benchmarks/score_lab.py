"""SCoRe and the ablations of its paper on the lab, over seeds: the page docs/results/score-lab.md.

    python benchmarks/score_lab.py                                 # everything, well over an hour
    python benchmarks/score_lab.py --seeds 1 --systems base SCoRe  # a part
    python benchmarks/score_lab.py --page-only                     # the page again

The first held-out problems, at which somebody looked while the settings were chosen, are left out
of the page.
"""

from redraft.methods.score import METHOD
from score_study import Study, main

PROBLEMS, LOOKED_AT, SAMPLES = 1000, 300, 4
LAB = METHOD.presets["lab"]

STUDY = Study(
    name="score-lab",
    title="SCoRe on the lab",
    about=f"""\
Made by `python benchmarks/score_lab.py` on `{LAB["task"]}`: held-out problems {LOOKED_AT + 1} to \
{PROBLEMS} (the first {LOOKED_AT} were looked at when the settings were chosen), once with greedy \
decoding and once with {SAMPLES} episodes each at temperature 1. Every system but the base model \
had the same number of optimiser steps and of training episodes. Intervals are 95 % intervals over \
problems; the spread over training seeds is what the seeds show. For comparison, Δ on MATH in the \
paper (arXiv 2409.12917, greedy): base -11.2, single-turn RL -2.4, without Stage I +2.2, without \
the bonus +2.6, SCoRe +4.4.""",
    base=lambda out, progress: "lab",
    source={"task": LAB["task"], "max_tokens": LAB["max_tokens"]},
    settings=LAB,
    evaluations={
        "greedy": ("Greedy decoding", {"limit": PROBLEMS}),
        "evaluation": (
            "Temperature 1",
            {"limit": PROBLEMS, "samples": SAMPLES, "temperature": 1.0},
        ),
    },
    looked_at=LOOKED_AT,
)

if __name__ == "__main__":
    main(STUDY)
