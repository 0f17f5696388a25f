"""Requests, as plugins are told of them: an event at the start, and one at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging.error import ResponseError
from rigging.events import (
    Operation,
    Origin,
    RequestFailed,
    RequestFinished,
    RequestStarted,
    Sampling,
)
from rigging.plugins import HARMLESS, call_each, manager
from rigging.redaction import without_url_secrets
from rigging.result import GeneratedMessage, GeneratedText

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from rigging.params import GenerateParams
    from rigging.plugins import Listener

__all__ = ["Observer", "closing", "ended_with", "observer"]

# What the constructor of a named tuple ends in, at half its cost: there are two per request.
_new: Final = tuple.__new__

# Parameters that are numbers, and say nothing of a text.
_SAMPLING: Final = (
    "temperature",
    "max_tokens",
    "top_k",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


class _Listeners(NamedTuple):
    """Who is told of one run's requests."""

    started: tuple[Listener, ...]
    finished: tuple[Listener, ...]
    failed: tuple[Listener, ...]
    content: tuple[Listener, ...]


_HOOKS: Final = tuple(f"rigging_request_{name}" for name in _Listeners._fields)


def observer(
    generator: Any, generator_id: str | None, operation: Operation, label: str | None
) -> Observer | None:
    """Return what tells of one run's requests; None if nobody listens."""
    if manager.is_empty:
        return None
    found = [manager.listeners(hook) for hook in _HOOKS]
    if not any(found):
        return None
    provider = None
    if generator_id is not None:
        # A distribution may stand before the provider's name.
        provider = generator_id.partition("!")[0].rpartition(":")[2]
        if "://" in generator_id or "?" in generator_id:
            # Value by value: an address ends at the comma.
            generator_id = ",".join(map(without_url_secrets, generator_id.split(",")))
    model = getattr(generator, "model", type(generator).__name__)
    origin = Origin(operation, model, provider, generator_id, label)
    return Observer(generator, origin, _Listeners(*found))


