"""Configurations of the supervised baselines, one class for each."""

from typing import ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from redraft.credit.imitation import Criterion
from redraft.methods.rise_config import RiseConfig
from redraft.methods.supervised_config import SupervisedConfig, TeacherConfig

S = TypeVar("S", bound=SupervisedConfig)


class StarConfig(SupervisedConfig):
    """STaR on corrections: imitate the second attempts that repaired a wrong first one."""

    iterations: int = Field(default=3, ge=1)
    """Rounds of collecting and fine-tuning (SCoRe's baseline: 3)."""
    start: Literal["previous", "base"] = "base"
    """Weights that each iteration fine-tunes: the base model's, as in ReST-EM, whose form of STaR
    SCoRe's baseline has, or those of the iteration before. Attempts are always collected from the
    newest policy."""
    plus: bool = False
    """D+: also the second attempts that kept a right first one right."""
    samples: int = Field(default=8, ge=1)
    """Two-attempt episodes of each problem."""


class PairSftConfig(SupervisedConfig):
    """Pair-SFT (Welleck et al., in SCoRe's form): random wrong and right attempts at a problem,
    put together to a synthetic correction."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the examples (SCoRe's baseline: 1)."""
    plus: bool = False
    """D+: also pairs of two right attempts."""
    samples: int = Field(default=8, ge=2)
    """Two-attempt episodes of each problem whose attempts are paired."""

    @model_validator(mode="after")
    def _sees_the_attempt_before(self) -> Self:
        return _without_window(self, "a pair is the problem and both attempts")


class BestOfNConfig(RiseConfig):
    """Best-of-N fine-tuning: RISE's data, right attempts only, all with weight 1."""

    criterion: Criterion = "success"
    """Attempts that are learned from: `success`, the right ones; nothing else is best of N."""
    normalize_weights: bool = True
    """Right attempts have one weight, which becomes 1; always so."""

    @model_validator(mode="after")
    def _is_best_of_n(self) -> Self:
        if self.criterion != "success" or self.centred or not self.normalize_weights:
            raise ValueError(
                "bon-sft learns from right attempts alone and from all alike: it needs criterion "
                "success, normalize_weights true and centred false; other weights are `redraft "
                "train rise`"
            )
        return self


class OffPolicyConfig(TeacherConfig):
    """Fine-tuning on the teacher's own multi-turn traces: none of the policy's mistakes in them."""

    attempts: int = Field(default=2, ge=1)
    """Attempts of the teacher at a problem; it stops when it is right."""
    needs_teacher: ClassVar[bool] = True


class LmsiConfig(SupervisedConfig):
    """LMSI (arXiv 2210.11610): imitate the samples that agree with their majority; no gold."""

    samples: int = Field(default=16, ge=2)
    """First attempts at each problem that vote."""
    agreement: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples that must agree for a problem to count."""

    @model_validator(mode="after")
    def _makes_first_attempts(self) -> Self:
        return _without_window(self, "a first attempt has nothing before it")


BASELINES: dict[str, type[SupervisedConfig]] = {
    "star": StarConfig,
    "pair-sft": PairSftConfig,
    "bon-sft": BestOfNConfig,
    "off-policy-sft": OffPolicyConfig,
    "lmsi": LmsiConfig,
}
"""What every supervised baseline can be told, by the name of its command."""


def _without_window(config: S, why: str) -> S:
    """Refuse a window where it would change nothing, or take away what is to be learned."""
    if config.window is not None:
        raise ValueError(f"window {config.window}: {why}; leave the window out")
    return config
