"""A tiny Llama as a GGUF file, with weights of four types and a byte-level tokenizer."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH, FEED_FORWARD, HEADS, KEYS = 32, 64, 4, 2
TYPES = {
    "token_embd": GGMLQuantizationType.Q8_0,
    "ffn_gate": GGMLQuantizationType.Q4_1,
    "ffn_down": GGMLQuantizationType.Q5_0,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


def write_gguf(path: Path) -> Path:
    """Write the file."""
    rng = np.random.default_rng(0)
    tokens = [*bytes_to_unicode().values(), "ab", "<s>", "</s>"]
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_chat_template(CHAT_TEMPLATE)
    heads = WIDTH // HEADS * KEYS
    shapes = {
        "token_embd": (len(tokens), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (heads, WIDTH),
        "blk.0.attn_v": (heads, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (FEED_FORWARD, WIDTH),
        "blk.0.ffn_up": (FEED_FORWARD, WIDTH),
        "blk.0.ffn_down": (WIDTH, FEED_FORWARD),
    }
    for name, shape in shapes.items():
        weight = rng.normal(size=shape).astype(np.float32)
        if kind := TYPES.get(name.rpartition(".")[2]):
            writer.add_tensor(f"{name}.weight", quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_type(path: Path, name: str, number: int) -> Path:
    """The file, with `number` written where the type of a tensor of two dimensions stands."""
    content = bytearray(path.read_bytes())
    place = content.index(name.encode()) + len(name) + 4 + 2 * 8
    content[place : place + 4] = number.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path
