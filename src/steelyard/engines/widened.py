"""A GGUF file written again with other kinds of numbers: 16-bit floats, or 8-bit blocks.

Owns four of the format's kinds (ggml-org/ggml, docs/gguf.md; block layouts in ggml-common.h). The metadata is copied as
it is; matrices are unpacked to 32 bits and packed again, vectors stay 32 bits wide. Knows no engine.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from steelyard.kernel.errors import StartError
from steelyard.upstream.gguf import TensorAt, read_tensors

Kind = Literal["f16", "q8"]
Progress = Callable[[int, int], None]
"""Called with (values done, values in all)."""

_F32, _F16, _Q4_1, _Q8_0 = 0, 1, 3, 8
_BLOCK = 32  # values of a block
_BYTES_OF_BLOCK = {_F32: 128, _F16: 64, _Q4_1: 20, _Q8_0: 34}
_ALIGNMENT = 32
_U32 = 4  # the metadata's number of that type
_VOCABULARY_MIN = 8192  # a longer side of a matrix is the vocabulary
_NARROW_WIDTH = 64
_NARROW = {
    "llama.block_count": 1,
    "llama.embedding_length": _NARROW_WIDTH,
    "llama.feed_forward_length": _NARROW_WIDTH,
    "llama.attention.head_count": 1,
    "llama.attention.head_count_kv": 1,
}
_WRITTEN = {"f16": _F16, "q8": _Q8_0}


def write_weights(source: Path, target: Path, kind: Kind, progress: Progress) -> None:
    """Raises StartError for a file that holds other kinds."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end, tensors = read_tensors(data, source)
        if strange := next((one for one in tensors if not _is_known(one)), None):
            raise StartError(f"The model file {source} has {strange.name} of a kind that is not rewritten here.")
        kinds = [_WRITTEN[kind] if len(one.dims) > 1 else _F32 for one in tensors]
        total, done = sum(map(_values, tensors)), 0
        with target.open("wb") as out:
            _write_head(out, data[:end], tensors, kinds)
            for tensor, wanted in zip(tensors, kinds, strict=True):
                out.write(_packed(data, tensor, wanted))
                _pad(out)
                done += _values(tensor)
                progress(done, total)


def write_stand_in(source: Path, target: Path) -> None:
    """A model of the same vocabulary with one layer, as narrow as can be, all zero. Raises StartError."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end, tensors = read_tensors(data, source)
        head = bytearray(data[:end])
        counted = len(b"GGUF") + 4
        for key, value in _NARROW.items():
            _set_number(head, key, value, source)
    kept = [one for one in tensors if not one.name.startswith("blk.") or one.name.startswith("blk.0.")]
    narrow = [one._replace(dims=_narrow(one)) for one in kept]
    struct.pack_into("<Q", head, counted, len(narrow))
    kinds = [_F16 if len(one.dims) > 1 else _F32 for one in narrow]
    with target.open("wb") as out:
        _write_head(out, bytes(head), narrow, kinds)
        for tensor, kind in zip(narrow, kinds, strict=True):
            out.write(bytes(_values(tensor) // _BLOCK * _BYTES_OF_BLOCK[kind]))
            _pad(out)


def _set_number(head: bytearray, key: str, value: int, source: Path) -> None:
    """Overwrite a 32-bit number of the metadata in place."""
    name = key.encode()
    place = head.find(struct.pack("<Q", len(name)) + name + struct.pack("<I", _U32))
    if place < 0:
        raise StartError(f"The model file {source} does not say {key!r}.")
    struct.pack_into("<I", head, place + 8 + len(name) + 4, value)


def _narrow(tensor: TensorAt) -> tuple[int, ...]:
    """Every length but the vocabulary's becomes the narrow one."""
    return tuple(length if length > _VOCABULARY_MIN else _NARROW_WIDTH for length in tensor.dims)


def _write_head(out: IO[bytes], metadata: bytes, tensors: list[TensorAt], kinds: list[int]) -> None:
    out.write(metadata)
    out.write(_infos(tensors, kinds))
    _pad(out)


def _infos(tensors: list[TensorAt], kinds: list[int]) -> bytes:
    told, offset = [], 0
    for tensor, kind in zip(tensors, kinds, strict=True):
        name = tensor.name.encode()
        dims = struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
        told.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.dims)) + dims)
        told.append(struct.pack("<IQ", kind, offset))
        offset += _aligned(_values(tensor) // _BLOCK * _BYTES_OF_BLOCK[kind])
    return b"".join(told)


def _packed(data: mmap.mmap, tensor: TensorAt, wanted: int) -> bytes:
    import numpy

    size = _values(tensor) // _BLOCK * _BYTES_OF_BLOCK[tensor.kind]
    raw = numpy.frombuffer(data, numpy.uint8, size, tensor.begin)
    values = raw if tensor.kind == wanted else _unpacked(raw, tensor.kind)
    if wanted not in {tensor.kind, _F32}:
        values = values.astype(numpy.float16) if wanted == _F16 else _as_q8(values)
    return bytes(values.tobytes())


def _unpacked(raw: Any, kind: int) -> Any:
    """The values of whole blocks, 32 to a row where the kind has blocks."""
    import numpy

    if kind == _F32:
        return raw.view(numpy.float32)
    if kind == _F16:
        return raw.view(numpy.float16).astype(numpy.float32)
    blocks = raw.reshape(-1, _BYTES_OF_BLOCK[kind])
    scale = blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)
    if kind == _Q8_0:
        return blocks[:, 2:].view(numpy.int8).astype(numpy.float32) * scale
    least = blocks[:, 2:4].copy().view(numpy.float16).astype(numpy.float32)
    halves = numpy.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return halves.astype(numpy.float32) * scale + least


def _as_q8(values: Any) -> Any:
    """Each 32 values as a 16-bit scale and 32 signed bytes."""
    import numpy

    rows = values.reshape(-1, _BLOCK)
    scale = numpy.abs(rows).max(axis=1, keepdims=True) / 127
    ratio = numpy.divide(1, scale, out=numpy.zeros_like(scale), where=scale > 0)
    blocks: Any = numpy.empty((len(rows), _BYTES_OF_BLOCK[_Q8_0]), numpy.uint8)
    blocks[:, :2] = scale.astype(numpy.float16).view(numpy.uint8)
    blocks[:, 2:] = numpy.rint(rows * ratio).astype(numpy.int8).view(numpy.uint8)
    return blocks


def _is_known(tensor: TensorAt) -> bool:
    return tensor.kind in _BYTES_OF_BLOCK and _values(tensor) % _BLOCK == 0


def _values(tensor: TensorAt) -> int:
    count = 1
    for length in tensor.dims:
        count *= length
    return count


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _pad(out: IO[bytes]) -> None:
    out.write(bytes(_aligned(out.tell()) - out.tell()))
