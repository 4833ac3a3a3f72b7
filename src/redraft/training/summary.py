"""What a training step took, and the outcome of a run from what its steps logged."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from redraft.learning.parallel import gather_numbers


def speed(seconds: Mapping[str, float], tokens: int, accelerator: Accelerator) -> dict[str, float]:
    """`seconds/PART` of the slowest process for each part of a step and, if there were any, the
    response tokens of all processes over them. All processes must call this.

    Args:
        seconds: this process's, by part.
        tokens: response tokens of this process's episodes.
        accelerator: says which processes there are.
    """
    table = gather_numbers(accelerator, [*seconds.values(), tokens])  # [processes, parts + 1]
    total = float(table[:, -1].sum())
    found = {}
    for part, most in zip(seconds, table[:, :-1].amax(0).tolist(), strict=True):
        found[f"seconds/{part}"] = most
        if total:
            found[f"tokens_per_second/{part}"] = total / most
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
        values = [line[name] for line in recent if _is_number(line.get(name))]
        if values:
            means[name] = sum(values) / len(values)
    turns = sorted(name for name in means if name.startswith("accuracy/turn"))
    seconds = [
        value
        for line in lines
        for name, value in line.items()
        if name.startswith("seconds/") and _is_number(value)
    ]
    return {
        "steps": len(lines),
        "window": len(recent),
        "accuracy": [means[name] for name in turns],
        "delta_t1_t2": means.get("delta_t1_t2"),
        "metrics": means,
        "seconds": sum(seconds),
    }


def _is_number(value: object) -> bool:
    """Whether a value of a line, which an editor may have changed, can be added up."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
