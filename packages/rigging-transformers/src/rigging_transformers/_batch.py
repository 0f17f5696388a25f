"""Requests in, outcomes out: the rows that they become, and which of these go together.

A request that cannot be prepared fails by itself; so does one that runs out of time.
What fails in ``generate`` fails the rows of that one call.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from rigging import StopReason
from rigging.error import (
    ContextLengthError,
    GenerationError,
    ProviderTimeoutError,
    RiggingError,
)
from rigging_transformers._loaded import as_ids
from rigging_transformers._prompts import encode_conversation, encode_text, takes_tools
from rigging_transformers._row import Row
from rigging_transformers._sampling import plan
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

    from rigging import GenerateParams, Message
    from rigging_transformers._loaded import Loaded

__all__ = ["DEFAULT_MAX_TOKENS", "Decode", "Outcome", "Request", "run", "timed_out"]

_log: Final = logging.getLogger(__name__)

#: Tokens of an answer where neither the caller nor the model's generation config says.
DEFAULT_MAX_TOKENS: Final = 512

#: `rigging_transformers._decoding.decode`, which only a loaded engine can import.
Decode: TypeAlias = "Callable[[Loaded, Sequence[Row], Callable[[], bool]], None]"


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


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        text: The continuation.
        stop_reason: Why it ended.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens generated, with the one that ended it.
        ignored: Parameters that this model could not honour.
    """

    text: str
    stop_reason: StopReason
    input_tokens: int
    output_tokens: int
    ignored: tuple[str, ...] = ()


def run(
    loaded: Loaded,
    requests: Sequence[Request],
    known: Collection[str],
    decode: Decode,
    cancelled: Callable[[], bool],
) -> list[Outcome | Exception]:
    """Answer requests.

    Args:
        loaded: The model.
        requests: Any number.
        known: Names that ``params.extra`` may hold.
        decode: What generates for the rows of one group.
        cancelled: Whether the caller has gone; asked once per decoding step.

    Returns:
        One outcome or failure per request, in order.
    """
    slots: list[Row | Exception] = [_prepare(loaded, request, known) for request in requests]
    for group in _groups(loaded, [row for row in slots if isinstance(row, Row)]):
        if cancelled():
            break
        try:
            decode(loaded, group, cancelled)
        except GenerationError as error:
            failures = {id(row): _placed(_fresh(error), loaded) for row in group}
            slots = [failures.get(id(slot), slot) for slot in slots]
    return [
        _outcome(loaded, request, slot) if isinstance(slot, Row) else slot
        for request, slot in zip(requests, slots, strict=True)
    ]


def timed_out(request: Request, model: str, tokens: int = 0) -> ProviderTimeoutError:
    """Return the failure of a request that ran out of time after so many tokens."""
    return ProviderTimeoutError(
        f"no answer within {request.params.timeout:g} s, waiting and loading included "
        f"({tokens} tokens were generated): allow more time, or load() first",
        provider=PROVIDER,
        model=model,
    )


def _prepare(loaded: Loaded, request: Request, known: Collection[str]) -> Row | RiggingError:
    try:
        prompt = _encode(loaded, request)
        row = _row(loaded, request, prompt, known)
    except RiggingError as error:
        return _placed(error, loaded)
    if row.is_late(time.monotonic()):
        row.end = "timeout"
    return row


def _encode(loaded: Loaded, request: Request) -> list[int]:
    if isinstance(request.prompt, str):
        return encode_text(loaded.tokenizer, request.prompt)
    return encode_conversation(loaded.tokenizer, request.prompt, request.params.tools)


def _row(loaded: Loaded, request: Request, prompt: Sequence[int], known: Collection[str]) -> Row:
    params = request.params
    own = plan(params, loaded.defaults, known)
    wanted = params.max_tokens or loaded.defaults.get("max_new_tokens") or DEFAULT_MAX_TOKENS
    stops = [stop for stop in params.stop or () if stop]
    special = {stop: loaded.special_id(stop) for stop in stops}
    eos = as_ids(own.kwargs.get("eos_token_id")) or loaded.end_ids
    return Row(
        prompt=prompt,
        plan=own,
        max_tokens=min(wanted, _room(loaded, prompt)),
        end_ids={*eos, *(id_ for id_ in special.values() if id_ is not None)},
        stops=[stop for stop, id_ in special.items() if id_ is None],
        deadline=request.deadline,
        decode=lambda tokens: loaded.continuation(prompt, tokens),
    )


def _room(loaded: Loaded, prompt: Sequence[int]) -> int:
    """Return how many tokens may follow the prompt."""
    if loaded.context is None:
        return sys.maxsize
    if len(prompt) >= loaded.context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens, and the model's context {loaded.context}, "
            f"which leaves no room for an answer: shorten the prompt"
        )
    return loaded.context - len(prompt)


def _groups(loaded: Loaded, rows: Iterable[Row]) -> Iterable[list[Row]]:
    """Put rows together that one call of ``generate`` can serve."""
    groups: dict[Hashable, list[Row]] = {}
    for index, row in enumerate(rows):
        if row.end is not None:
            continue
        # A neighbour changes a row's logits in their last bits. That may tip a draw, and a
        # seed is a promise that nothing does.
        alone = row.plan.alone or row.plan.sampling.seed is not None
        width = None if loaded.masks else len(row.prompt)
        key = (repr(sorted(row.plan.kwargs.items())), width, index if alone else None)
        groups.setdefault(key, []).append(row)
    return groups.values()


def _outcome(loaded: Loaded, request: Request, row: Row) -> Outcome | Exception:
    if row.end == "timeout":
        return timed_out(request, loaded.name, len(row.tokens))
    ignored = row.plan.ignored
    if (
        request.params.tools
        and not isinstance(request.prompt, str)
        and not takes_tools(loaded.tokenizer)
    ):
        ignored += ("tools",)
    return Outcome(
        text=row.text,
        stop_reason=StopReason(row.end or "unknown"),
        input_tokens=len(row.prompt),
        output_tokens=len(row.tokens),
        ignored=ignored,
    )


def _fresh(error: GenerationError) -> GenerationError:
    """Return an equal error, because several requests cannot share one traceback."""
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


def _placed(error: RiggingError, loaded: Loaded) -> RiggingError:
    """Let an error say which model it is about, without keeping it in memory."""
    if isinstance(error, GenerationError):
        error.provider, error.model = PROVIDER, loaded.name
    _log.debug("a request to %s failed", loaded.name, exc_info=error)
    # A traceback holds frames, and these hold the model, for as long as the caller keeps
    # the error. Where it was raised is in the log; a new one begins where it is raised again.
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
