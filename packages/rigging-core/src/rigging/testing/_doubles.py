"""Generators without a model behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, TypeAlias, TypeVar

from pydantic import PrivateAttr

from rigging.error import ResponseError
from rigging.generator import Generator
from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rigging.message import Message
    from rigging.params import GenerateParams

__all__ = ["EchoGenerator", "PreparedGenerator", "RecordedCall", "Reply", "ScriptedGenerator"]

_ResultT = TypeVar("_ResultT", GeneratedMessage, GeneratedText)

_TOKEN: Final = re.compile(r"\s*\S+|\s+$")


class _Echo(NamedTuple):
    text: str
    stop_reason: StopReason
    usage: Usage


class EchoGenerator(Generator):
    """Says what it was told: the text of the last message, or the prompt.

    It honours ``max_tokens`` and ``stop``; a token is a word with the blanks before it.

    Example:
        >>> import asyncio
        >>> generator = EchoGenerator(model="any")
        >>> chat = asyncio.run(generator.chat("one two three").with_(max_tokens=2).run())
        >>> chat.last.content, chat.stop_reason, chat.usage.output_tokens
        ('one two', <StopReason.length: 'length'>, 2)
    """

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Repeat the last message of each conversation."""
        results = []
        for conversation, own in zip(messages, params, strict=True):
            read = sum(len(_TOKEN.findall(message.text)) for message in conversation)
            echo = self._echo(conversation[-1].text, read, own)
            results.append(
                GeneratedMessage.from_text(echo.text, echo.stop_reason, usage=echo.usage)
            )
        return results

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Repeat each prompt."""
        results = []
        for text, own in zip(texts, params, strict=True):
            echo = self._echo(text, len(_TOKEN.findall(text)), own)
            results.append(GeneratedText.from_text(echo.text, echo.stop_reason, usage=echo.usage))
        return results

    def _echo(self, text: str, input_tokens: int, params: GenerateParams) -> _Echo:
        merged = self.params.merge_with(params)
        for stop in filter(None, merged.stop or ()):
            text = text.partition(stop)[0]
        tokens = _TOKEN.findall(text)
        kept = tokens[: merged.max_tokens]
        cut = len(kept) < len(tokens)
        return _Echo(
            "".join(kept) if cut else text,
            StopReason.length if cut else StopReason.stop,
            Usage(input_tokens=input_tokens, output_tokens=len(kept)),
        )


@dataclass(frozen=True)
class RecordedCall:
    """One call that a `ScriptedGenerator` received.

    Attributes:
        inputs: The conversations, or the texts, of the call.
        params: The params that came with them, one each.
    """

    inputs: tuple[tuple[Message, ...] | str, ...]
    params: tuple[GenerateParams, ...]


#: What a `ScriptedGenerator` answers a request with; an exception fails it.
Reply: TypeAlias = str | GeneratedMessage | GeneratedText | BaseException


class PreparedGenerator(Generator):
    """A generator that keeps what it was prepared with when it is copied or pickled."""

    # Private attributes: a copy goes on by itself from where they are.
    _kept: ClassVar[tuple[str, ...]] = ()

    def __copy__(self) -> Self:
        copied = super().__copy__()
        _set(copied, self._state())
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        return (*super().__reduce__(), self._state(), None, None, _set)

    def _state(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self._kept}
        return {
            name: value.copy() if isinstance(value, (dict, list)) else value
            for name, value in values.items()
        }


def _set(generator: Generator, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        setattr(generator, name, value)


class ScriptedGenerator(PreparedGenerator):
    """Gives prepared replies in order, and records what it was asked.

    A reply is a text, a whole result, or an exception, which fails the one request that
    it falls to. A request after the last reply fails with a `ResponseError`. A copy, and
    what a pickle becomes, goes on by itself from the same place.

    Example:
        >>> import asyncio
        >>> generator = ScriptedGenerator(["yes", "no"])
        >>> [chat.last.content for chat in asyncio.run(generator.chat("Well?").run_many(2))]
        ['yes', 'no']
        >>> len(generator.calls), len(generator.calls[0].inputs)
        (1, 2)
    """

    model: str = "scripted"

    _kept: ClassVar[tuple[str, ...]] = ("_replies", "_calls", "_used")

    _replies: list[Reply] = PrivateAttr(default_factory=list)
    _calls: list[RecordedCall] = PrivateAttr(default_factory=list)
    _used: int = PrivateAttr(default=0)

    def __init__(self, replies: Iterable[Reply] = (), **fields: Any) -> None:
        super().__init__(**fields)
        self._replies = list(replies)

    @property
    def calls(self) -> tuple[RecordedCall, ...]:
        """What was asked so far, in order."""
        return tuple(self._calls)

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Answer with the next replies."""
        self._calls.append(RecordedCall(tuple(map(tuple, messages)), tuple(params)))
        return [self._next(GeneratedMessage, GeneratedMessage.from_text) for _ in messages]

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Answer with the next replies."""
        self._calls.append(RecordedCall(tuple(texts), tuple(params)))
        return [self._next(GeneratedText, GeneratedText.from_text) for _ in texts]

    def _next(
        self, kind: type[_ResultT], from_text: Callable[[str], _ResultT]
    ) -> _ResultT | BaseException:
        number = self._used
        self._used += 1
        if number >= len(self._replies):
            return ResponseError(
                f"the script has {len(self._replies)} replies, and this is request {number + 1}"
            )
        reply = self._replies[number]
        if isinstance(reply, str):
            return from_text(reply)
        if isinstance(reply, (kind, BaseException)):
            return reply
        return ResponseError(
            f"reply {number + 1} of the script is a {type(reply).__name__}, and a "
            f"{kind.__name__} was asked for"
        )
