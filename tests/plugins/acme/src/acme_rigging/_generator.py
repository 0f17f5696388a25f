"""The generator: what rigging asks, told to the engine in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from pydantic import Field, PrivateAttr

from acme_rigging._answer import Answer
from acme_rigging._engine import Chain, Engine
from rigging import GeneratedMessage, GeneratedText, GenerateParams, Generator, Message
from rigging.error import (
    ContextLengthError,
    GenerationError,
    ModelNotFoundError,
    UnsupportedParameterWarning,
)

__all__ = ["AcmeGenerator"]

_ResultT = TypeVar("_ResultT", GeneratedMessage, GeneratedText)

_HONOURED = {"temperature", "max_tokens", "stop", "seed", "timeout"}
_UNSUPPORTED = GenerateParams.model_fields.keys() - _HONOURED - {"extra"}


class AcmeGenerator(Generator):
    """Continues texts as a text file would.

    Attributes:
        model: The path of the file.
        order: How many words the next one depends on.
        max_prompt_words: The longest prompt.
    """

    # The contract that this class was written for: rigging refuses it where that has changed.
    plugin_api: ClassVar[int] = 1
    # Each request is a call of its own, in a thread of its own.
    batch_size: ClassVar[int | None] = 1

    # Fields are keys of the identifier: "acme!/books/alice.txt,order=3".
    order: int = Field(default=2, ge=1, le=8)
    max_prompt_words: int = Field(default=4096, ge=1)

    # What is no field is in no identifier, dump or pickle: the other side loads its own engine.
    _engine: Engine = PrivateAttr(default_factory=Engine)
    _warned: set[str] = PrivateAttr(default_factory=set)

    def load(self) -> Self:
        """Read the text now."""
        self._chain()
        return self

    def unload(self) -> Self:
        """Give its memory back; the next use reads it again."""
        self._engine.unload()
        return self

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue what was said last in each conversation."""
        prompts = [conversation[-1].text for conversation in messages]
        return await self._generate(GeneratedMessage, prompts, params)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text."""
        return await self._generate(GeneratedText, texts, params)

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncIterator[str | GeneratedMessage]:
        """Continue what was said last, word by word."""
        async for item in self._stream(GeneratedMessage, messages[-1].text, params):
            yield item

    async def stream_texts(
        self, text: str, params: GenerateParams
    ) -> AsyncIterator[str | GeneratedText]:
        """Continue a text, word by word."""
        async for item in self._stream(GeneratedText, text, params):
            yield item

    # -- In the event loop ---------------------------------------------------------------

    async def _generate(
        self, kind: type[_ResultT], prompts: Sequence[str], params: Sequence[GenerateParams]
    ) -> list[_ResultT | BaseException]:
        requests = (self._one(kind, *pair) for pair in zip(prompts, params, strict=True))
        # A failure is an item of the list, and no other item's business.
        return await asyncio.gather(*requests, return_exceptions=True)

    async def _one(self, kind: type[_ResultT], prompt: str, own: GenerateParams) -> _ResultT:
        answer, params = self._begin(prompt, own)
        try:
            await asyncio.to_thread(lambda: list(self._write(answer, prompt, params)))
        finally:
            answer.cancelled.set()  # whoever was cancelled does not wait for the thread
        return kind.from_text(answer.text, answer.stop_reason, usage=answer.usage)

    async def _stream(
        self, kind: type[_ResultT], prompt: str, own: GenerateParams
    ) -> AsyncIterator[str | _ResultT]:
        answer, params = self._begin(prompt, own)
        pieces = self._write(answer, prompt, params)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            answer.cancelled.set()
        yield kind.from_text(answer.text, answer.stop_reason, usage=answer.usage)

    def _begin(self, prompt: str, own: GenerateParams) -> tuple[Answer, GenerateParams]:
        params = self.params.merge_with(own)  # what the call passes wins
        for name in sorted(_UNSUPPORTED - self._warned):
            if getattr(params, name) is not None:
                self._warned.add(name)
                text = f"acme!{self.model} does not take {name!r}: it is left out"
                warnings.warn(text, UnsupportedParameterWarning, stacklevel=2)
        return Answer(prompt, params), params

    # -- In a thread ---------------------------------------------------------------------

    def _write(self, answer: Answer, prompt: str, params: GenerateParams) -> Iterator[str]:
        with self._named_errors():
            if len(prompt.split()) > self.max_prompt_words:
                raise ContextLengthError(
                    f"the prompt has {len(prompt.split())} words: at most "
                    f"{self.max_prompt_words} are allowed (max_prompt_words)"
                )
            greedy = not params.temperature
            words = self._chain().words_after(prompt, greedy=greedy, seed=params.seed)
            yield from answer.pieces(words)

    def _chain(self) -> Chain:
        try:
            return self._engine.load(Path(self.model), self.order)
        except (OSError, UnicodeDecodeError) as error:
            raise ModelNotFoundError(
                f"no text to learn from: {error}", provider="acme", model=self.model
            ) from error

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Let each error say which model failed."""
        try:
            yield
        except GenerationError as error:
            error.provider, error.model = "acme", self.model
            raise
