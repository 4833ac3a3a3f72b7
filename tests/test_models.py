"""Loading models: what comes out, and one quick line for every kind of missing model."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner
from redraft.learning.rows import TrainingRow
from redraft.models import load_model, locate, parameter_count, torch_device
from tiny_gguf import with_type, write_gguf
from tiny_models import tiny_llama, tiny_tokenizer

# peft asks transformers for an attribute whose name is going to change.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model's folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama(layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to take something away from."""
    return Path(shutil.copytree(saved, tmp_path / "damaged"))


def mistake(name: str | Path) -> str:
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_model(name, device="cpu")
    assert time.monotonic() - began < 10  # transformers itself retries for half a minute
    message = str(caught.value)
    assert "\n" not in message
    assert str(name) in message
    return message


def test_a_saved_model_comes_back(saved: Path) -> None:
    model, tokenizer = load_model(saved, device="cpu")
    tokens = torch.tensor([tokenizer.encode("2+2=")])
    expected = tiny_llama(layers=1)(tokens).logits
    assert not model.training
    assert model.dtype == torch.float32
    torch.testing.assert_close(model(tokens).logits, expected)


def test_dtype_is_as_told_and_float32_for_training(saved: Path) -> None:
    assert load_model(saved, device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    model, _ = load_model(saved, device="cpu", training=True)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())


