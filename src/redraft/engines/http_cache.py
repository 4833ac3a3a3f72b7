"""Answers of an endpoint on disk, so that a restart asks nothing twice.

One JSON object a line, `responses.jsonl` in the cache's folder, only ever appended to. A line names
its request by a hash and the number of the sample, and holds nothing else of the request: neither
the dialogue nor the key. It tells what the request took, also where there was no answer, so that
the lines add up to the usage. A line that a kill cut short is passed over and its request sent
again.
"""

from pathlib import Path

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from redraft.engines.http_answer import Answer
from redraft.engines.http_settings import Usage
from redraft.errors import UserError


class _Row(Answer):
    request: str
    sample: NonNegativeInt
    requests: NonNegativeInt = 1


class _Failure(BaseModel):
    request: str
    sample: NonNegativeInt
    took: Usage


_ROW: TypeAdapter[_Row | _Failure] = TypeAdapter(_Row | _Failure)


class ResponseCache:
    """The answers kept in a folder, which is made with the first of them.

    Attributes:
        took: what all requests took that the folder tells of; without costs.

    Raises:
        UserError: the folder's file cannot be read, or an answer cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "responses.jsonl"
        self.took = Usage()
        self._answers: dict[tuple[str, int], Answer] = {}
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        self._ends_within_a_line = bool(content) and not content.endswith(b"\n")
        for line in content.split(b"\n"):
            try:
                self._count(_ROW.validate_json(line))
            except ValidationError:
                continue

    def get(self, request: str, sample: int) -> Answer | None:
        """The answer to a request's sample, if it was had before."""
        return self._answers.get((request, sample))

    def add(self, request: str, sample: int, answer: Answer, took: Usage) -> None:
        """Keep an answer; it is on disk when this returns."""
        requests = took.requests
        self._write(_Row(request=request, sample=sample, requests=requests, **answer.model_dump()))

    def add_failure(self, request: str, sample: int, took: Usage) -> None:
        """Keep what a request took that got no answer."""
        self._write(_Failure(request=request, sample=sample, took=took))

    def _write(self, row: _Row | _Failure) -> None:
        line = row.model_dump_json(exclude_defaults=True).encode() + b"\n"
        if self._ends_within_a_line:
            line = b"\n" + line
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise UserError(
                f"{self.path}: an answer cannot be written ({error.strerror}); make room, or give "
                "a folder that can be written to"
            ) from None
        self._ends_within_a_line = False
        self._count(row)

    def _count(self, row: _Row | _Failure) -> None:
        if isinstance(row, _Failure):
            self.took.add(row.took)
            return
        self._answers[row.request, row.sample] = Answer(**row.model_dump(include=_ANSWER))
        took = Usage(requests=row.requests, retries=max(0, row.requests - 1), answered=1)
        took.meter(row.prompt_tokens, row.completion_tokens)
        self.took.add(took)


_ANSWER = set(Answer.model_fields)
