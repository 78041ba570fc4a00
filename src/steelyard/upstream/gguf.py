"""What a GGUF file says about itself: name, architecture, context length.

Owns the reading of the metadata header, versions 2 and 3, and the rule that makes a model's public name. Every length
is checked against the file before it is believed. Format: ggml-org/ggml, docs/gguf.md. Knows no engine.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.errors import StartError

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_PAIRS_MAX = 65_536
_KEY_BYTES_MAX = 65_535  # the format's own limit
_COUNTS_AT = len(_MAGIC) + 4
_TENSORS_MAX = 65_536
_RANK_MAX = 4
_ALIGNMENT = 32  # of the tensors' data, where the file names no other
_DEPTH_MAX = 4  # arrays of arrays of arrays are not in any known file

_PUBLISHED_AS = {"smollm2-135m-8k-lc100k-mix1-ep2": "smollm2-135m-instruct"}
"""Files whose `general.name` is a label of the training run, and the name their model was published under."""

Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The metadata the platform reads; None where the file says nothing."""

    path: Path
    name: str | None
    size_label: str | None
    architecture: str | None
    context_tokens: int | None
    chat_template: str | None
    mtp_layers: int = 0  # made to draft the tokens after the next one

    @property
    def model_name(self) -> str:
        """The name customers ask for. See `model_name_of`."""
        name = slug(self.name or "") or slug(self.path.stem) or "model"
        return _PUBLISHED_AS.get(name, name)


class TensorAt(NamedTuple):
    """A tensor's place: `begin` in the file, `dims` innermost first, `kind` the number of its type in the format."""

    name: str
    dims: tuple[int, ...]
    kind: int
    begin: int


class _Damaged(Exception):
    """The bytes are not what the format promises."""


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = len(_MAGIC)

    def take(self, length: int) -> bytes:
        end = self._place + length
        if length < 0 or end > len(self._data):
            raise _Damaged
        piece = self._data[self._place : end]
        self._place = end
        return piece

    @property
    def place(self) -> int:
        return self._place

    def skip(self, length: int) -> None:
        if self._place + length > len(self._data):
            raise _Damaged
        self._place += length

    def scalar(self, kind: int) -> Value:
        form = _SCALARS.get(kind)
        if form is None:
            raise _Damaged
        value: Value = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def unsigned(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self, bytes_max: int) -> str:
        length = self.unsigned("<Q")
        if length > bytes_max:
            raise _Damaged
        return self.take(length).decode(errors="replace")

    def value(self, kind: int) -> Value:
        """A scalar or a text; arrays (vocabularies) are stepped over and give None."""
        if kind == _STRING:
            return self.text(limits.GGUF_TEXT_BYTES_MAX)
        if kind == _ARRAY:
            self._skip_array(0)
            return None
        return self.scalar(kind)

    def _skip_array(self, depth: int) -> None:
        kind = self.unsigned("<I")
        count = self.unsigned("<Q")
        if depth > _DEPTH_MAX or count > len(self._data):
            raise _Damaged
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.unsigned("<Q"))
        elif kind == _ARRAY:
            for _ in range(count):
                self._skip_array(depth + 1)
        elif (form := _SCALARS.get(kind)) is not None:
            self.skip(count * struct.calcsize(form))
        else:
            raise _Damaged


def read_gguf(path: Path) -> GgufFile:
    """Raises StartError with one line that names the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise StartError(f"The model file {path} is not a GGUF file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = _metadata(data, path)
    except OSError as error:
        raise StartError(f"The model file {path} cannot be read: {error.strerror}.") from None
    except (_Damaged, struct.error):
        raise StartError(f"The model file {path} is damaged or cut short. Fetch it again.") from None
    architecture = _text(found.get("general.architecture"))
    context = found.get(f"{architecture}.context_length")
    layers = found.get(f"{architecture}.nextn_predict_layers")
    return GgufFile(
        path=path,
        name=_text(found.get("general.name")),
        size_label=_text(found.get("general.size_label")),
        architecture=architecture,
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        chat_template=_text(found.get("tokenizer.chat_template")),
        mtp_layers=layers if isinstance(layers, int) else 0,
    )


def read_tensors(data: mmap.mmap, path: Path) -> tuple[int, list[TensorAt]]:
    """Where the metadata of an open file ends, and its tensors. Raises StartError as `read_gguf` does."""
    try:
        found = _metadata(data, path)
        cursor = _past_metadata(data)
        end = cursor.place
        count = struct.unpack_from("<Q", data, _COUNTS_AT)[0]
        if count > _TENSORS_MAX:
            raise _Damaged
        told = [_tensor(cursor) for _ in range(count)]
    except (_Damaged, struct.error):
        raise StartError(f"The model file {path} is damaged or cut short. Fetch it again.") from None
    alignment = found.get("general.alignment")
    alignment = alignment if isinstance(alignment, int) and alignment > 0 else _ALIGNMENT
    start = -(-cursor.place // alignment) * alignment
    return end, [one._replace(begin=start + one.begin) for one in told]


def _tensor(cursor: _Cursor) -> TensorAt:
    name = cursor.text(_KEY_BYTES_MAX)
    rank = cursor.unsigned("<I")
    if rank > _RANK_MAX:
        raise _Damaged
    dims = tuple(cursor.unsigned("<Q") for _ in range(rank))
    return TensorAt(name, dims, cursor.unsigned("<I"), cursor.unsigned("<Q"))


def model_name_of(path: Path) -> str:
    """The public name of the model in a file: its `general.name` as a slug, else the file's name as one.

    A `general.name` known to be a label of the training run is replaced by the name the model was published under.
    Raises StartError as `read_gguf` does.
    """
    return read_gguf(path).model_name


def slug(text: str) -> str:
    """Lower case, runs of anything but letters, digits and dots become one dash: `SmolLM2 135M Instruct` →
    `smollm2-135m-instruct`. Empty when nothing is left."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[: limits.NAME_CHARACTERS_MAX].rstrip("-.")


def _past_metadata(data: mmap.mmap) -> _Cursor:
    cursor = _Cursor(data)
    cursor.skip(4 + 8)
    for _ in range(cursor.unsigned("<Q")):
        cursor.text(_KEY_BYTES_MAX)
        cursor.value(cursor.unsigned("<I"))
    return cursor


def _metadata(data: mmap.mmap, path: Path) -> dict[str, Value]:
    cursor = _Cursor(data)
    version = cursor.unsigned("<I")
    if version not in {2, 3}:
        raise StartError(f"The model file {path} is GGUF version {version}; versions 2 and 3 can be read.")
    cursor.unsigned("<Q")  # tensors
    pairs = cursor.unsigned("<Q")
    if pairs > _PAIRS_MAX:
        raise _Damaged
    found: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text(_KEY_BYTES_MAX)
        found[key] = cursor.value(cursor.unsigned("<I"))
    return found


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) and value else None
