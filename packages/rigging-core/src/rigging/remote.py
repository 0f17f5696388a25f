"""What generators of remote models have in common: limits, retries, warnings said once.

A provider that talks to a service derives its class from `RemoteGenerator`, and hands each
request to its limiter as a function that makes one attempt (see `rigging.limits`).
"""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeVar

from pydantic import Field, PrivateAttr

from rigging.error import ProviderTimeoutError, RiggingWarning, UnsupportedParameterWarning
from rigging.generator import Generator
from rigging.limits import Limiter, Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from rigging.params import GenerateParams

__all__ = ["CHAT_ONLY", "RemoteGenerator", "RequestTimeout", "each"]

#: What OpenAI's protocol has for chats, and no place for in text completions.
CHAT_ONLY: Final = frozenset(
    {
        "audio",
        "max_completion_tokens",
        "modalities",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "tool_choice",
        "tools",
    }
)

_T = TypeVar("_T")
_InputT = TypeVar("_InputT")
_ResultT = TypeVar("_ResultT")


class RemoteGenerator(Generator):
    """Base class of generators whose models are behind an address.

    Each request is a call of its own, and they run at the same time; how many, how closely
    and how often again is for the limiter.

    Attributes:
        max_connections: The most requests in flight at once, per event loop; 0 is no limit.
        min_delay_between_requests: Milliseconds between the starts of two requests.
        max_retries: How often a request is made again after a failure that may pass; 0 leaves
            every failure to the caller. See `rigging.limits`.

    Example:
        >>> from rigging.result import GeneratedMessage
        >>> class Remote(RemoteGenerator):
        ...     async def generate_messages(self, messages, params):
        ...         async def one(conversation, own):
        ...             async def attempt(left):
        ...                 left()  # a real one sends the request here
        ...                 return GeneratedMessage.from_text("Hello!")
        ...             return await self.limiter.run(attempt, self.limits, endpoint=self.model)
        ...         return await each(one, messages, params)
        >>> Remote(model="large", max_connections=2).chat("Hi").run_sync().last.text
        'Hello!'
    """

    batch_size: ClassVar[int] = 1

    max_connections: int = Field(default=10, ge=0)
    min_delay_between_requests: float = Field(default=0, ge=0, allow_inf_nan=False)
    max_retries: int = Field(default=5, ge=0)

    _limiter: Limiter = PrivateAttr(default_factory=Limiter)
    _made_limits: tuple[tuple[object, ...], Limits] = PrivateAttr(default=((), Limits()))
    _warned: set[tuple[str, object]] = PrivateAttr(default_factory=set)  # model, and of what

    def __copy__(self) -> Self:
        copied = super().__copy__()
        # As with a deep copy: its limits are its own, and so is what it was warned about.
        copied._limiter = Limiter()
        copied._warned = set()
        return copied

    @property
    def limiter(self) -> Limiter:
        """Where requests wait for their turn."""
        return self._limiter

    @property
    def limits(self) -> Limits:
        """What the fields allow now."""
        fields = (
            self.max_connections,
            self.min_delay_between_requests / 1000,
            self.max_retries,
        )
        made = self._made_limits
        if made[0] != fields:  # seldom: it is asked for each request
            made = self._made_limits = fields, Limits(*fields)
        return made[1]

    def warn_once(
        self, category: type[RiggingWarning], text: str, *, about: str | None = None
    ) -> None:
        """Warn, unless it was said before of this model.

        Args:
            category: The class of the warning.
            text: What to say.
            about: What it is about, where the category alone does not tell.
        """
        what = (self.model, about or category)
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(text, category, stacklevel=3)

    def warn_left_out(self, provider: str, names: Iterable[str]) -> None:
        """Warn once of each parameter that the model does not take, and that is not sent."""
        for name in sorted(names):
            self.warn_once(
                UnsupportedParameterWarning,
                f"{provider}!{self.model} does not take {name!r}: it is left out",
                about=name,
            )


async def each(
    one: Callable[[_InputT, GenerateParams], Awaitable[_ResultT]],
    inputs: Sequence[_InputT],
    params: Sequence[GenerateParams],
) -> list[_ResultT | BaseException]:
    """Make one request per input, all at the same time.

    Args:
        one: Makes the request of one input.
        inputs: Conversations or texts.
        params: Theirs; as many.

    Returns:
        One result per input, in order; an error is that item's failure.
    """
    if len(inputs) == len(params) == 1:  # as nearly always, and that is worth no task
        try:
            return [await one(inputs[0], params[0])]
        except Exception as error:  # noqa: BLE001 (it is the item's failure)
            return [error]
    pairs = zip(inputs, params, strict=True)
    return await asyncio.gather(*(one(*pair) for pair in pairs), return_exceptions=True)


class RequestTimeout:
    """Limits the time that an endpoint takes for one request, over all waits for it.

    What happens between two waits does not count: whoever reads a stream may take their time.

    Args:
        limit_s: Seconds; None is no limit.
        provider: The provider's name.
        model: The model that is asked.
        grace_s: Seconds on top, where a library has a limit of its own that says more.
    """

    def __init__(
        self, limit_s: float | None, *, provider: str, model: str, grace_s: float = 0.0
    ) -> None:
        self._limit_s = limit_s
        self._left_s = None if limit_s is None else limit_s + grace_s
        self._provider = provider
        self._model = model

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """Wait for ``coming``.

        Raises:
            ProviderTimeoutError: If no time is left.
        """
        if self._left_s is None:
            return await coming
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._left_s) as limit:
                return await coming
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ProviderTimeoutError(
                f"the answer was not complete after {self._limit_s:g} s",
                provider=self._provider,
                model=self._model,
            ) from error
        finally:
            self._left_s -= loop.time() - started
