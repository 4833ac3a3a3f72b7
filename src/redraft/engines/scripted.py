"""Engine whose responses come from a Python function, such as an expert that knows the task."""

from collections.abc import Callable, Sequence

from redraft.engines.base import Failed, Follow, Reply, Request, Response, Sampling, Watch
from redraft.types import Message


class ScriptedEngine:
    """Engine of text: continues every conversation with the return value of `function`.

    The function may return `Failed` instead of text. It is called once per request, also for equal
    ones. Sampling settings are not used, and responses count no tokens.
    """

    template = None

    def __init__(self, function: Callable[[Sequence[Message]], str | Failed]) -> None:
        self.function = function

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        reply: Reply | None = None,
        watch: Watch | None = None,
        follow: Follow | None = None,
    ) -> list[list[Response | Failed]]:
        """One response to each request; see `Engine.generate`."""
        responses: list[list[Response | Failed]] = []
        for request in requests:
            said = self.function(request.messages)
            if isinstance(said, str):
                responses.append([Response(said, "stop", [], [], completion_tokens=0)])
                if watch is not None:
                    watch(0, 1)
            else:
                responses.append([said])
        return responses

    def sync_weights(self, version: str) -> None:
        """Nothing to do: there are no weights."""
