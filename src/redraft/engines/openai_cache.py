"""Answers of an endpoint on disk, so that no answer is paid for twice.

Each process of a run has a file of its own in the cache's folder, `responses.jsonl` or
`responses-N.jsonl`, which is only ever appended to: one line per request, written as soon as its
outcome is known, with what it took (also where there was no answer, so that the lines add up to the
usage). A line names its request by a hash and holds nothing else of it. Lines that cannot be read
(cut short by a kill, say) are skipped, and their requests sent again. Answers are read from the
files of all processes, so that another number of processes finds them too.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from redraft.engines.base import Response
from redraft.engines.endpoints import Usage
from redraft.errors import UserError


class Row(BaseModel):
    """The outcome of one request."""

    key: str
    answer: Response | None = None
    took: Usage = Usage()


class ResponseCache:
    """The answers kept in a folder, which is created with the first of them.

    Args:
        folder: of the files of all processes.
        process: number of the one that writes, from 0.

    Attributes:
        answers: the answer to each request, by its key, from all files.
        took: the sum of what the requests in this process's file took, without cost.
        usage_path: where that sum is written.

    Raises:
        UserError: a file cannot be read.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        own = f"-{process}" if process else ""
        self._path = folder / f"responses{own}.jsonl"
        self.usage_path = folder / f"usage{own}.json"
        self.answers: dict[str, Response] = {}
        self.took = Usage()
        content = _content(self._path)
        self._unfinished = not content.endswith(b"\n") and content != b""
        for row in _rows(content):
            self._count(row)
        for path in sorted({*folder.glob("responses*.jsonl")} - {self._path}):
            for row in _rows(_content(path)):
                if row.answer is not None:
                    self.answers.setdefault(row.key, row.answer)

    def add(self, row: Row) -> None:
        """Append a line; it is in the file when this returns.

        Raises:
            UserError: the file cannot be written.
        """
        line = row.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"\n" + line if self._unfinished else line)
        except OSError as error:
            raise UserError(
                f"{self._path}: an answer cannot be written ({error.strerror}); make room, or give "
                "a folder that can be written to"
            ) from None
        self._unfinished = False
        self._count(row)

    def _count(self, row: Row) -> None:
        self.took.add(row.took)
        if row.answer is not None:
            self.answers[row.key] = row.answer


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _rows(content: bytes) -> Iterator[Row]:
    for line in content.split(b"\n"):
        with suppress(ValidationError):
            yield Row.model_validate_json(line)
