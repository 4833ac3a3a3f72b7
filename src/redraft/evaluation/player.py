"""Whoever plays an evaluation's episodes: a model in this process, or one behind an endpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

import numpy as np

from redraft.chat_rollout import Played, rollout_chat
from redraft.dialogue import Dialogue
from redraft.engines import Sampling
from redraft.engines.http import HttpChat
from redraft.engines.http_settings import is_endpoint
from redraft.engines.local import LocalEngine
from redraft.episode import Problem, Turn
from redraft.evaluation.settings import RolloutSettings
from redraft.grading import Grader
from redraft.models import load_model
from redraft.progress import Progress
from redraft.protocols import Prompts, Protocol
from redraft.rollout import rollout
from redraft.runs import write_json


class Player(Interface):
    """Plays some problems at a time."""

    def play(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        stream: Sequence[int],
        progress: Callable[[int], None],
        given: Sequence[Sequence[Turn]] | None = None,
        grader: Grader | None = None,
        temperature: float | None = None,
    ) -> Played:
        """Episodes whose random numbers are a function of the settings' seed and `stream`.

        `given` are the turns that each episode begins with (see `rollout`), `grader` judges in
        place of the task's and `temperature` holds in place of the settings'.
        """
        ...

    def adopt(self, turn: Turn) -> Turn:
        """An attempt that somebody else made, as this player can be `given` it."""
        ...


def open_player(
    config: RolloutSettings, prompts: Prompts, folder: Path | None, progress: Progress
) -> Player:
    """The player that the settings name.

    Args:
        config: what to play with.
        prompts: for the strings that end an attempt.
        folder: where an endpoint's answers are kept; None: nowhere.
        progress: is told of what is worth knowing.

    Raises:
        UserError: the model cannot be loaded, or the endpoint cannot be reached.
    """
    if is_endpoint(config.model):
        cache = None if folder is None else folder / "endpoint"
        endpoint = HttpChat.from_url(config.model, config.http, cache=cache)
        endpoint.check()
        return _Endpoint(config, config.open_task().grader, prompts, endpoint, cache)
    model, tokenizer = load_model(config.model, dtype=config.dtype, device=config.device)
    dialogue = Dialogue(
        tokenizer,
        generation_config=model.generation_config,
        stop=prompts.stop,
        chat_template_kwargs=config.template_values,
    )
    if dialogue.rewrites_history:
        progress.note(dialogue.rewrites_history)
    engine = LocalEngine(model, tokenizer, max_rows=config.max_rows)
    return _Local(config, config.open_task().grader, dialogue, engine)


@dataclass(frozen=True)
class _Local:
    """A model in this process."""

    config: RolloutSettings
    grader: Grader
    dialogue: Dialogue
    engine: LocalEngine

    def play(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        stream: Sequence[int],
        progress: Callable[[int], None],
        given: Sequence[Sequence[Turn]] | None = None,
        grader: Grader | None = None,
        temperature: float | None = None,
    ) -> Played:
        """Nothing can fail here but the grader, or the whole."""
        episodes = rollout(
            problems,
            protocol,
            self.engine,
            self.dialogue,
            grader or self.grader,
            _sampling(self.config, stream, temperature),
            samples=samples,
            policy=self.config.model,
            given=given,
            window=self.config.window,
            progress=progress,
        )
        return Played.judged(episodes)

    def adopt(self, turn: Turn) -> Turn:
        """The attempt in this model's tokens."""
        tokens = self.dialogue.attempt(turn.attempt)
        return turn.model_copy(
            update={"attempt_tokens": tokens, "logprobs": [], "on_policy": False}
        )


@dataclass(frozen=True)
class _Endpoint:
    """A model behind an OpenAI-compatible server."""

    config: RolloutSettings
    grader: Grader
    prompts: Prompts
    endpoint: HttpChat
    folder: Path | None

    def play(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        *,
        samples: int,
        stream: Sequence[int],
        progress: Callable[[int], None],
        given: Sequence[Sequence[Turn]] | None = None,
        grader: Grader | None = None,
        temperature: float | None = None,
    ) -> Played:
        """Also writes down what has been asked so far and what it took."""
        played = rollout_chat(
            problems,
            protocol,
            self.endpoint,
            grader or self.grader,
            _sampling(self.config, stream, temperature, stop=self.prompts.stop),
            samples=samples,
            policy=self.config.model,
            given=given,
            window=self.config.window,
            progress=progress,
        )
        if self.folder is not None:
            write_json(self.folder / "usage.json", self.endpoint.usage.model_dump())
        return played

    def adopt(self, turn: Turn) -> Turn:
        """The attempt's text is all that an endpoint is shown."""
        return turn.model_copy(update={"attempt_tokens": [], "logprobs": [], "on_policy": False})


def _sampling(
    config: RolloutSettings,
    stream: Sequence[int],
    temperature: float | None = None,
    stop: tuple[str, ...] = (),
) -> Sampling:
    seed = int(np.random.SeedSequence([config.seed, *stream]).generate_state(1)[0])
    heat = config.temperature if temperature is None else temperature
    return Sampling(heat, max_tokens=config.max_tokens, seed=seed, stop=stop)
