"""Answers of an endpoint on disk, so that a restart asks nothing twice.

One JSON object a line, `responses.jsonl` in the cache's folder, only ever appended to. A line names
its request by a hash and the number of the sample, and holds nothing else of the request: neither
the dialogue nor the key. A line that a kill cut short is passed over and its request sent again.
"""

from pathlib import Path

from pydantic import NonNegativeInt, ValidationError

from redraft.engines.http_answer import Answer
from redraft.errors import UserError


class _Row(Answer):
    request: str
    sample: NonNegativeInt


class ResponseCache:
    """The answers kept in a folder, which is made with the first of them.

    Raises:
        UserError: the folder's file cannot be read, or an answer cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "responses.jsonl"
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
                row = _Row.model_validate_json(line)
            except ValidationError:
                continue
            self._answers[row.request, row.sample] = Answer(**row.model_dump(include=_ANSWER))

    def get(self, request: str, sample: int) -> Answer | None:
        """The answer to a request's sample, if it was had before."""
        return self._answers.get((request, sample))

    def add(self, request: str, sample: int, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        row = _Row(request=request, sample=sample, **answer.model_dump())
        line = row.model_dump_json().encode() + b"\n"
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
        self._answers[request, sample] = answer


_ANSWER = set(Answer.model_fields)
