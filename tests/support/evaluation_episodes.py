"""Short episodes written down as what happened in them, for the tests of evaluation."""

from collections.abc import Sequence

from redraft.types import Episode, Grade, Message, Problem, Turn


def turn(
    correct: bool,
    text: str = "",
    *,
    answer: str | None = "",
    tokens: int = 0,
    finish: str = "stop",
    status: str = "graded",
    author: str = "policy",
) -> Turn:
    """A graded response; the answer is "right" or "wrong" unless given."""
    if answer == "":
        answer = "right" if correct else "wrong"
    if status == "graded" and answer is None and not correct:
        status = "no_answer"
    return Turn(
        author=author,
        text=text or f"the answer is {answer}",
        finish=finish,
        grade=Grade(score=float(correct), answer=answer, decided_by="string", status=status),
        tokens=[7] * tokens,
        logprobs=[-0.5] * tokens,
    )


def critique(text: str, tokens: int = 0) -> Turn:
    """A response that is no answer."""
    return Turn(author="policy", text=text, tokens=[7] * tokens, logprobs=[-0.5] * tokens)


def episode(problem: str, turns: Sequence[Turn | bool], sample: int = 0) -> Episode:
    """An episode of turns; a bare verdict stands for a response with that verdict."""
    return Episode(
        problem=Problem(id=problem, task="test", question=f"question {problem}", gold="right"),
        messages=[Message(role="user", content=f"question {problem}")],
        turns=[turn(item) if isinstance(item, bool) else item for item in turns],
        protocol="intrinsic",
        sample=sample,
    )


def episodes_from(verdicts: Sequence[Sequence[Sequence[bool]]]) -> list[Episode]:
    """Episodes from verdicts by problem, sample and turn."""
    return [
        episode(f"p{number}", turns, sample)
        for number, samples in enumerate(verdicts)
        for sample, turns in enumerate(samples)
    ]


def without_logprobs(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes without their log-probabilities, whose last digits depend on the batch."""
    return [
        episode.model_copy(
            update={"turns": [t.model_copy(update={"logprobs": []}) for t in episode.turns]}
        )
        for episode in episodes
    ]
