"""Loading a causal language model and its tokenizer, by a short name, from a folder, a GGUF file or
the hub."""

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redraft.errors import UserError
from redraft.registry import Registry
from redraft.system import has_bf16

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class NamedModel:
    """A model with a short name for `--model`, such as one that a package brings along."""

    name: str
    folder: Callable[[], Path]
    """Where it is, in Hugging Face format."""
    remedy: str
    """What to do if the folder holds no model, such as "make it with `...`"."""
    task_for: Callable[[str], str] | None = None
    """For a model that knows a few tasks only: the task whose texts a question is put in."""


MODELS: Registry[NamedModel] = Registry("named model", "redraft.models")


def load_model(
    name_or_path: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    training: bool = False,
    lora_rank: int = 0,
    lora_alpha: int | None = None,
    lora_targets: str | list[str] = "all-linear",
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A causal language model on `device`, in evaluation mode, and its tokenizer.

    `name_or_path` is a registered name (`redraft.registry.MODELS`), a folder in Hugging Face format
    (a model, or a LoRA adapter, which is put on its base model), a GGUF file, whose weights are
    dequantised, or a model id of the hub. Weights are read from safetensors or GGUF only and no
    code of the model's own is run.

    `dtype` "auto" is bfloat16 where the device multiplies it (`has_bf16`), on a CPU only if the
    weights are stored in at most 16 bits, and else float32. With `training` it is float32, since
    the optimiser needs full-precision master weights (the learner computes in bfloat16 under
    autocast), and dropout is off, since responses are sampled without it.
    `device` "auto" is the first GPU, else the CPU.

    With `lora_rank` r > 0 the weights are frozen and low-rank adapters are put on `lora_targets`,
    scaled by `lora_alpha` / r (2 r / r by default); a LoRA folder then trains on as it is.

    The tokenizer always has a padding token: its own, or else its end-of-text token.

    Raises:
        UserError: no such model, no tokenizer, no safetensors, a GGUF file that is cut or of an
            unknown quantisation, the hub cannot be reached, a device that is not there, an
            architecture that is no causal language model.
    """
    source, local_only = locate(name_or_path)
    adapter = _adapter_base(source)
    if adapter is not None:
        base, base_local_only = locate(adapter)
    else:
        base, base_local_only = source, local_only
    place = torch_device(device)
    tokenizer = _load_tokenizer(source if adapter is None else base, base_local_only)
    model = _load_weights(
        base, base_local_only, _torch_dtype(dtype, place, training, base, base_local_only)
    )
    if adapter is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, source, is_trainable=training)
            model = model if training else model.merge_and_unload()
        except Exception as error:  # as in _load_tokenizer
            reason = _first_line(error)
            raise UserError(f"--model {source}: adapter cannot be loaded ({reason})") from None
        lora_rank = 0
    if training:
        model = prepare_training(model, place, lora_rank, lora_alpha, lora_targets)
    elif lora_rank > 0:
        model = _with_lora(model, lora_rank, lora_alpha, lora_targets)
    return model.to(place).eval(), tokenizer


def prepare_training(
    model: Any,
    device: "torch.device",
    lora_rank: int = 0,
    lora_alpha: int | None = None,
    lora_targets: str | list[str] = "all-linear",
) -> Any:
    """A model with adapters where `lora_rank` > 0, without dropout, and with the attention whose
    backward pass is fast on `device`; see `load_model`.

    Raises:
        UserError: the model has no such `lora_targets`.
    """
    if lora_rank > 0:
        model = _with_lora(model, lora_rank, lora_alpha, lora_targets)
    if device.type == "cpu":
        # On a CPU the fused attention's backward pass in bfloat16 takes longer than all the rest.
        model.set_attn_implementation("eager")
    _without_dropout(model)
    return model


def locate(name_or_path: str | Path) -> tuple[str, bool]:
    """Where a model is, and whether only local files may be used because the hub is out of reach.

    Returns the folder, GGUF file or hub id. Checks what can be checked without loading anything,
    with one short request at most, so that a mistake is reported at once.

    Raises:
        UserError: see `load_model`.
    """
    name = str(name_or_path)
    if name in MODELS:
        folder = MODELS[name].folder()
        if not (folder / "config.json").is_file():
            raise UserError(f"--model {name}: {folder} holds no model; {MODELS[name].remedy}")
        return str(folder), True
    if name.startswith(("http://", "https://")):
        raise UserError(
            f"--model {name}: an endpoint has no weights to load; name a folder or hub id"
        )
    folder = Path(os.path.expanduser(name))
    if os.path.exists(folder):  # which a name that is too long for a path does not
        (_check_gguf if _is_gguf(name) else _check_folder)(name, folder)
        return str(folder), True
    if _is_path(name) or _is_gguf(name):
        kind = "file" if _is_gguf(name) else "folder"
        raise UserError(f"--model {name}: no such {kind} (from {Path.cwd()})")
    return name, _check_hub(name)


def model_config(name_or_path: str | Path) -> Any:
    """A model's transformers configuration, an adapter's that of its base.

    Raises:
        UserError: no such model, or a configuration that cannot be read.
    """
    source, local_only = _base_of(name_or_path)
    try:
        return _config_of(source, local_only)
    except Exception as error:  # as in _load_tokenizer
        raise UserError(f"--model {source}: cannot be loaded ({_first_line(error)})") from None


def load_tokenizer(name_or_path: str | Path) -> "PreTrainedTokenizerBase":
    """A model's tokenizer, an adapter's that of its base; see `load_model`."""
    return _load_tokenizer(*_base_of(name_or_path))


def _base_of(name_or_path: str | Path) -> tuple[str, bool]:
    """Where a model, or an adapter's base model, is; see `locate`."""
    source, local_only = locate(name_or_path)
    base = _adapter_base(source)
    return (source, local_only) if base is None else locate(base)


def parameter_count(name_or_path: str | Path) -> int | None:
    """How many weights a model has, tied ones once, from its configuration alone; None where that
    does not say. Raises what `load_model` raises for a model that is not there."""
    import torch
    from transformers import AutoModelForCausalLM

    source, local_only = _base_of(name_or_path)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_config_of(source, local_only))
    except Exception:
        return None  # `load_model` says what is wrong with it
    return sum(parameter.numel() for parameter in model.parameters())


