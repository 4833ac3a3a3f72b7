"""Problems, grades, turns and episodes: the one artefact that rollout writes and all else reads.

An `Episode` is everything that happened on one problem: what the policy was shown, every attempt it
made, the grade of each attempt and what the environment said afterwards. Attempts keep their
sampled token ids and log-probabilities, so an episode can be trained on without ever being
tokenised again.

On disk an episode is one line of a JSON Lines file. Files are appended to while a run goes on, so
the last line may be cut short by a crash; `read_jsonl` reports and drops such a line.
"""

import codecs
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redraft.errors import UserError

Role = Literal["system", "user", "assistant"]


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error rather than a surprise."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Record):
    """One message of a dialogue, as chat templates take them."""

    role: Role
    content: str


class Problem(Record):
    """One question with its gold answer.

    `question` is the bare question; how it is posed to a model is the protocol's business. `gold`
    is what the task's grader compares an answer to. `metadata` holds whatever the task wants to
    keep by the problem (difficulty cell, subject, unit tests, ...), JSON values only.
    """

    id: str
    task: str
    question: str
    gold: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class Grade(Record):
    """The verdict on one attempt.

    `answer` is the extracted answer (None: none was found) and `decided_by` the layer that decided:
    `string`, `number` or `math-verify` for answers, `none` where there was no answer to compare,
    `timeout` where grading was cut off (then `correct` is False and `timed_out` True), `truncated`
    for an attempt that hit its length limit, or a name of the task's own grader.
    """

    correct: bool
    answer: str | None = None
    decided_by: str
    reason: str = ""
    timed_out: bool = False


class Turn(Record):
    """One attempt, its grade, and what the environment said after it.

    `prompt_tokens` are the tokens that were *added* to the sequence before this attempt: the whole
    first prompt in the first turn, the bridge to the next attempt in later ones (in an episode with
    a window: the whole prompt of every turn). `attempt_tokens` are the sampled ids (with the
    end-of-turn token, if one was sampled) and `logprobs` the log-probability of each under the
    distribution it was sampled from; an attempt that the policy did not make may have none.
    Episodes of engines that do not return token ids (HTTP endpoints) leave the three lists empty
    and have the endpoint's own count in `completion_tokens`.
    """

    attempt: str
    finish: Literal["stop", "length"]
    grade: Grade
    feedback: str | None = None
    prompt_tokens: list[int] = Field(default_factory=list)
    attempt_tokens: list[int] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    on_policy: bool = True
    """False for an attempt that did not come from the policy (an offline first attempt, say):
    no method may reinforce it."""
    completion_tokens: int | None = None
    source: str = ""
    """The model that made the attempt, where several take part."""

    @model_validator(mode="after")
    def _one_logprob_per_token(self) -> Self:
        unknown = not self.on_policy and not self.logprobs
        if not unknown and len(self.logprobs) != len(self.attempt_tokens):
            raise ValueError(
                f"{len(self.logprobs)} logprobs for {len(self.attempt_tokens)} attempt_tokens"
            )
        return self

    @property
    def generated(self) -> int:
        """Tokens of the attempt, by the count of whoever made it if there is one."""
        counted = self.completion_tokens
        return len(self.attempt_tokens) if counted is None else counted

    @property
    def truncated(self) -> bool:
        """Whether the attempt ran into its length limit."""
        return self.finish == "length"


class Episode(Record):
    """All turns on one problem.

    `messages` is the dialogue shown before the first attempt; `sample` numbers the G episodes of
    one problem in one batch (0-based); `policy` says which weights sampled it. With a `window` the
    policy saw the opening and the latest `window - 1` turns only.
    """

    problem: Problem
    messages: list[Message]
    turns: list[Turn] = Field(min_length=1)
    protocol: str
    policy: str = ""
    sample: int = 0
    window: int | None = Field(default=None, ge=1)

    @property
    def correct(self) -> list[bool]:
        """Verdict by turn."""
        return [turn.grade.correct for turn in self.turns]

    def seen(self, turn: int) -> list[Message]:
        """The dialogue that attempt `turn` (0-based; at most one past the last) answers."""
        return seen(self.messages, self.turns[:turn], self.window)

    @property
    def tokens(self) -> list[int]:
        """The whole sequence as the model saw it: prompts and attempts in order.

        Raises:
            ValueError: the episode has a window, and so one sequence a turn.
        """
        if self.window is not None and len(self.turns) > 1:
            raise ValueError("an episode with a window is not one sequence; see its turns")
        return [
            token for turn in self.turns for token in (*turn.prompt_tokens, *turn.attempt_tokens)
        ]


