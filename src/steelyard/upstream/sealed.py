"""Keys of vendors as the books keep them: sealed by a master key, opened only where they are used.

Owns where the master key comes from (STEELYARD_SECRET, else a file of the data directory) and how it seals (Fernet:
AES-CBC with an HMAC that is compared in constant time). Knows no database. What cannot be opened is never shown.
"""

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.kernel import limits
from steelyard.kernel.errors import StartError, bad_request

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

SECRET_VARIABLE = "STEELYARD_SECRET"  # noqa: S105 - the name of a variable
_PURPOSE = b"steelyard: keys of vendors, version 1"
_SHOWN_FROM_CHARACTERS = 20  # of a shorter key its last four would say too much


class Master:
    """The master key of one installation. Shows nothing of itself."""

    def __init__(self, file: Path) -> None:
        """`file`: where the key lies, or will lie when the first key of a vendor is sealed."""
        self._file = file
        self._fernet: Fernet | None = None

    def seal(self, key: str) -> str:
        """A vendor's key as the books may keep it. Raises CallerError 400 for one no header can carry."""
        check_key(key)
        return self._opened(make=True).encrypt(key.encode()).decode()

    def open(self, token: str) -> str:
        """The key behind what `seal` made. Raises StartError when this master key is not the one it was sealed with."""
        from cryptography.fernet import InvalidToken

        try:
            return self._opened(make=False).decrypt(token.encode()).decode()
        except (InvalidToken, ValueError):
            raise StartError(
                f"was sealed with another master key. Set {SECRET_VARIABLE} to that one, or set the key anew: "
                "steelyard vendor key NAME"
            ) from None

    def _opened(self, *, make: bool) -> "Fernet":
        if self._fernet is None:
            from cryptography.fernet import Fernet
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF

            derived = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(self._secret(make=make))
            self._fernet = Fernet(base64.urlsafe_b64encode(derived))
        return self._fernet

    def _secret(self, *, make: bool) -> bytes:
        text = os.environ.get(SECRET_VARIABLE, "").strip()
        if text:
            if len(text) < limits.MASTER_CHARACTERS_MIN:
                raise StartError(
                    f"{SECRET_VARIABLE} has fewer than {limits.MASTER_CHARACTERS_MIN} characters. "
                    "Make one with: openssl rand -base64 32"
                )
            return text.encode()
        if make:
            _make_once(self._file)
        try:
            return self._file.read_bytes()
        except OSError:
            raise StartError(
                f"cannot be opened: there is no master key, neither in {SECRET_VARIABLE} nor in the data directory"
            ) from None


def key_variable(upstream: str) -> str:
    """The environment variable with an upstream's key: `my-vllm` → `STEELYARD_UPSTREAM_KEY_MY_VLLM`."""
    return "STEELYARD_UPSTREAM_KEY_" + re.sub(r"[^A-Z0-9]", "_", upstream.upper())


def check_key(key: str) -> None:
    """Raise CallerError 400 unless a header can carry the key."""
    if not key.isascii() or not key.isprintable() or not key or key != key.strip():
        raise bad_request("The key must be printable ASCII text without blanks at an end, and not empty.", "key")
    if len(key) > limits.VENDOR_KEY_CHARACTERS_MAX:
        raise bad_request(f"The key has more than {limits.VENDOR_KEY_CHARACTERS_MAX} characters.", "key")


def shown_of(key: str) -> str:
    """What people may see of a key, to tell it from another."""
    return f"…{key[-4:]}" if len(key) >= _SHOWN_FROM_CHARACTERS else "set"


def _make_once(file: Path) -> None:
    """32 random bytes, mode 0600. Whole or not there: another process may look at any moment."""
    if file.exists():
        return
    if not file.parent.is_dir():
        raise StartError(f"There are no books in {file.parent}. Start the platform there with 'steelyard up'.")
    descriptor, name = tempfile.mkstemp(dir=file.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as made:
            made.write(os.urandom(32))
            made.flush()
            os.fsync(made.fileno())
        Path(file).hardlink_to(name)
    except FileExistsError:  # another process was quicker
        pass
    finally:
        Path(name).unlink()
