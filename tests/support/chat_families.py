"""Small tokenizers with the published chat templates and special tokens of real model families.

The templates are read from TRL's wheel. It has none of Mistral's, so those are written out here
from memory, as published with Mistral-7B-Instruct v0.1 and v0.3 (without its tool calls).
"""

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

MISTRAL_V1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)

MISTRAL_V3 = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate \
user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an \
initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""


@dataclass(frozen=True)
class Family:
    """What a family's tokenizer_config.json says."""

    template: str
    bos: str | None
    eos: str
    special: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    """Added tokens that are not special, such as Qwen3's <think>."""
    strips_right: bool = False
    """The special tokens swallow the white space after them (Phi-3's `rstrip`)."""
    adds_bos: bool = False
    """Calling the tokenizer puts the bos token first, beside the one in the template."""
    system: bool = True


def _trl(name: str) -> str:
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")


_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LLAMA = ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"]
_GEMMA = ["<start_of_turn>", "<end_of_turn>"]
_PHI = ["<|assistant|>", "<|user|>", "<|system|>", "<|end|>"]
_DEEPSEEK = ["<｜User｜>", "<｜Assistant｜>"]
_THINK = ["<think>", "</think>"]

FAMILIES = {
    "Qwen2.5": Family(_trl("qwen2_5"), None, "<|im_end|>", _QWEN),
    "Qwen3": Family(_trl("qwen3"), None, "<|im_end|>", _QWEN, _THINK),
    "Qwen3-2507": Family(_trl("qwen3_instruct_2507"), None, "<|im_end|>", _QWEN, _THINK),
    "Llama-3": Family(_trl("llama3"), "<|begin_of_text|>", "<|eot_id|>", _LLAMA, adds_bos=True),
    "Llama-3.1": Family(_trl("llama3_1"), "<|begin_of_text|>", "<|eot_id|>", _LLAMA, adds_bos=True),
    "Llama-3.2": Family(_trl("llama3_2"), "<|begin_of_text|>", "<|eot_id|>", _LLAMA, adds_bos=True),
    "Gemma-2": Family(_trl("gemma"), "<bos>", "<eos>", _GEMMA, adds_bos=True, system=False),
    "Gemma-3": Family(_trl("gemma3"), "<bos>", "<eos>", _GEMMA, adds_bos=True),
    "Mistral-v0.1": Family(MISTRAL_V1, "<s>", "</s>", adds_bos=True, system=False),
    "Mistral-v0.3": Family(MISTRAL_V3, "<s>", "</s>", ["[INST]", "[/INST]"], adds_bos=True),
    "Phi-3": Family(_trl("phi3"), "<s>", "<|endoftext|>", _PHI, strips_right=True),
    "Phi-3.5": Family(_trl("phi3_5"), "<s>", "<|endoftext|>", _PHI, strips_right=True),
    "DeepSeek-R1-Distill": Family(
        _trl("deepseek_r1_distill"),
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        _DEEPSEEK,
        _THINK,
        adds_bos=True,
    ),
}

# The pre-tokenizer of Llama 3 and Qwen; runs of newlines and the text before them can merge, which
# is where tokens would straddle the seam between a template and a message.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = [
    "There might be an error in the solution above. Please correct the error, if any.\n\n",
    "User:\nWhat is 12 + 30?\n\nAssistant:\nThe answer is 42.\n\nUser:\nAgain, please.\n",
    "def add(first, second):\n    return first + second\n\n\nprint(add(1, 2))\n",
    "<think>\nLet me see: 3 times 14 is 42.\n</think>\n\nThe final answer is $42$. naïve café\n",
] * 8


@cache
def _trained() -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


@cache
def base_tokenizer(bos: str | None = None) -> PreTrainedTokenizerFast:
    """A base model's tokenizer: no chat template, `<|endoftext|>` at the end, maybe a BOS."""
    return _build(Family("", bos, "<|endoftext|>", adds_bos=bos is not None), name="base")


@cache
def chat_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer of one of `FAMILIES`."""
    return _build(FAMILIES[family], name=family)


@cache
def sentencepiece_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """One that puts a space before every text, as those of Llama 2 and Mistral do."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(set("".join(_CORPUS) + "[INST]/<|>_"))
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    built.chat_template = chat_template
    return built


def _build(family: Family, name: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(_trained())
    tokenizer.add_special_tokens([text for text in (family.bos, family.eos) if text])
    tokenizer.add_special_tokens(
        [AddedToken(text, rstrip=family.strips_right, normalized=False) for text in family.special]
    )
    tokenizer.add_tokens(family.added)
    if family.adds_bos:
        assert family.bos is not None
        bos = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[bos]
        )
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, name_or_path=name
    )
    built.chat_template = family.template or None
    return built
