"""Text helpers of the error messages: the nearest name, a caret under the fault."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["caret", "masked", "nearest"]

# A key that was mistyped so that it is no option of its own.
_SECRET: Final = re.compile(
    r"(api[_-]?key|authorization|password|secret|token)\W.*", re.IGNORECASE | re.DOTALL
)

# Characters of an identifier shown on either side of the caret.
_CONTEXT: Final = 60


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None if none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def masked(text: str) -> str:
    """Cut a text off behind what looks like the name of a secret."""
    return _SECRET.sub(r"\1…", text)


def caret(text: str, position: int) -> str:
    """Show one line of ``text`` with a caret under ``position``.

    Long text is cut to a window around the position; characters that would break
    the line are shown as ``·``, one for one, so that the caret stays in place.

    Args:
        text: What to show.
        position: 0-based index into ``text``; ``len(text)`` points behind its end.

    Returns:
        Two indented lines.
    """
    start = max(0, position - _CONTEXT)
    stop = position + _CONTEXT
    shown = "".join(c if c.isprintable() else "·" for c in text[start:stop])
    before = "…" if start else ""
    after = "…" if stop < len(text) else ""
    column = position - start + len(before)
    return f"  {before}{shown}{after}\n  {' ' * column}^"
