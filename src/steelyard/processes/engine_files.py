"""The engines of one data directory: files say what is wanted of each, what was last seen of it, and how it started.

Files and not the database: engines are of one machine, and `steelyard up` starts those of its own. Whoever writes
replaces a file whole, so that nobody reads half of one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from steelyard.engines.leash import EMBEDDING_UPSTREAM, LOCAL_UPSTREAM
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKnown, EngineSeen, EngineSpec, EngineStart, LineSeen, Wanted, with_lines
from steelyard.kernel.errors import CallerError, StartError

OURS = (LOCAL_UPSTREAM, EMBEDDING_UPSTREAM)
"""Those that `steelyard up` runs by itself."""
_SPEC, _SEEN, _START, _LINE, _ARGUMENTS = ".engine", ".seen", ".start", ".line-", ".yaml"


def specs(data: DataDir) -> dict[str, EngineSpec]:
    """Every engine by name, in the order of the names. Raises StartError for a file nobody can have written."""
    return {name: _read(path, EngineSpec) for name, path in _files(data, _SPEC)}


def ours(data: DataDir) -> list[EngineSpec]:
    """The engines that `steelyard up` runs by itself, as they were last seen: they are its settings, so no file says
    what is wanted."""
    told = [(name, seen(data, name)) for name in OURS]
    return [EngineSpec(name, one.kind, one.model) for name, one in told if one is not None and one.kind is not None]


def known(data: DataDir) -> list[EngineKnown]:
    """Every engine, our own first. Raises StartError for a file nobody can have written."""
    return [
        EngineKnown(spec, seen(data, spec.name), start(data, spec.name))
        for spec in (*ours(data), *specs(data).values())
    ]


def spec(data: DataDir, name: str) -> EngineSpec:
    """Raises CallerError 404 when there is none of that name, 409 when it is one of ours."""
    if name in OURS:
        said = (
            f"The engine {name!r} is the platform's own: its settings are those of `steelyard up`, and it ends with it."
        )
        raise CallerError(409, "own_engine", said)
    path = data.engines / f"{name}{_SPEC}"
    if not path.exists():
        raise CallerError(404, "unknown_engine", f"There is no engine {name!r}. See: steelyard engine list")
    return _read(path, EngineSpec)


def put_spec(data: DataDir, one: EngineSpec) -> None:
    _write(data.engines / f"{one.name}{_SPEC}", msgspec.json.format(msgspec.json.encode(one)))


def drain(data: DataDir, name: str, reason: str) -> EngineSpec:
    """Nothing new is to be sent to it, and it is stopped when its answers have ended. Raises CallerError 404."""
    return change(data, name, wanted=Wanted.DRAINED, reason=reason or "drained")


def restart(data: DataDir, name: str, reason: str) -> EngineSpec:
    """It is to be drained and started anew; an adopted one is looked at anew. Raises CallerError 404."""
    again = spec(data, name).generation + 1
    return change(data, name, wanted=Wanted.RUN, reason=reason or "restarted", generation=again)


def change(data: DataDir, name: str, **changes: Any) -> EngineSpec:
    """Something else is wanted of it. Raises CallerError 404."""
    changed = msgspec.structs.replace(spec(data, name), **changes)
    put_spec(data, changed)
    return changed


def put_arguments(data: DataDir, name: str, content: str) -> None:
    """The file of arguments that its server reads, with its key in the clear. Raises StartError."""
    _write(arguments_file(data, name), content.encode())


def arguments_file(data: DataDir, name: str) -> Path:
    return data.engines / f"{name}{_ARGUMENTS}"


def drop_spec(data: DataDir, name: str) -> None:
    """Forget the engine, what was seen of it, and the key that its server was given."""
    for ending in (_SPEC, _SEEN, _START, _ARGUMENTS):
        (data.engines / f"{name}{ending}").unlink(missing_ok=True)


def drop_starts(data: DataDir) -> None:
    """The platform begins anew: starts are counted from here, and our own engines are what this start makes of them."""
    for _, path in _files(data, _START):
        path.unlink(missing_ok=True)
    for name in OURS:
        for path in data.engines.glob(f"{name}{_LINE}*"):
            path.unlink(missing_ok=True)
        (data.engines / f"{name}{_SEEN}").unlink(missing_ok=True)


def start(data: DataDir, name: str) -> EngineStart | None:
    """None: it has not run since the platform was started."""
    try:
        return msgspec.json.decode((data.engines / f"{name}{_START}").read_bytes(), type=EngineStart)
    except (OSError, msgspec.DecodeError):
        return None


def note_start(data: DataDir, name: str, now_ns: int, **facts: str) -> None:
    """It runs, for the first time or again; `facts` are the texts of an EngineStart."""
    before = start(data, name) or EngineStart(now_ns, now_ns, 0)
    now = EngineStart(before.first_ns, now_ns, before.starts + 1, **facts)
    _write(data.engines / f"{name}{_START}", msgspec.json.encode(now))


def seen(data: DataDir, name: str) -> EngineSeen | None:
    """None: nobody has looked yet, or what is there is of another version. Who waits in workers counts."""
    try:
        found = msgspec.json.decode((data.engines / f"{name}{_SEEN}").read_bytes(), type=EngineSeen)
    except (OSError, msgspec.DecodeError):
        return None
    return with_lines(found, list(_lines(data, name)))


def put_line(data: DataDir, name: str, worker: int, one: LineSeen) -> None:
    """What waits for the engine of that name in a worker."""
    _write(data.engines / f"{name}{_LINE}{worker}", msgspec.json.encode(one))


def _lines(data: DataDir, name: str) -> Iterator[LineSeen]:
    for path in sorted(data.engines.glob(f"{name}{_LINE}*")):
        with contextlib.suppress(OSError, msgspec.DecodeError):  # one of another version, or just removed
            yield msgspec.json.decode(path.read_bytes(), type=LineSeen)


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
    name = ""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError as error:
        if name:  # on a full disk there would be two more of them every second
            Path(name).unlink(missing_ok=True)
        raise StartError(f"{path} cannot be written: {error.strerror}.") from None
