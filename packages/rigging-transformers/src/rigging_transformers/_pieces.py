"""The pieces of a row's text, for a stream: what is certain to stay, as soon as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rigging_transformers._loaded import NO_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging_transformers._row import Row

__all__ = ["Pieces"]

# Tokens that are decoded again with each new one. More cost time, and fewer save little.
_WINDOW: Final = 32


class Pieces:
    """Cuts a growing text into pieces that add up to the row's.

    Held back is what the next token may change: a character of which some bytes are
    missing, and what could be the beginning of a stop text.

    Args:
        row: Whose text it is.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._given = 0
        # A long text is not decoded from its beginning each time.
        self._settled_tokens, self._settled_text = 0, ""
        self._before: Sequence[int] = row.prompt

    def next(self) -> str:
        """Return what is new; empty where nothing is certain yet."""
        text = self._row.text if self._row.end else self._certain()
        piece = text[self._given :]
        self._given += len(piece)
        return piece

    def _certain(self) -> str:
        new = self._row.tokens[self._settled_tokens :]
        text = self._settled_text + self._row.continuation(self._before, new)
        if text.endswith(NO_CHARACTER):
            text = text.rstrip(NO_CHARACTER)
        elif len(new) >= _WINDOW:
            self._settled_tokens, self._settled_text = len(self._row.tokens), text
            self._before = new
        return text[: len(text) - _begun(text, self._row.stops)]


def _begun(text: str, stops: Sequence[str]) -> int:
    r"""Return how many characters at the end of ``text`` may belong to a stop text.

    Example:
        >>> _begun("one\n", ["\n\n", "end"]), _begun("one", ["two"])
        (1, 0)
    """
    longest = max((len(stop) for stop in stops), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
