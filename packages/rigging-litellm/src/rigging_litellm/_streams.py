"""litellm's streams: pieces of text as they come, and the answer that they add up to.

litellm hands out chunks of its own making. Where the endpoint reports no usage it counts
tokens itself, and where no reason for the end came it says ``stop``. Neither is a fact, so
what is reported here is read from the chunks that did come.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rigging.error import ResponseError
from rigging.result import GeneratedMessage, GeneratedText, StopReason
from rigging_litellm._errors import PROVIDER
from rigging_litellm._evidence import Evidence
from rigging_litellm._results import reported_usage, to_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from rigging.remote import RequestTimeout

__all__ = ["ChatReader", "Reader", "TextReader", "read_stream"]

_ResultT = TypeVar("_ResultT")
_ResultT_co = TypeVar("_ResultT_co", covariant=True)


class Reader(Protocol[_ResultT_co]):
    """What is made of a stream's chunks."""

    def says_something(self, chunk: Any) -> bool:
        """Return whether some of the answer is in a chunk, text or not."""

    def piece(self, chunk: Any) -> str:
        """Take a chunk; return the text in it, which may be empty."""

    async def result(self, stream: Any) -> _ResultT_co:
        """Return what the chunks add up to, once ``stream`` has ended.

        Raises:
            ResponseError: If no answer came.
        """


async def read_stream(
    stream: Any, reader: Reader[_ResultT], limit: RequestTimeout
) -> AsyncGenerator[str | _ResultT, None]:
    """Yield the pieces of a stream of litellm's, then its result; the stream is closed.

    An empty piece says that something has come that is no text.

    Args:
        stream: What litellm returned.
        reader: For chunks of its kind.
        limit: Of the request.

    Raises:
        ProviderTimeoutError: If the endpoint took too long.
        ResponseError: If no answer came.
        Exception: What litellm raises.
    """
    try:
        chunks = aiter(stream)
        has_begun = False
        try:
            while (chunk := await limit.wait(anext(chunks, None))) is not None:
                piece = reader.piece(chunk)
                if piece or (not has_begun and reader.says_something(chunk)):
                    has_begun = True
                    yield piece
        except Exception as error:
            # What is no answer at all is not one that was cut short.
            if has_begun or not Evidence(error).ended_early:
                raise
        yield await reader.result(stream)
    finally:
        await (stream.aclose() if hasattr(stream, "aclose") else _break_off(stream))


async def _break_off(stream: Any) -> None:
    """Close what stands behind a stream that cannot be closed, as those of texts cannot.

    Whoever is cancelled while it waits for the endpoint closes the connection, so that is
    what is done here.
    """

    async def read_on() -> None:
        with contextlib.suppress(Exception):
            async for _ in stream:
                pass

    reading = asyncio.create_task(read_on())
    try:
        await asyncio.sleep(0)  # until it waits
    finally:
        reading.cancel()
        await asyncio.wait([reading])


class ChatReader:
    """Reads the chunks of a chat completion."""

    def __init__(self, litellm: Any, model: str) -> None:
        self._litellm = litellm
        self._model = model

    def says_something(self, chunk: Any) -> bool:
        """Return whether some of the message is in a chunk, text or not."""
        return any(map(_says, chunk.choices))

    def piece(self, chunk: Any) -> str:
        """Return the text in a chunk."""
        return (chunk.choices[0].delta.content or "") if chunk.choices else ""

    async def result(self, stream: Any) -> GeneratedMessage:
        """Put the message together, and what came beside it."""
        chunks = stream.chunks
        # In a thread, because that takes a while for thousands of chunks.
        response = await asyncio.to_thread(
            self._litellm.stream_chunk_builder, chunks, logging_obj=stream.logging_obj
        )
        answered = [chunk for chunk in chunks if chunk.choices]
        said = any(chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in answered)
        # litellm makes up a last chunk where none came.
        if response is None or not (
            answered and (said or any(_has(chunk, "usage") for chunk in chunks))
        ):
            raise _nothing(self._model)
        hidden = response._hidden_params
        response.model = hidden.get("provider_response_model", response.model)
        _leave_reported(response, [chunk.usage for chunk in chunks if _has(chunk, "usage")])
        whole = to_message(response, self._model)
        # Where no reason comes, litellm raises since 1.109; before, it made one up.
        ended = any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
        reason = whole.stop_reason if ended else StopReason.unknown
        # The time of creation is that of our own clock.
        extra = {name: value for name, value in whole.extra.items() if name != "created"}
        return whole.model_copy(update={"stop_reason": reason, "extra": extra})


class TextReader:
    """Reads the chunks of a text completion.

    litellm keeps the endpoint's name of the model and the log probabilities to itself, and
    where the endpoint reports no usage there is no telling it from litellm's own count.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._pieces: list[str] = []
        self._last: dict[str, Any] = {}

    def says_something(self, chunk: Any) -> bool:
        """Return whether there is some text in a chunk."""
        return any(choice.text for choice in chunk.choices)

    def piece(self, chunk: Any) -> str:
        """Return the text in a chunk, and note what stands beside it."""
        facts = {"id": chunk.id, "usage": chunk.usage}
        text = ""
        # The last chunk may hold the usage alone.
        if chunk.choices:
            facts["finish_reason"] = chunk.choices[0].finish_reason
            text = chunk.choices[0].text or ""
        self._last |= {name: value for name, value in facts.items() if value is not None}
        self._pieces.append(text)
        return text

    async def result(self, stream: Any) -> GeneratedText:  # noqa: ARG002 (all was said)
        """Put the text together, and what came beside it."""
        # The details and the cost are litellm's own.
        usage = reported_usage(
            self._last.get("usage"), exclude={"completion_tokens_details", "cost"}
        )
        text = "".join(self._pieces)
        if not text and (usage is None or not usage.output_tokens):
            raise _nothing(self._model)
        cost = getattr(self._last.get("usage"), "cost", None)
        return GeneratedText(
            text=text,
            stop_reason=StopReason(self._last.get("finish_reason", "unknown")),
            usage=usage,
            extra={"id": self._last["id"]} | ({"cost": cost} if cost else {}),
        )


def _leave_reported(response: Any, usages: Sequence[Any]) -> None:
    """Take out of a response's usage what ``usages``, those of its chunks, do not hold."""
    if not usages:
        response.usage = None
        response._hidden_params.pop("response_cost", None)
    for name in ("completion_tokens_details", "cost"):
        if not any(_has(usage, name) for usage in usages) and _has(response.usage, name):
            delattr(response.usage, name)


def _says(choice: Any) -> bool:
    said = choice.delta.model_dump(exclude_none=True, exclude={"role"}, warnings=False)
    return any(value not in ("", [], {}) for value in said.values())


def _has(part: Any, name: str) -> bool:
    return getattr(part, name, None) is not None


def _nothing(model: str) -> ResponseError:
    return ResponseError(
        "the endpoint streamed nothing: it may not be able to stream, use run()",
        provider=PROVIDER,
        model=model,
    )
