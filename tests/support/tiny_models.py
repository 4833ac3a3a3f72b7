"""Tiny models with random weights, and a tokenizer of single characters."""

import string
from typing import TypeVar

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n"

M = TypeVar("M", bound=PreTrainedModel)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<eos>"
    "{% else %}<user>{{ message['content'] }}<eos>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character, five special tokens, and a chat template."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(
    vocab_size: int = len(SPECIAL) + len(CHARACTERS),
    *,
    hidden_size: int = 32,
    layers: int = 2,
    max_position_embeddings: int = 512,
    seed: int = 0,
    spread: float = 1.0,
) -> LlamaForCausalLM:
    """A Llama with grouped-query attention (4 heads on 2) and random weights.

    `spread` scales the head: the larger it is, the more the next-token distributions differ from
    uniform.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_position_embeddings,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return seeded(LlamaForCausalLM, config, seed=seed, spread=spread)


def seeded(kind: type[M], config: object, *, seed: int = 0, spread: float = 1.0) -> M:
    """A model with random weights of standard deviation 0.2, its logits scaled by `spread`."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
        model.get_output_embeddings().weight.mul_(spread)
    torch.random.set_rng_state(state)
    return model.eval()
