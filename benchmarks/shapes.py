"""Shapes of models that the benchmarks fill with random weights."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from redraft.models import load_tokenizer

SHAPES = {
    "llama-5m": LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "llama-20m": LlamaConfig(
        vocab_size=16384, hidden_size=384, intermediate_size=1024, num_hidden_layers=9,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen2.5-1.5b": Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
    ),
}  # fmt: skip
FOLDER = Path(__file__).parents[1] / "runs/shapes"


def folder_of(name: str) -> str:
    """Where a model is: of a shape, a folder with random bfloat16 weights, as published ones are,
    and the lab's tokenizer with further tokens up to the shape's vocabulary, made if it is not
    there yet; else the name itself.

    One token of the whole vocabulary ends a response, so nearly every response has the greatest
    length.
    """
    if name not in SHAPES:
        return name
    folder = FOLDER / name
    if not (folder / "tokenizer_config.json").exists():
        tokenizer = load_tokenizer("lab")
        size = SHAPES[name].vocab_size
        tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), size)])
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(SHAPES[name]).bfloat16()
        model.config.bos_token_id = model.generation_config.bos_token_id = None
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)
