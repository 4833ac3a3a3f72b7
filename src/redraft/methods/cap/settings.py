"""Settings of CaP runs and of the plain program baseline."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from redraft.config import flag
from redraft.engines.endpoints import EndpointSettings, model_name
from redraft.learning.preference_config import PreferenceConfig
from redraft.sandbox import LARGEST_LIMIT, Limits
from redraft.training.settings import EXPERT, SupervisedConfig, TeacherConfig

POLICY = "policy"
"""The source of chains that is the policy itself."""


class CapConfig(SupervisedConfig):
    """A CaP run: chains, programs that refine them, supervised fine-tuning, preferences."""

    variant: Literal["cap", "pot"] = "cap"
    """`cap`: programs are written after a chain of thought; `pot`: the baseline, after the question
    alone, with as many programs of each question."""
    sources: str = POLICY
    """Models whose chains are refined, separated by commas: `policy`, a model folder, a hub
    id, `http://HOST:PORT/v1#MODEL`, or `expert` (the task's own script, where it has one, with its
    mistakes)."""
    chains: int = Field(default=4, ge=1)
    """Chains of each source for each question."""
    programs: int = Field(default=4, ge=1)
    """Programs of the policy after each chain."""
    program_prompts: str | None = None
    """How a program is asked for: python, or a YAML file with `alone` and `refine`; by default the
    task's own."""
    program_seconds: float = Field(default=10.0, gt=0, le=LARGEST_LIMIT)
    """Longest run of a program."""
    program_memory_mib: int = Field(default=512, ge=64, le=LARGEST_LIMIT)
    """Most memory of a program."""
    source_http: EndpointSettings = EndpointSettings()
    """How a source behind HTTP is asked."""

    chain_ratio: str = "1:1"
    """Supervised examples with a right chain to those with a wrong one; `any`: as they come."""
    examples_per_question: int | None = Field(default=4, ge=1)
    """Most supervised examples of a question."""

    loss: str = "sigmoid+nll"
    """Preference loss: sigmoid (DPO), ipo, hinge, robust, sigmoid_norm, dpop, simpo, orpo, kto,
    apo_zero, apo_down, nll, rpo, a weighted sum such as `sigmoid+0.2*nll`, or `none` for supervised
    fine-tuning alone."""
    beta: float | None = Field(default=None, gt=0)
    """β of the loss; by default the loss's own (0.1 for most)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs taken to be the wrong way round; sigmoid and robust."""
    gamma: float = Field(default=1.0, ge=0)
    """SimPO's margin."""
    dpop_penalty: float = Field(default=50.0, ge=0)
    """DPOP's λ."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """KTO's λ_D."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """KTO's λ_U."""
    resample: bool = False
    """Sample chains and programs anew, from the fine-tuned policy, to make pairs of."""
    pairs_per_question: int | None = Field(default=8, ge=1)
    """Most pairs of one type for a question."""
    exec_share: float = Field(default=0.25, ge=0, le=1)
    """Most `exec` pairs (right over not running) among all pairs."""
    preference_learning_rate: float = Field(default=1e-6, gt=0)
    """AdamW's learning rate in the preference stage, at its peak."""
    preference_epochs: float = Field(default=1.0, gt=0)
    """Passes over the pairs."""
    preference_batch_size: int = Field(default=32, ge=1)
    """Pairs in an optimiser step."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Nothing of the paper's settings is known to us; these are starting points.
        "gsm8k": {
            "task": "gsm8k",
            "learning_rate": 1e-5,
            "epochs": 2.0,
            "max_tokens": 512,
            "preference_learning_rate": 1e-6,
        },
    }

    @property
    def runs_programs(self) -> bool:
        """The method is about running them."""
        return True

    @property
    def source_names(self) -> list[str]:
        """`sources` as a list."""
        return [name.strip() for name in self.sources.split(",")]

    @property
    def ratio(self) -> tuple[int, int] | None:
        """`chain_ratio` as `pairs.supervised_set` takes it; the baseline has no chains."""
        if self.variant == "pot" or self.chain_ratio == "any":
            return None
        right, _, wrong = self.chain_ratio.partition(":")
        return int(right), int(wrong)

    @property
    def limits(self) -> Limits:
        """What a program may use."""
        seconds = self.program_seconds
        return Limits(wall_s=seconds, cpu_s=seconds, memory_mib=self.program_memory_mib)

    @property
    def preference(self) -> PreferenceConfig | None:
        """How pairs change weights; None without a preference stage."""
        if self.loss == "none":
            return None
        shared = set(PreferenceConfig.model_fields)
        return PreferenceConfig(**self.model_dump(include=shared))

    def teacher_of(self, source: str) -> TeacherConfig:
        """A source of chains as a teacher is opened: asked as the policy is."""
        return TeacherConfig(
            **self.model_dump(include=set(SupervisedConfig.model_fields)),
            teacher=source,
            teacher_temperature=self.temperature,
            teacher_max_tokens=self.max_tokens,
            teacher_http=self.source_http,
        )

    @field_validator("sources")
    @classmethod
    def _named_once(cls, sources: str) -> str:
        names = [model_name(name.strip()) for name in sources.split(",")]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("expected names of models, each once, separated by commas")
        return ",".join(cls._absolute_folder(name) for name in names)

    @field_validator("chain_ratio")
    @classmethod
    def _two_numbers(cls, ratio: str) -> str:
        parts = ratio.split(":")
        numbers = len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts)
        if ratio != "any" and not (numbers and any(map(int, parts))):
            raise ValueError("expected RIGHT:WRONG such as 1:1, not both 0, or `any`")
        return ratio

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        try:
            preference = self.preference
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        if preference is None and self.resample:
            raise ValueError("--resample makes new pairs, which --loss none does not use")
        for name, field in PreferenceConfig.model_fields.items():
            if preference is None and name != "loss" and getattr(self, name) != field.default:
                raise ValueError(
                    f"{flag(name)} {getattr(self, name)} has no effect with --loss none"
                )
        self.check_answers_are_printed()
        if EXPERT in self.source_names:
            self.check_expert("--sources")
        if self.variant == "pot" and self.sources != POLICY:
            raise ValueError(
                f"--sources {self.sources}: the variant pot has no chains; leave the sources out"
            )
        if self.window is not None:
            raise ValueError(
                f"--window {self.window}: a program is written after its chain and nothing else; "
                "leave the window out"
            )
        return self
