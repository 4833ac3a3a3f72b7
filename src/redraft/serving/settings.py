"""What `redraft serve` can be told."""

import os
from typing import Self

from pydantic import Field, field_validator, model_validator

from redraft.engines.endpoints import is_endpoint, split_address, variable_name
from redraft.errors import UserError
from redraft.evaluation.settings import STRATEGIES, AnswerSettings


class ServeSettings(AnswerSettings):
    """Where the endpoint listens, and its limits."""

    strategy: str = "turns"
    """How every request is answered: turns (attempts, each asked to correct the last; the last one
    answers), chain, cap (a chain, then a program that refines it), program, majority-chains,
    majority-programs, majority-mix, best-chains, best-programs, best-cap, bonbon, adaptive, or what
    another package registers."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    name: str | None = None
    """What clients call the model; by default the last part of --model."""
    key_variable: str = "REDRAFT_API_KEY"
    """Name of the environment variable that holds the key which clients have to send; where it is
    not set, no key is asked for."""
    requests: int = Field(default=256, ge=1)
    """Requests under way, waiting ones included; more are refused (429)."""
    at_once: int = Field(default=64, ge=1)
    """Requests that are answered together."""
    seconds: float = Field(default=600.0, gt=0)
    """Longest time of a request, waiting included; then it is given up (504)."""
    body_kib: int = Field(default=1024, ge=1)
    """Largest body of a request."""
    body_seconds: float = Field(default=10.0, gt=0)
    """Longest time that the body of a request may take to arrive."""
    read_seconds: float = Field(default=30.0, gt=0, le=86_400)
    """Longest time for which a client may leave its answer unread; then it is cut off."""

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        if self.name is not None:
            return self.name
        if is_endpoint(self.model):
            return split_address(self.model)[1]
        return self.model.rstrip("/").rpartition("/")[2]

    def key(self) -> str | None:
        """The key, read from the environment.

        Raises:
            UserError: its value cannot be a key.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not all("!" <= character <= "~" for character in key):
            raise UserError(
                f"environment variable {self.key_variable}: holds characters that no key has "
                "(spaces, line breaks or other than ASCII)"
            )
        return key or None

    @field_validator("key_variable", mode="before")
    @classmethod
    def _is_a_name(cls, value: object) -> object:
        return variable_name(value)

    @model_validator(mode="after")
    def _knows_no_gold_answer(self) -> Self:
        if STRATEGIES[self.strategy].uses_oracle(self):
            raise ValueError("--select oracle needs gold answers, which no request has")
        return self
