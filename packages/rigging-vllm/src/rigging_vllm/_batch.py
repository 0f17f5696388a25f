"""Tickets in, answers out: what a `vllm.LLM` makes of one batch.

Each request is added by itself, so that one that vLLM refuses fails alone; then the engine
is stepped until all have ended. Between steps, what nobody waits for any more is aborted.
The engine is the caller's own, so nothing may stay in it, whatever fails.
"""

from __future__ import annotations

import collections
import importlib
from typing import TYPE_CHECKING, Any

from rigging.error import ProviderServerError
from rigging.local import Outbox, template_variables
from rigging_vllm._ending import ended
from rigging_vllm._errors import placed, request_error
from rigging_vllm._lora import lora_request, not_loaded
from rigging_vllm._prompts import RESERVED, ignored, openai_messages, shows_tools
from rigging_vllm._request import Answer
from rigging_vllm._responder import failure_of
from rigging_vllm._results import text_of
from rigging_vllm._sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rigging.error import RiggingError
    from rigging_vllm._request import Result
    from rigging_vllm._ticket import Ticket

__all__ = ["Batch"]


class Batch:
    """One batch of a `vllm.LLM`.

    Args:
        llm: The engine. Nobody else may use it meanwhile.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._engine = llm.llm_engine
        self._sampling = Sampling(llm.model_config)
        self._kind = importlib.import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self._shows_tools = shows_tools(llm.get_tokenizer())
        self._engine_dead = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
        self._adapters: set[int] = set()  # that the engine has, by vLLM's number
        self._outbox = Outbox[Answer]()
        # By the id that outputs carry: the ticket, and vLLM's own id, which aborts it.
        self._running: dict[str, tuple[Ticket, str]] = {}

    def run(self, tickets: Sequence[Ticket], is_over: Callable[[], bool]) -> None:
        """Answer tickets, whatever happens; what is not answered when it is over is aborted."""
        waiting = collections.deque(tickets)
        failure: BaseException | None = None
        try:
            while waiting and not is_over():
                self._add(waiting.popleft())
            while self._running and self._engine.has_unfinished_requests() and not is_over():
                self._outbox.send()
                self._step()
        except BaseException as error:  # noqa: BLE001 (it is every request's failure)
            failure = error
        left = [*waiting, *(ticket for ticket, _ in self._running.values())]
        try:
            # Before anybody is told, and may use the engine.
            self._abort(list(self._running))
        finally:
            for ticket in left:
                why = ended() if is_over() else _failure_of_all(failure, ticket.spec.model)
                self._outbox.put(ticket, placed(why, ticket.spec.model))
            self._outbox.send()

    def _add(self, ticket: Ticket) -> None:
        """Hand one request to the engine."""
        if ticket.is_closed:
            return
        before = next(self._llm.request_counter)
        try:
            id_ = self._enqueue(ticket)
        except BaseException as error:  # noqa: BLE001 (whatever is raised refuses this request)
            self._outbox.put(ticket, request_error(error, ticket.spec.model))
            # vLLM may have noted the request before it failed to send it to its core, and
            # would wait for it for ever.
            self._engine.abort_request([str(before + 1)])
        else:
            # Outputs carry the number that vLLM's own id begins with.
            self._running[id_.partition("-")[0]] = (ticket, id_)

    def _enqueue(self, ticket: Ticket) -> str:
        request = ticket.request
        params = self._sampling.params(request.params, self._kind)
        lora = self._adapter(ticket)
        ids: list[str]
        if isinstance(request.prompt, str):
            ids = self._llm.enqueue([request.prompt], [params], use_tqdm=False, lora_request=lora)
        else:
            ids = self._llm.enqueue_chat(
                [openai_messages(request.prompt)],
                [params],
                use_tqdm=False,
                lora_request=lora,
                tools=request.params.tools or None,
                chat_template_kwargs=template_variables(request.params.extra, reserved=RESERVED),
            )
        return ids[0]

    def _adapter(self, ticket: Ticket) -> Any:
        """Return what `lora_request` returns, for an adapter that the engine has."""
        lora = lora_request(ticket.request.params, ticket.spec.adapters)
        if lora is None or lora.lora_int_id in self._adapters:
            return lora
        # One that cannot be loaded would fail the whole step, or kill the engine.
        try:
            self._engine.add_lora(lora)
        except self._engine_dead:
            raise
        except Exception as error:
            raise not_loaded(lora, error) from error
        self._adapters.add(lora.lora_int_id)
        return lora

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished and output.request_id in self._running:
                ticket, _ = self._running[output.request_id]
                result = self._answer(ticket, output)
                if ticket.streams and isinstance(result, Answer):
                    self._outbox.put(ticket, text_of(output))  # an LLM has no smaller pieces
                self._outbox.put(ticket, result)
                del self._running[output.request_id]  # last: whoever is in there gets told
        self._abort([id_ for id_, (ticket, _) in self._running.items() if ticket.is_closed])

    def _abort(self, ids: Iterable[str]) -> None:
        """Take requests out of the engine."""
        for id_ in ids:
            _, internal = self._running.pop(id_)
            self._engine.abort_request([internal], internal=True)

    def _answer(self, ticket: Ticket, output: Any) -> Result:
        failure = failure_of(output)
        if failure is not None:
            return placed(failure, ticket.spec.model)
        return Answer(output, ignored(ticket.request, shows_tools=self._shows_tools))


def _failure_of_all(error: BaseException | None, model: str) -> RiggingError:
    """Return the error for what kept a batch from its end; None is that vLLM said nothing.

    Its type would tell whether a request is at fault, and here none is: which one it was,
    nobody knows.
    """
    if error is None:
        return ProviderServerError("vLLM ended without an answer")
    made = request_error(error, model)
    if not isinstance(made, ProviderServerError):
        made = ProviderServerError(f"vLLM failed: {type(error).__name__}: {error}")
        made.__cause__ = error
    return made
