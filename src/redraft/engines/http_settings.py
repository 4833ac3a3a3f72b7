"""How an endpoint is asked, what that cost, and how `http://host/v1#model` is read."""

import os
import re
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from redraft.errors import UserError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"


class HttpSettings(BaseModel):
    """How requests are sent, repeated and paid for. Fits as a group into any configuration."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    concurrency: int = Field(default=16, ge=1)
    """Requests under way at the same time."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds from sending one request to having its whole answer."""
    retries: int = Field(default=5, ge=0)
    """How often a request is repeated after HTTP 429 or 5xx, a lost connection or a timeout."""
    backoff: float = Field(default=0.5, ge=0)
    """Seconds before the first repetition; doubled for each further one, less up to half by
    chance. A server's Retry-After comes before it."""
    longest_wait: float = Field(default=120.0, ge=0)
    """Seconds that are waited at most before a repetition. A server that asks for more is not
    asked again."""
    key_variable: str | None = None
    """Name of the environment variable that holds the API key. Without it OPENAI_API_KEY, which
    may be unset. The key itself is never written anywhere."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, for the cost in the usage."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price of a million generated tokens."""
    extra_body: dict[str, Any] = {}
    """Further fields of every request. They replace fields of the same name, and null removes one
    that an endpoint refuses, such as `seed`."""

    @field_validator("key_variable", mode="before")
    @classmethod
    def _is_a_name(cls, value: object) -> object:
        # Not a ValueError: those are reported with the value, which may be the key itself.
        if isinstance(value, str) and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise UserError(
                "key_variable must be the name of an environment variable, in capital letters "
                f"like {DEFAULT_KEY_VARIABLE}, and not the key (the value is not shown)"
            )
        return value

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price belong together; give both or none")
        return self

    def key(self) -> str | None:
        """The API key, read from the environment at every call so that it is kept nowhere.

        Raises:
            UserError: the named variable is not set, or what it holds cannot be a key.
        """
        name = self.key_variable or DEFAULT_KEY_VARIABLE
        key = os.environ.get(name, "").strip()
        if not key and self.key_variable:
            raise UserError(f"key_variable {name}: no such environment variable; export it first")
        if not all("!" <= character <= "~" for character in key):
            raise UserError(
                f"environment variable {name}: holds characters that no API key has (spaces, "
                "line breaks or other than ASCII); export the key alone"
            )
        return key or None


class Usage(BaseModel):
    """What was asked of an endpoint and what it took; `model_dump_json` writes it."""

    requests: int = 0
    """HTTP requests sent for answers, repetitions included."""
    retries: int = 0
    """Those of them that repeated an earlier one."""
    answered: int = 0
    """Dialogues that got an answer from the endpoint."""
    cached: int = 0
    """Dialogues that were answered from the cache, at no cost."""
    failed: int = 0
    """Dialogues that got none."""
    prompt_tokens: int = 0
    """Tokens read, as the endpoint counts them."""
    completion_tokens: int = 0
    """Tokens generated, as the endpoint counts them."""
    unmetered: int = 0
    """Answers for which the endpoint reported no count of tokens; the counts are without them."""
    cost: float | None = None
    """Of the tokens counted, in the currency of the prices; None without prices."""

    def add(self, other: "Usage") -> None:
        """Count what `other` has counted, all but its cost."""
        for name in type(self).model_fields:
            if name != "cost":
                setattr(self, name, getattr(self, name) + getattr(other, name))

    def meter(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Count the tokens of one answer, as far as the endpoint has reported them."""
        self.prompt_tokens += prompt_tokens or 0
        self.completion_tokens += completion_tokens or 0
        self.unmetered += prompt_tokens is None or completion_tokens is None

    def price(self, settings: HttpSettings) -> None:
        """Set the cost of the tokens counted."""
        if settings.prompt_price is None or settings.completion_price is None:
            self.cost = None
            return
        read = self.prompt_tokens * settings.prompt_price
        written = self.completion_tokens * settings.completion_price
        self.cost = (read + written) / 1e6


def is_endpoint(model: str) -> bool:
    """Whether a model's name is the address of an endpoint, `http://...#name`."""
    return "://" in model


def model_name(name: str) -> str:
    """The name of a model, as settings take it: what they hold is written to a run's folder.

    Raises:
        UserError: an address that `split_address` refuses, or a name that would be one with a user
            name in it if it had a scheme.
    """
    if is_endpoint(name):
        split_address(name)
    elif "@" in name and not Path(name).expanduser().exists():
        raise UserError(
            "a model's name has an @ in it and is no folder (it is not shown, for it may hold a "
            "password); give a folder, a hub id, or http://HOST:PORT/v1#MODEL and the key in the "
            "environment"
        )
    return name


def split_address(address: str) -> tuple[str, str]:
    """Server and model of `http://host:port/v1#model`; without a path, `/v1` is meant.

    Raises:
        UserError: the scheme is not http or https, there is no host or no `#model`, or the address
            carries a user name, password or query (which may hold a key and are not shown).
    """
    expected = "expected http://HOST:PORT/v1#MODEL"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UserError(f"endpoint: host or port cannot be read; {expected}") from None
    if "@" in parts.netloc + parts.path or parts.query or "?" in parts.fragment:
        raise UserError(
            f"endpoint on {host}: user names, passwords and queries are not taken from the address "
            f"(nothing secret may be written down); {expected} and the key in the environment"
        )
    if parts.scheme not in ("http", "https"):
        raise UserError(f"endpoint {address!r}: scheme {parts.scheme!r}; {expected}, or https")
    if not host or any(map(str.isspace, parts.netloc + parts.path)):
        raise UserError(f"endpoint {address!r}: names no host, or has spaces in it; {expected}")
    if not parts.fragment.strip():
        raise UserError(
            f"endpoint {address!r}: names no model; add the name that the server knows it by: "
            f"{address.rstrip('#')}#MODEL"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}", parts.fragment.strip()
