"""The generator: requests to any endpoint that speaks OpenAI's protocol, one call each."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from rigging.error import (
    AuthenticationError,
    BadRequestError,
    InvalidMessageError,
)
from rigging.redaction import is_harmless
from rigging.remote import CHAT_ONLY, RemoteGenerator, each
from rigging_openai._endpoint import OPENAI, PROVIDER, Endpoint, check_shown, make_endpoint
from rigging_openai._kept import Kept
from rigging_openai._request import Request, request_arguments, streamed, whole
from rigging_openai._results import to_message, to_text
from rigging_openai._streams import ChatReader, TextReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence

    from rigging.limits import Left
    from rigging.message import Message
    from rigging.params import GenerateParams
    from rigging.result import GeneratedMessage, GeneratedText
    from rigging_openai._adapting import Adapted
    from rigging_openai._client import Client
    from rigging_openai._streams import Reader

__all__ = ["OpenAIGenerator"]

_ResultT = TypeVar("_ResultT", bound="GeneratedMessage | GeneratedText")
_NameT = TypeVar("_NameT", str, str | None)

_MOST_ENDPOINTS: Final = 64  # remembered; there is one, unless params name another


class OpenAIGenerator(RemoteGenerator):
    """Models behind an endpoint that speaks OpenAI's protocol.

    The address is the parameter ``api_base``, else ``OPENAI_BASE_URL``, else OpenAI's; the key
    is ``api_key``, else ``OPENAI_API_KEY``, and an empty one is none. What stands in
    ``params.extra`` becomes part of the request's body.

    How many requests are in flight, how closely they follow and how often they go again is
    said by the fields of `rigging.remote.RemoteGenerator`. ``params.timeout`` limits the time
    that the endpoint takes for one attempt, without what the reader of a stream does
    meanwhile. A parameter that the endpoint refuses by its name is left out, and an
    `UnsupportedParameterWarning` names it once.

    Attributes:
        organization: Whose account to bill at OpenAI; else ``OPENAI_ORG_ID``, where the
            address is not given either.
        project: Within the organization; else ``OPENAI_PROJECT_ID``, likewise.
        headers: Further headers of every request. All are sent; shown, dumped, pickled and
            written back are only those known to be harmless, such as ``X-Title`` (see
            `rigging.redaction.is_harmless`).
        query: Further names and values behind the address; the same goes for them.
        ca_file: The certificates to trust, in PEM; None: those that the system trusts.
        connect_timeout: Seconds for a connection; None is no limit.
        read_timeout: Seconds between two pieces of an answer, and until the first; None is no
            limit.
        max_response_bytes: The longest answer, unpacked.

    Raises:
        MissingDependencyError: At the first request, if the HTTP client is not installed.

    Example:
        >>> import rigging as rg
        >>> generator = rg.get_generator("openai!tiny,api_base=http://127.0.0.1:8000/v1")
        >>> generator.to_identifier()
        'openai!tiny,api_base=http://127.0.0.1:8000/v1'

    Source:
        OpenAI API reference, "Chat Completions" and "Completions".
    """

    # What the values of an address are refused for is that they would be shown.
    model_config = ConfigDict(hide_input_in_errors=True)

    plugin_api: ClassVar[int] = 1
    key_variables: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY",)

    organization: str | None = None
    project: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    query: dict[str, str] = Field(default_factory=dict)
    ca_file: str | None = None
    connect_timeout: float | None = Field(default=10.0, gt=0, allow_inf_nan=False)
    read_timeout: float | None = Field(default=600.0, gt=0, allow_inf_nan=False)
    max_response_bytes: int = Field(default=2**26, ge=1)

    _kept: Kept = PrivateAttr(default_factory=Kept)

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
            MissingDependencyError: If the HTTP client is not installed.
        """
        kept = self._kept
        # If its library is missing, that is not one item's failure.
        client = kept.client or await kept.made_client()

        async def one(conversation: Sequence[Message], own: GenerateParams) -> GeneratedMessage:
            request = self._chat(kept, conversation, own)
            return await self._ask(client, kept.adapted, request, to_message)

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
            MissingDependencyError: If the HTTP client is not installed.
        """
        kept = self._kept
        client = kept.client or await kept.made_client()

        async def one(text: str, own: GenerateParams) -> GeneratedText:
            request = self._completion(kept, text, own)
            return await self._ask(client, kept.adapted, request, to_text)

        return await each(one, texts, params)

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedMessage, None]:
        """Continue one conversation, text by text.

        Closing the stream, or cancelling its reader, ends the request; until then it counts
        as one in flight.

        Args:
            messages: The conversation.
            params: Override the generator's own.

        Yields:
            Pieces of the text as they come, then the finished result as the last item.

        Raises:
            GenerationError: If the request failed.
            MissingDependencyError: If the HTTP client is not installed.
        """
        kept = self._kept
        request = self._chat(kept, messages, params)
        pieces = self._stream(kept, request, lambda: ChatReader(self.model))
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
            GenerationError: If the request failed.
            MissingDependencyError: If the HTTP client is not installed.
        """
        kept = self._kept
        request = self._completion(kept, text, params)
        pieces = self._stream(kept, request, lambda: TextReader(self.model))
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    # -- What is sent --------------------------------------------------------------------

    def _chat(self, kept: Kept, conversation: Sequence[Message], own: GenerateParams) -> Request:
        if not conversation:
            raise InvalidMessageError("the conversation is empty: pass at least one message")
        params = kept.merged(self.params, own)
        prompt = {"messages": [message.to_openai() for message in conversation]}
        return self._request(kept, "chat/completions", prompt, params, request_arguments(params))

    def _completion(self, kept: Kept, text: str, own: GenerateParams) -> Request:
        params = kept.merged(self.params, own)
        arguments = request_arguments(params)
        without = CHAT_ONLY & arguments.keys()
        if without:
            self.warn_left_out(PROVIDER, without)
        taken = {name: value for name, value in arguments.items() if name not in without}
        return self._request(kept, "completions", {"prompt": text}, params, taken)

    def _request(
        self,
        kept: Kept,
        path: str,
        prompt: dict[str, Any],
        params: GenerateParams,
        arguments: dict[str, Any],
    ) -> Request:
        return Request(
            endpoint=self._endpoint(kept, params.api_base),
            path=path,
            model=self.model,
            prompt={"model": self.model, **prompt},
            arguments=arguments,
            timeout_s=params.timeout,
            connect_s=self.connect_timeout,
            read_s=self.read_timeout,
            ca_file=self.ca_file,
            most=self.max_response_bytes,
            announces=self.min_delay_between_requests > 0,
        )

    def _endpoint(self, kept: Kept, api_base: str | None) -> Endpoint:
        """Return where requests to an address go, and what they carry.

        Raises:
            AuthenticationError: If OpenAI itself would get no key.
            BadRequestError: If no request can be built.
        """
        base, organization, project = api_base, self.organization, self.project
        if base is None:
            base = os.environ.get("OPENAI_BASE_URL") or OPENAI
            # With another address they are nobody else's business.
            organization = organization or os.environ.get("OPENAI_ORG_ID")
            project = project or os.environ.get("OPENAI_PROJECT_ID")
        key = os.environ.get("OPENAI_API_KEY") if self.api_key is None else self.api_key
        is_shown = api_base is not None
        headers, query = self.headers.items(), self.query.items()
        facts = (base, is_shown, key, organization, project, *headers, None, *query)
        endpoint = kept.endpoints.get(facts)
        if endpoint is None:
            endpoint = make_endpoint(
                base,
                model=self.model,
                api_key=key,
                organization=organization,
                project=project,
                headers=self.headers,
                query=self.query,
                is_shown=is_shown,
            )
            if len(kept.endpoints) == _MOST_ENDPOINTS:
                kept.endpoints.clear()
            kept.endpoints[facts] = endpoint
        if endpoint.base == OPENAI and not endpoint.has_key:
            raise AuthenticationError(
                "OpenAI wants a key: set OPENAI_API_KEY, or give api_key; for another endpoint, "
                "give api_base",
                provider=PROVIDER,
                model=self.model,
            )
        return endpoint

    # -- Sending it ----------------------------------------------------------------------

    async def _ask(
        self,
        client: Client,
        adapted: Adapted,
        request: Request,
        read: Callable[[Mapping[str, Any], str], _ResultT],
    ) -> _ResultT:
        """Send one request and read its answer."""
        body = self._body(adapted, request, stream=False)

        async def attempt(left: Left) -> _ResultT:
            return await client.ask(request, body, left, read)

        while True:
            try:
                return await self.limiter.run(attempt, self.limits, endpoint=request.key)
            except BadRequestError as error:
                adapted.learn(request.kind, error.__cause__, request.arguments)
                refused, body = body, self._body(adapted, request, stream=False)
                if body == refused:
                    raise

    async def _stream(
        self, kept: Kept, request: Request, make_reader: Callable[[], Reader[_ResultT]]
    ) -> AsyncGenerator[str | _ResultT, None]:
        """Send one request and read its answer as it comes."""
        client = kept.client or await kept.made_client()
        adapted = kept.adapted
        body = self._body(adapted, request, stream=True)

        def attempt(left: Left) -> AsyncGenerator[str | _ResultT, None]:
            return client.stream(request, body, left, make_reader())

        has_begun = goes_without_usage = False
        while True:
            pieces = self.limiter.stream(attempt, self.limits, endpoint=request.key)
            try:
                async with contextlib.aclosing(pieces):
                    async for piece in pieces:
                        has_begun = True
                        if piece != "":
                            yield piece
            except BadRequestError as error:
                if has_begun:  # an error within the answer is no refusal of the request
                    raise
                asked_for_usage = adapted.reports_usage(request.kind)
                adapted.learn(request.kind, error.__cause__, request.arguments)
                refused, body = body, self._body(adapted, request, stream=True)
                if body == refused:
                    if goes_without_usage:
                        adapted.ask_for_usage(request.kind)
                    raise
                if asked_for_usage and not adapted.reports_usage(request.kind):
                    goes_without_usage = True
            else:
                return

    def _body(self, adapted: Adapted, request: Request, *, stream: bool) -> dict[str, Any]:
        """Return the body of a request as its endpoint takes it, as far as is known."""
        key = request.kind
        taken, left_out = adapted.taken(key, request.arguments)
        if left_out:
            self.warn_left_out(PROVIDER, left_out)
        if not stream:
            return {**request.prompt, **whole(taken)}
        return {**request.prompt, **streamed(taken, with_usage=adapted.reports_usage(key))}

    # -- What is not shown ---------------------------------------------------------------

    @field_validator("params")
    @classmethod
    def _address_shows_no_secret(cls, params: GenerateParams) -> GenerateParams:
        if params.api_base is not None:
            check_shown(params.api_base)
        return params

    def _shown(self, values: Iterable[tuple[_NameT, Any]]) -> Iterator[tuple[_NameT, Any]]:
        for name, value in super()._shown(values):
            if name in ("headers", "query"):
                yield name, {key: text for key, text in value.items() if is_harmless(key)}
            else:
                yield name, value
