"""Methods and their presets, as they are registered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from redraft.config import resolve
from redraft.registry import Registry
from redraft.training.settings import TrainConfig


@dataclass(frozen=True)
class Method:
    """A training method: its settings and its loop."""

    name: str
    """`redraft train NAME`."""
    help: str
    """First line: one sentence for the list of methods. Further lines: for its own help page."""
    settings: type[TrainConfig]
    train: Callable[[Any], None]
    """Trains the run that it is given, a new one or one that is resumed from a checkpoint."""
    run: Literal["on_policy", "supervised"]
    """The kind of run: `redraft.training.on_policy` or `redraft.training.supervised`."""
    paper: str = ""
    """Where it comes from, such as "arXiv 2409.12917"."""
    baseline: bool = False
    """Whether it is there for comparison."""

    @property
    def summary(self) -> str:
        """The sentence for the list of methods."""
        return self.help.strip().splitlines()[0]

    @property
    def presets(self) -> dict[str, Mapping[str, Any]]:
        """Named settings: the method's own and those that packages bring for it."""
        brought = {
            preset.preset: preset.values
            for preset in PRESETS.values()
            if preset.method == self.name
        }
        return {**self.settings.presets, **brought}

    def configure(
        self,
        *,
        file: Path | None = None,
        preset: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """The method's settings; see `config.resolve`."""
        presets = self.presets if preset else None
        return resolve(
            self.settings, file=file, preset=preset, overrides=overrides, presets=presets
        )


@dataclass(frozen=True)
class Preset:
    """Named settings of a method, `--preset NAME`, such as a package brings for its tasks."""

    method: str
    preset: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is registered as."""
        return f"{self.method}/{self.preset}"


METHODS: Registry[Method] = Registry("method", "redraft.methods")
PRESETS: Registry[Preset] = Registry("preset", "redraft.presets")
