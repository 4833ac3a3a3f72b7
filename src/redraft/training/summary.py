"""What a training step took, and the outcome of a run from what its steps logged."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from redraft.learning.parallel import gather_numbers


def speed(
    seconds: Mapping[str, float],
    beside: Mapping[str, float],
    tokens: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """`seconds/PART` of the slowest process for each part of a step and, if there were any, the
    response tokens of all processes over them. All processes must call this.

    Args:
        seconds: this process's, by part.
        beside: of parts that were under way beside others, how long they took; `seconds` has what
            the step waited for them.
        tokens: response tokens of this process's episodes.
        accelerator: says which processes there are.
    """
    took = {**seconds, **beside}
    table = gather_numbers(accelerator, [*seconds.values(), *took.values(), tokens])
    total, most = float(table[:, -1].sum()), table.amax(0).tolist()  # [2 parts + 1]
    found = {f"seconds/{part}": waited for part, waited in zip(seconds, most, strict=False)}
    if total:
        for part, longest in zip(took, most[len(seconds) :], strict=False):
            found[f"tokens_per_second/{part}"] = total / longest
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