def seen(opening: Sequence[Message], turns: Sequence[Turn], window: int | None) -> list[Message]:
    """The dialogue that comes before the attempt after `turns`: the opening, and all of them or,
    with a window, the latest `window - 1`."""
    first = 0 if window is None else max(0, len(turns) - window + 1)
    messages = list(opening)
    for turn in turns[first:]:
        messages.append(Message(role="assistant", content=turn.attempt))
        messages.append(Message(role="user", content=turn.feedback or ""))
    return messages


R = TypeVar("R", bound=BaseModel)


def append_jsonl(path: Path, records: Iterable[BaseModel]) -> None:
    """Append records to a JSON Lines file, creating it (and its folder) if need be.

    All lines go out in one write and are flushed, so that a killed run loses at most its last line.
    Such an unfinished line is cut off first, with a warning; a whole record that lacks only its
    newline gets it.

    Raises:
        UserError: the file ends in a line that is not a record, so it is not JSON Lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_jsonl(records)
    _mend_end(path)
    with path.open("ab") as file:
        file.write(text.encode())


def to_jsonl(records: Iterable[BaseModel]) -> str:
    """Records as JSON Lines."""
    return "".join(record.model_dump_json() + "\n" for record in records)


def _mend_end(path: Path) -> None:
    """Make a file end where the next record may begin."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        before, newline, last = _unmarked(file.read()).rpartition(b"\n")
        number = before.count(b"\n") + len(newline) + 1
        if _is_json(last):
            file.write(b"\n")
        elif last.strip() and not _starts_a_record(last):
            raise UserError(
                f"{path}:{number}: not a JSON object; nothing was appended to this file"
            )
        else:
            file.truncate(end - len(last))
            _warn_of_unfinished(str(path), number, last)


def read_jsonl(path: Path, record: type[R]) -> list[R]:
    """Read a JSON Lines file of records; an unfinished last line is reported and dropped.

    Raises:
        UserError: a line that is not JSON or lacks a field; names the file and the line.
    """
    return [_parse(path, number, line, record) for number, line in complete_lines(path)]


def complete_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each non-empty line of a JSON Lines file, as `numbered_lines` has them.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            yield from numbered_lines(file, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def numbered_lines(lines: Iterable[bytes], source: str) -> Iterator[tuple[int, str]]:
    """Number and text of each non-empty line of JSON Lines, from a file's lines with their ends.

    A byte order mark, which some editors put before the first line, is no part of it.

    The last line is left out, with a warning, when it is unfinished: it begins like a JSON object,
    has no newline at its end and is not valid JSON (it may stop within a character).

    Args:
        lines: as a binary file gives them, so that only a newline ends one.
        source: the file's name, for messages.

    Raises:
        UserError: a line is not UTF-8 text.
    """
    for number, line in enumerate(lines, start=1):
        line = _unmarked(line) if number == 1 else line
        if not line.strip():
            continue
        if not line.endswith(b"\n") and _starts_a_record(line) and not _is_json(line):
            _warn_of_unfinished(source, number, line)
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{source}:{number}: not UTF-8 text (byte {error.start} of the line); "
                "expected JSON Lines"
            ) from None
        yield number, text.removesuffix("\n")


def _unmarked(content: bytes) -> bytes:
    return content.removeprefix(codecs.BOM_UTF8)


def _starts_a_record(line: bytes) -> bool:
    return line.lstrip().startswith(b"{")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _warn_of_unfinished(source: str, number: int, line: bytes) -> None:
    warnings.warn(
        f"{source}:{number}: unfinished last line dropped ({len(line)} bytes)", stacklevel=3
    )


def _parse(path: Path, number: int, line: str, record: type[R]) -> R:
    try:
        return record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{path}:{number}: field {field!r}" if field else f"{path}:{number}"
        raise UserError(f"{where}: {first['msg']}") from None


def same_problem_groups(episodes: Sequence[Episode]) -> list[list[int]]:
    """Indices of the episodes of each problem, in order of first appearance (the G samples)."""
    groups: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        groups.setdefault(episode.problem.id, []).append(index)
    return list(groups.values())
