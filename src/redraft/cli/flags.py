"""Commands made from settings: every field is a flag, its docstring is the flag's help."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic.fields import FieldInfo

from redraft.cli.terminal import hush_libraries
from redraft.config import Settings, fields, flag, resolve


def command(settings: type[Settings], run: Callable[..., int | None]) -> Callable[..., int | None]:
    """A command that resolves `settings` from its flags, `--config` and `--preset`, and runs.

    Flags carry no defaults of their own: what is not given on the command line is left to the
    file, the preset and the settings' defaults, in this order. Keyword-only parameters of `run`,
    such as `json`, are flags beside the settings; positional-only ones after the settings are
    arguments of the command. What `run` returns is the exit code.
    """
    names = {_identifier(name): name for name in fields(settings)}
    _, *others = inspect.signature(run).parameters.values()
    ahead = [one for one in others if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    beside = [one for one in others if one.kind is inspect.Parameter.KEYWORD_ONLY]

    def execute(*arguments: Any, **given: Any) -> int | None:
        hush_libraries()
        file, preset = given.pop("config", None), given.pop("preset", None)
        options = {p.name: given.pop(p.name) for p in beside if p.name in given}
        overrides = {names[identifier]: value for identifier, value in given.items()}
        resolved = resolve(settings, file=file, preset=preset, overrides=overrides)
        return run(resolved, *arguments, **options)

    described = [_described(name, field) for name, field in fields(settings).items()]
    signature = inspect.Signature([*ahead, *_sources(settings), *beside, *described])
    execute.__signature__ = signature  # type: ignore[attr-defined]
    return execute


def _sources(settings: type[Settings]) -> list[inspect.Parameter]:
    """The flags that name where settings come from: `--config`, and `--preset` if there are any."""
    text = "YAML file with any of the fields below; flags come before it."
    sources = [_keyword("config", Path, Parameter(help=text))]
    if settings.presets:
        text = "Published settings to start from; file and flags come before it."
        sources.append(_keyword("preset", Literal[tuple(settings.presets)], Parameter(help=text)))
    return sources


def _described(name: str, field: FieldInfo) -> inspect.Parameter:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = False if default is None else _shown(default)
    text = "Required. " * field.is_required() + " ".join((field.description or "").split())
    parameter = Parameter(name=flag(name), help=text, show_default=shown)
    return _keyword(_identifier(name), field.annotation, parameter)


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
