"""Whom to believe that he is the upstream: certificates of the system's CAs, and of one file beside them.

Owns the TLS side of connections: verification, which nothing switches off, and sessions taken up again, which spare a
handshake its half. Knows no pool.
"""

import ssl
from pathlib import Path
from typing import Self

from steelyard.kernel.errors import StartError

_OTHER_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class Trust(ssl.SSLContext):
    """Verifies certificate and name, speaks HTTP/1.1 only, and remembers the last session of each host."""

    sessions: dict[str, ssl.SSLSession]
    ca_file: Path | None

    def __new__(cls) -> Self:
        trust = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names unasked
        trust.sessions, trust.ca_file = {}, None
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        trust.set_alpn_protocols(["http/1.1"])
        return trust

    @classmethod
    def of(cls, ca_file: Path | None = None) -> Self:
        """The system's CAs and those of `ca_file`. Raises StartError when the file has none."""
        trust = cls()
        trust.ca_file = ca_file
        trust.load_default_certs()
        if ca_file is not None:
            try:
                trust.load_verify_locations(cafile=ca_file)
            except (OSError, ValueError) as error:  # an SSLError is an OSError
                reason = "holds no certificates" if isinstance(error, ssl.SSLError) else f"cannot be read: {error}"
                raise StartError(f"The CA file {ca_file} {reason}. It is a PEM file with certificates.") from None
        return trust

    def over(self, protocol: str) -> Self:
        """Another that believes the same, and speaks `protocol` only."""
        trust = type(self).of(self.ca_file)
        trust.set_alpn_protocols([protocol])
        return trust

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Event loops make their TLS with this, and know nothing of sessions."""
        kept = session or self.sessions.get(str(server_hostname))
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, kept)


def distrust(error: ssl.SSLError) -> str:
    """Why a handshake failed, and what an operator can do about it; to be put behind the upstream's name."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"cannot be spoken to by TLS: {error.reason or error}"
    if error.verify_code in _OTHER_NAME:
        return f"has a certificate of another name: {error.verify_message}"
    return (
        f"has a certificate that is not trusted: {error.verify_message}. The setting 'ca_file' names a file of further "
        "CAs to trust"
    )