def test_short_weights_stay_short_where_the_processor_multiplies_them(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama(layers=1).bfloat16().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for bf16, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("redraft.models.has_bf16", lambda device, bf16=bf16: bf16)
        assert load_model(tmp_path, device="cpu")[0].dtype == expected
        assert load_model(tmp_path, device="cpu", training=True)[0].dtype == torch.float32
        assert load_model(saved, device="cpu")[0].dtype == torch.float32


def test_a_tokenizer_without_padding_pads_with_its_end_token(damaged: Path) -> None:
    file = damaged / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["pad_token"]
    file.write_text(json.dumps(config))
    _, tokenizer = load_model(damaged, device="cpu")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    del config["eos_token"]
    file.write_text(json.dumps(config))
    assert "neither a padding nor an end-of-text token" in mistake(damaged)


def test_lora_trains_adapters_alone_and_starts_as_the_base_model(saved: Path) -> None:
    base, tokenizer = load_model(saved, device="cpu")
    model, _ = load_model(saved, device="cpu", training=True, lora_rank=2)
    tokens = torch.tensor([tokenizer.encode("2+2=")])
    torch.testing.assert_close(model(tokens).logits, base(tokens).logits)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert {name.split(".")[-4] for name in trained} >= {"q_proj", "down_proj"}


def test_a_lora_folder_is_put_on_its_base_model(saved: Path, tmp_path: Path) -> None:
    base, tokenizer = load_model(saved, device="cpu", training=True)
    base.config.name_or_path = base.name_or_path = str(saved)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.tensor([tokenizer.encode("2+2=")])
    expected = adapted.eval()(tokens).logits

    merged, _ = load_model(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert not any("lora_" in name for name, _ in merged.named_parameters())

    trainable, _ = load_model(tmp_path / "adapter", device="cpu", training=True)
    torch.testing.assert_close(trainable(tokens).logits, expected)
    assert {name for name, w in trainable.named_parameters() if w.requires_grad} == {
        name for name, _ in trainable.named_parameters() if "lora_" in name
    }


def test_lora_on_layers_that_are_not_there(saved: Path) -> None:
    with pytest.raises(UserError, match="lora_targets"):
        load_model(saved, device="cpu", lora_rank=2, lora_targets=["no_such_layer"])


def test_a_path_that_is_not_there() -> None:
    assert "no such folder" in mistake("./no/such/model")
    assert "no such folder" in mistake("/no/such/model")


def test_a_hub_id_that_cannot_be_had() -> None:
    # Which of the two depends on whether this machine can reach the hub.
    message = mistake("redraft-tests/there-is-no-such-model")
    assert "the hub cannot be reached" in message or "no such model on the hub" in message


def test_neither_path_nor_hub_id() -> None:
    assert "not a hub id" in mistake("two words")


def test_an_endpoint_has_no_weights() -> None:
    assert "endpoint" in mistake("http://localhost:8000/v1#name")


def test_a_file_is_not_a_folder(saved: Path) -> None:
    assert "a file" in mistake(saved / "config.json")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    assert "no config.json" in mistake(tmp_path)


def test_a_runs_folder_points_to_its_newest_checkpoint(saved: Path, tmp_path: Path) -> None:
    for step in ("step-000010", "step-000020"):
        shutil.copytree(saved, tmp_path / "checkpoints" / step)
    message = mistake(tmp_path)
    assert f"did you mean {tmp_path / 'checkpoints' / 'step-000020'}?" in message


def test_a_model_without_its_tokenizer(damaged: Path) -> None:
    (damaged / "tokenizer.json").unlink()
    assert "no tokenizer" in mistake(damaged)


def test_pickled_weights_are_refused(damaged: Path) -> None:
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    assert "no *.safetensors" in mistake(damaged)


def test_weights_cut_short(damaged: Path) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded" in mistake(damaged)


def test_weights_that_are_missing_are_not_made_up(damaged: Path) -> None:
    file = damaged / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    assert "lack 1 weights (model.layers.0.mlp.up_proj.weight)" in mistake(damaged)


@pytest.mark.parametrize("normalizer", ["{", '{"type": "Nonsense"}', "nested"])
def test_a_tokenizer_that_cannot_be_read(damaged: Path, normalizer: str) -> None:
    file, depth = damaged / "tokenizer.json", 100_000
    nested = '{"type": "Sequence", "normalizers": [' * depth + "]}" * depth
    text = json.dumps({**json.loads(file.read_text()), "normalizer": "HERE"})
    file.write_text(text.replace('"HERE"', nested if normalizer == "nested" else normalizer))
    assert "its tokenizer cannot be loaded" in mistake(damaged)


def test_a_configuration_of_an_unknown_kind(damaged: Path) -> None:
    (damaged / "config.json").write_text('{"model_type": "abacus"}')
    assert "abacus" in mistake(damaged)


def test_a_configuration_that_is_not_json(damaged: Path) -> None:
    (damaged / "config.json").write_text("{")
    assert "cannot be loaded" in mistake(damaged)


def test_a_folder_is_used_without_the_hub(saved: Path) -> None:
    assert locate(saved) == (str(saved), True)


# GGUF


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def test_a_gguf_file_is_dequantised(gguf: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(gguf, device="cpu", dtype="float32")
    weights = dict(model.named_parameters())
    stored = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
    ):
        tensor = stored[theirs]
        expected = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        torch.testing.assert_close(weights[ours], expected, rtol=0, atol=0)
    assert tokenizer.decode(tokenizer.encode("lab!")) == "lab!"
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab"}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<s>ab</s><s>"
    # What was made of it is a model like others.
    model.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    again, _ = load_model(tmp_path / "folder", device="cpu")
    tokens = torch.tensor([tokenizer.encode("lab!")])
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits)


def test_a_gguf_file_can_be_trained_and_is_the_base_of_its_adapter(
    gguf: Path, tmp_path: Path
) -> None:
    model, _ = load_model(gguf, device="cpu", training=True)
    assert all(weight.requires_grad for weight in model.parameters())
    adapted, _ = load_model(gguf, device="cpu", training=True, lora_rank=2)
    adapted.save_pretrained(tmp_path / "adapter")
    merged, _ = load_model(tmp_path / "adapter", device="cpu")
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(merged(tokens).logits, model(tokens).logits)


def test_a_gguf_file_that_is_not_there() -> None:
    assert "no such file" in mistake("tiny.gguf")


def test_a_gguf_file_cut_short(gguf: Path) -> None:
    content = gguf.read_bytes()
    for length in (2, 100, len(content) // 2, len(content) - 100):
        gguf.write_bytes(content[:length])
        assert "not a whole GGUF file" in mistake(gguf)
    gguf.write_bytes(b"PK" + content[2:])
    assert "not a whole GGUF file" in mistake(gguf)


@pytest.mark.parametrize("number", [99, 26])  # there is none; I32, which holds no weights
def test_a_gguf_file_of_an_unknown_type(gguf: Path, number: int) -> None:
    message = mistake(with_type(gguf, "blk.0.attn_q.weight", number))
    assert "cannot be dequantised" in message
    assert "Q8_0" in message


def test_gguf_needs_its_extra(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'redraft[gguf]'" in mistake(gguf)


def test_devices() -> None:
    assert torch_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device gpu: not a device"):
        torch_device("gpu")
    with pytest.raises(UserError, match="CUDA devices"):
        torch_device("cuda:99")


def test_devices_that_are_not_supported() -> None:
    with pytest.raises(UserError, match="--device mps: mps is not supported; use auto, cpu, cuda"):
        torch_device("mps")


def gpt2(folder: Path) -> Path:
    """A tiny GPT-2 with its usual dropout of 0.1 everywhere."""
    torch.manual_seed(0)
    settings = GPT2Config(
        vocab_size=len(tiny_tokenizer()), n_positions=64, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_training_has_no_dropout(tmp_path: Path) -> None:
    """Log-probabilities of training are those of the policy that sampled."""
    model, _ = load_model(gpt2(tmp_path), device="cpu", training=True)
    tokens = [5, 9, 17, 30, 8, 21]
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    sampled = logits.log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0]
    streams = TrainingRow(
        tokens, [0] + [1] * 5, advantage=[0] + [1] * 5, old_logprob=[0, *sampled.tolist()]
    )
    for checkpointing in (False, True):
        config = LearnerConfig(learning_rate=1e-9, gradient_checkpointing=checkpointing)
        assert Learner(model, config).step([streams])["logprob_gap/max"] < 1e-5


def test_numbers_that_attention_passes_to_functions_are_no_dropout_either(tmp_path: Path) -> None:
    llama = tiny_llama(layers=1)
    llama.config.attention_dropout = 0.5
    llama.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tokens = torch.tensor([[5, 9, 17, 30]])
    untrained, _ = load_model(tmp_path, device="cpu")
    assert not torch.equal(untrained.train()(tokens).logits, untrained(tokens).logits)
    model, _ = load_model(tmp_path, device="cpu", training=True)
    torch.testing.assert_close(model.train()(tokens).logits, model.eval()(tokens).logits)


def test_code_that_a_model_brings_is_never_run(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the user asked whether to."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks to run it"))
    told = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", None],
    }
    (damaged / "evil.py").write_text("raise SystemExit('run')")
    for name in ("config.json", "tokenizer_config.json"):
        file = damaged / name
        fields = json.loads(file.read_text())
        file.write_text(json.dumps({**fields, "auto_map": told, "model_type": "evil"}))
    assert "cannot be loaded" in mistake(damaged)
    assert parameter_count(damaged) is None


@pytest.mark.parametrize("named", ["somebody/attention", "flash_attention_2", "x"])
def test_attention_of_the_hub_is_never_fetched(
    named: str, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained",
        lambda *_, **__: pytest.fail("loads the model"),
    )
    for field in ("attn_implementation", "_attn_implementation"):
        changed(damaged / "config.json", **{field: named})
        assert f"names {named!r} for attention" in mistake(damaged)


def changed(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_local_experts"])
def test_more_layers_than_weights_are_never_built(field: str, damaged: Path) -> None:
    changed(damaged / "config.json", **{field: 10**9})
    assert "1000000000 layers" in mistake(damaged)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "added_tokens.json",
        "model.safetensors",
        "additional_chat_templates/one.jinja",
    ],
)
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(name: str, put: Callable[[Path], None], damaged: Path) -> None:
    (damaged / name).parent.mkdir(exist_ok=True)
    (damaged / name).unlink(missing_ok=True)
    put(damaged / name)
    assert f"{Path(name).name} is no file; remove it" in mistake(damaged)


