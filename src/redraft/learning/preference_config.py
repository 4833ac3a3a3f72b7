"""Which preference losses train on pairs, and with what constants; the losses themselves are in
`preference`."""

import math
from collections.abc import Mapping
from typing import Self

from pydantic import Field, field_validator, model_validator

from redraft.types import Record

LOSSES = (
    "sigmoid", "robust", "sigmoid_norm", "ipo", "hinge", "dpop", "apo_zero", "apo_down", "kto",
    "nll", "simpo", "orpo",
)  # fmt: skip
"""The functions in `preference`, by name."""

NAMES = {
    "dpo": {"sigmoid": 1.0},
    "sft": {"nll": 1.0},
    "rpo": {"sigmoid": 1.0, "nll": 1.0},
}
"""Other names that the field has for a loss or a sum of losses."""

REFERENCE_FREE = frozenset({"nll", "simpo", "orpo"})
"""Losses that compare with no reference."""


class PreferenceConfig(Record):
    """How pairs change weights."""

    loss: str | dict[str, float] = "sigmoid"
    """One of sigmoid (or dpo), ipo, hinge, robust, sigmoid_norm, dpop, simpo, orpo, kto, apo_zero,
    apo_down, nll (or sft), rpo (sigmoid + nll); or a weighted sum as in `sigmoid+0.2*nll` or
    `{sigmoid: 1, nll: 0.2}`."""
    beta: float | None = Field(default=None, gt=0)
    """β of every loss (τ of ipo, λ of orpo). None: 5 for sigmoid_norm, 2 for simpo, else 0.1."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of labels taken to be flipped; sigmoid (then it is conservative DPO) and robust."""
    gamma: float = Field(default=1.0, ge=0)
    """SimPO's margin between the scaled rewards."""
    dpop_penalty: float = Field(default=50.0, ge=0)
    """DPOP's λ, the price of a chosen completion that falls below the reference."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """KTO's λ_D."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """KTO's λ_U."""

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        _terms(loss)
        return loss

    @model_validator(mode="after")
    def _constants_are_used(self) -> Self:
        for name, owners in _OWNERS.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and not self.terms.keys() & owners:
                raise ValueError(
                    f"{name} {value} has no effect on loss {self.loss!r}; "
                    f"it belongs to {' and '.join(sorted(owners))}"
                )
        return self

    @property
    def terms(self) -> dict[str, float]:
        """Weight of each loss, by its own name."""
        return _terms(self.loss)

    @property
    def needs_reference(self) -> bool:
        """Whether some loss compares with a reference."""
        return not self.terms.keys() <= REFERENCE_FREE

    @property
    def needs_unrelated(self) -> bool:
        """Whether pairs must carry a completion of another prompt (KTO's KL)."""
        return "kto" in self.terms

    @property
    def reward_scale(self) -> float:
        """β of the first loss: what implicit rewards are reported in."""
        return self.beta_of(next(iter(self.terms)))

    def beta_of(self, name: str) -> float:
        """β of one loss."""
        return (
            self.beta
            if self.beta is not None
            else {"sigmoid_norm": 5.0, "simpo": 2.0}.get(name, 0.1)
        )


_OWNERS = {
    "label_smoothing": {"sigmoid", "robust"},
    "gamma": {"simpo"},
    "dpop_penalty": {"dpop"},
    "desirable_weight": {"kto"},
    "undesirable_weight": {"kto"},
}
"""The losses that each constant is of; β is of all but nll, and a sweep over losses may set it."""


def _terms(loss: str | Mapping[str, float]) -> dict[str, float]:
    """Weights by loss from either way of writing them.

    Raises:
        ValueError: an unknown loss, or a weight that is not a positive number.
    """
    written = [_term(part) for part in loss.split("+")] if isinstance(loss, str) else loss.items()
    terms: dict[str, float] = {}
    for name, weight in written:
        if name not in LOSSES and name not in NAMES:
            known = ", ".join(sorted([*LOSSES, *NAMES]))
            raise ValueError(f"unknown preference loss {name!r}; choose from {known}")
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"weight {weight} of {name!r} must be a positive number")
        for own, share in NAMES.get(name, {name: 1.0}).items():
            terms[own] = terms.get(own, 0.0) + weight * share
    if not terms:
        raise ValueError("no preference loss is named; write for example 'sigmoid'")
    return terms


def _term(part: str) -> tuple[str, float]:
    weight, star, name = part.rpartition("*")
    try:
        return name.strip(), float(weight) if star else 1.0
    except ValueError:
        raise ValueError(
            f"{part.strip()!r} is not a loss; write name or weight*name, as in sigmoid+0.2*nll"
        ) from None
