"""A model file's own words, and files that lie about their lengths."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.kernel.errors import StartError
from steelyard.upstream.gguf import model_name_of, read_gguf, slug


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(*pairs: tuple[str, int, bytes], version: int = 3, count: int | None = None) -> bytes:
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs) if count is None else count) + body


ARRAYS = (
    struct.pack("<IQ", 8, 2) + text("a") + text("b"),
    struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, 2, 3),
    struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 2) + b"\1\2",
)
WHOLE = gguf(
    ("tokenizer.ggml.tokens", 9, ARRAYS[0]),
    ("general.architecture", 8, text("qwen3")),
    ("numbers", 9, ARRAYS[1]),
    ("nested", 9, ARRAYS[2]),
    ("general.name", 8, text("Qwen3 8B Instruct (2507)")),
    ("qwen3.context_length", 4, struct.pack("<I", 40960)),
    ("flag", 7, b"\1"),
    ("tokenizer.chat_template", 8, text("{{ x }}")),
)


def write(folder: Path, data: bytes, name: str = "some.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_what_a_whole_file_says(tmp_path: Path) -> None:
    found = read_gguf(write(tmp_path, WHOLE))
    assert (found.name, found.architecture, found.context_tokens) == ("Qwen3 8B Instruct (2507)", "qwen3", 40960)
    assert (found.chat_template, found.model_name) == ("{{ x }}", "qwen3-8b-instruct-2507")


def test_the_name_of_the_built_in_model_is_the_published_one(tmp_path: Path) -> None:
    name = ("general.name", 8, text("Smollm2 135M 8k Lc100K Mix1 Ep2"))
    assert model_name_of(write(tmp_path, gguf(name, version=2))) == "smollm2-135m-instruct"


def test_a_file_without_a_name_is_called_after_itself(tmp_path: Path) -> None:
    assert model_name_of(write(tmp_path, gguf(), "My Model.Q4_K_M.gguf")) == "my-model.q4-k-m"
    assert model_name_of(write(tmp_path, gguf(("general.name", 8, text("模型"))), "模型.gguf")) == "model"


@pytest.mark.parametrize("end", range(4, len(WHOLE)))
def test_a_file_cut_anywhere_is_refused(end: int, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="damaged or cut short"):
        read_gguf(write(tmp_path, WHOLE[:end]))


@pytest.mark.parametrize(
    "data",
    [
        gguf(count=2**63),
        gguf(("a", 8, struct.pack("<Q", 2**63))),
        gguf(("a", 9, struct.pack("<IQ", 10, 2**62))),
        gguf(("a", 9, struct.pack("<IQ", 8, 2**62) + text("x"))),
        gguf(("a", 9, struct.pack("<IQ", 9, 1) * 50)),
        gguf(("a", 77, b"")),
        gguf(("a", 9, struct.pack("<IQ", 77, 0))),
    ],
)
def test_lies_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="damaged"):
        read_gguf(write(tmp_path, data))


@given(st.integers(4, len(WHOLE) - 1), st.binary(min_size=1, max_size=9))
def test_no_damage_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), WHOLE[:place] + junk + WHOLE[place + len(junk) :], "junk.gguf")
    try:
        read_gguf(path)
    except StartError as error:
        assert "\n" not in str(error)


def test_files_that_are_none(tmp_path: Path) -> None:
    for data in (b"", b"GG", b"PK\3\4" * 9):
        with pytest.raises(StartError, match="not a GGUF file"):
            read_gguf(write(tmp_path, data))
    with pytest.raises(StartError, match="cannot be read: No such file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        read_gguf(tmp_path)
    with pytest.raises(StartError, match="version 1;"):
        read_gguf(write(tmp_path, gguf(version=1)))


def test_slugs() -> None:
    assert slug("SmolLM2 135M Instruct") == "smollm2-135m-instruct"
    assert slug("--../..--") == ""
    assert len(slug("x" * 500)) == 64