def test_a_file_of_settings_that_is_too_large(damaged: Path) -> None:
    os.truncate(damaged / "tokenizer_config.json", 2**30)
    assert "tokenizer_config.json has 1,073,741,824 bytes" in mistake(damaged)


@pytest.mark.parametrize("eos", ["x", [10**30], [-1], [True], list(range(2000))])
def test_ends_of_a_response_are_a_few_ids(eos: object) -> None:
    with pytest.raises(UserError, match=r"is no id of a token|2,002 tokens end a response"):
        ChatTemplate(tiny_tokenizer(), generation_config=GenerationConfig(eos_token_id=eos))


def test_a_special_token_without_end_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["a" * 2000]})
    with pytest.raises(UserError, match="a special token of 2,000 characters"):
        ChatTemplate(tokenizer)


@pytest.mark.parametrize("fields", [{"model_max_length": "x"}])
def test_settings_of_a_tokenizer_that_it_cannot_work_with(
    fields: dict[str, object], damaged: Path
) -> None:
    changed(damaged / "tokenizer_config.json", **fields)
    assert "its tokenizer cannot be loaded" in mistake(damaged)


def test_the_home_of_a_user_who_is_not_there() -> None:
    assert "no such folder" in mistake("~nobody-at-all/model")


def test_a_base_model_whose_name_is_too_long_for_a_path(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "./" + "a" * 9999}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"layer_replication": [[0, 10**9]]}, {"megatron_config": {"a": 1}, "megatron_core": "this"}],
)
def test_adapters_that_build_or_import_more_are_refused(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    config = {"base_model_name_or_path": "lab", "peft_type": "LORA", **fields}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert f"{next(iter(fields))} is not supported" in mistake(tmp_path)


@pytest.mark.parametrize(
    "fields", [{"target_modules": "((\\w|\\.)+)+!"}, {"rank_pattern": {"(": 1}}]
)
def test_patterns_of_an_adapter_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    config = {"base_model_name_or_path": "lab", "peft_type": "LORA", **fields}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "is a pattern; list the names of layers" in mistake(tmp_path)
