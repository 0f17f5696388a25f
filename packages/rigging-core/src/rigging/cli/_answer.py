"""An answer, written to the terminal as it comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rigging.chat import Chat
from rigging.cli._records import as_line
from rigging.cli._terminal import harmless
from rigging.result import StopReason

if TYPE_CHECKING:
    from rigging.completion import Completion

__all__ = ["Answer"]


class Answer:
    """Writes what a stream yields. As a context, it ends its line, whatever has happened.

    Attributes:
        pieces: The texts that were written.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._is_open = False  # the line

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def write(self, piece: str | Chat | Completion) -> None:
        """Write a piece of text; of what comes last, what there is to know beside the text."""
        if isinstance(piece, str):
            if piece:
                self.pieces.append(piece)
                self._is_open = not piece.endswith("\n")
                sys.stdout.write(harmless(piece, sys.stdout))
                sys.stdout.flush()
            return
        self._end_line()
        for call in piece.last.tool_calls if isinstance(piece, Chat) else ():
            print(as_line(call.model_dump()))
        if piece.stop_reason is StopReason.length:
            print("rigging: the answer reached its limit of tokens", file=sys.stderr)

    def _end_line(self) -> None:
        if self._is_open:
            self._is_open = False
            print()
