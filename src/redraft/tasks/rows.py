"""Reading rows of a dataset: a local file or folder, or a dataset of the Hugging Face hub."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.errors import UserError
from redraft.storage import complete_lines

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Row:
    """The fields of one row and where it stands, as `file:line` or `dataset:index`."""

    where: str
    fields: Mapping[str, Any]

    def text(self, *names: str, null: str | None = None, flag: str | None = None) -> str:
        """The first of the named fields that the row has, as text; `null`, if given, where all
        that it has of them are null. `flag` is what the user may name another field with.

        Raises:
            UserError: it has none of them, or the value is not text or a number.
        """
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, str):
                return value
            if isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)
            if value is not None:
                kind = type(value).__name__
                raise UserError(f"{self.where}: field {name!r} is a {kind}; expected text")
        if null is not None and any(name in self.fields for name in names):
            return null
        wanted = " or ".join(repr(name) for name in names)
        present = ", ".join(list(self.fields)[:8]) or "none"
        remedy = f"; name the one that is meant with {flag}" if flag else ""
        raise UserError(f"{self.where}: the row lacks field {wanted} (it has: {present}){remedy}")


@dataclass(frozen=True)
class Hub:
    """A dataset of the Hugging Face hub: its id, configuration, and the name of each split."""

    path: str
    config: str | None
    split: str


def hub_rows(source: Hub) -> list[Row]:
    """All rows of one split, downloaded or from the local cache.

    Raises:
        UserError: it is neither on the hub nor in the cache, or there is no network.
    """
    import datasets  # imported here because it is slow and a local file does not need it
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    reached = _hub_answers(source.path)
    try:
        if not reached:  # `datasets` would ask again for half a minute
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        data = datasets.load_dataset(source.path, source.config, split=source.split)
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        if not reached:
            why = "which cannot be reached, and it is not in the cache"
        raise UserError(
            f"dataset {source.path!r} (split {source.split!r}) cannot be loaded from the Hugging "
            f"Face hub ({why}); give a local copy with --data PATH"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
    return [Row(f"{source.path}:{index}", dict(fields)) for index, fields in enumerate(data)]


def _hub_answers(dataset: str) -> bool:
    """Whether the hub is there, whatever it says; one request with a short limit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(dataset, timeout=10)
    except HfHubHTTPError:
        return True
    except Exception:  # whatever the HTTP library in use calls an unreachable server
        return False
    return True


def local_rows(path: Path, split: str) -> list[Row]:
    """All rows of a file, or of a split's files in a folder.

    In a folder the split's files are `{split}/**` or `{split}*` (`test.jsonl`,
    `test-00000-of-00001.parquet`); a folder with a single data file serves that for every split,
    as a file does.

    Raises:
        UserError: nothing is there, or a file is not what its name says.
    """
    return [row for file in _files(path, split) for row in _file_rows(file)]


def has_split(path: Path, split: str) -> bool:
    """Whether a folder has files of its own for a split; a file has none."""
    return bool(_of_split(path, _data_files(path), split))


def parse_lines(
    lines: Iterable[tuple[int, str]], source: str, *, surrogates: bool = False
) -> Iterator[Row]:
    """The row on each numbered line of JSON Lines. With `surrogates` its texts may be no valid
    Unicode, which cannot be written as UTF-8.

    Raises:
        UserError: a line is not a JSON object, or not valid Unicode; names the source and the line.
    """
    for number, line in lines:
        where = f"{source}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = str(error).split(":")[0]
            raise UserError(f"{where}: not JSON ({why}); expected one object per line") from None
        yield Row(where, _object(fields, where, surrogates))


def _files(path: Path, split: str) -> list[Path]:
    if not os.path.exists(path):  # which a name that is too long for a path does not
        raise UserError(f"data {str(path)!r} does not exist; --data takes a file or a folder")
    if path.is_file():
        return [path]
    every = _data_files(path)
    if of_split := _of_split(path, every, split):
        return of_split
    if len(every) == 1:
        return every
    found = ", ".join(str(file.relative_to(path)) for file in every[:5]) or "no data files"
    raise UserError(
        f"folder {str(path)!r} has no {split!r} split (found: {found}); expected {split}.jsonl, "
        ".json or .parquet"
    )


def _data_files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return sorted(found)


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    return [file for file in files if file.relative_to(folder).parts[0].startswith(split)]


def _file_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".json":
        return _json_rows(path)
    return parse_lines(complete_lines(path), str(path))


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of objects, or one object (the layout of the original MATH: a file per problem)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({str(error)[:100]})") from None
    items = content if isinstance(content, list) else [content]
    for index, fields in enumerate(items):
        where = f"{path}:{index}" if isinstance(content, list) else str(path)
        yield Row(where, _object(fields, where))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # type: ignore[import-untyped]  # comes with datasets; slow to import

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a parquet file ({str(error)[:100]})") from None
    for index, fields in enumerate(rows):
        yield Row(f"{path}:{index}", fields)


def _object(fields: Any, where: str, surrogates: bool = False) -> Mapping[str, Any]:
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise UserError(f"{where}: the row is a {kind}; expected an object with named fields")
    try:
        if not surrogates:
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: a text is no valid Unicode (half of a surrogate pair, like \\ud800)"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: not JSON (nested too deeply)") from None
    return fields
