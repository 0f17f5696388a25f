"""What generators of local models have in common: one engine, asked from many event loops.

The engine works in a thread, or on an event loop, of its own. Each request is a `Ticket`
that waits on the loop of its caller, and what is new of it goes there through an `Outbox`.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from rigging.error import AuthenticationError, BadRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

__all__ = [
    "TEMPLATE_VARIABLES",
    "Outbox",
    "Ticket",
    "answers",
    "check_hub_token",
    "drop_frames",
    "template_variables",
]

_AnswerT = TypeVar("_AnswerT")

#: The entry of ``extra`` with variables for chat templates, as servers of vLLM and others call it.
TEMPLATE_VARIABLES: Final = "chat_template_kwargs"

_TOKEN: Final = re.compile(r"[!-~]+")


class Ticket(abc.ABC, Generic[_AnswerT]):
    """A request that waits for its answer on the running event loop.

    It belongs to that loop's thread; `is_closed` may be read in any. A subclass adds what its
    engine has to know.

    Args:
        deadline: Time (`time.monotonic`, seconds) when `run_out` is called; None for never.
        streams: Whether pieces of the text are wanted.

    Attributes:
        loop: The event loop of the caller.
        answer: What the engine made of the request, or a failure.
        pieces: Of a stream's text as it comes; None after the last.
        is_closed: Whether nobody waits any more.

    Example:
        >>> import asyncio, threading
        >>> class Question(Ticket[int]):
        ...     def run_out(self):
        ...         self.receive(TimeoutError())
        >>> def engine(ticket):
        ...     outbox = Outbox()
        ...     outbox.put(ticket, 42)
        ...     outbox.send()
        >>> async def main():
        ...     ticket = Question(deadline=None)
        ...     threading.Thread(target=engine, args=[ticket]).start()
        ...     return await answers([ticket])
        >>> asyncio.run(main())
        [42]
    """

    def __init__(self, deadline: float | None, *, streams: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams = streams
        self.answer: asyncio.Future[_AnswerT | Exception] = self.loop.create_future()
        if streams:
            self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._timer = self.loop.call_later(deadline - time.monotonic(), self.run_out)

    @abc.abstractmethod
    def run_out(self) -> None:
        """Take a failure for the answer, if the engine is late with it."""

    def receive(self, news: str | _AnswerT | Exception) -> None:
        """Take a piece of the text, the answer, or a failure."""
        if isinstance(news, str):
            self.pieces.put_nowait(news)
            return
        if not self.answer.done():
            self.answer.set_result(news)
        self.end()

    def close(self) -> None:
        """Give up waiting. Does nothing once it is answered."""
        if self.is_closed:
            return
        self.is_closed = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.end()
            self.answer.cancel()

    def end(self) -> None:
        """Let nothing more come: it has been answered, or given up."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.streams:
            self.pieces.put_nowait(None)

    async def stream(self) -> AsyncGenerator[str | _AnswerT, None]:
        """Yield the pieces of the text as they come, and the answer last.

        Leaving it closes the ticket.

        Raises:
            Exception: The failure, if it is one.
        """
        try:
            while (piece := await self.pieces.get()) is not None:
                yield piece
            answer = await self.answer
        finally:
            self.close()
        if isinstance(answer, Exception):
            raise answer
        yield answer


async def answers(tickets: Sequence[Ticket[_AnswerT]]) -> list[_AnswerT | Exception]:
    """Wait for the answers to requests; whoever is cancelled closes their tickets.

    Returns:
        One answer or failure per ticket, in order.
    """
    try:
        return [await ticket.answer for ticket in tickets]
    finally:
        for ticket in tickets:
            ticket.close()


class Outbox(Generic[_AnswerT]):
    """What goes back to the callers: one call into each event loop, for all that it gets.

    It belongs to the thread of the engine.
    """

    def __init__(self) -> None:
        self._news: dict[
            asyncio.AbstractEventLoop,
            list[tuple[Ticket[_AnswerT], str | _AnswerT | Exception]],
        ] = {}

    def put(self, ticket: Ticket[_AnswerT], news: str | _AnswerT | Exception) -> bool:
        """Keep what a ticket is to receive until `send`; return whether it is the first."""
        is_first = not self._news
        self._news.setdefault(ticket.loop, []).append((ticket, news))
        return is_first

    def send(self) -> None:
        """Hand everything over."""
        kept, self._news = self._news, {}
        for loop, items in kept.items():
            with contextlib.suppress(RuntimeError):  # it is closed: nobody waits
                loop.call_soon_threadsafe(_receive, items)


def _receive(items: list[tuple[Ticket[_AnswerT], str | _AnswerT | Exception]]) -> None:
    for ticket, news in items:
        ticket.receive(news)


def check_hub_token(token: object, *, provider: str, model: str) -> None:
    """Check that a token of the Hugging Face hub can be sent in a header.

    What cannot be is shown, in logs and errors, by the library that tries to.

    Args:
        token: What the caller gave; what is no text is passed.
        provider: The provider's name.
        model: What is to be loaded.

    Raises:
        AuthenticationError: If it is empty, or has characters that no token has.
    """
    if isinstance(token, str) and not _TOKEN.fullmatch(token):
        what = "has characters that no token has, such as a line break" if token else "is empty"
        raise AuthenticationError(
            f"api_key is no hub token: it {what}. Give the token alone, or leave it out",
            provider=provider,
            model=model,
        )


def drop_frames(error: BaseException) -> None:
    """Let go of the frames in which an error and its causes were raised.

    They hold a model, or half of one, for as long as somebody keeps the error. A new
    traceback begins where it is raised again.
    """
    found = [error]
    for link in found:  # grows on the way
        link.__traceback__ = None
        linked = (link.__cause__, link.__context__)
        found += [one for one in linked if one is not None and one not in found]


def template_variables(extra: Mapping[str, Any], *, reserved: Collection[str]) -> dict[str, Any]:
    """Return the variables of the chat template that ``extra`` sets.

    Args:
        extra: Of `rigging.params.GenerateParams`.
        reserved: Names that the provider itself sets where it applies a template.

    Raises:
        BadRequestError: If they are no mapping, or one cannot be set.

    Example:
        >>> extra = {"chat_template_kwargs": {"enable_thinking": False}}
        >>> template_variables(extra, reserved={"messages"})
        {'enable_thinking': False}
    """
    given = extra.get(TEMPLATE_VARIABLES)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadRequestError(
            f"extra.{TEMPLATE_VARIABLES} names variables of the chat template and their values, "
            f'such as {{"enable_thinking": false}}; got {type(given).__name__}'
        )
    for name in given:
        if name in reserved or not isinstance(name, str):
            raise BadRequestError(
                f"extra.{TEMPLATE_VARIABLES} cannot set {name!r}: it is no variable"
            )
    return dict(given)
