"""The layout of a data directory: which file lies where. Knows nothing of what is in them."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from steelyard.kernel.errors import StartError

DATABASE_VARIABLE = "STEELYARD_DATABASE"
_SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where PostgreSQL has the books; empty: SQLite has them. It may carry a password, so it never shows itself."""

    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DataDir:
    """Where everything of one installation lies. `url` names the database of the books, if they are elsewhere."""

    root: Path
    url: DatabaseUrl = DatabaseUrl()

    @classmethod
    def of_child(cls, root: Path) -> "DataDir":
        """For a process that was started for this directory: a URL travels in the environment only."""
        return cls(root, DatabaseUrl(os.environ.get(DATABASE_VARIABLE, "")))

    @property
    def environment(self) -> dict[str, str]:
        """For `of_child`."""
        return {DATABASE_VARIABLE: self.url.text}

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def database(self) -> Path | DatabaseUrl:
        """What storage.database opens."""
        return self.url if self.url.text else self.root / "steelyard.db"

    @property
    def journals(self) -> Path:
        return self.root / "journal"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def keys(self) -> Path:
        """Where the table of live keys lies; see kernel.key_table."""
        return self.root / "keys"

    @property
    def energy(self) -> Path:
        return self.root / "energy"

    @property
    def engines(self) -> Path:
        """What is wanted and was seen of the GPU engines of this machine; see processes.engine_files."""
        return self.root / "engines"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def secret(self) -> Path:
        return self.root / "secret"

    @property
    def master(self) -> Path:
        """The key that seals the keys of vendors; see upstream.sealed."""
        return self.root / "master.key"

    @property
    def socket(self) -> Path:
        """The Unix socket of `books`; a path too long for the kernel moves to a private temporary directory."""
        direct = self.root.absolute() / "teller.sock"
        if len(os.fsencode(direct)) <= _SOCKET_PATH_BYTES_MAX:
            return direct
        note = self.root / "teller.path"
        if note.exists():
            elsewhere = Path(note.read_text(encoding="utf-8"))
            if elsewhere.is_dir():
                return elsewhere / "teller.sock"
        elsewhere = Path(tempfile.mkdtemp(prefix="steelyard-"))
        note.write_text(str(elsewhere), encoding="utf-8")
        return elsewhere / "teller.sock"

    def prepare(self) -> None:
        """Make the directories, readable by the owner only. Raises StartError when that fails."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.journals, self.files, self.keys, self.energy, self.engines, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"The data directory {self.root} cannot be used: {error.strerror}.") from None

    def read_secret(self) -> bytes:
        """The 32 bytes that sign console sessions; made on first use, mode 0600."""
        try:
            descriptor = os.open(self.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self.secret.read_bytes()
        with os.fdopen(descriptor, "wb") as file:
            secret = os.urandom(32)
            file.write(secret)
        return secret
