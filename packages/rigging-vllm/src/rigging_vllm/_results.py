"""vLLM's outputs, as results of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rigging.result import GeneratedMessage, GeneratedText, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ResultT", "result", "text_of"]

ResultT = TypeVar("ResultT", GeneratedMessage, GeneratedText)


def text_of(output: Any) -> str:
    """Return the text that was generated."""
    text: str = output.outputs[0].text
    return text


def result(output: Any, kind: type[ResultT]) -> ResultT:
    """Return what a ``RequestOutput`` of vLLM says, as a result of ours."""
    reason = output.outputs[0].finish_reason
    return kind.from_text(text_of(output), reason, usage=_usage(output), extra=_extra(output))


def _usage(output: Any) -> Usage:
    read, written = len(output.prompt_token_ids or ()), len(output.outputs[0].token_ids)
    cached = output.num_cached_tokens
    return Usage.of(read, written, **({} if cached is None else {"cached_tokens": cached}))


def _extra(output: Any) -> dict[str, Any]:
    completion, extra = output.outputs[0], {}
    # The stop string or the token that ended the text, where one did.
    if completion.stop_reason is not None:
        extra["stop_reason"] = completion.stop_reason
    if completion.cumulative_logprob is not None:
        extra["cumulative_logprob"] = completion.cumulative_logprob
    if completion.logprobs is not None:
        extra["logprobs"] = _logprobs(completion.logprobs)
    if output.prompt_logprobs is not None:
        extra["prompt_logprobs"] = _logprobs(output.prompt_logprobs)
    return extra


def _logprobs(positions: Any) -> list[list[dict[str, Any]] | None]:
    """Write the candidates of each position as plain values, the likeliest first."""
    return [None if position is None else _candidates(position) for position in positions]


def _candidates(position: Mapping[int, Any]) -> list[dict[str, Any]]:
    return [
        {"token_id": id_, "token": c.decoded_token, "logprob": c.logprob, "rank": c.rank}
        for id_, c in sorted(position.items(), key=lambda item: -item[1].logprob)
    ]