def check_window(name_or_path: str | Path, max_tokens: int) -> None:
    """Refuse a length limit beyond a model's context window, by its configuration alone.

    Raises:
        UserError: `max_tokens` leaves no room for a problem; or as `load_model` for a model that is
            not there.
    """
    source, local_only = _base_of(name_or_path)
    try:
        text = _config_of(source, local_only).get_text_config()
    except Exception:
        return  # `load_model` says what is wrong with it
    window = getattr(text, "max_position_embeddings", None)
    if isinstance(window, int) and max_tokens >= window:
        raise UserError(
            f"--max-tokens {max_tokens}: --model {name_or_path} has a context window of {window} "
            "tokens, in which the problem and earlier responses must fit too; give less"
        )


def is_adapter(name_or_path: str | Path) -> bool:
    """Whether a name is that of a folder with a LoRA adapter."""
    return Path(os.path.expanduser(name_or_path), "adapter_config.json").is_file()


def torch_device(name: str) -> "torch.device":
    """The device that a name means; "auto" is the first GPU, else the CPU.

    Raises:
        UserError: not a device, or one that this machine does not have.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"--device {name}: {device.type} is not supported; use auto, cpu, cuda or cuda:N"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"--device {name}: this machine offers {count} CUDA devices; see redraft doctor"
        )
    return device


def _torch_dtype(
    dtype: Dtype, device: "torch.device", training: bool, source: str, local_only: bool
) -> "torch.dtype":
    import torch

    if dtype == "auto":
        fast = (
            has_bf16(device)
            and not training
            and (device.type != "cpu" or _is_short(source, local_only))
        )
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def _is_short(source: str, local_only: bool) -> bool:
    """Whether a model's weights are stored in at most 16 bits."""
    import torch

    if _is_gguf(source):
        return True
    try:
        stored = _config_of(source, local_only).dtype
    except Exception:  # a mistake that is reported where the model is loaded
        return False
    return stored in (torch.bfloat16, torch.float16)


