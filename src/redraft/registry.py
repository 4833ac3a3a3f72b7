"""Registries: tasks, methods, prompts and whatever else other packages may add, by name.

Each kind is a group of entry points, such as `redraft.tasks`. An entry point names an object with
a `name`, or a list of such objects; ours are declared in `pyproject.toml` like any other package's.
The command line, `redraft resume` and the tests of documentation are made from the registries, each
of which lies with its type: `tasks.base.TASKS`, `training.method.METHODS` and `PRESETS`,
`chat.prompts.PROMPTS`, `evaluation.settings.STRATEGIES`, `engines.base.ENGINES`,
`models.MODELS`, and here `COMMANDS`.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar

from redraft.errors import UserError


class Named(Protocol):
    """Anything that can be registered."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T], Generic[T]):
    """What is registered under one group of entry points, by name; loaded when first asked for.

    A name that two packages bring is an error: neither may silently replace the other. So is an
    entry point that cannot be loaded, and a group without any.
    """

    def __init__(self, kind: str, group: str) -> None:
        """`kind` is the word for one of them in messages, such as "task"."""
        self.kind, self.group = kind, group

    @cached_property
    def _found(self) -> dict[str, T]:
        found: dict[str, T] = {}
        packages: dict[str, str] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            package = point.dist.name if point.dist else point.value
            try:
                loaded: Any = point.load()
                items: Iterable[T] = loaded if isinstance(loaded, list | tuple) else [loaded]
                named = {item.name: item for item in items}
            except Exception as error:
                raise UserError(
                    f"package {package}: its {self.kind} {point.name!r} ({point.value}) cannot be "
                    f"loaded ({type(error).__name__}: {error}); update or uninstall the package"
                ) from error
            for name in named:
                if name in found:
                    raise UserError(
                        f"{self.kind} {name!r} is registered by two packages, {packages[name]} and "
                        f"{package}; uninstall one of them"
                    )
            found |= named
            packages |= dict.fromkeys(named, package)
        if not found:
            raise UserError(
                f"no {self.kind} is registered: redraft is not installed, or was before its code "
                "changed; install it again (`pip install -e .` in a checkout)"
            )
        return found

    def __getitem__(self, name: str) -> T:
        """The one called `name`.

        Raises:
            UserError: there is none; names close matches.
        """
        if name in self._found:
            return self._found[name]
        close = difflib.get_close_matches(name, self._found, n=3, cutoff=0.6)
        remedy = f"did you mean {' or '.join(close)}?" if close else f"there is: {', '.join(self)}"
        raise UserError(f"unknown {self.kind} {name!r}; {remedy}")

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True)
class Command:
    """A command of the command line that a package brings along."""

    name: str
    """`redraft NAME`."""
    help: str
    app: str
    """Where its cyclopts `App` is, as `module:name`; it is imported when the command is called."""


COMMANDS: Registry[Command] = Registry("command", "redraft.commands")
