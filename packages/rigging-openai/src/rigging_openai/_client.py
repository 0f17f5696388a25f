"""Requests over HTTP: sent, answered, and never followed to another host."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp

from rigging.error import BadRequestError, GenerationError, ProviderConnectionError
from rigging.http import parse_report
from rigging.redaction import Redactor
from rigging.remote import RequestTimeout
from rigging_openai import _json
from rigging_openai._body import pieces_of, read_all
from rigging_openai._endpoint import PROVIDER
from rigging_openai._errors import clean, to_rigging_error
from rigging_openai._events import EventParser
from rigging_openai._quotas import Quotas
from rigging_openai._refusals import refused
from rigging_openai._results import broken, error_of, reported_error
from rigging_openai._sessions import Sessions

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Callable, Mapping

    from rigging.limits import Left
    from rigging.result import GeneratedMessage, GeneratedText
    from rigging_openai._request import Request
    from rigging_openai._sessions import Pool
    from rigging_openai._streams import Reader

__all__ = ["Client"]

_ResultT = TypeVar("_ResultT", bound="GeneratedMessage | GeneratedText")

_KEPT_METHOD: Final = frozenset({307, 308})
_MOST_REDIRECTS: Final = 5
_MOST_OF_A_REFUSAL: Final = 2**20  # bytes; what an endpoint says of an error is short
_REFUSED: Final = 300  # and all statuses above

_ERROR: Final = b"error"  # the name of an event
_DONE: Final = b"[DONE]"
_GOODBYE_S: Final = 0.5  # for the end of a stream after its last event: it keeps the connection


class Client:
    """Makes requests, on any event loop."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._quotas = Quotas()

    async def ask(
        self,
        request: Request,
        body: Mapping[str, Any],
        left: Left,
        read: Callable[[Mapping[str, Any], str], _ResultT],
    ) -> _ResultT:
        """Make a request whose answer comes whole.

        Args:
            request: Which.
            body: What to send.
            left: Told when the request has left, where that is wanted, and what is left.
            read: Makes the result of the answer's JSON and the model.

        Raises:
            GenerationError: If no answer came, or one that says no.
        """
        pool = self._sessions.pool() or await self._sessions.open()
        asked = self._ask(pool, request, body, left, read)
        try:
            if request.timeout_s is None:
                return await asked
            timeout = RequestTimeout(request.timeout_s, provider=PROVIDER, model=request.model)
            return await timeout.wait(asked)
        except GenerationError as error:
            clean(error, _redactor(request, pool))
            raise
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise _uniform(error, request, pool) from error

    async def stream(
        self,
        request: Request,
        body: Mapping[str, Any],
        left: Left,
        reader: Reader[_ResultT],
    ) -> AsyncGenerator[str | _ResultT, None]:
        """Make a request whose answer comes in pieces.

        Args:
            request: Which.
            body: What to send.
            left: Told when the request has left, where that is wanted, and what is left.
            reader: Makes texts and the result of the chunks.

        Yields:
            Pieces of the text, then the result. An empty piece says that something has come
            that is no text.

        Raises:
            GenerationError: If no answer came, one that says no, or a part of one.
        """
        pool = self._sessions.pool() or await self._sessions.open()
        timeout = RequestTimeout(request.timeout_s, provider=PROVIDER, model=request.model)
        try:
            response = await timeout.wait(self._send(pool, request, body, left))
            self._quotas.tell(left, request.key, response.headers)
            pieces = _pieces(response, request, pool, timeout, reader)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if not isinstance(piece, str):
                        self._quotas.learn(request.key, piece.usage)
                    yield piece
        except GenerationError as error:
            clean(error, _redactor(request, pool))
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise _uniform(error, request, pool) from error

    async def _ask(
        self,
        pool: Pool,
        request: Request,
        body: Mapping[str, Any],
        left: Left,
        read: Callable[[Mapping[str, Any], str], _ResultT],
    ) -> _ResultT:
        response = await self._send(pool, request, body, left)
        try:
            result = read(await _object(response, request), request.model)
        finally:
            response.close()  # unless it was read to its end, which gave the connection back
        self._quotas.learn(request.key, result.usage)
        self._quotas.tell(left, request.key, response.headers)
        return result

    async def _send(
        self, pool: Pool, request: Request, body: Mapping[str, Any], left: Left
    ) -> aiohttp.ClientResponse:
        """Send a request, also where the host redirects it to on itself.

        Returns:
            The answer, if it says yes.
        """
        data = _encoded(body, request)
        tls = pool.tls(request.ca_file)
        if tls is None:
            tls = await _loaded(pool, request)
        limits = pool.timeout(request.connect_s, request.read_s)
        url = request.endpoint.url(request.path)
        session = pool.announcing if request.announces else pool.session
        for _ in range(_MOST_REDIRECTS):
            try:
                proxy = pool.proxy(url)
                response = await session.post(
                    url,
                    data=data,
                    headers=request.endpoint.headers,
                    timeout=limits,
                    ssl=tls,
                    proxy=None if proxy is None else proxy.checked(),
                    allow_redirects=False,
                    trace_request_ctx=left,
                )
            except (aiohttp.InvalidURL, ValueError) as error:  # of an address, or of a proxy's
                if isinstance(error, aiohttp.ClientConnectionError):
                    raise  # one of a certificate is both
                text = f"the request cannot be sent: {error}"
                raise _unsendable(text, request) from error
            if response.status < _REFUSED:
                return response
            if response.status not in _KEPT_METHOD or "Location" not in response.headers:
                self._quotas.tell(left, request.key, response.headers)
                raise await _refusal(response, request, pool)
            location = response.headers["Location"]
            response.close()
            url = _redirected(url, location, request.model)
        raise broken("the endpoint's redirects lead nowhere", request.model)


