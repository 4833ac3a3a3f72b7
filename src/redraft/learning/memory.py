"""How much memory an optimiser step takes, and the size of micro-batches that fits.

Beyond the weights a step needs gradients and AdamW's two moments (12 bytes for each trained
parameter), what the forward pass keeps for the backward pass (measured, in bytes per token), and
the logits of one chunk of the head. Of these the activations alone depend on the size of
micro-batches. They are measured on the model itself rather than derived from its configuration,
so that adapters, frozen weights, precision and attention are in the figure.
"""

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.logprobs import TokenScorer
from redraft.learning.sharding import largest_unit, part

_LEAST_TOKENS = 256  # with fewer, recomputing activations in larger micro-batches is faster
_SHARE = 0.8  # of free memory; the rest is for allocators, and for what the forward pass forgets
_PROBES = (16, 32, 48)  # tokens
LOGIT_BYTES = 16
"""Of each logit at the peak: logits, log-probabilities, exponentials and their product."""


class OutOfMemory(Exception):  # noqa: N818 - the field's name for it
    """An allocation failed on this process or another; gradients are of no more use."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, on a CPU or a GPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = ("not enough memory", "can't allocate memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def out_of_memory_alone(accelerator: Accelerator) -> UserError:
    """What a process raises that has run out of memory where the others wait for its part of the
    weights: no smaller micro-batches can be tried together."""
    return UserError(
        f"process {accelerator.process_index}: not enough memory for this micro-batch; resume with "
        "a smaller tokens_per_microbatch, or with gradient_checkpointing, in config.yaml"
    )


@dataclass(frozen=True)
class Footprint:
    """What a step allocates, in bytes.

    `missing` is for gradients and the optimiser's state. `fixed` does not depend on the size of
    micro-batches either: low-precision copies of weights, logits. For a row of `t` tokens the
    forward pass keeps `linear · t + square · t²`; with activation checkpointing `inputs · t` and
    one layer's share.
    """

    missing: float
    fixed: float
    linear: float
    square: float
    inputs: float
    layers: int

    def of_token(self, longest: int, checkpointing: bool) -> float:
        """Bytes for each token of rows as long as `longest` tokens."""
        kept = self.linear + self.square * longest
        return self.inputs + kept / self.layers if checkpointing else kept

    def fitting(self, free: float, longest: int, checkpointing: bool) -> int:
        """Tokens that fit into `free` bytes; negative if not even the rest does."""
        left = _SHARE * free - self.missing - self.fixed
        return int(left / max(1.0, self.of_token(longest, checkpointing)))

    def needed(self, longest: int, checkpointing: bool) -> float:
        """Bytes that must be free for one row at a time."""
        kept = longest * self.of_token(longest, checkpointing)
        return (self.missing + self.fixed + kept) / _SHARE


@dataclass(frozen=True)
class MicroBatches:
    """How rows go through the model: padded `tokens` at once, with activations kept or not."""

    tokens: int
    checkpointing: bool


def most_tokens(device: torch.device, *, bf16: bool) -> int:
    """Padded tokens in a micro-batch at most: more would be no faster.

    On a CPU matrix products are at their full rate from 512 rows on. In bfloat16 they are so fast
    that adding up gradients, once a micro-batch, shows beside them.
    """
    if device.type == "cpu":
        return 1024 if bf16 else 512
    return 16384


def measure(scorer: TokenScorer, missing: float, device: torch.device, most: int) -> Footprint:
    """The footprint of a scorer in training, from what three short rows keep.

    Args:
        scorer: as the learner uses it, with autocast in its forward pass.
        missing: bytes of gradients and optimiser state that are still to be allocated.
        device: where it computes.
        most: tokens in a micro-batch at most.
    """
    a, b, c = (_kept(scorer, tokens, device) for tokens in _PROBES)
    step = _PROBES[1] - _PROBES[0]
    square = max(0.0, (c - 2 * b + a) / (2 * step**2))
    linear = (b - a) / step - square * (_PROBES[0] + _PROBES[1])
    constant = max(0.0, a - linear * _PROBES[0] - square * _PROBES[0] ** 2)
    # Weights of two units at once, as the next one is fetched ahead, and gradients of one.
    gathered = 12.0 * largest_unit(scorer.model)
    config = scorer.text_config
    chunk = min(scorer.logit_chunk, most)
    return Footprint(
        missing=missing,
        fixed=constant + gathered + LOGIT_BYTES * chunk * config.vocab_size,
        linear=linear,
        square=square,
        inputs=4.0 * config.hidden_size * config.num_hidden_layers,
        layers=config.num_hidden_layers,
    )


def choose(
    footprint: Footprint, free: float, longest: int, config: LearnerConfig, most: int
) -> MicroBatches:
    """The largest micro-batches of up to `most` tokens that fit into `free` bytes.

    Activations are recomputed where few tokens would fit otherwise, unless `config` decides.

    Raises:
        UserError: not even one row of `longest` tokens fits. Says what would.
    """
    checkpointing = bool(config.gradient_checkpointing)
    fitting = footprint.fitting(free, longest, checkpointing)
    if config.gradient_checkpointing is None and fitting < max(longest, _LEAST_TOKENS):
        checkpointing = True
        fitting = footprint.fitting(free, longest, True)
    if config.tokens_per_microbatch is not None:
        return MicroBatches(config.tokens_per_microbatch, checkpointing)
    if fitting < longest:
        raise UserError(_too_little(footprint, free, longest, checkpointing))
    # A power of two, so that a resumed run has the same ones although a little less may be free.
    return MicroBatches(min(most, 1 << (fitting.bit_length() - 1)), checkpointing)


def _too_little(footprint: Footprint, free: float, longest: int, checkpointing: bool) -> str:
    """What to say where not even one row fits."""
    needed = footprint.needed(longest, checkpointing)
    adapters = replace(footprint, missing=0.0)
    if not checkpointing and footprint.needed(longest, True) <= free:
        remedy = "leave gradient_checkpointing on"
    elif (shorter := footprint.fitting(free, longest, checkpointing)) > longest // 4:
        remedy = f"rows of {shorter} tokens fit: lower --max-tokens, or train with --lora-rank 16"
    elif footprint.missing and adapters.needed(longest, True) <= free:
        remedy = f"--lora-rank 16 needs about {_gb(adapters.needed(longest, True))}"
    else:
        remedy = f"train a smaller model, or where {_gb(needed)} are free"
    return (
        f"training on rows of {longest} tokens needs about {_gb(needed)} more memory, "
        f"{_gb(footprint.missing)} of it for gradients and optimiser, and {_gb(free)} are free; "
        f"{remedy}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _kept(scorer: TokenScorer, tokens: int, device: torch.device) -> int:
    """Bytes that a forward pass over one row keeps for the backward pass, weights aside."""
    weights = {part(parameter).untyped_storage().data_ptr() for parameter in scorer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    row = torch.zeros(1, tokens, dtype=torch.long, device=device)
    training = scorer.training
    scorer.train()
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        logprob, _ = scorer(row, row[0, :1], row[0, :1])
    scorer.train(training)
    del logprob
    return sum(storage.nbytes() for storage in kept.values())  # gathered weights are gone by now
