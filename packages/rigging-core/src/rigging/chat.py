"""Chats: conversations that a generator continued, and the pipeline that makes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field

from rigging._pipeline import Identifiable, generator_id, params_per_item, shortened
from rigging._scheduler import dispatch
from rigging.error import InvalidMessageError
from rigging.message import Message
from rigging.params import GenerateParams
from rigging.result import GeneratedMessage, StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Chat", "ChatList", "ChatPipeline", "MessageGenerator"]


class MessageGenerator(Identifiable, Protocol):
    """What a `ChatPipeline` needs of a generator."""

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message."""
        ...


class Chat(BaseModel):
    """A conversation with the message that a generator added to it.

    Attributes:
        messages: What was sent.
        generated: What came back.
        stop_reason: Why the generation ended.
        usage: Tokens taken, if known.
        params: The parameters that the pipeline passed; the generator's own are in
            ``generator_id``.
        generator_id: The identifier of the generator, never with a key; None if its
            class is registered under no provider name.
        extra: What else the backend reported.
        metadata: The caller's own notes.
        timestamp: When the chat was made, in UTC.
        uuid: Names this chat.
    """

    model_config = ConfigDict(frozen=True)

    messages: list[Message]
    generated: list[Message] = Field(default_factory=list)
    stop_reason: StopReason = StopReason.unknown
    usage: Usage | None = None
    params: GenerateParams = Field(default_factory=GenerateParams)
    generator_id: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    uuid: UUID = Field(default_factory=uuid4)

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __len__(self) -> int:
        return len(self.messages) + len(self.generated)

    def __repr__(self) -> str:
        return (
            f"<Chat of {len(self)} messages with {self.generator_id or 'an unnamed generator'}: "
            f"{shortened(self.last.text)!r}>"
        )

    @property
    def all(self) -> list[Message]:
        """All messages: those sent, then those generated."""
        return [*self.messages, *self.generated]

    @property
    def prev(self) -> list[Message]:
        """The messages that were sent; the same as ``messages``."""
        return self.messages

    @property
    def next(self) -> list[Message]:
        """The messages that were generated; the same as ``generated``."""
        return self.generated

    @property
    def last(self) -> Message:
        """The last message, as a rule the one that was generated."""
        return self.generated[-1] if self.generated else self.messages[-1]

    @property
    def conversation(self) -> str:
        """The whole conversation as text, a paragraph per message."""
        return "\n\n".join(f"[{message.role}]: {message.text}" for message in self.all)


class ChatList(list[Chat]):
    """Chats in the order of their inputs."""

    @property
    def usage(self) -> Usage:
        """Tokens of all chats together."""
        return reduce(add, (chat.usage for chat in self if chat.usage), Usage())


@dataclass(frozen=True)
class ChatPipeline:
    """A conversation to be continued by a generator. Immutable: each method returns a new one.

    Made by `Generator.chat`.

    Attributes:
        generator: What continues the conversation.
        messages: The conversation so far.
        params: Override the generator's own, field by field.

    Example:
        >>> import asyncio, rigging as rg
        >>> pipeline = rg.testing.EchoGenerator(model="echo").chat("Hi").with_(temperature=0.5)
        >>> asyncio.run(pipeline.run()).last.content
        'Hi'
    """

    generator: MessageGenerator
    messages: tuple[Message, ...] = ()
    params: GenerateParams = field(default_factory=GenerateParams)

    def with_(self, params: GenerateParams | None = None, **overrides: Any) -> ChatPipeline:
        """Return a pipeline with other generation parameters.

        Args:
            params: Override the pipeline's, field by field.
            overrides: Fields of `GenerateParams`; they win over ``params``.

        Raises:
            InvalidParamsError: If a field is unknown or a value does not fit.
        """
        return replace(self, params=self.params.merge_with(params, GenerateParams(**overrides)))

    async def run(self) -> Chat:
        """Generate one answer.

        Raises:
            InvalidMessageError: If the conversation is empty.
            GenerationError: If the provider failed; see `rigging.error` for the tree.
        """
        return (await self._run([self.params]))[0]

    async def run_many(
        self, count: int, *, params: Sequence[GenerateParams] | None = None
    ) -> ChatList:
        """Generate several answers to the same conversation.

        Args:
            count: How many, 0 or more.
            params: One per answer; override the pipeline's.

        Returns:
            ``count`` chats.

        Raises:
            InvalidParamsError: If ``count`` is no number of answers, or ``params`` has
                another length.
            InvalidMessageError: If the conversation is empty.
            GenerationError: If the provider failed; the first failure counts.
        """
        return await self._run(params_per_item(self.params, count, params))

    async def _run(self, params: Sequence[GenerateParams]) -> ChatList:
        if not self.messages:
            raise InvalidMessageError(
                "the conversation is empty: pass at least one message to `chat(…)`"
            )
        results = await dispatch(
            self.generator,
            self.generator.generate_messages,
            [self.messages] * len(params),
            params,
            GeneratedMessage,
        )
        name = generator_id(self.generator)
        return ChatList(
            Chat(
                messages=list(self.messages),
                generated=[result.message],
                stop_reason=result.stop_reason,
                usage=result.usage,
                extra=result.extra,
                params=own,
                generator_id=name,
            )
            for result, own in zip(results, params, strict=True)
        )
