"""A generator without a model that keeps the whole contract, in steps that others break."""

from __future__ import annotations

import asyncio
import contextlib
import re
import warnings
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from pydantic import PrivateAttr

import rigging as rg
from rigging.error import (
    ContextLengthError,
    ProviderTimeoutError,
    UnsupportedParameterWarning,
)
from rigging.message import FunctionCall, ToolCall

#: Prompts that fail, and that last.
TOO_LONG = "Fail."
WAIT = "Wait."

UNSUPPORTED = frozenset({"audio", "modalities"})


class Careful(rg.Generator):
    """Repeats what it is told; one request at a time takes place, on each event loop."""

    batch_size: ClassVar[int | None] = 1

    mood: str = "calm"
    places: int = 1

    _loaded: bool = PrivateAttr(default=False)
    _slots: Any = PrivateAttr(default_factory=WeakKeyDictionary)
    _warned: set[str] = PrivateAttr(default_factory=set)

    def load(self) -> Any:
        self._loaded = True
        return self

    def unload(self) -> Any:
        self._loaded = False
        return self

    async def generate_messages(self, messages: Any, params: Any) -> Any:
        return await self.all_of(messages, params)

    async def generate_texts(self, texts: Any, params: Any) -> Any:
        return await self.all_of(texts, params)

    async def stream_messages(self, messages: Any, params: Any) -> AsyncIterator[Any]:
        async for item in self.pieces_of(messages, params):
            yield item

    async def stream_texts(self, text: Any, params: Any) -> AsyncIterator[Any]:
        async for item in self.pieces_of(text, params):
            yield item

    # -- The steps, which broken ones replace --------------------------------------------

    async def all_of(self, inputs: Any, params: Any) -> Any:
        requests = (self.one(given, own) for given, own in zip(inputs, params, strict=True))
        self._loaded = True
        return await asyncio.gather(*requests, return_exceptions=True)

    async def pieces_of(self, given: Any, params: Any) -> AsyncIterator[Any]:
        result = await self.one(given, params)
        for word in re.findall(r"\S+\s*", str(result)):
            yield word
        yield result

    async def one(self, given: Any, own: Any) -> Any:
        params = self.merged(own)
        self.warn(params)
        prompt = given if isinstance(given, str) else given[-1].text
        async with self.place():
            await self.wait(prompt, params)
        if prompt == TOO_LONG:
            raise self.failure()
        return self.answer(given, prompt, params)

    def merged(self, own: Any) -> rg.GenerateParams:
        return self.params.merge_with(own)

    def warn(self, params: rg.GenerateParams) -> None:
        for name in sorted(UNSUPPORTED - self._warned):
            if getattr(params, name) is not None:
                self._warned.add(name)
                warnings.warn(f"no {name!r} here", UnsupportedParameterWarning, stacklevel=2)

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        async with self.slots():
            yield

    def slots(self) -> asyncio.Semaphore:
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.places))

    async def wait(self, prompt: str, params: rg.GenerateParams) -> None:
        try:
            async with asyncio.timeout(params.timeout):
                await asyncio.sleep(3600 if prompt == WAIT else 0)
        except TimeoutError:
            raise ProviderTimeoutError("too late", provider="careful", model=self.model) from None

    def failure(self) -> Exception:
        return ContextLengthError("too long", provider="careful", model=self.model, retry_after=7)

    def answer(self, given: Any, prompt: str, params: rg.GenerateParams) -> Any:
        text = f"You said: {prompt}"
        for stop in params.stop or ():
            text = text.partition(stop)[0]
        words = re.findall(r"\s*\S+", text)
        kept = words[: params.max_tokens]
        reason = "length" if len(kept) < len(words) else "stop"
        usage = rg.Usage(input_tokens=len(prompt.split()) + 1, output_tokens=len(kept))
        if isinstance(given, str):
            return rg.GeneratedText.from_text("".join(kept), reason, usage=usage)
        message = rg.Message("assistant", "".join(kept))
        if params.tool_choice == "required":
            name = params.tools[0]["function"]["name"]
            call = ToolCall(id="1", function=FunctionCall(name=name, arguments='{"term": "x"}'))
            message, reason = rg.Message("assistant", tool_calls=[call]), "tool_calls"
        return rg.GeneratedMessage(message=message, stop_reason=reason, usage=usage)
