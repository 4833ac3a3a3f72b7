"""Making the lab's base model: generate the corpus, pretrain a small Llama on it, save it.

The same learner that trains every policy does the pretraining: next-token prediction is a
`loss_weight` of 1 on what the assistant says. `docs/lab.md` has the reasons behind the numbers.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redraft.lab.corpus import conversations
from redraft.lab.tokenizer import ROLES, build_tokenizer
from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner
from redraft.learning.parallel import accelerator_on
from redraft.learning.rows import TrainingRow
from redraft.progress import Progress, Silent

STEPS = 3_000
CONVERSATIONS_PER_STEP = 96
LEARNING_RATE = 3e-3


def build(
    folder: Path, *, seed: int = 0, steps: int = STEPS, progress: Progress | None = None
) -> None:
    """Pretrain the lab's model and write it, with its tokenizer, to `folder`.

    Takes about 20 minutes on one CPU core. `seed` decides the corpus and the initial weights.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(tokenizer))
    model.set_attn_implementation("eager")  # on a CPU the fused backward pass is slower in bf16
    learner = Learner(
        model,
        LearnerConfig(
            learning_rate=LEARNING_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            schedule="linear",
            warmup_steps=min(100, steps // 2),
            total_steps=steps,
            tokens_per_microbatch=3072,  # rows of like length go together: little padding
        ),
        accelerator=accelerator_on(torch.device("cpu"), bf16=True),
    )
    rows = _rows(tokenizer, seed)
    with (progress or Silent()).phase("pretraining", steps) as bar:
        for _ in range(steps):
            metrics = learner.step(list(islice(rows, CONVERSATIONS_PER_STEP)))
            bar.advance(1, loss=metrics["loss"])
    learner.save_weights(folder)
    tokenizer.save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,  # decoding reads a quarter of the keys and values
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


def _rows(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[TrainingRow]:
    """Corpus conversations as training rows: imitate what the assistant says.

    The questions are random words; imitating them would only add noise to the gradient.
    """
    speaker = {tokenizer.convert_tokens_to_ids(f"<|{role}|>"): role for role in ROLES}
    for conversation in conversations(seed):
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        tokens = tokenizer(str(text), add_special_tokens=False)["input_ids"]
        said, speaking = [], ""
        for token in tokens:
            said.append(speaking == "assistant" and token not in speaker)
            speaking = speaker.get(token, speaking)
        yield TrainingRow(tokens, turn=[0] * len(tokens), loss_weight=said)
