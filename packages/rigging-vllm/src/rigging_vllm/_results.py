"""vLLM's outputs, as results of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rigging.result import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["facts", "text_of"]


def text_of(output: Any) -> str:
    """Return the text that was generated."""
    text: str = output.outputs[0].text
    return text


def facts(output: Any) -> dict[str, Any]:
    """Return stop reason, usage and extra, as the results' classes take them."""
    completion = output.outputs[0]
    read, written = len(output.prompt_token_ids or ()), len(completion.token_ids)
    cached = output.num_cached_tokens
    tokens = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {
        "stop_reason": completion.finish_reason,  # which pydantic reads
        "usage": Usage(**tokens, **({} if cached is None else {"cached_tokens": cached})),
        "extra": _extra(output, completion),
    }


def _extra(output: Any, completion: Any) -> dict[str, Any]:
    values = {
        # The stop string or the token that ended the text, where one did.
        "stop_reason": completion.stop_reason,
        "cumulative_logprob": completion.cumulative_logprob,
        "logprobs": _logprobs(completion.logprobs),
        "prompt_logprobs": _logprobs(output.prompt_logprobs),
    }
    return _known(values)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _logprobs(positions: Any) -> list[list[dict[str, Any]] | None] | None:
    """Write the candidates of each position as plain values, the likeliest first."""
    if positions is None:
        return None
    return [None if position is None else _candidates(position) for position in positions]


def _candidates(position: Mapping[int, Any]) -> list[dict[str, Any]]:
    return [
        {"token_id": id_, "token": c.decoded_token, "logprob": c.logprob, "rank": c.rank}
        for id_, c in sorted(position.items(), key=lambda item: -item[1].logprob)
    ]
