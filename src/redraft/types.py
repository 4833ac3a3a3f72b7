"""Problems, grades, turns and episodes: the one record that rollout writes and all else reads.

An `Episode` is a problem, the opening messages, and the turns after them: responses of the policy
or of a teacher, and what the environment said in between. Sampled turns keep their token ids and
log-probabilities, so an episode can be trained on without ever being tokenised again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]

Author = Literal["policy", "teacher", "environment"]
"""Who wrote a turn: the model being trained or evaluated; another model, a script or the frozen
reference whose responses it is shown or taught; or the protocol."""

Status = Literal[
    "graded",
    "no_answer",
    "truncated",
    "timeout",
    "error",
    "memory",
    "output",
    "undecided",
    "no_text",
]
"""How a verdict came about: an answer was compared; there was none; the response hit its length
limit; the grader or the program took too long; the program failed, took too much memory or wrote
too much; grading itself failed, so that nothing is known about the response; or an imported file
has a verdict and not the text it is about."""

Outcome = Literal[
    "finished", "solved", "confirmed", "unchanged", "repetitive", "truncated", "failed"
]
"""Why an episode ended: the protocol's last turn; an oracle saw a right answer; the model said that
its answer is right; its update changed nothing, or went in circles; a response that the next one
needs was cut off or the context is full; or the engine got no response."""


class Record(BaseModel):
    """Base of all records: immutable, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Record):
    """One message of a conversation, as chat templates take them."""

    role: Role
    content: str


class Problem(Record):
    """One question with its gold answer.

    `question` is the bare question; how it is posed to a model is the prompts' business. `gold`
    is what the task's grader compares an answer to. `metadata` holds whatever the task wants to
    keep by the problem (difficulty cell, subject, unit tests, ...), JSON values only.
    """

    id: str
    task: str
    question: str
    gold: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class Grade(Record):
    """The verdict on one response.

    `score` is 1 for a right answer and 0 for a wrong one, or a fraction where the grader gives
    partial credit. `answer` is the extracted answer (None: none was found) and `decided_by` the
    rule that decided: one of `grading.math.equality.RULES`, `tests`, `none` (there was nothing to
    compare), a name of the task's own grader, or `program`: a program in place of an answer came to
    none, and `status` says how its run ended. `output` is what such a program printed, or else the
    value of its last expression, and its error; cut to a few thousand characters.
    """

    score: float = Field(ge=0, le=1)
    status: Status = "graded"
    answer: str | None = None
    decided_by: str
    reason: str = ""
    output: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the score is full."""
        return self.score >= 1

    @model_validator(mode="before")
    @classmethod
    def _from_first_format(cls, data: Any) -> Any:
        """Read grades of the first file format, which had `correct` and `timed_out`."""
        if not isinstance(data, Mapping) or "correct" not in data:
            return data
        old = dict(data)
        decided, timed_out = str(old["decided_by"]), old.pop("timed_out", False)
        ending = decided.removeprefix("program ")
        status = {"truncated": "truncated", "none": "no_answer", "infrastructure": "undecided"}
        if ending != decided:
            status |= {"silent": "no_answer"} | {e: e for e in ("error", "memory", "output")}
            old["decided_by"] = "program"
        if decided == "truncated":
            old["decided_by"] = "none"
        old["score"] = float(old.pop("correct"))
        timed_out = timed_out or ending == "timeout"
        old["status"] = "timeout" if timed_out else status.get(ending, "graded")
        return old


class Turn(Record):
    """One message after the opening: a response, or what the environment said.

    A sampled response has its token ids (with the end-of-turn token, if one was sampled) and the
    log-probability of each under the distribution it was sampled from; tokens that it was given to
    begin with (`Prompts.prefill`) have none. A teacher's turn has the policy's own token ids for
    its text and no log-probabilities. For an environment turn
    `tokens` is everything between two responses: the end of the turn, the message and the next
    generation prompt. Engines that know only text leave both lists empty and may say how many
    tokens they generated in `completion_tokens`.

    Only answers are graded: environment turns and critiques have no `grade`. `reward` is the number
    that training sees where it is not the grade's score.
    """

    author: Author
    text: str
    tokens: list[int] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    finish: Literal["stop", "length"] = "stop"
    grade: Grade | None = None
    reward: float | None = None
    advantage: float | None = None
    """What the log-probability of each of its tokens was multiplied with in training."""
    ref_logprobs: list[float] = Field(default_factory=list)
    """As `logprobs`, under the reference that training holds the policy near."""
    history: int = Field(default=0, ge=0)
    """Index of the first turn that was shown, after the opening, when this one was written; that
    of an environment turn is its response's."""
    source: str = ""
    """The model that wrote it, where several take part."""
    completion_tokens: int | None = None

    @model_validator(mode="after")
    def _one_logprob_per_token(self) -> Self:
        if len(self.logprobs) > len(self.tokens):
            raise ValueError(f"{len(self.logprobs)} logprobs for {len(self.tokens)} tokens")
        return self

    @property
    def given(self) -> int:
        """How many tokens a sampled response was given to begin with."""
        return len(self.tokens) - len(self.logprobs) if self.sampled else 0

    @property
    def generated(self) -> int:
        """Sampled tokens of a response, by the count of its engine if there is one."""
        counted = self.completion_tokens
        return len(self.tokens) - self.given if counted is None else counted

    @property
    def truncated(self) -> bool:
        """Whether the response hit its length limit."""
        return self.finish == "length"

    @property
    def has_text(self) -> bool:
        """Whether `text` is what was written: an imported file may have the verdict alone."""
        return self.grade is None or self.grade.status != "no_text"

    @property
    def sampled(self) -> bool:
        """Whether the policy sampled it, with log-probabilities to learn from."""
        return self.author == "policy" and bool(self.logprobs)