class Observer:
    """Tells of the requests of one run.

    Args:
        generator: What they go to.
        origin: The same in words.
        listeners: Who is told.
    """

    def __init__(self, generator: Any, origin: Origin, listeners: _Listeners) -> None:
        self._generator = generator
        self._origin = origin
        self._started, self._finished, self._failed, self._content = listeners
        self._next_id = manager.next_id
        self._params: GenerateParams | None = None
        self._sampling = Sampling()

    def observed(
        self, request: Callable[[Any, GenerateParams], Awaitable[Any]]
    ) -> Callable[[Any, GenerateParams], Awaitable[Any]]:
        """Return a request function whose calls are told of."""
        start, finish, clock = self._start, self._finish, time.perf_counter

        async def observed_request(given: Any, params: GenerateParams) -> Any:
            began = clock()
            event = start(given, params, began)
            try:
                result = await request(given, params)
            except BaseException as error:
                self._fail(event, began, error)
                raise
            finish(event, began, given, result)
            return result

        return observed_request

    async def stream(
        self, pieces: AsyncIterator[Any], given: Any, params: GenerateParams
    ) -> AsyncGenerator[Any, None]:
        """Yield the pieces of a stream, and tell of it."""
        began = time.perf_counter()
        event = self._start(given, params, began, streams=True)
        first_piece_s = result = None
        try:
            async with closing(pieces):
                async for piece in pieces:
                    if not isinstance(piece, str):
                        result = piece
                    elif first_piece_s is None:
                        first_piece_s = time.perf_counter() - began
                    yield piece
            ended_with(result, self._generator, self._origin.operation)
        except BaseException as error:
            self._fail(event, began, error)
            raise
        self._finish(event, began, given, result, first_piece_s)

    def _start(
        self,
        given: Any,
        params: GenerateParams,
        began: float,
        streams: bool = False,
    ) -> RequestStarted:
        if isinstance(given, str):
            messages, characters = 1, len(given)
        else:
            messages = len(given)
            characters = 0
            for message in given:  # a loop: it costs half as much as a sum
                content = message.content
                characters += len(content) if isinstance(content, str) else len(message.text)
        sampling = self._sampling if params is self._params else self._sampling_of(params)
        facts = (
            self._next_id(),
            self._origin,
            messages,
            characters,
            streams,
            time.time(),
            sampling,
        )
        event = _new(RequestStarted, facts)
        for listener in self._started:  # `call_each`, without a call for each request
            try:
                listener.call(event)
            except HARMLESS as error:
                listener.complain(error)
            except BaseException as error:  # Ctrl-C; but what was told to start must end
                call_each(_behind(listener, self._started), event)
                self._fail(event, began, error)
                raise
        return event

    def _finish(
        self,
        event: RequestStarted,
        began: float,
        given: Any,
        result: Any,
        first_piece_s: float | None = None,
    ) -> None:
        duration_s = time.perf_counter() - began
        if self._content:
            try:
                call_each(self._content, event, given, result)
            except BaseException as error:  # Ctrl-C likewise
                self._fail(event, began, error)
                raise
        if not self._finished:
            return
        if isinstance(given, str):
            text = result.text
        else:  # most contents are texts, and asking the message for its own costs as much as this
            content = result.message.content
            text = content if isinstance(content, str) else result.message.text
        model, id_ = _named(result.extra) if result.extra else (None, None)
        facts = (
            event,
            duration_s,
            first_piece_s,
            len(text),
            result.usage,
            result.stop_reason,
            model,
            id_,
        )
        finished = _new(RequestFinished, facts)
        for listener in self._finished:  # likewise
            try:
                listener.call(finished)
            except HARMLESS as error:
                listener.complain(error)
            except BaseException:
                call_each(_behind(listener, self._finished), finished)
                raise

    def _fail(self, event: RequestStarted, began: float, error: BaseException) -> None:
        failed = RequestFailed(
            event,
            time.perf_counter() - began,
            type(error).__name__,
            getattr(error, "status", None),
            bool(getattr(error, "retryable", False)),
            isinstance(error, (asyncio.CancelledError, GeneratorExit)),
        )
        call_each(self._failed, failed)

    def _sampling_of(self, params: GenerateParams) -> Sampling:
        """Return the numbers among parameters; most requests share those of the pipeline."""
        held = getattr(self._generator, "params", params)
        found = {
            name: getattr(held, name) if own is None else own
            for name in _SAMPLING
            for own in [getattr(params, name)]
        }
        self._sampling = Sampling(
            {name: value for name, value in found.items() if value is not None}
        )
        self._params = params
        return self._sampling


def closing(pieces: AsyncIterator[Any]) -> AbstractAsyncContextManager[Any]:
    """Close a stream at the end, if it can be: an iterator need not have ``aclose``."""
    if hasattr(pieces, "aclose"):
        return contextlib.aclosing(pieces)
    return contextlib.nullcontext(pieces)


def ended_with(result: Any, generator: Any, operation: Operation) -> Any:
    """Return what a stream gave beside its pieces, once checked.

    Raises:
        ResponseError: If that is not its finished result.
    """
    expected = GeneratedMessage if operation == "chat" else GeneratedText
    if not isinstance(result, expected):
        given = "" if result is None else f", but with a {type(result).__name__}"
        raise ResponseError(
            f"the stream of {type(generator).__name__} ended without its result{given}: "
            f"a stream gives pieces of text, and a finished {expected.__name__} as the last item"
        )
    return result


def _behind(listener: Listener, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    """Return who is told after a listener."""
    return listeners[listeners.index(listener) + 1 :]


def _named(extra: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return the model that answered, and the answer's name, as the backend says."""
    model, id_ = extra.get("model"), extra.get("id")
    return model if isinstance(model, str) else None, id_ if isinstance(id_, str) else None
