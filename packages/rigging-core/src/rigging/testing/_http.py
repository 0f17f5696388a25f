"""An HTTP server on loopback, in a thread of its own, made of the standard library only.

It runs on an event loop of its own, so that what it measures is not bent by the loop under
test. It speaks as much of HTTP/1.1 as clients of an API do: bodies with a length, connections
that are kept, answers in chunks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["Connection", "HTTPRequest", "HTTPServer", "Headers"]

_START_S: Final = 10.0


class Headers(Mapping[str, str]):
    """Headers as they were written, found in any case."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = {name.lower(): (name, value) for name, value in pairs}

    def __getitem__(self, name: str) -> str:
        return self._pairs[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return repr(dict(self))


class HTTPRequest(NamedTuple):
    """A request as it was sent.

    Attributes:
        method: ``POST`` or another.
        target: Path and query.
        headers: As they were written; found in any case.
        body: What came after them.
        port: The caller's, which tells connections apart.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    port: int


class Connection(asyncio.Protocol):
    """One connection: its requests are handled one after another.

    Who hangs up cancels the handling of what they asked.

    Args:
        handle: Answers a request, through the connection.
        opened: All connections; this one is among them while it is open.
    """

    def __init__(
        self,
        handle: Callable[[HTTPRequest, Connection], Awaitable[None]],
        opened: set[Connection],
    ) -> None:
        self._handle = handle
        self._opened = opened
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None

    # -- What asyncio calls --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what came, and handle it if it is a whole request."""
        self._received += data
        if self._received[:1].isupper():
            self._handle_next()
        else:  # somebody speaks TLS, or something else that is no HTTP
            self.send(HTTPStatus.BAD_REQUEST, {}, b"")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's)
        """Stop what is in progress: nobody waits for it any more."""
        self._opened.discard(self)
        if self._task is not None:
            self._task.cancel()

    # -- What answers do -----------------------------------------------------------------

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        self.begin(status, {"Content-Length": str(len(body)), **headers})
        self._transport.write(body)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer."""
        lines = [f"HTTP/1.1 {int(status)} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """Send a chunk of an answer whose head says so; an empty one is its end."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Break the connection off."""
        self._transport.abort()

    # -- Reading -------------------------------------------------------------------------

    def _handle_next(self) -> None:
        if self._task is None and (request := self._take()) is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: HTTPRequest) -> None:
        try:
            await self._handle(request, self)
        finally:
            self._task = None
            if not self._transport.is_closing():
                self._handle_next()

    def _take(self) -> HTTPRequest | None:
        """Take a request out of what was received, if it is there as a whole."""
        head, found, _ = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = Headers((name, value.strip()) for name, _, value in pairs)
        start = len(head) + len(found)
        end = start + int(headers.get("Content-Length", 0))
        if len(self._received) < end:
            return None
        body = bytes(self._received[start:end])
        del self._received[:end]
        port = self._transport.get_extra_info("peername")[1]
        return HTTPRequest(method, target, headers, body, port)


class HTTPServer:
    """Serves what the subclass answers, as a context manager.

    Args:
        port: Where to listen; 0 takes any port that is free.
        tls: To speak HTTPS.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=type(self).__name__, daemon=True
        )

    async def answer(self, request: HTTPRequest, connection: Connection) -> None:
        """Answer a request; a subclass says how."""
        raise NotImplementedError

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_S)
        except OSError:
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_S)
        self._end_loop()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self.answer, self._connections),
            "127.0.0.1",
            self.port,
            ssl=self._tls,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)  # so that the last sockets are closed

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