class Episode(Record):
    """All turns on one problem.

    `messages` is the conversation before the first response and `prompt_tokens` its tokens;
    `sample` numbers the episodes of one problem in one rollout (0-based); `policy` says which
    weights sampled it. `note` says in words why an episode was cut short, and `tags` hold what a
    method wants to remember of it.
    """

    problem: Problem
    messages: list[Message]
    prompt_tokens: list[int] = Field(default_factory=list)
    turns: list[Turn]
    protocol: str
    policy: str = ""
    sample: int = 0
    outcome: Outcome = "finished"
    note: str = ""
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def responses(self) -> list[Turn]:
        """What the policy and teachers wrote."""
        return [turn for turn in self.turns if turn.author != "environment"]

    @property
    def answers(self) -> list[Turn]:
        """The graded responses."""
        return [turn for turn in self.turns if turn.grade is not None]

    @property
    def grades(self) -> list[Grade]:
        """The grade of each answer."""
        return [turn.grade for turn in self.turns if turn.grade is not None]

    @property
    def correct(self) -> list[bool]:
        """Verdict by answer."""
        return [grade.correct for grade in self.grades]

    @property
    def scores(self) -> list[float]:
        """Score by answer."""
        return [grade.score for grade in self.grades]

    def failed(self, reason: str) -> "Episode":
        """The episode as one whose next response failed."""
        return self.model_copy(update={"outcome": "failed", "note": reason})

    def unanswered(self, reason: str, *, context_full: bool = False) -> "Episode":
        """The episode without a response to what was said last: truncated where the context is
        full, so that asking again does not help, else failed."""
        turns = self.turns
        if turns and turns[-1].author == "environment":
            turns = turns[:-1]
        outcome = "truncated" if context_full else "failed"
        return self.model_copy(update={"turns": turns, "outcome": outcome, "note": reason})

    def said_after(self, response: int) -> str | None:
        """What the environment said after response `response` (0-based); None if nothing."""
        places = [i for i, turn in enumerate(self.turns) if turn.author != "environment"]
        after = self.turns[places[response] + 1 : places[response] + 2]
        return after[0].text if after and after[0].author == "environment" else None

    def shown(self, turn: int) -> list[Message]:
        """The conversation before turn `turn` (an index into `turns`; at most one past the last).

        One past the last has the history of the last response.
        """
        first = self.turns[min(turn, len(self.turns) - 1)].history if self.turns else 0
        return shown(self.messages, self.turns[first:turn])

    def context(self, turn: int) -> list[int]:
        """The tokens before turn `turn` (an index into `turns`) in the sequence it was written
        in."""
        earlier = self.turns[self.turns[turn].history : turn]
        return [*self.prompt_tokens, *(token for one in earlier for token in one.tokens)]

    @property
    def tokens(self) -> list[int]:
        """The whole sequence as the model saw it.

        Raises:
            ValueError: some response was written without the earlier turns, so that the episode is
                several sequences.
        """
        if any(turn.history for turn in self.turns):
            raise ValueError("an episode whose responses see part of it is not one sequence")
        return [*self.prompt_tokens, *(token for turn in self.turns for token in turn.tokens)]

    @model_validator(mode="before")
    @classmethod
    def _from_first_format(cls, data: Any) -> Any:
        """Read episodes of the first file format, whose turns were attempts with their feedback."""
        turns = data.get("turns") if isinstance(data, Mapping) else None
        if not turns or not isinstance(turns[0], Mapping) or "attempt" not in turns[0]:
            return data
        return _converted(dict(data))


