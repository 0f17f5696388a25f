"""``$name`` in the text of messages."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

from rigging.message import Message, TextPart

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["applied", "applied_to_message"]


def applied(text: str, values: Mapping[str, Any]) -> str:
    """Replace ``$name`` and ``${name}``; names that are not given are left alone.

    Source:
        Python standard library, `string.Template.safe_substitute`.
    """
    return string.Template(text).safe_substitute(values)


def applied_to_message(message: Message, values: Mapping[str, Any]) -> Message:
    """Replace names in the text of a message, or in its text parts.

    The same message comes back if nothing was replaced.
    """
    content = message.content
    if isinstance(content, str):
        new: str | tuple[Any, ...] = applied(content, values)
    else:
        new = tuple(
            TextPart(text=applied(part.text, values)) if isinstance(part, TextPart) else part
            for part in content
        )
    return message if new == content else message.model_copy(update={"content": new})
