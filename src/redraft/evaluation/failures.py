"""Problems that an evaluation leaves out, because an attempt at them could not be had or judged.

An endpoint that does not answer and a sandbox that fails are no mistakes of the model. Such a
problem counts with none of its samples: those that were had are no fair sample of what the model
would have said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from redraft.evaluation.side_by_side import span
from redraft.progress import Progress


def listed(failed: Mapping[str, str]) -> dict[str, Any]:
    """What `summary.json` says of them; `failed` gives the reason by problem."""
    return {
        "n_failed": len(failed),
        "failed": [{"id": name, "reason": why} for name, why in failed.items()],
    }


def tell(failed: Mapping[str, str], progress: Progress) -> None:
    """Say how many there are, and why the first."""
    if failed:
        problem, why = next(iter(failed.items()))
        progress.note(f"{len(failed)} problems failed, first {problem}: {why}")


def left_out(summaries: Sequence[Mapping[str, Any]]) -> str:
    """What a caption says of them, after a blank; nothing where there are none.

    Summaries that were not made by an evaluation do not count them.
    """
    failed = [summary.get("n_failed", 0) for summary in summaries]
    if not any(failed):
        return ""
    played = [one["n_problems"] + n for one, n in zip(summaries, failed, strict=True)]
    return (
        f" {span(failed)} of {span(played)} problems left out: they could not be played or judged."
    )