def _encoded(body: Mapping[str, Any], request: Request) -> bytes:
    try:
        return _json.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise _unsendable(f"the request has no JSON: {error}", request) from error


async def _loaded(pool: Pool, request: Request) -> ssl.SSLContext:
    """Return what TLS trusts, by a file that was not used before."""
    try:
        return await pool.load(request.ca_file or "")
    except OSError as error:
        raise _unsendable(f"ca_file cannot be used: {error}", request) from error


def _unsendable(text: str, request: Request) -> BadRequestError:
    return BadRequestError(text, provider=PROVIDER, model=request.model)


def _redirected(url: str, location: str, model: str) -> str:
    """Return where a redirect leads, if that is the same host."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
    except ValueError as error:
        raise broken("the endpoint redirects to what is no address", model) from error
    if parts[:2] != urlsplit(url)[:2]:
        raise broken(
            f"the endpoint redirects to another host, {parts.hostname}, where neither the "
            f"prompt nor the key is sent: if it is right, set api_base to it",
            model,
        )
    return target


async def _refusal(
    response: aiohttp.ClientResponse, request: Request, pool: Pool
) -> GenerationError:
    body = b""
    try:
        # Whatever becomes of the text, the status has come.
        with contextlib.suppress(aiohttp.ClientError, GenerationError, TimeoutError):
            body = await read_all(response, _MOST_OF_A_REFUSAL, request.model)
    finally:
        response.close()
    return refused(
        response.status,
        response.headers,
        body,
        model=request.model,
        redactor=_redactor(request, pool),
        had_key=request.endpoint.has_key,
    )


async def _pieces(
    response: aiohttp.ClientResponse,
    request: Request,
    pool: Pool,
    limit: RequestTimeout,
    reader: Reader[_ResultT],
) -> AsyncGenerator[str | _ResultT, None]:
    """Yield the pieces of a text, and the result that they add up to; the answer is closed."""
    try:
        if response.content_type == "application/json":  # the endpoint does not stream
            result = reader.whole(await limit.wait(_object(response, request)))
            if text := str(result):
                yield text
            yield result
            return
        parser = EventParser()
        pieces = pieces_of(response, request.most, request.model)
        is_done = has_begun = False
        async with contextlib.aclosing(pieces):
            while not is_done:
                piece = await limit.wait(anext(pieces, None))
                events = parser.end() if piece is None else parser.feed(piece)
                for event in events:
                    data = event.data.strip()
                    is_done = data == _DONE
                    if is_done:
                        break
                    if event.name == _ERROR:
                        said = data.decode("utf-8", errors="replace")
                        report = parse_report(said, _redactor(request, pool))
                        raise error_of(report, request.model)
                    if not data:
                        continue
                    text = reader.piece(_chunk(data, request.model))
                    if text or (not has_begun and reader.has_begun):
                        has_begun = True
                        yield text
                if piece is None:
                    break
        result = reader.result()
        if not (is_done or reader.has_ended):
            raise _cut_off(request.model)
        await _goodbye(response)
        yield result
    finally:
        response.close()


async def _object(response: aiohttp.ClientResponse, request: Request) -> Mapping[str, Any]:
    """Return the JSON of an answer."""
    data = await read_all(response, request.most, request.model)
    try:
        answer = _json.decode(data)
    except ValueError as error:
        text = f"the answer is no JSON, but {response.content_type}"
        raise broken(text, request.model) from error
    return _checked(answer, request.model)


def _chunk(data: bytes, model: str) -> Mapping[str, Any]:
    """Return the JSON of an event."""
    try:
        chunk = _json.decode(data)
    except ValueError as error:
        raise broken("the endpoint streamed what is no JSON", model) from error
    return _checked(chunk, model)


def _checked(answer: Any, model: str) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise broken(f"the answer is no object, but {type(answer).__name__}", model)
    error = reported_error(answer, model)
    if error is not None:
        raise error
    return answer


def _cut_off(model: str) -> ProviderConnectionError:
    text = "the stream ended before the answer did"
    return ProviderConnectionError(text, provider=PROVIDER, model=model)


async def _goodbye(response: aiohttp.ClientResponse) -> None:
    """Read the end of a stream, so that its connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            while not response.content.at_eof():
                await response.content.readany()


def _uniform(error: Exception, request: Request, pool: Pool) -> GenerationError:
    return to_rigging_error(error, model=request.model, redactor=_redactor(request, pool))


def _redactor(request: Request, pool: Pool) -> Redactor:
    proxy = pool.proxy(request.endpoint.base)
    return Redactor([*request.endpoint.secrets, *(proxy.secrets if proxy else ())])