def _config_of(source: str, local_only: bool) -> Any:
    """A model's configuration; no code that its folder may bring is run, whoever would agree."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        **_in_transformers_terms(source), trust_remote_code=False, local_files_only=local_only
    )


def _load_tokenizer(source: str, local_only: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            **_in_transformers_terms(source), trust_remote_code=False, local_files_only=local_only
        )
        tokenizer.decode(tokenizer("a")["input_ids"])  # settings are first looked at then
    except Exception as error:  # the file is somebody else's, and each library raises its own
        raise UserError(
            f"--model {source}: its tokenizer cannot be loaded ({_first_line(error)})"
        ) from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"--model {source}: its tokenizer has neither a padding nor an end-of-text token;"
                " set one of them in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_weights(source: str, local_only: bool, dtype: "torch.dtype") -> Any:
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = dict(_in_transformers_terms(source))
    try:
        if _is_gguf(source):
            from transformers import GgufConfig

            given["quantization_config"] = GgufConfig(dequantize=True)
        else:
            _check_attention(source, _config_of(source, local_only))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **given,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local_only,
            output_loading_info=True,
        )
    except UserError:
        raise
    except Exception as error:  # as in _load_tokenizer
        raise UserError(f"--model {source}: cannot be loaded ({_first_line(error)})") from None
    model, loading = loaded
    model.config.return_dict = True  # or else its folder would say
    if missing := sorted(loading["missing_keys"]):  # they would be random numbers, with no error
        raise UserError(f"--model {source}: its files lack {len(missing)} weights ({missing[0]})")
    if _is_gguf(source):
        model.name_or_path = model.config.name_or_path = source
        # peft looks for a config.json there when an adapter is saved
        warnings.filterwarnings("ignore", r"Could not find a config file in .*\.gguf")
        if quantizer := getattr(model, "hf_quantizer", None):  # it would keep the model from saving
            quantizer.remove_quantization_config(model)
    return model


def _check_attention(source: str, config: Any) -> None:
    """Refuse an attention that a model's folder names: the libraries would fetch and run it."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        named = getattr(part, "_attn_implementation", None)
        if named not in (None, "eager", "sdpa"):
            raise UserError(
                f"--model {source}: its config.json names {named!r} for attention, which may be "
                "code of the hub; take attn_implementation out of it"
            )


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _in_transformers_terms(source: str) -> dict[str, str]:
    """A folder or hub id as the argument of `from_pretrained`; a GGUF file as its two."""
    if not _is_gguf(source):
        return {"pretrained_model_name_or_path": source}
    file = Path(source)
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}


