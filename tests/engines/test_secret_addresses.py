"""An address or a request with a secret in it is refused before anything is written, and is not
repeated; one that is kept in the environment is sent and nowhere else."""

import json
from pathlib import Path

import pytest

from endpoints import Asked, Handler, completion, serving
from redraft.cli import run as redraft
from redraft.engines.endpoints import EndpointSettings, from_environment, split_address
from redraft.errors import UserError, holds_key

SECRET = "SECRETPW"

ADDRESSES = [
    f"http://user:{SECRET}@127.0.0.1:9/v1#m",
    f"https://{SECRET}@127.0.0.1:9/v1#m",
    f"http://127.0.0.1:9/v1?api_key={SECRET}#m",
    f"http://127.0.0.1:9/v1#m?api_key={SECRET}",
    f"http:///user:{SECRET}@127.0.0.1:9/v1#m",
    f"user:{SECRET}@127.0.0.1:9/v1#m",
    f"http://127.0.0.1:9/{SECRET}/v1#m",
    "http://127.0.0.1:9/sk-SECRETPW1/v1#m",
    "http://127.0.0.1:9/v1/0123SECRETPW4567#m",
]

COMMANDS = [
    "train rise --improve teacher --teacher",
    "train bon-sft --improve teacher --teacher",
    "train off-policy-sft --teacher",
    "train rise --model",
    "train tripost --feedback teacher --teacher",
    "train cap --task lab/arithmetic --sources",
    "eval --task lab/sorting --model",
    "eval --task lab/arithmetic --strategy cap --sources",
    "collect --task lab/sorting --model",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_is_written_or_shown(
    address: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert redraft([*command.split(), address, "--out", str(out)]) == 2
    assert not out.exists()
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert line.startswith("redraft: error: ")
    assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize(
    "address",
    [
        f"http://127.0.0.1:9/v1;key={SECRET}#m",
        f"http://127.0.0.1:9/token={SECRET}/v1#m",
        f"http://127.0.0.1:9/v1%3Bkey%3D{SECRET}#m",
        f"http://127.0.0.1:9/v1#sk-{SECRET}",
        f"http://sk-{SECRET}.host:9/v1#m",
    ],
)
def test_a_secret_in_any_part_of_an_address_is_refused(address: str) -> None:
    with pytest.raises(UserError) as refused:
        split_address(address)
    assert SECRET.lower() not in str(refused.value).lower()


@pytest.mark.parametrize("option", ["--teacher", "--sources", "--model"])
def test_none_is_shown_where_something_else_is_wrong_too(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "cap" if option == "--sources" else "rise"
    wrong = [option, f"{ADDRESSES[0]},{ADDRESSES[0]}", "--epochs", "-1"]
    assert redraft(["train", method, *wrong, "--out", str(tmp_path / "run")]) == 2
    assert SECRET not in capsys.readouterr().err


def test_one_in_a_file_is_refused_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"improve: teacher\nteacher: {ADDRESSES[0]}\n")
    out = tmp_path / "run"
    assert redraft(["train", "rise", "--config", str(file), "--out", str(out)]) == 2
    assert not out.exists()
    assert SECRET not in capsys.readouterr().err


def test_a_folder_may_have_an_at_sign_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()
    wanted = ["--task", "lab/sorting", "--model", str(folder), "--out", str(tmp_path / "run")]
    assert redraft(["eval", *wanted]) == 2
    assert "model@home" in capsys.readouterr().err


BODIES = [
    {"api_key": SECRET},
    {"token": SECRET},
    {"extra_headers": {"X-Api-Key": SECRET}},
    {"auth": [{"Authorization": f"Bearer {SECRET}"}]},
    {"user": f"sk-{SECRET}"},
    {"user": f"0123456789abc{SECRET}"},
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("command", ["eval --task lab/sorting --http", "train rise --teacher-http"])
def test_no_secret_in_a_request_is_written_or_shown(
    command: str, body: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "config.yaml", tmp_path / "run"
    group = command.split("--")[-1].replace("-", "_")
    file.write_text(json.dumps({group: {"extra_body": body}}))
    start = command.rpartition(" --")[0].split()
    for given in (["--config", str(file)], [f"--{command.split('--')[-1]}.extra-body",
                                            json.dumps(body)]):  # fmt: skip
        wanted = [*start, "--model", "http://127.0.0.1:9/v1#m", *given, "--out", str(out)]
        assert redraft(wanted) == 2
        assert not out.exists()
        shown = capsys.readouterr()
        [line] = shown.err.splitlines()
        assert "looks like a key" in line
        assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize(
    "body",
    [
        {"top_k": 5, "min_tokens": 3, "stop_token_ids": [1, 2], "prompt_cache_key": "lab"},
        {"guided_regex": "^[0-9]+$", "guided_json": {"$ref": "#/$defs/Item"}, "seed": None},
        {"provider": {"order": ["deepinfra/fp8"], "model": "claude-3-5-sonnet-20241022"}},
        {"guided_json": {"properties": {"password": {"type": "string"}, "key": {"enum": ["a"]}}}},
    ],
)
def test_fields_that_are_no_secrets_are_taken(body: dict[str, object]) -> None:
    assert from_environment(EndpointSettings(extra_body=body).extra_body) == body


@pytest.mark.parametrize(
    "body",
    [
        *({name: SECRET} for name in ("cookie", "api_keys", "passphrase", "jwt")),
        {"headers": {"Ocp-Apim-Subscription-Key": [SECRET]}},
        {"api_key": 12345678},
        *({"user": start + SECRET} for start in ("xoxb-", "github_pat_", "SG.", "ya29.")),
        {"user": f"ABCDEFGHIJKLMNOP{SECRET}"},
        {"user": "0b5bd8b5-9d6f-4f5e-8ee0-9f0e5b9d3c11"},
        {"metadata": {f"sk-{SECRET}": 1}},
        {"auth": {"kind": {"value": SECRET}}},
        {"credentials": [{"id": 1, "of": [SECRET]}]},
    ],
)
def test_more_names_and_values_that_look_like_keys(body: dict[str, object]) -> None:
    with pytest.raises(UserError, match="looks like a key") as refused:
        EndpointSettings(extra_body=body)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("value", [f"sk-{SECRET}", f'[{{"api_key": "sk-{SECRET}"}}]'])
def test_a_flag_of_an_endpoint_is_not_repeated(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--http.extra-body", "--http.timeout"):
        assert redraft(["eval", "--task", "lab/sorting", flag, value]) == 2
        said = capsys.readouterr().err
        assert flag in said
        assert SECRET not in said


@pytest.mark.parametrize("line", ["key_variable: [sk-{}]", "extra_body: sk-{}", "timeout: sk-{}",
                                  "sk-{}: 1"])  # fmt: skip
def test_a_file_for_an_endpoint_is_not_repeated(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"http:\n  {line.format(SECRET)}\n")
    assert redraft(["eval", "--task", "lab/sorting", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert "http" in said
    assert SECRET not in said


def test_secrets_are_sent_from_the_environment_and_hidden_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROUTE", SECRET)
    monkeypatch.setenv("TENANT", "TENANTPW")
    asked: list[tuple[str, object]] = []

    def behave(handler: Handler, request: Asked) -> None:
        if request.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
            return
        asked.append((handler.path, request.body["tenant"]))
        if len(asked) == 1:
            handler.send(400, {"error": {"message": f"no {SECRET} for TENANTPW"}})
        else:
            handler.send(200, completion("1"))

    out = tmp_path / "run"
    with serving(behave) as endpoint:
        model = endpoint.model.replace("/v1#", "/$ROUTE/v1#")
        body = json.dumps({"tenant": "$TENANT"})
        told = (
            f"eval --task lab/sorting --limit 3 --samples 1 --turns 1 --model {model} --out {out}"
        )
        assert redraft([*told.split(), "--http.extra-body", body]) == 0
    assert {tenant for _, tenant in asked} == {"TENANTPW"}
    assert all(path.startswith(f"/{SECRET}/v1/") for path, _ in asked)
    shown = capsys.readouterr()
    written = "".join(p.read_text() for p in out.rglob("*") if p.is_file())
    assert "$TENANT" in written
    for text in (shown.out, shown.err, written):
        assert SECRET not in text
        assert "TENANTPW" not in text


def test_a_name_that_is_too_long_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert redraft(["eval", "--task", "lab/sorting", "--model", "a@" * 5000]) == 2
    assert "has an @ in it" in capsys.readouterr().err


KEYS = [
    f"sk-proj-{SECRET}0123456789",
    f"hf_{SECRET}abcdefghij",
    f"ghp_{SECRET}0123456789",
    f"AKIA0123{SECRET}",
    f"https://me:{SECRET}@host/rows.jsonl",
    f"https://host/rows.jsonl?token={SECRET}",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["model", "data", "prompts", "task", "grader"])
def test_a_key_as_the_value_of_any_setting(
    name: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "config.yaml", tmp_path / "run"
    told = {"task": "lab/sorting", name: key}
    file.write_text(json.dumps(told))
    flags = [word for one, value in told.items() for word in (f"--{one}", value)]
    for given in (["--config", str(file)], flags):
        assert redraft(["eval", *given, "--out", str(out)]) == 2
        assert not out.exists()
        shown = capsys.readouterr()
        [line] = shown.err.splitlines()
        assert "not shown" in line
        assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize("model", [f"sk-{SECRET}", f"0123456789abc{SECRET}", f"hf_{SECRET}"])
def test_a_key_in_a_models_place(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--task", "lab/sorting", "--model", model, "--out", str(tmp_path / "run")]
    assert redraft(["eval", *told]) == 2
    assert not (tmp_path / "run").exists()
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "seed: !!int {}",
        "seed: !!float {}",
        "model: !{} x",
        "model: !!{} x",
        "&{} a: *{}",
        "sk-{}0123456789: 1",
        "x: !{}!y z",
    ],
)
def test_what_is_no_yaml_is_not_repeated(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(line.replace("{}", SECRET) + "\n")
    assert redraft(["eval", "--task", "lab/sorting", "--config", str(file)]) == 2
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["grade --task {}", "locate --task {} rows", "report {}", "tasks {}", "{}", "eval --{}"]
)
def test_no_command_repeats_a_key(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert redraft(line.format(KEYS[0]).split()) == 2
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "runs/sk-learn-random-forest-classifier",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "task-0123456789abcdef0123",
        "http://127.0.0.1:8000/v1#Qwen/Qwen3-8B",
        "/home/me@work/models/ghp_tuned",
        "What is 3?key",
    ],
)
def test_names_that_are_no_keys(text: str) -> None:
    assert not holds_key(text)
    assert str(UserError(text)) == text
