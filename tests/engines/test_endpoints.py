"""Endpoints: addresses, settings, and mistakes that are seen before anything is asked."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from endpoints import Asked, Endpoint, Handler, serving
from redraft.engines.endpoints import EndpointSettings, is_endpoint
from redraft.engines.openai import OpenAIEngine
from redraft.errors import UserError


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


def test_check_passes_where_the_model_is(endpoint: Endpoint) -> None:
    OpenAIEngine.from_url(endpoint.model).check()
    assert endpoint.bodies == []


@pytest.mark.parametrize("status", [404, 429, 500])
def test_check_passes_a_server_without_a_list(endpoint: Endpoint, status: int) -> None:
    endpoint.behave = lambda handler, asked: handler.send(status, b"")
    OpenAIEngine.from_url(endpoint.model).check()


def test_check_believes_the_model_more_than_the_list(endpoint: Endpoint) -> None:
    chat = OpenAIEngine.from_url(f"{endpoint.url}#unlisted")
    chat.check()  # it answers all the same
    assert [body["max_tokens"] for body in endpoint.bodies] == [1]

    def strict(handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            handler.send(200, {"data": [{"id": "tiny"}, {"id": "small"}]})
        else:
            handler.send(404, {"error": {"message": "no such model"}})

    endpoint.behave = strict
    with pytest.raises(UserError, match=r"#unlisted: HTTP 404.*no such model.*lists tiny, small"):
        chat.check()


def test_check_refuses_a_key_that_the_server_refuses(endpoint: Endpoint) -> None:
    endpoint.behave = lambda handler, asked: handler.send(401, b"bad key")
    with pytest.raises(UserError, match=r"HTTP 401 Unauthorized: bad key; export the right"):
        OpenAIEngine.from_url(endpoint.model).check()


@pytest.mark.parametrize(
    ("address", "server", "model"),
    [
        ("http://127.0.0.1:8000/v1#tiny", "http://127.0.0.1:8000/v1", "tiny"),
        ("http://localhost:8000#org/name-1.5B:free", "http://localhost:8000/v1", "org/name"),
        ("HTTPS://api.example.com/v1/#x", "https://api.example.com/v1", "x"),
        ("http://[::1]:8000/openai/v1#x", "http://[::1]:8000/openai/v1", "x"),
        ("http://h/v1/chat/completions#x", "http://h/v1", "x"),
    ],
)
def test_addresses(address: str, server: str, model: str) -> None:
    assert is_endpoint(address)
    chat = OpenAIEngine.from_url(address)
    assert chat.server == server
    assert chat.model.startswith(model)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8000/v1", "names no model.*http://127.0.0.1:8000/v1#MODEL"),
        ("http://127.0.0.1:8000/v1#", "names no model"),
        ("ftp://host/v1#tiny", "scheme 'ftp'"),
        ("://host/v1#tiny", "scheme ''"),
        ("http:///v1#tiny", "names no host"),
        ("http://host:port/v1#tiny", "host or port cannot be read"),
        ("http://host:99999/v1#tiny", "host or port cannot be read"),
        ("http://[::1/v1#tiny", "host or port cannot be read"),
        ("http://999.1.1.1/v1#tiny", "Invalid IPv4 address.*expected http://HOST"),
        ("http://exa mple/v1#tiny", "names no host, or has spaces"),
    ],
)
def test_mistakes_in_an_address(address: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        OpenAIEngine.from_url(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["lab", "Qwen/Qwen3-0.6B", "./runs/x", "C:/models/x"])
def test_other_models_are_no_endpoints(model: str) -> None:
    assert not is_endpoint(model)


@pytest.mark.parametrize(
    "values",
    [
        {"concurrency": 0},
        {"timeout": 0},
        {"retries": -1},
        {"prompt_price": -1.0, "completion_price": 1.0},
        {"prompt_price": 1.0},
        {"tiemout": 3},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EndpointSettings.model_validate(values)


def test_without_the_extra_there_is_one_clear_line() -> None:
    program = (
        "import sys; sys.modules['openai'] = None\n"
        "import redraft, redraft.engines\n"
        "from redraft.engines.openai import OpenAIEngine\n"
        "OpenAIEngine.from_url('http://127.0.0.1:1/v1#tiny')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("redraft.errors.UserError: endpoint http://127.0.0.1:1/v1: needs")
    assert last.endswith("pip install 'redraft[endpoint]'")
