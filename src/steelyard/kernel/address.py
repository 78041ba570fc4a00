"""Where an upstream listens: `host:port` or an http(s) URL, read once into its parts. Knows no dialect."""

import re
from dataclasses import dataclass
from functools import lru_cache

from steelyard.kernel import limits

_ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?P<base>(?:/[A-Za-z0-9._~-]+)*)/?"
)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A listener, and where its API begins. `base` is empty or begins with a slash and ends without one."""

    host: str
    port: int
    tls: bool = False
    base: str = ""

    def api(self, path: str) -> str:
        """Where `path` of an API is whose version 1 lies under /v1, unless the address says where it lies."""
        return f"{self.base or '/v1'}{path}"

    def under(self, path: str) -> str:
        """Where `path` is, below whatever the address names."""
        return f"{self.base}{path}"


@lru_cache(limits.ADDRESSES_KNOWN_MAX)
def address_of(text: str) -> Address:
    """Raises ValueError with what is wrong, to be put behind the field's name."""
    found = _ADDRESS.fullmatch(text)
    if found is None or len(text) > limits.ADDRESS_CHARACTERS_MAX:
        raise ValueError("must be a host and a port, such as 127.0.0.1:8000, or a URL, such as https://api.example/v1")
    scheme, port = found["scheme"], found["port"]
    if scheme is None and (port is None or found["base"]):
        raise ValueError("needs a port, or https:// before it")
    number = int(port) if port else _PORTS[scheme]
    if not 0 < number < 65536:
        raise ValueError("has a port that cannot be: 1 to 65535")
    return Address(found["host"].strip("[]"), number, scheme == "https", found["base"])
