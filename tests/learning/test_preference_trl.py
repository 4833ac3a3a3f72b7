"""A preference step has the loss and the gradient of TRL's own trainers on the same pairs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from redraft.learning.config import LearnerConfig
from redraft.learning.learner import Learner
from redraft.learning.pairs import Completion, PreferencePair, with_unrelated
from redraft.learning.preference_config import PreferenceConfig
from tiny_models import tiny_llama, tiny_tokenizer
from training_rows import pair, with_gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TEXTS = [
    ([11, 12, 13], [51, 52, 53, 54], [55, 56]),
    ([21], [61, 62], [63, 64, 65, 66, 67]),
    ([31, 32], [71, 72, 73], [74]),
]
"""Token ids of prompt, chosen and rejected completion."""
PAIRS = [pair(p, c, r) for p, c, r in TEXTS]
DATA = {"prompt": "1", "chosen": "2", "rejected": "3"}
"""What TRL's trainers are built with; the batches they get are ours."""
Rows = list[tuple[list[int], list[int]]]
CHOSEN: Rows = [(prompt, chosen) for prompt, chosen, _ in TEXTS]
REJECTED: Rows = [(prompt, rejected) for prompt, _, rejected in TEXTS]


def padded(rows: Rows) -> dict[str, Tensor]:
    """Rows of prompt and completion as TRL collates them, [batch, longest]."""
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "mask": []}
    for prompt, completion in rows:
        gap = [0] * (width - len(prompt) - len(completion))
        batch["input_ids"].append(prompt + completion + gap)
        batch["attention_mask"].append([1] * (width - len(gap)) + gap)
        batch["mask"].append([0] * len(prompt) + [1] * len(completion) + gap)
    tensors = {name: torch.tensor(values) for name, values in batch.items()}
    return tensors | {"completion_mask": tensors.pop("mask")}


