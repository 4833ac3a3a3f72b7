"""What `redraft eval`, `redraft collect` and `redraft solve` can be told."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from redraft.config import Settings, flag
from redraft.engines.endpoints import EndpointSettings, is_endpoint, model_name
from redraft.engines.vllm_api import VLLMSettings
from redraft.registry import Registry
from redraft.sandbox import LARGEST_LIMIT, Limits
from redraft.settings import AttemptSettings

if TYPE_CHECKING:
    from redraft.evaluation.strategies import Strategy

STRATEGIES: "Registry[Strategy]" = Registry("strategy", "redraft.strategies")

Selector = Literal["agreement", "vote", "oracle"]

ANY_TASK = "jsonl"
"""The task of questions that belong to none."""


class ModelSettings(AttemptSettings):
    """Which model responds, and how it samples."""

    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest response; a longer one is cut off and counts as wrong."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice of problems and of the sampling."""
    engine: str = "local"
    """What generates the responses of a model that is not behind HTTP: `local`, the model in this
    process, `vllm`, or another that an installed package brings."""
    vllm: VLLMSettings = VLLMSettings()
    """Where vLLM is, for `--engine vllm`."""
    http: EndpointSettings = EndpointSettings()
    """How a model behind HTTP is asked."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; auto is bfloat16 where the device multiplies it (on a CPU only if
    they are stored in at most 16 bits), else float32."""


class RolloutSettings(ModelSettings):
    """Which episodes are sampled."""

    split: Literal["train", "test"] = "test"
    """Part of the task to take problems from."""
    protocol: Literal[
        "intrinsic", "oracle", "self-refine", "self-improve", "wait", "blind-spot"
    ] = "intrinsic"
    """What is said between responses: `intrinsic` says the same whatever the response is worth;
    `oracle` stops at the first right one, so that its accuracy is an upper bound; `self-refine` as
    `intrinsic`, until the model says that its response is correct; `self-improve` asks the model
    for a critique of its response and an update, until it says that it is right; `wait` reopens the
    response with the word "Wait"; `blind-spot` puts a wrong solution, that of --task blind-spot or
    a row's field `wrong`, once into the model's own response and once into the user's message."""
    turns: int = Field(default=2, ge=1)
    """Responses in an episode."""
    window: int | None = Field(default=None, ge=1)
    """Interactions the model sees at most, the one in progress included: the problem and the latest
    `window - 1` responses with what was said about them. By default all."""
    samples: int = Field(default=1, ge=1)
    """Episodes for each problem."""
    updates: int = Field(default=3, ge=0)
    """Updates of a response at most, for the protocol `self-improve`."""
    oracle_stop: bool = False
    """With the protocol `self-improve`: also stop at the first right response, which makes an upper
    bound, labelled as such."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"--samples {self.samples} at --temperature 0 would be equal; give --temperature"
            )
        return self

    @model_validator(mode="after")
    def _reopened_responses_are_the_models_own(self) -> Self:
        if self.protocol not in ("wait", "blind-spot"):
            return self
        if is_endpoint(self.model):
            raise ValueError(
                f"--protocol {self.protocol} continues a response inside the model's own turn, "
                "which a chat endpoint cannot do; give --model a folder, a hub id or a GGUF file"
            )
        if self.window is not None:
            raise ValueError(f"--protocol {self.protocol} has one response; leave --window out")
        spot = self.protocol == "blind-spot"
        if spot and (self.turns != 2 or getattr(self, "parallel", False)):
            raise ValueError(
                "--protocol blind-spot has its own turns; leave --turns and --parallel"
            )
        return self

    @model_validator(mode="after")
    def _self_improvement_has_its_own_history(self) -> Self:
        if self.protocol != "self-improve":
            for name in ("oracle_stop", "updates"):
                if getattr(self, name) != RolloutSettings.model_fields[name].default:
                    raise ValueError(f"{flag(name)} belongs to --protocol self-improve; give both")
        elif self.turns != RolloutSettings.model_fields["turns"].default:
            raise ValueError(f"--turns {self.turns}: --protocol self-improve has --updates instead")
        elif self.window is not None or getattr(self, "parallel", False):
            raise ValueError(
                "--protocol self-improve shows the model its latest response only and is compared "
                "with nothing: leave --parallel and --window out"
            )
        return self


class StrategyChoice(Settings):
    """With what budget strategies are run."""

    budget: int = Field(default=8, ge=2)
    """Samples that a strategy may draw for a question, N; `chain` and `program` take 1, `cap` 2,
    `turns` as many as --turns says."""
    turns: int = Field(default=2, ge=1)
    """Attempts of the strategy `turns`, each after the request to correct the one before it."""
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
    """How a program is asked for: python, or a YAML file with `alone` and `refine`; by default
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

    def check(self, strategies: "list[Strategy]", temperature: float) -> None:
        """Refuse what would make no sense.

        Raises:
            ValueError: equal samples, more chains than there are samples, or unclear sources.
        """
        sampled = [strategy.name for strategy in strategies if not strategy.greedy]
        if sampled and temperature == 0:
            raise ValueError(
                f"--strategy {sampled[0]} draws several samples, which at --temperature 0 would be "
                "equal; give --temperature 1"
            )
        if self.first_chains >= self.budget and any(one.mixes for one in strategies):
            raise ValueError(
                f"--mix-chains {self.mix_chains} leaves no program in a --budget of {self.budget}"
            )
        if not all(self.source_names) or len(set(self.source_names)) < len(self.source_names):
            raise ValueError(
                f"--sources {self.sources}: expected names of models, each once, separated by "
                "commas"
            )