def shown(opening: Sequence[Message], turns: Sequence[Turn]) -> list[Message]:
    """A conversation as messages: the opening, then responses as the assistant's messages and
    environment turns as the user's."""
    return [
        *opening,
        *(
            Message(role="user" if turn.author == "environment" else "assistant", content=turn.text)
            for turn in turns
        ),
    ]


def same_problem_groups(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each problem, in order of first appearance (the G samples)."""
    groups: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        groups.setdefault(episode.problem.id, []).append(index)
    return list(groups.values())


def without_failed(episodes: Sequence[Episode]) -> tuple[list[Episode], dict[str, str]]:
    """The episodes of the problems without a failure, and why the other problems failed.

    A problem counts with all of its samples or not at all: the samples that did not fail are a
    biased sample of what the model would have written.
    """
    failed: dict[str, str] = {}
    for episode in episodes:
        undecided = (grade.reason for grade in episode.grades if grade.status == "undecided")
        why = episode.note if episode.outcome == "failed" else next(undecided, None)
        if why is not None:
            failed.setdefault(episode.problem.id, why)
    return [episode for episode in episodes if episode.problem.id not in failed], failed


def _converted(old: dict[str, Any]) -> dict[str, Any]:
    """An episode of the first file format in today's.

    There an attempt carried the tokens that were shown before it (with a `window` its whole prompt)
    and the feedback after it. Self-improvement had the model's critiques as feedback, and TriPosT
    the outcome of editing in the protocol's name; what asked for their turns was not written down,
    so that there are no environment turns between them. Nor was why an episode ended: its outcome
    is `finished`.
    """
    window = old.pop("window", None)
    protocol, *edited = str(old["protocol"]).split("/")
    if protocol == "tripost":
        old["tags"] = dict(zip(("tripost", "reason"), edited, strict=False))
    opening: list[int] = []
    turns: list[dict[str, Any]] = []
    starts: list[int] = []  # index of each attempt in `turns`
    for number, attempt in enumerate(map(dict, old["turns"])):
        said, before = attempt.pop("feedback", None), attempt.pop("prompt_tokens", [])
        starts.append(len(turns))
        history = 0
        if window is not None:
            keep = 2 - number % 2 if protocol == "tripost" else window - 1
            history = starts[max(0, number - keep)]
        if number == 0:
            opening = before
        elif turns[-1]["author"] == "environment":
            visible = [] if window is None else [opening, *(t["tokens"] for t in turns[history:])]
            known = [token for tokens in visible for token in tokens]
            turns[-1]["tokens"] = before[len(known) :]
        grade = attempt.pop("grade")
        author = "policy" if attempt.pop("on_policy", True) else "teacher"
        turns.append(
            {
                "author": author,
                "text": attempt.pop("attempt"),
                "tokens": attempt.pop("attempt_tokens", []),
                "grade": None if grade["decided_by"] == "feedback" else grade,
                "history": history,
                **attempt,
            }
        )
        if said is not None:
            critique = protocol.startswith("self-improve")
            author = "policy" if critique else "environment"
            since = starts[-1] if critique else history
            turns.append({"author": author, "text": said, "tokens": [], "history": since})
    return {**old, "prompt_tokens": opening, "turns": turns}
