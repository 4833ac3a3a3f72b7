"""Imitation agrees with TRL's SFTTrainer, from the texts of a dialogue to loss and gradient."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from redraft.chat.rollout import lay_out
from redraft.engines.template import ChatTemplate
from redraft.learning.config import LearnerConfig
from redraft.learning.imitation import Example, to_rows
from redraft.learning.learner import Learner
from redraft.types import Message, Problem, Turn
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import step_and_gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

DIALOGUES = [
    ["What is 1+1?", "It is 3.", "Try again.", "1+1=2, so it is 2."],
    ["2+2?", "4"],
    ["And 3 * 3?", "6", "No, again!", "Then 7", "No, again!", "It must be 9."],
]
"""Questions and attempts in turn."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>"
    "{% generation %}{{ message['content'] }}<eos>{% endgeneration %}"
    "{% else %}<user>{{ message['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""That of the tiny tokenizer; the tag tells TRL which tokens are the assistant's."""


def tokenizer() -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    made.chat_template = TEMPLATE
    return made


def examples(weights: list[float] | None = None) -> list[Example]:
    """The dialogues as episodes; all attempts count, or those of dialogue i `weights[i]`."""
    template = ChatTemplate(tokenizer())
    made = []
    for number, texts in enumerate(DIALOGUES):
        problem = Problem(id=str(number), task="t", question=texts[0], gold="1")
        turns = [
            Turn(author="environment" if place % 2 == 0 else "teacher", text=text)
            for place, text in enumerate(texts[1:], start=1)
        ]
        episode = lay_out(problem, [Message(role="user", content=texts[0])], turns, template)
        weight = 1.0 if weights is None else weights[number]
        made.append(Example(episode=episode, weights=[weight] * len(episode.responses)))
    return made


@pytest.fixture
def peer(tmp_path: Path) -> Any:
    """A real SFTTrainer about to train the tiny model on the dialogues."""
    roles = ("user", "assistant")
    rows = [
        {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}
        for texts in DIALOGUES
    ]
    made = SFTTrainer(
        model=copy.deepcopy(tiny_llama(seed=3)),
        args=SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=3,
            gradient_checkpointing=False,
            assistant_only_loss=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    made.model.train()
    return made


def loss_and_gradient(peer: Any, chosen: list[int]) -> tuple[float, dict[str, Tensor]]:
    """TRL's own loss of some of its rows as one batch."""
    peer.model.zero_grad()
    batch = peer.data_collator([peer.train_dataset[index] for index in chosen])
    loss = peer.compute_loss(peer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in peer.model.named_parameters()}


def ours(chosen: list[Example], **how: Any) -> tuple[float, dict[str, Tensor]]:
    config = LearnerConfig(max_grad_norm=None, tokens_per_microbatch=64, **how)
    learner = Learner(tiny_llama(seed=3), config)
    metrics, gradient = step_and_gradient(learner, to_rows(chosen))
    return metrics["loss"], gradient


def assert_same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5)
    assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-2


def test_the_rows_are_those_that_trl_makes_of_the_same_texts(peer: Any) -> None:
    """Tokens, and which of them carry loss: attempts with their end of turn."""
    for row, theirs in zip(to_rows(examples()), peer.train_dataset, strict=True):
        assert row.tokens.tolist() == theirs["input_ids"]
        assert row.loss_weight is not None
        labelled = [label != -100 for label in theirs["labels"]]
        assert (row.loss_weight != 0).tolist() == labelled


def test_with_all_weights_one_loss_and_gradient_are_trls(peer: Any) -> None:
    theirs, their_gradient = loss_and_gradient(peer, [0, 1, 2])
    loss, gradient = ours(examples())
    assert loss == pytest.approx(theirs, rel=1e-4)
    assert_same(gradient, their_gradient)


def test_with_weights_they_are_the_weighted_sum_of_trls_by_row(peer: Any) -> None:
    """TRL's loss of row i alone is its mean over n_i tokens; ours is Σ w_i·n_i·loss_i / Σ n_i."""
    weights = [1.0, 12.18, 0.082]
    weighted = examples(weights)
    sizes = [sum(len(turn.tokens) for turn in e.episode.responses) for e in weighted]
    shares = [w * n / sum(sizes) for w, n in zip(weights, sizes, strict=True)]
    alone = [loss_and_gradient(peer, [index]) for index in range(3)]
    loss, gradient = ours(weighted)
    assert loss == pytest.approx(
        sum(share * one for share, (one, _) in zip(shares, alone, strict=True)), rel=1e-4
    )
    expected = {
        name: sum(
            (share * one[name] for share, (_, one) in zip(shares, alone, strict=True)),
            torch.zeros_like(value),
        )
        for name, value in gradient.items()
    }
    assert_same(gradient, expected)


def test_per_attempt_it_is_the_mean_of_trls_losses_times_their_weights(peer: Any) -> None:
    """RISE's own loss: each example's mean token loss times its weight, the plain mean over the
    batch. The first attempts alone, so that a row is an example."""
    first = [
        Example(
            episode=example.episode.model_copy(update={"turns": example.episode.turns[:1]}),
            weights=[weight],
        )
        for example, weight in zip(examples(), [1.0, 12.18, 0.082], strict=True)
    ]
    by_row = [ours([example])[0] for example in first]  # weight times mean over its tokens
    assert by_row[1] == pytest.approx(12.18 * loss_and_gradient(peer, [1])[0], rel=1e-4)
    assert ours(first, loss_mean="attempt")[0] == pytest.approx(sum(by_row) / 3, rel=1e-4)
