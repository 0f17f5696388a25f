"""The terminal: standard streams that are always there, and text that cannot command it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

__all__ = ["harmless", "prepare_streams"]

# Those that move the cursor, change colours or titles, or paste; lines and tabs stay.
_CONTROLS: Final[Mapping[int, str | None]] = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{ord(character): character for character in "\t\n"},
    ord("\r"): None,  # half of a line's end, as some write it
}


def prepare_streams() -> None:
    """Open the standard streams that are closed, and let none fail at a character."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (for good)
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A character that the terminal has no form for does not end an answer.
            stream.reconfigure(errors="backslashreplace")


def harmless(text: str, stream: TextIO) -> str:
    """Return a stranger's text as it may be written: a terminal gets control characters escaped.

    Files and pipes get it as it is.
    """
    return text.translate(_CONTROLS) if stream.isatty() else text