def labelled(rows: Rows) -> dict[str, Tensor]:
    """The same with labels, as TRL's older trainers want it."""
    batch = padded(rows)
    batch["labels"] = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    return batch


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy and a reference near it."""
    model = tiny_llama()
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model, reference


def trainer(
    kind: type, settings: type, models: Any, folder: Path, data: dict[str, Any], **options: Any
) -> Any:
    """A real TRL trainer about to train a copy of the policy on a CPU."""
    model, reference = (copy.deepcopy(model) for model in models)
    arguments = settings(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=3,
        **options,
    )
    with_reference = {} if "experimental" in kind.__module__ else {"ref_model": reference}
    made = kind(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([data] * 3),
        processing_class=tiny_tokenizer(),
        **with_reference,
    )
    made.model.train()
    return made


def assert_agree(
    peer: Any, batch: dict[str, Tensor], models: Any, pairs: list[PreferencePair], **loss: Any
) -> dict[str, float]:
    """Same loss and same gradient; returns our metrics."""
    peer.model.zero_grad()
    theirs = peer.compute_loss(peer.model, batch)
    theirs.backward()
    model, reference = (copy.deepcopy(model) for model in models)
    settings = LearnerConfig(max_grad_norm=None, tokens_per_microbatch=20)
    learner = Learner(model, settings, reference=reference)
    preference = PreferenceConfig(**loss)
    if preference.needs_reference:
        pairs = learner.pairs_with_reference(pairs)
    metrics, gradient = with_gradient(learner, lambda: learner.preference_step(pairs, preference))
    assert metrics["loss"] == pytest.approx(theirs.item(), rel=1e-4)
    wanted = {name: p.grad for name, p in peer.model.named_parameters()}
    assert gradient.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-3, atol=4e-6)
    assert max(value.abs().max() for value in wanted.values()) > 1e-3
    return metrics


@pytest.mark.parametrize(
    ("theirs", "weights", "ours", "beta", "smoothing"),
    [
        (["sigmoid"], [1.0], "sigmoid", 0.1, 0.0),
        (["sigmoid"], [1.0], "dpo", 0.7, 0.0),
        (["sigmoid_norm"], [1.0], "sigmoid_norm", 5.0, 0.0),
        (["ipo"], [1.0], "ipo", 0.1, 0.0),
        (["hinge"], [1.0], "hinge", 0.3, 0.0),
        (["robust"], [1.0], "robust", 0.3, 0.2),
        (["apo_zero"], [1.0], "apo_zero", 0.3, 0.0),
        (["apo_down"], [1.0], "apo_down", 0.3, 0.0),
        (["sft"], [1.0], "nll", 0.1, 0.0),
        (["sigmoid", "sft"], [1.0, 1.0], "rpo", 0.1, 0.0),
        (["sigmoid", "sft"], [1.0, 0.2], "sigmoid+0.2*nll", 0.1, 0.0),
        (["ipo", "hinge", "sft"], [0.5, 2.0, 1.5], "0.5*ipo+2*hinge+1.5*sft", 0.2, 0.0),
    ],
)
def test_losses_of_the_dpo_trainer(
    theirs: list[str], weights: list[float], ours: str, beta: float, smoothing: float,
    models: Any, tmp_path: Path,
) -> None:  # fmt: skip
    peer = trainer(
        DPOTrainer, DPOConfig, models, tmp_path, DATA,
        loss_type=theirs, loss_weights=weights, beta=beta, label_smoothing=smoothing,
    )  # fmt: skip
    metrics = assert_agree(
        peer, padded(CHOSEN + REJECTED), models, PAIRS,
        loss=ours, beta=beta, label_smoothing=smoothing,
    )  # fmt: skip
    if ours == "nll":  # no reference, so the rewards are SimPO's
        return
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert metrics[name] == pytest.approx(peer._metrics["train"][name][0], rel=1e-3), name
    for name in ("logps/chosen", "logps/rejected"):
        assert metrics[name] == pytest.approx(peer._metrics["train"][name][0], rel=1e-4), name


def test_kto(models: Any, tmp_path: Path) -> None:
    """With policy and reference exchanged the estimate of the KL changes sign: one is clamped."""
    estimates = [
        kto_kl_of(pair, tmp_path / str(i)) for i, pair in enumerate((models, models[::-1]))
    ]
    assert min(estimates) == 0
    assert max(estimates) > 0.01


def kto_kl_of(models: Any, folder: Path) -> float:
    """The KL estimate of a step that agrees with TRL's."""
    peer = trainer(
        KTOTrainer, KTOConfig, models, folder,
        {"prompt": "1", "completion": "2", "label": True},
        beta=0.3, desirable_weight=1.5, undesirable_weight=0.8,
    )  # fmt: skip
    pairs = with_unrelated(PAIRS)
    mismatched: Rows = [(pair.prompt, pair.unrelated.tokens) for pair in pairs if pair.unrelated]
    batch = padded(CHOSEN + REJECTED) | {"label": torch.tensor([True] * 3 + [False] * 3)}
    batch |= {f"KL_{name}": value for name, value in padded(mismatched).items()}
    metrics = assert_agree(
        peer, batch, models, pairs,
        loss="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.8,
    )  # fmt: skip
    kl = peer._metrics["train"]["kl"][0]
    assert metrics["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    return metrics["kl"]


@pytest.mark.parametrize(("alpha", "loss"), [(0.0, "simpo"), (1.0, "simpo+nll")])
def test_simpo(alpha: float, loss: str, models: Any, tmp_path: Path) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    peer = trainer(
        CPOTrainer, CPOConfig, models, tmp_path, DATA,
        loss_type="simpo", beta=2.5, simpo_gamma=1.2, cpo_alpha=alpha,
    )  # fmt: skip
    assert_agree(peer, sides(CHOSEN, REJECTED), models, PAIRS, loss=loss, beta=2.5, gamma=1.2)


def test_conservative_dpo(models: Any, tmp_path: Path) -> None:
    """TRL's label smoothing of the sigmoid loss survives in its reference-free CPO trainer: the
    same as ours where the reference's log-probabilities are all 0."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    peer = trainer(
        CPOTrainer, CPOConfig, models, tmp_path, DATA,
        loss_type="sigmoid", beta=0.2, label_smoothing=0.1, cpo_alpha=0.0,
    )  # fmt: skip
    pairs = [
        pair(p, Completion(tokens=c, ref_logprob=0.0), Completion(tokens=r, ref_logprob=0.0))
        for p, c, r in TEXTS
    ]
    batch = sides(CHOSEN, REJECTED)
    assert_agree(peer, batch, models, pairs, loss="sigmoid", beta=0.2, label_smoothing=0.1)


def test_orpo(models: Any, tmp_path: Path) -> None:
    """Prompts of one token: TRL's NLL counts the prompt's tokens, and predicts none of these."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    peer = trainer(ORPOTrainer, ORPOConfig, models, tmp_path, DATA, beta=0.4)
    pairs = [pair(p[:1], c, r) for p, c, r in TEXTS]
    short = [[(p[:1], completion) for p, completion in rows] for rows in (CHOSEN, REJECTED)]
    assert_agree(peer, sides(*short), models, pairs, loss="orpo", beta=0.4)


def sides(chosen: Rows, rejected: Rows) -> dict[str, Tensor]:
    batch = {f"chosen_{name}": value for name, value in labelled(chosen).items()}
    return batch | {f"rejected_{name}": value for name, value in labelled(rejected).items()}
