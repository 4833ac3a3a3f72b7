"""Checkpoints: folders in Hugging Face format with everything a resumed run needs.

A checkpoint is written to a temporary folder beside its place, sealed with checksums, flushed to
disk and renamed, so a folder named `step-NNNNNN` is always complete, and damage to it shows. A
checkpoint of the same step makes way under a name of its own first, from which `restore_replaced`
brings it back if the process died there. Nothing in a checkpoint is read with a pickle that could
run code.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from redraft.errors import UserError
from redraft.learning.learner import Learner
from redraft.learning.parallel import processes_of
from redraft.learning.sharding import MOMENTS
from redraft.storage import damage, read_json, seal

_COMPLETE = re.compile(r"step-(\d+)")


def write_checkpoint(
    folder: Path,
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    extra: dict[str, Any],
    *,
    step: int | None = None,
) -> Path:
    """Write `folder/step-NNNNNN`; all processes must call this.

    Args:
        folder: where the run keeps its checkpoints.
        learner: its model goes out as safetensors (the adapter alone for PEFT), with optimiser,
            step counter and random states.
        tokenizer: saved beside the model, so that the checkpoint loads like any other model.
        extra: JSON values the run wants back on resume, e.g. its place in the data order.
        step: number of the checkpoint; None: the learner's optimiser steps.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: it cannot be written, as on a full disk. What there was of it is gone.
    """
    place = folder / f"step-{learner.steps if step is None else step:06d}"
    partial = folder / f".{place.name}.partial"

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def complete() -> None:
        tokenizer.save_pretrained(partial)
        text = json.dumps(extra, indent=1, sort_keys=True)
        (partial / "extra.json").write_text(text, encoding="utf-8")
        seal(partial)
        for path in sorted(partial.rglob("*")):
            _flush(path)
        _flush(partial)
        aside = folder / f".{place.name}.replaced"
        shutil.rmtree(aside, ignore_errors=True)
        if place.exists():  # a resumed run has reached this step a second time
            place.rename(aside)
        partial.rename(place)
        _flush(folder)
        shutil.rmtree(aside, ignore_errors=True)

    processes = processes_of(learner.accelerator)
    with _writing(place, partial):
        processes.on_main(begin)
        for save in (learner.save_weights, learner.save):
            with processes.together():
                save(partial)
        processes.on_main(complete)
    return place


@contextmanager
def _writing(place: Path, partial: Path) -> Iterator[None]:
    """Turn what the libraries raise on a full disk, say, into one line."""
    try:
        yield
    except Exception as error:
        is_plain = type(error) in (Exception, RuntimeError)
        said = is_plain and any(each in str(error) for each in _NOT_WRITTEN)
        if not (said or isinstance(error, OSError | SafetensorError)):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint {place}: cannot be written ({reason}); make room for it, and "
            f"`redraft resume {place.parent.parent}` resumes from the checkpoint before it"
        ) from None


_NOT_WRITTEN = ("PytorchStreamWriter", "inline_container", "unexpected pos", "(os error ")
"""What `torch.save` and `tokenizers` say where a file cannot be written: neither has an error class
for it."""


def read_extra(checkpoint: Path) -> dict[str, Any]:
    """The `extra` values a checkpoint was written with.

    Raises:
        UserError: the file is missing or is not a JSON object.
    """
    return read_json(checkpoint / "extra.json")


def complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _COMPLETE.fullmatch(path.name)) and path.is_dir()
    }
    return [steps[step] for step in sorted(steps)]


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint with the highest step, or None."""
    return next(reversed(complete_checkpoints(folder)), None)


def restore_replaced(folder: Path) -> None:
    """Bring back checkpoints that made way for one that never came; one process calls this."""
    for aside in folder.glob(".step-*.replaced"):
        place = folder / aside.name.removeprefix(".").removesuffix(".replaced")
        if not place.exists():
            aside.rename(place)


def export_model(checkpoint: Path, place: Path) -> None:
    """Copy a checkpoint's model and tokenizer, without what only training needs, all at once.

    Raises:
        UserError: the checkpoint is damaged.
    """
    if fault := damage(checkpoint):
        raise UserError(
            f"checkpoint {checkpoint}: damaged ({fault}); delete this folder, and `redraft resume "
            f"{checkpoint.parent.parent}` uses another one"
        )
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    training = shutil.ignore_patterns("*.pt", "extra.json", MOMENTS)
    shutil.copytree(checkpoint, partial, ignore=training)
    seal(partial)
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def prune_checkpoints(folder: Path, keep_last: int, keep: Path | None = None) -> None:
    """Delete all checkpoints but the newest `keep_last` and `keep`, and what unfinished ones left
    behind."""
    for path in complete_checkpoints(folder)[: -keep_last or None]:
        if path != keep:
            shutil.rmtree(path)
    for pattern in (".step-*.partial", ".step-*.replaced"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _flush(path: Path) -> None:
    """Have the operating system put a file's or a folder's content on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
