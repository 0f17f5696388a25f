"""Requests in, answers out: what an `AsyncLLM` makes of tickets, on its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from rigging.error import ProviderServerError, RiggingError
from rigging.local import Outbox
from rigging_vllm._errors import placed, request_error
from rigging_vllm._lora import Adapters
from rigging_vllm._prompts import Prompts, ignored
from rigging_vllm._request import Answer
from rigging_vllm._sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rigging_vllm._ticket import Ticket

__all__ = ["Responder", "failure_of"]

# How long what an engine had may take to fail by itself, once it has died.
_GRACE_S: Final = 1.0

# Finish reasons with which vLLM reports a failure of its own.
_FAILED: Final = ("abort", "error")


class Responder:
    """Answers tickets with an engine, all at once; the engine makes batches of them.

    Everything but the callers' side of a ticket happens on the engine's event loop.

    Args:
        llm: A `vllm.v1.engine.async_llm.AsyncLLM`.
        loop: The event loop that it lives on.
    """

    def __init__(self, llm: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._llm = llm
        self._loop = loop
        self._prompts = Prompts(llm)
        self._sampling = Sampling(llm.model_config)
        self._kind = importlib.import_module("vllm.sampling_params").RequestOutputKind
        self._adapters = Adapters(llm)
        self._ids = itertools.count()
        self._outbox = Outbox[Answer]()
        self._tasks: dict[asyncio.Task[None], Ticket] = {}
        self._handler: asyncio.Task[None] | None = None  # vLLM's, which reads what comes back

    def accept(self, tickets: Iterable[Ticket]) -> None:
        """Begin to answer."""
        self._watch()
        for ticket in tickets:
            task = self._loop.create_task(self._answer(ticket))
            self._tasks[task] = ticket
            task.add_done_callback(self._end)
            ticket.abort = _Abort(self._loop, task)

    def _watch(self) -> None:
        """Notice when the engine dies: vLLM tells requests, and nobody who waits for less."""
        if self._handler is None and self._llm.output_handler is not None:
            self._handler = self._llm.output_handler
            self._handler.add_done_callback(lambda _: self._loop.call_later(_GRACE_S, self.abort))

    async def drain(self) -> None:
        """Wait until every ticket has been answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """End every request now."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, ticket: Ticket) -> None:
        # Its caller may have gone before there was anything to abort.
        if ticket.is_closed:
            return
        try:
            end: Answer | RiggingError = await self._generate(ticket)
        except asyncio.CancelledError:
            raise
        # Whatever vLLM raises is that request's failure, also what would end the engine's loop.
        except BaseException as error:  # noqa: BLE001
            end = request_error(error, ticket.spec.model)
        self._outbox.put(ticket, end)  # which `_end` sends

    def _end(self, task: asyncio.Task[None]) -> None:
        ticket = self._tasks.pop(task)
        # Its caller still waits: the engine is being shut down. The task may not have begun.
        if task.cancelled() and not ticket.is_closed:
            what = "has died" if self._llm.errored else "was shut down"
            error = ProviderServerError(f"vLLM's engine {what} before it answered")
            self._outbox.put(ticket, placed(error, ticket.spec.model))
        # Now, since the loop may end with this turn. The first that ends in a turn sends for all.
        self._outbox.send()

    async def _generate(self, ticket: Ticket) -> Answer:
        request = ticket.request
        kind = self._kind.DELTA if ticket.streams else self._kind.FINAL_ONLY
        params = self._sampling.params(request.params, kind)
        lora = await self._adapters.get(request.params, ticket.spec.adapters)
        prompt = await self._prompts.render(request)
        whole: Any = None
        id_ = f"rigging-{next(self._ids)}"
        outputs = self._llm.generate(prompt, params, id_, lora_request=lora)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                if ticket.streams and output.outputs[0].text:
                    self._show(ticket, output.outputs[0].text)
                if whole is None:
                    whole = output
                else:
                    whole.add(output, aggregate=True)
        failure = failure_of(whole)
        if failure is not None:
            raise failure
        return Answer(whole, ignored(request, shows_tools=self._prompts.shows_tools))

    def _show(self, ticket: Ticket, piece: str) -> None:
        # What comes in one turn of the loop goes out together.
        if self._outbox.put(ticket, piece):
            self._loop.call_soon(self._outbox.send)


class _Abort:
    """Cancels the task of a request, from any thread."""

    __slots__ = ("_loop", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        self._loop = loop
        self._task = task

    def __call__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the request with it
            self._loop.call_soon_threadsafe(self._task.cancel)


def failure_of(output: Any) -> RiggingError | None:
    """Return the error for an output with which vLLM gave up on its request."""
    if output is None:
        return ProviderServerError("vLLM ended without an answer")
    reason = output.outputs[0].finish_reason
    if reason in _FAILED:
        return ProviderServerError(f"vLLM gave up on the request ({reason}); its log says why")
    return None
