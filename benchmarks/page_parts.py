"""Parts that the result pages of the lab have in common."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import norm, t

from redraft.config import Settings
from redraft.evaluation.metrics import Array

OF_A_CALL = ("command", "argv", "seed", "config")
"""What a run's environment.json says of its call rather than of the machine."""


def settings_part(config: Settings) -> str:
    """A configuration without its folder and its seed, in YAML."""
    values = config.model_dump(mode="json", exclude={"out", "seed"})
    return f"```yaml\n{yaml.safe_dump(values, sort_keys=False)}```"


def machine_part(runs: Iterable[Path]) -> str:
    """What runs say that they were made on and with, in JSON; where they differ, each value."""
    files = (run / "environment.json" for run in runs)
    return facts_part(common_facts(json.loads(file.read_text("utf-8")) for file in files))


def common_facts(environments: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What environments say, one value where they agree and a list of each where they do not."""
    told: dict[str, list[Any]] = {}
    for environment in environments:
        for name, value in environment.items():
            values = told.setdefault(name, [])
            if name not in OF_A_CALL and value not in values:
                values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in told.items()}


def facts_part(facts: dict[str, Any]) -> str:
    """What is told of a machine, in JSON."""
    facts = {name: value for name, value in facts.items() if name not in OF_A_CALL}
    return f"```json\n{json.dumps(facts, indent=1)}\n```"


def bootstrap(numerators: Array, denominators: Array, resamples: int = 10_000) -> Array:
    """Values of M ratios over resampled problems, [resamples, M], from each problem's sums [P, M].

    Each resample draws P problems with replacement, the same ones for all M.
    """
    problems = len(numerators)
    random = np.random.default_rng(0)
    times = np.stack(
        [
            np.bincount(random.integers(problems, size=problems), minlength=problems)
            for _ in range(resamples)
        ]
    )
    return (times @ numerators) / (times @ denominators)


def percentile_levels(n_problems: int) -> tuple[float, float]:
    """Lower and upper level of the expanded 95 % percentile interval (arXiv 1411.5279)."""
    quantile = t.ppf(0.975, n_problems - 1)
    upper = float(norm.cdf(quantile * np.sqrt(n_problems / (n_problems - 1))))
    return 1 - upper, upper
