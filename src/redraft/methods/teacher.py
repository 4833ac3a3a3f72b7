"""Whoever writes better attempts than the policy: a script, an endpoint, another model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from redraft.dialogue import Dialogue
from redraft.engines import ChatEngine, Failed, Messages, Sample, Sampling
from redraft.engines.chat import LocalChat
from redraft.engines.http import HttpChat
from redraft.engines.http_settings import Usage, is_endpoint
from redraft.engines.local import LocalEngine
from redraft.engines.scripted import ScriptedChat
from redraft.errors import UserError
from redraft.lab.expert import expert
from redraft.methods.supervised_config import EXPERT, TeacherConfig
from redraft.models import load_model
from redraft.progress import Progress
from redraft.runs import write_json

_USAGE = "usage.json"


@dataclass(frozen=True)
class Teacher:
    """A chat engine with the sampling that a run asks of it."""

    engine: ChatEngine
    sampling: Sampling
    folder: Path
    """Where answers and usage are kept."""

    def answer(
        self, dialogues: Sequence[Messages], samples: Sequence[int] | None = None
    ) -> list[Sample | Failed]:
        """The teacher's next message in each dialogue; what was asked is written down.

        `samples` tell equal dialogues apart, for an endpoint of which only some are asked; see
        `HttpChat.chat`. A local model's random numbers follow from all that it is asked together.
        """
        if isinstance(self.engine, HttpChat):
            answers = self.engine.chat(dialogues, self.sampling, samples=samples)
            _write_usage(self.engine, self.folder)
            return answers
        sampling = self.sampling
        if isinstance(self.engine, LocalChat):
            asked = json.dumps([sampling.seed, [[dict(m) for m in one] for one in dialogues]])
            seed = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:7], "big")
            sampling = replace(sampling, seed=seed)
        return self.engine.chat(dialogues, sampling)


def open_teacher(
    config: TeacherConfig, folder: Path, progress: Progress, *, flag: str = "--teacher"
) -> Teacher:
    """The teacher of a run, named with `flag`; an endpoint's answers are cached in `folder`.

    Raises:
        UserError: it cannot be loaded, or the endpoint's key is missing. An endpoint that cannot
            be reached is told of and no error: what it does not answer fails problem by problem
            and is asked again by `redraft resume`.
        ValueError: no teacher is named.
    """
    sampling = Sampling(
        config.teacher_temperature, max_tokens=config.teacher_max_tokens, seed=config.seed
    )
    name = config.teacher
    if name is None:
        raise ValueError("the configuration names no teacher, and was not to be read without one")
    if name == EXPERT:
        return Teacher(ScriptedChat(expert(config.seed)), sampling, folder)
    if is_endpoint(name):
        endpoint = HttpChat.from_url(name, config.teacher_http, cache=folder)
        if (folder / _USAGE).exists():
            before = Usage.model_validate_json((folder / _USAGE).read_text("utf-8"))
            endpoint.usage.cached = before.cached
        if folder.exists():  # it may have been killed before it wrote, or have had other prices
            _write_usage(endpoint, folder)
        try:
            endpoint.check()
        except UserError as error:
            progress.note(str(error))
        return Teacher(endpoint, sampling, folder)
    try:
        model, tokenizer = load_model(name, device=config.device)
    except UserError as error:
        raise UserError(str(error).replace("--model", flag, 1)) from None
    engine = LocalEngine(model, tokenizer, max_rows=config.max_rows)
    dialogue = Dialogue(tokenizer, generation_config=model.generation_config)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Teacher(LocalChat(engine, dialogue, window=window), sampling, folder)


def _write_usage(endpoint: HttpChat, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _USAGE, endpoint.total.model_dump())
