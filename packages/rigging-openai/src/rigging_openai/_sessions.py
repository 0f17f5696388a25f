"""Connections, pooled per event loop and closed with it.

A loop that shuts down closes the asynchronous generators that run on it, as `asyncio.run`
does; one that goes on closes those that nobody refers to any more. So each pool is kept by
one: it ends with its loop, or with the generator that it belongs to, whichever is first.
Pools of loops that are never shut down, or go on after it, end when they are let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp

from rigging_openai._proxies import find_proxy
from rigging_openai._version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from rigging_openai._proxies import Proxy

__all__ = ["Pool", "Sessions"]

# All of those that the client would have to add to each request; an endpoint's own win.
_HEADERS: Final = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # answers are small, and unpacking them costs more
    "Content-Type": "application/json",
    "User-Agent": f"rigging-openai/{__version__}",
}


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
        self._proxies: dict[tuple[str, str], Proxy | None] = {}  # by scheme and host
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._timeout = aiohttp.ClientTimeout()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, as by the end of its loop."""
        closed: bool = self._connector.closed
        return closed

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()
        await self.announcing.close()
        await self._connector.close()

    def proxy(self, url: str) -> Proxy | None:
        """Return the proxy that the environment names for an address; None if there is none."""
        origin = urlsplit(url)[:2]
        if origin not in self._proxies:
            self._proxies[origin] = find_proxy(*origin)
        return self._proxies[origin]

    def timeout(self, connect_s: float | None, read_s: float | None) -> aiohttp.ClientTimeout:
        """Return the client's form of two limits in seconds; nearly always those of the last."""
        last = self._timeout
        if last.connect != connect_s or last.sock_read != read_s:
            last = aiohttp.ClientTimeout(connect=connect_s, sock_read=read_s)
            self._timeout = last
        return last

    def tls(self, ca_file: str | None) -> ssl.SSLContext | bool | None:
        """Return what TLS trusts: the system's certificates, or a file's, if it was loaded."""
        return True if ca_file is None else self._contexts.get(ca_file)

    async def load(self, ca_file: str) -> ssl.SSLContext:
        """Load the certificates in a file, in a thread.

        Raises:
            OSError: If the file cannot be read; `ssl.SSLError` is one, too.
        """
        context = await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)
        self._contexts[ca_file] = context
        return context

    def _make_session(self, *tracing: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            headers=_HEADERS,
            auto_decompress=False,  # unpacked by us, up to a bound
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=list(tracing),
        )


class _Entry:
    """A pool, and the generator that its loop closes it with, if the loop takes any."""

    def __init__(self, pool: Pool, keeper: AsyncGenerator[Pool, None] | None) -> None:
        self.pool = pool
        self._keeper = keeper


class Sessions:
    """The pools of one generator, one per event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Entry] = WeakKeyDictionary()

    def pool(self) -> Pool | None:
        """Return the pool of the running loop, if it has one."""
        kept = self._by_loop.get(asyncio.get_running_loop())
        return None if kept is None or kept.pool.is_closed else kept.pool

    async def open(self) -> Pool:
        """Return a new pool, which the running loop has from now on."""
        loop = asyncio.get_running_loop()
        pool = Pool()
        # A loop that has closed one has shut down its generators, and takes no more.
        keeper = None if loop in self._by_loop else _keeper(pool)
        if keeper is not None:
            await anext(keeper)  # its first step tells the loop; nobody gets in between
        kept = _Entry(pool, keeper)
        with self._lock:
            for other in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[other]
            self._by_loop[loop] = kept
        weakref.finalize(kept, _let_go, loop, pool, loop_closes=keeper is not None)
        return pool


async def _keeper(pool: Pool) -> AsyncGenerator[Pool, None]:
    try:
        yield pool
    finally:
        await pool.close()


def _let_go(loop: asyncio.AbstractEventLoop, pool: Pool, *, loop_closes: bool) -> None:
    """Close what nobody refers to any more, or what is open when the program ends."""
    if pool.is_closed:
        return
    if loop.is_closed():
        # Nothing can be waited for, and nothing is: it only says that it is closed.
        with contextlib.suppress(StopIteration):
            pool.close().send(None)
    elif loop.is_running():
        if not loop_closes:
            asyncio.run_coroutine_threadsafe(pool.close(), loop)
    elif not _in_a_loop():
        loop.run_until_complete(pool.close())
    else:  # two loops cannot run in one thread
        closing = threading.Thread(target=loop.run_until_complete, args=(pool.close(),))
        closing.start()
        closing.join()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _announce() -> aiohttp.TraceConfig:
    async def left(session: aiohttp.ClientSession, context: Any, details: Any) -> None:  # noqa: ARG001
        context.trace_request_ctx()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(left)
    return tracing
