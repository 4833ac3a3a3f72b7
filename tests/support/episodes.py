"""Episodes for tests, put together from answers with their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redraft.types import Author, Episode, Grade, Message, Problem, Turn

MESSAGES = [Message(role="user", content="?")]


@dataclass
class Answer:
    """A graded response: the tokens `shown` before it and the tokens `made`."""

    correct: bool = False
    text: str = ""
    shown: Sequence[int] = ()
    made: Sequence[int] = ()
    answer: str | None = None
    finish: Any = "stop"
    author: Author = "policy"
    logprobs: Sequence[float] | None = None
    said_before: str = ""
    history: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def turn(self) -> Turn:
        """The response as a turn."""
        known = [-0.5 * token for token in self.made] if self.logprobs is None else self.logprobs
        grade = {"score": float(self.correct), "answer": self.answer, "decided_by": "string"}
        if self.answer is None and not self.correct:
            grade["status"] = "no_answer"
        return Turn(
            author=self.author,
            text=self.text,
            tokens=list(self.made),
            logprobs=list(known) if self.author == "policy" else [],
            finish=self.finish,
            history=self.history,
            **{"grade": Grade(**grade), **self.fields},
        )


def episode(*answers: Answer, problem: str | Problem = "p", **fields: Any) -> Episode:
    """An episode of these answers with an environment turn between each two."""
    if isinstance(problem, str):
        problem = Problem(id=problem, task="t", question="?", gold="1")
    turns: list[Turn] = []
    for index, answer in enumerate(answers):
        if index:
            turns.append(
                Turn(author="environment", text=answer.said_before, tokens=list(answer.shown))
            )
        turns.append(answer.turn)
    return Episode(
        problem=problem,
        messages=MESSAGES,
        prompt_tokens=list(answers[0].shown) if answers else [],
        turns=turns,
        **{"protocol": "intrinsic", **fields},
    )
