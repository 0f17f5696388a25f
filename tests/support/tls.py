"""Certificates made on the spot: an authority, and a server that it vouches for."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

__all__ = ["make_authority"]


def make_authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of an authority's certificate, and what a server on loopback needs.

    Raises:
        FileNotFoundError: If OpenSSL's command is not installed.
    """
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    request, key, certificate = (folder / f"server.{kind}" for kind in ("csr", "key", "pem"))
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    new = ["-newkey", "rsa:2048", "-nodes"]
    _openssl("req", "-x509", *new, "-subj", "/CN=test", "-keyout", ca_key, "-out", ca)
    _openssl("req", *new, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", request)
    signed_by = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
    _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", names, "-out", certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return ca, context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)  # noqa: S607