def strategies_named(written: str) -> "list[Strategy]":
    """Strategies from names separated by commas, in the registry's order; `all` is every one.

    Raises:
        ValueError: no such strategy.
    """
    names = [name.strip() for name in written.split(",")]
    for name in names:
        if name not in STRATEGIES and names != ["all"]:
            known = ", ".join(STRATEGIES)
            raise ValueError(f"unknown strategy {name!r}; expected {known}, or all")
    return [one for name, one in STRATEGIES.items() if name in names or names == ["all"]]


class EvaluationSettings(RolloutSettings, StrategyChoice):
    """An evaluation; with `out`, also written to a folder."""

    out: Path | None = None
    """Folder for summary.json and the episodes; by default the result is only printed."""
    parallel: bool = False
    """Also sample as many first responses to each problem as an episode has turns, and compare
    correcting with voting over them at equal numbers of responses and of tokens."""
    count_whole: bool = False
    """Also grade a response that was cut off where the grader can tell that its answer was whole
    before: a block of code that was closed. Else it is wrong, as in training."""
    strategy: str | None = None
    """Evaluate ways of spending a budget on chains of thought and programs instead of episodes:
    chain, turns, program, cap, majority-chains, majority-programs, majority-mix, best-chains,
    best-programs, best-cap, bonbon, adaptive, or what other packages register, several separated by
    commas, or all."""

    @property
    def strategies(self) -> "list[Strategy]":
        """The strategies that are evaluated."""
        return [] if self.strategy is None else strategies_named(self.strategy)

    @property
    def runs_programs(self) -> bool:
        """Whether a strategy or the task's grader runs what the model writes."""
        return any(one.runs_programs(self) for one in self.strategies) or super().runs_programs

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
    def _strategies_can_be_played(self) -> Self:
        if self.strategy is None:
            for name, field in StrategyChoice.model_fields.items():
                value = getattr(self, name)
                if name not in RolloutSettings.model_fields and value != field.default:
                    raise ValueError(f"{flag(name)} {value} is of a strategy; give --strategy too")
            return self
        self.check(self.strategies, self.temperature)
        if any(one.runs_programs(self) for one in self.strategies):
            self.check_answers_are_printed()
        if self.parallel or self.count_whole or self.samples > 1 or self.protocol != "intrinsic":
            raise ValueError(
                f"--strategy {self.strategy}: a strategy draws its own samples; leave --samples, "
                "--protocol, --count-whole and --parallel out and give --budget"
            )
        needless = [] if self.window is None else ["window"]
        if self.turns != 2 and "turns" not in (one.name for one in self.strategies):
            needless.append("turns")
        if needless:
            raise ValueError(f"{flag(needless[0])} is of no use to --strategy {self.strategy}")
        return self


class CollectSettings(RolloutSettings):
    """Episodes to a folder, without statistics."""

    out: Path
    """Folder for the episodes."""


class AnswerSettings(ModelSettings, StrategyChoice):
    """Which model answers questions, and how."""

    task: str = ANY_TASK
    """Task that says how questions are posed and answers read; by default any question, with
    --grader (math)."""
    strategy: str = "cap"
    """chain, turns (attempts, each asked to correct the last), program, cap (a chain, then a
    program that refines it), majority-chains, majority-programs, majority-mix, best-chains,
    best-programs, best-cap, bonbon, adaptive, or what another package registers."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of strategies that draw several samples."""

    @property
    def runs_programs(self) -> bool:
        """Whether the strategy runs programs; questions bring no tests that would."""
        return STRATEGIES[self.strategy].runs_programs(self)

    @model_validator(mode="after")
    def _can_be_played(self) -> Self:
        self.check(strategies_named(self.strategy), self.temperature)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"--strategy {self.strategy}: a question has one strategy")
        if self.runs_programs and self.task != ANY_TASK:
            self.check_answers_are_printed()
        if "," in self.sources:
            raise ValueError(f"--sources {self.sources}: a question has one source of chains")
        return self


class SolveSettings(AnswerSettings):
    """Which questions a model answers."""

    file: Path | None = None
    """Questions: JSON Lines with `question` and, if known, `gold`, or a text with one a line."""
