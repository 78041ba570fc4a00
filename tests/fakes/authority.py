"""A certificate authority of a test's own, made with the openssl command line."""

import shutil
import ssl
import subprocess
from pathlib import Path

_EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"]


class Authority:
    """Certifies servers. `ca_file` is what its clients trust."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.ca_file = place / "ca.pem"
        self._openssl("-subj", "/CN=Test CA", "-out", str(self.ca_file), "-keyout", str(place / "ca.key"))

    @staticmethod
    def is_possible() -> bool:
        return shutil.which("openssl") is not None

    def server(self, name: str = "IP:127.0.0.1") -> ssl.SSLContext:
        """What a server that calls itself `name` (`IP:…` or `DNS:…`) speaks TLS with."""
        certificate, key = self._place / "server.pem", self._place / "server.key"
        signer = ["-CA", str(self.ca_file), "-CAkey", str(self._place / "ca.key")]
        constraints = ["-addext", f"subjectAltName={name}", "-addext", "basicConstraints=critical,CA:FALSE"]
        self._openssl("-subj", "/CN=server", *signer, *constraints, "-out", str(certificate), "-keyout", str(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _openssl(self, *options: str) -> None:
        subprocess.run(["openssl", "req", "-x509", *_EC, *options], check=True, capture_output=True, timeout=60)
