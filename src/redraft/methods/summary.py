"""What a training step took, and the outcome of a run from what its steps logged."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from redraft.episode import Episode


def speed(
    seconds: Mapping[str, float], episodes: Sequence[Episode], accelerator: Accelerator
) -> dict[str, float]:
    """`seconds/PART` of the slowest process for each part of a step and, if it had any, the attempt
    tokens of `episodes`, those of all processes, over them. All processes must call this."""
    local = torch.tensor([[*seconds.values()]], device=accelerator.device)  # [1, parts]
    slowest = accelerator.gather(local).amax(0).tolist()
    tokens = sum(len(turn.attempt_tokens) for episode in episodes for turn in episode.turns)
    found = {}
    for part, most in zip(seconds, slowest, strict=True):
        found[f"seconds/{part}"] = most
        if tokens:
            found[f"tokens_per_second/{part}"] = tokens / most
    return found


def summarize(lines: Sequence[Mapping[str, Any]], window: int) -> dict[str, Any]:
    """Means over the last `window` steps of a run's metric lines, and the seconds it took.

    Accuracies are a list by turn, as in an evaluation's summary. A metric that a step does not
    have, as Stage I of three attempts has no third one, is averaged over the steps that do.
    `seconds` adds up what the steps took, so that a resumed run counts each of its steps once.
    """
    means = {}
    recent = lines[-window:]
    for name in sorted({name for line in recent for name in line} - {"step", "time", "phase"}):
        values = [line[name] for line in recent if isinstance(line.get(name), int | float)]
        if values:
            means[name] = sum(values) / len(values)
    turns = sorted(name for name in means if name.startswith("accuracy/turn"))
    seconds = [
        value for line in lines for name, value in line.items() if name.startswith("seconds/")
    ]
    return {
        "steps": len(lines),
        "window": len(recent),
        "accuracy": [means[name] for name in turns],
        "delta_t1_t2": means.get("delta_t1_t2"),
        "metrics": means,
        "seconds": sum(seconds),
    }
