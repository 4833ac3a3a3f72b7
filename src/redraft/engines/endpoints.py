"""Settings and usage of endpoints, and how the address `http://HOST:PORT/v1#MODEL` is read.

Needs no library beyond pydantic: configurations that name an endpoint can be read without `openai`.
"""

import json
import os
import re
from contextlib import suppress
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from redraft.errors import UserError

_DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
_ADDRESS = "expected http://HOST:PORT/v1#MODEL"


_IN_ENVIRONMENT = re.compile(r"\$([A-Z_][A-Z0-9_]*)")
"""A value, or a part of a path, that is kept in the environment."""

_SECRET_NAME = re.compile(
    r"(?:.*[_-])?(?:(?:api|access|private|secret|subscription)[_-]?keys?|secrets?|passw(?:or)?ds?"
    r"|passphrases?|pwd|authorization|credentials?|bearer|cookies?|jwts?"
    r"|(?:access|auth|api|bearer|id|refresh|session|hf)[_-]?tokens?)"
    r"|keys?|token|auth",
    re.IGNORECASE,
)
"""Names of what is secret."""

_KNOWN_KEY = re.compile(
    r"\b(?:sk|pk|rk|xai|glpat|nvapi|xox[a-z])-\w{6}|\b(?:sk|hf|gsk|gh[a-z]|github_pat)_\w{6}"
    r"|\b(?:AIza|AKIA|eyJ)\w{8}|\b(?-i:SG|ya29)\.\w{6}|\b(?:bearer|basic)\s\S",
    re.IGNORECASE,
)
"""How keys of well-known services begin."""

_RANDOM = re.compile(
    r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16}|[A-Za-z]{24}"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    re.IGNORECASE,
)
"""What no word or name is: 16 letters and digits, 24 letters, or a UUID."""

_SECRET_PART = re.compile(r"secret|passw|api[_-]?key", re.IGNORECASE)
"""What a part of a path has in it that says what it is."""


