"""Log-probabilities of chosen tokens through a chunked LM head.

The decoder's body runs over whole rows; only the hidden states that predict a chosen token go
through the LM head, a chunk at a time, and each chunk's logits are recomputed in the backward pass.
No tensor of shape [batch, time, vocabulary] ever exists.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from redraft.errors import UserError
from redraft.learning.attention import BLOCKWISE, attention_of, is_plain
from redraft.learning.sharding import is_fsdp, is_sharded, part

CHUNK_ELEMENTS = 2**26
"""Logits per chunk when no chunk size is given: 256 MiB in float32."""

Entropy = Literal["none", "value", "gradient"]
"""Whether entropies are wanted, and whether they carry gradient."""


class TokenScorer(nn.Module):
    """A causal language model whose forward pass gives log-probabilities of chosen tokens.

    It is a module of its own so that DDP sees the forward pass that it has to hook; a sharded model
    is told of it, and gathers its weights around it.
    `temperature` divides the logits; `logit_chunk` is the number of tokens whose logits exist at
    once (None: as many as make `CHUNK_ELEMENTS` logits).
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, temperature: float, logit_chunk: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        config = self.text_config
        self.logit_chunk = logit_chunk or max(1, CHUNK_ELEMENTS // config.vocab_size)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies by logit_scale, Granite divides by logits_scaling.
        self._scale = float(getattr(config, "logit_scale", None) or 1.0)
        self._scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        knows_others = getattr(self._base, "_supports_attention_backend", False)
        self._blockwise = knows_others and is_plain(config)
        self._in_step = is_sharded(model) and not is_fsdp(model)
        """Whether all processes must call each layer as often: ZeRO gathers it in each call."""
        if is_fsdp(model):
            root: Any = model
            root.log_probabilities = self._log_probabilities
            register_fsdp_forward_method(root, "log_probabilities")

    @property
    def text_config(self) -> Any:
        """The configuration of the text model."""
        return self._base.config.get_text_config()

    @property
    def _base(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(
        self, tokens: Tensor, positions: Tensor, targets: Tensor, entropy: Entropy = "none"
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each target and entropy of the distribution it was drawn from.

        Rows are padded on the right, so under causal attention no real token ever sees a padding
        token and no attention mask is needed: attention takes its fast path.

        Args:
            tokens: [batch, time] token ids, right-padded with any valid id.
            positions: [chosen] places in the flattened [batch · time] whose hidden state predicts
                the target (one before the target itself).
            targets: [chosen] token ids.
            entropy: whether to compute entropies; as a mere "value" they cost no memory.

        Returns:
            log-probabilities and entropies in nats (0 where not wanted), float32 [chosen] each.
        """
        run = getattr(self.model, "log_probabilities", self._log_probabilities)
        return run(tokens, positions, targets, entropy)

    def _log_probabilities(
        self, tokens: Tensor, positions: Tensor, targets: Tensor, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        with self._attention():
            hidden = self._base.get_decoder()(input_ids=tokens, use_cache=False)[0]
        hidden = hidden.flatten(0, 1)[positions]  # [chosen, width]
        count = torch.tensor(-(-len(targets) // self.logit_chunk), device=hidden.device)
        if self._in_step:
            torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX)
        chunks = [self.logit_chunk * k for k in range(int(count))]
        if len(chunks) == 1:
            return self._score(hidden, targets, entropy)
        scores = [
            checkpoint(
                self._score,
                hidden[start : start + self.logit_chunk],
                targets[start : start + self.logit_chunk],
                entropy,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing random in a head
            )
            for start in chunks
        ]
        return torch.cat([s[0] for s in scores]), torch.cat([s[1] for s in scores])

    def _attention(self) -> AbstractContextManager[None]:
        """The model with attention whose memory is linear in the length of rows, where it has none
        of its own and allows another."""
        if self._blockwise and self._base.device.type == "cpu":
            return attention_of(self.text_config, BLOCKWISE)
        return nullcontext()

    def _score(self, hidden: Tensor, targets: Tensor, entropy: Entropy) -> tuple[Tensor, Tensor]:
        logits = self._base.get_output_embeddings()(hidden)  # [chunk, vocabulary]
        if self._scale != 1.0:
            logits = logits.float() * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits.float() / self._softcap)
        if self.temperature != 1.0:
            logits = logits.float() / self.temperature
        if entropy == "gradient":
            log_p = logits.log_softmax(-1, dtype=torch.float32)
            return _chosen(log_p, targets), -(log_p.exp() * log_p).sum(-1)
        logprob, log_p = _LogSoftmaxOf.apply(logits, targets)
        if entropy == "none":
            return logprob, torch.zeros_like(logprob)
        # Entropy comes last: recomputation in the backward pass stops before it.
        with torch.no_grad():
            return logprob, -torch.linalg.vecdot(log_p.exp(), log_p)

    def checkpoint_activations(self) -> None:
        """Have the body recompute its activations in the backward pass."""
        # transformers gave the method a new name between 5.10 and 5.23.
        new = getattr(self._base, "activation_checkpointing_enable", None)
        (new or self._base.gradient_checkpointing_enable)(
            {
                "use_reentrant": False,
                "context_fn": lambda: (nullcontext(), self._attention()),
            }
        )

    @torch.no_grad()
    def check_head(self) -> None:
        """Compare with the model's own forward pass on a few tokens.

        Raises:
            UserError: a weight or a logit is not finite; or the two disagree, so this architecture
                does something to its logits that the chunked head does not know.
        """
        device = self._base.device
        name = type(self._base).__name__
        weights = [*self._base.named_parameters()]
        sound = torch.stack([part(w).detach().isfinite().all() for _, w in weights]).int()
        if is_sharded(self.model):
            torch.distributed.all_reduce(sound, torch.distributed.ReduceOp.MIN)
        if bad := [where for (where, _), fine in zip(weights, sound, strict=True) if not fine]:
            raise UserError(
                f"{name}: {len(bad)} of its weight tensors hold NaN or infinite values, the first "
                f"is {bad[0]}; load an undamaged copy of the model"
            )
        generator = torch.Generator().manual_seed(0)
        words = self.text_config.vocab_size
        tokens = torch.randint(words, (2, 8), generator=generator).to(device)
        places = torch.arange(16, device=device).view(2, 8)[:, :-1].flatten()
        low = any(w.dtype != torch.float32 for _, w in weights)
        training = self.training
        self.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            logits = self.model(input_ids=tokens, use_cache=False).logits  # [2, 8, vocabulary]
            logprob, _ = self(tokens, places, tokens[:, 1:].flatten())
        tolerance = 1e-3 if logits.dtype == torch.float32 else 0.1
        logits = logits.float()
        expected = (logits / self.temperature).log_softmax(-1)[:, :-1]
        expected = expected.gather(-1, tokens[:, 1:, None]).flatten()  # [2 · 7]
        self.train(training)
        if not bool(logits.isfinite().all()):
            raise UserError(
                f"{name}: its logits are NaN or infinite although all weights are finite; the "
                "model has diverged, go back to an earlier copy"
            )
        gap = (logprob - expected).abs().max().item()
        if not gap <= tolerance and self._blockwise:  # its attention has something of its own
            self._blockwise = False
            return self.check_head()
        if not gap <= tolerance:
            raise UserError(
                f"{name}: log-probabilities through the chunked head differ "
                f"from the model's own by {gap:.3g}; this architecture's head is not supported, "
                "use a plain decoder such as Llama, Qwen, Gemma, Mistral or Phi"
            )


class _LogSoftmaxOf(torch.autograd.Function):
    """Log-probabilities of `targets` [chunk], with gradient, and of all tokens [chunk, vocabulary],
    without; float32. Autograd's own form goes over the vocabulary three times as often."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = logits.log_softmax(-1, dtype=torch.float32)
        ctx.save_for_backward(log_p, targets)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(log_p)
        return _chosen(log_p, targets), log_p

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        log_p, targets = ctx.saved_tensors
        by_logit = log_p.exp().mul_(-gradient[:, None])
        by_logit.scatter_add_(-1, targets[:, None], gradient[:, None])
        return by_logit.to(ctx.dtype), None


def _chosen(log_p: Tensor, targets: Tensor) -> Tensor:
    """Entries of log_p [chunk, vocabulary] at `targets` [chunk], as no view of it."""
    return log_p[torch.arange(len(targets), device=log_p.device), targets]
