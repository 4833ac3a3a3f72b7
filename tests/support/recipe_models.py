"""The models of the recipes: their shapes, and small ones with random weights in their place.

A small one has the architecture, the vocabulary and the chat template of the original, and a head
that says some whole texts, so that some of its attempts are right from the start.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from chat_families import chat_tokenizer

QWEN2 = Qwen2Config(
    vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
    num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
LLAMA3 = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
)  # fmt: skip
QWEN3 = Qwen3Config(
    vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28,
    num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
)  # fmt: skip
MODELS: dict[str, tuple[Any, str]] = {
    "Qwen/Qwen2.5-1.5B-Instruct": (QWEN2, "Qwen2.5"),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": (QWEN2, "Qwen2.5"),
    "Qwen/Qwen3-1.7B": (QWEN3, "Qwen3"),
    "meta-llama/Llama-3.1-8B-Instruct": (LLAMA3, "Llama-3.1"),
    "meta-llama/Meta-Llama-3-8B-Instruct": (LLAMA3, "Llama-3"),
}
"""By the hub's name: the shape, and whose chat template it has."""

TEXTS = {
    "The answer is \\boxed{4}.": 1.0,
    "The answer is \\boxed{5}.": 1.0,
    "```python\nprint(4)\n```": 2.0,
    "```python\nprint(5)\n```": 2.0,
    "```python\ndef four():\n    return 4\n```": 1.0,
    "```python\ndef four():\n    return 5\n```": 1.0,
}
"""What a small model says, with its rough odds."""


def save_small(name: str, folder: Path) -> Path:
    """Write a small model in the place of a recipe's."""
    shape, family = MODELS[name]
    tokenizer = copy.deepcopy(chat_tokenizer(family))
    tokenizer.add_tokens(list(TEXTS))
    small = copy.deepcopy(shape)
    small.update(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": False,
            "max_position_embeddings": 4096,
        }
    )
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:2]
    small.eos_token_id = small.pad_token_id = tokenizer.eos_token_id
    small.bos_token_id = tokenizer.bos_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small)
    odds = {tokenizer.convert_tokens_to_ids(text): odd for text, odd in TEXTS.items()}
    odds[tokenizer.eos_token_id] = 8.0
    with torch.no_grad():  # the last hidden state is about all ones
        model.get_input_embeddings().weight.add_(1.0)
        for token, odd in odds.items():
            row = model.get_output_embeddings().weight[token]
            row += (20.0 + torch.tensor(odd).log()) / small.hidden_size
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
