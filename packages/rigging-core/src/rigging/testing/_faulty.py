"""Doubles that fail or dawdle, for tests of what has to cope with that."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field, PrivateAttr

from rigging.error import ProviderServerError, ProviderTimeoutError
from rigging.testing._doubles import EchoGenerator, PreparedGenerator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from rigging.message import Message
    from rigging.params import GenerateParams
    from rigging.result import GeneratedMessage, GeneratedText

__all__ = ["FailingGenerator", "FlakyGenerator", "SlowGenerator"]

_InputT = TypeVar("_InputT")
_ResultT = TypeVar("_ResultT")


class FailingGenerator(PreparedGenerator):
    """Fails every request with the same error.

    Args:
        error: What each request fails with; without one, a `ProviderServerError`.
        fields: Those of the generator.

    Example:
        >>> from rigging.error import RateLimitError
        >>> failing = FailingGenerator(RateLimitError("slow down", retry_after=7))
        >>> chats = failing.chat("Hi").run_many_sync(2, on_failed="include")
        >>> [type(chat.error).__name__ for chat in chats]
        ['RateLimitError', 'RateLimitError']
    """

    model: str = "failing"

    _kept: ClassVar[tuple[str, ...]] = ("_error",)

    _error: BaseException | None = PrivateAttr(default=None)

    def __init__(self, error: BaseException | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        self._error = error

    async def generate_messages(
        self,
        messages: Sequence[Sequence[Message]],
        params: Sequence[GenerateParams],  # noqa: ARG002 (nothing is generated)
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Fail each conversation."""
        return [self._failure() for _ in messages]

    async def generate_texts(
        self,
        texts: Sequence[str],
        params: Sequence[GenerateParams],  # noqa: ARG002
    ) -> Sequence[GeneratedText | BaseException]:
        """Fail each text."""
        return [self._failure() for _ in texts]

    def _failure(self) -> BaseException:
        if self._error is not None:
            return copy.copy(self._error)
        return ProviderServerError("this generator fails", model=self.model)


class SlowGenerator(EchoGenerator):
    """Repeats what it is told, after a while. It can be cancelled, and honours ``timeout``.

    Attributes:
        delay_s: Seconds that each request takes; all requests take them at the same time.

    Example:
        >>> SlowGenerator(delay_s=0.01).chat("Hi").run_sync().last.text
        'Hi'
    """

    model: str = "slow"
    delay_s: float = Field(default=0.1, ge=0)

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Repeat the last message of each conversation, after a while."""
        return await self._after_a_while(super().generate_messages, messages, params)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Repeat each text, after a while."""
        return await self._after_a_while(super().generate_texts, texts, params)

    async def _after_a_while(
        self,
        generate: Callable[
            [Sequence[_InputT], Sequence[GenerateParams]],
            Awaitable[Sequence[_ResultT | BaseException]],
        ],
        inputs: Sequence[_InputT],
        params: Sequence[GenerateParams],
    ) -> list[_ResultT | BaseException]:
        limits = [self.params.merge_with(own).timeout for own in params]
        in_time = [limit is None or limit >= self.delay_s for limit in limits]
        results = await generate(inputs, params)
        # Who has less time is told when it is over, but a call ends as a whole.
        if inputs:
            waits = zip(limits, in_time, strict=True)
            await asyncio.sleep(max(self.delay_s if ok else limit or 0 for limit, ok in waits))
        return [
            result if ok else self._timed_out(limit)
            for result, limit, ok in zip(results, limits, in_time, strict=True)
        ]

    def _timed_out(self, limit_s: float | None) -> ProviderTimeoutError:
        return ProviderTimeoutError(
            f"no answer within {limit_s or 0:g} s: delay_s is {self.delay_s:g}", model=self.model
        )


class FlakyGenerator(PreparedGenerator, EchoGenerator):
    """Fails each prompt a few times, and repeats it then: for tests of what tries again.

    Args:
        error: What a request fails with; without one, a `ProviderServerError`, which is
            retryable.
        fields: Those of the generator.

    Attributes:
        failures: How often each prompt fails before it is answered.

    Example:
        >>> flaky = FlakyGenerator(failures=1)
        >>> flaky.chat("Hi").run_sync(on_failed="include").error
        ProviderServerError('failure 1 of 1')
        >>> flaky.chat("Hi").run_sync().last.text
        'Hi'
    """

    model: str = "flaky"
    failures: int = Field(default=1, ge=0)

    _kept: ClassVar[tuple[str, ...]] = ("_error", "_failed")

    _error: BaseException | None = PrivateAttr(default=None)
    _failed: dict[Hashable, int] = PrivateAttr(default_factory=dict)

    def __init__(self, error: BaseException | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        self._error = error

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Fail each conversation a few times, then repeat its last message."""
        results = await super().generate_messages(messages, params)
        told = (tuple(message.text for message in conversation) for conversation in messages)
        return [self._failure(texts) or result for texts, result in zip(told, results, strict=True)]

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Fail each text a few times, then repeat it."""
        results = await super().generate_texts(texts, params)
        return [self._failure(text) or result for text, result in zip(texts, results, strict=True)]

    def _failure(self, prompt: Hashable) -> BaseException | None:
        failed = self._failed.get(prompt, 0)
        if failed == self.failures:
            return None
        self._failed[prompt] = failed + 1
        if self._error is not None:
            return copy.copy(self._error)
        return ProviderServerError(f"failure {failed + 1} of {self.failures}", model=self.model)
