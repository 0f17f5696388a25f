"""Chats: conversations that a generator continued, and the pipeline that makes them."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, cast

from pydantic import Field

from rigging._checkpoint import canonical
from rigging._item import Item, ItemList, summed
from rigging._pipeline import Pipeline, Schedulable, maybe_await, shortened
from rigging._run import Job, Post
from rigging._template import applied_to_message
from rigging.error import InvalidMessageError, InvalidParamsError
from rigging.message import Message, MessageLike
from rigging.params import GenerateParams, no_params
from rigging.result import GeneratedMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from rigging._scheduler import Scheduler
    from rigging.events import Operation

__all__ = ["Chat", "ChatList", "ChatPipeline", "MergeStrategy", "MessageGenerator"]

#: How `ChatPipeline.add` joins a message to the last one, when both are of one role.
MergeStrategy: TypeAlias = Literal["none", "all", "only-user-role"]

_EMPTY: Final = "the conversation is empty: pass at least one message to `chat(…)`"


class MessageGenerator(Schedulable, Protocol):
    """What a `ChatPipeline` needs of a generator."""

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message."""
        ...

    def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncIterator[str | GeneratedMessage]:
        """Continue one conversation, piece by piece; the result comes as the last item."""
        ...


class Chat(Item):
    """A conversation with what a generator added to it.

    Attributes:
        messages: What was sent first.
        generated: What came back, and in later rounds what was sent between.
        stop_reason: Why the last generation ended.
        usage: Tokens taken, summed over rounds, if known.
        params: The parameters that the pipeline passed; the generator's own are in
            ``generator_id``.
        generator_id: The identifier of the generator, never with a key; None if its
            class is registered under no provider name.
        extra: What else the backend reported.
        metadata: The caller's own notes.
        error: Why it failed, if it did and the run includes failures.
        timestamp: When the chat was made, in UTC.
        uuid: Names this chat.
    """

    messages: list[Message]
    generated: list[Message] = Field(default_factory=list)

    def __len__(self) -> int:
        return len(self.messages) + len(self.generated)

    def __bool__(self) -> bool:
        return True  # also one without messages

    def __repr__(self) -> str:
        by = self.generator_id or "an unnamed generator"
        if self.failed:
            said = f"failed, {shortened(str(self.error))}"
        else:
            said = repr(shortened(self.last.text))
        return f"<Chat of {len(self)} messages with {shortened(by)}: {said}>"

    def _repr_html_(self) -> str:
        """Show the conversation in a notebook."""
        style = "text-align:left;white-space:pre-wrap"
        rows = "".join(
            f"<tr><th>{message.role}</th><td style='{style}'>{html.escape(message.text)}</td></tr>"
            for message in self.all
        )
        failed = f"<p>failed: {html.escape(str(self.error))}</p>" if self.failed else ""
        return f"<table>{rows}</table>{failed}"

    # -- What was said -------------------------------------------------------------------

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

    def to_openai(self) -> list[dict[str, Any]]:
        """Return the whole conversation in OpenAI's chat format."""
        return [message.to_openai() for message in self.all]

    # -- Going on ------------------------------------------------------------------------

    def restart(self, *, include_all: bool = False) -> ChatPipeline:
        """Return the pipeline that made this chat, with its callbacks, as it began.

        A chat that was read from JSON gets its generator back by ``generator_id``.

        Args:
            include_all: Whether to keep what was generated, too.

        Raises:
            InvalidGeneratorError: If the chat does not know what made it.
        """
        pipeline = self.maker or ChatPipeline(self.rebuilt())
        return cast("ChatPipeline", pipeline)._with(
            messages=tuple(self.all if include_all else self.messages),
            params=self.params,
            metadata=self.metadata,
        )

    def fork(
        self, messages: MessageLike | Sequence[MessageLike], *, include_all: bool = False
    ) -> ChatPipeline:
        """Return `restart`, with messages added."""
        return self.restart(include_all=include_all).add(messages)

    def continue_(self, messages: MessageLike | Sequence[MessageLike]) -> ChatPipeline:
        """Return a pipeline that goes on from the end of this chat with these messages."""
        return self.fork(messages, include_all=True)


class ChatList(ItemList[Chat]):
    """Chats in the order of their inputs."""


