"""GGUF files written again: what is read out of the new one is what the old one said."""

import struct
from pathlib import Path

import pytest

from steelyard.engines.widened import write_stand_in, write_weights
from steelyard.kernel.errors import StartError

numpy = pytest.importorskip("numpy", reason="it comes with openvino-genai")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def q4_1(scale: float, least: float, nibbles: list[int]) -> bytes:
    packed = bytes(low | high << 4 for low, high in zip(nibbles[:16], nibbles[16:], strict=True))
    return struct.pack("<ee", scale, least) + packed


def gguf(path: Path, tensors: list[tuple[str, tuple[int, ...], int, bytes]], *keys: bytes) -> Path:
    infos, data = b"", b""
    for name, dims, kind, raw in tensors:
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def values(path: Path, size: int, dtype: str) -> list[float]:
    """The numbers at the end of a file with one tensor."""
    raw = path.read_bytes()
    length = size * numpy.dtype(dtype).itemsize
    return list(numpy.frombuffer(raw[len(raw) - length - (-length % 32) :][:length], dtype).astype(float))


def test_four_bits_become_sixteen(tmp_path: Path) -> None:
    nibbles = [n % 16 for n in range(32)]
    source = gguf(tmp_path / "a", [("m", (32, 1), 3, q4_1(0.5, -2, nibbles))], number("k", 1))
    write_weights(source, tmp_path / "b", "f16", lambda done, total: None)
    assert values(tmp_path / "b", 32, "<f2") == [n * 0.5 - 2 for n in nibbles]


def test_eight_bits_are_kept_and_made(tmp_path: Path) -> None:
    exact = [float(n) for n in range(-16, 16)]
    halves = numpy.array([n * 127 / 16 for n in exact], "<f2").tobytes()
    source = gguf(tmp_path / "a", [("m", (32, 1), 1, halves)])
    told: list[tuple[int, int]] = []
    write_weights(source, tmp_path / "b", "q8", lambda done, total: told.append((done, total)))
    raw = (tmp_path / "b").read_bytes()[-64:-30]
    scale = struct.unpack("<e", raw[:2])[0]
    found = [scale * n for n in struct.unpack("<32b", raw[2:])]
    assert found == pytest.approx([n * 127 / 16 for n in exact], abs=scale)
    assert told == [(32, 32)]
    write_weights(tmp_path / "b", tmp_path / "c", "q8", lambda done, total: None)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes()


def test_vectors_stay_wide(tmp_path: Path) -> None:
    vector = numpy.arange(32, dtype="<f4").tobytes()
    source = gguf(tmp_path / "a", [("v", (32,), 0, vector)])
    write_weights(source, tmp_path / "b", "f16", lambda done, total: None)
    assert values(tmp_path / "b", 32, "<f4") == [float(n) for n in range(32)]


def test_a_kind_it_does_not_know_is_told(tmp_path: Path) -> None:
    source = gguf(tmp_path / "a", [("m", (32, 1), 99, bytes(32))])
    with pytest.raises(StartError, match="has m of a kind that is not rewritten here"):
        write_weights(source, tmp_path / "b", "f16", lambda done, total: None)


def test_a_stand_in_is_narrow(tmp_path: Path) -> None:
    keys = [
        number(f"llama.{name}", 999)
        for name in (
            *("block_count", "embedding_length", "feed_forward_length"),
            *("attention.head_count", "attention.head_count_kv"),
        )
    ]
    tensors = [
        ("token_embd.weight", (128, 8224), 1, bytes(2 * 128 * 8224)),
        ("blk.0.attn_q.weight", (128, 128), 1, bytes(2 * 128 * 128)),
        ("blk.1.attn_q.weight", (128, 128), 1, bytes(2 * 128 * 128)),
    ]
    write_stand_in(gguf(tmp_path / "a", tensors, *keys), tmp_path / "b")
    made = (tmp_path / "b").read_bytes()
    assert struct.unpack_from("<Q", made, 8)[0] == 2, "one layer of two, and the vocabulary"
    assert len(made) < 2 * 64 * 8224 + 2 * 64 * 64 + 1024
    assert struct.pack("<II", 4, 999) not in made
