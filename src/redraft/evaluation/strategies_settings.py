"""What `redraft eval --strategy` and `redraft solve` can be told about strategies."""

from typing import Literal, get_args

from pydantic import Field, field_validator

from redraft.config import Settings
from redraft.engines.http_settings import model_name
from redraft.sandbox import LARGEST_LIMIT, Limits

StrategyName = Literal[
    "chain",
    "program",
    "cap",
    "majority-chains",
    "majority-programs",
    "majority-mix",
    "best-chains",
    "best-programs",
    "best-cap",
    "bonbon",
    "adaptive",
]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

Selector = Literal["agreement", "vote", "oracle"]

GREEDY = ("chain", "program", "cap")
"""Strategies of a fixed number of greedy samples."""


MIXED = ("majority-mix", "bonbon")
"""Strategies whose samples are of both kinds in numbers that `mix_chains` sets."""


class StrategyChoice(Settings):
    """Which strategies, with what budget."""

    budget: int = Field(default=8, ge=2)
    """Samples that a strategy may draw for a question, N; `chain` and `program` take 1, `cap` 2."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Also stop counting a strategy's samples where they have cost this many tokens."""
    budget_executions: int | None = Field(default=None, ge=0)
    """Also stop counting a strategy's samples where they have cost this many runs of programs."""
    mix_chains: int | None = Field(default=None, ge=1)
    """Chains among the N samples of `majority-mix` and of `bonbon` (its N₁); by default half."""
    select: Selector = "agreement"
    """How `best-...` and `bonbon` select: `agreement` of chain and executed answer, `vote`, or
    `oracle`, which knows the gold answer and makes an upper bound."""
    sources: str = "self"
    """Models that write the chains, separated by commas, each evaluated in turn: `self`, or any
    model that --model can name."""
    program_prompts: str | None = None
    """How a program is asked for: python, lab, or a YAML file with `alone` and `refine`; by default
    the task's own."""
    program_seconds: float = Field(default=10.0, gt=0, le=LARGEST_LIMIT)
    """Longest run of a program."""
    program_memory_mib: int = Field(default=512, ge=64, le=LARGEST_LIMIT)
    """Most memory of a program."""

    @property
    def source_names(self) -> list[str]:
        """`sources` as a list."""
        return [name.strip() for name in self.sources.split(",")]

    @property
    def first_chains(self) -> int:
        """Chains of the strategies that have both kinds."""
        return self.mix_chains or self.budget // 2

    @property
    def limits(self) -> Limits:
        """What a program may use."""
        seconds = self.program_seconds
        return Limits(wall_s=seconds, cpu_s=seconds, memory_mib=self.program_memory_mib)

    @field_validator("sources")
    @classmethod
    def _hold_no_secret(cls, sources: str) -> str:
        for name in sources.split(","):
            model_name(name.strip())
        return sources


def strategy_names(written: str) -> list[StrategyName]:
    """Strategies from names separated by commas; `all` is every one.

    Raises:
        ValueError: no such strategy.
    """
    names = [name.strip() for name in written.split(",")]
    if names == ["all"]:
        return list(STRATEGIES)
    for name in names:
        if name not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise ValueError(f"unknown strategy {name!r}; expected {known}, or all")
    return [name for name in STRATEGIES if name in names]


def runs_programs(name: StrategyName, choice: StrategyChoice) -> bool:
    """Whether the strategy has a use for the sandbox."""
    agreeing = choice.select == "agreement"
    return name not in ("chain", "majority-chains") and (name != "best-chains" or agreeing)


def check_strategies(names: list[StrategyName], choice: StrategyChoice, temperature: float) -> None:
    """Refuse what would make no sense.

    Raises:
        ValueError: equal samples, or more chains than there are samples.
    """
    sampled = [name for name in names if name not in GREEDY]
    if sampled and temperature == 0:
        raise ValueError(
            f"--strategy {sampled[0]} draws several samples, which at --temperature 0 would be "
            "equal; give --temperature 1"
        )
    if choice.first_chains >= choice.budget and any(name in MIXED for name in names):
        raise ValueError(
            f"--mix-chains {choice.mix_chains} leaves no program in a --budget of {choice.budget}"
        )
    if not all(choice.source_names) or len(set(choice.source_names)) < len(choice.source_names):
        raise ValueError(
            f"--sources {choice.sources}: expected names of models, each once, separated by commas"
        )