@dataclass(frozen=True, repr=False)
class ChatPipeline(
    Pipeline[tuple[Message, ...], GeneratedMessage, Chat, ChatList],
):
    """A conversation to be continued by a generator. Immutable: each method returns a new one.

    Made by `Generator.chat`.

    Attributes:
        generator: What continues the conversation.
        messages: The conversation so far.
        params: Override the generator's own, field by field.

    Example:
        >>> import rigging as rg
        >>> pipeline = rg.testing.EchoGenerator(model="echo").chat("Hi").with_(temperature=0.5)
        >>> pipeline.run_sync().last.content
        'Hi'
    """

    generator: MessageGenerator
    messages: tuple[Message, ...] = ()
    transforms: tuple[Callable[..., Any], ...] = field(default=(), kw_only=True)

    _list_type: ClassVar[type[ItemList[Any]]] = ChatList
    _operation: ClassVar[Operation] = "chat"

    # -- Building ------------------------------------------------------------------------

    def add(
        self,
        messages: MessageLike | Sequence[MessageLike],
        *,
        merge_strategy: MergeStrategy = "none",
    ) -> ChatPipeline:
        """Return a pipeline with these messages behind what it has.

        Args:
            messages: A str (what the user says), a message, a dict in OpenAI's shape, or a
                sequence of these.
            merge_strategy: Whether a message joins the one before it when both have the
                same role: ``none``, ``all`` roles, or ``only-user-role``. Texts are joined
                by a line break, parts are put behind each other.
        """
        if merge_strategy not in {"none", "all", "only-user-role"}:
            raise InvalidParamsError(
                f"merge_strategy is 'none', 'all' or 'only-user-role', got {merge_strategy!r}"
            )
        joined = list(self.messages)
        for message in Message.fit_as_list(messages):
            same_role = bool(joined) and joined[-1].role == message.role
            wanted = merge_strategy == "all" or (
                merge_strategy == "only-user-role" and message.role == "user"
            )
            if same_role and wanted:
                joined[-1] = _joined(joined[-1], message)
            else:
                joined.append(message)
        return self._with(messages=tuple(joined))

    def fork(self, messages: MessageLike | Sequence[MessageLike]) -> ChatPipeline:
        """Return a pipeline with these messages behind what it has; the same as `add`."""
        return self.add(messages)

    def apply(self, **values: Any) -> ChatPipeline:
        """Return a pipeline with ``$name`` replaced in the last message.

        Names that are not given are left alone.
        """
        if not self.messages:
            return self
        *before, last = self.messages
        return self._with(messages=(*before, applied_to_message(last, values)))

    def apply_to_all(self, **values: Any) -> ChatPipeline:
        """Return a pipeline with ``$name`` replaced in every message."""
        return self._with(
            messages=tuple(applied_to_message(message, values) for message in self.messages)
        )

    def transform(self, callback: Callable[..., Any]) -> ChatPipeline:
        """Return a pipeline that lets a callback change what is sent.

        Args:
            callback: Plain or a coroutine function. It gets the messages and the params of
                a request and returns ``(messages, params)``, or ``(messages, params,
                post)`` where ``post`` gets the finished chat and returns the one to use.
                Several posts run in reverse order.
        """
        return self._with(transforms=(*self.transforms, callback))

    # -- What the base leaves open -------------------------------------------------------

    def _input(self) -> tuple[Message, ...]:
        if not self.messages:
            raise InvalidMessageError(_EMPTY)
        return self.messages

    def _fit(self, given: Any) -> tuple[Message, ...]:
        if isinstance(given, str):  # as nearly all inputs of batches are
            return (*self.messages, Message("user", given))
        conversation = (*self.messages, *Message.fit_as_list(given))
        if not conversation:
            raise InvalidMessageError(_EMPTY)
        return conversation

    def _sent(self, given: tuple[Message, ...]) -> str:
        # Text by text, which JSON's encoder writes at a tenth of the cost of their list.
        messages = [
            f"[{canonical(message.role)},{canonical(message.content)}]"
            if _is_plain(message)
            else canonical(message.model_dump(mode="json", exclude={"uuid", "metadata"}))
            for message in given
        ]
        return f"[{','.join(messages)}]"

    def _summary(self) -> str:
        if not self.messages:
            return "no messages"
        return f"{len(self.messages)} messages, {shortened(self.messages[-1].text)!r}"

    def _held(self) -> tuple[Message, ...]:
        return self.messages

    def _load(self, text: str, name: str | None) -> Chat:
        chat = Chat.model_validate_json(text)
        # A callback may have let another generator answer.
        return chat.made_by(self) if chat.generator_id == name else chat

    def _failed(self, job: Job, error: BaseException, name: str | None) -> Chat:
        return Chat(
            messages=list(job.input),
            error=error,
            params=self._params_of(job),
            generator_id=name,
            metadata=self._notes(job),
        ).made_by(self)

    def _scheduler(self) -> Scheduler[tuple[Message, ...], GeneratedMessage]:
        generator = self.generator
        return generator.schedulers.get(generator, generator.generate_messages, GeneratedMessage)

    @property
    def _prepares(self) -> bool:
        return bool(self.transforms)

    async def _prepared(self, job: Job) -> tuple[Job, Sequence[Post]]:
        posts: list[Post] = []
        for callback in self.transforms:
            answer = await maybe_await(callback(list(job.input), job.params))
            if not isinstance(answer, tuple) or len(answer) not in {2, 3}:
                raise TypeError(
                    f"a transform returns (messages, params) or (messages, params, post), "
                    f"got {type(answer).__name__}"
                )
            messages, params, *post = answer
            job = Job(tuple(Message.fit_as_list(messages)), no_params().merge_with(params))
            posts += post
        return job, posts

    def _item(
        self,
        job: Job,
        result: GeneratedMessage,
        name: str | None,
        previous: Chat | None = None,
    ) -> Chat:
        if previous is None:
            messages, between = list(job.input), []
        else:
            messages, between = previous.messages, list(job.input[len(previous.messages) :])
        return Chat.of_result(
            result,
            usage=summed(previous, result.usage),
            params=self._params_of(job),
            generator_id=name,
            metadata=self._notes(job),
            pipeline=self,
            messages=messages,
            generated=[*between, result.message],
        )

    def _next_input(self, item: Chat, answer: Any) -> tuple[Message, ...]:
        if answer is True:
            return tuple(item.all[:-1])
        return (*item.all, *Message.fit_as_list(answer))

    def _stream(self, job: Job) -> Any:
        return self.generator.stream_messages(job.input, job.params)


def _is_plain(message: Message) -> bool:
    """Tell whether a message is its role and a text, as nearly all are."""
    return (
        isinstance(message.content, str) and not message.tool_calls and message.tool_call_id is None
    )


def _joined(one: Message, other: Message) -> Message:
    if isinstance(one.content, str) and isinstance(other.content, str):
        return one.model_copy(update={"content": f"{one.content}\n{other.content}"})
    parts = [
        part
        for message in (one, other)
        for part in ([message.content] if isinstance(message.content, str) else message.content)
    ]
    return Message(one.role, parts, metadata=one.metadata | other.metadata)
