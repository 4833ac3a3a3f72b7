"""What `redraft eval` and `redraft collect` can be told."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from redraft.config import flag
from redraft.engines.http_settings import HttpSettings
from redraft.evaluation.strategies_settings import (
    StrategyChoice,
    check_strategies,
    runs_programs,
    strategy_names,
)
from redraft.settings import AttemptSettings


class RolloutSettings(AttemptSettings):
    """Which model attempts which problems, and how."""

    split: Literal["train", "test"] = "test"
    """Part of the task to take problems from."""
    protocol: Literal["intrinsic", "oracle", "self-refine", "self-improve"] = "intrinsic"
    """What is said between attempts: `intrinsic` says the same whatever the attempt is worth;
    `oracle` stops at the first right one, so that its accuracy is an upper bound; `self-refine` as
    `intrinsic`, until the model says that its attempt is correct; `self-improve`
    (of `redraft eval`) asks the model for feedback on its attempt and an update, until it says that
    it is right."""
    turns: int = Field(default=2, ge=1)
    """Attempts in an episode."""
    window: int | None = Field(default=None, ge=1)
    """Interactions the model sees at most, the one in progress included: the problem and the latest
    `window - 1` attempts with what was said about them. By default all."""
    samples: int = Field(default=1, ge=1)
    """Episodes for each problem."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest attempt; a longer one is cut off and counts as wrong."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of problems and of the sampling."""
    http: HttpSettings = HttpSettings()
    """How a model behind HTTP is asked."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is float32 on a CPU and bfloat16 on a GPU."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"--samples {self.samples} at --temperature 0 would be equal; give --temperature"
            )
        return self


class EvaluationSettings(RolloutSettings, StrategyChoice):
    """An evaluation; with `out`, also written to a folder."""

    out: Path | None = None
    """Folder for summary.json and episodes.jsonl; by default the result is only printed."""
    parallel: bool = False
    """Also make as many first attempts at each problem as an episode has turns, and compare
    correcting with voting over them at equal numbers of attempts and of tokens."""
    updates: int = Field(default=3, ge=0)
    """Updates of an attempt at most, for the protocol `self-improve`."""
    oracle_stop: bool = False
    """With the protocol `self-improve`: also stop at the first right attempt, which makes an upper
    bound, labelled as such."""
    strategy: str | None = None
    """Evaluate ways of spending a budget on chains of thought and programs instead of episodes:
    chain, program, cap, majority-chains, majority-programs, majority-mix, best-chains,
    best-programs, best-cap, bonbon, adaptive, several separated by commas, or all."""

    @property
    def runs_programs(self) -> bool:
        """Whether a strategy or the task's grader runs what the model writes."""
        return self._strategy_runs_programs or super().runs_programs

    @property
    def _strategy_runs_programs(self) -> bool:
        names = [] if self.strategy is None else strategy_names(self.strategy)
        return any(runs_programs(name, self) for name in names)

    @model_validator(mode="after")
    def _has_something_to_compare(self) -> Self:
        if self.parallel and (self.turns < 2 or self.temperature == 0):
            raise ValueError("--parallel needs --turns of 2 or more, and --temperature above 0")
        if self.parallel and self.protocol == "oracle":
            raise ValueError(
                "--parallel compares episodes that no oracle stops; leave --protocol intrinsic, "
                "which also tells how many an oracle would have stopped"
            )
        return self

    @model_validator(mode="after")
    def _self_improvement_stands_alone(self) -> Self:
        if self.protocol != "self-improve":
            if self.oracle_stop:
                raise ValueError("--oracle-stop belongs to --protocol self-improve; give both")
        elif self.parallel or self.window is not None:
            raise ValueError(
                "--protocol self-improve shows the model its latest attempt only and is compared "
                "with nothing: leave --parallel and --window out"
            )
        return self

    @model_validator(mode="after")
    def _strategies_can_be_played(self) -> Self:
        if self.strategy is None:
            for name, field in StrategyChoice.model_fields.items():
                value = getattr(self, name)
                if value != field.default:
                    raise ValueError(f"{flag(name)} {value} is of a strategy; give --strategy too")
            return self
        check_strategies(strategy_names(self.strategy), self, self.temperature)
        if self._strategy_runs_programs:
            self.check_answers_are_printed()
        if self.parallel or self.samples > 1 or self.protocol != "intrinsic":
            raise ValueError(
                f"--strategy {self.strategy}: a strategy draws its own samples; leave --samples, "
                "--protocol and --parallel out and give --budget"
            )
        return self


class CollectSettings(RolloutSettings):
    """Episodes to a folder, without statistics."""

    out: Path
    """Folder for the episodes."""

    @model_validator(mode="after")
    def _has_a_protocol_of_episodes(self) -> Self:
        if self.protocol == "self-improve":
            raise ValueError("--protocol self-improve is of `redraft eval`, which writes episodes")
        return self
