"""A local model that answers messages, so that it can be a teacher like any endpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from redraft.engines.base import Engine, Failed, Messages, Sample, Sampling
from redraft.errors import UserError


class Rendering(Protocol):
    """What is needed of a dialogue: messages to tokens, and an attempt's tokens to text."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]: ...

    @property
    def stop(self) -> tuple[str, ...]: ...

    def start(self, messages: Sequence[Mapping[str, str]]) -> list[int]: ...

    def decode(self, attempt: Sequence[int]) -> str: ...


class LocalChat:
    """Answers dialogues with a token engine.

    An answer ends where the dialogue's template or `Sampling` says. Its tokens and
    log-probabilities come along; they are the teacher's own, which a learner with another
    tokenizer cannot use.

    Args:
        engine: samples the answers.
        dialogue: renders messages for the engine's model.
        window: how many tokens the model can attend to. A dialogue that with `max_tokens` more
            would exceed it is `Failed`; without a window the engine decides, for all at once.
    """

    def __init__(self, engine: Engine, dialogue: Rendering, *, window: int | None = None) -> None:
        self.engine, self.dialogue, self.window = engine, dialogue, window

    def chat(
        self,
        dialogues: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample | Failed]:
        """The next message of each dialogue; see `ChatEngine.chat`.

        One that the chat template refuses is `Failed`.

        Raises:
            UserError: what the engine refuses as a whole, such as a negative temperature.
        """
        rendered = [self._render(messages, sampling.max_tokens) for messages in dialogues]
        prompts = [prompt for prompt in rendered if not isinstance(prompt, Failed)]
        if progress is not None and len(prompts) < len(rendered):
            progress(len(rendered) - len(prompts))
        ending = replace(
            sampling,
            stop_token_ids=(*self.dialogue.stop_token_ids, *sampling.stop_token_ids),
            stop=(*self.dialogue.stop, *sampling.stop),
        )
        attempts = iter(self.engine.converse(prompts, _no_reply, ending, progress))
        return [
            prompt if isinstance(prompt, Failed) else self._answer(next(attempts)[0], sampling)
            for prompt in rendered
        ]

    def _render(self, messages: Messages, max_tokens: int) -> list[int] | Failed:
        try:
            prompt = self.dialogue.start(messages)
        except UserError as error:
            return Failed(str(error))
        if self.window is not None and len(prompt) + max_tokens > self.window:
            return Failed(
                f"{len(prompt)} prompt tokens and max_tokens {max_tokens} exceed the model's "
                f"window of {self.window}"
            )
        return prompt

    def _answer(self, attempt: Sample, sampling: Sampling) -> Sample:
        text = self.dialogue.decode(attempt.tokens)
        ends = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
        text = text[: min(ends, default=None)]
        return replace(attempt, text=text, completion_tokens=len(attempt.tokens))


def _no_reply(row: int, samples: list[Sample]) -> None:
    """Every dialogue is over after one attempt."""
