"""A GGUF file of a model that knows 257 words and drafts with a layer made for it (MTP), written out of a seed.

Its layers pass on what they get, so the next word follows from the last one alone, and its drafting layer says the same
but for some words, of which it has a wrong picture: those drafts are thrown away. The names are those of llama.cpp's
`qwen35`, the format is ggml-org/ggml's docs/gguf.md.
"""

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from random import Random

WIDTH, HEAD, STATES, CONTEXT = 64, 64, 4, 1024
TRUNK = 2  # layers before the one that drafts
WRONG_EVERY = 4  # words of so many, the drafting layer has a wrong picture of one
_KEPT = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves in a vocabulary
_STRANGE = {byte: chr(256 + number) for number, byte in enumerate(one for one in range(256) if one not in _KEPT)}
WORDS = [*(_STRANGE.get(byte, chr(byte)) for byte in range(256)), "<|end|>"]
_TEXT, _ARRAY, _U32, _F32, _I32 = 8, 9, 4, 6, 5
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

Values = Sequence[float]
Tensor = tuple[str, tuple[int, ...], Values]


def write_mtp_model(path: Path, seed: int = 1) -> Path:
    """The file, about 600 KiB."""
    dice = Random(seed)
    tensors: list[Tensor] = []
    pictures = _noise(dice, len(WORDS) * WIDTH)
    tensors.append(("token_embd.weight", (WIDTH, len(WORDS)), pictures))
    tensors.append(("output_norm.weight", (WIDTH,), [1.0] * WIDTH))
    tensors.append(("output.weight", (WIDTH, len(WORDS)), _only_letters(_noise(dice, len(WORDS) * WIDTH))))
    for layer in range(TRUNK + 1):
        tensors += _layer(dice, f"blk.{layer}.")
    mistaken = list(pictures)
    for word in range(0, len(WORDS), WRONG_EVERY):
        mistaken[word * WIDTH : (word + 1) * WIDTH] = _noise(dice, WIDTH)
    drafting = f"blk.{TRUNK}.nextn."
    tensors.append((drafting + "eh_proj.weight", (2 * WIDTH, WIDTH), _first_half()))
    tensors.append((drafting + "enorm.weight", (WIDTH,), [1.0] * WIDTH))
    tensors.append((drafting + "hnorm.weight", (WIDTH,), [1.0] * WIDTH))
    tensors.append((drafting + "embed_tokens.weight", (WIDTH, len(WORDS)), mistaken))
    path.write_bytes(_file(tensors))
    return path


def _noise(dice: Random, count: int) -> list[float]:
    return [dice.gauss(0, 1) for _ in range(count)]


def _only_letters(values: list[float]) -> Values:
    """Other words are never the most likely ones, so an answer can be read."""
    for word in range(len(WORDS)):
        if not ord("a") <= word <= ord("z"):
            values[word * WIDTH : (word + 1) * WIDTH] = [0.0] * WIDTH
    return values


def _first_half() -> Values:
    """A matrix that passes on the picture of the word and nothing of the state beside it."""
    values = [0.0] * (2 * WIDTH * WIDTH)
    for row in range(WIDTH):
        values[row * 2 * WIDTH + row] = 1.0
    return values


def _layer(dice: Random, name: str) -> list[Tensor]:
    """One that computes and adds nothing: what it would add is multiplied by zero."""
    square, ones, zeros = (WIDTH, WIDTH), [1.0] * WIDTH, [0.0] * (WIDTH * WIDTH)
    return [
        (name + "attn_norm.weight", (WIDTH,), ones),
        (name + "post_attention_norm.weight", (WIDTH,), ones),
        *(_recurrence(dice, name) if name == "blk.0." else _attention(dice, name)),
        (name + "ffn_gate.weight", square, _noise(dice, WIDTH * WIDTH)),
        (name + "ffn_up.weight", square, _noise(dice, WIDTH * WIDTH)),
        (name + "ffn_down.weight", square, zeros),
    ]