class EndpointSettings(BaseModel):
    """How requests are sent, retried and paid for. Fits as a group into any configuration."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    concurrency: int = Field(default=16, ge=1)
    """Requests under way at the same time."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds from sending one request to having its whole answer."""
    retries: int = Field(default=5, ge=0)
    """Retries of a request after HTTP 408, 409, 429 or 5xx, a lost connection or a timeout. The
    waits double from 0.5 to 8 seconds; a server's Retry-After of up to two minutes is honoured, and
    a longer one ends the request."""
    key_variable: str | None = None
    """Name of the environment variable that holds the API key. Without it OPENAI_API_KEY, which
    may be unset. The key itself is never written anywhere."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens, for the cost in the usage."""
    completion_price: float | None = Field(default=None, ge=0)
    """Price of a million generated tokens."""
    extra_body: dict[str, Any] = {}
    """Further fields of every request. They replace fields of the same name, and null removes one
    that an endpoint refuses, such as `seed`. They are written down, so nothing that looks like a
    key is taken; `$NAME` as a value stands for an environment variable."""

    @field_validator("key_variable", mode="before")
    @classmethod
    def _is_a_name(cls, value: object) -> object:
        return variable_name(value)

    @field_validator("extra_body")
    @classmethod
    def _holds_no_secret(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if name := _secret_field(extra_body):
            named = "the name of a field" if _like_a_key(name) else f"field {name!r}"
            raise UserError(
                f"extra_body: {named} looks like a key (it is not shown, and nothing secret "
                "may be written down); export it in an environment variable NAME and give $NAME"
            )
        try:
            json.dumps(extra_body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not JSON: {error}") from None
        return extra_body

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price belong together; give both or none")
        return self

    def key(self) -> str | None:
        """The API key, read from the environment at every call so that it is stored nowhere.

        Raises:
            UserError: the named variable is not set, or its value cannot be a key.
        """
        name = self.key_variable or _DEFAULT_KEY_VARIABLE
        key = os.environ.get(name, "").strip()
        if not key and self.key_variable:
            raise UserError(f"key_variable {name}: no such environment variable; export it first")
        if not all("!" <= character <= "~" for character in key):
            raise UserError(
                f"environment variable {name}: holds characters that no API key has (spaces, "
                "line breaks or other than ASCII); export the key alone"
            )
        return key or None


_MOST_MODELS = 8


class Usage(BaseModel):
    """What was asked of an endpoint and what it took; `model_dump_json` writes it."""

    requests: int = 0
    """HTTP requests for answers, retries included."""
    retries: int = 0
    """Those of them that repeated an earlier one."""
    answered: int = 0
    """Conversations that got an answer from the endpoint."""
    cached: int = 0
    """Conversations that were answered from the cache, at no cost."""
    failed: int = 0
    """Conversations that got no answer."""
    prompt_tokens: int = 0
    """Tokens read, as the endpoint counts them."""
    completion_tokens: int = 0
    """Tokens generated, as the endpoint counts them."""
    unmetered: int = 0
    """Answers for which the endpoint reported no valid count of tokens; the counts are without
    them."""
    models: list[str] = Field(default_factory=list)
    """The names that the answers say their model has, the first few; more than one means that the
    endpoint changed its model on the way."""
    cost: float | None = None
    """Of the tokens counted, in the currency of the prices; None without prices."""

    def add(self, other: "Usage") -> None:
        """Add the counts and names of `other`, but not its cost."""
        for name in type(self).model_fields:
            if name not in ("cost", "models"):
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.models = sorted({*self.models, *other.models})[:_MOST_MODELS]

    def price(self, settings: EndpointSettings) -> None:
        """Set the cost of the tokens counted."""
        self.cost = None
        if settings.prompt_price is not None and settings.completion_price is not None:
            read = self.prompt_tokens * settings.prompt_price
            written = self.completion_tokens * settings.completion_price
            self.cost = (read + written) / 1e6


def variable_name(value: object) -> object:
    """Check the name of the environment variable that holds a key.

    Raises:
        UserError: it is no such name; not a ValueError, because those are reported with the value,
            which may be the key itself.
    """
    if isinstance(value, str) and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
        raise UserError(
            "key_variable must be the name of an environment variable, in capital letters "
            f"like {_DEFAULT_KEY_VARIABLE}, and not the key (the value is not shown)"
        )
    return value


def is_endpoint(model: str) -> bool:
    """Whether a model's name is the address of an endpoint, `http://...#name`."""
    return "://" in model


def model_name(name: str) -> str:
    """Check a model's name, which may be an address, before it is written to a run directory.

    Raises:
        UserError: an address that `split_address` refuses, a name that would be one with a user
            name in it if it had a scheme, or one that looks like a key.
    """
    if is_endpoint(name):
        split_address(name)
    elif not os.path.exists(os.path.expanduser(name)) and (
        "@" in name or _KNOWN_KEY.match(name) or ("/" not in name and _like_a_key(name))
    ):
        raise UserError(
            "a model's name has an @ in it or looks like a key, and is no folder (it is not shown, "
            "for it may be secret); give a folder, a hub id, or http://HOST:PORT/v1#MODEL and the "
            "key in the environment"
        )
    return name


def split_address(address: str) -> tuple[str, str]:
    """Server and model of `http://host:port/v1#model`; a missing path means `/v1`.

    Raises:
        UserError: the scheme is not http or https, there is no host or no `#model`, or the address
            has a user name, password or query (which may hold a key and are not shown).
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UserError(f"endpoint: host or port cannot be read; {_ADDRESS}") from None
    at = "endpoint" if _KNOWN_KEY.search(host or "") else f"endpoint on {host}"
    path, model = unquote(parts.path), unquote(parts.fragment)
    if "@" in parts.netloc + path or parts.query or set("?;=") & {*path, *model}:
        raise UserError(
            f"{at}: user names, passwords, queries and parameters are not taken from the address "
            f"(nothing secret may be written down); {_ADDRESS} and the key in the environment"
        )
    open_parts = [part for part in path.split("/") if not _named(part)]
    if _KNOWN_KEY.search(f"{parts.netloc} {model}") or any(
        _like_a_key(part) or _SECRET_PART.search(part) for part in open_parts
    ):
        raise UserError(
            f"{at}: a part of the address looks like a key (it is not shown, and nothing secret "
            "may be written down); export it in an environment variable NAME and put $NAME in its "
            "place"
        )
    if parts.scheme not in ("http", "https"):
        raise UserError(f"endpoint {address!r}: scheme {parts.scheme!r}; {_ADDRESS}, or https")
    if not host or any(map(str.isspace, parts.netloc + parts.path)):
        raise UserError(f"endpoint {address!r}: names no host, or has spaces in it; {_ADDRESS}")
    if not parts.fragment.strip():
        raise UserError(
            f"endpoint {address!r}: names no model; add the name that the server knows it by: "
            f"{address.rstrip('#')}#MODEL"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}", parts.fragment.strip()


def from_environment(value: Any) -> Any:
    """A value of `extra_body`, or an address, with what the environment holds for each `$NAME` that
    is a whole value or a whole part of the address.

    Raises:
        UserError: there is no such variable.
    """
    if isinstance(value, dict):
        return {name: from_environment(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [from_environment(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return "/".join(
        _variable(name) if (name := _named(part)) else part for part in value.split("/")
    )


def secrets_in(value: Any) -> list[str]:
    """What `from_environment` puts into a value, to be hidden from what a server says."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [secret for inner in inside for secret in secrets_in(inner)]
    parts = value.split("/") if isinstance(value, str) else []
    return [_variable(name) for part in parts if (name := _named(part))]


def _like_a_key(text: str) -> bool:
    return bool(_KNOWN_KEY.search(text) or _RANDOM.search(text))


def _named(part: str) -> str | None:
    found = _IN_ENVIRONMENT.fullmatch(part)
    return found[1] if found else None


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserError(f"endpoint: ${name}: no such environment variable; export it first")
    return value


def _secret_field(
    value: Any, name: str = "", below: str | None = None, described: bool = False
) -> str | None:
    """The name of the first field, at any depth, that looks like a secret; None: none does.

    `below` is the name of the innermost group around it that is named like a secret; `described`:
    its own name is that of a property in a JSON schema, and says nothing of the value.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # a group within a flag's JSON
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if _SECRET_NAME.fullmatch(name) and not described:
        below = name
    if isinstance(value, dict):
        if found := next((str(name) for name in value if _like_a_key(str(name))), None):
            return found
        inner = [(of, str(key), below, name in _SCHEMA_NAMES) for key, of in value.items()]
    elif isinstance(value, list):
        inner = [(of, name, below, described) for of in value]
    elif value is None or isinstance(value, bool) or value == "" or _named(str(value)):
        return None
    else:
        return name if isinstance(value, str) and _like_a_key(value) else below
    return next((found for one in inner if (found := _secret_field(*one))), None)


_SCHEMA_NAMES = ("properties", "$defs", "definitions", "patternProperties")
"""Groups of a JSON schema whose members are named by what the schema describes."""
