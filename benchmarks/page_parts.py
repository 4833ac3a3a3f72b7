"""Parts that the result pages of the lab have in common."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from redraft.config import Settings

OF_A_CALL = ("command", "argv", "seed", "config")
"""What a run's environment.json says of its call rather than of the machine."""


def settings_part(config: Settings) -> str:
    """A configuration without its folder and its seed, in YAML."""
    values = config.model_dump(mode="json", exclude={"out", "seed"})
    return f"```yaml\n{yaml.safe_dump(values, sort_keys=False)}```"


def machine_part(runs: Iterable[Path]) -> str:
    """What runs say that they were made on and with, in JSON; where they differ, each value."""
    told: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in json.loads((run / "environment.json").read_text("utf-8")).items():
            values = told.setdefault(name, [])
            if name not in OF_A_CALL and value not in values:
                values.append(value)
    facts = {name: values[0] if len(values) == 1 else values for name, values in told.items()}
    return facts_part(facts)


def facts_part(facts: dict[str, Any]) -> str:
    """What is told of a machine, in JSON."""
    facts = {name: value for name, value in facts.items() if name not in OF_A_CALL}
    return f"```json\n{json.dumps(facts, indent=1)}\n```"
