"""Connections, pooled per event loop and closed with it.

A loop that shuts down closes the asynchronous generators that run on it, as `asyncio.run`
does; one that goes on closes those that nobody refers to any more. So each pool is kept by
one: it ends with its loop, or with the generator that it belongs to, whichever is first.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import urllib.request
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Pool", "Sessions", "credentials"]


class Pool:
    """The connections of one event loop.

    How many there may be is for the limiter, so there is no limit here.

    Attributes:
        session: Sends requests.
        announcing: Sends them over the same connections, and calls what is given as
            ``trace_request_ctx`` when a request has left.
    """

    def __init__(self) -> None:
        self._connector = aiohttp.TCPConnector(limit=0)
        self.session = self._make_session()
        self.announcing = self._make_session(_announce())
        self._proxies: dict[str, str | None] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()
        await self.announcing.close()
        await self._connector.close()

    def proxy(self, url: str) -> str | None:
        """Return the proxy that the environment names for an address; None if there is none."""
        if url not in self._proxies:
            parts = urlsplit(url)
            proxies = urllib.request.getproxies()
            passed_by = urllib.request.proxy_bypass(parts.netloc)
            proxy = proxies.get(parts.scheme, proxies.get("all"))
            self._proxies[url] = None if passed_by else proxy
        return self._proxies[url]

    async def tls(self, ca_file: str | None) -> ssl.SSLContext | bool:
        """Return what TLS trusts: the certificates in a file, or what the system does.

        Raises:
            OSError: If the file cannot be read; `ssl.SSLError` is one, too.
        """
        if ca_file is None:
            return True
        if ca_file not in self._contexts:
            self._contexts[ca_file] = await asyncio.to_thread(
                ssl.create_default_context, cafile=ca_file
            )
        return self._contexts[ca_file]

    def _make_session(self, *tracing: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            auto_decompress=False,  # unpacked by us, up to a bound
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=list(tracing),
        )


class Sessions:
    """The pools of one generator, one per event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[Pool, None]]
        ] = WeakKeyDictionary()

    async def pool(self) -> Pool:
        """Return the pool of the running loop."""
        loop = asyncio.get_running_loop()
        kept = self._by_loop.get(loop)
        if kept is None:
            keeper = _keep(Pool())
            # Its first step tells the loop about it; nobody else gets in between.
            kept = (await anext(keeper), keeper)
            with self._lock:
                for other in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[other]
                self._by_loop[loop] = kept
            weakref.finalize(keeper, _let_go, loop, kept[0])
        return kept[0]


async def _keep(pool: Pool) -> AsyncGenerator[Pool, None]:
    try:
        yield pool
    finally:
        await pool.close()


def _let_go(loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
    """Close what a loop has left open that was never shut down, when the program ends."""
    if not (pool.session.closed or loop.is_closed() or loop.is_running()):
        loop.run_until_complete(pool.close())


def _announce() -> aiohttp.TraceConfig:
    async def left(session: aiohttp.ClientSession, context: Any, details: Any) -> None:  # noqa: ARG001
        context.trace_request_ctx()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(left)
    return tracing


def credentials(proxy: str) -> tuple[str, ...]:
    """Return the user's name and password in a proxy's address, as they may be shown."""
    parts = urlsplit(proxy)
    found = (parts.username, parts.password)
    return tuple(text for given in found if given for text in (given, unquote(given)))
