"""Files: JSON Lines that survive crashes, atomic writes, checksums.

JSON Lines files are appended to during a run, so the last line may be cut short by a crash;
`read_jsonl` reports and drops such a line, and `append_jsonl` removes it first.
"""

import codecs
import errno
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from redraft.errors import UserError

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


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged, not a JSON object; put it back from a copy")
    return content


CHECKSUMS = "checksums.json"
"""By name in its folder the SHA-256 that a file may have: of its content, and of the one before."""


def write_checked(path: Path, text: str) -> None:
    """`write_text`, so that `read_checked` sees whether the file was changed afterwards.

    The checksum is there first, beside that of the old content: either describes the file after a
    crash in between.
    """
    place = path.with_name(CHECKSUMS)
    known = read_json(place) if place.exists() else {}
    old = [_digest(path)] if path.exists() else []
    write_json(place, {**known, path.name: [hashlib.sha256(text.encode()).hexdigest(), *old]})
    write_text(path, text)


def read_checked(path: Path, record: type[R]) -> list[R]:
    """`read_jsonl` of a file of `write_checked`.

    Raises:
        UserError: the file is not as it was written; else as `read_jsonl`.
    """
    place = path.with_name(CHECKSUMS)
    known = read_json(place).get(path.name) if place.exists() else None
    if known is not None and not _is_one_of(path, known):
        raise UserError(
            f"{path}: damaged, not as the run wrote it; put it back from a copy, or delete {place} "
            "to go on with what the file holds"
        )
    return read_jsonl(path, record)


def seal(folder: Path) -> None:
    """Write the checksums of all files in a folder, for `damage`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): [_digest(path)] for path in files}
    sums.pop(CHECKSUMS, None)
    write_json(folder / CHECKSUMS, sums)


def damage(folder: Path) -> str | None:
    """The first file of a sealed folder that is not as it was; None: all are, or it has no seal."""
    if not (folder / CHECKSUMS).exists():
        return None
    try:
        for name, known in read_json(folder / CHECKSUMS).items():
            if not _is_one_of(folder / name, known):
                return f"{name} is not as it was written"
    except (OSError, ValueError, UserError) as error:  # also a name that no file can have
        return str(error)
    return None


def _is_one_of(path: Path, known: object) -> bool:
    return isinstance(known, list) and _digest(path) in known


def _digest(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """What JSON can hold: numbers and arrays of other libraries as Python's, NaN as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return plain(value.tolist())
    return value
