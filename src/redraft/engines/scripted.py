"""The engine whose answers come from a Python function, such as an expert that knows the task."""

from collections.abc import Callable, Sequence

from redraft.engines.base import Failed, Messages, Sample, Sampling


class ScriptedChat:
    """Answers each dialogue with what `function` makes of its messages.

    The function may decline by returning `Failed`. It knows nothing of sampling: equal dialogues
    are put to it one by one, no stop string cuts its answers, and they count no tokens.
    """

    def __init__(self, function: Callable[[Messages], str | Failed]) -> None:
        self.function = function

    def chat(
        self,
        dialogues: Sequence[Messages],
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample | Failed]:
        """The function's answer to each dialogue; see `ChatEngine.chat`."""
        answers: list[Sample | Failed] = []
        for dialogue in dialogues:
            said = self.function(dialogue)
            answers.append(said if isinstance(said, Failed) else Sample([], [], said, "stop", 0))
            if progress is not None:
                progress(1)
        return answers
