"""Stop strings: found while tokens are drawn, cut from the text afterwards."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_MARGIN = 4  # tokens: the first ones of a slice may decode differently for want of their neighbours


class StopStrings:
    """Watches the ends of growing attempts for any of a few strings.

    A string that has just been completed lies within the last tokens of an attempt: every token of
    a match spells at least one byte of it. Only that tail is decoded.
    """

    def __init__(self, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.strings, self.tokenizer = strings, tokenizer
        self.tail = max(len(string.encode()) for string in strings) + _MARGIN

    def matched(self, tokens: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """Which attempts contain a stop string near their end.

        Args:
            tokens: [slots, max_tokens] sampled so far.
            rows: [n] which of these rows to look at.
            count: [n] how many tokens each of them has, at least 1.

        Returns:
            [n] bool.
        """
        index = count.unsqueeze(-1) - self.tail + torch.arange(self.tail, device=tokens.device)
        tails = tokens[rows.unsqueeze(-1), index.clamp(min=0)].tolist()  # [n, tail]
        counts = count.tolist()
        found = [
            self._contains(text_of(self.tokenizer, tail[max(0, self.tail - length) :]))
            for tail, length in zip(tails, counts, strict=True)
        ]
        return torch.tensor(found, device=tokens.device)

    def _contains(self, text: str) -> bool:
        return any(string in text for string in self.strings)


def cut(text: str, strings: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the strings to occur in it, and whether any did."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of an attempt's tokens, special tokens left out, spaces as they were sampled."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the same text at a tenth of the cost of the wrapper around it
        return backend.decode(list(tokens), skip_special_tokens=True)
    text = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)  # a list only for a batch
    return text
