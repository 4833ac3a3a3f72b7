"""The lab's tokenizer: every lab word one token, any other text as bytes."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from redraft.lab.words import WORDS

ROLES = ("system", "user", "assistant")
SPECIAL = ("<|pad|>", "<|end|>", *(f"<|{role}|>" for role in ROLES))

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_TEXT_PIECES = """
▁ ▁Sort ▁Compute ▁Write ▁a ▁program ▁Please ▁correct ▁any ▁error . ▁The ▁answer ▁is ▁step ▁by
▁solution ▁Feedback ▁: ▁wrong ▁right ▁because ▁word ▁before ▁after ▁missing ▁twice
▁should ▁be ▁correct
( ) + - * = ; ▁( ▁+ ▁- ▁* ▁= ▁; ▁| print( print(*sorted(" print(" ") ".split()))
"""
PIECES = (
    *_TEXT_PIECES.split(),
    *(f"{space}{digit}" for space in ("", "▁") for digit in range(10)),
)
"""Pieces that are one token beside the words; `▁` stands for a leading space."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer with an explicit vocabulary: special tokens, 256 bytes, pieces, words.

    Text without a known piece falls back to bytes, so any string round-trips.
    """
    known = [*PIECES, *(f"▁{word}" for word in WORDS)]
    vocabulary = [
        *((token, 0.0) for token in SPECIAL),
        *((f"<0x{byte:02X}>", -20.0) for byte in range(256)),
        *((piece, -1.0) for piece in dict.fromkeys(known)),
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
