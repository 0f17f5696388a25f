"""Proxies that the environment names, as curl and others read it."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

__all__ = ["Proxy", "find_proxy"]

_SCHEMES: Final = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy; its address may hold a password."""

    address: str

    def checked(self) -> str:
        """Return the address.

        Raises:
            ValueError: If the HTTP client does not speak what the proxy does.
        """
        scheme = self.address.partition("://")[0]
        if scheme.lower() not in _SCHEMES:
            raise ValueError(
                f"the environment names a {scheme} proxy, and only http and https ones can be "
                f"asked: set http_proxy and https_proxy to such a one, or no_proxy to the host"
            )
        return self.address

    @property
    def secrets(self) -> tuple[str, ...]:
        """The user's name and password, as they may be shown."""
        # Not by a parser, which refuses some addresses; an error may show those as well.
        user = self.address.partition("://")[2].rpartition("@")[0]
        name, _, password = user.partition(":")
        return tuple(text for given in (name, password) for text in (given, unquote(given)))


def find_proxy(scheme: str, host: str) -> Proxy | None:
    """Return the proxy through which a host is asked; None if it is asked directly.

    Args:
        scheme: Of the address, ``http`` or ``https``.
        host: With its port, if it has one.
    """
    proxies = urllib.request.getproxies()
    address = proxies.get(scheme, proxies.get("all"))
    if not address or urllib.request.proxy_bypass(host):
        return None
    return Proxy(address if "://" in address else f"http://{address}")
