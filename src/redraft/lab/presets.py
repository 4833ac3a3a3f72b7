"""Settings of the methods on the lab: `redraft train METHOD --preset lab`.

Found by hand; docs/lab.md says how, docs/negative-results.md what else was tried.
"""

from typing import Any

from redraft.training.method import Preset

_RL = {
    "model": "lab",
    "task": "lab/sorting",
    "learning_rate": 3e-4,
    "problems_per_step": 64,
    "samples": 8,
    "max_tokens": 96,
    "tokens_per_microbatch": 2048,
}
_RISE = {
    "model": "lab",
    "task": "lab/sorting",
    "iterations": 2,
    "problems_per_iteration": 4096,
    "best_of": 16,
    "learning_rate": 5e-4,
    "epochs": 2.0,
    "batch_size": 64,
    "max_tokens": 96,
    "tokens_per_microbatch": 4096,
}

_TRIPOST = {
    "model": "lab",
    "task": "lab/sorting-cells",
    "batch_size": 32,
    "learning_rate": 3e-4,
    "warmup_share": 0.05,
    "limit": 1536,
    "max_tokens": 128,
    "tokens_per_microbatch": 4096,
}
_CYCLES = {"rationale_epochs": 4.0, "epochs": 4.0, "train_attempt": False}
# A model this small takes on the mistakes that it is trained on: there they are context.

VALUES: dict[str, dict[str, Any]] = {
    "score": _RL | {"stage_one_steps": 60, "stage_two_steps": 120, "beta1": 0.01, "beta2": 0.25},
    "oracle-retry": _RL | {"steps": 180, "beta": 0.01},
    "rise": _RISE,
    "bon-sft": _RISE,
    "cap": {
        "model": "lab",
        "task": "lab/arithmetic",
        "problems_per_iteration": 512,
        "learning_rate": 3e-4,
        "epochs": 2.0,
        "batch_size": 64,
        "max_tokens": 96,
        "tokens_per_microbatch": 4096,
        "preference_learning_rate": 3e-5,
        "preference_epochs": 1.0,
    },
    "tripost": _TRIPOST | _CYCLES,
    "si-demo-sft": _TRIPOST | _CYCLES,
    "rationale-sft": _TRIPOST | {"epochs": 4.0},
}
"""By the name of the method."""

PRESETS = [Preset(method, "lab", values) for method, values in VALUES.items()]
"""What the lab registers under `redraft.presets`."""
