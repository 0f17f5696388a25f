"""Generators, as the command line names them: an identifier, and options of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rigging.cli._exits import UsageError
from rigging.generator import Generator, get_generator
from rigging.identifier import Identifier, encode_text
from rigging.message import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["make", "opening"]


def make(identifier: str, options: Sequence[str] | None = None) -> Generator:
    """Make the generator that an identifier names.

    Args:
        identifier: Such as ``openai!gpt-4o``.
        options: Further fields and parameters, ``KEY=VALUE``; they win over the identifier's.

    Raises:
        UsageError: If an option has no ``=``.
        RiggingError: As `rigging.get_generator`.
    """
    if not options:
        return get_generator(identifier)
    parsed = Identifier.parse(identifier)
    own = dict(map(_option, options))
    return get_generator(replace(parsed, options={**parsed.options, **own}).format())


def opening(system: str | None, *, complete: bool = False) -> list[Message]:
    """Return what a conversation begins with: what the model is told first, if anything.

    Raises:
        UsageError: If there is something, and a text is to be continued instead.
    """
    if system is None:
        return []
    if complete:
        raise UsageError("--system is for chats: with --complete, put it into the prompt")
    return [Message("system", system)]


def _option(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    # 'dGV4dA==' has no name, either: base64 ends so.
    if not separator or not key.strip() or value == "=":
        # Not the text: it may be a key's value whose name was forgotten.
        raise UsageError(
            "an option is KEY=VALUE, as in -o temperature=0.5: no '=' in what was given"
        )
    # As in an identifier, null is no text.
    return key.strip(), value if value == "null" else encode_text(value)
