"""Commands made from settings: every field is a flag, its docstring is the flag's help."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from redraft.cli.terminal import OUTPUT, hush_libraries
from redraft.config import Settings, fields, flag, resolve


def command(
    settings: type[Settings],
    run: Callable[..., int | None],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[..., int | None]:
    """A command that resolves `settings` from its flags, `--config` and `--preset`, and runs.

    Flags carry no defaults of their own: what is not given on the command line is left to the
    file, the preset and the settings' defaults, in this order. Keyword-only parameters of `run`,
    such as `json`, are flags beside the settings; positional-only ones after the settings are
    arguments of the command. What `run` returns is the exit code.
    """
    named = settings.presets if presets is None else presets
    names = {_identifier(name): name for name in fields(settings)}
    _, *others = inspect.signature(run).parameters.values()
    ahead = [one for one in others if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    beside = [one for one in others if one.kind is inspect.Parameter.KEYWORD_ONLY]

    def execute(*arguments: Any, **given: Any) -> int | None:
        hush_libraries()
        file, preset = given.pop("config", None), given.pop("preset", None)
        options = {p.name: given.pop(p.name) for p in beside if p.name in given}
        overrides = {names[identifier]: value for identifier, value in given.items()}
        resolved = resolve(settings, file=file, preset=preset, overrides=overrides, presets=named)
        return run(resolved, *arguments, **options)

    described = [
        _keyword(_identifier(name), field.annotation, _flag(name, field, group))
        for group, members in _groups(settings)
        for name, field in members.items()
    ]
    signature = inspect.Signature([*ahead, *described, *_sources(named), *beside])
    execute.__signature__ = signature  # type: ignore[attr-defined]
    return execute


def _groups(settings: type[Settings]) -> list[tuple[Group, dict[str, FieldInfo]]]:
    """The fields by the class that declares them, general settings first, under its first words.

    The class's main line of inheritance comes before what it mixes in, and groups of settings last.
    """
    line: list[type] = [settings]
    while issubclass(line[0].__bases__[0], Settings):
        line.insert(0, line[0].__bases__[0])
    mixed_in = [cls for cls in reversed(settings.__mro__) if cls not in line]
    found: dict[type, dict[str, FieldInfo]] = {cls: {} for cls in (*line, *mixed_in)}
    for name, field in fields(settings).items():
        outer, _, inner = name.rpartition(".")
        cls = settings.model_fields[outer].annotation if outer else settings
        assert cls is not None
        owner = next(
            c for c in reversed(cls.__mro__) if inner in vars(c).get("__annotations__", {})
        )
        found.setdefault(owner, {})[name] = field
    return [
        (Group(_title(cls), sort_key=place), members)
        for place, (cls, members) in enumerate(found.items())
        if members
    ]


def _title(cls: type) -> str:
    """The first words of a class's docstring, up to a colon or the end of the sentence."""
    text = " ".join((cls.__doc__ or cls.__name__).split())
    return text.split(". ")[0].split(": ")[0].split("; ")[0].rstrip(".")


def _sources(presets: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The flags that name where settings come from: `--config`, and `--preset` if there are any."""
    text = "YAML file with any of the fields above; flags override it."
    sources = [_keyword("config", Path, Parameter(help=text, group=OUTPUT))]
    if presets:
        text = "Published settings to start from; file and flags override them."
        choice: Any = Literal[tuple(presets)]
        sources.append(_keyword("preset", choice, Parameter(help=text, group=OUTPUT)))
    return sources


def _flag(name: str, field: FieldInfo, group: Group) -> Parameter:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = False if default is None else _shown(default)
    text = "Required. " * field.is_required() + " ".join((field.description or "").split())
    return Parameter(name=flag(name), help=text, show_default=shown, group=group)


def _keyword(name: str, annotation: Any, parameter: Parameter) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation | None, parameter],
    )


def _identifier(name: str) -> str:
    return name.replace(".", "__")


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
