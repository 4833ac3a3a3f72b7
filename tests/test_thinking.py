"""Switching a model's thinking off reaches its chat template."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from redraft.episode import Episode, read_jsonl
from redraft.evaluation import collect
from redraft.evaluation.settings import CollectSettings
from redraft.lab.tokenizer import TEMPLATE, build_tokenizer

SWITCH = "{{ '<|assistant|>wrong' if enable_thinking is false else '<|assistant|>' }}"


@pytest.mark.parametrize("thinking", [None, True, False])
def test_the_switch_is_seen_by_the_template(tmp_path: Path, thinking: bool | None) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("{{ '<|assistant|>' }}", SWITCH)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = CollectSettings(
        model=str(tmp_path / "model"),
        task="lab/sorting",
        limit=2,
        max_tokens=3,
        thinking=thinking,
        out=tmp_path / "out",
    )
    for episode in read_jsonl(collect(settings) / "episodes.jsonl", Episode):
        for turn in episode.turns:
            ends = tokenizer.decode(turn.prompt_tokens).endswith("wrong")
            assert ends == (thinking is False)
