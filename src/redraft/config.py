"""Typed configuration: a class of settings, filled from defaults, a preset, a file and flags.

A `Settings` class is the one place where a field is declared: its docstring is the flag's help and
the comment over the field in a run's `config.yaml`, its constraints and validators refuse a
configuration that makes no sense, when it is read and not an hour later.
"""

import difflib
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from redraft.errors import UserError


class Settings(BaseModel):
    """Base of all configurations: immutable, every field documented, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of field values, such as the settings a paper publishes."""


S = TypeVar("S", bound=Settings)


def resolve(
    cls: type[S],
    *,
    file: Path | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> S:
    """Settings from, in falling precedence: `overrides` (flags), `file`, `preset`, defaults.

    Raises:
        UserError: a file that cannot be read, an unknown preset or field, a value that is refused;
            the line names the value, the place it came from and, for a wrong name, close matches.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        if preset not in cls.presets:
            raise UserError(f"--preset {preset}: {_unknown('preset', preset, cls.presets)}")
        layers.append((f"preset {preset}", cls.presets[preset]))
    if file is not None:
        layers.append((str(file), read_yaml(file)))
    layers.append(("", overrides or {}))

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            if key not in cls.model_fields:
                where = f"{origin}: " if origin else ""
                raise UserError(f"{where}{_unknown('field', key, cls.model_fields)}")
            values[key] = value
            origins[key] = f"{origin}: {key}" if origin else flag(key)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise UserError(_refusal(error.errors()[0], origins)) from None


def flag(field: str) -> str:
    """The command line flag of a field: `max_tokens` is `--max-tokens`."""
    return "--" + field.replace("_", "-")


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{file}: not UTF-8 text; expected YAML with `field: value` lines"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{where}: not valid YAML ({problem})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected `field: value` lines, found a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def to_yaml(settings: BaseModel, title: str) -> str:
    """The settings as YAML that `--config` reads back, each field's docstring as a comment."""
    lines = [f"# {title}"]
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        lines.append("")
        text = " ".join((field.description or "").split())
        lines += textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
        lines.append(yaml.safe_dump({name: values[name]}, sort_keys=False).rstrip())
    return "\n".join(lines) + "\n"


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(close)}?"
    listing = ", ".join(known) if known else "none"
    return f"unknown {kind} {name!r}; there is: {listing}"


def _refusal(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line for a value that the settings refuse, with the place it came from."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a combination that makes no sense; the validator names the fields
        return message
    field = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{flag(field)} is required; give the flag, or `{field}:` in a --config file"
    message = message[:1].lower() + message[1:]
    return f"{origins.get(field, flag(field))} {error['input']!r}: {message}"
