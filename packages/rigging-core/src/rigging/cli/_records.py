"""What the command line writes of a chat or completion: one JSON object."""

from __future__ import annotations

import json
from typing import Any

from rigging.chat import Chat
from rigging.completion import Completion

__all__ = ["as_line", "record"]


def record(item: Chat | Completion) -> dict[str, Any]:
    """Return what was sent and what came back, as JSON values.

    Messages are in OpenAI's shape; of a completion, ``prompt`` and ``generated`` are texts.
    """
    error = item.error
    facts = {
        "stop_reason": None if item.failed else item.stop_reason.value,
        "usage": None if item.usage is None else item.usage.model_dump(mode="json"),
        "error": None if error is None else f"{type(error).__name__}: {error}",
    }
    if isinstance(item, Completion):
        return {"prompt": item.text, "generated": None if item.failed else item.generated, **facts}
    return {
        "messages": [message.to_openai() for message in item.messages],
        "generated": [message.to_openai() for message in item.generated],
        **facts,
    }


def as_line(value: Any) -> str:
    """Return a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, default=repr)
