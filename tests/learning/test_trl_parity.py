"""Loss and gradient agree with TRL's own trainers on the same model, batch and advantages."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner
from redraft.learning.rows import TrainingRow
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import step_and_gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PROMPTS = [[11, 12, 13], [21, 22], [31, 32, 33, 34], [41, 42]]
COMPLETIONS = [[51, 52, 53, 54], [61, 62], [71, 72, 73], [81, 82, 83, 84, 85]]
BETA = 0.3


def padded(rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [batch, longest]."""
    width = max(map(len, rows))
    space = [[0] * (width - len(row)) for row in rows]
    pairs = list(zip(rows, space, strict=True))
    ids = [row + gap if side == "right" else gap + row for row, gap in pairs]
    mask = [[1] * len(row) + gap if side == "right" else gap + [1] * len(row) for row, gap in pairs]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """One completion per prompt, as TRL's trainers pass it to their loss."""
    prompt_ids, prompt_mask = padded(PROMPTS, "left")
    completion_ids, completion_mask = padded(COMPLETIONS, "right")
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.0, -0.5, 0.25, -0.75]),
        "num_items_in_batch": completion_mask.sum(),
    }


def streams(batch: dict[str, Tensor], beta: float = 0.0, off_policy: bool = False) -> Any:
    """The same batch as rows."""
    rows = []
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        attempt = np.array([0] * len(prompt) + [1] * len(completion))
        old = None
        if off_policy:
            old = np.zeros(len(attempt))
            old[len(prompt) :] = batch["old_per_token_logps"][i, : len(completion)]
        rows.append(
            TrainingRow(
                prompt + completion,
                attempt,
                advantage=attempt * batch["advantages"][i].item(),
                kl_weight=attempt * beta,
                old_logprob=old,
            )
        )
    return rows


def trainer(
    kind: type,
    settings: type,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    folder: Path,
    **options: Any,
) -> Any:
    """A real TRL trainer about to train a copy of `model` on a CPU."""
    model = copy.deepcopy(model)
    reference.save_pretrained(folder)
    model.config._name_or_path = str(folder)  # where TRL takes its reference from
    arguments = settings(
        output_dir=str(folder),
        use_cpu=True,
        beta=BETA,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        gradient_checkpointing=False,
        **options,
    )
    made = kind(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "1"}] * 4),
        processing_class=tiny_tokenizer(),
    )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def loss_and_gradient(peer: Any, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    peer.model.zero_grad()
    loss = peer.compute_loss(peer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in peer.model.named_parameters()}


def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    model = tiny_llama()
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # near the policy, as references are
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model, reference


def logprobs(peer: Any, model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Per-token log-probabilities by TRL's own function, [batch, longest completion]."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].size(1)
    with torch.no_grad():
        return peer._get_per_token_logps_and_entropies(model, ids, mask, width)[0]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6)
    assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-2


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_grpo(loss_type: str, off_policy: bool, batch: dict[str, Tensor], tmp_path: Path) -> None:
    model, reference = models()
    options = {"loss_type": loss_type, "temperature": 0.8, "epsilon": 0.2}
    options |= {"use_bias_correction_kl": False}  # the k3 of the GRPO paper
    peer = trainer(GRPOTrainer, GRPOConfig, model, reference, tmp_path, **options)
    batch["ref_per_token_logps"] = logprobs(peer, peer.ref_model, batch)
    if off_policy:  # another policy sampled, so some ratios are clipped
        batch["old_per_token_logps"] = logprobs(peer, peer.model, batch)
        batch["old_per_token_logps"] += torch.linspace(-0.5, 0.5, 20).view(4, 5)
    theirs, their_gradient = loss_and_gradient(peer, batch)

    config = LearnerConfig(
        normalize="token",
        kl_estimator="k3",
        clip_low=0.2,
        clip_high=0.2,
        temperature=0.8,
        max_grad_norm=None,
        tokens_per_microbatch=16,
    )
    learner = Learner(model, config, reference=reference)
    rows = learner.with_reference(streams(batch, BETA, off_policy))
    metrics, gradient = step_and_gradient(learner, rows)
    assert metrics["loss"] == pytest.approx(theirs, rel=1e-4)
    assert_same(gradient, their_gradient)
    assert (metrics["clip_fraction"] > 0) is off_policy


@pytest.mark.parametrize("off_policy", [False, True])
def test_k2_has_the_gradient_of_grpo_with_bias_correction(
    off_policy: bool, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    """TRL's default, ρ · k3 with a differentiable ratio ρ (arXiv 2512.02556), has the gradient
    ρ·k1·∇log π, which is that of k2 with an importance weight."""
    model, reference = models()
    options = {"loss_type": "bnpo", "epsilon": 0.2}
    peer = trainer(GRPOTrainer, GRPOConfig, model, reference, tmp_path, **options)
    assert peer.args.use_bias_correction_kl
    batch["ref_per_token_logps"] = logprobs(peer, peer.ref_model, batch)
    if off_policy:
        batch["old_per_token_logps"] = logprobs(peer, peer.model, batch)
        batch["old_per_token_logps"] += torch.linspace(-0.5, 0.5, 20).view(4, 5)
    _, their_gradient = loss_and_gradient(peer, batch)
    config = LearnerConfig(
        normalize="token", kl_estimator="k2", clip_low=0.2, clip_high=0.2, max_grad_norm=None
    )
    learner = Learner(model, config, reference=reference)
    rows = learner.with_reference(streams(batch, BETA, off_policy))
    _, gradient = step_and_gradient(learner, rows)
    assert_same(gradient, their_gradient)


def test_rloo(batch: dict[str, Tensor], tmp_path: Path) -> None:
    """RLOO's KL is k1 in the reward: it reaches both trainers through the advantage."""
    model, reference = models()
    peer = trainer(RLOOTrainer, RLOOConfig, model, reference, tmp_path, temperature=0.8)
    mask = batch["completion_mask"]
    old = logprobs(peer, peer.model, batch)
    k1 = ((old - logprobs(peer, peer.ref_model, batch)) * mask).sum(1)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0]) - BETA * k1
    batch["advantages"] = rewards - (rewards.sum() - rewards) / 3  # leave-one-out
    batch["old_logps"] = (old * mask).sum(1)
    theirs, their_gradient = loss_and_gradient(peer, batch)

    config = LearnerConfig(temperature=0.8, max_grad_norm=None, tokens_per_microbatch=16)
    metrics, gradient = step_and_gradient(Learner(model, config), streams(batch))
    assert_same(gradient, their_gradient)
    # On policy every ratio is 1: TRL counts a sequence's advantage once, ours at each token.
    lengths = mask.sum(1)
    assert theirs == pytest.approx(-batch["advantages"].mean().item(), abs=1e-5)
    assert metrics["loss"] == pytest.approx(
        -(batch["advantages"] * lengths).mean().item(), rel=1e-4
    )
