"""Typed configuration: a class of settings, filled from defaults, a preset, a file and flags.

A `Settings` class is the one place where a field is declared: its docstring is the flag's help and
the comment over the field in a run's `config.yaml`, its constraints and validators refuse a
configuration that makes no sense, when it is read and not an hour later. A field may itself be a
group of settings; its fields are then named with a dot, `learner.learning_rate`.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from redraft.errors import UserError, holds_key

_LONGEST_YAML = 100_000
"""Characters of a YAML file."""

_MOST_YAML = 10_000
"""Values in a YAML file; the parser takes about a second for twice as many."""

_DEEPEST_YAML = 32
"""Levels of nesting in a YAML file."""

_LONGEST_SHOWN = 200
"""Characters of a wrong value in a message."""

_YAML_TYPES = ("str", "int", "float", "bool", "null", "seq", "map")


class Settings(BaseModel):
    """Base of all configurations: immutable, every field documented, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of field values, such as the settings a paper publishes."""

    @model_validator(mode="before")
    @classmethod
    def _hold_no_key(cls, values: Any) -> Any:
        """Refuse keys, since settings are written to the run's folder; as a UserError, because a
        ValueError is reported with the value."""
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if holds_key(value) and not _hides(cls, str(name)):  # which refuses its own
                raise UserError(
                    f"{flag(str(name))}: has a key or a password in it (it is not shown, and "
                    "nothing secret may be written down); export it in the environment"
                )
        return values


S = TypeVar("S", bound=Settings)


def resolve(
    cls: type[S],
    *,
    file: Path | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> S:
    """Settings from, in falling precedence: `overrides` (flags), `file`, `preset`, defaults.

    `presets` are those that `preset` is one of; by default the class's own.

    Raises:
        UserError: a file that cannot be read, an unknown preset or field, a value that is refused;
            the line names the value, the place it came from and, for a wrong name, close matches.
    """
    known, presets = fields(cls), cls.presets if presets is None else presets
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        if preset not in presets:
            raise UserError(f"--preset: {_unknown('preset', preset, presets)}")
        layers.append((f"preset {preset}", presets[preset]))
    if file is not None:
        layers.append((str(file), read_yaml(file)))
    layers.append(("", overrides or {}))

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in flat(cls, layer):
            if name not in known:
                where = f"{origin}: " if origin else ""
                shown = name
                if _hides(cls, group := name.partition(".")[0]):
                    shown = f"{group}. (the rest is not shown)"
                raise UserError(f"{where}{_unknown('field', shown, known)}")
            values[name] = value
            origins[name] = f"{origin}: {name}" if origin else flag(name)
    try:
        return cls.model_validate(_nested(values))
    except ValidationError as error:
        raise UserError(_refusal(cls, error.errors()[0], origins)) from None


def fields(cls: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every field by name, those of a group of settings with a dot."""
    found: dict[str, FieldInfo] = {}
    for name, field in cls.model_fields.items():
        group = _group(field)
        found |= fields(group, f"{prefix}{name}.") if group else {prefix + name: field}
    return found


def flag(name: str) -> str:
    """The command line flag of a field: `max_tokens` is `--max-tokens`."""
    return "--" + name.replace("_", "-")


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds: texts, numbers, truth values, nulls, lists and mappings.
    What looks like a date is a text.

    Raises:
        UserError: the file cannot be read, is not YAML, has aliases or other types, is too long or
            too deep, or holds something else than a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if len(text) > _LONGEST_YAML:
            raise UserError(f"{file}: longer than {_LONGEST_YAML:,} characters")
        content = yaml.load(text, _PlainYaml)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; expected `field: value` lines") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        problem = re.sub(r"'.{2,}'", "(not shown)", problem)  # what the file says may be a key
        raise UserError(f"{where}: not valid YAML ({problem})") from None
    except (ValueError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        # What the library's constructors raise at `!!int x`, `!!bool z` and the like; the text of
        # the error has the value, which may be a key.
        raise UserError(
            f"{file}: not valid YAML (a value is not what its tag says: {type(error).__name__})"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UserError(f"{file}: expected `field: value` lines, found a {found}")
    return {str(key): value for key, value in content.items()}


class _PlainYaml(yaml.SafeLoader):
    """YAML without aliases, which can stand for more than fits any memory, and within limits."""

    depth = 0
    nodes = 0
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in kinds if tag.rpartition(":")[2] in _YAML_TYPES]
        for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _YAML_TYPES
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; see PyYAML's `Composer`."""
        self.nodes += 1
        event, problem = self.peek_event(), ""
        if isinstance(event, yaml.AliasEvent):
            problem = "an alias (*name)"
        elif self.depth == _DEEPEST_YAML:
            problem = "nested too deeply"
        elif self.nodes > _MOST_YAML:
            problem = f"more than {_MOST_YAML:,} values"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode):
            if "\0" in node.value:  # which no path can have
                problem = "a text has a null character"
            try:
                node.value.encode()
            except UnicodeEncodeError:
                problem = "a text is no valid Unicode"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return node


def to_yaml(settings: BaseModel, title: str) -> str:
    """The settings as YAML that `--config` reads back, each field's docstring as a comment."""
    values = settings.model_dump(mode="json")
    return "\n".join([f"# {title}", *_yaml_lines(type(settings), values, "")]) + "\n"


def _yaml_lines(cls: type[BaseModel], values: Mapping[str, Any], indent: str) -> Iterable[str]:
    for name, field in cls.model_fields.items():
        yield ""
        text = " ".join((field.description or "").split())
        comment = indent + "# "
        yield from textwrap.wrap(text, 98, initial_indent=comment, subsequent_indent=comment)
        if group := _group(field):
            yield f"{indent}{name}:"
            yield from _yaml_lines(group, values[name], indent + "  ")
        else:
            line = yaml.safe_dump({name: values[name]}, sort_keys=False, allow_unicode=True)
            yield textwrap.indent(line.rstrip(), indent)


def _hides(cls: type[BaseModel], name: str) -> bool:
    """Whether what is given for a field must not be shown."""
    group = _group(cls.model_fields[name]) if name in cls.model_fields else None
    return bool(group and group.model_config.get("hide_input_in_errors"))


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that is a group of settings."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def flat(
    cls: type[BaseModel], values: Mapping[str, Any], prefix: str = ""
) -> Iterable[tuple[str, Any]]:
    """Values by dotted name; takes groups as mappings, as settings, or already dotted."""
    for name, value in values.items():
        field = cls.model_fields.get(name)
        group = _group(field) if field else None
        if group and isinstance(value, BaseModel):
            value = value.model_dump()
        if group and isinstance(value, Mapping):
            yield from flat(group, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = result
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return result


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    name = name[:_LONGEST_SHOWN]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    if close:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(close)}?"
    return f"unknown {kind} {name!r}; there is: {', '.join(known) or 'none'}"


def _refusal(cls: type[Settings], error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line for a value that the settings refuse, with the place it came from. A value of a
    group that hides its input may be a key and is not shown."""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    location = [str(part) for part in error["loc"]]
    if error["type"] == "missing":
        name = ".".join(location)
        return f"{flag(name)} is required; give the flag, or `{name}:` in a --config file"
    while location and ".".join(location) not in origins:  # an item of a list, say
        location.pop()
    if not location:  # a combination that makes no sense; the validator names the fields
        return message
    origin = origins[".".join(location)]
    hides = _hides(cls, location[0])
    shown = "(the value is not shown)" if hides else _shown(error["input"])
    return f"{origin} {shown}: {message[:1].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "(a number too long to be shown)"
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