def _with_lora(model: Any, rank: int, alpha: int | None, targets: str | list[str]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=targets,
        lora_dropout=0.0,  # dropout would make training log-probs differ from the rollout's
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora_targets {targets!r}: {_first_line(error)}") from None


def _without_dropout(model: Any) -> None:
    """Set every probability of dropout to 0: of modules, of the numbers that attention passes to
    functions, and of the configuration, for what is read from it in a forward pass."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for holder in (*model.modules(), model.config, model.config.get_text_config()):
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)


def _adapter_base(source: str) -> str | None:
    """The base model of a folder that holds a LoRA adapter; None for any other source.

    What an adapter says of layers is matched with the names of all layers, so a pattern of somebody
    else's could take for ever: names are taken and no patterns.
    """
    if not is_adapter(source):
        return None
    file = Path(source) / "adapter_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
        base = str(config["base_model_name_or_path"])
        for field in ("layer_replication", "megatron_config"):  # any number of layers; any module
            if config.get(field):
                raise UserError(f"{file}: {field} is not supported; merge it into the base model")
        for field in _OF_LAYERS:
            named = config.get(field) or []
            for name in [named] if isinstance(named, str) else named:
                if not re.fullmatch(r"[\w.-]+", name):
                    raise UserError(f"{file}: {field} is a pattern; list the names of layers")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: names no base_model_name_or_path") from None
    return base


_OF_LAYERS = (
    "target_modules",
    "exclude_modules",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)


def _check_folder(name: str, folder: Path) -> None:
    """Refuse what is not a folder with a configuration, a tokenizer and safetensors."""
    if not folder.is_dir():
        raise UserError(
            f"--model {name}: a file; name the folder that holds config.json, or a .gguf file"
        )
    _check_files(name, folder)
    if is_adapter(folder):
        if not (folder / "adapter_model.safetensors").is_file():
            raise UserError(
                f"--model {name}: no adapter_model.safetensors; other formats can run code when "
                "read, convert with model.save_pretrained"
            )
        return
    if not (folder / "config.json").is_file():
        inside = [*sorted(folder.glob("*/*/config.json")), *folder.glob("model/config.json")]
        hint = (
            f"; did you mean {inside[-1].parent}?" if inside else "; name a folder with config.json"
        )
        raise UserError(f"--model {name}: not a model's folder, it has no config.json{hint}")
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(
            f"--model {name}: no tokenizer (tokenizer.json); save it there with"
            " tokenizer.save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"--model {name}: no *.safetensors; other formats can run code when read, convert with"
            " model.save_pretrained"
        )
    _check_layers(name, folder)


def _check_files(name: str, folder: Path) -> None:
    """Refuse what would be waited for, or read without end."""
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if not path.exists() or path.is_dir():
            continue
        if not path.is_file():
            raise UserError(f"--model {name}: {path.name} is no file; remove it")
        size, most = path.stat().st_size, _LARGEST.get(path.name, _LARGEST.get(path.suffix))
        if most is not None and size > most:
            raise UserError(f"--model {name}: {path.name} has {size:,} bytes; remove it")


_LARGEST = {
    **dict.fromkeys((".json", ".jinja", ".txt", ".model"), 2**28),
    **dict.fromkeys(("config.json", "generation_config.json", "adapter_config.json"), 2**22),
}
"""Bytes of files that are no weights, by suffix or name; real ones have a tenth of it."""


def _check_layers(name: str, folder: Path) -> None:
    """Refuse a configuration of more layers than there are weights: all would be built."""
    from safetensors import SafetensorError, safe_open

    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
        tensors = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="np") as weights:
                tensors += len(weights.keys())
    except (ValueError, RecursionError, OSError, SafetensorError):
        return  # `load_model` says what is wrong with it
    if (layers := _most_layers(content)) > max(tensors, _MOST_LAYERS):
        raise UserError(
            f"--model {name}: its config.json has {layers} layers, its files {tensors}"
            " weights; put config.json back from a copy"
        )


_MOST_LAYERS = 1000
"""Layers or experts that a model may have whatever its files hold."""


def _most_layers(config: Any) -> int:
    """The largest number of layers or experts anywhere in a configuration."""
    if not isinstance(config, dict):
        return 0
    own = [
        value
        for key, value in config.items()
        if isinstance(value, int) and re.search(r"layers?$|experts$", key)
    ]
    return max([*own, *map(_most_layers, config.values())], default=0)


def _check_gguf(name: str, file: Path) -> None:
    """Refuse a GGUF file that is not whole or that holds weights which cannot be dequantised."""
    try:
        from gguf import GGUFReader, dequantize
    except ImportError:
        raise UserError(
            f"--model {name}: reading GGUF needs a package that is not installed; "
            "pip install 'redraft[gguf]'"
        ) from None
    try:
        by_type = {tensor.tensor_type: tensor for tensor in GGUFReader(file).tensors}
        for tensor in by_type.values():
            dequantize(tensor.data[:1], tensor.tensor_type)
    except (ValueError, IndexError, KeyError, NotImplementedError, OSError) as error:
        if isinstance(error, NotImplementedError) or "GGMLQuantizationType" in str(error):
            raise UserError(
                f"--model {name}: weights of a type that cannot be dequantised "
                f"({_first_line(error)}); take another quantisation of the model, such as Q8_0"
            ) from None
        raise UserError(
            f"--model {name}: not a whole GGUF file ({_first_line(error)}); download it again"
        ) from None


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _check_hub(name: str) -> bool:
    """Whether the hub is out of reach, so that the local copy of the model has to do.

    One request with a short limit, because `transformers` would retry for half a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
        files = {file.rfilename for file in HfApi().model_info(name, timeout=10).siblings or []}
    except HFValidationError:
        raise UserError(f"--model {name}: no such folder, and not a hub id (owner/name)") from None
    except GatedRepoError:
        raise UserError(
            f"--model {name}: its owner grants access on request; ask on its hub page, then log in"
            " with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"--model {name}: no such folder (from {Path.cwd()}), and no such model on the hub"
        ) from None
    except Exception as error:  # whatever the HTTP library in use calls an unreachable server
        if cached:
            return True
        raise UserError(
            f"--model {name}: no such folder, not downloaded yet, and the hub cannot be reached"
            f" ({_first_line(error)}); go online, or name a folder or {' or '.join(MODELS)}"
        ) from None
    if "config.json" not in files:
        raise UserError(f"--model {name}: the hub has it, but not as a model with config.json")
    if not any(file.endswith(".safetensors") for file in files):
        raise UserError(
            f"--model {name}: it has no *.safetensors, and other formats can run code when read"
        )
    return False


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:") if text else type(error).__name__
