"""The generator: requests through litellm, each a call of its own.

litellm takes seconds to import, so that happens at the first request and in a worker
thread. Its global switches are left alone: whatever a request needs goes into its call.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from pydantic import Field, PrivateAttr

from rigging.error import (
    InvalidMessageError,
    RiggingError,
    UnsupportedParameterWarning,
)
from rigging.generator import Generator
from rigging_litellm._errors import PROVIDER, to_rigging_error
from rigging_litellm._library import Library
from rigging_litellm._limits import Limits
from rigging_litellm._request import (
    CHAT_ONLY,
    dropped_silently,
    refused_by_litellm,
    request_arguments,
)
from rigging_litellm._results import to_message, to_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from rigging.message import Message
    from rigging.params import GenerateParams
    from rigging.result import GeneratedMessage, GeneratedText

__all__ = ["LiteLLMGenerator"]

_InputT = TypeVar("_InputT")
_ResultT = TypeVar("_ResultT")

# litellm limits each read from the socket. What comes in small pieces for ever is stopped
# this many seconds after its time, so that litellm's own, cleaner timeout comes first.
_GRACE_S: Final = 1.0


class LiteLLMGenerator(Generator):
    """Models behind an API, through litellm.

    ``model`` is litellm's: ``openai/gpt-4o``, ``anthropic/…``, ``ollama/…``. A server that
    speaks OpenAI's protocol is ``openai/<name>`` with the parameter ``api_base``. Without
    ``api_key``, litellm reads the environment variable of the model's provider.

    litellm's retries are off: a request reaches the endpoint once, and what came of it is
    its result. A parameter that litellm knows the model not to take is left out, and an
    `UnsupportedParameterWarning` names it once.

    Attributes:
        max_connections: The most requests in flight at once, per event loop; 0 is no limit.
        min_delay_between_requests: Milliseconds between the starts of two requests.

    Raises:
        MissingDependencyError: At the first request, if litellm is not installed.

    Example:
        >>> import rigging as rg
        >>> generator = rg.get_generator("litellm!openai/gpt-4o,max_connections=2,temperature=0.5")
        >>> generator.to_identifier()
        'litellm!openai/gpt-4o,max_connections=2,temperature=0.5'

    Source:
        LiteLLM documentation, "Input params" of ``completion`` and ``text_completion``.
    """

    plugin_api: ClassVar[int] = 1
    batch_size: ClassVar[int] = 1

    max_connections: int = Field(default=10, ge=0)
    min_delay_between_requests: float = Field(default=0, ge=0, allow_inf_nan=False)

    _library: Library = PrivateAttr(default_factory=Library)
    _limits: Limits = PrivateAttr(default_factory=Limits)
    _warned: set[str] = PrivateAttr(default_factory=set)

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message.

        Args:
            messages: Conversations, shape ``(batch, length_i)``.
            params: Override the generator's own; one per conversation.

        Returns:
            One result per conversation, in order; an error is that item's failure.

        Raises:
            MissingDependencyError: If litellm is not installed.
        """
        litellm = await self._library.get()

        async def one(conversation: Sequence[Message], own: GenerateParams) -> GeneratedMessage:
            if not conversation:
                raise InvalidMessageError("the conversation is empty: pass at least one message")
            arguments = request_arguments(self.params.merge_with(own))
            dropped = dropped_silently(litellm, self.model, arguments)
            return await self._ask(
                litellm.acompletion,
                {"messages": [message.to_openai() for message in conversation]},
                self._without(dropped, arguments),
                to_message,
            )

        return await _each(one, messages, params)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text.

        Args:
            texts: Prompts, shape ``(batch,)``.
            params: Override the generator's own; one per text.

        Returns:
            One result per text, in order; an error is that item's failure.

        Raises:
            MissingDependencyError: If litellm is not installed.
        """
        litellm = await self._library.get()

        async def one(text: str, own: GenerateParams) -> GeneratedText:
            arguments = request_arguments(self.params.merge_with(own))
            return await self._ask(
                litellm.atext_completion,
                {"prompt": text},
                self._without(CHAT_ONLY, arguments),
                to_text,
            )

        return await _each(one, texts, params)

    async def _ask(
        self,
        call: Callable[..., Awaitable[Any]],
        prompt: Mapping[str, Any],
        arguments: dict[str, Any],
        read: Callable[[Any, str], _ResultT],
    ) -> _ResultT:
        """Send one request; what litellm says that the model does not take is left out."""
        while True:
            try:
                response = await self._send(call, {**prompt, **arguments})
                return read(response, self.model)
            except RiggingError:
                raise
            except Exception as error:
                refused = refused_by_litellm(error, arguments)
                if not refused:
                    raise to_rigging_error(error, model=self.model, api_key=self.api_key) from error
                arguments = self._without(refused, arguments)

    async def _send(self, call: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> Any:
        fixed: dict[str, Any] = {"model": self.model, "num_retries": 0, "max_retries": 0}
        if self.api_key is not None:
            fixed["api_key"] = self.api_key
        limit_s = arguments.get("timeout")
        slot = self._limits.slot(self.max_connections, self.min_delay_between_requests / 1000)
        async with slot as left:
            if self.min_delay_between_requests:
                # litellm calls it when the request leaves, which is up to a second after
                # this call: without it, the first requests would arrive all at once.
                fixed["logger_fn"] = lambda _details: left()
            async with asyncio.timeout(None if limit_s is None else limit_s + _GRACE_S):
                return await call(**arguments, **fixed)

    def _without(self, names: AbstractSet[str], arguments: dict[str, Any]) -> dict[str, Any]:
        """Leave out what cannot be sent, and say so once."""
        for name in sorted(names & arguments.keys() - self._warned):
            self._warned.add(name)
            warnings.warn(
                f"{PROVIDER}!{self.model} does not take {name!r}: it is left out",
                UnsupportedParameterWarning,
                stacklevel=2,
            )
        return {name: value for name, value in arguments.items() if name not in names}


async def _each(
    one: Callable[[_InputT, GenerateParams], Awaitable[_ResultT]],
    inputs: Sequence[_InputT],
    params: Sequence[GenerateParams],
) -> list[_ResultT | BaseException]:
    pairs = zip(inputs, params, strict=True)
    return await asyncio.gather(*(one(*pair) for pair in pairs), return_exceptions=True)
