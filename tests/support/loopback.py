"""An HTTP server on loopback, in a thread of its own.

It runs on an event loop of its own, so what it measures is not bent by the loop under test.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ["LoopbackServer"]


class LoopbackServer:
    """Serves what the subclass routes, as a context manager.

    Args:
        port: Where to listen; 0 takes any port that is free.
        tls: To speak HTTPS.

    Attributes:
        loop: Its own, in its thread.
        runner: What runs it; for its connections.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name=type(self).__name__, daemon=True
        )

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Say what is served."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(timeout=10)
        except OSError:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        self.add_routes(app.router)
        # A caller that hangs up is in flight no more.
        self.runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = self.runner.addresses[0][1]

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
