"""The generator: requests through litellm, each a call of its own.

litellm takes seconds to import, so that happens at the first request and in a worker
thread. Its global switches are left alone: whatever a request needs goes into its call.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from pydantic import PrivateAttr

from rigging.error import (
    BadRequestError,
    InvalidMessageError,
    RiggingError,
    TruncationWarning,
)
from rigging.remote import CHAT_ONLY, RemoteGenerator, RequestTimeout, each
from rigging_litellm import _models, _ollama
from rigging_litellm._errors import PROVIDER, to_rigging_error
from rigging_litellm._left_out import LeftOut
from rigging_litellm._library import Library
from rigging_litellm._request import (
    refused_by_litellm,
    refuses_usage,
    request_arguments,
    streamed,
    whole,
)
from rigging_litellm._results import to_message, to_text
from rigging_litellm._streams import ChatReader, TextReader, read_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from rigging.limits import Left
    from rigging.message import Message
    from rigging.params import GenerateParams
    from rigging.result import GeneratedMessage, GeneratedText
    from rigging_litellm._streams import Reader

__all__ = ["LiteLLMGenerator"]

_FinishedT = TypeVar("_FinishedT", "GeneratedMessage", "GeneratedText")

_Arguments: TypeAlias = dict[str, Any]
_Call: TypeAlias = "Callable[..., Awaitable[Any]]"


# litellm limits each read from the socket. What comes in small pieces for ever is stopped
# this many seconds after its time, so that litellm's own timeout, which says more, is first.
_GRACE_S: Final = 1.0


class LiteLLMGenerator(RemoteGenerator):
    """Models behind an API, through litellm.

    ``model`` is litellm's: ``openai/gpt-4o``, ``anthropic/…``, ``ollama/…``. A server that
    speaks OpenAI's protocol is ``openai/<name>`` with the parameter ``api_base``. Without
    ``api_key``, litellm reads the environment variable of the model's provider.

    Names in ``params.extra`` that are litellm's own, such as ``api_version`` or ``metadata``,
    are for litellm; what it does not know goes to the endpoint.

    litellm's retries are off; those of `rigging.limits` take their place. A parameter that
    litellm knows the model not to take is left out, and an `UnsupportedParameterWarning` names
    it once.

    How many requests are in flight, how closely they follow and how often they go again is
    said by the fields of `rigging.remote.RemoteGenerator`.

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
    # Of the services that are asked most; litellm knows a hundred others.
    key_variables: ClassVar[tuple[str, ...]] = (
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "GROQ_API_KEY",
        "MISTRAL_API_KEY",
        "OPENAI_API_KEY",
        "TOGETHERAI_API_KEY",
    )

    _library: Library = PrivateAttr(default_factory=Library)
    _left_out: LeftOut = PrivateAttr(default_factory=LeftOut)

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
            prompt, arguments = await self._chat(litellm, conversation, own)
            return await self._ask(litellm.acompletion, prompt, arguments, to_message)

        return await each(one, messages, params)

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
            prompt, arguments = self._completion(litellm, text, own)
            return await self._ask(litellm.atext_completion, prompt, arguments, to_text)

        return await each(one, texts, params)

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedMessage, None]:
        """Continue one conversation, text by text.

        Closing the stream, or cancelling its reader, ends the request; until then it counts
        as one in flight. ``params.timeout`` limits the time that the endpoint takes for all
        of it, without what the reader does in between.

        Args:
            messages: The conversation.
            params: Override the generator's own.

        Yields:
            Pieces of the text as they come, then the finished result as the last item.

        Raises:
            GenerationError: If the provider failed.
            MissingDependencyError: If litellm is not installed.
        """
        litellm = await self._library.get()
        prompt, arguments = await self._chat(litellm, messages, params)
        pieces = self._stream(
            litellm.acompletion, prompt, arguments, lambda: ChatReader(litellm, self.model)
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def stream_texts(
        self, text: str, params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedText, None]:
        """Continue one text, piece by piece; see `stream_messages`.

        Args:
            text: The prompt.
            params: Override the generator's own.

        Yields:
            Pieces of the text as they come, then the finished result as the last item.

        Raises:
            GenerationError: If the provider failed.
            MissingDependencyError: If litellm is not installed.
        """
        litellm = await self._library.get()
        prompt, arguments = self._completion(litellm, text, params)
        pieces = self._stream(
            litellm.atext_completion, prompt, arguments, lambda: TextReader(self.model)
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def supports_function_calling(self) -> bool | None:
        """Return whether the model calls tools, as far as litellm knows.

        Returns:
            None if litellm does not know the model, such as one of your own server.

        Raises:
            MissingDependencyError: If litellm is not installed.
        """
        return await asyncio.to_thread(
            _models.supports_function_calling,
            await self._library.get(),
            self.model,
            self.params.api_base,
        )

    # -- What is sent --------------------------------------------------------------------

    async def _chat(
        self, litellm: Any, conversation: Sequence[Message], own: GenerateParams
    ) -> tuple[_Arguments, _Arguments]:
        """Return what says the conversation, and the other arguments of the call."""
        if not conversation:
            raise InvalidMessageError("the conversation is empty: pass at least one message")
        _models.refuse_chat(litellm, self.model)
        arguments = request_arguments(self.params.merge_with(own))
        model = self.model
        if _ollama.is_ollama(model):
            model = _ollama.chat_model(model)
            arguments = self._without(_ollama.NOT_IN_CHATS, arguments)
            arguments = _ollama.native_arguments(arguments, raw=False)
        dropped = await self._left_out.find(litellm, model, arguments)
        messages = [message.to_openai() for message in conversation]
        return {"model": model, "messages": messages}, self._without(dropped, arguments)

    def _completion(
        self, litellm: Any, text: str, own: GenerateParams
    ) -> tuple[_Arguments, _Arguments]:
        """Return what says the prompt, and the other arguments of the call."""
        _models.refuse_text(litellm, self.model)
        arguments = request_arguments(self.params.merge_with(own))
        model = self.model
        if _ollama.is_ollama(model):
            model = _ollama.text_model(model)
            arguments = _ollama.native_arguments(arguments, raw=True)
        return {"model": model, "prompt": text}, self._without(CHAT_ONLY, arguments)

    # -- Sending it ----------------------------------------------------------------------

    async def _ask(
        self,
        call: _Call,
        prompt: _Arguments,
        arguments: _Arguments,
        read: Callable[[Any, str], _FinishedT],
    ) -> _FinishedT:
        """Send one request and read its answer."""

        async def attempt(left: Left) -> _FinishedT:
            with self._uniform_errors():
                timeout = self._timeout(arguments)
                coming = call(**prompt, **whole(arguments), **self._fixed(left))
                return read(await timeout.wait(coming), self.model)

        while True:
            try:
                result = await self.limiter.run(
                    attempt, self.limits, endpoint=self._endpoint(arguments)
                )
            except BadRequestError as error:
                refused = refused_by_litellm(error.__cause__, arguments)
                if not refused:
                    raise
                arguments = self._without(refused, arguments)
            else:
                return self._finished(prompt, arguments, result)

    async def _stream(
        self,
        call: _Call,
        prompt: _Arguments,
        arguments: _Arguments,
        make_reader: Callable[[], Reader[_FinishedT]],
    ) -> AsyncGenerator[str | _FinishedT, None]:
        """Send one request and read its answer as it comes."""
        with_usage = "stream_options" not in arguments

        async def attempt(left: Left) -> AsyncGenerator[str | _FinishedT, None]:
            sent = streamed(arguments, with_usage=with_usage)
            with self._uniform_errors():
                timeout = self._timeout(arguments)
                stream = await timeout.wait(call(**prompt, **sent, **self._fixed(left)))
                async with contextlib.aclosing(
                    read_stream(stream, make_reader(), timeout)
                ) as pieces:
                    async for piece in pieces:
                        yield piece

        while True:
            pieces = self.limiter.stream(attempt, self.limits, endpoint=self._endpoint(arguments))
            try:
                async with contextlib.aclosing(pieces):
                    async for piece in pieces:
                        if not isinstance(piece, str):
                            yield self._finished(prompt, arguments, piece)
                        elif piece:
                            yield piece
            except BadRequestError as error:
                # Both come before the first piece.
                refused = refused_by_litellm(error.__cause__, arguments)
                no_usage = with_usage and refuses_usage(error.__cause__)
                if not (refused or no_usage):
                    raise
                arguments = self._without(refused, arguments)
                with_usage = not no_usage
            else:
                return

    def _timeout(self, arguments: _Arguments) -> RequestTimeout:
        limit_s = arguments.get("timeout")
        return RequestTimeout(limit_s, provider=PROVIDER, model=self.model, grace_s=_GRACE_S)

    def _endpoint(self, arguments: _Arguments) -> tuple[str, str | None]:
        return self.model, arguments.get("api_base")

    def _fixed(self, left: Left) -> _Arguments:
        """Return what every request carries."""
        fixed: dict[str, Any] = {"num_retries": 0, "max_retries": 0}
        if self.api_key is not None:
            fixed["api_key"] = self.api_key
        if self.min_delay_between_requests:
            # litellm calls it when the request leaves, which is up to a second after the
            # call: without it, the first requests would arrive all at once.
            fixed["logger_fn"] = lambda _details: left()
        return fixed

    @contextlib.contextmanager
    def _uniform_errors(self) -> Iterator[None]:
        try:
            yield
        except RiggingError:
            raise
        except Exception as error:
            mapped = to_rigging_error(error, model=self.model, api_key=self.api_key)
            if _ollama.is_ollama(self.model):
                mapped = _ollama.with_advice(mapped)
            raise mapped from error

    # -- What came back ------------------------------------------------------------------

    def _finished(
        self, prompt: _Arguments, arguments: _Arguments, result: _FinishedT
    ) -> _FinishedT:
        """Return a result, after a look at what Ollama has made of the prompt."""
        if not _ollama.is_ollama(self.model):
            return result
        _ollama.check(result, self.model)
        sign = _ollama.sign_of_truncation(prompt, arguments, result)
        if sign:
            self.warn_once(
                TruncationWarning,
                f"{PROVIDER}!{self.model} seems to have cut a prompt: {sign}. Set extra.num_ctx "
                f"to make room, or extra.truncate=false for an error instead",
            )
        return _ollama.with_stop_reason(arguments, result)

    def _without(self, names: AbstractSet[str], arguments: _Arguments) -> _Arguments:
        """Leave out what cannot be sent, and say so once."""
        self.warn_left_out(PROVIDER, names & arguments.keys())
        return {name: value for name, value in arguments.items() if name not in names}
