"""Tickets in, answers out: what a `vllm.LLM` makes of one batch.

Each request is added by itself, so that one that vLLM refuses fails alone; then the engine
is stepped until all have ended. Between steps, what nobody waits for any more is aborted.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rigging.error import ProviderServerError, RiggingError
from rigging_vllm._ending import ended
from rigging_vllm._errors import placed, request_error
from rigging_vllm._lora import lora_request
from rigging_vllm._prompts import ignored, openai_messages, shows_tools
from rigging_vllm._request import Answer
from rigging_vllm._responder import failure_of
from rigging_vllm._results import text_of
from rigging_vllm._sampling import Sampling
from rigging_vllm._ticket import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        self._outbox = Outbox()
        # By the id that outputs carry: the ticket, and vLLM's own id, which aborts it.
        self._running: dict[str, tuple[Ticket, str]] = {}

    def run(self, tickets: Sequence[Ticket], is_over: Callable[[], bool]) -> None:
        """Answer tickets, whatever happens; what is not answered when it is over is aborted."""
        for ticket in tickets:
            if is_over():
                self._outbox.put(ticket, placed(ended(), ticket.spec.model))
            else:
                self._add(ticket)
        try:
            while self._running and self._engine.has_unfinished_requests() and not is_over():
                self._outbox.send()
                self._step()
        except Exception as error:  # noqa: BLE001 (it is every request's failure)
            failure: Exception = error
        else:
            failure = ProviderServerError("vLLM ended without an answer")
        for ticket, _ in self._running.values():
            why = ended() if is_over() else request_error(failure, ticket.spec.model)
            self._outbox.put(ticket, placed(why, ticket.spec.model))
        self._outbox.send()

    def _add(self, ticket: Ticket) -> None:
        """Hand one request to the engine."""
        if ticket.is_closed:
            return
        try:
            id_ = self._enqueue(ticket)
        except RiggingError as error:
            self._outbox.put(ticket, placed(error, ticket.spec.model))
        except Exception as error:  # noqa: BLE001 (whatever vLLM raises refuses this request)
            self._outbox.put(ticket, request_error(error, ticket.spec.model))
        else:
            # Outputs carry the number that vLLM's own id begins with.
            self._running[id_.partition("-")[0]] = (ticket, id_)

    def _enqueue(self, ticket: Ticket) -> str:
        request = ticket.request
        params = self._sampling.params(request.params, self._kind)
        lora = lora_request(request.params, ticket.spec.adapters)
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
            )
        return ids[0]

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished and output.request_id in self._running:
                ticket, _ = self._running.pop(output.request_id)
                result = self._answer(ticket, output)
                if ticket.streams and isinstance(result, Answer):
                    self._outbox.put(ticket, text_of(output))  # an LLM has no smaller pieces
                self._outbox.put(ticket, result)
        gone = [id_ for id_, (ticket, _) in self._running.items() if ticket.is_closed]
        for id_ in gone:
            _, internal = self._running.pop(id_)
            self._engine.abort_request([internal], internal=True)

    def _answer(self, ticket: Ticket, output: Any) -> Result:
        failure = failure_of(output)
        if failure is not None:
            return placed(failure, ticket.spec.model)
        return Answer(output, ignored(ticket.request, shows_tools=self._shows_tools))
