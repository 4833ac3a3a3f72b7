"""The systems that `rise_lab.py` compares."""

from redraft.training.method import METHODS
from rise_study import Study, System

EXPERT = {"teacher": "expert", "teacher_temperature": 0.0}

STAR = {"iterations": 3, "start": "base"}
PAIR = {"iterations": 1, "epochs": 1.0}
"""SCoRe's numbers for its baselines."""

SYSTEMS: dict[str, System] = {
    "base": System(),
    "Self-Refine": System(evaluation={"protocol": "self-refine", "prompts": "self-refine"}),
    "RISE, self-distillation": System("rise"),
    "RISE, expert": System("rise", {"improve": "teacher", **EXPERT}),
    "BoN-SFT": System("bon-sft"),
    "STaR D": System("star", STAR),
    "STaR D+": System("star", {"plus": True, **STAR}),
    "Pair-SFT D": System("pair-sft", PAIR),
    "Pair-SFT D+": System("pair-sft", {"plus": True, **PAIR}),
    "off-policy SFT": System("off-policy-sft", EXPERT),
    "LMSI": System("lmsi"),
}
"""What is compared."""

COMMON = {
    name: METHODS["rise"].presets["lab"][name]
    for name in (
        "model",
        "task",
        "iterations",
        "problems_per_iteration",
        "learning_rate",
        "epochs",
        "batch_size",
        "max_tokens",
        "tokens_per_microbatch",
    )
}
"""What all systems are told, unless told otherwise."""


def lab_study(problems: int) -> Study:
    """All systems, with so many held-out problems."""
    source = {name: COMMON[name] for name in ("task", "max_tokens")}
    return Study(base="lab", systems=SYSTEMS, source=source, training=COMMON, problems=problems)
