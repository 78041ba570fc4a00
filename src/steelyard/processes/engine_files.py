"""The engines of one data directory: a file says what is wanted of each, another what was last seen of it.

Files and not the database: engines are of one machine, and `steelyard up` starts those of its own. Whoever writes
replaces a file whole, so that nobody reads half of one.
"""

import os
import tempfile
from pathlib import Path

import msgspec

from steelyard.engines.leash import LOCAL_UPSTREAM
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineSeen, EngineSpec
from steelyard.kernel.errors import CallerError, StartError

_SPEC, _SEEN = ".engine", ".seen"


def specs(data: DataDir) -> dict[str, EngineSpec]:
    """Every engine by name, in the order of the names. Raises StartError for a file nobody can have written."""
    return {name: _read(path, EngineSpec) for name, path in _files(data, _SPEC)}


def local(data: DataDir) -> EngineSpec | None:
    """The local engine, as it was last seen: it is a setting of `steelyard up`, so no file says what is wanted."""
    told = seen(data, LOCAL_UPSTREAM)
    return None if told is None or told.kind is None else EngineSpec(LOCAL_UPSTREAM, told.kind, told.model)


def spec(data: DataDir, name: str) -> EngineSpec:
    """Raises CallerError 404 when there is none of that name."""
    path = data.engines / f"{name}{_SPEC}"
    if not path.exists():
        raise CallerError(404, "unknown_engine", f"There is no engine {name!r}. See: steelyard engine list")
    return _read(path, EngineSpec)


def put_spec(data: DataDir, one: EngineSpec) -> None:
    _write(data.engines / f"{one.name}{_SPEC}", msgspec.json.format(msgspec.json.encode(one)))


def drop_spec(data: DataDir, name: str) -> None:
    """Forget the engine and what was seen of it."""
    for ending in (_SPEC, _SEEN):
        (data.engines / f"{name}{ending}").unlink(missing_ok=True)


def seen(data: DataDir, name: str) -> EngineSeen | None:
    """None: nobody has looked yet, or what is there is of another version."""
    try:
        return msgspec.json.decode((data.engines / f"{name}{_SEEN}").read_bytes(), type=EngineSeen)
    except (OSError, msgspec.DecodeError):
        return None


def put_seen(data: DataDir, name: str, one: EngineSeen) -> None:
    _write(data.engines / f"{name}{_SEEN}", msgspec.json.encode(one))


def _files(data: DataDir, ending: str) -> list[tuple[str, Path]]:
    if not data.engines.is_dir():
        return []
    return [(path.name.removesuffix(ending), path) for path in sorted(data.engines.glob(f"*{ending}"))]


def _read(path: Path, record: type[EngineSpec]) -> EngineSpec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=record)
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"{path} cannot be read: {error}. Remove it, and add the engine again.") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}.") from None
