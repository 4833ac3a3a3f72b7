"""A model that guesses: a tiny Llama that says `1`, `2` or nothing more, and little else.

With answers this short some attempts are right and some are wrong without any training, so that a
run of reinforcement learning has something to learn from at its first step.
"""

import json
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tiny_models import tiny_llama, tiny_tokenizer

GUESSES = {"1": 1.0, "2": 1.0, "<eos>": 3.0}
"""What is said, with its rough odds at every token."""


def guessing_llama(tokenizer: PreTrainedTokenizerFast, window: int = 512) -> LlamaForCausalLM:
    """Weights whose last hidden state is about all ones, and a head that reads the odds from it."""
    model = tiny_llama(layers=1, max_position_embeddings=window)
    width = model.config.hidden_size
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
        head = model.get_output_embeddings().weight.normal_(std=0.1)
        for token, odds in GUESSES.items():
            row = head[tokenizer.convert_tokens_to_ids(token)]
            row += (14.0 + torch.tensor(odds).log()) / width
    torch.random.set_rng_state(state)
    return model


def save_guesser(folder: Path, window: int = 512) -> Path:
    """Write the model and its tokenizer in Hugging Face format."""
    tokenizer = tiny_tokenizer()
    guessing_llama(tokenizer, window).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_problems(file: Path, golds: str = "121212", first: int = 0) -> Path:
    """A JSON Lines file of problems whose answers are single characters: "0?", "1?" and so on,
    from `first` on."""
    rows = ({"question": f"{index}?", "gold": gold} for index, gold in enumerate(golds, first))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
