"""What an endpoint that speaks OpenAI's protocol answers, whole or as a stream's events."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["error_body", "events_of", "prompt_of", "usual_body"]

_CHAT: Final = "chat/completions"


def error_body(message: str, *, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape.

    Example:
        >>> error_body("no", code="x")["error"]["code"]
        'x'
    """
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


def prompt_of(path: str, asked: Mapping[str, Any]) -> str:
    """Return what was asked: the prompt, or the content of the last message."""
    return str(asked["messages"][-1]["content"] if path == _CHAT else asked["prompt"])


def usual_body(path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Repeat what was asked, up to ``max_tokens`` and ``stop``; a token is a word.

    With ``tool_choice="required"`` the answer calls the first tool.
    """
    chat = path == _CHAT
    prompts = [str(m["content"]) for m in asked["messages"]] if chat else [str(asked["prompt"])]
    text = f"You said: {prompt_of(path, asked)}"
    for stop in asked.get("stop") or ():
        text = text.partition(stop)[0]
    words = text.split()
    kept = words[: asked.get("max_tokens")]
    text = " ".join(kept)
    reason = "length" if len(kept) < len(words) else "stop"
    said: dict[str, Any] = {"text": text}
    if chat:
        said = {"message": {"role": "assistant", "content": text}}
        if asked.get("tool_choice") == "required" and asked.get("tools"):
            said["message"] = _calling(asked["tools"][0])
            reason = "tool_calls"
    read = sum(len(prompt.split()) for prompt in prompts) + 1  # and one that begins it all
    return {
        "id": "reply-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": f"{asked['model']}-2024",
        "choices": [{"index": 0, "finish_reason": reason, **said}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": len(kept),
            "total_tokens": read + len(kept),
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def events_of(body: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a whole answer as the chunks that OpenAI would send."""
    frame = {key: value for key, value in body.items() if key not in {"choices", "usage"}}
    frame["object"] = str(body.get("object", "")).replace(
        "chat.completion", "chat.completion.chunk"
    )
    (choice,) = body["choices"]
    rest = {key: value for key, value in choice.items() if key not in {"message", "text"}}
    open_ = {**rest, "finish_reason": None}
    if "text" in choice:
        parts: list[dict[str, Any]] = [{"text": word} for word in _words(choice["text"])]
        last: dict[str, Any] = {"text": ""}
    else:
        parts = [{"delta": delta} for delta in _deltas(choice["message"])]
        last = {"delta": {}}
    for part in parts:
        yield {**frame, "choices": [{**open_, **part}]}
    yield {**frame, "choices": [{**rest, **last}]}
    if (asked.get("stream_options") or {}).get("include_usage") and "usage" in body:
        yield {**frame, "choices": [], "usage": body["usage"]}


def _calling(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message that calls a tool, with a word for each argument that it requires."""
    function = tool["function"]
    required = (function.get("parameters") or {}).get("required", ())
    arguments = json.dumps(dict.fromkeys(required, "any"))
    call = {"name": function["name"], "arguments": arguments}
    calls = [{"id": "call-1", "type": "function", "function": call}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": message["role"], "content": ""}
    for name, value in message.items():
        if name == "tool_calls":
            for index, call in enumerate(value):
                function = call["function"]
                head = {**call, "function": {**function, "arguments": ""}}
                yield {"tool_calls": [{"index": index, **head}]}
                for piece in _words(function["arguments"]):
                    yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
        elif isinstance(value, str) and name != "role":
            for piece in _words(value):
                yield {name: piece}
        elif name != "role" and value is not None:
            yield {name: value}


def _words(text: str) -> list[str]:
    """Cut a text into its words, each with the blanks behind it."""
    return re.findall(r"\s*\S+\s*|\s+", text)
