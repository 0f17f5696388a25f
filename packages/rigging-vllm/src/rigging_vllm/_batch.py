"""Requests in, answers out: what a `vllm.LLM` makes of one batch.

Each request is added by itself, so that one that vLLM refuses fails alone; then the engine
is stepped until all have ended. Between steps, a request whose time is up is aborted.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from rigging.error import (
    InvalidMessageError,
    ProviderServerError,
    ProviderTimeoutError,
    RiggingError,
)
from rigging_vllm._errors import placed, request_error
from rigging_vllm._sampling import FROM_MODEL, sampling_kwargs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rigging.message import Message
    from rigging.params import GenerateParams

__all__ = ["Answer", "Batch", "Request", "Result", "run"]

# Finish reasons with which vLLM reports a failure of its own.
_FAILED: Final = ("abort", "error")


@dataclass(frozen=True)
class Request:
    """What one caller wants continued.

    Attributes:
        prompt: A text, or a conversation.
        params: With what the generator holds already merged in.
        deadline: Time (`time.monotonic`, seconds) by which it must be answered.
    """

    prompt: str | tuple[Message, ...]
    params: GenerateParams
    deadline: float | None

    def is_late(self) -> bool:
        """Tell whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        output: vLLM's ``RequestOutput``.
        ignored: Parameters that could not be honoured.
    """

    output: Any
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Running:
    """A request in the engine; ``id`` is what aborts it."""

    index: int
    request: Request
    id: str


Result: TypeAlias = Answer | Exception


class Batch(NamedTuple):
    """What became of a batch.

    Attributes:
        results: One answer or failure per request, in order.
        broken: Whether the engine failed; it had better not be used again.
    """

    results: list[Result]
    broken: bool


class _EngineError(Exception):
    """A step of the engine failed; the cause says why."""


def run(
    llm: Any, vllm: Any, requests: Sequence[Request], model: str, cancelled: Callable[[], bool]
) -> Batch:
    """Answer requests.

    Args:
        llm: The engine, a `vllm.LLM`. Nobody else may use it meanwhile.
        vllm: The module.
        requests: Any number.
        model: For errors.
        cancelled: Whether the caller has gone; asked once per step of the engine.
    """
    broken = False
    results: dict[int, Result] = {}
    running: dict[str, _Running] = {}  # by the id that outputs carry
    for index, request in enumerate(requests):
        try:
            id_ = _add(llm, vllm, request, model)
        except RiggingError as error:
            results[index] = error
        else:
            # Outputs carry the number that vLLM's own id begins with.
            running[id_.partition("-")[0]] = _Running(index, request, id_)
    try:
        for entry, end in _drive(llm.llm_engine, running, cancelled):
            results[entry.index] = (
                placed(end, model)
                if isinstance(end, RiggingError)
                else Answer(end, _ignored(llm, entry.request))
            )
    except _EngineError as error:
        broken = True
        for entry in running.values():
            results[entry.index] = placed(_lost(error.__cause__), model)
    return Batch([results[index] for index in range(len(requests))], broken)


def _add(llm: Any, vllm: Any, request: Request, model: str) -> str:
    """Hand one request to the engine; return what aborts it."""
    try:
        if request.is_late():
            raise _timeout(request)  # noqa: TRY301 (it is placed as the others are)
        return _enqueue(llm, request, _sampling_params(llm, vllm, request.params))
    except RiggingError as error:
        placed(error, model)
        raise
    except Exception as error:
        raise request_error(error, model) from error


def _enqueue(llm: Any, request: Request, params: Any) -> str:
    ids: list[str]
    if isinstance(request.prompt, str):
        ids = llm.enqueue([request.prompt], [params], use_tqdm=False)
    else:
        if not request.prompt:
            raise InvalidMessageError("the conversation is empty: it needs at least one message")
        conversation = [message.to_openai() for message in request.prompt]
        tools = request.params.tools
        ids = llm.enqueue_chat([conversation], [params], use_tqdm=False, tools=tools)
    return ids[0]


def _sampling_params(llm: Any, vllm: Any, params: GenerateParams) -> Any:
    cls = vllm.SamplingParams
    of_model = llm.get_default_sampling_params()
    defaults = {name: getattr(of_model, name) for name in FROM_MODEL}
    kwargs = sampling_kwargs(params, defaults, cls.__struct_fields__)
    if isinstance(kwargs.get("structured_outputs"), dict):
        module = vllm.sampling_params
        kwargs["structured_outputs"] = module.StructuredOutputsParams(
            **kwargs["structured_outputs"]
        )
    return cls(**kwargs)


def _drive(
    engine: Any, running: dict[str, _Running], cancelled: Callable[[], bool]
) -> Iterator[tuple[_Running, Any]]:
    """Step the engine until every request has ended; yield each with its output or error.

    What it yields is out of ``running``.
    """
    while running and engine.has_unfinished_requests():
        try:
            outputs = engine.step()
        except Exception as error:
            raise _EngineError from error
        for output in outputs:
            if output.finished and output.request_id in running:
                yield running.pop(output.request_id), _end(output)
        gone = cancelled()
        for id_ in [id_ for id_, entry in running.items() if gone or entry.request.is_late()]:
            entry = running.pop(id_)
            engine.abort_request([entry.id], internal=True)
            yield entry, _timeout(entry.request)
    for id_ in list(running):
        yield running.pop(id_), ProviderServerError("vLLM ended without an answer")


def _end(output: Any) -> Any:
    reason = output.outputs[0].finish_reason
    if reason in _FAILED:
        return ProviderServerError(f"vLLM gave up on the request ({reason}); its log says why")
    return output


def _lost(error: BaseException | None) -> ProviderServerError:
    lost = ProviderServerError(f"vLLM failed: {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost


def _ignored(llm: Any, request: Request) -> tuple[str, ...]:
    """Tell whether tools went nowhere."""
    if not request.params.tools:
        return ()
    if isinstance(request.prompt, str):
        return ("tools",)
    template = getattr(llm.get_tokenizer(), "chat_template", None)
    # One template, or several by name; a tokenizer without any writes its prompts itself.
    return () if template is None or "tools" in json.dumps(template) else ("tools",)


def _timeout(request: Request) -> ProviderTimeoutError:
    limit_s = request.params.timeout or 0.0
    return ProviderTimeoutError(
        f"no answer within {limit_s:g} s, waiting and loading included: allow more time, or "
        f"load() first"
    )
