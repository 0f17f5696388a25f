"""Requests in, outcomes out: the rows that requests become, and what becomes of these."""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rigging import StopReason
from rigging.error import (
    BadRequestError,
    ContextLengthError,
    GenerationError,
    ProviderServerError,
    ProviderTimeoutError,
    RiggingError,
)
from rigging.local import drop_frames, template_variables
from rigging_transformers._loaded import as_ids
from rigging_transformers._prompts import RESERVED, encode_text
from rigging_transformers._row import Row
from rigging_transformers._sampling import plan
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rigging import GenerateParams, Message
    from rigging_transformers._loaded import Loaded

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "Outcome",
    "Request",
    "outcome",
    "placed",
    "prepare",
    "timed_out",
]

_log: Final = logging.getLogger(__name__)

#: Tokens of an answer where neither the caller nor the model's generation config says.
DEFAULT_MAX_TOKENS: Final = 512


@dataclass(frozen=True)
class Request:
    """What one caller wants continued.

    Attributes:
        prompt: A text, or a conversation.
        params: With what the generator holds already merged in.
        deadline: Time (`time.monotonic`, seconds) by which it must be answered.
        chat_template: In Jinja; None for the model's own.
    """

    prompt: str | tuple[Message, ...]
    params: GenerateParams
    deadline: float | None
    chat_template: str | None = None


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


def timed_out(request: Request, model: str, tokens: int = 0) -> ProviderTimeoutError:
    """Return the failure of a request that ran out of time after so many tokens."""
    return ProviderTimeoutError(
        f"no answer within {request.params.timeout:g} s, waiting and loading included "
        f"({tokens} tokens were generated): allow more time, or load() first",
        provider=PROVIDER,
        model=model,
    )


def prepare(
    loaded: Loaded,
    request: Request,
    known: Collection[str],
    is_cancelled: Callable[[], bool],
) -> Row:
    """Make a row of a request.

    Args:
        loaded: The model.
        request: What is asked of it.
        known: Names that ``params.extra`` may hold.
        is_cancelled: Tells whether nobody waits for it any more.

    Raises:
        RiggingError: If the model cannot be asked that.
    """
    prompt = _encode(loaded, request)
    _check_embedded(loaded, prompt)
    params = request.params
    own = plan(params, loaded.defaults, known)
    wanted = params.max_tokens or loaded.defaults.get("max_new_tokens") or DEFAULT_MAX_TOKENS
    stops = [stop for stop in (*(params.stop or ()), *loaded.stops) if stop]
    special = {stop: loaded.special_id(stop) for stop in stops}
    eos = as_ids(own.kwargs.get("eos_token_id")) or loaded.end_ids
    return Row(
        prompt=prompt,
        plan=own,
        max_tokens=min(wanted, _room(loaded, prompt)),
        end_ids={*eos, *(id_ for id_ in special.values() if id_ is not None)},
        stops=[stop for stop, id_ in special.items() if id_ is None],
        deadline=request.deadline,
        continuation=loaded.continuation,
        is_cancelled=is_cancelled,
    )


def outcome(loaded: Loaded, request: Request, row: Row) -> Outcome | Exception:
    """Return what became of a request whose row has ended."""
    if row.end == "timeout":
        return timed_out(request, loaded.name, len(row.tokens))
    if row.end == "invalid":
        return ProviderServerError(
            f"the model's scores are not numbers (NaN) after {len(row.tokens)} tokens: its weights "
            f"are damaged, or too large for their dtype. Try dtype=bfloat16 or float32",
            provider=PROVIDER,
            model=loaded.name,
            retryable=False,
        )
    ignored = row.plan.ignored
    if (
        request.params.tools
        and not isinstance(request.prompt, str)
        and not loaded.layout(request.chat_template).takes_tools
    ):
        ignored += ("tools",)
    return Outcome(
        text=row.text,
        stop_reason=StopReason(row.end or "unknown"),
        input_tokens=len(row.prompt),
        output_tokens=len(row.tokens),
        ignored=ignored,
    )


def placed(error: RiggingError, loaded: Loaded) -> RiggingError:
    """Let an error say which model it is about, without keeping it in memory."""
    if isinstance(error, GenerationError):
        error.provider, error.model = PROVIDER, loaded.name
    # A handler that raises shall not keep the answer back.
    with contextlib.suppress(BaseException):
        _log.debug("a request to %s failed", loaded.name, exc_info=error)
    # Where it was raised is in the log.
    drop_frames(error)
    return error


def _encode(loaded: Loaded, request: Request) -> list[int]:
    try:
        return _as_ids(loaded, request)
    except (BadRequestError, TypeError) as error:
        prompt = request.prompt
        texts = [prompt] if isinstance(prompt, str) else [message.text for message in prompt]
        half = next((sign for text in texts for sign in text if "\ud800" <= sign <= "\udfff"), None)
        if half is None:
            raise
        raise BadRequestError(
            f"the prompt holds half a character (the surrogate U+{ord(half):04X}), which cannot be "
            f"encoded: it was decoded wrongly, or cut within a character"
        ) from error


def _as_ids(loaded: Loaded, request: Request) -> list[int]:
    if isinstance(request.prompt, str):
        return encode_text(loaded.tokenizer, request.prompt)
    layout = loaded.layout(request.chat_template)
    variables = template_variables(request.params.extra, reserved=RESERVED)
    return layout.encode(request.prompt, request.params.tools, variables)


def _check_embedded(loaded: Loaded, prompt: Sequence[int]) -> None:
    """Check what a CUDA GPU must not meet: its process could not use it again."""
    worst = max(prompt, default=0)
    if loaded.vocabulary is not None and worst >= loaded.vocabulary:
        token = loaded.tokenizer.convert_ids_to_tokens(worst)
        raise BadRequestError(
            f"the prompt has the token {token!r} ({worst}), and the model has embeddings for "
            f"{loaded.vocabulary} tokens: take the tokenizer that belongs to it, or "
            f"model.resize_token_embeddings(len(tokenizer)) and train what is new"
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
