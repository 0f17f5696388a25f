"""What rigging asks of a generator, told to a function that blocks. Nothing to fill in here.

Each piece of an answer is fetched in a thread, when it is wanted. So the event loop goes on, and
who is cancelled or out of time simply fetches no more.
"""

from __future__ import annotations

import asyncio
import warnings
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import ClassVar, TypeVar

from pydantic import PrivateAttr
from rigging import (
    GeneratedMessage,
    GeneratedText,
    GenerateParams,
    Generator,
    Message,
    StopReason,
    Usage,
)
from rigging.error import GenerationError, UnsupportedParameterWarning
from rigging.remote import RequestTimeout, each

from mymodel_rigging._answer import Answer

__all__ = ["ThreadedGenerator"]

_ResultT = TypeVar("_ResultT", GeneratedMessage, GeneratedText)


class ThreadedGenerator(Generator):
    """Base class of a generator that gives its answers piece by piece, and blocks meanwhile."""

    # The contract that this class was written for: rigging refuses it where that has changed.
    plugin_api: ClassVar[int] = 1
    # Each request is a call of its own, and they run at the same time.
    batch_size: ClassVar[int | None] = 1

    provider: ClassVar[str]
    honoured: ClassVar[frozenset[str]]

    # What is no field is in no identifier, dump or pickle.
    _warned: set[str] = PrivateAttr(default_factory=set)

    @abstractmethod
    def ask(
        self, prompt: Sequence[Message] | str, params: GenerateParams
    ) -> Iterator[str | Usage | StopReason]:
        """Yield one answer, in a thread."""

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation."""

        async def one(conversation: Sequence[Message], own: GenerateParams) -> GeneratedMessage:
            return await self._whole(GeneratedMessage, conversation, own)

        return await each(one, messages, params)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text."""

        async def one(text: str, own: GenerateParams) -> GeneratedText:
            return await self._whole(GeneratedText, text, own)

        return await each(one, texts, params)

    def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncIterator[str | GeneratedMessage]:
        """Continue a conversation, piece by piece."""
        return self._stream(GeneratedMessage, messages, params)

    def stream_texts(self, text: str, params: GenerateParams) -> AsyncIterator[str | GeneratedText]:
        """Continue a text, piece by piece."""
        return self._stream(GeneratedText, text, params)

    async def _whole(
        self, kind: type[_ResultT], prompt: Sequence[Message] | str, own: GenerateParams
    ) -> _ResultT:
        (result,) = [
            item async for item in self._stream(kind, prompt, own) if isinstance(item, kind)
        ]
        return result

    async def _stream(
        self, kind: type[_ResultT], prompt: Sequence[Message] | str, own: GenerateParams
    ) -> AsyncIterator[str | _ResultT]:
        params = self.params.merge_with(own)  # what the call passes wins
        self._warn_left_out(params)
        answer = Answer(params)
        pieces = self._pieces(answer, prompt, params)
        limit = RequestTimeout(params.timeout, provider=self.provider, model=self.model)
        try:
            while (piece := await limit.wait(asyncio.to_thread(next, pieces, None))) is not None:
                yield piece
        except GenerationError as error:
            error.provider, error.model = self.provider, self.model
            raise
        yield kind.from_text(answer.text, answer.stop_reason, usage=answer.usage)

    def _pieces(
        self, answer: Answer, prompt: Sequence[Message] | str, params: GenerateParams
    ) -> Iterator[str]:
        # Even the call that begins an answer is made in the thread, with the first piece.
        yield from answer.pieces(self.ask(prompt, params))

    def _warn_left_out(self, params: GenerateParams) -> None:
        known = self.honoured | self._warned | {"extra"}
        for name in sorted(GenerateParams.model_fields.keys() - known):
            if getattr(params, name) is not None:
                self._warned.add(name)
                text = f"{self.provider}!{self.model} does not take {name!r}: it is left out"
                warnings.warn(text, UnsupportedParameterWarning, stacklevel=2)
