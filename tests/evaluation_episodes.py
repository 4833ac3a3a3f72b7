"""Short episodes written down as what happened in them, for the tests of evaluation."""

from collections.abc import Sequence

from redraft.episode import Episode, Grade, Message, Problem, Turn


def turn(
    correct: bool,
    attempt: str = "",
    *,
    answer: str | None = "",
    tokens: int = 0,
    finish: str = "stop",
    timed_out: bool = False,
    on_policy: bool = True,
) -> Turn:
    """A graded attempt; the answer is "right" or "wrong" unless given."""
    if answer == "":
        answer = "right" if correct else "wrong"
    return Turn(
        attempt=attempt or f"the answer is {answer}",
        finish=finish,
        grade=Grade(correct=correct, answer=answer, decided_by="string", timed_out=timed_out),
        attempt_tokens=[7] * tokens,
        logprobs=[-0.5] * tokens,
        on_policy=on_policy,
    )


def episode(problem: str, turns: Sequence[Turn | bool], sample: int = 0) -> Episode:
    """An episode of turns; a bare verdict stands for an attempt with that verdict."""
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