def _recurrence(dice: Random, name: str) -> list[Tensor]:
    """The engine keeps memory of two kinds for this architecture, and cannot do without layers of one of them."""
    inner = 3 * WIDTH
    return [
        (name + "attn_qkv.weight", (WIDTH, inner), _noise(dice, WIDTH * inner)),
        (name + "attn_gate.weight", (WIDTH, WIDTH), _noise(dice, WIDTH * WIDTH)),
        (name + "ssm_conv1d.weight", (4, inner), _noise(dice, 4 * inner)),
        (name + "ssm_dt.bias", (STATES,), [0.0] * STATES),
        (name + "ssm_a", (STATES,), [-1.0] * STATES),
        (name + "ssm_beta.weight", (WIDTH, STATES), _noise(dice, WIDTH * STATES)),
        (name + "ssm_alpha.weight", (WIDTH, STATES), _noise(dice, WIDTH * STATES)),
        (name + "ssm_norm.weight", (WIDTH // STATES,), [1.0] * (WIDTH // STATES)),
        (name + "ssm_out.weight", (WIDTH, WIDTH), [0.0] * (WIDTH * WIDTH)),
    ]


def _attention(dice: Random, name: str) -> list[Tensor]:
    ones, zeros = [1.0] * HEAD, [0.0] * (HEAD * WIDTH)
    return [
        (name + "attn_q.weight", (WIDTH, 2 * HEAD), _noise(dice, 2 * HEAD * WIDTH)),
        (name + "attn_k.weight", (WIDTH, HEAD), _noise(dice, HEAD * WIDTH)),
        (name + "attn_v.weight", (WIDTH, HEAD), _noise(dice, HEAD * WIDTH)),
        (name + "attn_q_norm.weight", (HEAD,), ones),
        (name + "attn_k_norm.weight", (HEAD,), ones),
        (name + "attn_output.weight", (HEAD, WIDTH), zeros),
    ]


def _metadata() -> list[bytes]:
    numbers = {
        "block_count": TRUNK + 1,
        "nextn_predict_layers": 1,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "rope.dimension_count": HEAD,
        "full_attention_interval": 2,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": WIDTH,
        "ssm.state_size": WIDTH // STATES,
        "ssm.time_step_rank": STATES,
        "ssm.group_count": STATES,
    }
    return [
        _pair("general.architecture", _TEXT, _text("qwen35")),
        _pair("general.name", _TEXT, _text("Tiny MTP")),
        *(_pair(f"qwen35.{name}", _U32, struct.pack("<I", value)) for name, value in numbers.items()),
        _pair("qwen35.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-6)),
        _pair("qwen35.rope.freq_base", _F32, struct.pack("<f", 10_000.0)),
        _pair("qwen35.rope.dimension_sections", _ARRAY, _array(_I32, [struct.pack("<i", n) for n in (16, 8, 8, 0)])),
        _pair("tokenizer.ggml.model", _TEXT, _text("gpt2")),
        _pair("tokenizer.ggml.pre", _TEXT, _text("default")),
        _pair("tokenizer.ggml.tokens", _ARRAY, _array(_TEXT, [_text(word) for word in WORDS])),
        _pair("tokenizer.ggml.token_type", _ARRAY, _array(_I32, [struct.pack("<i", n) for n in [1] * 256 + [3]])),
        _pair("tokenizer.ggml.merges", _ARRAY, _array(_TEXT, [])),
        _pair("tokenizer.ggml.eos_token_id", _U32, struct.pack("<I", 256)),
        _pair("tokenizer.chat_template", _TEXT, _text(_TEMPLATE)),
    ]


def _file(tensors: Sequence[Tensor]) -> bytes:
    metadata, infos, data = _metadata(), [], bytearray()
    for name, dims, values in tensors:
        infos.append(_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data)))
        data += array("f", values).tobytes()
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join([*metadata, *infos])
    return head + bytes(-len(head) % 32) + bytes(data)


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _array(kind: int, values: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)
