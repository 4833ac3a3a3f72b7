"""Log-probabilities of chosen tokens through a chunked LM head.

The decoder's body runs over whole rows; only the hidden states that predict a chosen token go
through the LM head, a chunk at a time, and each chunk's logits are recomputed in the backward pass.
No tensor of shape [batch, time, vocabulary] ever exists.
"""

from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from redraft.errors import UserError

CHUNK_ELEMENTS = 2**26
"""Logits per chunk when no chunk size is given: 256 MiB in float32."""

Entropy = Literal["none", "value", "gradient"]
"""Whether entropies are wanted, and whether they carry gradient."""


class TokenScorer(nn.Module):
    """A causal language model whose forward pass gives log-probabilities of chosen tokens.

    It is a module of its own so that DDP and FSDP see the forward pass they have to hook.
    `temperature` divides the logits; `logit_chunk` is the number of tokens whose logits exist at
    once (None: as many as make `CHUNK_ELEMENTS` logits).
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, temperature: float, logit_chunk: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        config = base.config.get_text_config()
        self.logit_chunk = logit_chunk or max(1, CHUNK_ELEMENTS // config.vocab_size)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies by logit_scale, Granite divides by logits_scaling.
        self._scale = float(getattr(config, "logit_scale", None) or 1.0)
        self._scale /= float(getattr(config, "logits_scaling", None) or 1.0)

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
        hidden = self._base.get_decoder()(input_ids=tokens, use_cache=False)[0]
        hidden = hidden.flatten(0, 1)[positions]  # [chosen, width]
        chunks = range(0, len(targets), self.logit_chunk)
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

    def _score(self, hidden: Tensor, targets: Tensor, entropy: Entropy) -> tuple[Tensor, Tensor]:
        logits = self._base.get_output_embeddings()(hidden).float()  # [chunk, vocabulary]
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        log_total = logits.logsumexp(-1)  # [chunk]
        logprob = logits.gather(-1, targets[:, None])[:, 0] - log_total
        if entropy == "none":
            return logprob, torch.zeros_like(log_total)
        # Entropy comes last: as a mere value, recomputation in the backward pass stops before it.
        with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
            p = (logits - log_total[:, None]).exp()
            return logprob, log_total - (p * logits).sum(-1)

    def checkpoint_activations(self) -> None:
        """Have the body recompute its activations in the backward pass."""
        # transformers gave the method a new name between 5.10 and 5.23.
        new = getattr(self._base, "activation_checkpointing_enable", None)
        (new or self._base.gradient_checkpointing_enable)({"use_reentrant": False})

    @torch.no_grad()
    def check_head(self) -> None:
        """Compare with the model's own forward pass on a few tokens.

        Raises:
            UserError: a weight or a logit is not finite; or the two disagree, so this architecture
                does something to its logits that the chunked head does not know.
        """
        weight = self._base.get_input_embeddings().weight
        if weight.is_meta:  # weights arrive later (FSDP); the main process checks
            return
        name = type(self._base).__name__
        weights = self._base.named_parameters()
        if bad := [where for where, w in weights if not bool(w.isfinite().all())]:
            raise UserError(
                f"{name}: {len(bad)} of its weight tensors hold NaN or infinite values, the first "
                f"is {bad[0]}; load an undamaged copy of the model"
            )
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(weight.shape[0], (2, 8), generator=generator).to(weight.device)
        training = self.training
        self.eval()
        logits = self.model(input_ids=tokens, use_cache=False).logits.float()  # [2, 8, vocabulary]
        expected = (logits / self.temperature).log_softmax(-1)[:, :-1]
        expected = expected.gather(-1, tokens[:, 1:, None]).flatten()  # [2 · 7]
        places = torch.arange(16, device=weight.device).view(2, 8)[:, :-1].flatten()
        logprob, _ = self(tokens, places, tokens[:, 1:].flatten())
        self.train(training)
        if not bool(logits.isfinite().all()):
            raise UserError(
                f"{name}: its logits are NaN or infinite although all weights are finite; the "
                "model has diverged, go back to an earlier copy"
            )
        tolerance = 1e-3 if weight.dtype == torch.float32 else 0.1
        gap = (logprob - expected).abs().max().item()
        if not gap <= tolerance:
            raise UserError(
                f"{name}: log-probabilities through the chunked head differ "
                f"from the model's own by {gap:.3g}; this architecture's head is not supported, "
                "use a plain decoder such as Llama, Qwen, Gemma, Mistral or Phi"
            )
