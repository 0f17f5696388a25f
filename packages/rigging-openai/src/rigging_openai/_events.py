"""Server-sent events: a stream of bytes, cut anywhere, as the events that it carries.

Source:
    HTML standard, section 9.2.6, "Interpreting an event stream".
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Event", "EventParser"]

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event; ``data`` is its lines, joined by line breaks, in UTF-8."""

    name: bytes
    data: bytes


class EventParser:
    r"""Reads the pieces of a stream in order.

    Lines end with a line feed, a carriage return, or both; text is looked at only when its
    line is complete, so no character is ever cut.

    Example:
        >>> parser = EventParser()
        >>> parser.feed(b'data: {"a"'), parser.feed(b": 1}\n\n")
        ([], [Event(name=b'', data=b'{"a": 1}')])
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # of the line that is not complete
        self._ended_with_return = False
        self._is_first = True
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next piece; return the events that it completes."""
        if self._ended_with_return and piece.startswith(b"\n"):
            piece = piece[1:]  # the other half of a line's end
            self._ended_with_return = False
        if not piece:
            return []
        self._ended_with_return = piece.endswith(b"\r")
        lines = piece.splitlines()
        if len(lines) == 1 and not _ends_line(piece):
            self._line.append(piece)
            return []
        if self._line:
            lines[0] = b"".join([*self._line, lines[0]])
            self._line.clear()
        if not _ends_line(piece):
            self._line.append(lines.pop())
        return [event for line in lines if (event := self._read(line)) is not None]

    def end(self) -> list[Event]:
        """Return the event that the stream ended in, where only its last blank line is missing.

        The standard drops it; endpoints do end with one.
        """
        return self.feed(b"\n\n")

    def _read(self, line: bytes) -> Event | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            event = Event(self._name, b"\n".join(self._data)) if self._data else None
            self._name = b""
            self._data = []
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._name = value.removeprefix(b" ")
        return None


def _ends_line(piece: bytes) -> bool:
    return piece.endswith((b"\n", b"\r"))
